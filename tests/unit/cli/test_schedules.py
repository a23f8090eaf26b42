"""`schedules`: the listing, one schedule, and the actions on one and on many, for both kinds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from joblane.cli.exits import Exit
from joblane.errors import UnknownScheduleError
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.views import Count, SchedulePage, SchedulePause, ScheduleRow, ScheduleView
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

NAMES = ("acme-nightly", "tenant:cleanup:nightly")
"""The schedule that was made at run time, and the one of the code."""
PAUSE = SchedulePause(views.NOW, None, "ann", "a holiday")

# --- The listing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_the_terminal_and_cuts_no_name(jobs: Run, stub: FakeInspector, columns: int) -> None:
    name = "report-6f1c5d0e-6f0a-4b0b-9a59-0d1f7f5f2c11-monday"
    stub.scheduled = [views.schedule_row(name=name), views.schedule_row(name="b", problem="the payload does not fit")]
    ran = jobs("schedules", columns=columns)
    assert max(map(len, ran.out.splitlines())) <= columns
    assert "…" not in ran.out
    header, *rows = ran.out.splitlines()
    width = header.index(header.split()[1])
    assert "".join(row[:width].strip() for row in rows) == f"{name}b"


def test_the_options_choose_and_more_schedules_are_announced(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["schedules"] = views.schedule_page(
        views.schedule_row(), count=Count(10_000, exact=False), after="1 acme-nightly"
    )
    options = ("--tenant", "acme", "-t", "data:export", "--origin", "run_time", "--problem", "--paused", "-n", "1")
    ran = jobs("schedules", "night", *options, "--sort", "ticks", "--after", "9 a")
    given: dict[str, Any] = {"tenant": "acme", "type": "data:export", "text": "night", "origin": "run_time"}
    given |= {"problem": True, "paused": True, "sort": "ticks", "after": "9 a", "limit": 1}
    assert stub.calls == [("schedules", (), given)]
    assert ran.err == "1 of at least 10,000 schedules. Continue:  --after '1 acme-nightly'\n"
    stub.answers["schedules"] = views.schedule_page(count=Count(0, exact=False), after="m", searched_to="m")
    ran = jobs("schedules", "x", "--tenant", "acme")
    assert "No schedule matches." in ran.err
    assert "Searched up to the name m. Continue:  --after m" in ran.err


# --- One schedule, of each kind ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_is_paused_and_resumed_with_a_reason_and_an_end(jobs: Run, stub: FakeInspector, name: str) -> None:
    jobs("schedules", "pause", name, "--reason", "a holiday")
    jobs("schedules", "resume", name)
    until = datetime(2030, 1, 1, tzinfo=UTC)
    jobs("schedules", "pause", name, "--until", "2030-01-01T02:00+02:00")
    assert stub.performed == [
        ("pause_schedule", name, "a holiday", None),
        ("resume_schedule", name, None),
        ("pause_schedule", name, None, until),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_runs_now_and_the_id_is_the_output(jobs: Run, stub: FakeInspector, name: str) -> None:
    assert jobs("schedules", "run", name).out == "Enqueued: new\n"
    assert stub.performed == [("run_schedule", name, None)]


def test_a_schedule_is_deleted_after_a_question(jobs: Run, stub: FakeInspector) -> None:
    assert jobs("schedules", "delete", "acme-nightly").code == 2  # no terminal to ask on
    ran = jobs("schedules", "delete", "acme-nightly", person="n")
    assert (ran.code, ran.err, stub.performed) == (1, "Nothing was done.\n", [])
    ran = jobs("schedules", "delete", "acme-nightly", "--yes", "--reason", "moved away")
    assert (ran.code, ran.err) == (0, "Deleted acme-nightly: it has no ticks any more.\n")
    assert stub.performed == [("delete_schedule", "acme-nightly", "moved away")]


@pytest.mark.parametrize("command", ["show", "pause", "resume", "run", "delete"])
def test_an_unknown_schedule_ends_with_3(jobs: Run, stub: FakeInspector, command: str) -> None:
    ran = jobs("schedules", command, "acme")
    assert (ran.code, ran.err) == (3, "joblane: there is no schedule 'acme'\n")


def test_an_action_that_is_refused_ends_with_3(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["pause_schedule"] = SelectionError("name", "'x' is paused already")
    ran = jobs("schedules", "pause", "x")
    assert (ran.code, ran.err) == (3, "joblane: 'x' is paused already\n")


@pytest.mark.parametrize("name", NAMES)
def test_each_command_prints_the_schedule_as_json(jobs: Run, stub: FakeInspector, name: str) -> None:
    for command in ("show", "pause", "resume"):
        ran = jobs("schedules", command, name, "--json")
        found = TypeAdapter(ScheduleView).validate_json(ran.out)
        assert (ran.code, ran.err, found) == (0, "", stub._schedule(name))
    deleted = jobs("schedules", "delete", name, "--yes", "--json")
    assert TypeAdapter(ScheduleRow).validate_json(deleted.out) == found.row
    found_page = TypeAdapter(SchedulePage).validate_json(jobs("schedules", "--json").out)
    assert found_page == stub._schedules(None, None, None, 50, type=None)


# --- Many schedules ------------------------------------------------------------------------------------------------


@pytest.fixture
def many(stub: FakeInspector) -> FakeInspector:
    """450 schedules of every hour, of which one is paused, and a schedule of the code of the same type."""
    stub.scheduled = [views.schedule_row(name=f"s{number:03}", ticks_a_day=24.0) for number in range(450)]
    stub.scheduled[7] = views.schedule_row(name="s007", ticks_a_day=24.0, pause=PAUSE)
    stub.scheduled.append(views.declared_row(type=views.TYPE, name="t"))
    return stub


@pytest.mark.parametrize("options", [("--tenant", "acme"), ("--type", "data:export")])
def test_all_schedules_of_a_tenant_or_type_are_paused_and_resumed(
    jobs: Run, many: FakeInspector, options: tuple[str, ...]
) -> None:
    # when it is tried
    ran = jobs("schedules", "pause", *options, "--dry-run")
    # then nothing changes
    assert ran.err.splitlines() == [
        "For example: s000, s001, s002, s003, s004",
        "It would pause 449 schedules with 10,776 ticks a day.",
    ]
    assert "Pause 449 schedules with 10,776 ticks a day?" in jobs("schedules", "pause", *options).err
    assert many.performed == []
    # and when it is done, each that was made at run time and is not paused is paused
    ran = jobs("schedules", "pause", *options, "--for", "2h", "--reason", "runaway", person="y")
    assert ran.err.splitlines()[-1] == "Paused 449 of 449 schedules; 1 skipped (paused already)."
    assert len({(name, reason) for _, name, reason, _ in many.performed}) == 449
    assert {reason for _, _, reason, _ in many.performed} == {"runaway"}
    assert len({until for *_, until in many.performed}) == 1
    # and a second time there is nothing to do
    ran = jobs("schedules", "pause", *options)
    assert (ran.code, ran.err) == (0, "Paused 0 of 0 schedules; 450 skipped (paused already).\n")
    assert jobs("schedules", "resume", *options, "--yes").err.endswith("Resumed 450 of 450 schedules.\n")
    assert all(row.pause is None for row in many.scheduled)


def test_all_schedules_of_a_type_are_deleted_after_a_question(jobs: Run, many: FakeInspector) -> None:
    assert jobs("schedules", "delete", "--type", "data:export").code == 2  # no terminal to ask on
    assert jobs("schedules", "delete", "--type", "data:export", person="n").code == 1
    assert many.performed == []
    ran = jobs("schedules", "delete", "--type", "data:export", "--yes", "--json")
    found = json.loads(ran.out)
    assert (found["number"], found["changed"], found["ticks_a_day"]) == (450, 450, 450 * 24)
    assert [row.name for row in many.scheduled] == ["t"]


def test_an_interrupted_action_says_how_far_it_came_and_is_repeated(jobs: Run, many: FakeInspector) -> None:
    # given an operator who presses Ctrl-C after a hundred schedules
    def interrupted(name: str, **given: Any) -> Any:
        if name == "s101":
            raise KeyboardInterrupt
        return many._pause_schedule(name, **given)

    many.answers["pause_schedule"] = interrupted
    ran = jobs("schedules", "pause", "--tenant", "acme", "--yes")
    assert ran.code == Exit.INTERRUPTED
    assert "Paused 100 of 449 schedules; 1 skipped (paused already). Repeat the command for the rest." in ran.err
    # when it is repeated
    del many.answers["pause_schedule"]
    ran = jobs("schedules", "pause", "--tenant", "acme", "--yes")
    # then it changes the rest
    assert ran.err.splitlines()[-1] == "Paused 349 of 349 schedules; 101 skipped (paused already)."


def test_schedules_that_change_meanwhile_are_skipped_or_reported(jobs: Run, many: FakeInspector) -> None:
    refusals = {
        "s001": UnknownScheduleError("s001"),
        "s002": SelectionError("name", "paused already"),
        "s003": BusyError("schedule:s003"),
    }

    def refusing(name: str, **given: Any) -> Any:
        if name in refusals:
            raise refusals[name]
        return many._pause_schedule(name, **given)

    many.answers["pause_schedule"] = refusing
    ran = jobs("schedules", "pause", "--tenant", "acme", "--yes")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == (
        "Paused 446 of 449 schedules; 3 skipped (paused already); another transaction is changing 1: repeat "
        "the command."
    )
    # and a wrong end is an error of the command
    many.answers["pause_schedule"] = SelectionError("until", "a time in the future is required")
    assert jobs("schedules", "pause", "--tenant", "acme", "--yes").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pause",), 2, "NAME: give the name of a schedule, or --tenant or --type"),
        (("resume", "x", "--tenant", "acme"), 2, "NAME: give a name, or --tenant and --type"),
        (("delete", "x", "--dry-run"), 2, "--dry-run: give it with --tenant or --type"),
        (("pause", "x", "--for", "1h", "--until", "2030-01-01"), 2, "give --for or --until, not both"),
        (("pause", "--tenant", "unknown"), 3, "no schedule made at run time matches"),
    ],
)
def test_a_choice_of_no_schedule_says_what_is_missing(
    jobs: Run, many: FakeInspector, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = jobs("schedules", *arguments)
    assert (ran.code, says in ran.err, many.performed) == (code, True, [])
