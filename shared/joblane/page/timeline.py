"""The life of a task as SVG within the page: a row for each attempt, with its wait and its run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from joblane.inspector.durations import stamp
from joblane.inspector.views import Attempt
from joblane.page.chart import LEFT, WIDTH

ROW = 16
LEAST = 2.0
"""Width of the shortest bar."""
SHOWN = 20
"""The last attempts."""

SVG = Markup('<svg class="chart timeline" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
NAME = Markup('<text class="y" x="{}" y="{}">{}</text>')
BAR = Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
AXIS = Markup(
    '<path class="grid" d="M{} {}H{}"/><text class="x" x="{}" y="{}">{}</text><text class="y" x="{}" y="{}">{}</text>'
)


def of_task(created_at: datetime, attempts: Sequence[Attempt], now: datetime) -> Markup:
    """The last attempts from the enqueue, or from the time the first of them was due, to their end."""
    shown = sorted(attempts, key=lambda attempt: attempt.run)[-SHOWN:]
    starts = [shown[0].due_at, *([created_at] if len(shown) == len(attempts) else [])]
    begin, end = min(starts), max(attempt.finished_at or now for attempt in shown)
    whole = max(end - begin, timedelta(milliseconds=1))

    def x(at: datetime) -> float:
        return LEFT + (min(max(at, begin), end) - begin) / whole * (WIDTH - LEFT)

    drawn = []
    for row, attempt in enumerate(shown):
        y = row * ROW
        ended = attempt.finished_at or now
        bars = (("wait", attempt.due_at, attempt.started_at), (attempt.outcome or "active", attempt.started_at, ended))
        drawn.append(NAME.format(LEFT - 6, y + 12, f"run {attempt.run}"))
        drawn += [
            BAR.format(
                kind,
                min(x(since), WIDTH - LEAST),
                y + 3,
                max(x(until) - x(since), LEAST),
                ROW - 6,
                _title(kind, since, until),
            )
            for kind, since, until in bars
            if kind != "wait" or until > since
        ]
    height = len(shown) * ROW
    drawn.append(AXIS.format(LEFT, height + 1, WIDTH, LEFT, height + 14, stamp(begin), WIDTH, height + 14, stamp(end)))
    label = f"Timeline of {len(shown)} runs from {stamp(begin)} to {stamp(end)}"
    return SVG.format(WIDTH, height + 18, label, Markup("").join(drawn))


def _title(kind: str, since: datetime, until: datetime) -> str:
    name = "waited" if kind == "wait" else kind
    return f"{name}: {stamp(since)} to {stamp(until)}, {(until - since).total_seconds():,.1f} s"
