"""Charts: the ticks of their axes, and what is drawn where."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from joblane.page.chart import HEIGHT, WIDTH, Column, Frame, Mark, Series
from joblane.page.scale import COARSE, DOLLARS, FINE, NUMBER, PERCENT, TIME, Scale, Unit, axis, times

NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "largest", "labels"),
    [
        (NUMBER, 0, "0|1"),
        (NUMBER, 3, "0|1|2|3"),
        (NUMBER, 7, "0|2|4|6|8"),
        (NUMBER, 1_907, "0|500|1,000|1,500|2,000"),
        (NUMBER, 3e9, "0|1,000,000,000|2,000,000,000|3,000,000,000"),
        (TIME, 0.0042, "0|1 ms|2 ms|3 ms|4 ms|5 ms"),
        (TIME, 0.7, "0|200 ms|400 ms|600 ms|800 ms"),
        (TIME, 4, "0|1 s|2 s|3 s|4 s"),
        (TIME, 40, "0|15 s|30 s|45 s"),
        (TIME, 100, "0|30 s|1 min|90 s|2 min"),
        (TIME, 2_000, "0|15 min|30 min|45 min"),
        (TIME, 5_400, "0|30 min|1 h|90 min"),
        (TIME, 36_000, "0|2 h|4 h|6 h|8 h|10 h"),
        (TIME, 100_000, "0|6 h|12 h|18 h|1 d|30 h"),
        (TIME, 86_400 * 8, "0|2 d|4 d|6 d|8 d"),
        (TIME, 86_400 * 40, "0|10 d|20 d|30 d|40 d"),
        (PERCENT, 0, "0 %|0.2 %|0.4 %|0.6 %|0.8 %|1 %"),
        (PERCENT, 85.5, "0 %|20 %|40 %|60 %|80 %|100 %"),
        (DOLLARS, 0.00037, "$0|$0.0001|$0.0002|$0.0003|$0.0004"),
    ],
)
def test_an_axis_has_round_ticks_up_to_the_largest_value(unit: Unit, largest: float, labels: str) -> None:
    found = axis([0, largest, largest / 3], unit)
    assert "|".join(map(unit.text, found.ticks)) == labels
    assert found.top >= largest
    assert [found.share(tick) for tick in (0, found.top, 2 * found.top)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("unit", "largest", "labels"),
    [
        (NUMBER, 0, "0|1"),
        (NUMBER, 1_907, "0|1|10|100|2,000"),
        (TIME, 5_000, "0|10 ms|100 ms|1 s|1 min|10 min|2 h"),
        (PERCENT, 70, "0 %|0.1 %|1 %|10 %|100 %"),
    ],
)
def test_a_logarithmic_axis_has_room_for_small_values_and_zero(unit: Unit, largest: float, labels: str) -> None:
    found = axis([largest], unit, Scale.LOG)
    assert "|".join(map(unit.text, found.ticks)) == labels
    shares = [found.share(tick) for tick in found.ticks]
    assert (shares[0], shares[-1]) == (0, 1)
    assert all(above - below > 0.06 for below, above in pairwise(shares))


@pytest.mark.parametrize(
    ("tops", "end"),
    [
        ([5.0] * 23 + [900.0], 5),  # a single peak
        ([5.0] * 142 + [900.0] * 2, 5),
        ([900.0], 1_000),  # a single column is the whole chart
        ([0.0] * 10, 1),
        ([float("nan"), float("inf"), 3.0], 3),
    ],
)
def test_a_clipped_axis_ends_below_the_peaks(tops: list[float], end: float) -> None:
    assert axis(tops, NUMBER, Scale.CLIP).top == end


# --- Times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "fine", "coarse"),
    [
        (15 * MINUTE, "07:45 07:46 07:47", "07:45 07:50 07:55"),
        (2 * HOUR, "06:00 06:10 06:20", "06:00 06:30 07:00 07:30"),
        (DAY, "08:00 10:00 12:00 14:00 16:00 18:00 20:00 22:00 31 Jan 02:00 04:00 06:00", "12:00 18:00 31 Jan 06:00"),
        (7 * DAY, "12:00 25 Jan 12:00 26 Jan 12:00 27 Jan", "26 Jan 28 Jan 30 Jan"),
        (30 * DAY, "2 Jan 4 Jan 6 Jan 8 Jan 10 Jan", "2 Jan 8 Jan 14 Jan 20 Jan 26 Jan"),
        (180 * DAY, "11 Aug 25 Aug 8 Sep", "11 Aug 22 Sep 3 Nov 15 Dec 26 Jan"),
    ],
)
def test_ticks_are_at_round_times_and_none_is_missing(length: timedelta, fine: str, coarse: str) -> None:
    found = times(NOW - length, NOW)
    assert " ".join(tick.text for tick in found).startswith(fine)
    assert " ".join(tick.text for tick in found if not tick.is_fine).startswith(coarse)
    steps = [after.share - before.share for before, after in pairwise(found)]
    assert max(steps) - min(steps) < 1e-9
    assert all(0 <= tick.share < 1 for tick in found)


def test_only_a_midnight_has_its_date() -> None:
    found = times(NOW.replace(hour=0), NOW.replace(hour=1))
    assert [tick.text for tick in found][:3] == ["31 Jan", "00:05", "00:10"]


def test_no_length_of_a_chart_has_too_many_labels() -> None:
    for minutes in (1, 5, 7, 59, 240, 1_439, 1_441, 4_000, 20_000, 100_000, 259_200, 5_000_000):
        found = times(NOW - minutes * MINUTE, NOW)
        assert len(found) <= FINE + 1
        assert len([tick for tick in found if not tick.is_fine]) <= COARSE + 1


def test_times_are_in_utc_when_the_clocks_change() -> None:
    # given the night in which Berlin sets its clocks back
    berlin = ZoneInfo("Europe/Berlin")
    start, end = datetime(2026, 10, 24, 12, 0, tzinfo=berlin), datetime(2026, 10, 25, 12, 0, tzinfo=berlin)
    # when
    found = times(start, end)
    # then there are 25 hours
    assert [tick.text for tick in found][:3] == ["10:00", "12:00", "14:00"]
    assert [tick.text for tick in found][-1] == "10:00"
    assert found == times(start.astimezone(UTC), end.astimezone(UTC))


def test_a_time_without_length_has_no_ticks() -> None:
    assert times(NOW, NOW) == times(NOW, NOW - DAY) == []


# --- Charts -----------------------------------------------------------------------------------------------------------


def frame(number: int, length: timedelta = 10 * MINUTE, **more: Any) -> Frame:
    return Frame([Column(NOW + at * length, f"/tasks?a={at}&b", f"<{at}>") for at in range(number)], length, **more)


def bars_of(drawn: str, kind: str) -> list[tuple[float, float, float]]:
    """The places, bottoms and heights of the bars of a series."""
    [path] = re.findall(rf'<path class="{kind}" d="([^"]*)"', drawn)
    return [(float(x), float(y), float(height)) for x, y, height in re.findall(r"M([\d.]+) ([\d.]+)v-([\d.]+)h", path)]


def test_bars_are_stacked_and_the_smallest_is_visible() -> None:
    # when
    drawn = frame(4).stacked([Series("bad", [0, 1, 50, 0]), Series("good", [100, 9_999, 50, 0])], "<runs>", NUMBER)
    # then
    assert 'aria-label="&lt;runs&gt;"' in drawn
    assert bars_of(drawn, "bad") == [(WIDTH / 4, HEIGHT, 1.0), (WIDTH / 2, HEIGHT, 1.0)]
    heights = [height for *_, height in bars_of(drawn, "good")]
    assert heights == pytest.approx([1.5, 150, 1.0], abs=0.1)
    assert drawn.count('class="hover"') == 4
    assert '<a href="/tasks?a=3&amp;b"' in drawn
    assert "<title>&lt;3&gt;</title>" in drawn


def test_on_a_logarithmic_axis_the_bottom_series_and_the_sum_are_at_their_values() -> None:
    drawn = frame(1, scale=Scale.LOG).stacked([Series("bad", [10]), Series("good", [990])], "", NUMBER)
    [(_, _, bad)], [(_, bottom, good)] = bars_of(drawn, "bad"), bars_of(drawn, "good")
    assert bad == pytest.approx(HEIGHT * 0.347, abs=0.5)
    assert (bottom, bad + good) == pytest.approx((HEIGHT - bad, HEIGHT), abs=0.1)


def test_a_line_has_gaps_a_single_point_is_visible_and_peaks_are_marked() -> None:
    values = [1.0, 2.0, None, 3.0, None, 900.0, 2.0, 1.0]
    drawn = frame(8, scale=Scale.CLIP).lines([Series("p50", values), Series("p99", [4.0] * 8)], "", NUMBER)
    assert [len(points.split()) for points in re.findall(r'polyline class="p50" points="([^"]*)"', drawn)] == [2, 3]
    assert re.findall(r'circle class="p50" cx="([^"]*)"', drawn) == ["43.75%"]
    assert drawn.count('class="over"') == 1
    assert drawn.index('class="p99"') < drawn.index('class="p50"')  # the first series is on top
    assert "hover" not in drawn


@pytest.mark.parametrize("values", [[], [None], [0], [None] * 30, [0] * 30])
@pytest.mark.parametrize("scale", Scale)
def test_a_chart_of_nothing_is_empty(values: list[Any], scale: Scale) -> None:
    found = frame(len(values), scale=scale)
    drawn = found.lines([Series("a", values)], "", TIME) + found.stacked([Series("a", values)], "", DOLLARS)
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert bars_of(drawn, "a") == []


def test_the_labels_of_values_have_room() -> None:
    widths = [
        int(re.findall(r'class="y" width="(\d+)"', frame(1).lines([Series("a", [value])], "", TIME))[0])
        for value in (1, 5_400)
    ]
    assert widths[0] >= 40
    assert int(re.findall(r'"y" width="(\d+)"', frame(1).lines([Series("a", [9e9])], "", NUMBER))[0]) > 80


def test_marks_are_at_their_time_with_their_text_and_one_for_each_column() -> None:
    # given an hour in columns of ten minutes
    marks = [
        Mark(NOW + timedelta(minutes=15), "deploy", "/tasks?a=1&b=2", "deploy <1>"),
        Mark(NOW + timedelta(minutes=31), "pause", "/audit", "paused"),
        Mark(NOW + timedelta(minutes=32), "deploy", "/tasks", "deploy 2"),
        Mark(NOW + timedelta(minutes=60), "bulk", "/bulk", "outside"),
        Mark(NOW - timedelta(minutes=1), "bulk", "/bulk", "outside"),
    ]
    # when
    drawn = frame(6, marks=marks).lines([Series("p50", [1.0] * 6)], "waits", NUMBER)
    # then
    found = re.findall(r'<a href="([^"]*)"[^>]*class="mark ([^"]*)"><title>([^<]*)</title><svg x="([^"]*)"', drawn)
    assert found == [
        ("/tasks?a=1&amp;b=2", "deploy", "deploy &lt;1&gt;", "25.000%"),
        ("#marks", "deploy", "paused\ndeploy 2", "51.667%"),
    ]
