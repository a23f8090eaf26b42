"""Rows written by SQL with values that no code writes: refused, or swept, listed and shown without an error."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pg8000.exceptions import DatabaseError
from rich.console import Console
from starlette.testclient import TestClient

from joblane import SkipRetry, TaskContext
from joblane.cli import tables, task_tables
from joblane.errors import sqlstate
from joblane.inspector import wire
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage import glance
from joblane.inspector.stage.trends import causes
from joblane.page.app import build
from joblane.page.inspectors import Desk
from joblane.page.security import Keys
from joblane.record.row.states import Passed, State
from joblane.record.task.claim import LACKS_MESSAGES
from joblane.record.task.finish import Finish, finish
from joblane.sweep.sweep import sweep
from joblane.sweep.unmarked_dead_letters import unmarked_dead_letters
from tests.builders.rows import archived, put
from tests.logs import lines
from tests.samples import Sample, behaviour, sample_batch, sample_one, sample_tick
from tests.world import PREFIX, World

TIMES = (
    "created_at", "due_at", "deadline", "lease_until", "sweep_at", "mismatch_since", "cancel_requested_at",
    "finished_at", "dead_sent_at", "unique_expires_at", "expire_at",
)  # fmt: skip
IMPOSSIBLE = ("infinity", "-infinity", "20000-01-01", "0001-01-01 BC")
COUNTS = ("attempts", "runs", "snoozes", "continuations", "used_ms", "generation", "sends", "batch_size")
SUCCESSOR = '{"type": "a:b", "queue": "low", "max_attempts": 1, "retention_seconds": 0}'
END = "finished_at = now(), expire_at = now(), reason = ''"
DEEP = """('{"x": ' || repeat('[', 6000) || repeat(']', 6000) || '}')::jsonb"""
REFUSED = (
    "queue = 'nope'", "state = 'dead'", "id = ''", "type = 'none'", "tenant = ''", "tenant = 'a b'", "tags = '{null}'",
    "retention_seconds = -1", "retention_seconds = 9000000000000000000", "max_attempts = 0",
    "headers = '[1]'", "headers = 'null'", """headers = '{"a": 1}'""", "options = '[]'", """options = '"x"'""",
    "unique_until = 'never'", "finished_at = now()", "dead_letter_unsent = true",
    "attempts = 1001", "max_attempts = 1001", "state = 'cancelled', finished_at = now(), reason = ''",
    "state = 'cancelled', finished_at = now(), expire_at = now()",
    "state = 'archived', finished_at = now(), expire_at = now(), dead_letter_unsent = true",
    *(f"{column} = '{time}'" for column in TIMES
      for time in ("infinity", "-infinity", "1972-01-01 UTC", "9999-12-31 12:00 UTC")),
    *(f"{column} = -1" for column in COUNTS),
    *(f"{column} = 2147483647" for column in ("attempts", "runs", "generation", "max_attempts")),
    "used_ms = 9000000000000000000", "state = 'active', lease_until = 'infinity'",
    "state = 'held'", "waits_for = 'x'", "wait_kind = 'x'", "passed = 'x'", "wait_kind = 'limit'",
    "state = 'held', wait_kind = 'limit'", "total_limit = 'x'",
    "asks = 1", "longest_seconds = 1", *(f"asks = {asks}, longest_seconds = {seconds}" for asks, seconds in (
        (0, 1), (2000000001, 1), (1, 0), (1, 315360001),
    )),
    *(f"options = '{{\"timeout\": {value}}}'" for value in ('"x"', "0.5", "1e400", "null", "true", "[5]")),
    *(f"options = '{{\"retry_delay\": {value}}}'" for value in (
        '"x"', "5", '{"a": 1}', '["x"]', "[true]", "[-1]", "[[1]]", "[1e9]",
    )),
    *(f"on_archived = {on_archived}" for on_archived in (
        "'[]'::jsonb", "'1'", """'{"type": "a:b"}'::jsonb""", f"'{SUCCESSOR}'::jsonb - 'max_attempts'",
        f"""'{SUCCESSOR}'::jsonb || '{{"queue": "nope"}}'""", f"""'{SUCCESSOR}'::jsonb || '{{"max_attempts": 1.5}}'""",
        f"""'{SUCCESSOR}'::jsonb || '{{"retention_seconds": 1e30}}'""",
        f"""'{SUCCESSOR}'::jsonb || '{{"retention_seconds": "5"}}'""", f"""'{SUCCESSOR}'::jsonb || '{{"type": 1}}'""",
    )),
)  # fmt: skip
"""Changes of a waiting row that the table refuses."""
TAKEN = (
    "id = 'ä \u2028 b'", "type = 'gone:type'", "owner = ''", "schema = ''", "payload_digest = ''", "schedule = 'x'",
    "tags = '{\"\", a}'", "unique_key = ''", "replay_of = 'nobody'", "reason = ''", "error_type = ''",
    "error_message = ''", "fingerprint = ''", "fingerprint = 'ä b'", "lease_token = gen_random_uuid()",
    *(f"payload = '{value}'" for value in ("[1]", "1", '"x"', "null")), "payload = null",
    *(f"result = '{value}'" for value in ("[1]", "null")), *(f"{column} = {DEEP}" for column in ("payload", "result")),
    """options = '{"timeout": 1, "retry_delay": [0, 2.5], "other": 1}'""",
    f"on_archived = '{SUCCESSOR}'",
    *(f"{column} = '{value}'" for column in TIMES for value in ("1973-01-01 UTC", "9999-12-29 23:59:59.999999 UTC")
      if column != "finished_at" and (column, value[0]) != ("dead_sent_at", "9")),
    *(f"{column} = null" for column in ("sweep_at", "lease_until")),
    *(f"state = '{state}'" for state in State if state != "held"),
    "state = 'active', lease_until = null, sweep_at = now()",
    *(f"state = '{state}', {END}" for state in ("completed", "cancelled")),
    "state = 'cancelled', reason = '', finished_at = '1973-01-01 UTC', expire_at = '9999-12-29 UTC'",
    f"state = 'archived', {END}, dead_letter_unsent = true, payload = null",
    f"""state = 'archived', {END}, dead_letter_unsent = true, sweep_at = now(),
        on_archived = '{SUCCESSOR}'""",
    f"state = 'archived', {END}, dead_sent_at = '9998-12-31 23:59:59 UTC'",
    "cleared = true", "claim_alone = true, attempts = 1000, runs = 2000000000, sends = 2000000000",
    "used_ms = 315360000000", "batch_size = 32767", "wait_kind = 'parents'",
    *(f"passed = '{step}'" for step in Passed),
)  # fmt: skip
"""Changes of a waiting row that the table accepts."""
ROWS = "select t::text from joblane.tasks t order by id"


@pytest.fixture
def row(deployed: World) -> World:
    """A world with a waiting task ``it``, and an archived one that must not be in the way."""
    put(deployed, sample_one, "dead", **archived())
    put(deployed, sample_one, "it")
    return deployed


@pytest.mark.parametrize("change", ["refused", "taken", "unchecked"])
def test_a_value_that_no_code_writes_is_refused_or_handled(
    row: World, inspector: Inspector, subtests: pytest.Subtests, change: str
) -> None:
    keys = Keys(token="t", session="s", form="f", base="")
    browser = TestClient(build(Desk(lambda: inspector), port=8700, keys=keys), base_url="http://127.0.0.1:8700")
    browser.cookies.update({"joblane-8700": keys.session})
    row.run(f"alter database {row.url.rpartition('/')[2]} set timezone = 'Pacific/Kiritimati'")  # UTC+14
    for database in (row.database, row._observer, inspector._scope.database):
        database.drop()
    for written in TAKEN if change == "taken" else REFUSED:
        with subtests.test(written):
            if change == "refused":
                with pytest.raises(DatabaseError) as caught:
                    row.run(f"update joblane.tasks set {written} where id = 'it'")
                assert sqlstate(caught.value) in ("23514", "22008")
                continue
            row.run(f"set joblane.checks = {'on' if change == 'taken' else 'off'}")
            row.run(f"update joblane.tasks set {written} where id = 'it'")
            [[id_]] = row.run("select id from joblane.tasks where id <> 'dead'")
            read_everywhere(inspector, browser, id_)
            before = row.run(ROWS)
            sweep(row.database.get(), row.sqs, PREFIX)
            if row.run(ROWS) != before:
                read_everywhere(inspector, browser, id_)
        with suppress(DatabaseError):
            row.run("delete from joblane.tasks where id <> 'dead'")
            put(row, sample_one, "it")


@behaviour
def large_counts(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no")


@behaviour
def gives_up(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no")


@pytest.mark.parametrize("do", ["nothing", "large_counts", "gives_up"])
def test_a_value_that_no_code_writes_does_not_stop_the_tasks_of_its_batch(
    world: World, subtests: pytest.Subtests, do: str
) -> None:
    world.run("set joblane.checks = off")
    for number, written in enumerate((*TAKEN, *REFUSED)):
        good = [f"good-{number}-{side}" for side in ("before", "after")]
        with subtests.test(written):
            # given a changed row, and two others
            put(world, sample_batch, "it", {"do": do})
            world.run(f"update joblane.tasks set {written} where id = 'it'")
            [[id_]] = world.run("select id from joblane.tasks where id not like 'good-%'")
            for other in good:
                put(world, sample_batch, other)
            # when their batch is delivered, and then the row's message once more
            batch = [{"type": "sample:batch", "id": one, "rec": True} for one in (good[0], id_, good[1])]
            kept = world.deliver(sample_batch, *batch)
            world.deliver(sample_batch, batch[1])
            # then
            assert [world.row(one)["state"] for one in good] == ["completed", "completed"]
            assert len(kept) <= 1
        world.run("delete from joblane.tasks where id not like 'good-%'")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("headers = '[1]'", "headers: an object of strings is required"),
        ("options = '[1]'", "options: an object is required"),
        pytest.param(
            f"options = {DEEP.replace('6000', '12000')}",
            "options: an object is required",
            marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads 12,000 levels"),
        ),
        ("""options = '{"timeout": "x"}'""", "options: timeout: 1 to 315,360,000 seconds are required"),
        (
            """options = '{"retry_delay": 5}'""",
            "options: retry_delay: a list of seconds, each from 0 to 31,536,000, is required",
        ),
    ],
)
def test_the_task_of_a_row_that_cannot_be_read_is_archived_with_the_reason(
    world: World, written: str, problem: str
) -> None:
    for id_ in ("a", "it", "z"):
        put(world, sample_batch, id_)
    world.run("set joblane.checks = off")
    world.run(f"update joblane.tasks set {written} where id = 'it'")
    batch = [{"type": "sample:batch", "id": id_, "rec": True} for id_ in ("a", "it", "z")]
    assert world.deliver(sample_batch, *batch) == []
    found = world.run("select id, state, reason from joblane.tasks order by id")
    reason = f"SkipRetry: its row cannot be read: {problem}. Correct the row with SQL, then retry the task"
    assert found == [["a", "completed", None], ["it", "archived", reason], ["z", "completed", None]]
    assert len(world.dead_letters(sample_batch)) == 1


def test_dead_letters_of_a_queue_that_no_code_writes_are_listed_and_counted(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it", **archived())
    world.run("set joblane.checks = off")
    world.run("update joblane.tasks set queue = 'nope', dead_sent_at = now() where id = 'it'")
    assert [group.archived for group in inspector.dead().groups] == [1]
    assert unmarked_dead_letters(world.database.get(), world.sqs, PREFIX, []) == {}


def test_a_claim_without_an_answer_keeps_its_messages(world: World) -> None:
    """A schema before pg_catalog replaces PostgreSQL's own functions."""
    put(world, sample_batch, "it", snoozes=1)
    world.run("create schema before")
    world.run(
        "create function before.json_to_recordset(json) returns setof record language plpgsql as"
        " $$ begin return; end $$"
    )
    world.run(f"alter database {world.url.rpartition('/')[2]} set search_path = before, pg_catalog")
    world.database.drop()
    with lines() as found:
        kept = world.deliver(sample_batch, {"type": "sample:batch", "id": "it", "rec": True})
    assert (len(kept), world.row("it")["runs"]) == (1, 0)
    assert found.fields[0]["error"] == LACKS_MESSAGES


def test_a_task_with_the_largest_counts_does_not_stop_the_tasks_of_its_batch(world: World) -> None:
    # given a task with the largest numbers that the table accepts, and no retry_delay of its own
    counts = dict.fromkeys(("runs", "continuations", "generation", "sends"), 2_000_000_000)
    put(world, sample_tick, "large", {"do": "large_counts"}, attempts=998, max_attempts=1000, **counts)
    put(world, sample_tick, "other")
    # when
    kept = world.deliver(sample_tick, *({"type": "sample:tick", "id": id_, "rec": True} for id_ in ("large", "other")))
    # then
    assert [world.row(id_)["state"] for id_ in ("large", "other")] == ["retry", "completed"]
    assert kept == []  # its delay is too long for SQS


@pytest.mark.parametrize(
    "statement",
    [
        *(f"insert into joblane.pauses (scope, name, until) values ('type', 'a:b', '{time}')" for time in IMPOSSIBLE),
        "insert into joblane.pauses (scope, name, since) values ('type', 'a:b', '-infinity')",
        "insert into joblane.audit (who, action, target, at) values ('me', 'run', 'it', 'infinity')",
        "insert into joblane.audit (who, action, target, details) values ('me', 'run', 'it', '[]')",
        *(
            "insert into joblane.schedules (name, type, payload, expression, timezone, ticks_a_day, revision, next_at)"
            f" values ({row})"
            for row in (
                "'a b', 'a:b', '{}', '* * * * *', 'UTC', 9, 1, now()",
                "'a', 'a', '{}', '* * * * *', 'UTC', 9, 1, now()",
                "'a', 'a:b', '[]', '* * * * *', 'UTC', 9, 1, now()",
                "'a', 'a:b', '{}', '* * * * *', 'UTC', 9, 1, 'infinity'",
                "'a', 'a:b', '{}', '* * * * *', 'UTC', -1, 1, now()",
            )
        ),
    ],
)  # fmt: skip
def test_values_that_would_stop_a_reader_are_refused_in_the_other_tables(world: World, statement: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        world.run(statement)
    assert sqlstate(caught.value) == "23514"


def test_a_function_leaves_the_check_of_its_transaction_on(row: World) -> None:
    connection = row.database.get()
    connection.execute_simple("begin")
    assert finish(connection, [Finish("it", str(uuid4()), 1, "completed", State.COMPLETED)]) == set()
    with pytest.raises(DatabaseError, match="queue: critical, default or low is required"):
        connection.run("update joblane.tasks set queue = 'nope' where id = 'it'")
    connection.rollback()


def read_everywhere(inspector: Inspector, browser: TestClient, id_: str) -> None:
    page = inspector.tasks(limit=1)
    while page.after is not None:
        page = inspector.tasks(after=page.after, limit=1)
    inspector.count(Filter(types=("sample:one",)), action=BulkAction.DELETE)
    glance.read(inspector._scope.connection, 60)
    causes.read(inspector._scope, Filter(), limit=50)
    rows = inspector.tasks().tasks
    Console(quiet=True).print(tables.listed(rows, 120))
    paths = ["/tasks"]
    if id_ and id_.isascii():
        wire.call(inspector, "task", f'{{"id": "{id_}"}}'.encode())
        task_tables.task(Console(quiet=True), inspector.task(id_), datetime.now(UTC), "joblane")
        paths.append(f"/task?id={id_}")
    for path in paths:
        assert browser.get(path).status_code == 200, path
