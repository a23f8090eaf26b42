"""Ten messages in one invocation: two statements for all of them, and one by one after an error of the finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from pg8000.core import READY_FOR_QUERY
from sqlalchemy import text

from joblane import TaskContext
from joblane.names import Queue, dead_letter_name, lane_name
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.sql_functions import VERSION
from joblane.record.task.claim import CLAIMS
from joblane.record.task.finish import FINISHES
from joblane.tasks.task import Task
from joblane.testing.faults import HookedDatabase, Send
from joblane.worker.run import Run
from tests.builders.events import record
from tests.builders.rows import In, active, archived, put
from tests.logs import lines
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World, handle

WaitUntil = Callable[[Callable[[], bool]], None]


class Wire(HookedDatabase):
    """Records the statements of a process, and counts its round trips: the server ends each answer with one message."""

    def __init__(self, url: str) -> None:
        super().__init__(url, self._note)
        self.statements: list[str] = []
        self.round_trips = 0
        self._counted: Connection | None = None

    def get(self) -> Connection:
        connection = super().get()
        if connection is not self._counted:
            self._counted = connection
            ready = connection.message_types[READY_FOR_QUERY]

            def count(data: bytes, context: Any) -> None:
                self.round_trips += 1
                ready(data, context)

            connection.message_types[READY_FOR_QUERY] = count
        return connection

    @property
    def claims_and_finishes(self) -> list[str]:
        return [statement for statement in self.statements if statement in ("claim", "finish")]

    def forget(self) -> None:
        self.statements.clear()
        self.round_trips = 0

    def _note(self, sql: str, send: Send) -> Any:
        self.statements.append("claim" if sql in CLAIMS else "finish" if sql in FINISHES else sql)
        return send()


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    """The world's connection, recorded."""
    world.run("create table effects (task_id text, what text)")
    world.database = watched = Wire(world.url)
    yield watched
    watched.drop()


def bodies(count: int = 10, do: str = "nothing", prefix: str = "it") -> list[dict[str, Any]]:
    payload = {"do": do, "number": 0}
    return [{"type": "sample:batch", "id": f"{prefix}-{n}", "payload": payload} for n in range(count)]


def states(world: World) -> dict[str, str]:
    return {row[0]: row[1] for row in world.run("select id, state from joblane.tasks order by id")}


def warm(world: World, wire: Wire) -> None:
    """Prepare the statements of the process."""
    world.deliver(sample_batch, *bodies(2, prefix="warm"))
    world.run("delete from joblane.tasks")
    wire.forget()


# --- Statements and round trips ------------------------------------------------------------------------------------


@behaviour
def fail_in_a_batch(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError


@behaviour
def ask_only(payload: Sample, ctx: TaskContext) -> bool:
    return ctx.session.in_transaction()


@pytest.mark.parametrize(
    ("task", "count", "do", "end"),
    [
        (sample_one, 1, "nothing", "completed"),
        (sample_batch, 1, "nothing", "completed"),
        (sample_batch, 10, "nothing", "completed"),
        (sample_batch, 10, "fail_in_a_batch", "retry"),
        (sample_batch, 3, "ask_only", "completed"),
    ],
)
def test_a_batch_is_claimed_in_one_statement_and_finished_in_one(
    world: World, wire: Wire, task: Task[Any, Any], count: int, do: str, end: str
) -> None:
    sent = [body | {"type": task.type} for body in bodies(count, do)]
    world.deliver(task, *(body | {"id": f"warm-{n}"} for n, body in enumerate(sent)))
    world.run("delete from joblane.tasks")
    wire.forget()

    kept = world.deliver(task, *sent)

    assert len(kept) == (count if end == "retry" else 0)
    assert (wire.statements, wire.round_trips) == (["claim", "finish"], 2)
    assert states(world) == {body["id"]: end for body in sent}


def test_handlers_that_touch_their_session_finish_in_their_own_transactions(world: World, wire: Wire) -> None:
    @behaviour
    def touch_every_other(payload: Sample, ctx: TaskContext) -> None:
        if int(ctx.task_id[-1]) % 2:
            ctx.session.execute(text("insert into effects values (:id, 'done')"), {"id": ctx.task_id})

    world.deliver(sample_batch, *bodies(2, "touch_every_other", prefix="warm"))
    world.run("delete from effects")
    wire.forget()

    assert world.deliver(sample_batch, *bodies(10, "touch_every_other")) == []

    assert wire.statements[0] == "claim"
    assert wire.statements[-1] == "finish"
    assert (wire.statements.count("claim"), wire.statements.count("finish")) == (1, 6)
    assert wire.statements.count("commit") == 5
    assert world.run("select task_id from effects order by 1") == [[f"it-{n}"] for n in (1, 3, 5, 7, 9)]
    assert set(states(world).values()) == {"completed"}


def test_a_commit_with_the_handlers_work_waits_only_for_a_row_that_is_locked(world: World, wire: Wire) -> None:
    world.run(f"alter function joblane.finish_one_{VERSION} set lock_timeout = '200ms'")  # instead of 5 s
    with Database(world.url) as holder:

        @behaviour
        def lock_now_and_then(payload: Sample, ctx: TaskContext) -> None:
            ctx.session.execute(text("insert into effects values (:id, 'done')"), {"id": ctx.task_id})
            if ctx.task_id == "it-1":
                hold(holder, "id = 'it-1'")

        assert len(world.deliver(sample_batch, *bodies(2, "lock_now_and_then"))) == 1
    assert world.run("select task_id from effects") == [["it-0"]]


def hold(holder: Database, condition: str) -> None:
    """Lock rows, as an operator's open transaction does."""
    holder.get().execute_simple(f"begin; select from joblane.tasks where {condition} for update")


# --- Neighbours ----------------------------------------------------------------------------------------------------


def test_a_failed_task_of_a_batch_costs_the_others_nothing(world: World, wire: Wire) -> None:
    @behaviour
    def fail_one(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("insert into effects values (:id, 'done')"), {"id": ctx.task_id})
        if ctx.task_id == "it-4":
            ctx.session.execute(text("select 1/0"))

    records = [record(body, world.lane(sample_batch)) for body in bodies(do="fail_one")]
    kept = handle(world.worker(sample_batch), *records)

    assert kept == [records[4]["messageId"]]
    assert states(world) == {f"it-{n}": "retry" if n == 4 else "completed" for n in range(10)}
    assert len(world.run("select * from effects")) == 9
    assert world.row("it-4")["attempts"] == 1


def test_every_message_of_a_batch_has_its_own_end(world: World, wire: Wire) -> None:
    # given a message for every row of the claim's table
    watched = world.watch()
    rows: dict[str, dict[str, Any]] = {
        "due": {},
        "later": {"state": "scheduled", "due_at": In(100)},
        "much-later": {"state": "scheduled", "due_at": In(5000)},
        "leased": active(50),
        "ended": {"state": "completed"},
        "without-dead-letter": archived(dead_sent_at=None, sweep_at=In(60)),
        "obsolete": archived(),
        "conflict": {"type": "sample:one"},
    }
    for id_, columns in rows.items():
        put(world, sample_batch, id_, **columns)
    payload = {"do": "nothing", "number": 0}
    messages = [{"type": "sample:batch", "id": id_, "rec": True, "payload": payload} for id_ in [*rows, "rolled-back"]]
    lane = world.lane(sample_batch)
    records = [record(body, lane) for body in messages] + [record("not JSON", lane)]

    # when they come together
    kept = handle(world.worker(sample_batch), *records)

    # then one statement has decided, and only what waits stays
    assert wire.statements[:2] == ["claim", "finish"]
    assert sorted(kept) == sorted(records[position]["messageId"] for position in (1, 3))
    assert sorted(watched.visibilities) == [pytest.approx(51, abs=2), pytest.approx(100, abs=2)]
    assert states(world) == {id_: columns.get("state", "pending") for id_, columns in rows.items()} | {
        "due": "completed"
    }
    reasons = [
        dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]
        for dead_letter in world.dead_letters(sample_batch)
    ]
    assert sorted(reason.split(":")[0] for reason in reasons) == ["IdConflict", "MessageError", "attempt 4 of 4 failed"]


def test_the_same_id_twice_in_one_batch_runs_once_and_the_copy_goes_back(world: World) -> None:
    watched = world.watch()
    ran: list[str] = []

    @behaviour
    def count_runs(payload: Sample, ctx: TaskContext) -> None:
        ran.append(ctx.task_id)

    once = bodies(3, "count_runs")
    records = [record(body, world.lane(sample_batch)) for body in [*once, once[1], once[1]]]
    kept = handle(world.worker(sample_batch), *records)

    assert sorted(kept) == sorted(one["messageId"] for one in records[3:])
    assert watched.visibilities == [0, 0]
    assert sorted(ran) == ["it-0", "it-1", "it-2"]
    assert handle(world.worker(sample_batch), *records[3:4]) == []
    assert sorted(ran) == ["it-0", "it-1", "it-2"]


def test_a_copy_with_another_payload_in_the_same_batch_becomes_a_dead_letter(world: World) -> None:
    first, second = bodies(1)[0], bodies(1)[0] | {"payload": {"do": "nothing", "number": 7}}
    (kept,) = [world.deliver(sample_batch, first, second)]

    assert len(kept) == 1
    assert world.deliver(sample_batch, second) == []
    (dead_letter,) = world.dead_letters(sample_batch)
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"].startswith("IdConflict")
    assert states(world) == {"it-0": "completed"}


def test_a_batch_from_another_lane_of_the_type_sends_its_dead_letters_to_that_lane(world: World) -> None:
    lane = lane_name(PREFIX, Queue.CRITICAL, "sample:batch")
    for queue in (lane, dead_letter_name(lane)):
        world.sqs.client.create_queue(QueueName=queue)
    put(world, sample_batch, "it-0", **archived(dead_sent_at=None))

    assert handle(world.worker(sample_batch), record(bodies(1)[0], lane)) == []

    assert len(world.received(dead_letter_name(lane))) == 1
    assert world.dead_letters(sample_batch) == []


# --- One row's statement fails -------------------------------------------------------------------------------------


def refuse(world: World, operation: str, condition: str, code: str = "P0001") -> None:
    """Make the database refuse a row, for an unexpected reason."""
    world.run(
        "create or replace function refuse() returns trigger language plpgsql as"
        f" $$begin if {condition} then raise exception 'refused' using errcode = '{code}'; end if; return new; end$$"
    )
    world.run(f"create trigger refuse before {operation} on joblane.tasks for each row execute function refuse()")


def test_a_claim_that_fails_for_one_messages_sake_is_repeated_one_by_one(world: World, wire: Wire) -> None:
    watched = world.watch()
    warm(world, wire)
    refuse(world, "insert or update", "new.id = 'it-3'")
    records = [record(body, world.lane(sample_batch), receives=2) for body in bodies()]

    with lines() as logged:
        kept = handle(world.worker(sample_batch), *records)

    assert kept == [records[3]["messageId"]]
    assert all(27 <= seconds <= 30 for seconds in watched.visibilities)
    assert wire.statements == ["claim", *["claim", "finish"] * 3, "claim", *["claim", "finish"] * 6]
    assert states(world) == {f"it-{n}": "completed" for n in range(10) if n != 3}
    (line,) = [line for line in logged.fields if line["message"].startswith("the claim failed")]
    assert (line["task_ids"], line["error"]) == (["it-3"], "refused (P0001)")
    assert "migrate" not in line["message"]


def test_after_a_refused_message_each_other_is_claimed_when_the_last_run_has_ended(world: World) -> None:
    others: list[str] = []

    @behaviour
    def list_active(payload: Sample, ctx: TaskContext) -> None:
        others.extend(row[0] for row in world.run("select id from joblane.tasks where state = 'active'"))

    refuse(world, "insert or update", "new.id = 'it-1'")
    assert len(world.deliver(sample_batch, *bodies(3, "list_active"))) == 1
    assert others == ["it-0", "it-2"]


def test_a_run_replaces_what_a_deleted_task_with_its_id_has_left(world: World) -> None:
    assert world.deliver(sample_batch, *bodies(2)) == []
    world.run("delete from joblane.tasks where id = 'it-1'")
    world.run("update joblane.task_attempts set started_at = now() - interval '1 hour'")
    assert world.deliver(sample_batch, *bodies(2)) == []
    assert states(world) == {"it-0": "completed", "it-1": "completed"}
    (attempt,) = world.run(
        "select outcome, started_at > now() - interval '1 minute' from joblane.runs where task_id = 'it-1'"
    )
    assert attempt == ["completed", True]


def test_an_attempt_starts_at_the_time_that_the_claim_decided_by(world: World) -> None:
    put(world, sample_batch, "it-0", bodies(1)[0]["payload"])
    refuse(world, "update", "pg_sleep(0.3)::text = 'late'")  # a claim that takes long
    world.deliver(sample_batch, *bodies(1))
    assert world.run(
        "select round(extract(epoch from a.started_at - t.due_at) * 1000) - a.wait_ms"
        "  from joblane.runs a join joblane.tasks t on t.id = a.task_id"
    ) == [[0]]


def test_a_message_that_the_database_cannot_hold_is_a_dead_letter_with_the_reason(world: World) -> None:
    refuse(world, "insert", "new.id = 'it-3'", code="22003")

    assert world.deliver(sample_batch, *bodies()) == []

    (dead_letter,) = world.dead_letters(sample_batch)
    assert '"id": "it-3"' in dead_letter["Body"]
    assert (
        "cannot store this message: refused (22003)"
        in dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]
    )
    assert len(states(world)) == 9


def test_a_finish_that_fails_for_one_rows_sake_is_repeated_one_by_one(world: World, wire: Wire) -> None:
    warm(world, wire)
    refuse(world, "update", "new.id = 'it-3' and new.state = 'completed'")
    records = [record(body, world.lane(sample_batch)) for body in bodies()]

    kept = handle(world.worker(sample_batch), *records)

    assert kept == [records[3]["messageId"]]
    assert wire.statements == ["claim"] + ["finish"] * 11
    assert states(world) == {f"it-{n}": "active" if n == 3 else "completed" for n in range(10)}
    # its run counts as lost once the lease is over
    world.run("drop trigger refuse on joblane.tasks")
    world.run("update joblane.tasks set lease_until = now() - interval '1 s' where state = 'active'")
    assert handle(world.worker(sample_batch), records[3]) == []
    assert states(world)["it-3"] == "completed"


def hold_at_the_end(holder: Database, condition: str) -> None:
    """Make the last handler of a batch lock rows."""

    @behaviour
    def hold_as_the_last(payload: Sample, ctx: TaskContext) -> None:
        if ctx.task_id == "it-9":
            hold(holder, condition)


@pytest.mark.parametrize("locked", [(2,), (2, 5, 7)])
def test_a_finish_waits_once_for_all_locked_rows_and_records_the_others(
    world: World, wire: Wire, locked: tuple[int, ...]
) -> None:
    watched = world.watch()
    # three waits of 2 s, instead of 5 s, exceed the statement's limit of 5.5 s
    world.run(f"alter function joblane.finish_{VERSION} set lock_timeout = '2s'")
    warm(world, wire)
    records = [record(body, world.lane(sample_batch), receives=2) for body in bodies(do="hold_as_the_last")]
    with Database(world.url) as holder, lines() as logged:
        hold_at_the_end(holder, "id in (" + ", ".join(f"'it-{n}'" for n in locked) + ")")
        kept = handle(world.worker(sample_batch), *records)
    assert kept == [records[n]["messageId"] for n in locked]
    assert wire.claims_and_finishes == ["claim", "finish", "finish"]
    assert states(world) == {f"it-{n}": "active" if n in locked else "completed" for n in range(10)}
    lost = [line for line in logged.fields if line["message"].startswith("the end of a run could not be recorded")]
    assert [(line["task_id"], line["attempt"], line["task_type"]) for line in lost] == [
        (f"it-{n}", 1, "sample:batch") for n in locked
    ]
    assert all("lock" in line["error"] for line in lost)
    assert all(27 <= seconds <= 30 for seconds in watched.visibilities)


def test_cancelled_tasks_with_locked_rows_cost_one_wait(world: World, wire: Wire) -> None:
    world.run(f"alter function joblane.finish_{VERSION} set lock_timeout = '1s'")  # ten of them exceed the margin
    with Database(world.url) as holder:

        @behaviour
        def cancel_and_hold(payload: Sample, ctx: TaskContext) -> None:
            if ctx.task_id == "it-9":
                holder.get().run("update joblane.tasks set cancel_requested_at = now()")
                hold(holder, "true")

        assert len(world.deliver(sample_batch, *bodies(do="cancel_and_hold"))) == 10
    assert wire.claims_and_finishes == ["claim", "finish", "finish", "finish"]
    assert set(states(world).values()) == {"active"}


def test_a_finish_takes_a_row_that_becomes_free_while_it_waits(world: World, wait_until: WaitUntil) -> None:
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with Database(world.url) as holder, Database(world.url) as observer, ThreadPoolExecutor() as pool:
        hold_at_the_end(holder, "id in ('it-0', 'it-9')")

        def release() -> None:
            wait_until(lambda: observer.get().run(waiting) == [[1]])
            holder.get().execute_simple("commit")

        released = pool.submit(release)
        assert world.deliver(sample_batch, *bodies(do="hold_as_the_last")) == []
        released.result()
    assert set(states(world).values()) == {"completed"}


def test_a_finish_that_the_database_rolls_back_is_repeated_once(world: World, wire: Wire) -> None:
    world.run("create sequence tries")
    warm(world, wire)
    refuse(world, "update", "new.state = 'completed' and nextval('tries') = 1", code="40001")
    assert handle(world.worker(sample_batch), record(bodies(1)[0], world.lane(sample_batch))) == []
    assert wire.statements == ["claim", "finish", "finish"]
    assert states(world) == {"it-0": "completed"}


def test_a_row_that_stays_locked_is_logged_from_the_second_delivery_on(world: World) -> None:
    put(world, sample_batch, "it-0", {"do": "nothing"})
    with world.locked("it-0"), lines() as logged:
        for receives in (1, 2):
            handle(world.worker(sample_batch), record(bodies(1)[0], world.lane(sample_batch), receives=receives))
    assert [line["task_id"] for line in logged.fields if "locked by another transaction" in line["message"]] == ["it-0"]


def test_a_claim_never_joins_a_transaction_that_was_left_open(world: World, wire: Wire) -> None:
    """A transaction that a handler left open on the raw connection is dropped, not committed with the next claim."""

    @behaviour
    def leave_open(payload: Sample, ctx: TaskContext) -> None:
        ctx.connection().execute_simple("begin")
        ctx.connection().run("insert into effects values ($1, 'never')", ctx.task_id)
        raise ValueError

    world.deliver(sample_batch, *bodies(1, "leave_open"))
    assert world.deliver(sample_batch, *bodies(2, prefix="next")) == []
    assert states(world)["next-0"] == "completed"
    assert world.run("select * from effects") == []


@pytest.mark.parametrize("session", ["unused", "made", "has committed"])
def test_a_handler_that_leaves_a_transaction_open_and_returns_has_failed(
    world: World, wire: Wire, session: str
) -> None:
    """Otherwise its end would be written into that transaction, and its message deleted before the commit."""

    @behaviour
    def leave_open_and_return(payload: Sample, ctx: TaskContext) -> None:
        if session == "made":
            assert not ctx.session.in_transaction()
        for _ in ctx.each(["a"] if session == "has committed" else []):
            ctx.session.execute(text("select 1"))
        ctx.connection().execute_simple("begin")
        ctx.connection().run("insert into effects values ($1, 'never')", ctx.task_id)

    assert len(world.deliver(sample_batch, *bodies(1, "leave_open_and_return"))) == 1

    assert (states(world), world.run("select * from effects")) == ({"it-0": "retry"}, [])
    assert "ctx.session" in world.row("it-0")["error_message"]


# --- lost in a batch -----------------------------------------------------------------------------------------------


class Died(BaseException):
    """The end of the process."""


def lose(world: World, *records: dict[str, Any]) -> None:
    """Claim a batch in a process that is killed right after it, and let the leases end."""
    with patch.object(Run, "execute", side_effect=Died), pytest.raises(Died):
        handle(world.worker(sample_batch), *records)
    world.run("update joblane.tasks set lease_until = now() - interval '1 s' where state = 'active'")


def lose_batch(world: World, count: int) -> list[dict[str, Any]]:
    """Lose a batch of new tasks. Return its messages."""
    records = [record(body, world.lane(sample_batch)) for body in bodies(count)]
    lose(world, *records)
    return records


def test_a_run_lost_in_a_batch_is_not_counted_and_the_next_claim_is_alone(world: World, wire: Wire) -> None:
    records = lose_batch(world, 3)
    assert world.run("select distinct state, attempts, batch_size from joblane.tasks") == [["active", 1, 3]]
    wire.forget()

    assert handle(world.worker(sample_batch), *records) == []

    # one claim for all of them, and then one claim for each
    assert wire.statements == ["claim", *["claim", "finish"] * 3]
    rows = world.run("select distinct state, attempts, runs, claim_alone from joblane.tasks")
    assert rows == [["completed", 1, 2, False]]
    outcomes = world.run("select outcome, count(*)::int from joblane.runs group by 1 order by 1")
    assert outcomes == [["completed", 3], ["lost", 3]]


def test_a_task_lost_in_a_batch_that_returns_alone_runs_and_its_next_loss_counts(world: World) -> None:
    first, _ = lose_batch(world, 2)
    lose(world, first)
    row = world.row("it-0")
    assert (row["state"], row["attempts"], row["runs"], row["claim_alone"]) == ("active", 1, 2, True)

    assert handle(world.worker(sample_batch), first) == []
    assert (world.row("it-0")["attempts"], world.row("it-0")["runs"]) == (2, 3)


def test_a_run_lost_in_a_batch_does_not_archive_a_task_at_its_last_attempt(world: World) -> None:
    for body in bodies(2):
        put(world, sample_batch, body["id"], body["payload"], state="retry", attempts=3, runs=3)
    records = lose_batch(world, 2)
    assert world.run("select distinct attempts from joblane.tasks") == [[4]]
    assert handle(world.worker(sample_batch), *records) == []
    assert world.run("select distinct state, attempts from joblane.tasks") == [["completed", 4]]


def test_a_paused_task_to_claim_alone_waits_and_stays_so(world: World) -> None:
    records = lose_batch(world, 2)
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:batch')")
    for attempts in (0, 1):
        assert handle(world.worker(sample_batch), *records) == []
        rows = world.run("select distinct state, attempts, claim_alone from joblane.tasks")
        assert rows == [["completed" if attempts else "pending", attempts, not attempts]]
        world.run("delete from joblane.pauses")
