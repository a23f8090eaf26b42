"""`joblane invoke`: a handler in this process, on a real database, and its effects there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from sqlalchemy import text

from joblane import Payload, TaskContext, around, task
from joblane.cli import connect as connecting
from joblane.cli import invoke as invoking
from joblane.cli.main import main
from joblane.errors import RetryAfter, Snooze, TaskTimeout
from joblane.inspector.errors import SchemaError
from joblane.record.driver.database import Database
from joblane.tasks.redaction import Redacted
from tests import samples
from tests.samples import Sample, behaviour

WRITES = "insert into joblane.pauses (scope, name) values ('tenant', 'written-by-the-handler')"


@behaviour
def invoke_write(payload: Sample, ctx: TaskContext) -> Any:
    ctx.session.execute(text(WRITES))
    ctx.logger.info("a line of the log")
    return {"number": payload.number}


@behaviour
def invoke_fail(payload: Sample, ctx: TaskContext) -> None:
    ctx.session.execute(text(WRITES))
    raise ValueError("no such file")


@behaviour
async def invoke_write_async(payload: Sample, ctx: TaskContext) -> Any:
    await ctx.async_session.execute(text(WRITES))
    if payload.number == 2:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
    if payload.number:
        raise ValueError("no such file")
    return "done"


@behaviour
def invoke_interrupt(payload: Sample, ctx: TaskContext) -> None:
    ctx.session.execute(text(WRITES))
    os.kill(os.getpid(), signal.SIGINT)


@behaviour
def invoke_raise(payload: Sample, ctx: TaskContext) -> None:
    raise ENDS[payload.number]


@behaviour
def invoke_items(payload: Sample, ctx: TaskContext) -> int:
    return sum(1 for _ in ctx.resume(range(payload.number)))


ENDS: list[BaseException] = [
    TaskTimeout("over"),
    Snooze(samples.sample_one.timeout),
    RetryAfter(samples.sample_one.timeout),
]


class Secret(Payload):
    token: Annotated[str, Redacted]


@task("sample:secret")
def sample_secret(payload: Secret, ctx: TaskContext) -> None:
    raise ValueError(f"{payload.token} was refused")


@pytest.fixture
def record(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database for the handlers, which are `sample:one` and `sample:secret`."""
    monkeypatch.setenv("DATABASE_URL", database_url)

    def load(type_: str) -> Any:
        known = (samples.sample_one, samples.sample_async, sample_secret)
        return next(each for each in known if each.type == type_)

    monkeypatch.setattr(invoking, "load_for_person", load)
    monkeypatch.setattr(connecting, "connect", lambda **_: SimpleNamespace(pauses=tuple))
    database = Database(database_url)
    yield database
    database.drop()


def invoke(capsys: pytest.CaptureFixture[str], *arguments: str, type_: str = "sample:one") -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["invoke", type_, *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def rows(record: Database) -> list[dict[str, Any]]:
    return [row[0] for row in record.get().run("select to_jsonb(t) from joblane.tasks t")]


def written(record: Database) -> int:
    return int(record.get().run("select count(*) from joblane.pauses")[0][0])


def test_a_completed_run_is_committed_and_its_result_is_the_output(
    record: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    # when
    code, out, err = invoke(capsys, "--json", '{"do": "invoke_write", "number": 7}', "--tenant", "acme")
    # then
    assert (code, json.loads(out)) == (0, {"number": 7})
    assert "a line of the log" in err
    assert "sample:one completed in" in err
    [row] = rows(record)
    assert (row["state"], row["tenant"], row["attempts"], written(record)) == ("completed", "acme", 1, 1)


def test_a_failed_run_is_rolled_back_without_a_retry_or_a_dead_letter(
    record: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    # when
    code, out, err = invoke(capsys, "--json", '{"do": "invoke_fail"}')
    # then
    assert (code, out, written(record)) == (1, "", 0)
    assert "ValueError: no such file" in err
    assert "invoke_fail" in err  # the traceback, down to the handler
    [row] = rows(record)
    assert (row["state"], row["error_type"], row["lease_token"]) == ("cancelled", "ValueError", None)
    [[attempt]] = record.get().run("select to_jsonb(a) from joblane.runs a")
    assert (attempt["outcome"], attempt["error_message"]) == ("failed", "no such file")


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_has_its_hooks(record: Database, capsys: pytest.CaptureFixture[str], *, fails: bool) -> None:
    @around
    def hook(ctx: TaskContext) -> Iterator[None]:
        ctx.session.execute(text(WRITES))
        if fails:
            raise KeyError("tenant")
        yield

    code, _, err = invoke(capsys, "--json", "{}")
    assert (code, rows(record)[0]["state"], written(record)) == ((1, "cancelled", 0) if fails else (0, "completed", 1))
    assert ("hook has failed before its yield" in err) is fails


@pytest.mark.parametrize("number", range(len(ENDS)))
def test_no_exception_of_a_handler_leaves_a_waiting_task(
    record: Database, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    code, _, _ = invoke(capsys, "--json", json.dumps({"do": "invoke_raise", "number": number}))
    assert (code, rows(record)[0]["state"]) == (1, "cancelled")


def test_ctrl_c_rolls_back_and_leaves_no_waiting_task(record: Database, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the parent process may have set it to be ignored
    try:
        code, _, _ = invoke(capsys, "--json", '{"do": "invoke_interrupt"}')
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, rows(record)[0]["state"], written(record)) == (130, "cancelled", 0)


@pytest.mark.parametrize(
    ("number", "ends", "state", "rows_written"),
    [(0, 0, "completed", 1), (1, 1, "cancelled", 0), (2, 130, "cancelled", 0)],
    ids=["completes", "fails", "is interrupted"],
)
def test_a_coroutine_runs_as_in_a_worker(
    record: Database, capsys: pytest.CaptureFixture[str], number: int, ends: int, state: str, rows_written: int
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        payload = json.dumps({"do": "invoke_write_async", "number": number})
        code, out, _ = invoke(capsys, "--json", payload, type_="sample:async")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, rows(record)[0]["state"], written(record)) == (ends, state, rows_written)
    assert out.strip() == ('"done"' if number == 0 else "")


def test_a_redacted_value_is_neither_stored_nor_shown(record: Database, capsys: pytest.CaptureFixture[str]) -> None:
    # when
    code, out, err = invoke(capsys, "--json", '{"token": "hunter2-hunter2"}', "--as-json", type_="sample:secret")
    # then
    assert (code, json.loads(out)["error_message"]) == (1, "[redacted] was refused")
    assert "hunter2" not in out + err
    [row] = rows(record)
    assert row["payload"] == {"token": "hunter2-hunter2"}
    attempts = record.get().run("select to_jsonb(a) from joblane.runs a")
    assert "hunter2" not in json.dumps([row | {"payload": None}, attempts])


def test_a_resumable_task_runs_to_its_end_in_one_invocation(
    record: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = invoke(capsys, "--json", '{"do": "invoke_items", "number": 250}')
    assert (code, json.loads(out)) == (0, 250)


def test_with_as_json_the_output_is_one_document(record: Database, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke(capsys, "--json", '{"do": "invoke_fail"}', "--as-json")
    answer = json.loads(out)
    assert (code, answer["error_type"], answer["result"]) == (1, "ValueError", None)


def test_an_invalid_payload_is_refused_before_a_row_is_written(
    record: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = invoke(capsys, "--json", '{"numbr": "secret"}')
    assert (code, rows(record)) == (1, [])
    assert "known are do, number" in err
    assert "secret" not in err


def test_a_paused_type_is_reported_and_leaves_no_waiting_task(
    record: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    record.get().run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    code, _, err = invoke(capsys)
    assert (code, rows(record)[0]["state"]) == (1, "cancelled")
    assert "`joblane pause` lists pauses" in err


def test_a_database_without_the_tables_is_reported(
    record: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise SchemaError("the database is at revision none: run `joblane migrate`")

    monkeypatch.setattr(connecting, "connect", lambda **_: SimpleNamespace(pauses=refuse))
    code, _, err = invoke(capsys)
    assert (code, err) == (1, "joblane: the database is at revision none: run `joblane migrate`\n")
    assert rows(record) == []
