"""`schedules`: those of the code and those made at run time, and the actions on the latter."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter

from joblane.inspector.errors import SelectionError
from joblane.inspector.views import (
    AuditEntry,
    Count,
    RunTimeSchedulePage,
    RunTimeScheduleRow,
    RunTimeScheduleView,
    ScheduleView,
)
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run


def test_schedules_are_shown_with_the_next_time_and_the_last_ticks(jobs: Run, stub: FakeInspector) -> None:
    soon = datetime.now(UTC) + timedelta(hours=5, minutes=30, seconds=20)
    stub.answers["schedules"] = (replace(views.schedule(), next=(soon,)),)
    stub.scheduled = []
    ran = jobs("schedules", columns=80)
    assert ran.out.splitlines()[1].split() == [
        "tenant:cleanup",
        "0",
        "every",
        "day",
        "at",
        "02:00",
        "UTC",
        "in",
        "5h30m",
        "✓×",
    ]
    assert ran.out.splitlines()[2] == "tenant:cleanup 0: 2 missed in 24 h: " + ", ".join(
        f"{at:%H:%M}Z" for at in views.schedule().missed_at
    )
    assert "jobs tick TYPE" in ran.err


def test_many_missed_ticks_are_counted_and_the_latest_are_named(jobs: Run, stub: FakeInspector) -> None:
    times = tuple(views.NOW - timedelta(minutes=n) for n in range(20))
    stub.answers["schedules"] = (replace(views.schedule(), ticks=(), missed=1_234, missed_at=times),)
    stub.scheduled = []
    ran = jobs("schedules")
    line = ran.out.splitlines()[2]
    assert line.startswith("tenant:cleanup 0: 1,234 missed in 24 h: ")
    assert line.endswith(", …")
    assert line.count("Z") == 6
    assert "jobs tick TYPE" in ran.err


# --- Both kinds ----------------------------------------------------------------------------------------------------


def test_both_kinds_are_listed_under_their_headings(jobs: Run, stub: FakeInspector) -> None:
    # given
    stub.answers["schedules"] = (replace(views.schedule(), ticks=(), missed=0),)
    stub.scheduled = [
        views.run_time_row(),
        views.run_time_row(name="acme-weekly", paused_at=views.NOW, next_at=None, last_at=None, last=None),
        views.run_time_row(name="globex", tenant=None, problem="its type is not declared"),
    ]
    # when
    ran = jobs("schedules", columns=140)
    # then
    lines = ran.out.splitlines()
    assert lines[0] == "Declared in the code"
    first, second, third = lines[lines.index("Made at run time") + 2 :]
    assert first.split()[:3] == ["acme-nightly", "data:export", "acme"]
    assert "every day at 06:00 Europe/Berlin" in first
    assert "completed 18h ago" in first
    assert "paused" in second
    assert third.rstrip().endswith("its type is not declared")
    assert ran.err == "See a problem:  jobs schedules show NAME\n"


def test_both_kinds_are_one_document(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["schedules"] = (views.schedule(),)
    found = json.loads(jobs("schedules", "--json").out)
    assert found.keys() == {"declared", "run_time"}
    assert TypeAdapter(tuple[ScheduleView, ...]).validate_python(found["declared"]) == (views.schedule(),)
    assert TypeAdapter(RunTimeSchedulePage).validate_python(found["run_time"]) == views.run_time_page()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_the_terminal_and_cuts_no_name(jobs: Run, stub: FakeInspector, columns: int) -> None:
    name = "report-6f1c5d0e-6f0a-4b0b-9a59-0d1f7f5f2c11-monday"
    stub.scheduled = [views.run_time_row(name=name), views.run_time_row(name="b", problem="the payload does not fit")]
    ran = jobs("schedules", "--tenant", "acme", columns=columns)
    assert max(map(len, ran.out.splitlines())) <= columns
    assert "…" not in ran.out
    _, header, *rows = ran.out.splitlines()
    width = header.index(header.split()[1])
    assert "".join(row[:width].strip() for row in rows) == f"{name}b"


def test_the_options_choose_and_more_schedules_are_announced(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["run_time_schedules"] = views.run_time_page(count=Count(10_000, exact=False), after="acme-nightly")
    ran = jobs("schedules", "night", "--tenant", "acme", "-t", "data:export", "--problem", "-n", "1", "--after", "a")
    given = {"tenant": "acme", "type": "data:export", "text": "night", "problem": True, "after": "a", "limit": 1}
    assert stub.calls == [("run_time_schedules", (), given)]  # and EventBridge is not asked
    assert ran.err == ("1 of at least 10,000 schedules made at run time. Continue:  --after acme-nightly\n")
    stub.answers["run_time_schedules"] = replace(
        views.run_time_page(), schedules=(), count=Count(0, exact=False), after="m", searched_to="m"
    )
    ran = jobs("schedules", "x", "--tenant", "acme")
    assert "No schedule matches." in ran.err
    assert "Searched up to the name m. Continue:  --after m" in ran.err


def test_a_text_and_a_type_choose_declared_schedules_too(jobs: Run, stub: FakeInspector) -> None:
    stub.scheduled = []
    stub.answers["schedules"] = (views.schedule(),)
    for arguments, shown in ((("CLEAN",), True), (("x",), False), (("--type", "data:export"), False)):
        assert ("tenant:cleanup" in jobs("schedules", *arguments).out) is shown
    assert jobs("schedules", "x").err == "No schedule matches.\n"


# --- One of those made at run time ---------------------------------------------------------------------------------


def test_a_schedule_is_shown_with_its_ticks_and_the_next_steps(jobs: Run, stub: FakeInspector) -> None:
    stub.entries = [AuditEntry(1, views.NOW, "ann", "pause_schedule", "schedule:acme-nightly", "a holiday", None, {})]
    ran = jobs("schedules", "show", "acme-nightly")
    for part in (
        "every day at 06:00 Europe/Berlin",
        "0 6 * * * Europe/Berlin",
        "the latest runs late",
        "acme-nightly-task  completed",
        '"token": "[redacted]"',
        "a holiday",
        "jobs ls --id @acme-nightly:",
        "jobs schedules pause acme-nightly",
    ):
        assert part in ran.out
    stub.scheduled = [views.run_time_row(paused_at=views.NOW, next_at=None, problem="its type is not declared")]
    ran = jobs("schedules", "show", "acme-nightly")
    assert "would be next" in ran.out
    assert "Problem: its type is not declared" in ran.out
    assert "jobs schedules resume acme-nightly" in ran.out


def test_a_schedule_is_paused_and_resumed_with_a_reason(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("--stage", "dev", "schedules", "pause", "acme-nightly", "--reason", "a holiday")
    assert ran.code == 0
    assert "Resume:  jobs --stage dev schedules resume acme-nightly" in ran.err
    ran = jobs("schedules", "resume", "acme-nightly")
    assert f"Resumed acme-nightly: its next tick is at {views.run_time_row().next_at:%Y-%m-%d %H:%M:%S}Z." in ran.err
    assert stub.performed == [
        ("pause_schedule", "acme-nightly", "a holiday"),
        ("resume_schedule", "acme-nightly", None),
    ]


def test_a_schedule_runs_now_and_the_id_is_the_output(jobs: Run, stub: FakeInspector) -> None:
    assert jobs("schedules", "run", "acme-nightly").out == "Enqueued: new\n"
    assert stub.performed == [("run_schedule", "acme-nightly", None)]


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


def test_a_schedule_that_is_paused_already_ends_with_4(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["pause_schedule"] = SelectionError("name", "'x' is paused already")
    ran = jobs("schedules", "pause", "x")
    assert (ran.code, ran.err) == (3, "joblane: 'x' is paused already\n")


@pytest.mark.parametrize("command", ["show", "pause", "resume"])
def test_each_command_prints_the_schedule_as_json(jobs: Run, stub: FakeInspector, command: str) -> None:
    ran = jobs("schedules", command, "acme-nightly", "--json")
    found = TypeAdapter(RunTimeScheduleView).validate_json(ran.out)
    assert (ran.code, ran.err, found) == (0, "", stub._run_time_schedule("acme-nightly"))
    deleted = jobs("schedules", "delete", "acme-nightly", "--yes", "--json")
    assert TypeAdapter(RunTimeScheduleRow).validate_json(deleted.out) == found.row
