"""Cron text and its EventBridge form: examples, and a comparison of their fire times by independent evaluators.

``cronsim`` and ``croniter`` evaluate the cron text. The class ``EventBridge`` below evaluates the EventBridge form; it
follows the field table and the section on clock changes of AWS's documentation:
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import bisect
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from joblane.errors import DeclarationError
from joblane.tasks.cron_text import MACROS
from joblane.tasks.schedule import Missed, Schedule, cron, every, parse

WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

# --- The EventBridge form, from its documentation ------------------------------------------------------------------


class EventBridge:
    """A ``cron(…)`` expression. Strict: a form that the field table does not show is an error."""

    TABLE = (  # field, lowest and highest value, names (from the lowest value), wildcards that this project uses
        ("minutes", 0, 59, (), ",-*/"),
        ("hours", 0, 23, (), ",-*/"),
        ("day-of-month", 1, 31, (), ",-*?/"),
        ("month", 1, 12, MONTHS, ",-*/"),
        ("day-of-week", 1, 7, WEEKDAYS, ",-*?"),
        ("year", 1970, 2199, (), ",-*/"),
    )

    def __init__(self, expression: str) -> None:
        assert expression.startswith("cron(")
        assert expression.endswith(")")
        assert len(expression) <= 256, "CreateSchedule takes 256 characters"
        texts = expression[5:-1].split(" ")
        assert len(texts) == 6
        assert (texts[2] == "?") != (texts[4] == "?"), f"exactly one day field must be '?': {expression}"
        self.minutes, self.hours, self.days, self.months, self.weekdays, self.years = (
            self._values(text, *row) for text, row in zip(texts, self.TABLE, strict=True)
        )

    @staticmethod
    def _values(text: str, field: str, low: int, high: int, names: tuple[str, ...], wildcards: str) -> set[int]:
        assert set(text) - set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") <= set(wildcards), (field, text)

        def number(word: str) -> int:
            value = low + names.index(word) if word in names else int(word)
            assert low <= value <= high, (field, text)
            return value

        values: set[int] = set()
        for part in text.split(","):
            body, _, increment = part.partition("/")
            if body in ("*", "?"):
                first, last = low, high
            elif "-" in body:
                first, last = (number(word) for word in body.split("-"))
                assert first <= last, (field, text)
            else:
                first = number(body)
                last = high if increment else first
            values.update(range(first, last + 1, int(increment or 1)))
        return values

    def on(self, day: date) -> bool:
        weekday = day.isoweekday() % 7 + 1  # 1 is Sunday
        return day.day in self.days and day.month in self.months and weekday in self.weekdays and day.year in self.years

    def at(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours and self.on(local.date())


@cache
def real_minutes(zone: str, start: datetime, days: int) -> list[tuple[datetime, datetime]]:
    """Return each minute of a span as (UTC, local), without skipped times, and with repeated times only once."""
    span = (start + timedelta(minutes=n) for n in range(days * 24 * 60))
    pairs = ((moment, moment.astimezone(ZoneInfo(zone))) for moment in span)
    return [(moment, local) for moment, local in pairs if not local.fold]


def eventbridge_fires(schedule: Schedule, start: datetime, days: int) -> list[datetime]:
    rules = [EventBridge(expression) for expression in schedule.expressions]
    return [utc for utc, local in real_minutes(schedule.timezone, start, days) if any(rule.at(local) for rule in rules)]


# --- Cron text -----------------------------------------------------------------------------------------------------


def unix_days(text: str, start: date, end: date) -> set[date]:
    """Return the days on which cron text fires, by cronsim; checked by croniter if its star rule is that of Debian."""
    before = datetime(start.year, start.month, start.day) - timedelta(minutes=1)  # noqa: DTZ001 - cron's own time
    days = {fire.date() for fire in takewhile(lambda fire: fire.date() < end, CronSim(text, before))}
    _, _, day, _, weekday = text.split()
    if not any("," in field and "*" in field for field in (day, weekday)):
        fires = croniter(text, before, ret_type=datetime, implement_cron_bug=True).all_next()
        assert days == {fire.date() for fire in takewhile(lambda fire: fire.date() < end, fires)}
    return days


def unix_fires(text: str, zone: str, start: datetime, days: int) -> list[datetime]:
    """Return the fire times in a span: by cronsim in naive local time, then each existing local time once."""
    end = start + timedelta(days=days)
    wall = (start - timedelta(days=1)).replace(tzinfo=None)
    by_local = {local.replace(tzinfo=None): utc for utc, local in real_minutes(zone, start, days)}
    fires: list[datetime] = []
    for local in CronSim(text, wall):
        if local > end.replace(tzinfo=None) + timedelta(days=1):
            break
        if local in by_local:
            fires.append(by_local[local])
    return fires


# --- Random cron text ----------------------------------------------------------------------------------------------


@st.composite
def terms(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    def word(value: int) -> str:
        if value - low < len(names) and draw(st.booleans()):
            return draw(st.sampled_from([names[value - low], names[value - low].lower()]))
        return str(value)

    shape = draw(st.sampled_from(["*", "n", "n", "a-b", "*/n", "a-b/n"]))
    if shape == "*":
        return "*"
    if shape == "*/n":
        return f"*/{draw(st.integers(1, high - low))}"
    if shape == "n":
        return word(draw(st.integers(low, high)))
    first = draw(st.integers(low, high - 1))
    last = draw(st.integers(first + 1, high))  # croniter reads "1-1" as the whole field
    step = f"/{draw(st.integers(1, last - first))}" if shape == "a-b/n" else ""
    return f"{word(first)}-{word(last)}{step}"


def fields(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.lists(terms(low, high, names), min_size=1, max_size=3).map(",".join))


MINUTE, HOUR, DAY, MONTH, WEEKDAY = (
    fields(0, 59),
    fields(0, 23),
    fields(1, 31),
    fields(1, 12, MONTHS),
    fields(0, 7, WEEKDAYS),
)


def accepted(text: str, timezone: str = "UTC") -> Schedule | None:
    """Return the schedule. None: the text is valid cron that EventBridge cannot express or that never fires."""
    try:
        return cron(text, timezone=timezone)
    except DeclarationError as error:
        if "cron wants both to match" in str(error) or "never comes in month" in str(error):
            return None
        raise


# --- Examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("0 2 * * *", ["cron(0 2 * * ? *)"]),
        ("0 8 * * 0", ["cron(0 8 ? * SUN *)"]),
        ("0 8 * * 7", ["cron(0 8 ? * SUN *)"]),
        ("*/15 * * * *", ["cron(0/15 * * * ? *)"]),
        ("* * * * *", ["cron(* * * * ? *)"]),
        ("0-59 0-23 1-31 1-12 0-6", ["cron(* * * * ? *)"]),
        ("7-59/10 * * * *", ["cron(7/10 * * * ? *)"]),
        ("0-30/15 * * * *", ["cron(0,15,30 * * * ? *)"]),
        ("0 9-17/4 * * *", ["cron(0 9,13,17 * * ? *)"]),
        ("0 */6 * * *", ["cron(0 0/6 * * ? *)"]),
        ("0 22-23,0-2 * * *", ["cron(0 0-2,22,23 * * ? *)"]),
        ("0 9-9 * * *", ["cron(0 9 * * ? *)"]),
        ("00 08 * * *", ["cron(0 8 * * ? *)"]),
        ("  0   2 * * * ", ["cron(0 2 * * ? *)"]),
        ("0 6 * * MON-FRI", ["cron(0 6 ? * MON-FRI *)"]),
        ("0 6 * * mon-fri", ["cron(0 6 ? * MON-FRI *)"]),
        ("0 6 * * 1-5/2", ["cron(0 6 ? * MON,WED,FRI *)"]),
        ("0 6 * * 5-7", ["cron(0 6 ? * SUN,FRI,SAT *)"]),
        ("0 6 * * 1-7/2", ["cron(0 6 ? * SUN,MON,WED,FRI *)"]),
        ("0 6 * * */2", ["cron(0 6 ? * SUN,TUE,THU,SAT *)"]),
        ("0 6 * * 0-7", ["cron(0 6 * * ? *)"]),
        ("0 0 */2 * *", ["cron(0 0 1/2 * ? *)"]),
        ("0 0 */10 * *", ["cron(0 0 1/10 * ? *)"]),
        ("0 0 2-31/2 * *", ["cron(0 0 2/2 * ? *)"]),
        ("0 0 1 */3 *", ["cron(0 0 1 1/3 ? *)"]),
        ("0 0 1 jan,JUL-DEC *", ["cron(0 0 1 1,7-12 ? *)"]),
        ("0 0 29 2 *", ["cron(0 0 29 2 ? *)"]),
        ("0 0 31 * *", ["cron(0 0 31 * ? *)"]),
    ],
)
def test_cron_text_becomes_one_expression(text: str, expressions: list[str]) -> None:
    assert list(cron(text).expressions) == expressions


@pytest.mark.parametrize("macro", MACROS)
def test_a_macro_equals_its_fields(macro: str) -> None:
    assert cron(macro) == cron(MACROS[macro]) == cron(macro.upper())


def test_two_day_fields_become_two_expressions_of_which_either_may_match() -> None:
    schedule = cron("0 0 13 * FRI")
    assert schedule.expressions == ("cron(0 0 13 * ? *)", "cron(0 0 ? * FRI *)")


@pytest.mark.parametrize("text", ["0 0 1-31 * FRI", "0 0 13 * 0-6", "0 0 1,* * 0"])
def test_a_day_field_that_lists_every_day_makes_the_other_field_ineffective(text: str) -> None:
    assert cron(text).expressions == ("cron(0 0 * * ? *)",)


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("0 0 */1 * FRI", "cron(0 0 ? * FRI *)"),
        ("0 0 13 * */1", "cron(0 0 13 * ? *)"),
        ("0 0 *,5 * 1", "cron(0 0 ? * MON *)"),
    ],
)
def test_a_day_field_with_a_star_for_every_day_leaves_the_other_field_effective(text: str, expression: str) -> None:
    assert cron(text).expressions == (expression,)


@pytest.mark.parametrize("text", ["0 0 */2 * MON", "0 0 13 * */2", "0 0 */2 * */2"])
def test_a_step_in_a_day_field_is_refused_if_both_fields_must_match(text: str) -> None:
    # given: a reference that reads "*/2" as a star, and so fires on fewer days than either field alone
    fires = CronSim(text, datetime(2027, 1, 1))  # noqa: DTZ001
    days = [next(fires).date() for _ in range(20)]
    assert (days[-1] - days[0]).days > 50
    # then
    with pytest.raises(DeclarationError, match=r"day-of-month .* day-of-week .* both to match, and EventBridge cannot"):
        cron(text)


def test_a_task_takes_cron_text_or_a_schedule() -> None:
    schedule = cron("0 8 * * 0", timezone="Europe/Berlin", payload={"scope": "week"}, name="weekly")
    assert parse(schedule) is schedule
    assert parse("@daily") == Schedule("0 0 * * *")
    assert (schedule.timezone, schedule.payload, schedule.name) == ("Europe/Berlin", {"scope": "week"}, "weekly")
    assert (parse("@daily").timezone, parse("@daily").payload, parse("@daily").name) == ("UTC", {}, None)
    with pytest.raises(DeclarationError, match="neither a cron expression"):
        parse(15)  # type: ignore[arg-type]


def test_a_schedule_copies_its_payload_and_compares_by_value() -> None:
    given_payload: dict[str, object] = {"scope": "week"}
    schedule = cron("@weekly", payload=given_payload)
    given_payload["scope"] = "changed later"
    assert schedule.payload == {"scope": "week"}
    assert schedule in {cron("0 0 * * 0", payload={"scope": "week"})}
    assert schedule != cron("@weekly")


def test_declaring_a_schedule_does_not_load_cronsim() -> None:
    code = "import sys; from joblane.tasks.schedule import cron; cron('0 8 * * 0'); sys.exit('cronsim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "expression"),
    [
        ((1, 0), "cron(* * * * ? *)"),
        ((15, 0), "cron(0/15 * * * ? *)"),
        ((30, 0), "cron(0,30 * * * ? *)"),
        ((60, 0), "cron(0 * * * ? *)"),
        ((120, 0), "cron(0 0/2 * * ? *)"),
        ((0, 1), "cron(0 * * * ? *)"),
        ((0, 2), "cron(0 0/2 * * ? *)"),
        ((0, 12), "cron(0 0,12 * * ? *)"),
        ((0, 24), "cron(0 0 * * ? *)"),
    ],
)
def test_an_interval_that_divides_an_hour_or_a_day_becomes_cron(interval: tuple[int, int], expression: str) -> None:
    assert every(minutes=interval[0], hours=interval[1]).expressions == (expression,)


@pytest.mark.parametrize(
    "interval",
    [
        (0, 0),
        (7, 0),
        (90, 0),
        (-15, 0),
        (2.5, 0),
        (0, 5),
        (0, 48),
    ],
)
def test_any_other_interval_is_refused_with_the_accepted_intervals(interval: tuple[int, int]) -> None:
    with pytest.raises(DeclarationError, match=r"every\(.*15, 20 or 30 minutes.* 6, 8, 12 or 24"):
        every(minutes=interval[0], hours=interval[1])


@given(minutes=st.integers(1, 24 * 60))
def test_an_interval_is_the_same_throughout_the_day(minutes: int) -> None:
    if 60 % minutes and (minutes % 60 or 1440 % minutes):
        with pytest.raises(DeclarationError):
            every(minutes=minutes)
        return
    start = datetime(2027, 1, 1, tzinfo=UTC)
    fires = eventbridge_fires(every(minutes=minutes), start, 1)
    assert fires == [start + timedelta(minutes=n) for n in range(0, 1440, minutes)]


# --- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("60 * * * *", "minute '60': write '*', 0-59,"),
        ("-1 * * * *", "minute '-1'"),
        ("1, * * * *", "minute ''"),
        ("MON * * * *", "minute 'MON'"),
        ("*-5 * * * *", "minute '*-5'"),
        ("1.5 * * * *", "minute '1.5'"),
        ("٣ * * * *", "minute '٣'"),
        ("H * * * *", "minute 'H'"),
        ("5/15 * * * *", "minute '5/15': a step needs '*' or a range: write '5-59/15'"),
        ("*/0 * * * *", "minute '*/0': a step is 1 or more and reaches a second value within 0-59"),
        ("*/90 * * * *", "minute '*/90': a step is 1 or more and reaches a second value within 0-59"),
        ("0 10-20/15 * * *", "hour '10-20/15': a step is 1 or more and reaches a second value within 10-20"),
        ("0 9-9/2 * * *", "hour '9-9/2': a step is 1 or more and reaches a second value within 9-9"),
        ("0 24 * * *", "hour '24'"),
        ("0 22-2 * * *", "hour '22-2': a range runs upwards: write '22-23,0-2'"),
        ("0 0 0 * *", "day-of-month '0'"),
        ("0 0 32 * *", "day-of-month '32'"),
        ("0 0 1 13 *", "month '13': write '*', 1-12 or JAN-DEC"),
        ("0 0 1 JANUARY *", "month 'JANUARY'"),
        ("0 0 * * 8", "day-of-week '8': write '*', 0-7 or SUN-SAT"),
        ("0 0 * * FRI-MON", "day-of-week 'FRI-MON': a range runs upwards: write 'FRI-SAT,SUN-MON'"),
        ("0 0 31 2 *", "day-of-month '31' never comes in month '2'"),
        ("0 0 30-31 FEB *", "day-of-month '30-31' never comes in month 'FEB'"),
        ("0 0 31 4,6,9,11 *", "day-of-month '31' never comes in month '4,6,9,11'"),
        ("0 0 31 2 MON", "day-of-month '31' never comes in month '2'"),
        ("0 0 L * *", "day-of-month 'L': '?', 'L', 'W' and '#' are not Unix cron"),
        ("0 0 LW * *", "'?', 'L', 'W' and '#' are not Unix cron"),
        ("0 0 15W * *", "'?', 'L', 'W' and '#' are not Unix cron"),
        ("0 0 * * 5L", "'?', 'L', 'W' and '#' are not Unix cron"),
        ("0 0 * * 2#1", "'?', 'L', 'W' and '#' are not Unix cron"),
        ("0 0 ? * MON", "write '*' for '?'"),
        ("", "0 fields where Unix cron has five"),
        ("0 2 * *", "4 fields where Unix cron has five"),
        ("0 0 2 * * *", "6 fields where Unix cron has five"),
        ("0 2 * * ? *", "6 fields where Unix cron has five"),
        ("0 0 2 * * ? *", "7 fields where Unix cron has five: minute hour day-of-month month day-of-week"),
        ("CRON_TZ=UTC 0 2 * * *", "the time zone is timezone="),
        ("cron(0 2 * * ? *)", "EventBridge's form is made from Unix cron"),
        ("rate(5 minutes)", "every(minutes=15)"),
        ("@reboot", "no such macro; there are @hourly"),
        ("@every 5m", "every(minutes=15)"),
    ],
)
def test_invalid_cron_text_is_refused_with_advice(text: str, problem: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        cron(text)
    assert problem in str(refusal.value)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    "timezone", ["", "Berlin", "europe/berlin", "Europe", "../UTC", "/etc/passwd", "localtime", "right/UTC", None]
)
def test_an_unknown_time_zone_is_refused(timezone: str) -> None:
    if timezone == "europe/berlin" and sys.platform in ("darwin", "win32"):
        pytest.skip("the file system is case-insensitive")
    with pytest.raises(
        DeclarationError, match=r"timezone .* is not in the IANA database: write 'UTC' or .*Europe/Berlin"
    ):
        cron("0 2 * * *", timezone=timezone)


@pytest.mark.parametrize("name", ["", "Nightly", "nightly:2", "two words", "-x", "x" * 21])
def test_a_name_that_task_ids_or_aws_do_not_allow_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=r"name .* is not lower-case letters"):
        cron("0 2 * * *", name=name)


def test_a_payload_that_is_not_a_mapping_is_refused_and_not_shown() -> None:
    with pytest.raises(DeclarationError, match="payload is a mapping or None, not str") as refusal:
        cron("0 2 * * *", payload="secret")  # type: ignore[arg-type]
    assert "secret" not in str(refusal.value)


# --- Moments -------------------------------------------------------------------------------------------------------


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "moment", "previous", "following"),
    [
        (cron("0 2 * * *"), "2027-01-01 02:00", "2027-01-01 02:00", "2027-01-02 02:00"),
        (cron("0 2 * * *"), "2027-01-01 02:00:30.5", "2027-01-01 02:00", "2027-01-02 02:00"),
        (cron("0 2 * * *"), "2027-01-01 01:59:59.999999", "2026-12-31 02:00", "2027-01-01 02:00"),
        (cron("0 9-9 * * *"), "2027-01-01 09:30", "2027-01-01 09:00", "2027-01-02 09:00"),
        (cron("0 0 29 2 *"), "2027-01-01 00:00", "2024-02-29 00:00", "2028-02-29 00:00"),
        # 02:30 in Berlin does not exist on 28 March 2027, and exists twice on 31 October
        (cron("30 2 * * *", timezone="Europe/Berlin"), "2027-03-28 01:30", "2027-03-27 01:30", "2027-03-29 00:30"),
        (cron("30 2 * * *", timezone="Europe/Berlin"), "2027-10-31 00:00", "2027-10-30 00:30", "2027-10-31 00:30"),
        (cron("30 2 * * *", timezone="Europe/Berlin"), "2027-10-31 01:30", "2027-10-31 00:30", "2027-11-01 01:30"),
        # all quarters of the repeated hour have fired already
        (cron("*/15 * * * *", timezone="Europe/Berlin"), "2027-10-31 01:20", "2027-10-31 00:45", "2027-10-31 02:00"),
        # Lord Howe moves by half an hour: 02:00-02:29 does not exist on 3 October 2027
        (
            cron("*/15 * * * *", timezone="Australia/Lord_Howe"),
            "2027-10-02 15:30",
            "2027-10-02 15:30",
            "2027-10-02 15:45",
        ),
        (cron("0 2 * * *", timezone="Australia/Lord_Howe"), "2027-10-02 15:30", "2027-10-01 15:30", "2027-10-03 15:00"),
    ],
)
def test_fire_times_around_a_moment(schedule: Schedule, moment: str, previous: str, following: str) -> None:
    assert schedule.previous(utc(moment)) == utc(previous)
    assert schedule.next_after(utc(moment)) == utc(following)
    assert schedule.next_after(utc(moment)).tzinfo is UTC


def test_a_moment_needs_a_time_zone_and_may_have_any() -> None:
    schedule = cron("0 2 * * *")
    assert schedule.next_after(datetime(2027, 1, 1, 8, tzinfo=ZoneInfo("Asia/Tokyo"))) == utc("2027-01-01 02:00")
    with pytest.raises(ValueError, match="no time zone"):
        schedule.previous(datetime(2027, 1, 1))  # noqa: DTZ001


# --- Both forms agree ----------------------------------------------------------------------------------------------

YEARS = (date(2027, 1, 1), date(2029, 1, 1))  # 2028 is a leap year


@settings(max_examples=150, deadline=None)
@given(day=DAY, month=MONTH, weekday=WEEKDAY)
@example(day="13", month="*", weekday="5")
@example(day="29", month="2", weekday="*")
@example(day="*", month="*", weekday="5-7")
def test_cron_text_and_its_eventbridge_form_fire_on_the_same_days(day: str, month: str, weekday: str) -> None:
    schedule = accepted(f"0 0 {day} {month} {weekday}")
    assume(schedule is not None)
    assert schedule is not None
    rules = [EventBridge(expression) for expression in schedule.expressions]
    span = (YEARS[0] + timedelta(days=n) for n in range((YEARS[1] - YEARS[0]).days))
    assert {when for when in span if any(rule.on(when) for rule in rules)} == unix_days(schedule.text, *YEARS)


CLOCK_CHANGES = [
    ("UTC", "2027-03-27"),
    ("Europe/Berlin", "2027-03-27"),
    ("Europe/Berlin", "2027-10-30"),
    ("America/New_York", "2027-03-13"),
    ("America/New_York", "2027-11-06"),
    ("Australia/Lord_Howe", "2027-04-02"),
    ("Australia/Lord_Howe", "2027-10-01"),
    ("Africa/Cairo", "2027-04-29"),  # at midnight: a day without 00:00
    ("Antarctica/Troll", "2027-10-30"),  # two hours at once
]


def mostly_star(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.just("*"), strategy)


@settings(max_examples=150, deadline=None)
@given(MINUTE, HOUR, mostly_star(DAY), mostly_star(WEEKDAY), st.sampled_from(CLOCK_CHANGES))
def test_both_forms_fire_at_the_same_minutes_across_clock_changes(
    minute: str, hour: str, day: str, weekday: str, change: tuple[str, str]
) -> None:
    zone, start = change[0], utc(change[1])
    schedule = accepted(f"{minute} {hour} {day} * {weekday}", zone)
    assume(schedule is not None)
    assert schedule is not None
    assert eventbridge_fires(schedule, start, 3) == unix_fires(schedule.text, zone, start, 3)


@settings(max_examples=60, deadline=None)
@given(MINUTE, HOUR, st.sampled_from(CLOCK_CHANGES), st.integers(0, 40 * 60 * 1000 - 1))
def test_previous_and_next_moments_are_those_of_eventbridge(
    minute: str, hour: str, change: tuple[str, str], offset_ms: int
) -> None:
    # given
    schedule, start = cron(f"{minute} {hour} * * *", timezone=change[0]), utc(change[1])
    end = start + timedelta(days=3)
    fires = eventbridge_fires(schedule, start, 3)
    steps = [start + timedelta(milliseconds=offset_ms, minutes=40 * n) for n in range(108)]
    for moment in [*steps, *fires[:5]]:
        # when
        previous, following = schedule.previous(moment), schedule.next_after(moment)
        # then
        after = bisect.bisect_right(fires, moment)
        assert [previous] == (fires[:after][-1:] or [previous])
        assert [following] == (fires[after:][:1] or [following])
        assert previous <= moment < following
        assert previous in fires or previous < start
        assert following in fires or following >= end


@given(st.text(max_size=20) | st.text("0123456789*/-,LW#?@ ADFJMNOSU", max_size=20))
def test_any_text_is_a_schedule_or_a_declaration_error(text: str) -> None:
    try:
        schedule = cron(text)
    except DeclarationError:
        return
    assert 1 <= len([EventBridge(expression) for expression in schedule.expressions]) <= 2


def test_a_schedule_has_a_policy_for_missed_ticks() -> None:
    assert cron("@daily").missed is every(hours=1).missed is Missed.LATEST
    assert cron("@daily", missed="skip").missed is every(hours=1, missed=Missed.SKIP).missed is Missed.SKIP
    with pytest.raises(DeclarationError, match="missed: 'all' is not one of latest, skip"):
        cron("@daily", missed="all")


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("* * * * *", 1440),
        ("*/5 6-17 * * *", 144),
        ("0 6 * * 1-5", 5 / 7),
        ("0 6 * * 1", 1 / 7),
        ("0 0 1 * *", 12 / 364),
        ("0 0 1 * 1", (52 + 12 - 1) / 364),  # one of these days is both
        ("0 0 29 2 *", 0),  # not in an average year
    ],
)
def test_the_ticks_of_an_average_day_are_counted(text: str, ticks: float) -> None:
    assert cron(text).ticks_a_day == pytest.approx(ticks)
    assert cron(text, timezone="Europe/Berlin").ticks_a_day == pytest.approx(ticks)
