"""`queues`, `runs`, `audit`, `types`, `doctor`, `watch`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from joblane.cli.tables import sparkline
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.views import (
    AuditEntry,
    BatchRow,
    BatchView,
    BulkView,
    Check,
    Count,
    DeadLetters,
    Depth,
    Found,
    Grade,
    Overview,
    Pause,
    Performance,
    SchedulePage,
    ScheduleView,
    Statistic,
    TaskPage,
    TaskRow,
    TaskView,
    TypeView,
)
from joblane.record.flow.limit_status import LimitKind, LimitStatus
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

READING: dict[tuple[str, ...], tuple[str, Callable[[], Any], Any]] = {
    ("ls",): ("tasks", lambda: TaskPage((views.task_row(),), "c"), TaskPage),
    ("find", "x"): ("find", views.found, Found),
    ("show", "x"): ("task", views.task_view, TaskView),
    ("queues",): ("overview", views.overview, Overview),
    ("runs",): ("statistics", lambda: (views.statistic(),), tuple[Statistic, ...]),
    ("runs", "data:export"): ("performance", views.performance, Performance),
    ("audit",): ("audit", lambda: views.task_view().audit, tuple[AuditEntry, ...]),
    ("--stage", "dev", "types"): ("types", lambda: (views.type_view(),), tuple[TypeView, ...]),
    ("dead",): ("dead", views.dead, DeadLetters),
    ("schedules", "show", "x"): ("schedule", views.schedule, ScheduleView),
    ("schedules",): ("schedules", lambda: views.schedule_page(views.declared_row()), SchedulePage),
    ("pause",): ("pauses", lambda: (views.overview().queues[2].pause,), tuple[Pause, ...]),
    ("bulk", "ls"): ("bulks", lambda: (views.bulk(),), tuple[BulkView, ...]),
    ("bulk", "show", "x"): ("bulk_view", views.bulk, BulkView),
    ("batch", "ls"): ("batches", lambda: (views.batch_row(),), tuple[BatchRow, ...]),
    ("batch", "show", "import-7"): ("batch", views.batch, BatchView),
    ("batch", "seal", "import-7"): ("seal_batch", views.batch, BatchView),
    ("limits",): ("limits", lambda: (views.limit(),), tuple[LimitStatus, ...]),
    ("limits", "line", "x:y", "7"): ("line", lambda: (views.task_row(),), tuple[TaskRow, ...]),
    ("why", "x:y"): ("why_slow", lambda: (views.examined(Grade.GOOD),), tuple[Check, ...]),
    ("doctor",): ("doctor", lambda: (views.examined(Grade.GOOD),), tuple[Check, ...]),
}


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_each_query_command_prints_its_whole_answer_as_one_json_document(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...]
) -> None:
    # given
    operation, answer, kind = READING[command]
    stub.answers[operation] = answer()
    # when
    ran = jobs(*command, "--json")
    # then
    assert (ran.code, ran.err) == (0, "")
    assert TypeAdapter(kind).validate_json(ran.out) == answer()


def test_times_in_json_are_iso_8601_in_utc(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["overview"] = views.overview()
    at = json.loads(jobs("queues", "--json").out)["at"]
    assert at == views.NOW.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_table_is_wider_than_the_terminal_or_coloured_in_a_pipe(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...], columns: int
) -> None:
    operation, answer, _ = READING[command]
    stub.answers[operation] = answer()
    ran = jobs(*command, columns=columns)
    tables = [line for line in ran.out.splitlines() if not line.startswith(("  jobs", "logs "))]
    assert tables
    assert max(map(len, tables)) <= columns
    assert "\x1b" not in ran.out


def test_in_a_narrow_terminal_no_number_is_cut(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["overview"] = views.overview()
    out = jobs("queues", "--lanes", columns=60).out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 60


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (60, "QUEUE PENDING ACTIVE RETRY SCHEDULED DEAD LETTERS"),
        (80, "QUEUE PENDING ACTIVE RETRY SCHEDULED DEAD LETTERS OLDEST FAILED"),
        (100, "QUEUE PENDING ACTIVE RETRY SCHEDULED DEAD LETTERS OLDEST COMPLETED FAILED RUNS"),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_of_the_queues(
    jobs: Run, stub: FakeInspector, columns: int, titles: str
) -> None:
    found = views.overview()
    stub.answers["overview"] = replace(found, queues=tuple(replace(queue, pause=None) for queue in found.queues))
    assert jobs("queues", columns=columns).out.splitlines()[0].split() == titles.split()


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
@pytest.mark.parametrize("more", [(), ("--cost",)])
def test_the_key_of_a_statistic_is_whole_at_any_width(
    jobs: Run, stub: FakeInspector, columns: int, more: tuple[str, ...]
) -> None:
    # given
    other = replace(views.statistic(), key="a:type-with-a-name-of-forty-two-characters")
    stub.answers["statistics"] = (views.statistic(), other)
    # when
    lines = jobs("runs", *more, columns=columns).out.splitlines()
    # then
    width = lines[0].index("RUNS") - 2
    assert "".join(line[:width].strip() for line in lines[1:]) == views.statistic().key + other.key
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    assert "ARCHIVED" in lines[0]
    assert ("COST" in lines[0]) is bool(more)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("type_", ["data:export", "system:health_check"])
def test_lanes_of_the_same_type_are_distinguishable(jobs: Run, stub: FakeInspector, columns: int, type_: str) -> None:
    # given
    found = views.overview()
    lanes = {one.queue: (replace(one.lanes[0], type=type_),) for one in found.queues}
    stub.answers["overview"] = replace(
        found, queues=tuple(replace(one, lanes=lanes[one.queue]) for one in found.queues)
    )
    # when
    out = jobs("queues", "--lanes", columns=columns).out
    # then
    shown = [line.split()[:3] for line in out.partition("TYPE")[2].splitlines()[1:]]
    assert shown == [[queue, type_, "12"] for queue in ("critical", "default", "low")]
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("command", [("queues",), ("watch", "--once")])
def test_missing_answers_of_sqs_are_reported_in_the_error_output(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...]
) -> None:
    # given
    found = views.overview()
    first, second, third = found.queues
    some = (replace(first, depth=Depth()), replace(second, front_door=Depth()), third)
    # then
    stub.answers |= {"overview": replace(found, queues=some), "tasks": TaskPage((), None)}
    assert (
        "SQS did not answer for critical, default: the counts of its messages are incomplete.\n" in jobs(*command).err
    )
    gone = Depth(missing=("jobs-data-export-default", "jobs-data-export-default-dlq"))
    stub.answers["overview"] = replace(found, queues=(replace(first, depth=gone), second, third))
    errors = jobs(*command).err
    assert "SQS has no queue jobs-data-export-default, jobs-data-export-default-dlq: deploy with `joblane up`" in errors
    assert "did not answer" not in errors
    stub.answers["overview"] = found
    assert "SQS" not in jobs(*command).err


def test_no_color_is_respected(jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = re.compile(r"\x1b\[(?:[0-9]+;)*3[0-7]m")
    stub.answers["tasks"] = TaskPage((views.task_row(),), None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert coloured.search(jobs("ls").out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(jobs("ls").out)


def test_queues_show_depths_and_pauses(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["overview"] = views.overview()
    ran = jobs("queues", "--lanes")
    low = next(line for line in ran.out.splitlines() if line.startswith("low"))
    assert low.split()[:7] == ["low", "12", "2", "3", "1,200", "4", "1m"]
    assert low.rstrip().endswith("yes")
    assert ran.err.splitlines() == [
        "queue low is paused by ann@laptop: the database moves (4 due tasks wait)",
        "7 archived tasks. See why: jobs dead",
    ]
    assert ran.out.count("data:export") == 3


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_messages_at_a_front_door_have_a_column(jobs: Run, stub: FakeInspector, columns: int) -> None:
    # given
    found = views.overview()
    first, second, third = found.queues
    lanes = tuple(replace(third.lanes[0], pause=third.pause) for _ in range(3))
    queues = (
        replace(first, front_door=Depth(2, 1, 4, 0)),
        replace(second, front_door=Depth()),  # SQS did not answer
        replace(third, pause=None, lanes=lanes),
    )
    stub.answers |= {"overview": replace(found, queues=queues), "tasks": TaskPage((), None)}
    # then
    for command in ("queues", "watch"):
        lines = jobs(command, columns=columns).out.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("QUEUE"))
        assert re.match(r"QUEUE +FRONT DOOR ", lines[at])
        end = lines.index("", at) if command == "watch" else None
        shown = {line.split()[0]: line.split()[1:4] for line in lines[at + 1 : end]}
        assert shown["critical"] == ["7", "12", "2"]
        assert shown["default"] == ["–", "12", "2"]
        assert shown["low"] == ["0", "12", "2"]
        assert "…" not in "".join(lines[at : at + 4])
        assert re.search(r" 3 lanes *$", lines[at + 3])
        assert "PAUSED" in lines[at]
        assert max(map(len, lines)) <= columns
    # and without such messages there is no column
    stub.answers["overview"] = found
    assert "FRONT DOOR" not in jobs("queues", columns=columns).out


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ((), 5, ""),
        ((0, 0), 5, "  "),
        ((0, 1, 4, 8), 4, " ▁▄█"),
        ((1000, 1), 2, "█▁"),  # even a single event is visible
        ((1, 1, 2, 2, 3), 3, "▄█▆"),
    ],
)
def test_a_sparkline_fits_and_shows_every_event(values: tuple[int, ...], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


def test_costs_are_shown_on_request_and_called_estimates(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["statistics"] = (views.statistic(),)
    assert "$" not in jobs("runs").out
    ran = jobs("runs", "--cost", "--by", "tenant", "--within", "1w")
    assert "~$0.021" in ran.out
    assert "estimates" in ran.err
    assert stub.called("statistics")[1][1] == {"within": views.NOW - views.before(weeks=1), "by": "tenant"}


@pytest.mark.parametrize("option", [("--by", "queue"), ("--within", "yesterday")])
def test_an_unknown_statistic_is_a_usage_error(jobs: Run, stub: FakeInspector, option: tuple[str, str]) -> None:
    assert (jobs("runs", *option).code, stub.calls) == (2, [])


def test_the_audit_names_the_option_for_the_next_page(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["audit"] = views.task_view().audit
    ran = jobs("audit", "--limit", "1", "--who", "ann@laptop", "--target", "queue:low")
    assert "--after 7" in ran.err
    [(_, named)] = stub.called("audit")
    given = {name: value for name, value in named.items() if value is not None}
    assert given == {"target": "queue:low", "who": "ann@laptop", "limit": 1}


def test_tenants_are_shown_with_what_waits_and_who_is_paused(jobs: Run, stub: FakeInspector) -> None:
    pause = Pause(PauseScope.TENANT, "globex", "flood", "ann", views.NOW, None)
    stub.answers["tenants"] = (views.tenant_row(), views.tenant_row(tenant="globex", pause=pause, due=0))
    ran = jobs("queues", "--by", "tenant")
    assert re.search("^acme +1,200 +5m +2 +3 +40 +900 +12", ran.out, re.M)
    assert "tenant globex is paused by ann: flood" in ran.err
    assert "pause tenant acme" in ran.err
    assert jobs("queues", "--by", "type").code == 2
    stub.answers["tenants"] = ()
    assert jobs("queues", "--by", "tenant").code == 0


def test_the_audit_is_filtered_by_action_and_time(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["audit"] = views.task_view().audit
    assert jobs("audit", "--action", "redrive", "--newer", "2h", "--bulk", "b1").code == 0
    [(_, named)] = stub.called("audit")
    assert (named["action"], named["bulk"], named["until"]) == ("redrive", "b1", None)
    assert timedelta(hours=1, minutes=59) < datetime.now(UTC) - named["since"] < timedelta(hours=2, minutes=1)
    assert jobs("audit", "--newer", "1h", "--older", "2h").code == 2


def test_the_runs_of_a_type_are_shown_with_percentiles_tasks_and_errors(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"performance": views.performance(), "overview": views.overview(), "dead": views.dead()}
    stub.answers["pauses"] = (Pause(PauseScope.TYPE, "data:export", "bad release", "ann", views.NOW, None),)
    stub.answers["types"] = (views.type_view(),)
    stub.answers["limits"] = (views.limit(views.TYPE, "7", LimitKind.KEY, running=2, held=3),)
    stub.marked = [views.mark()]
    ran = jobs("runs", "data:export", "--within", "2h")
    assert stub.called("performance") == [((PauseScope.TYPE, "data:export"), {"within": timedelta(hours=2)})]
    assert "p50 90 ms, p95 1.4 s, p99 9.0 s" in ran.out
    assert "6 (3.6%), 2 archived, 1 lost" in ran.out
    assert re.search("^default +data:export +12 +2 .* 1m +15 +2 *$", ran.out, re.M)
    assert "Its tasks should start within 1 min, and up to 5 run at a time in each lane." in ran.err
    assert "Limit data:export, key 7: " in ran.err
    assert "2 run, and 3 wait." in ran.err
    assert "deploy 3f2a1c0 by ann" in ran.err
    assert "940 archived: TimeoutError: the upload did not end" in ran.err
    assert "type data:export is paused by ann: bad release" in ran.err
    # and those of a tenant
    assert jobs("runs", "--tenant", "acme").code == 0
    assert stub.called("performance")[1][0] == (PauseScope.TENANT, "acme")
    assert jobs("runs", "a:b", "--tenant", "acme").code == jobs("runs", "a:b", "--cost").code == 2


def test_the_doctor_ends_with_1_if_a_check_is_bad_and_says_what_to_do(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["doctor"] = (views.examined(Grade.BAD), views.examined(Grade.GOOD))
    ran = jobs("doctor")
    assert ran.code == 1
    assert "joblane resume type data:export" in ran.out
    assert "2 checks: 1 bad." in ran.err


def test_the_doctor_counts_warnings(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["doctor"] = (views.examined(Grade.WARNING), views.examined(Grade.WARNING))
    assert "2 checks: 2 warnings." in jobs("doctor").err


@pytest.mark.parametrize(
    ("grades", "code"),
    [
        ((Grade.UNKNOWN,), 5),
        ((Grade.UNKNOWN, Grade.WARNING, Grade.GOOD), 5),
        ((Grade.BAD, Grade.UNKNOWN), 1),
    ],
)
def test_the_doctor_ends_with_5_if_a_check_is_unknown_and_none_is_bad(
    jobs: Run, stub: FakeInspector, grades: tuple[Grade, ...], code: int
) -> None:
    stub.answers["doctor"] = tuple(map(views.examined, grades))
    assert jobs("doctor").code == code
    assert jobs("doctor", "--json").code == code


@pytest.mark.parametrize("grade", [Grade.GOOD, Grade.WARNING])
def test_the_doctor_ends_with_0_if_no_check_is_bad(jobs: Run, stub: FakeInspector, grade: Grade) -> None:
    stub.answers["doctor"] = (views.examined(grade),)
    assert jobs("doctor").code == 0


@pytest.mark.parametrize(
    ("terminal", "environment"), [(False, {}), (False, {"FORCE_COLOR": "1"}), (True, {"TERM": "dumb"})]
)
def test_watch_in_a_pipe_or_a_dumb_terminal_prints_one_frame(
    jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str]
) -> None:
    # given
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stub.answers["overview"] = views.overview()
    stub.answers["tasks"] = lambda chosen, **_: TaskPage((views.task_row(state=chosen.states[0]),), None)
    stub.answers["failures"] = (views.task_row(state=State.RETRY),)
    # when
    ran = jobs("watch")
    # then
    assert ran.code == 0
    assert ran.out.count("Active") == 1
    assert "Latest failures" in ran.out
    chosen = [arguments[0] for arguments, _ in stub.called("tasks")]
    assert chosen == [Filter(states=(State.ACTIVE,))]
    assert stub.called("failures") == [((), {"minutes": 30, "limit": 8})]


@pytest.mark.parametrize("command", ["queues", "watch"])
def test_numbers_that_are_not_exact_are_shown_as_such(jobs: Run, stub: FakeInspector, command: str) -> None:
    some = replace(views.overview(), archived=Count(1_000, exact=False), live=Count(40_000, exact=False))
    stub.answers |= {"overview": some, "tasks": TaskPage((), None)}
    ran = jobs(command)
    text = ran.out + ran.err
    assert "at least 1,000 archived tasks" in text.lower()
    assert "Of the live tasks only the oldest 20,000 and the newest 20,000 are counted." in text


@pytest.mark.parametrize("command", ["ls", "watch"])
@pytest.mark.parametrize("columns", [50, 60, 80, 100])
@pytest.mark.parametrize(("id_", "type_"), [(views.ID, "system:health_check"), ("mine-" * 20, "data:export")])
def test_an_id_is_whole_at_any_width(
    jobs: Run, stub: FakeInspector, command: str, columns: int, id_: str, type_: str
) -> None:
    stub.answers |= {
        "overview": Overview(views.NOW, (), Count(0, exact=True), Count(0, exact=True)),
        "tasks": TaskPage((views.task_row(id=id_, type=type_),), None),
    }
    lines = jobs(command, columns=columns).out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("ID")) + 1
    width = lines[first - 1].index("TYPE")
    shown = "".join(line[:width].strip() for line in lines[first:] if not line.startswith(("Latest", "ID ")))
    assert shown.startswith(id_)


def test_an_empty_overview_is_shown(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["overview"] = Overview(views.NOW, (), Count(0, exact=True), Count(0, exact=True))
    stub.answers["tasks"] = TaskPage((), None)
    assert jobs("queues").code == jobs("watch").code == 0


def test_held_tasks_have_a_column_if_there_are_any(jobs: Run, stub: FakeInspector) -> None:
    found = views.overview()
    first, *others = found.queues
    held = replace(first, tasks={**first.tasks, State.HELD: 4321})
    stub.answers["overview"] = replace(found, queues=(held, *others))
    title, critical, *_ = jobs("queues", columns=120).out.splitlines()
    assert title.split()[:4] == ["QUEUE", "PENDING", "HELD", "ACTIVE"]
    assert critical.split()[2] == "4,321"
