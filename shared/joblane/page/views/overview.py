"""The queues as they stand."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.views import Minute
from joblane.page.filters import whole
from joblane.page.visit import inspector, page


def show(request: Request) -> Response:
    minutes = whole("minutes", request.query_params.get("minutes") or "60", 1, 240)
    with inspector(request) as asked:
        found, paused = asked.overview(minutes=minutes), asked.pauses()
    flows = {view.queue: flow(view.minutes) for view in found.queues}
    return page(request, "overview.html", overview=found, minutes=minutes, flows=flows, pauses=paused)


def flow(minutes: tuple[Minute, ...]) -> dict[str, float | None]:
    """The minutes in figures: sums, and the mean wait of all that started."""
    started = sum(one.started for one in minutes)
    waited = [(one.wait_ms, one.started) for one in minutes if one.wait_ms is not None]
    weighed = sum(count for _, count in waited)
    return {
        "started": started,
        "failed": sum(one.failed for one in minutes),
        "peak": max((one.started for one in minutes), default=0),
        "wait_ms": sum(wait * count for wait, count in waited) / weighed if weighed else None,
    }
