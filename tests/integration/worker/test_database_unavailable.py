"""Outages of PostgreSQL: an unclaimed message uses no attempt, and a run that cannot commit is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from joblane import TaskContext
from joblane.client.client import JobClient
from joblane.errors import DatabaseUnavailableError
from joblane.local.postgres import Postgres
from joblane.quotas import PROMISED_OUTAGE, QUEUE_RETENTION, SNOOZE_CEILING
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import TimeLimits
from joblane.record.task.claim import CLAIM_ONE, CLAIMS
from joblane.tasks.task import Task
from joblane.testing.faults import HookedDatabase
from joblane.worker.invocation import UNAVAILABLE_LONGEST_SECONDS, growing_seconds
from joblane.worker.worker import Worker
from tests.builders.events import record
from tests.builders.handlers import run, write, written
from tests.builders.rows import put
from tests.conftest import administer
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World, handle

GROWING = [(13, 15), (27, 30), (54, 60), (108, 120), (216, 240), (432, 480), (900, 900), (900, 900)]
"""Bounds of the visibility by number of receives: 15 seconds, doubling to a quarter of an hour, with jitter."""


@pytest.fixture
def server(world: World, postgres: Postgres) -> Iterator[Postgres]:
    """The server, which runs again after the test."""
    yield postgres
    postgres.start()
    forget(world)


def forget(world: World) -> None:
    """Drop the test's own connection, which broke with the server."""
    world._observer.drop()


def message(id_: str = "it", do: str = "nothing", type_: str = "sample:one") -> dict[str, Any]:
    return {"type": type_, "id": id_, "payload": {"do": do, "number": 0}}


# --- Before the claim ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [True, False], ids=["warm process", "fresh process"])
def test_while_the_server_is_stopped_messages_stay_and_use_no_attempt(
    world: World, server: Postgres, warm: bool
) -> None:
    watched = world.watch()
    put(world, sample_one, "it")
    world.worker(sample_one)
    if warm:
        assert world.deliver(sample_one, message("before")) == []
    before = world.row("it")

    server.stop()
    for receives in range(1, len(GROWING) + 1):
        assert len(world.deliver(sample_one, message(), receives=receives)) == 1
    server.start()
    forget(world)

    bounds = zip(GROWING, watched.visibilities, strict=True)
    assert [low <= seconds <= high for (low, high), seconds in bounds] == [True] * len(GROWING)
    assert world.row("it") == before
    assert world.deliver(sample_one, message(), receives=9) == []
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, 1)


def test_what_comes_while_the_server_is_stopped_completes_once_it_is_back(world: World, server: Postgres) -> None:
    bodies = [message(f"it-{number}", type_="sample:batch") for number in range(30)]
    batches = [bodies[start : start + 10] for start in range(0, 30, 10)]
    for body in bodies[::2]:
        put(world, sample_batch, body["id"])
    world.worker(sample_batch)

    server.stop()
    for receives in (1, 2, 3):
        for batch in batches:
            assert len(world.deliver(sample_batch, *batch, receives=receives)) == 10
    server.start()
    forget(world)

    assert world.run("select coalesce(max(attempts), 0), coalesce(max(runs), 0) from joblane.tasks") == [[0, 0]]
    for batch in batches:
        assert world.deliver(sample_batch, *batch, receives=4) == []
    assert world.run("select state, attempts, runs, count(*)::int from joblane.tasks group by 1, 2, 3") == [
        ["completed", 1, 1, 30]
    ]


def test_a_backend_killed_between_two_tasks_does_not_delay_the_next_task(world: World) -> None:
    assert world.deliver(sample_one, message("first")) == []
    (pid,) = world.database.get().run("select pg_backend_pid()")[0]
    world.run("select pg_terminate_backend($1, 5000)", str(pid))

    assert world.deliver(sample_one, message("second")) == []
    row = world.row("second")
    assert (row["state"], row["attempts"]) == ("completed", 1)


def read_only(world: World, value: str) -> None:
    """Let new connections to this database reach a standby, or the new primary."""
    name = world.url.rpartition("/")[2]
    world.run(f"alter database {name} set default_transaction_read_only = {value}")


def test_a_connection_to_a_standby_is_replaced_by_one_to_the_new_primary_at_once(world: World) -> None:
    put(world, sample_one, "it")
    world.database.get().execute_simple("set default_transaction_read_only = on")  # a standby, after a failover

    assert world.deliver(sample_one, message()) == []
    assert (world.row("it")["state"], world.row("it")["runs"]) == ("completed", 1)


def test_a_read_only_server_counts_as_unavailable(world: World) -> None:
    watched = world.watch()
    put(world, sample_one, "it")
    world.run("select 1")  # this connection is not changed
    read_only(world, "on")

    assert len(world.deliver(sample_one, message())) == 1
    assert [seconds <= 15 for seconds in watched.visibilities] == [True]
    assert world.row("it")["runs"] == 0

    read_only(world, "off")
    assert world.deliver(sample_one, message()) == []
    assert world.row("it")["state"] == "completed"


def test_a_server_with_too_many_connections_counts_as_unavailable(world: World, postgres: Postgres) -> None:
    administer(postgres, "create role crowded login password 'crowded' connection limit 1")
    try:
        world.run("grant usage on schema joblane to crowded")
        world.run("grant select, insert, update, delete on all tables in schema joblane to crowded")
        url = world.url.split("@")[1]
        holder = Database(f"postgresql://crowded:crowded@{url}")
        holder.get()
        world.database = Database(f"postgresql://crowded:crowded@{url}")
        watched = world.watch()

        assert len(world.deliver(sample_one, message())) == 1  # 53300
        assert [seconds <= 15 for seconds in watched.visibilities] == [True]
        assert world.run("select from joblane.tasks") == []

        holder.drop()
        kept = [""]
        for _ in range(200):  # until the server has noticed that the place is free
            if not (kept := world.deliver(sample_one, message())):
                break
        assert kept == []
        assert world.row("it")["state"] == "completed"
    finally:
        world.database.drop()
        world.run("drop owned by crowded")
        administer(postgres, "drop role crowded")


def test_a_database_without_migrations_uses_no_attempt(world: World) -> None:
    watched = world.watch()
    world.run("alter table joblane.tasks rename to tasks_away")
    assert len(world.deliver(sample_one, message(), receives=3)) == 1
    world.run("alter table joblane.tasks_away rename to tasks")
    assert [54 <= seconds <= 60 for seconds in watched.visibilities] == [True]
    assert world.deliver(sample_one, message()) == []


# --- While a handler runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("writes", ["before", "after", ""], ids=["has written", "writes then", "without its session"])
def test_a_run_that_cannot_commit_is_lost_and_the_task_completes_after_the_restart(
    effects: World, server: Postgres, how: str, writes: str
) -> None:
    watched = effects.watch()

    @behaviour
    def lose_the_server(payload: Sample, ctx: TaskContext) -> None:
        if writes == "before":
            write(ctx, f"run {ctx.attempt}")
        if ctx.attempt == 1:
            server.stop() if how == "stopped" else server.kill()
        if writes == "after":
            write(ctx, f"run {ctx.attempt}")

    def deliver() -> int:
        return len(effects.deliver(sample_one, message(do="lose_the_server")))

    # given a server whose commits outlive its death, as everywhere but in tests
    (database,) = effects.run("select current_database()")[0]
    effects.run(f"alter database {database} set synchronous_commit = on")

    # when the server stops while the handler runs
    assert deliver() == 1
    assert [seconds <= 15 for seconds in watched.visibilities] == [True]
    assert deliver() == 1

    # then the run is known once it is back, and only once its lease is over another begins
    server.start()
    forget(effects)
    row = effects.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("active", 1, 1)
    assert deliver() == 1
    effects.expire_leases()
    assert deliver() == 0
    row = effects.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 2, 2)
    assert effects.outcomes("it") == ["lost", "completed"]
    assert written(effects) == ["run 2"] * bool(writes)


def terminate(world: World, ctx: TaskContext) -> None:
    """Kill the backend under the run, as a failover does."""
    (pid,) = ctx.connection().run("select pg_backend_pid()")[0]
    world.run("select pg_terminate_backend($1, 5000)", str(pid))


@pytest.mark.parametrize("then", ["returns", "uses it and fails", "uses it and swallows that", "checks as well"])
def test_a_handler_whose_connection_broke_does_not_complete_without_what_it_wrote(effects: World, then: str) -> None:
    """The server is available at once. A new connection could write the completion alone, and must not."""

    def lose_the_connection(ctx: TaskContext) -> None:
        write(ctx, f"run {ctx.attempt}")
        if ctx.attempt > 1:
            return
        terminate(effects, ctx)
        if then == "uses it and fails":
            write(ctx, "more")
        elif then != "returns":
            with suppress(Exception):
                write(ctx, "more")
        if then == "checks as well":
            ctx.check()

    row = run(effects, lose_the_connection)
    assert (row["kept"], row["state"] in ("active", "retry"), written(effects)) == (True, True, [])
    effects.expire_leases()
    row = run(effects, lose_the_connection)
    assert (row["kept"], row["state"], row["attempts"]) == (False, "completed", 2)
    assert written(effects) == ["run 2"]


@pytest.fixture
def impatient(effects: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server that closes connections that are idle outside of a transaction, as an Aurora that pauses does."""
    name = urlsplit(effects.url).path[1:]
    effects.run(f"alter database {name} set idle_session_timeout = '300ms'")
    monkeypatch.setattr("joblane.record.driver.connection.PING_AFTER_SECONDS", 0.1)
    forget(effects)
    assert not run(effects, lambda ctx: write(ctx, "before"), "warm")["kept"]
    return effects


@pytest.mark.parametrize("in_a_loop", [False, True], ids=["before its first use", "between two items"])
def test_a_handler_that_comes_to_its_session_after_a_long_pause_has_a_connection(
    impatient: World, in_a_loop: bool
) -> None:
    def pause(ctx: TaskContext) -> None:
        for item in ctx.each(["one", "two"]) if in_a_loop else ["one"]:
            time.sleep(0.7)  # the pause is the subject
            write(ctx, item)

    row = run(impatient, pause)
    assert (row["state"], row["runs"]) == ("completed", 1)
    assert written(impatient) == ["before", "one", *["two"] * in_a_loop]


def test_an_item_whose_connection_broke_is_not_marked_as_done(effects: World) -> None:
    """Loops often log the error of an item and continue. The item's mark must not be kept without its work."""

    def lose_it_at_an_item(ctx: TaskContext) -> None:
        for item in ctx.each(["one", "two", "three"]):
            write(ctx, item)
            if item == "two" and ctx.attempt == 1:
                terminate(effects, ctx)
                with suppress(Exception):
                    write(ctx, "more")

    assert run(effects, lose_it_at_an_item)["kept"]
    assert effects.run("select key from joblane.task_items") == [["one"]]
    assert not run(effects, lose_it_at_an_item)["kept"]
    assert written(effects) == ["one", "three", "two"]


def test_a_commit_whose_answer_is_lost_counts_once_whichever_way_it_went(effects: World) -> None:
    """The commit has its effect and its answer is lost: the run cannot know, so the row decides."""

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        answer = send()
        if sql == "commit":
            raise ConnectionResetError("the answer is lost")
        return answer

    @behaviour
    def write_once(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "once")

    body = message(do="write_once")
    with effects.rival(sample_one, hook) as worker:
        assert len(handle(worker, record(body, effects.lane(sample_one)))) == 1
    assert effects.deliver(sample_one, body) == []
    assert written(effects) == ["once"]
    assert (effects.row("it")["state"], effects.row("it")["runs"]) == ("completed", 1)


def test_a_claim_whose_answer_is_lost_is_repeated_and_spends_one_attempt(effects: World) -> None:
    put(effects, sample_one, "it", {"do": "nothing", "number": 0}, max_attempts=1)
    lost: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        answer = send()
        if sql in CLAIMS and not lost and effects.row("it")["state"] == "active":
            lost.append(sql)
            raise ConnectionResetError("the answer is lost")
        return answer

    with effects.rival(sample_one, hook) as worker:
        handle(worker, record(message("warm"), effects.lane(sample_one)))  # an open connection may have failed
        assert handle(worker, record({"type": "sample:one", "id": "it", "rec": True}, effects.lane(sample_one))) == []
    row = effects.row("it")
    assert (lost, row["state"], row["runs"], row["attempts"]) == ([CLAIM_ONE], "completed", 1, 1)
    assert effects.run("select run, outcome from joblane.runs where task_id = 'it'") == [[1, "completed"]]


def test_a_dead_letter_whose_mark_fails_is_sent_and_marked_by_the_sweep(world: World) -> None:
    watched = world.watch()
    put(world, sample_one, "it", state="archived", attempts=4, runs=4, reason="enough")

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        if "dead_sent_at = clock_timestamp()" in sql:
            raise ConnectionResetError
        return send()

    with world.rival(sample_one, hook) as worker:
        assert handle(worker, record(message(), world.lane(sample_one))) == []
    assert world.row("it")["dead_sent_at"] is None
    world.run("update joblane.tasks set sweep_at = clock_timestamp()")
    assert world.sweep().dead_letters == 1
    assert world.row("it")["dead_sent_at"] is not None
    assert len(watched.sent) == 2
    assert watched.sent[0].attributes == watched.sent[1].attributes


# --- The producer --------------------------------------------------------------------------------------------------


def test_a_producer_gets_an_error_in_an_outage_and_works_again_after_it(world: World, server: Postgres) -> None:
    watched = world.watch()
    world.lane(sample_one)
    with JobClient() as client:
        client.enqueue(sample_one, Sample(), task_id="before")  # its connection is warm now
        server.stop()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError):
                client.enqueue(sample_one, Sample(), task_id="it")
        server.start()
        forget(world)
        assert client.enqueue(sample_one, Sample(), task_id="it").sent
    assert world.run("select id from joblane.tasks order by created_at") == [["before"], ["it"]]
    assert watched.sent == []  # the client has its own queues


# --- The longest outage --------------------------------------------------------------------------------------------


def longest_outage(task: Task[Any, Any], receives_before: int) -> timedelta:
    """Return how long the database may be unavailable before SQS moves a message with this many earlier receives.

    SQS dead-letters a message instead of the receive that would exceed maxReceiveCount, or when its retention ends. The
    first receive of the outage is at its start. After each receive the message is hidden for the time that the worker
    sets, of which this function uses the shortest possible value.
    """
    seconds = 0
    for receives in range(receives_before + 1, task.numbers.max_receive_count + 1):
        longest = growing_seconds(receives)
        seconds += longest if longest == UNAVAILABLE_LONGEST_SECONDS else int(longest * 0.9)
    return min(timedelta(seconds=seconds), QUEUE_RETENTION)


def test_the_database_may_be_unavailable_for_a_day_before_sqs_moves_a_message() -> None:
    from functions.data_export.handler import data_export
    from functions.system_user_expiry.handler import system_user_expiry
    from functions.tenant_initialize.handler import tenant_initialize
    from functions.user_invitation.handler import user_invitation
    from joblane.functions.jobs_sweep.handler import jobs_sweep

    hours: dict[str, float] = {}
    tasks = (data_export, jobs_sweep, system_user_expiry, tenant_initialize, user_invitation, sample_one, sample_batch)
    for task in tasks:
        # a message that is new, and one that has had every retry and snooze before
        spent = task.max_retry + SNOOZE_CEILING
        for receives_before in (0, spent):
            outage = longest_outage(task, receives_before)
            assert outage >= PROMISED_OUTAGE, f"{task.type} after {receives_before} receives: {outage}"
        hours[task.type] = longest_outage(task, spent) / timedelta(hours=1)
        # and SQS moves it to the dead-letter queue before its retention ends
        assert task.numbers.max_receive_count * task.numbers.visibility < QUEUE_RETENTION
    assert min(hours.values()) > 28


# --- A claim that takes too long -----------------------------------------------------------------------------------


SLOW = """
create function public.slow() returns trigger language plpgsql as $$ begin
  perform pg_sleep((new.payload ->> 'number')::float8 / 1000); return new; end $$;
create trigger slow before update of lease_token on joblane.tasks for each row
  when (new.state = 'active') execute function public.slow()
"""


@pytest.mark.parametrize(
    ("milliseconds", "kept", "claims"), [((250, 250, 250), "", 4), ((900, 10, 10), "a", 4), ((900, 900, 10), "abc", 3)]
)
def test_messages_whose_claim_takes_too_long_are_claimed_alone(
    milliseconds: tuple[int, ...], kept: str, claims: int, world: World
) -> None:
    # given rows that take long to claim, such as large ones
    world._observer.get().execute_simple(SLOW)
    for id_, number in zip("abc", milliseconds, strict=True):
        put(world, sample_batch, id_, {"number": number})
    watched, made = world.watch(), list[str]()

    def note(statement: str, send: Callable[[], Any]) -> Any:
        made.append(statement)
        return send()

    lane = world.lane(sample_batch)
    bodies = {id_: {"type": "sample:batch", "id": id_, "rec": True} for id_ in "abc"}
    records = [record(body, lane, message_id=id_, receives=4) for id_, body in bodies.items()]
    # when
    with HookedDatabase(world.url, note, limits=TimeLimits(connect=2, lock=1, statement=0.6)) as database:
        assert sorted(handle(Worker(sample_batch, database, world.sqs, PREFIX), *records)) == [*kept]
    # then
    assert sum(statement in CLAIMS for statement in made) == claims
    assert [world.row(id_)["runs"] for id_ in "abc"] == [int(id_ not in kept) for id_ in "abc"]
    assert all(108 <= seconds <= 120 for seconds in watched.visibilities)


def test_a_run_without_time_after_slow_claims_does_not_begin(world: World) -> None:
    """Its time limit would have passed, and an attempt would be spent."""
    world._observer.get().execute_simple(SLOW)
    for id_, number in (("a", 900), ("b", 10)):
        put(world, sample_batch, id_, {"number": number})
    lane = world.lane(sample_batch)
    records = [record({"type": "sample:batch", "id": id_, "rec": True}, lane, message_id=id_) for id_ in "ab"]
    with Database(world.url, limits=TimeLimits(connect=2, lock=1, statement=0.6)) as database:
        kept = handle(Worker(sample_batch, database, world.sqs, PREFIX), *records, seconds=2.5)
    assert (sorted(kept), [world.row(id_)["runs"] for id_ in "ab"]) == (["a", "b"], [0, 0])
