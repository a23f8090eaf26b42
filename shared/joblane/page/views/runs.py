"""The runs of a type or a tenant over time, with its tasks now, its errors and its pause."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import LimitError
from joblane.inspector.durations import stamp
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import MOST_ERRORS, PERCENTILES, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.batching import batching_line
from joblane.inspector.views import Causes, Percentiles, Performance, TenantType, TenantView, TypeView
from joblane.local.errors import UnavailableError
from joblane.page import chart, marks
from joblane.page.cells import span
from joblane.page.chart import Column, Series
from joblane.page.filters import age, name_of
from joblane.page.inspectors import desk
from joblane.page.rendering import page, query
from joblane.page.scale import NUMBER, PERCENT, TIME, Scale
from joblane.page.sorting import sorting
from joblane.record.flow.limit_status import MOST_COUNTED, LimitStatus
from joblane.tasks.limit import TENANT

WITHIN = ("15m", "2h", "1d", "7d", "30d")
MOST_LIMITED = 10
"""Types whose limits of a tenant are shown."""
SCALES = {Scale.LINEAR: "linear", Scale.CLIP: "without peaks", Scale.LOG: "logarithmic"}
"""The choices of an axis, and their words."""


def show(request: Request, inspector: Inspector) -> Response:
    """``type`` or ``tenant``: the name. ``within``: a duration."""
    given, within = request.query_params, request.query_params.get("within") or "1d"
    kind = PauseScope.TENANT if "tenant" in given else PauseScope.TYPE
    name = given.get(str(kind), "")
    if not name and kind is PauseScope.TYPE:
        raise SelectionError("type", "the name of a type is required")
    found = inspector.performance(kind, name, within=age("within", within))
    columns = [_column(found, number) for number in range(len(found.periods))]
    events = inspector.marks(kind, (name,), within=age("within", within))
    scale = scale_of(request)
    frame = chart.Frame(columns, timedelta(seconds=found.step_seconds), marks.drawn(events, {str(kind): name}), scale)
    is_type = kind is PauseScope.TYPE
    overview = inspector.overview(minutes=1) if is_type else None
    lanes = [lane for queue in overview.queues for lane in queue.lanes if lane.type == name] if overview else []
    errors = _errors(inspector, kind, name, age("within", within)) if lanes or not is_type else None
    pauses = {(pause.scope, pause.name): pause for pause in inspector.pauses()}
    declared, tenant = desk(request).types(inspector), None if is_type else _tenant(inspector, name)
    return page(
        request,
        "runs.html",
        kind=str(kind),
        name=name,
        found=found,
        within=within,
        withins=WITHIN if is_type else WITHIN[2:],
        lanes=lanes,
        tenant=tenant,
        late=_late(tenant, declared),
        sorting=None if is_type else sorting(request, TenantType),
        errors=errors,
        archived_at=max((one.last_at for one in errors.causes if one.archived and one.last_at), default=None)
        if errors
        else None,
        declared=next((one for one in declared if is_type and one.type == name), None),
        pause=pauses.get((kind, name)),
        queue_pauses={lane.queue: pauses.get((PauseScope.QUEUE, lane.queue)) for lane in lanes},
        limits=_limits(inspector, declared, kind, name),
        batching=_batching(inspector, name) if lanes else None,
        most_counted=MOST_COUNTED,
        marks=[(mark, marks.address(mark, {str(kind): name})) for mark in events[: marks.MOST_LISTED]],
        more_marks=max(0, len(events) - marks.MOST_LISTED),
        scale=scale,
        scales=SCALES,
        charts=_charts(frame, found),
    )


def why(request: Request, inspector: Inspector) -> Response:
    """``type``: the name of a declared type."""
    name = request.query_params.get("type", "")
    return page(request, "why.html", name=name, checks=inspector.why_slow(name))


def _errors(inspector: Inspector, kind: PauseScope, name: str, within: timedelta) -> Causes | None:
    """The errors of a type or a tenant; None if a stage of an older version does not have them."""
    which: dict[str, Any] = {"types": (name,)} if kind is PauseScope.TYPE else {"tenant": name}
    with suppress(UnavailableError):
        return inspector.errors(**which, within=within, sort="last", limit=MOST_ERRORS) if name else None
    return None


def scale_of(request: Request) -> Scale:
    """``scale``: of the axes of values. Raises :class:`SelectionError`."""
    return name_of(Scale, "scale", request.query_params.get("scale") or Scale.LINEAR)


def _tenant(inspector: Inspector, name: str) -> TenantView | None:
    """The tenant now; None if a stage of an older version does not have it."""
    with suppress(UnavailableError):
        return inspector.tenant(name)
    return None


def _late(tenant: TenantView | None, declared: Sequence[TypeView]) -> set[str]:
    """The types of a tenant in which a task waits longer than the type's target."""
    targets = {one.type: one.target_wait_seconds for one in declared}
    rows = tenant.types if tenant else ()
    return {row.type for row in rows if (row.oldest_wait_seconds or 0) > targets.get(row.type, float("inf"))}


def _limits(inspector: Inspector, declared: Sequence[TypeView], kind: PauseScope, name: str) -> list[LimitStatus]:
    """The limits of a type with the keys that wait longest, or of a tenant in the types with a key of each."""
    named: list[tuple[str, str | None]] = []
    if kind is PauseScope.TYPE:
        named += [(limit, None) for one in declared if one.type == name for limit in one.limits]
    elif name:
        named += [(one.type, name) for one in declared if one.key == (TENANT,)][:MOST_LIMITED]
    found: list[LimitStatus] = []
    for limit, key in named:
        with suppress(LimitError):  # the database does not have it yet, or the name of a tenant is no key
            found += inspector.limits(limit, key=key)
    return found


def _batching(inspector: Inspector, type_: str) -> str | None:
    """The saving of a larger batch; None if it would not pay, or if a stage of an older version does not say it."""
    with suppress(UnavailableError):
        return next((batching_line(one) for one in inspector.batching(types=(type_,)) if one.advised), None)
    return None


def _column(found: Performance, number: int) -> Column:
    period = found.periods[number]
    counts, end = period.counts, period.at + timedelta(seconds=found.step_seconds)
    lines = [
        f"{stamp(period.at)} to {end:%H:%M}",
        f"{counts.number:,} runs: {counts.completed:,} completed, {counts.unsuccessful:,} failed",
    ]
    for title, times in (("waited", counts.wait_ms), ("took", counts.duration_ms)):
        if times is not None:
            lines.append(
                f"{title} p50 {span(times.p50 / 1000)}, p95 {span(times.p95 / 1000)}, p99 {span(times.p99 / 1000)}"
            )
    chosen = {str(found.kind): found.name, "ended_newer": period.at.isoformat(), "ended_older": end.isoformat()}
    return Column(period.at, f"/tasks?{query(chosen)}", "\n".join(lines))


def _charts(frame: chart.Frame, found: Performance) -> dict[str, Markup]:
    counts = [period.counts for period in found.periods]
    runs = [
        Series("bad", [one.unsuccessful for one in counts]),
        Series("good", [one.completed + one.others for one in counts]),
    ]
    shares = Series("share", [100 * one.unsuccessful / one.number if one.number else None for one in counts])
    return {
        "runs": frame.stacked(runs, f"Runs of {found.name}, every {span(found.step_seconds)}", NUMBER),
        "shares": frame.lines([shares], f"{found.name}: share of the runs that failed", PERCENT),
        "waits": _times(frame, found, [one.wait_ms for one in counts], "waits from due to start"),
        "durations": _times(frame, found, [one.duration_ms for one in counts], "durations of runs"),
    }


def _times(frame: chart.Frame, found: Performance, times: Sequence[Percentiles | None], what: str) -> Markup:
    series = [
        Series(name, [None if one is None else getattr(one, name) / 1000 for one in times]) for name in PERCENTILES
    ]
    return frame.lines(series, f"{found.name}: {what}, in percentiles", TIME)
