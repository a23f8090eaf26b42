"""A database that is read-only, full, locked, or hangs at each statement: the task waits, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from joblane import JobClient, TaskContext
from joblane.errors import DatabaseUnavailableError, TaskIdConflictError
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import doctor
from joblane.inspector.stage.glance import glance
from joblane.inspector.views import Grade
from joblane.record.driver import connection as connection_module
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import TimeLimits
from joblane.record.task.claim import CLAIM_ONE
from joblane.record.task.dead_letters import MARK_DEAD_SENT
from joblane.record.task.finish import FINISH_ONE
from joblane.record.task.insert import INSERT_ONE
from joblane.sweep import expiry, messages, sends, unsent_dead_letters, walk
from joblane.testing.faults import HookedDatabase
from joblane.worker.worker import Worker
from tests.builders.events import record
from tests.builders.rows import In, archived, put
from tests.freezing import FreezingProxy
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_one
from tests.world import PREFIX, World, handle

QUICK = TimeLimits(connect=1, lock=0.1, statement=0.2, network=0.1)
LIMITS = [TimeLimits(connect=0.2 * n, lock=0.1 * n, statement=0.2 * n, network=0.1 * n) for n in (1, 2, 4, 8, 16)]
"""For what is tried again: on a slow machine, a statement before the failure exceeds the first of them."""
STATEMENTS = {
    "ping": "select 1",
    "claim": CLAIM_ONE,
    "finish": FINISH_ONE,
    "finish of a batch": FINISH_ONE,  # of runs that did not use their session
    "commit": "commit",
    "insert": INSERT_ONE,
}
SWEEP = {
    "planning": walk.PLANNING,
    "walk": walk.READ,
    "tidy": expiry.TIDY,
    "take": messages.TAKE,
    "give back": sends.GIVE_BACK,
    "find dead letters": unsent_dead_letters.FIND,
    "take dead letters": unsent_dead_letters.TAKE,
    "mark dead letters": MARK_DEAD_SENT,
    "find expired": expiry.FIND,
    "expire": expiry.EXPIRE,
}
"""The statements of a sweep."""
RESCUED_SECONDS = 20
"""The longest time of an invocation here. The limits together are about two seconds."""
READ_ONLY = "set default_transaction_read_only = on"
REFUSES = {
    "full": "raise exception using errcode = '53100', message = 'could not extend file: No space left on device'",
    "slow": "perform pg_sleep(30); return new",
}
WRITES = """
create function on_write() returns trigger language plpgsql as $$ begin {body}; end $$;
create {kind} on_write {when} on joblane.tasks {deferred} for each row when (new.state = '{state}')
execute function on_write();
create trigger on_write before insert on joblane.task_items execute function on_write()
"""
TRIGGERS = {
    "claim": ("trigger", "before insert or update", "", "active"),
    "finish": ("trigger", "before update", "", "completed"),
    "finish of a batch": ("trigger", "before update", "", "completed"),
    "commit": ("constraint trigger", "after update", "deferrable initially deferred", "completed"),
    "insert": ("trigger", "before insert", "", "pending"),
}


@behaviour
def write_despite_an_outage(payload: Sample, ctx: TaskContext) -> None:
    ctx.session.execute(text("insert into effects values (:id)"), {"id": ctx.task_id})


class Outage:
    """A server that fails at a statement, from the first time that ``database`` runs it until :meth:`ends`.

    A statement without a time limit would wait for ever, so the server is then back after :data:`RESCUED_SECONDS`.
    """

    def __init__(self, world: World, proxy: FreezingProxy, kind: str, name: str) -> None:
        self._world, self._proxy, self._kind = world, proxy, kind
        self._statement = (STATEMENTS | SWEEP)[name]
        self._holder = Database(world.url, limits=None)
        self.begun = False
        self.waited_too_long = threading.Event()
        self._rescue = threading.Timer(RESCUED_SECONDS, self._wait_is_over)
        self._rescue.start()
        self.limit(QUICK)
        if kind in REFUSES:
            trigger = dict(zip(("kind", "when", "deferred", "state"), TRIGGERS[name], strict=True))
            self._holder.get().execute_simple(WRITES.format(body=REFUSES[kind], **trigger))

    def limit(self, limits: TimeLimits) -> None:
        """Give the worker a new connection with these limits."""
        self.database = HookedDatabase(self._proxy.url, self._hook, limits=limits)

    def _hook(self, sql: str, send: Callable[[], Any]) -> Any:
        if sql == self._statement and not self.waited_too_long.is_set():
            self.begun = True
            match self._kind:
                case "hangs":
                    self._proxy.freeze()
                case "hangs in the answer":
                    self._proxy.freeze(answer_bytes=3)
                case "read-only":
                    self._read_only()
                case "locked":
                    self._lock()
        return send()

    def _read_only(self) -> None:
        connection = self.database._connection
        assert connection is not None
        Connection.execute_simple(connection, "set transaction_read_only = on" if not connection.idle else READ_ONLY)

    def _lock(self) -> None:
        if self._holder.get().idle:
            self._holder.get().execute_simple("begin; lock table joblane.tasks")

    def _wait_is_over(self) -> None:
        self.waited_too_long.set()
        self._proxy.thaw()
        self._holder.drop()

    def ends(self) -> None:
        self._rescue.cancel()
        self._rescue.join()
        self._proxy.thaw()
        self._holder.drop()
        if self._kind in REFUSES:
            self._world.run("drop function on_write cascade")
        self.database.drop()


@contextmanager
def outage(world: World, kind: str, statement: str) -> Iterator[Outage]:
    with FreezingProxy.before(world.url) as proxy:
        made = Outage(world, proxy, kind, statement)
        try:
            yield made
        finally:
            made.ends()


@pytest.fixture
def effects(world: World) -> World:
    world.run("create table effects (task_id text)")
    return world


CASES = [
    (kind, statement)
    for statement in STATEMENTS
    for kind in ("hangs", "hangs in the answer", "read-only", "full", "slow", "locked")
    if not (statement == "ping" and kind != "hangs")
    and not (statement == "commit" and kind in ("read-only", "locked"))
    and not (statement in ("claim", "finish", "finish of a batch") and kind == "hangs in the answer")
]


@pytest.mark.parametrize(("kind", "statement"), [case for case in CASES if case[1] != "insert"])
def test_a_task_waits_while_the_database_fails(
    effects: World, kind: str, statement: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a warm worker, and a task
    watched = effects.watch()
    lane = effects.lane(sample_one)
    uses_session = statement != "finish of a batch"
    do = "write_despite_an_outage" if uses_session else "nothing"
    put(effects, sample_one, "it", payload={"do": do, "number": 0})
    body = {"type": "sample:one", "id": "it", "rec": True}
    with outage(effects, kind, statement) as failing:
        worker = Worker(sample_one, failing.database, watched, PREFIX)
        failing.database.get()
        if statement == "ping":
            monkeypatch.setattr(connection_module, "PING_AFTER_SECONDS", -1)
            monkeypatch.setattr(connection_module, "PING_SECONDS", 0.2)

        # when the database fails at the statement
        for receives in (1, 4):
            assert len(handle(worker, record(body, lane, receives=receives))) == 1
        assert failing.begun
        assert not failing.waited_too_long.is_set()

        # then the message waits, the log says why, and no attempt is spent before the claim
        if statement in ("ping", "claim"):
            assert [1 <= watched.visibilities[0] <= 15, 100 <= watched.visibilities[1] <= 120] == [True, True]
        assert [line for line in caplog.records if vars(line).keys() & {"error", "error_type"}], "the log says why"
        assert not [line for line in caplog.records if "migrat" in line.getMessage()]

        # and the doctor says what is wrong
        if failing.begun:
            _diagnosed(effects, failing, kind)

    if statement in ("ping", "claim"):
        assert (effects.row("it")["runs"], effects.row("it")["attempts"]) == (0, 0)

    # and the task completes once the database is back, with its effects exactly once
    if effects.row("it")["state"] != "completed":
        effects.expire_leases()
        effects.later("it")
        monkeypatch.undo()
        assert effects.deliver(sample_one, body) == []
    assert effects.row("it")["state"] == "completed"
    assert effects.run("select task_id from effects") == [["it"]] * uses_session


def _diagnosed(world: World, failing: Outage, kind: str) -> None:
    answers = {"read-only": "refuses writes", "full": "No space left on device", "locked": "a table is locked"}
    slowly = replace(QUICK, statement=PATIENCE_SECONDS, network=PATIENCE_SECONDS)
    database = Database(failing._proxy.url, limits=slowly if kind in answers else QUICK)
    if kind == "read-only":
        database.get().execute_simple(READ_ONLY)
    found = list(
        doctor.checks_of_database(glance(Scope(database, world.sqs, PREFIX, {jobs_sweep.type: jobs_sweep}, "op")))
    )
    database.drop()
    wrong = [check.found for check in found if check.grade is Grade.BAD]
    expected = answers.get(kind, "cannot be reached")
    assert [text for text in wrong if expected in text], wrong


@pytest.mark.parametrize("kind", [kind for kind, statement in CASES if statement == "insert"])
def test_an_enqueue_has_an_error_while_the_database_fails(effects: World, kind: str) -> None:
    with outage(effects, kind, "insert") as failing:
        client = JobClient()
        client._producer.opened, client._producer.sqs = failing.database, effects.sqs
        effects.lane(sample_one)
        with pytest.raises(DatabaseUnavailableError) as caught:
            client.enqueue(sample_one, Sample(), task_id="it")
        assert not failing.waited_too_long.is_set()
        # an answer that was lost may have been a commit
        assert caught.value.task_ids == (["it"] if kind.startswith("hangs") else [])
    client._producer.opened = None
    with suppress(TaskIdConflictError) if kind.startswith("hangs") else nullcontext():
        client.enqueue(sample_one, Sample(), task_id="it")
    client.close()
    assert effects.run("select id from joblane.tasks") == [["it"]]


# --- The sweep, the listings, a migration --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hangs", "locked"])
def test_a_later_sweep_completes_one_whose_database_failed(
    world: World,
    subtests: pytest.Subtests,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_handler, "Sqs", lambda: world.sqs)
    sweep_lane = world.lane(jobs_sweep)
    world.lane(sample_one)
    for name in SWEEP:
        with subtests.test(name), outage(world, kind, name) as failing:
            for number, limits in enumerate(LIMITS):
                failing.limit(limits)
                monkeypatch.setattr(sweep_handler, "SWEEP_LIMITS", limits)
                # given a task for each of its statements; the lane of one does not exist
                world.run("delete from joblane.tasks")
                put(world, sample_one, "due", sweep_at=In(-1))
                put(world, sample_one, "refused", queue="low", sweep_at=In(-1))
                put(world, sample_one, "ended", state="completed", finished_at=None)
                put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
                put(world, sample_one, "old", state="completed", expire_at=In(-1))
                # when the database fails at the statement
                caplog.clear()
                sweep_record = record({"type": jobs_sweep.type, "id": f"sweep-{number}"}, sweep_lane)
                kept = handle(Worker(jobs_sweep, failing.database, world.sqs, PREFIX), sweep_record, seconds=240)
                if failing.begun:
                    break
                failing.database.drop()
            assert failing.begun
            assert not failing.waited_too_long.is_set()
            assert len(kept) == 1, "its end cannot be recorded"
            assert [line for line in caplog.records if vars(line).keys() & {"error", "error_type"}], "the log says why"
            # then a later one does what it has not done
            failing.ends()
            world.run("update joblane.tasks set sweep_at = now() - interval '1 s' where sweep_at is not null")
            world.sweep()
            assert [message for message in world.take(sample_one) if '"due"' in message["Body"]]
            assert world.run("select sweep_at <= now() from joblane.tasks where id = 'refused'") == [[True]]
            assert world.row("ended")["finished_at"]
            assert world.row("dead")["dead_sent_at"]
            assert world.row("old")["cleared"]


@pytest.mark.parametrize("operation", ["tasks", "task", "overview", "statistics"])
def test_a_listing_says_that_the_server_does_not_answer(world: World, operation: str) -> None:
    put(world, sample_one, "it")
    seen: list[str] = []
    freeze_at = 0

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        seen.append(sql)
        if len(seen) > freeze_at:
            proxy.freeze()
        return send()

    with FreezingProxy.before(world.url) as proxy, HookedDatabase(proxy.url, hook, limits=QUICK) as database:
        inspector = Inspector(Scope(database, world.sqs, PREFIX, {sample_one.type: sample_one}, "op"))
        while freeze_at < len(seen) or not seen:  # at each of its statements
            seen.clear()
            with pytest.raises(DatabaseUnavailableError, match=r"the server did not answer within 0.3 s"):
                getattr(inspector, operation)(*(["it"] if operation == "task" else []))
            proxy.thaw()
            freeze_at += 1
