"""The life of a task as SVG within the page: a row for each attempt, with its wait and its run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from joblane.inspector.durations import stamp
from joblane.inspector.views import Attempt
from joblane.page.cells import span
from joblane.page.chart import CHARACTER, GAP, WIDTH

ROW = 16
LEAST = 4.0
"""Width of the shortest bar, in units of the plot."""
SHOWN = 20
"""The last attempts."""

SVG = Markup(
    '<div class="chart timeline" role="img" aria-label="{}"><svg class="y" width="{}" height="{}">{}</svg>'
    '<svg class="plot" width="100%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>'
    '<svg class="x" width="100%" height="16"><text class="first" x="0" y="11">{}</text>'
    '<text class="last" x="100%" y="11">{}</text></svg></div>'
)
NAME = Markup('<text x="{}" y="{}">{}</text>')
BAR = Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')


def of_task(created_at: datetime, attempts: Sequence[Attempt], now: datetime) -> Markup:
    """The last attempts from the enqueue, or from the time the first of them was due, to their end."""
    shown = sorted(attempts, key=lambda attempt: attempt.run)[-SHOWN:]
    starts = [shown[0].due_at, *([created_at] if len(shown) == len(attempts) else [])]
    begin, end = min(starts), max(attempt.finished_at or now for attempt in shown)
    whole = max(end - begin, timedelta(milliseconds=1))

    def x(at: datetime) -> float:
        return (min(max(at, begin), end) - begin) / whole * WIDTH

    names = [f"run {attempt.run}" for attempt in shown]
    width = round(max(map(len, names)) * CHARACTER) + GAP
    labels = [NAME.format(width - GAP, row * ROW + 12, name) for row, name in enumerate(names)]
    drawn = []
    for row, attempt in enumerate(shown):
        y = row * ROW
        ended = attempt.finished_at or now
        bars = (("wait", attempt.due_at, attempt.started_at), (attempt.outcome or "active", attempt.started_at, ended))
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
    last = stamp(end) if end - begin >= timedelta(seconds=10) else f"{span((end - begin).total_seconds())} later"
    label = f"Timeline of {len(shown)} runs from {stamp(begin)} to {stamp(end)}"
    names_drawn, bars_drawn = Markup("").join(labels), Markup("").join(drawn)
    return SVG.format(label, width, height, names_drawn, height, WIDTH, height, bars_drawn, stamp(begin), last)


def _title(kind: str, since: datetime, until: datetime) -> str:
    name = "waited" if kind == "wait" else kind
    return f"{name}: {stamp(since)} to {stamp(until)}, {(until - since).total_seconds():,.1f} s"
