"""`queues`, `runs`, `audit`, `types`, `doctor`, `watch`."""

from __future__ import annotations

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
    Chart,
    Check,
    Count,
    DeadLetters,
    Found,
    Grade,
    Graph,
    Overview,
    Pause,
    Performance,
    SchedulePage,
    SchedulePause,
    ScheduleView,
    Statistic,
    TaskPage,
    TaskRow,
    TaskView,
    TypeView,
    WaitPage,
)
from joblane.record.flow.limit_status import LimitStatus
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
    ("graph", "one"): ("graph", views.graph, Graph),
    ("chart",): ("chart", views.chart, Chart),
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
    ("waits",): ("waits", views.wait_page, WaitPage),
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


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_table_is_wider_than_the_terminal_or_coloured_in_a_pipe(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...], columns: int
) -> None:
    operation, answer, _ = READING[command]
    stub.answers[operation] = answer()
    ran = jobs(*command, columns=columns)
    sentences = ("  jobs", "logs ", "  bad ", "  warning ", "  unknown ", "    `")  # a terminal breaks these lines
    tables = [line for line in ran.out.splitlines() if not line.startswith(sentences)]
    assert tables
    assert max(map(len, tables)) <= columns
    assert "\x1b" not in ran.out


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


def test_no_color_is_respected(jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = re.compile(r"\x1b\[(?:[0-9]+;)*3[0-7]m")
    stub.answers["tasks"] = TaskPage((views.task_row(),), None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert coloured.search(jobs("ls").out)
    # and what waits for an operator is yellow
    stub.answers["limits"] = (views.limit(),)
    stub.batched = [views.batch(row=views.batch_row(sealed_at=None))]
    stub.scheduled = [views.schedule_row(pause=SchedulePause(views.NOW, None, "ann", None))]
    for command, shown in {"limits": f"{views.limit().held:,}", "batch": "no", "schedules": "resumed"}.items():
        assert f"\x1b[33m{shown}\x1b[0m" in jobs(command, "ls").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(jobs("ls").out)


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


@pytest.mark.parametrize(
    "wrong",
    [
        ("runs", "--by", "queue"), ("runs", "--within", "yesterday"), ("runs", "a:b", "--tenant", "acme"),
        ("runs", "a:b", "--cost"), ("queues", "--by", "state"), ("audit", "--newer", "1h", "--older", "2h"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_options_are_a_usage_error(jobs: Run, stub: FakeInspector, wrong: tuple[str, ...]) -> None:
    assert (jobs(*wrong).code, stub.calls) == (2, [])


def test_the_timeouts_are_listed_with_the_nearest_first(jobs: Run, stub: FakeInspector) -> None:
    near = replace(views.statistic("near:work"), p99_ms=40_000, longest_ms=48_000, timeout_ms=60_000)
    far = replace(views.statistic("far:work"), p99_ms=1000, longest_ms=60_000, timeout_ms=600_000)
    gone = replace(views.statistic("gone:work"), timeout_ms=None)
    stub.answers["statistics"] = (gone, far, near)
    title, first, second, third = jobs("runs", "--timeouts", columns=120).out.splitlines()
    assert title.split("  ")[-1].strip() == "LONGEST OF TIMEOUT"
    assert first.split()[0] == "near:work"
    assert first.split()[-2:] == ["67%", "80%"]
    assert second.split()[-2:] == ["0%", "10%"]
    assert third.split()[0] == "gone:work"
    assert jobs("runs", "--timeouts", "--by", "tenant").code == 2
    assert jobs("runs", "data:export", "--timeouts").code == 2


def test_the_audit_is_filtered(jobs: Run, stub: FakeInspector) -> None:
    options = ("--limit", "1", "--who", "ann", "--target", "queue:low", "--action", "redrive", "--bulk", "b1")
    assert jobs("audit", *options, "--newer", "2h", "--after", "7").code == 0
    [(_, named)] = stub.called("audit")
    assert timedelta(hours=1, minutes=59) < datetime.now(UTC) - named.pop("since") < timedelta(hours=2, minutes=1)
    given = {"target": "queue:low", "who": "ann", "limit": 1, "action": "redrive", "bulk": "b1", "before": 7}
    assert named == {**given, "until": None}


def test_the_runs_of_a_type_and_of_a_tenant_are_within_a_time(jobs: Run, stub: FakeInspector) -> None:
    for which in ((), ("data:export",), ("--tenant", "acme")):
        jobs("runs", *which, "--within", "2h")
    within = {"within": timedelta(hours=2)}
    assert stub.called("statistics") == [((), {**within, "by": "type"})]
    assert stub.called("performance") == [
        ((PauseScope.TYPE, "data:export"), within),
        ((PauseScope.TENANT, "acme"), within),
    ]


@pytest.mark.parametrize(
    ("grades", "code"),
    [
        ((Grade.UNKNOWN,), 5),
        ((Grade.UNKNOWN, Grade.WARNING, Grade.GOOD), 5),
        ((Grade.BAD, Grade.UNKNOWN), 1),
        ((Grade.WARNING,), 0),
    ],
)
def test_the_doctor_ends_with_the_status_of_its_checks(
    jobs: Run, stub: FakeInspector, grades: tuple[Grade, ...], code: int
) -> None:
    stub.answers["doctor"] = tuple(map(views.examined, grades))
    assert jobs("doctor").code == code
    assert jobs("doctor", "--json").code == code


@pytest.mark.parametrize(
    ("terminal", "environment"),
    [(False, {}), (False, {"FORCE_COLOR": "1"}), (True, {"TERM": "dumb"}), (True, {"TERM": "xterm"})],
    ids=["pipe", "coloured-pipe", "dumb", "without-utf-8"],
)
def test_watch_in_a_pipe_or_a_dumb_terminal_prints_one_frame(
    jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str]
) -> None:
    # given
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: terminal)
    monkeypatch.setattr("joblane.cli.terminal.has_utf_8", lambda _: environment.get("TERM") != "xterm")
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
    assert ("The live view needs a terminal with UTF-8" in ran.err) is ("xterm" in environment.values())
    chosen = [arguments[0] for arguments, _ in stub.called("tasks")]
    assert chosen == [Filter(states=(State.ACTIVE,))]
    assert stub.called("failures") == [((), {"minutes": 30, "limit": 8})]


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
