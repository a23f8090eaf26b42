"""Parts of the pages: filters, durations, charts, notices and the pool of inspectors."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from joblane.cli.tables import listed
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.listing import Column, Kind, is_new
from joblane.inspector.sentences.filters import described
from joblane.inspector.views import Period, RunCounts
from joblane.names import Queue
from joblane.page import sparkline, timeline
from joblane.page.cells import ago, coded, span, usd
from joblane.page.filters import age, read, write
from joblane.page.inspectors import Desk
from joblane.page.rendering import FOLDER, KEPT, Notices, query
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.patience import PATIENCE_SECONDS

NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
START = NOW - timedelta(hours=2)
HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(),
        Filter(ids=("a", "b c", "ü&=")),
        Filter(id_prefix="01", states=(State.RETRY, State.ACTIVE), types=("a:b",), queues=(Queue.LOW,)),
        Filter(tenant="t", tag="x y", error="50%", fingerprint="f", created_after=START, created_before=NOW),
        Filter(parent="01-a"),
        Filter(ended_after=START, ended_before=NOW),
        Filter(longer=timedelta(minutes=90)),
        Filter(longer=timedelta(seconds=1.5)),
        Filter(lease_over=True),
    ],
)
def test_a_filter_survives_a_round_trip(chosen: Filter) -> None:
    assert read(QueryParams(query(write(chosen))), NOW) == chosen


def test_an_empty_field_matches_any_task() -> None:
    assert read(QueryParams("state=&type=&tenant=+&newer=&id="), NOW) == Filter()


@pytest.mark.parametrize(
    "field",
    [
        "state=gone",
        "queue=fast",
        "newer=2",
        "older=h",
        "older=999999w",
        "newer=monday",
        "ended_older=1",
        "longer=x",
        "lease_over=x",
    ],
)
def test_an_invalid_field_is_named(field: str) -> None:
    with pytest.raises(SelectionError) as caught:
        read(QueryParams(field), NOW)
    assert caught.value.field == field.partition("=")[0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("15min", 900),
        (" 2 H ", 7_200),
        ("1h30m", 5_400),
        ("1.5h", 5_400),
        ("3d", 259_200),
        ("1w", 604_800),
    ],
)
def test_ages_are_read(text: str, seconds: int) -> None:
    assert age("older", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2h", START),
        ("2026-01-30 06:30", datetime(2026, 1, 30, 6, 30, tzinfo=UTC)),
        ("2026-01-30T06:30+02:00", datetime(2026, 1, 30, 4, 30, tzinfo=UTC)),
        ("7:30", datetime(2026, 1, 31, 7, 30, tzinfo=UTC)),
        ("14:30Z", datetime(2026, 1, 30, 14, 30, tzinfo=UTC)),
    ],
)
def test_an_age_or_a_time_is_read(text: str, at: datetime) -> None:
    assert read(QueryParams(query(newer=text)), NOW) == Filter(created_after=at)
    assert read(QueryParams(query(ended_newer=text)), NOW) == Filter(ended_after=at)


def test_times_of_a_filter_are_written_as_on_the_command_line() -> None:
    assert described(Filter(created_after=NOW)) == [("created from", "2026-01-31 08:00:00Z")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "12 ms"),
        (1.234, "1.2 s"),
        (4.0, "4 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (3_600, "1 h"),
        (3_605, "1 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_written_in_suitable_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "now"), (5, "5 s ago"), (-5, "in 5 s"), (3_700, "1 h ago"), (-90_000, "in 1 d")]
)
def test_times_are_relative_to_now(seconds: float, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "$0"), (0.000004, "$0.000004"), (0.5, "$0.50"), (1234.5, "$1,234.50")]
)
def test_costs_are_written_as_dollars(value: float | None, text: str) -> None:
    assert usd(value) == text


def test_a_chart_has_a_bar_for_each_minute_with_runs() -> None:
    drawn = sparkline.bars([0, 5, 10, 0], "<b>", "started")
    assert drawn.count("<rect") == 2
    assert 'aria-label="&lt;b&gt;"' in drawn
    heights = [float(height) for height in re.findall(r'rect [^>]*height="([\d.]+)"', drawn)]
    assert heights == [sparkline.HEIGHT / 2, sparkline.HEIGHT]
    # and a single failed run is seen
    drawn = sparkline.bars([0, 500, 500], "", "started", failed=[0, 1, 250])
    parts = [float(height) for height in re.findall(r'<rect class="part" [^>]*height="([\d.]+)"', drawn)]
    assert parts == [4, sparkline.HEIGHT / 2]


def test_small_charts_share_the_scale_that_they_are_given() -> None:
    drawn = sparkline.bars([5], "", "started", [(0.5, "<deploy>")], 10)
    assert f'height="{sparkline.HEIGHT / 2}"' in drawn
    assert f'd="M{sparkline.WIDTH / 2:.1f} 0V{sparkline.HEIGHT}"><title>&lt;deploy&gt;</title>' in drawn
    assert ",18.0 " in sparkline.line([5, 5], "", "waited", (), 10)


def test_a_line_has_gaps_and_a_single_point_is_visible() -> None:
    drawn = sparkline.line([1, 2, None, 3, None, None], "waits", "waited")
    points = re.findall(r'points="([^"]*)"', drawn)
    assert [len(run.split()) for run in points] == [2, 2]


@pytest.mark.parametrize("values", [[], [None], [0]])
def test_a_chart_of_nothing_is_empty(values: list[Any]) -> None:
    assert "nan" not in sparkline.line(values, "", "") + sparkline.bars([one or 0 for one in values], "", "")


def test_a_notice_is_shown_once_and_old_notices_are_dropped() -> None:
    notices = Notices()
    first = notices.put("first")
    later = [notices.put(str(number)) for number in range(KEPT)]
    assert notices.pop(first) is None
    assert notices.pop(later[-1]) == str(KEPT - 1)
    assert notices.pop(later[-1]) is None
    assert notices.pop(None) is None


def test_an_inspector_serves_one_request_at_a_time_and_is_made_on_demand() -> None:
    # given
    made: list[object] = []

    def connect() -> Any:
        made.append(object())
        return made[-1]

    desk = Desk(connect, size=2)
    # when two requests take an inspector, and a third waits
    with desk.inspector() as one, desk.inspector() as other:
        third: list[object] = []

        def ask() -> None:
            with desk.inspector() as lent:
                third.append(lent)

        waiting = threading.Thread(target=ask)
        waiting.start()
        assert one is not other
        assert third == []
    waiting.join(PATIENCE_SECONDS)
    # then the third got one of the two
    assert third[0] in (one, other)
    assert len(made) == 2


def test_a_failed_connection_is_tried_again() -> None:
    answers: list[Any] = [OSError("down"), object()]

    def connect() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    desk = Desk(connect, size=1)
    with pytest.raises(OSError, match="down"), desk.inspector():
        pass
    with desk.inspector() as lent:
        assert cast(Any, lent) is not None


def test_htmx_is_the_file_of_its_version() -> None:
    content = (FOLDER / "static" / "htmx-2.0.11.min.js").read_bytes()
    assert sha256(content).hexdigest() == HTMX
    assert b'version:"2.0.11"' in content
    assert "Zero-Clause BSD" in (FOLDER / "static" / "LICENSE-htmx.txt").read_text()


# --- Red only for what is new ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "is_red"), [(0, True), (59, True), (60, True), (61, False), (600, False)])
def test_bad_news_is_red_for_an_hour(minutes: int, is_red: bool) -> None:
    at = NOW - timedelta(minutes=minutes)
    column = Column("Failed", "failed", Kind.ALARM, since="at")
    assert column.is_red(SimpleNamespace(failed=1, at=at), NOW) is is_red
    assert column.is_red(SimpleNamespace(failed=0, at=at), NOW) is False
    assert column.is_red(SimpleNamespace(failed=1, at=None), NOW) is False
    assert is_new(at, NOW) is is_red


def test_a_type_without_runs_has_a_sentence_in_place_of_charts(browser: TestClient, stub: FakeInspector) -> None:
    found, none = views.performance(), RunCounts(0, 0, 0, 0, 0, 0.0, None, None)
    stub.answers["performance"] = replace(found, total=none, periods=(Period(views.before(minutes=10), none),))
    text = browser.get("/runs?type=data:export").text
    assert "No run has ended in this time." in text
    assert ("<figure>" in text, 'aria-label="Scale"' in text) == (False, False)
    assert "<figure>" in (drawn := browser.get("/chart?of=runs").text)
    assert "No run has ended" not in drawn


def test_a_short_timeline_ends_with_its_length() -> None:
    ended: dict[str, Any] = {
        "started_at": views.NOW,
        "finished_at": views.NOW + timedelta(milliseconds=40),
        "wait_ms": 0,
    }
    assert "40 ms later</text>" in timeline.of_task(views.NOW, [views.attempt(1, **ended)], views.NOW)


def test_old_failures_are_neither_red_on_the_page_nor_in_a_terminal(browser: TestClient, stub: FakeInspector) -> None:
    for hours, is_red in ((0, True), (2, False)):
        old = views.performance()
        periods = tuple(replace(one, at=views.before(hours=hours)) for one in old.periods)
        stub.answers["performance"] = replace(old, periods=periods)
        text = browser.get("/runs?type=data:export").text
        assert ('<td class="n bad" data-label="Failed">' in text) is is_red
        table = listed([replace(periods[0], at=datetime.now(UTC) - timedelta(hours=hours))], 100)
        console = Console(file=StringIO(), force_terminal=True, color_system="standard")
        console.print(table)
        assert ("\x1b[31m" in console.file.getvalue()) is is_red  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run `joblane up <b>` now", "run <code>joblane up &lt;b&gt;</code> now"),
        ("`a` and `b`", "<code>a</code> and <code>b</code>"),
        ("a lone ` stays", "a lone ` stays"),
        ("<i>", "&lt;i&gt;"),
    ],
)
def test_backquotes_are_code(text: str, shown: str) -> None:
    assert coded(text) == shown
