"""The sweep replaces missing messages. It works in batches, can run twice at once, and can be killed."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from joblane.enqueue.wake import wake
from joblane.limits import DEAD_LETTER_RETENTION, QUEUE_RETENTION
from joblane.maintenance.expiry import BATCH, EXPIRE
from joblane.maintenance.sweep import MARK_SWEPT, Swept, sweep
from joblane.record.connection import Connection
from joblane.record.database import Database
from joblane.record.insert import INSERT, MARK_SENT
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from tests.builders.rows import In, active, archived, put
from tests.samples import Sample, sample_one
from tests.sends import Sends
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
DAY = 86_400.0
KEPT = (QUEUE_RETENTION + DEAD_LETTER_RETENTION).total_seconds()


@pytest.fixture
def sends(world: World) -> Sends:
    world.lane(sample_one)
    return Sends.of(world.sqs)


def swept(world: World) -> Swept:
    return sweep(world.database.get(), world.sqs, PREFIX)


def overdue(id_: str, world: World, **columns: Any) -> str:
    """Write a row that is due for the sweep."""
    put(world, sample_one, id_, **({"sweep_at": In(-1)} | columns))
    return id_


def fill(world: World, count: int, columns: str = "sweep_at", values: str = "now() - interval '1 s'") -> None:
    """Write many rows, with unordered ids."""
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, "
        f"{columns}) select md5(n::text), 'sample:one', 'default', 'pending', '{{}}', '', 4, 60, {values} "
        f"from generate_series(1, {count}) n"
    )


def until(world: World, id_: str, column: str = "sweep_at") -> float:
    sql = f"select extract(epoch from {column} - clock_timestamp())::float8 from joblane.tasks where id = $1"
    return float(world.run(sql, id_)[0][0])


def sent(sends: Sends) -> list[str]:
    return sorted(str(decode(entry["MessageBody"]).id) for entry in sends.to(LANE))


# --- Sending -------------------------------------------------------------------------------------------------------


def test_a_row_that_was_never_sent_is_sent(world: World, sends: Sends) -> None:
    overdue("mine", world, tenant="acme", headers={"traceparent": "t"}, schema="s", payload={"number": 7})
    assert swept(world) == Swept(sent=1)
    (entry,) = sends.to(LANE)
    message = decode(entry["MessageBody"])
    assert (message.id, message.type, message.rec, message.schema) == ("mine", "sample:one", True, "s")
    assert message.headers == {"traceparent": "t"}
    assert entry["MessageGroupId"] == "acme"
    assert world.row("mine")["sent_at"] is not None
    assert world.deliver(sample_one, entry["MessageBody"]) == []
    assert world.row("mine")["state"] == "completed"


def test_a_row_goes_to_the_lane_of_its_queue(world: World, sends: Sends) -> None:
    world.sqs.client.create_queue(QueueName="jobs-critical-sample-one")
    overdue("mine", world, queue="critical")
    assert swept(world).sent == 1
    assert len(sends.to("jobs-critical-sample-one")) == 1


def test_a_sweep_without_due_rows_does_nothing(world: World, sends: Sends) -> None:
    for number, state in enumerate(("completed", "cancelled", "archived")):
        put(world, sample_one, f"ended-{number}", state=state, sweep_at=In(-1) if state != "archived" else None)
    put(world, sample_one, "later", sweep_at=In(60))
    put(world, sample_one, "running", **active(30))
    assert swept(world) == Swept()
    assert sends.requests == 0


@pytest.mark.parametrize("state", ["scheduled", "pending", "retry"])
def test_a_row_due_within_15_minutes_is_sent_with_the_rest_of_its_delay(world: World, sends: Sends, state: str) -> None:
    for seconds in (-100, 1.6, 30, 600, 899.9):
        overdue(f"in-{seconds}", world, state=state, due_at=In(seconds))
    put(world, sample_one, "later", state=state, due_at=In(910), sweep_at=In(10))
    assert swept(world).sent == 5
    delays = {decode(entry["MessageBody"]).id: entry.get("DelaySeconds", 0) for entry in sends.to(LANE)}
    assert delays["in--100"] == 0
    for seconds in (1.6, 30, 600, 899.9):
        assert seconds - 2 <= delays[f"in-{seconds}"] <= seconds + 0.6
    for seconds in (30, 600):
        assert 58 < until(world, f"in-{seconds}") - seconds < 61, "looked at again a minute after it is due"


def test_an_unclaimed_overdue_row_is_sent_again_at_doubling_intervals(world: World, sends: Sends) -> None:
    overdue("mine", world)
    intervals = []
    for _ in range(12):
        assert swept(world).sent == 1
        intervals.append(round(until(world, "mine") / 60))
        world.run("update joblane.tasks set sweep_at = now()")
    assert intervals == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]
    assert world.row("mine")["sends"] == 12
    world.run("update joblane.tasks set sends = 2000000000, sweep_at = now()")
    assert swept(world).sent == 1


def test_a_lost_lease_is_sent_and_run_again(world: World, sends: Sends) -> None:
    put(world, sample_one, "lost", **active(-20))
    put(world, sample_one, "held", **active(20, sweep_at=In(-1)))
    assert swept(world).sent == 2
    bodies = {decode(entry["MessageBody"]).id: entry["MessageBody"] for entry in sends.to(LANE)}
    assert world.deliver(sample_one, bodies["lost"]) == []
    assert (world.row("lost")["state"], world.row("lost")["attempts"]) == ("completed", 2)
    assert len(world.deliver(sample_one, bodies["held"])) == 1


def test_a_row_that_is_claimed_during_the_sweep_keeps_the_times_of_its_run(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue("mine", world)
    real = world.sqs.send_many

    def claimed_first(entries: Sequence[Entry]) -> dict[int, str]:
        world.run(
            "update joblane.tasks set state = 'retry', attempts = 1, due_at = now() + interval '3 h', sent_at = null,"
            " sweep_at = now() + interval '2 h 45 min'"
        )
        return real(entries)

    monkeypatch.setattr(world.sqs, "send_many", claimed_first)
    swept(world)
    assert 9800 < until(world, "mine") <= 9900, "it is sent in the quarter of an hour before it is due"
    assert world.row("mine")["sent_at"] is None


def test_paused_rows_are_not_sent_until_the_pause_ends(world: World, sends: Sends) -> None:
    overdue("by-type", world)
    overdue("by-tenant", world, type="sample:batch", tenant="acme")
    overdue("by-queue", world, type="sample:batch", queue="low")
    for scope, name in (("type", "sample:one"), ("tenant", "acme"), ("queue", "low")):
        world.run("insert into joblane.pauses (scope, name) values ($1, $2)", scope, name)
    assert swept(world) == Swept(paused=3)
    assert sends.messages == []
    world.run("update joblane.pauses set until = now() - interval '1 s'")
    assert swept(world) == Swept(), "they are looked at again in a minute"
    world.run("update joblane.tasks set sweep_at = now() where id = 'by-type'")
    assert swept(world) == Swept(sent=1)


def test_the_sweep_does_not_read_payloads_into_memory(world: World, sends: Sends) -> None:
    """A row may be far larger than a message, and 500 of these rows do not fit into the memory of a small function."""
    for number in range(30):
        overdue(f"big-{number}", world)
    world.run("update joblane.tasks set payload = jsonb_build_object('do', repeat('x', 2000000))")
    swept(world)
    world.run("update joblane.tasks set sweep_at = now()")
    tracemalloc.start()
    assert swept(world).sent == 30
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# --- Dead letters --------------------------------------------------------------------------------------------------


def test_an_archived_row_without_a_dead_letter_gets_a_dead_letter_and_is_marked(world: World, sends: Sends) -> None:
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1), generation=2), payload={"number": 7})
    assert swept(world) == Swept(dead_letters=1)
    (dead_letter,) = world.dead_letters(sample_one)
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"] == "attempt 4 of 4 failed"
    assert dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"] == "2"
    assert decode(dead_letter["Body"]).payload == {"number": 7}
    row = world.row("dead")
    assert row["dead_sent_at"] is not None
    assert row["sweep_at"] is None
    assert swept(world) == Swept()


def test_the_dead_letter_of_a_row_too_large_for_a_message_has_no_payload(world: World, sends: Sends) -> None:
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1), reason=None))
    world.run("update joblane.tasks set payload = jsonb_build_object('do', repeat('x', 1048500))")
    assert swept(world).dead_letters == 1
    (dead_letter,) = world.dead_letters(sample_one)
    assert decode(dead_letter["Body"]).payload is None
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"] == "archived"


def test_a_dead_letter_of_an_earlier_generation_does_not_mark_the_next(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    real = world.sqs.send_many

    def revived_first(entries: Sequence[Entry]) -> dict[int, str]:
        world.run("update joblane.tasks set generation = 1")
        return real(entries)

    monkeypatch.setattr(world.sqs, "send_many", revived_first)
    swept(world)
    assert world.row("dead")["dead_sent_at"] is None


# --- Expiry --------------------------------------------------------------------------------------------------------


def expiring(world: World, id_: str, **columns: Any) -> None:
    """Write a row that has ended, with a result, an attempt and an item."""
    ended = {"state": "completed", "finished_at": In(-DAY), "expire_at": In(-1), "sweep_at": None, "result": {"n": 1}}
    all_columns: dict[str, Any] = ended | columns
    put(world, sample_one, id_, **all_columns)
    world.run("insert into joblane.task_attempts (task_id, run, attempt, generation) values ($1, 1, 1, 0)", id_)
    world.run("insert into joblane.task_items (task_id, key) values ($1, 'a')", id_)


@pytest.mark.parametrize("state", ["completed", "cancelled", "archived"])
def test_content_is_cleared_after_retention_and_the_id_is_kept(world: World, sends: Sends, state: str) -> None:
    expiring(world, "mine", state=state, headers={"a": "b"})
    assert swept(world) == Swept(cleared=1)
    row = world.row("mine")
    assert (row["payload"], row["result"], row["headers"], row["cleared"]) == (None, None, {}, True)
    assert abs(until(world, "mine", "expire_at") - (KEPT - DAY)) < 5
    assert world.run("select count(*) from joblane.task_attempts") == [[1]]
    assert swept(world) == Swept()


def test_a_row_is_deleted_with_its_attempts_and_items_after_its_messages(world: World, sends: Sends) -> None:
    expiring(world, "old", cleared=True, finished_at=In(-KEPT - 60))
    expiring(world, "young", cleared=True, finished_at=In(-KEPT + 60), expire_at=In(60))
    assert swept(world) == Swept(removed=1)
    for table, column in (("tasks", "id"), ("task_attempts", "task_id"), ("task_items", "task_id")):
        assert world.run(f"select {column} from joblane.{table}") == [["young"]]


def test_after_a_long_retention_the_row_is_deleted_with_its_content(world: World, sends: Sends) -> None:
    expiring(world, "mine", finished_at=In(-100 * DAY))
    assert swept(world) == Swept(cleared=1)
    assert swept(world) == Swept(removed=1)


def test_a_live_row_never_expires(world: World, sends: Sends) -> None:
    for state in ("scheduled", "pending", "retry"):
        expiring(world, state, state=state, expire_at=In(-DAY), finished_at=None)
    put(world, sample_one, "running", **active(60, expire_at=In(-DAY)))
    assert swept(world) == Swept()


def test_the_content_of_a_task_is_kept_for_its_retention(world: World, sends: Sends) -> None:
    world.client._sqs = world.sqs
    id_ = world.client.enqueue(sample_one, Sample()).id
    world.deliver(sample_one, sends.to(LANE)[0]["MessageBody"])
    assert abs(until(world, id_, "expire_at") - DAY) < 5


# --- Bounds and faults ---------------------------------------------------------------------------------------------


def test_2000_rows_are_sent_in_batches_of_limited_size(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, 2000)
    sizes = []

    def send(entries: Sequence[Entry]) -> dict[int, str]:
        sizes.append(len(entries))
        return {}

    monkeypatch.setattr(world.sqs, "send_many", send)
    assert swept(world).sent == 2000
    assert sizes == [BATCH] * 4
    assert world.run("select count(*) from joblane.tasks where sent_at is null") == [[0]]


def test_the_oldest_rows_are_sent_first(world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 600, values="now() - n * interval '1 s'")
    left = [True, False]
    sweep(world.database.get(), world.sqs, PREFIX, may_continue=lambda: left.pop(0) if left else False)
    assert world.run("select count(*) from joblane.tasks where sent_at is null") == [[600 - BATCH]]
    late = "select count(*) from joblane.tasks where sent_at is null and sweep_at < now() - interval '110 s'"
    assert world.run(late) == [[0]]


def test_a_sweep_out_of_time_stops_between_batches(world: World, sends: Sends) -> None:
    fill(world, 600)
    assert sweep(world.database.get(), world.sqs, PREFIX, may_continue=lambda: False) == Swept()
    left = [True, False]
    assert (
        sweep(world.database.get(), world.sqs, PREFIX, may_continue=lambda: left.pop(0) if left else False).sent
        == BATCH
    )


def test_many_rows_expire_in_batches_of_limited_size(world: World, sends: Sends) -> None:
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, "
        "retention_seconds, expire_at,"
        " finished_at) select md5(n::text), 'sample:one', 'default', 'completed', '{}', '', 4, 60, now(), now()"
        " from generate_series(1, 1200) n"
    )
    assert swept(world).cleared == 1200


def test_rows_whose_messages_sqs_refuses_are_left_for_the_next_sweep(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue("mine", world)
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    expiring(world, "old")
    with monkeypatch.context() as patch:
        patch.setattr(world.sqs, "send_many", lambda entries: dict.fromkeys(range(len(entries)), "away"))
        assert swept(world) == Swept(unsent=2, cleared=1)
    assert (world.row("mine")["sent_at"], world.row("dead")["dead_sent_at"]) == (None, None)
    assert 50 < until(world, "mine") <= 60
    world.run("update joblane.tasks set sweep_at = now() where sweep_at is not null")
    assert swept(world) == Swept(sent=1, dead_letters=1)


def test_a_sweep_ends_soon_if_sqs_is_unavailable(world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 3 * BATCH)
    monkeypatch.setattr(world.sqs, "send_many", lambda entries: dict.fromkeys(range(len(entries)), "away"))
    assert swept(world).unsent == BATCH


def test_rows_of_a_deleted_lane_do_not_delay_other_rows(world: World, sends: Sends) -> None:
    fill(world, 2 * BATCH, values="now() - interval '1 s'")
    world.run(
        "update joblane.tasks set type = 'old:gone', sweep_at = now() - interval '1 h'"
        " where id in (select id from joblane.tasks order by id limit 20)"
    )
    assert swept(world).sent == 2 * BATCH - 20
    assert world.run("select count(*) from joblane.tasks where sent_at is null") == [[20]]


def test_a_sweep_killed_before_its_sends_is_repeated_a_minute_later(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Death

    overdue("mine", world)
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    with monkeypatch.context() as patch:
        patch.setattr(world.sqs, "send_many", die)
        with pytest.raises(Death):
            swept(world)
    assert swept(world) == Swept()
    for id_ in ("mine", "dead"):
        assert 50 < until(world, id_) <= 60
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    assert swept(world) == Swept(sent=1, dead_letters=1)


def test_a_sweep_killed_between_send_and_mark_is_repeated(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue("mine", world)
    real = Connection.run

    def run(self: Connection, sql: str, *parameters: Any) -> Any:
        if sql == MARK_SWEPT:
            raise ConnectionResetError
        return real(self, sql, *parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "run", run)
        with pytest.raises(ConnectionResetError):
            swept(world)
    world.run("update joblane.tasks set sweep_at = now()")
    assert swept(world).sent == 1
    assert sent(sends) == ["mine", "mine"]
    for entry in sends.to(LANE):
        world.deliver(sample_one, entry["MessageBody"])
    assert world.row("mine")["runs"] == 1


# --- Concurrent sweeps ---------------------------------------------------------------------------------------------


def test_two_concurrent_sweeps_share_the_rows_and_send_each_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 2000)
    bodies: list[str] = []
    lock = threading.Lock()

    def send(entries: Sequence[Entry]) -> dict[int, str]:
        time.sleep(0.01)
        with lock:
            bodies.extend(entry.body for entry in entries)
        return {}

    monkeypatch.setattr(world.sqs, "send_many", send)
    done: list[Any] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        database = Database(world.url)
        barrier.wait()
        try:
            done.append(sweep(database.get(), world.sqs, PREFIX))
        except Exception as error:
            done.append(error)
        finally:
            database.drop()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(one.sent for one in done) == 2000
    assert len(bodies) == len(set(bodies)) == 2000
    assert all(one.sent > 0 for one in done)


def test_concurrent_marks_of_the_same_rows_do_not_deadlock(world: World) -> None:
    fill(world, 300)
    ids = [row[0] for row in world.run("select id from joblane.tasks")]
    taken = dict(world.run("select id, sweep_at::text from joblane.tasks"))
    failures: list[Exception] = []

    def repeat(sql: str, *parameters: str) -> None:
        database = Database(world.url)
        try:
            for _ in range(25):
                database.get().run(sql, *parameters)
        except Exception as error:
            failures.append(error)
        finally:
            database.drop()

    forward = json.dumps([{"id": id_, "taken": taken[id_]} for id_ in ids])
    backward = json.dumps([{"id": id_, "taken": taken[id_]} for id_ in reversed(ids)])
    ordered = (
        "update joblane.tasks t set runs = runs + 1"
        " from (select id from joblane.tasks order by id for no key update) s where t.id = s.id"
    )
    threads = [
        threading.Thread(target=repeat, args=args)
        for args in (
            (MARK_SWEPT, forward),
            (MARK_SWEPT, backward),
            (MARK_SENT, json.dumps(ids)),
            (MARK_SENT, json.dumps(ids[::-1])),
            (ordered,),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


# --- Plans ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(world: World) -> World:
    """A world with 100,000 waiting rows and 100,000 ended rows, of which few are due."""
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, "
        "retention_seconds, due_at,"
        " sweep_at, finished_at, expire_at)"
        " select md5(n::text), 'sample:one', 'default', case when waits then 'scheduled' else 'completed' end, '{}',"
        " '', 4, 60, now() + interval '1 day', case when waits then at end, case when not waits then now() end,"
        " case when not waits then at end"
        " from (select n, n % 2 = 0 as waits, now() + n * interval '1 s' - interval '20 s' as at"
        " from generate_series(1, 100000) n) s"
    )
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation) select id, 1, 1, 0 from joblane.tasks"
    )
    world._observer.get().execute_simple("vacuum analyze joblane.tasks, joblane.task_attempts")
    return world


def plan(world: World, sql: str, *parameters: str) -> str:
    """Return the plan of an executed statement with its row counts, and roll the statement back."""
    connection = world._observer.get()
    connection.execute_simple("begin")
    try:
        return "\n".join(row[0] for row in connection.run("explain (analyze, buffers, costs off) " + sql, *parameters))
    finally:
        connection.rollback()


def test_statements_on_a_large_table_read_only_the_rows_they_need(large: World) -> None:
    ids = [row[0] for row in large.run("select id from joblane.tasks where state = 'scheduled' limit 50")]
    taken = [{"id": id_, "taken": "2026-01-01"} for id_ in ids]
    row = {"id": "new", "type": "a:b", "queue": "low", "payload_digest": "", "max_attempts": 1, "retention_seconds": 1}
    for name, sql, parameters in (
        ("swept", MARK_SWEPT, (json.dumps(taken),)),
        ("expire", EXPIRE, ()),
        ("mark sent", MARK_SENT, (json.dumps(ids),)),
        ("insert", INSERT, (json.dumps([row]),)),
    ):
        found = plan(large, sql, *parameters)
        assert "Seq Scan on tasks" not in found, f"{name}:\n{found}"
        removed = [int(line.rpartition(":")[2]) for line in found.splitlines() if "Rows Removed by" in line]
        assert max(removed, default=0) < 1000, f"{name} looks at rows that it does not want:\n{found}"


# --- Waking --------------------------------------------------------------------------------------------------------


def test_each_wake_of_the_sweep_is_a_new_task(world: World) -> None:
    name = "jobs-low-jobs-sweep"
    world.sqs.client.create_queue(QueueName=name)
    watched = Sends.of(world.sqs)
    for _ in range(2):
        wake(world.sqs, PREFIX)
    messages = [decode(entry["MessageBody"]) for entry in watched.to(name)]
    assert len({message.id for message in messages}) == 2
    assert {(message.type, message.rec) for message in messages} == {("jobs:sweep", False)}


def test_a_failed_wake_of_the_sweep_is_ignored(world: World) -> None:
    wake(world.sqs, PREFIX)


def test_the_task_of_the_sweep_sweeps(world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    from joblane.functions.jobs_sweep import handler

    monkeypatch.setattr(handler, "Sqs", lambda: world.sqs)
    monkeypatch.delenv("JOBLANE_PREFIX", raising=False)
    overdue("mine", world)
    kept = world.deliver(handler.jobs_sweep, {"type": "jobs:sweep", "id": "tick"}, seconds=240)
    assert kept == []
    assert world.row("tick")["state"] == "completed"
    assert world.row("tick")["result"]["sent"] == 1
    assert sent(sends) == ["mine"]


def test_a_row_cancelled_by_a_plain_update_expires_like_any_other(world: World) -> None:
    # given a task that was cancelled by an update of its state only
    world.lane(sample_one)
    id_ = world.client.enqueue(sample_one, Sample(), process_in=timedelta(hours=3)).id
    world.run("update joblane.tasks set state = 'cancelled' where id = $1", id_)
    # when the sweep reads the row at the time at which its message is due
    world.later(id_)
    sweep(world.database.get(), world.sqs, "jobs")
    # then the row has an end and an expiry, and no message was sent
    row = world.row(id_)
    assert row["finished_at"] is not None
    assert row["expire_at"] is not None
    assert row["sweep_at"] is None
    assert world.received(world.lane(sample_one)) == []


def test_rows_of_a_removed_type_delay_no_others_and_are_swept_ever_more_rarely(world: World) -> None:
    world.lane(sample_one)
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, sweep_at)"
        " select 'gone-' || n, 'gone:type', 'default', 'pending', '', 1, 1, now() - interval '1 hour'"
        f" from generate_series(1, {BATCH + 100}) as n"
    )
    put(world, sample_one, "good")
    world.run("update joblane.tasks set sweep_at = now() where id = 'good'")
    swept = sweep(world.database.get(), world.sqs, PREFIX)
    assert (swept.sent, swept.unsent) == (1, BATCH + 100)
    assert world.row("gone-1")["sends"] == 1
    assert world.row("gone-1")["sent_at"] is None
