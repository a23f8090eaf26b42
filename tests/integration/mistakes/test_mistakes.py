"""The mistakes of a first day: each meets a line that says what to do. The tables have the mistakes."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane import JobError, State, TaskContext, task
from joblane.errors import DeclarationError
from joblane.tasks.discovery import check, discover
from joblane.testing import JobTester
from joblane.worker.router import Router
from tests.builders.events import invoke, record
from tests.integration.mistakes.calls import (
    BAD_JOB,
    CALLS,
    COROUTINES,
    ENQUEUES,
    LOOSE,
    NAIVE,
    NOW,
    ONE,
    RUNS,
    SENDER,
    Loose,
)
from tests.integration.mistakes.declarations import DECLARATIONS, FILES
from tests.integration.mistakes.declarations import Job as Number
from tests.integration.mistakes.row import Row, problem_of
from tests.logs import lines
from tests.world import PREFIX, World

TABLES = (DECLARATIONS, ENQUEUES, CALLS, COROUTINES, RUNS)
MOST = {"raw": 5, "half": 8}
"""The most rows of each kind; those of `FILES` all help."""


def test_few_mistakes_get_no_advice() -> None:
    counts = Counter(row.kind for table in TABLES for row in table.values())
    counts["help"] += len(FILES)
    assert sum(counts.values()) >= 154, counts
    assert all(counts[kind] <= most for kind, most in MOST.items()), counts  # type: ignore[index]


@pytest.mark.parametrize("mistake", DECLARATIONS)
def test_a_mistake_in_a_declaration_says_what_is_right(mistake: str) -> None:
    assert problem_of(DECLARATIONS[mistake]) is None


@pytest.mark.parametrize("mistake", ENQUEUES)
def test_a_mistake_in_an_enqueue_says_what_is_right(mistake: str) -> None:
    assert problem_of(ENQUEUES[mistake]) is None


def test_a_mistake_in_a_call_with_a_database_says_what_is_right(jobs: JobTester) -> None:
    found = {mistake: problem_of(row, jobs) for mistake, row in CALLS.items()}
    assert {mistake: problem for mistake, problem in found.items() if problem} == {}


@pytest.mark.filterwarnings("ignore:coroutine 'connect' was never awaited")  # of the driver of a sync_session
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_mistake_in_a_coroutine_says_what_is_right(jobs: JobTester) -> None:
    found = {}
    for mistake, row in COROUTINES.items():
        run = partial(asyncio.run, row.call(jobs))
        found[mistake] = problem_of(row._replace(call=run))
    gc.collect()
    assert {mistake: problem for mistake, problem in found.items() if problem} == {}


def test_values_that_the_handler_gets_as_they_are_pass() -> None:
    kept = Loose(value={"a": [1, None, "x"]}, many={"a": [True]}, at=NOW, local=NAIVE)
    assert LOOSE.read(LOOSE.write(kept), None) == kept


def test_a_mistake_in_a_run_says_what_is_right(jobs: JobTester) -> None:
    found = {mistake: _problem_of_run(jobs, row) for mistake, row in RUNS.items()}
    assert {mistake: problem for mistake, problem in found.items() if problem} == {}


def _problem_of_run(jobs: JobTester, row: Row) -> str | None:
    """Run a handler that makes the mistake once. Return what is not as the row says, in the row and in the log line."""

    def bad_job(payload: Number, ctx: TaskContext) -> Any:
        return row.call(ctx)

    bad_job.__annotations__["payload"] = Number
    made: Any = task("bad:job", grants=BAD_JOB.grants)(bad_job)
    id_ = jobs.enqueue(made, ONE).id
    with lines() as found:
        jobs.drain()
    ended = jobs.task(id_)
    jobs.client.cancel(id_)
    if row.kind == "silent":
        return None if ended.state is State.COMPLETED else str(ended)
    said = [str(line.get("error") or line.get("reason")) for line in found.fields if line["message"][:5] == "task "]
    if row.line not in (ended.error_message or ended.reason or "") or row.line not in "".join(said):
        return f"{ended}, {said}"
    return None


@pytest.mark.parametrize("mistake", FILES)
def test_a_mistake_in_a_file_says_where_and_what(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = FILES[mistake]
    name = f"functions_with_{mistake.replace(' ', '_')}"  # of its own: Python keeps a package that it has imported
    package = tmp_path / name
    (package / "bad_job").mkdir(parents=True)
    for path in (package, package / "bad_job"):
        (path / "__init__.py").touch()
    (package / "bad_job" / "handler.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = message.replace("PACKAGE/", f"{name}/")
    with pytest.raises(DeclarationError) as refusal:
        discover(name)
    assert expected in str(refusal.value)
    # and `joblane check` reports it with all others
    tasks, problems = check(name)
    assert "bad:job" not in tasks
    assert expected in "".join(problem.text for problem in problems)


def test_a_type_that_is_not_deployed_is_named_with_the_command(world: World) -> None:
    with lines() as found:
        assert not world.client.enqueue(BAD_JOB, ONE).sent
    [line] = found.fields
    assert "their rows are safe and the sweep sends them" in line["message"]
    assert "Deploy the type: `joblane up` on the local stack" in line["error"]
    with pytest.raises(JobError, match="Deploy the type: `joblane up`"):
        SENDER.enqueue(BAD_JOB, ONE)


def test_a_misspelt_type_at_a_front_door_is_logged_with_the_type_that_was_meant(world: World) -> None:
    world.make("jobs-default")
    router = Router({"report:export_csv": ["default"]}, world.sqs, PREFIX)
    with lines() as found:
        for receives in (1, 2):
            message = record({"type": "report:export_cvs"}, "jobs-default", receives=receives)
            invoke(router.handle, message)
    [line] = found.fields
    assert line["message"] == (
        "no task 'report:export_cvs' takes messages from a front door; did you mean 'report:export_csv'?; the message "
        "waits an hour for a deploy of the type, then it is a dead letter"
    )


def test_a_misspelt_type_in_sql_says_what_writes_the_types(world: World) -> None:
    with pytest.raises(DatabaseError) as refusal:
        world.run("select * from joblane.enqueue('report:export_cvs')")
    said = refusal.value.args[0]
    assert said["M"] == "type: there is no task 'report:export_cvs'"
    assert said["H"] == "It is written by `joblane migrate` of the code that declares it."
