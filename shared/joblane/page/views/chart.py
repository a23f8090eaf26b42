"""The chart whose series, groups and percentile the reader picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.durations import stamp
from joblane.inspector.filter import PERCENTILES, Group, Measure, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.stage import chart_lines
from joblane.inspector.views import Chart, Line, Mark
from joblane.names import Queue
from joblane.page import chart, marks
from joblane.page.filters import YES, age, checked, name_of
from joblane.page.inspectors import desk
from joblane.page.rendering import page, query
from joblane.page.scale import DOLLARS, NUMBER, PERCENT, TIME, Unit
from joblane.page.views.runs import SCALES, scale_of

WITHIN = ("2h", "1d", "7d", "30d", "180d")
LONGEST_MARKS = timedelta(days=30)
UNITS = {Measure.FAILED_SHARE: PERCENT, Measure.COST: DOLLARS, Measure.WAIT: TIME, Measure.DURATION: TIME}
FIELDS = ("of", "by", "percentile", "within", "type", "queue", "tenant", "compare", "scale")


def show(request: Request, inspector: Inspector) -> Response:
    """``of``, ``by``, ``percentile``, ``within``, ``type``, ``queue``, ``tenant``, ``compare``: as the operation's.

    ``scale``: of the axis.
    """
    given = {name: text for name in FIELDS if (text := request.query_params.get(name, "").strip())}
    of = name_of(Measure, "of", given.get("of", Measure.RUNS))
    tenant, types = given.get("tenant"), tuple(filter(None, request.query_params.getlist("type")))
    by = name_of(Group, "by", given.get("by", Group.NONE if tenant else Group.TYPE))
    within, scale = given.get("within", "1d"), scale_of(request)
    found = inspector.chart(
        of=of,
        by=by,
        percentile=given.get("percentile", "p95"),
        within=age("within", within),
        types=types,
        queue=given.get("queue"),
        tenant=tenant,
        compare=checked("compare", given.get("compare")),
    )
    chosen = {**dict.fromkeys(FIELDS, ""), **given, "by": str(by)}
    selection = {"type": types[0] if len(types) == 1 else "", "queue": given.get("queue", ""), "tenant": tenant or ""}
    events = _marks(inspector, selection, age("within", within))
    unit = UNITS.get(of, NUMBER)
    length = timedelta(seconds=found.step_seconds)
    columns = [_column(found, unit, number, length, selection) for number in range(_number(found))]
    frame = chart.Frame(columns, length, marks.drawn(events, selection), scale)
    return page(
        request,
        "chart.html",
        found=found,
        chosen=chosen,
        drawn=_drawn(frame, found, unit),
        legend=_legend(found, unit, chosen),
        notes=chart_lines(found),
        title=of.heading,
        tabs=[(choice, f"/chart?{query({**chosen, 'within': choice})}", choice == within) for choice in WITHIN],
        address=f"/chart?{query({name: value for name, value in chosen.items() if name != 'scale'})}",
        scales=SCALES,
        scale=scale,
        measures={measure: measure.heading for measure in Measure},
        groups=tuple(Group),
        percentiles=PERCENTILES,
        types=sorted({one.type for one in desk(request).types(inspector)} | set(types)),
        queues=tuple(Queue),
        yes=YES,
        marks=[(mark, marks.address(mark, selection)) for mark in events[: marks.MOST_LISTED]],
        more_marks=max(0, len(events) - marks.MOST_LISTED),
    )


def _marks(inspector: Inspector, selection: Mapping[str, str], within: timedelta) -> Sequence[Mark]:
    """The marks of the selected type, queue or tenant, or of all queues, at most of the last 30 days."""
    within = min(within, LONGEST_MARKS)
    for kind in (PauseScope.TENANT, PauseScope.TYPE, PauseScope.QUEUE):
        if selection[kind]:
            return inspector.marks(kind, (selection[kind],), within=within)
    return inspector.marks(PauseScope.QUEUE, tuple(Queue), within=within)


def _number(found: Chart) -> int:
    lines = [*found.lines, *([found.others] if found.others else [])]
    return len(lines[0].values) if lines else 0


def _all(found: Chart) -> list[tuple[str, str, Line]]:
    """The lines with their class and name, and the others as the last of them."""
    lines = [(f"s{at}", found.by.shown(line.key), line) for at, line in enumerate(found.lines)]
    return lines + ([("others", "others", found.others)] if found.others else [])


def _scaled(found: Chart, values: Sequence[float | None]) -> list[float | None]:
    """Times in seconds."""
    return [value / 1000 if value is not None and found.of.is_time else value for value in values]


def _drawn(frame: chart.Frame, found: Chart, unit: Unit) -> Markup:
    series = [chart.Series(kind, _scaled(found, line.values)) for kind, _, line in _all(found)]
    before = chart.Series("before", _scaled(found, found.before.values)) if found.before else None
    label = f"{found.of.heading} by {found.by}"
    if found.of.is_sum:
        return frame.stacked(series, label, unit, before)
    return frame.lines([*series, *([before] if before else [])], label, unit, columns=True)


def _column(found: Chart, unit: Unit, number: int, length: timedelta, selection: Mapping[str, str]) -> chart.Column:
    at = found.start + number * length
    named = [(name, line) for _, name, line in _all(found)]
    named += [("before", found.before)] if found.before else []
    lines = [
        f"{name} {unit.words(value)}"
        for name, line in named
        if (value := _scaled(found, line.values)[number]) is not None
    ]
    chosen = {**selection, "ended_newer": at.isoformat(), "ended_older": (at + length).isoformat()}
    return chart.Column(at, f"/tasks?{query(chosen)}", "\n".join([_period(at, length), *lines]))


def _period(at: datetime, length: timedelta) -> str:
    return f"{stamp(at)} to {at + length:%H:%M}" if length < timedelta(days=1) else f"{at:%Y-%m-%d}"


def _legend(found: Chart, unit: Unit, chosen: Mapping[str, str]) -> list[tuple[str, str, str | None, str, str]]:
    """Rows of a class, a name, an address, the value of the whole time, and the highest value."""

    def text(value: float | None) -> str:
        return "–" if value is None else unit.words(value)

    rows = []
    before = [("before", "all, before", found.before)] if found.before else []
    for kind, name, line in [*_all(found), *before]:
        whole, highest = _scaled(found, [line.whole, max(filter(None, line.values), default=None)])
        rows.append((kind, name, _address(found.by, line.key, kind, chosen), text(whole), text(highest)))
    return rows


def _address(by: Group, key: str, kind: str, chosen: Mapping[str, str]) -> str | None:
    if kind in {"others", "before"} or by is Group.NONE:
        return None
    if by is Group.QUEUE:
        return f"/chart?{query({**chosen, 'queue': key, 'by': Group.TYPE})}"
    return f"/runs?{query({str(by): key})}" if key else f"/runs?{by}="
