"""The log lines of one task: its own lines, batch lines that name it, and Lambda's lines about its invocations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from joblane.errors import UnknownTaskError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import MAX_LOG_LINES
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import logs
from joblane.inspector.views import LogLine
from joblane.record.driver.database import Database
from tests.samples import sample_one
from tests.world import PREFIX, World

GROUP = f"/aws/lambda/{PREFIX}-sample-one"
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
REQUESTS = ("11111111-2222-4333-8444-000000000001", "11111111-2222-4333-8444-000000000002")


class Writer:
    """Writes lines to the function's log, and runs to the database."""

    def __init__(self, world: World, client: Any) -> None:
        self._world, self._client = world, client
        client.create_log_group(logGroupName=GROUP)
        client.create_log_stream(logGroupName=GROUP, logStreamName="one")

    def task(self, id_: str, *, runs: int = 2, type_: str = "sample:one") -> None:
        """Insert a task whose runs start ten minutes apart and last a minute."""
        self._world.run(
            "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, due_at, "
            "created_at, "
            "finished_at, expire_at, retention_seconds) values ($1, $2, 'default', 'completed', '{}', '', 1, $3, $3, "
            "$3::timestamptz + interval '1 hour', now() + interval '1 day', 0)",
            id_,
            type_,
            START,
        )
        for run in range(1, runs + 1):
            self._world.run(
                "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, "
                "request_id) "
                "values ($1, $2, $2, 1, $3, $3::timestamptz + interval '1 minute', $4)",
                id_,
                run,
                self.at(run),
                REQUESTS[run - 1] if run <= len(REQUESTS) else None,
            )

    @staticmethod
    def at(run: int, seconds: float = 0) -> datetime:
        return START + timedelta(minutes=10 * run, seconds=seconds)

    def line(self, at: datetime, content: str | dict[str, Any]) -> None:
        text = content if isinstance(content, str) else json.dumps({"level": "INFO", "timestamp": "…", **content})
        event = {"timestamp": int(at.timestamp() * 1000), "message": text}
        self._client.put_log_events(logGroupName=GROUP, logStreamName="one", logEvents=[event])


@pytest.fixture
def writer(world: World) -> Writer:
    return Writer(world, boto3.client("logs"))


@pytest.fixture
def inspector(world: World) -> Iterator[Inspector]:
    database = Database(world.url)
    yield Inspector(Scope(database, world.sqs, PREFIX, {"sample:one": sample_one}, "op"))
    database.drop()


def test_the_lines_are_those_of_all_attempts_in_order(writer: Writer, inspector: Inspector) -> None:
    writer.task("a")
    for run in (2, 1):
        writer.line(
            writer.at(run, 5),
            {"message": f"in run {run}", "task_id": "a", "task_type": "sample:one", "attempt": run, "rows": 3},
        )
    writer.line(writer.at(1, 6), {"message": "of another", "task_id": "ab", "attempt": 1})
    writer.line(writer.at(1, 6), {"message": "speaks of a", "task_id": "b", "attempt": 1})
    writer.line(writer.at(1, 300), {"message": "between the attempts", "task_id": "a", "attempt": 1})
    assert inspector.logs("a") == (
        LogLine(writer.at(1, 5), "INFO", "in run 1", 1, None, {"rows": 3}, "a"),
        LogLine(writer.at(2, 5), "INFO", "in run 2", 2, None, {"rows": 3}, "a"),
    )


def test_only_the_tasks_own_part_of_a_batch_line_is_shown(writer: Writer, inspector: Inspector) -> None:
    writer.task("a", runs=1)
    done = [{"task_id": id_, "attempt": 1, "ms": ms} for id_, ms in (("b", 1), ("a", 2), ("c", 3))]
    writer.line(
        writer.at(1, 5),
        {"message": "tasks completed", "task_type": "sample:one", "outcome": "completed", "tasks": done},
    )
    (line,) = inspector.logs("a")
    assert (line.message, line.attempt, line.fields) == ("tasks completed", 1, {"outcome": "completed", "ms": 2})


def test_lambdas_own_lines_are_included_for_example_of_a_killed_run(writer: Writer, inspector: Inspector) -> None:
    writer.task("a")
    writer.line(writer.at(2, 61), f"2026-01-01T00:00:00Z {REQUESTS[1]} Task timed out after 60.00 seconds")
    writer.line(writer.at(2, 61), f"START RequestId: {REQUESTS[1]} Version: $LATEST")
    writer.line(writer.at(2, 61), "REPORT RequestId: 99999999-0000-4000-8000-000000000000")
    writer.line(writer.at(2, 61), {"message": "of its neighbour", "task_id": "b", "request": REQUESTS[1]})
    (line,) = inspector.logs("a")
    assert (line.level, line.attempt, line.request_id) == ("PLATFORM", 2, REQUESTS[1])
    assert line.message.endswith("Task timed out after 60.00 seconds")


def test_a_task_that_never_ran_is_searched_for_in_its_whole_lifetime(writer: Writer, inspector: Inspector) -> None:
    writer.task("a", runs=0)
    writer.line(START + timedelta(minutes=30), {"message": "message acknowledged", "task_id": "a"})
    assert [line.message for line in inspector.logs("a")] == ["message acknowledged"]


@pytest.mark.parametrize("id_", ['a"b', '"', "a\\", "{$.x=*}", "?a", "-a", "order:2026-01-01T00:00Z", "a%b%"])
def test_an_id_of_any_characters_finds_its_own_lines(id_: str, writer: Writer, inspector: Inspector) -> None:
    writer.task(id_, runs=1)
    writer.line(writer.at(1, 1), {"message": "mine", "task_id": id_})
    writer.line(writer.at(1, 1), {"message": "another's", "task_id": "x" + id_})
    assert [line.message for line in inspector.logs(id_)] == ["mine"]


def test_the_lines_are_limited_to_the_first(writer: Writer, inspector: Inspector) -> None:
    writer.task("a", runs=1)
    for second in range(5):
        writer.line(writer.at(1, second), {"message": str(second), "task_id": "a"})
    assert [line.message for line in inspector.logs("a", limit=3)] == ["0", "1", "2"]


@pytest.mark.parametrize("limit", [0, MAX_LOG_LINES + 1])
def test_a_limit_out_of_range_is_refused(limit: int, inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match="limit: a whole number from 1 to 1000 is required"):
        inspector.logs("a", limit=limit)


@pytest.mark.parametrize("id_", ["unknown", "", "\x00", "ä"])
def test_an_unknown_id_is_refused(id_: str, inspector: Inspector) -> None:
    with pytest.raises(UnknownTaskError):
        inspector.logs(id_)


def test_a_deleted_log_is_not_an_error(world: World, inspector: Inspector) -> None:
    Writer(world, boto3.client("logs")).task("a", type_="gone:away")
    assert inspector.logs("a") == ()


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_leaves_out_the_lines_below_it(level: str, writer: Writer, inspector: Inspector) -> None:
    writer.task("a")
    for each in LEVELS:
        writer.line(writer.at(2, 1), {"message": each, "task_id": "a", "level": each})
    writer.line(writer.at(2, 2), f"REPORT RequestId: {REQUESTS[1]} Duration: 3 ms")
    writer.line(writer.at(2, 3), f"{REQUESTS[1]} Task timed out after 60.00 seconds")
    found = [line.message.split()[0] for line in inspector.logs("a", level=level)]
    assert found == [
        *LEVELS[LEVELS.index(level) :],
        *(["REPORT"] if level in ("DEBUG", "INFO") else []),
        REQUESTS[1],
    ]


def test_a_word_is_searched_in_all_that_is_shown(writer: Writer, inspector: Inspector) -> None:
    writer.task("a")
    writer.line(writer.at(1, 1), {"message": 'größer als "drei"', "task_id": "a"})
    writer.line(writer.at(2, 1), {"message": "small", "task_id": "a", "bucket": "größe"})
    assert [line.message for line in inspector.logs("a", text="größ")] == ['größer als "drei"', "small"]
    assert [line.message for line in inspector.logs("a", text='"drei"')] == ['größer als "drei"']
    assert [line.message for line in inspector.logs("a", runs=1)] == ["small"]
    assert inspector.logs("a", text="SMALL") == ()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"level": "info"}, "level: DEBUG, INFO, WARNING, ERROR, CRITICAL are valid, not 'info'"),
        ({"text": ""}, "text: 1 to 200 characters are required"),
        ({"text": "x" * 201}, "text: 1 to 200 characters are required"),
        ({"runs": 0}, "runs: a whole number from 1 to 20 is required"),
    ],
)
def test_a_wrong_selection_of_lines_is_refused(given: dict[str, Any], problem: str, inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match=problem):
        inspector.logs("a", **given)


def test_the_lines_of_a_type_are_the_newest_of_each_of_its_tasks(writer: Writer, inspector: Inspector) -> None:
    now = datetime.now(UTC)
    for seconds in (1000, 600, 200, 60, 14, 2):
        writer.line(now - timedelta(seconds=seconds), {"message": f"{seconds}", "task_id": "a"})
    writer.line(now, {"message": "done", "task_type": "sample:one", "tasks": [{"task_id": "b"}, {"task_id": "c"}]})
    writer.line(now, {"message": "of its place", "task_type": "sample:two", "task_id": "d"})
    writer.line(now, "Runtime exited")
    found = inspector.type_logs("sample:one")
    assert [line.message for line in found] == ["600", "200", "60", "14", "2", "done", "done", "Runtime exited"]
    assert [line.task_id for line in found] == ["a"] * 5 + ["b", "c", None]
    assert [line.message for line in inspector.type_logs("sample:one", limit=5)] == [
        "14", "2", "done", "done", "Runtime exited"
    ]  # fmt: skip
    assert [line.message for line in inspector.type_logs("sample:one", text="60", level="INFO")] == ["600", "60"]
    with pytest.raises(SelectionError, match=r"there is no task type 'sample:on'\. Did you mean 'sample:one'"):
        inspector.type_logs("sample:on")


def test_a_busy_type_is_searched_no_further_back_than_needed(
    writer: Writer, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[float] = []
    events = logs.Search.events

    def counted(self: logs.Search, term: str, window: logs.Window) -> Iterator[dict[str, Any]]:
        searched.append((datetime.now(UTC) - window[0]).total_seconds())
        return events(self, term, window)

    monkeypatch.setattr(logs.Search, "events", counted)
    for number in range(3):
        writer.line(datetime.now(UTC), {"message": str(number), "task_id": "a"})
    assert len(inspector.type_logs("sample:one", limit=3)) == 3
    assert [round(seconds) for seconds in searched] == [15]


def test_overlapping_windows_are_one_search() -> None:
    minute = timedelta(minutes=1)
    found = logs.merged(
        [(START + 10 * minute, START + 11 * minute), (START, START + minute), (START + minute, START + 2 * minute)]
    )
    assert found == [
        (START - logs.BEFORE, START + 2 * minute + logs.AFTER),
        (START + 10 * minute - logs.BEFORE, START + 11 * minute + logs.AFTER),
    ]


def test_the_search_is_a_quoted_term_around_the_attempt_page_by_page(
    world: World,
    writer: Writer,
    inspector: Inspector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requested: list[dict[str, Any]] = []

    class Pages:
        def filter_log_events(self, **question: Any) -> dict[str, Any]:
            requested.append(question)
            return {"events": [], "nextToken": f"after-{len(requested)}"}

        def close(self) -> None: ...

    writer.task('a"b.c', runs=1)
    monkeypatch.setattr(boto3.session.Session, "client", lambda *arguments, **options: Pages())
    assert inspector.logs('a"b.c') == ()
    of_task, of_request = requested[: logs.PAGES], requested[logs.PAGES :]
    assert {question["filterPattern"] for question in of_task} == {'"b.c"'}
    assert {question["filterPattern"] for question in of_request} == {f'"{REQUESTS[0]}"'}
    assert [question.get("nextToken") for question in of_task[:3]] == [None, "after-1", "after-2"]
    assert len(of_task) == len(of_request) == logs.PAGES
    first = of_task[0]
    assert first["startTime"] == int((writer.at(1) - logs.BEFORE).timestamp() * 1000)
    assert first["endTime"] == int((writer.at(1, 60) + logs.AFTER).timestamp() * 1000)
