"""The sweep replaces missing messages. It works in batches, can run twice at once, and can be killed."""

from __future__ import annotations

import json
import re
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from joblane.quotas import DEAD_LETTER_RETENTION, QUEUE_RETENTION
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.task.dead_letters import MARK_DEAD_SENT
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import decode
from joblane.sweep import unsent_dead_letters
from joblane.sweep.expiry import BATCH, EXPIRE, FIND, TIDY
from joblane.sweep.messages import TAKE
from joblane.sweep.next_sweep import TIMES, NextSweep
from joblane.sweep.sends import GIVE_BACK
from joblane.sweep.sweep import Swept, sweep
from joblane.sweep.walk import PLANNING, READ, Walk
from tests.builders.rows import In, active, archived, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_one
from tests.sends import Sends
from tests.stories import SOME, Between, Story, deliver, enqueue, lane, play, row, sql, step, stories
from tests.stories import sent as sent_to
from tests.stories import sweep as sweep_once
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
DAY = 86_400.0
KEPT = (QUEUE_RETENTION + DEAD_LETTER_RETENTION).total_seconds()


@pytest.fixture
def sends(world: World) -> Sends:
    world.lane(sample_one)
    return Sends.of(world.sqs)


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
    assert world.sweep() == Swept(sent=1)
    (entry,) = sends.to(LANE)
    message = decode(entry["MessageBody"])
    assert (message.id, message.type, message.rec, message.schema) == ("mine", "sample:one", True, "s")
    assert message.headers == {"traceparent": "t"}
    assert entry["MessageGroupId"] == "acme"
    assert world.row("mine")["sends"] == 1
    assert world.deliver(sample_one, entry["MessageBody"]) == []
    assert world.row("mine")["state"] == "completed"


@pytest.mark.parametrize("state", ["scheduled", "pending", "retry"])
def test_a_row_due_within_15_minutes_is_sent_with_the_rest_of_its_delay(world: World, sends: Sends, state: str) -> None:
    for seconds in (-100, 1.6, 30, 600, 899.9):
        overdue(f"in-{seconds}", world, state=state, due_at=In(seconds))
    put(world, sample_one, "later", state=state, due_at=In(910), sweep_at=In(10))
    assert world.sweep().sent == 5
    delays = {decode(entry["MessageBody"]).id: entry.get("DelaySeconds", 0) for entry in sends.to(LANE)}
    assert delays["in--100"] == 0
    for seconds in (1.6, 30, 600, 899.9):
        assert seconds - 2 <= delays[f"in-{seconds}"] <= seconds + 0.6
    for seconds in (30, 600):
        assert 58 < until(world, f"in-{seconds}") - seconds < 61, "looked at again a minute after it is due"


def test_a_row_that_is_claimed_during_the_sweep_keeps_the_times_of_its_run(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue("mine", world)
    real = world.sqs.send_many

    def claimed_first(entries: Sequence[Entry]) -> dict[int, str]:
        world.run(
            "update joblane.tasks set state = 'retry', attempts = 1, due_at = now() + interval '3 h',"
            " sweep_at = now() + interval '2 h 45 min'"
        )
        return real(entries)

    monkeypatch.setattr(world.sqs, "send_many", claimed_first)
    world.sweep()
    assert 9800 < until(world, "mine") <= 9900, "it is sent in the quarter of an hour before it is due"


def test_the_sweep_does_not_read_payloads_into_memory(world: World, sends: Sends) -> None:
    """A row may be far larger than a message, and 500 of these rows do not fit into the memory of a small function."""
    for number in range(30):
        overdue(f"big-{number}", world)
    world.run("update joblane.tasks set payload = jsonb_build_object('do', repeat('x', 2000000))")
    world.sweep()
    world.run("update joblane.tasks set sweep_at = due_at - interval '1 s'")
    tracemalloc.start()
    assert world.sweep().sent == 30
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# --- Dead letters --------------------------------------------------------------------------------------------------


def test_a_successor_whose_message_sqs_refuses_is_left_for_the_next_sweep(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    alert = {"type": "sample:two", "queue": "default", "max_attempts": 1, "retention_seconds": 60}
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)), on_archived=alert)
    send_many = world.sqs.send_many

    def refusing(entries: Sequence[Entry]) -> dict[int, str]:
        return {0: "away"} if ":archived:" in str(decode(entries[0].body).id) else send_many(entries)

    monkeypatch.setattr(world.sqs, "send_many", refusing)
    following = NextSweep()
    sweep(world.database.get(), world.sqs, PREFIX, following=following)
    assert world.row("dead:archived:0")["state"] == "pending"
    assert following.at == 0


def test_a_dead_letter_of_an_earlier_generation_does_not_mark_the_next(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    real = world.sqs.send_many

    def revived_first(entries: Sequence[Entry]) -> dict[int, str]:
        world.run("update joblane.tasks set generation = 1")
        return real(entries)

    monkeypatch.setattr(world.sqs, "send_many", revived_first)
    world.sweep()
    assert world.row("dead")["dead_sent_at"] is None


# --- Rows, and what a sweep does with them -------------------------------------------------------------------------


@step
def expiring(world: World, /, id_: str, **columns: Any) -> None:
    """Write a row that has ended, with a result, an attempt, an item, a step, a wait and a signal."""
    ended = {"state": "completed", "finished_at": In(-DAY), "expire_at": In(-1), "sweep_at": None, "result": {"n": 1}}
    all_columns: dict[str, Any] = ended | columns
    put(world, sample_one, id_, **all_columns)
    world.run("insert into joblane.task_attempts (task_id, run, attempt, generation) values ($1, 1, 1, 0)", id_)
    world.run("insert into joblane.task_items (task_id, key) values ($1, 'a')", id_)
    world.run("insert into joblane.task_steps (task_id, name, value) values ($1, 'a', '1')", id_)
    world.run("insert into joblane.task_waits (task_id, name, until, run) values ($1, 'a', now(), 1)", id_)
    world.run("insert into joblane.task_signals (task_id, name, value, heard) values ($1, 'a', '1', true)", id_)


@step
def dead_letters(world: World) -> list[tuple[Any, ...]]:
    """Return the payload, the reason and the generation of each dead letter."""
    return [
        (
            decode(one["Body"]).payload,
            one["MessageAttributes"]["joblane-reason"]["StringValue"],
            one["MessageAttributes"]["joblane-dead"]["StringValue"],
        )
        for one in world.dead_letters(sample_one)
    ]


def recorded(id_: str) -> dict[str, Any]:
    return {"type": sample_one.type, "id": id_, "rec": True}


given, swept, seconds_until, depth = step(put), step(World.sweep), step(until), step(World.depth)
UNSENT: dict[str, Any] = archived(dead_sent_at=None, sweep_at=In(-1))
STORIES: dict[str, Story] = {
    "a row goes to the lane of its queue": [
        step(World.make)("jobs-critical-sample-one"),
        given(sample_one, "mine", queue="critical", sweep_at=In(-1)),
        sweep_once(sent=1),
        depth("jobs-critical-sample-one").gives(1),
    ],
    "a sweep without due rows does nothing": [
        given(sample_one, "completed", state="completed", sweep_at=In(-1)),
        given(sample_one, "cancelled", state="cancelled", sweep_at=In(-1)),
        given(sample_one, "archived", state="archived", sweep_at=None),
        given(sample_one, "later", sweep_at=In(60)),
        given(sample_one, "running", **active(30)),
        swept().gives(Swept()),
    ],
    "an unclaimed overdue row is sent again at doubling intervals": [
        given(sample_one, "mine", sweep_at=In(-1)),
        *(
            one
            for minutes in (1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360)
            for one in (
                sweep_once(sent=1),
                seconds_until("mine").gives(pytest.approx(60 * minutes, abs=30)),
                # the message is lost
                sent_to(sample_one).gives(["mine"]),
                sql("update joblane.tasks set sweep_at = now()"),
            )
        ),
        row("mine", sends=12),
        sql("update joblane.tasks set sends = 2000000000, sweep_at = now()"),
        sweep_once(sent=1),
    ],
    "a lost lease is sent and run again": [
        given(sample_one, "lost", **active(-20)),
        given(sample_one, "held", **active(20, sweep_at=In(-1))),
        sweep_once(sent=2),
        sent_to(sample_one).gives_some(2),
        deliver(sample_one, recorded("lost")).gives([]),
        row("lost", state="completed", attempts=2),
        deliver(sample_one, recorded("held")).gives_some(1),
    ],
    "rows of a removed type delay no others and are tried once per sweep": [
        step(fill)(2 * BATCH + 100, "sweep_at", "now() - interval '1 hour'"),
        sql("update joblane.tasks set type = 'gone:type'"),
        given(sample_one, "good", sweep_at=In(-1)),
        sweep_once(sent=1, unsent=Between(0, BATCH)),
        sweep_once(sent=0, unsent=Between(0, BATCH)),
        sql("select id from joblane.tasks where sends > 0").gives([["good"]]),
    ],
    "an archived row without a dead letter gets a dead letter and is marked": [
        given(sample_one, "dead", **UNSENT | {"generation": 2, "payload": {"number": 7}}),
        swept().gives(Swept(dead_letters=1)),
        dead_letters().gives([({"number": 7}, "attempt 4 of 4 failed", "2")]),
        row("dead", dead_sent_at=SOME, sweep_at=None),
        swept().gives(Swept()),
    ],
    "the dead letter of a row too large for a message has no payload": [
        given(sample_one, "dead", **UNSENT | {"reason": ""}),
        sql("update joblane.tasks set payload = jsonb_build_object('do', repeat('x', 1048500))"),
        sweep_once(dead_letters=1),
        dead_letters().gives([(None, "archived", "0")]),
    ],
    **{
        f"content is cleared after retention and the id is kept: {state}": [
            expiring("mine", state=state, headers={"a": "b"}),
            swept().gives(Swept(cleared=1)),
            row("mine", payload=None, result=None, headers={}, cleared=True),
            seconds_until("mine", "expire_at").gives(pytest.approx(KEPT - DAY, abs=5)),
            sql("select count(*) from joblane.runs").gives([[1]]),
            sql("select from joblane.task_items union all select from joblane.task_steps").gives([]),
            sql("select from joblane.task_waits union all select from joblane.task_signals").gives([]),
            swept().gives(Swept()),
        ]
        for state in ("completed", "cancelled", "archived")
    },
    "a row is deleted with its attempts, items and steps after its messages": [
        expiring("old", cleared=True, finished_at=In(-KEPT - 60)),
        expiring("young", cleared=True, finished_at=In(-KEPT + 60), expire_at=In(60)),
        swept().gives(Swept(removed=1)),
        sql("select id from joblane.tasks").gives([["young"]]),
        *(
            sql(f"select task_id from joblane.{table}").gives([["young"]])
            for table in ("task_attempts", "task_items", "task_steps", "task_waits", "task_signals")
        ),
    ],
    "after a long retention the row is deleted with its content": [
        expiring("mine", finished_at=In(-100 * DAY)),
        swept().gives(Swept(cleared=1)),
        swept().gives(Swept(removed=1)),
    ],
    "the content of a task is kept for its retention": [
        enqueue(sample_one, Sample(), task_id="it"),
        deliver(sample_one, recorded("it")),
        seconds_until("it", "expire_at").gives(pytest.approx(DAY, abs=5)),
    ],
    "a live row never expires": [
        *(
            expiring(state, state=state, expire_at=In(-DAY), finished_at=None)
            for state in ("scheduled", "pending", "retry")
        ),
        given(sample_one, "running", **active(60, expire_at=In(-DAY))),
        swept().gives(Swept()),
    ],
    "a row cancelled by a plain update expires like any other": [
        lane(sample_one),
        enqueue(sample_one, Sample(), task_id="it", process_in=timedelta(hours=3)),
        sql("update joblane.tasks set state = 'cancelled' where id = 'it'"),
        sweep_once(),
        row("it", reason="ended by an update of its row", finished_at=SOME, expire_at=SOME, sweep_at=None),
        depth(LANE).gives(0),
    ],
}


@pytest.mark.usefixtures("sends")
@stories(STORIES)
def test_story(world: World, story: Story) -> None:
    play(world, story)


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
    assert world.sweep().sent == 2000
    assert sizes == [BATCH] * 4
    assert world.run("select count(*) from joblane.tasks where sends = 0") == [[0]]


def stopping_after(steps: int) -> Callable[[], bool]:
    """Return a ``may_continue`` for this number of steps: a page or a batch of one of the nine duties."""
    left = [True] * steps
    return lambda: left.pop() if left else False


def test_a_sweep_out_of_time_stops_between_batches_and_has_sent_the_oldest_rows(world: World, sends: Sends) -> None:
    fill(world, 600)
    for steps, expected in ((0, 0), (9, 0), (10, BATCH), (11, 100)):
        assert sweep(world.database.get(), world.sqs, PREFIX, may_continue=stopping_after(steps)).sent == expected
        if expected == BATCH:
            oldest = f"select sends from joblane.tasks order by created_at limit {BATCH}"
            assert world.run(f"select count(*) from ({oldest}) s where sends = 1") == [[BATCH]]


def test_rows_whose_messages_sqs_refuses_are_left_for_the_next_sweep(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue("mine", world)
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    expiring("old")(world)
    with monkeypatch.context() as patch:
        patch.setattr(world.sqs, "send_many", lambda entries: dict.fromkeys(range(len(entries)), "away"))
        assert world.sweep() == Swept(unsent=2, cleared=1)
    assert (world.row("mine")["sends"], world.row("dead")["dead_sent_at"]) == (0, None)
    assert world.sweep() == Swept(sent=1, dead_letters=1)


DEATHS = (TAKE, MARK_DEAD_SENT, EXPIRE, unsent_dead_letters.TAKE, "send")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("death", DEATHS, ids=["take", "mark", "expire", "take dead letters", "send"])
def test_a_sweep_that_is_killed_at_any_statement_is_completed_by_later_ones(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch, death: str, after: bool
) -> None:
    # given a task of each kind
    overdue("mine", world)
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    expiring("old")(world)
    # when a sweep is killed at a statement or a send
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "run", dying(Connection.run, lambda _, sql, *__: sql == death, after))
        patch.setattr(Sqs, "send_many", dying(Sqs.send_many, lambda *_: death == "send", after))
        with pytest.raises(Death):
            world.sweep()
    # then later sweeps, when their time has come, do what it has not done
    for _ in range(3):
        world.run("update joblane.tasks set sweep_at = sweep_at - interval '2 min', due_at = due_at - interval '2 min'")
        world.sweep()
    assert set(sent(sends)) == {"mine"}
    assert len(world.dead_letters(sample_one)) >= 1
    assert world.row("dead")["dead_sent_at"] is not None
    assert world.row("old")["cleared"] is True
    for entry in sends.to(LANE):
        world.deliver(sample_one, entry["MessageBody"])
    assert world.row("mine")["runs"] == 1


class Death(BaseException):
    """The end of the process."""


def dying(real: Callable[..., Any], hits: Callable[..., bool], after: bool) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if not hits(*arguments):
            return real(*arguments)
        if after:
            real(*arguments)
        raise Death

    return call


# --- Concurrent sweeps ---------------------------------------------------------------------------------------------


def test_two_concurrent_sweeps_send_each_message_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 2000)
    bodies: list[str] = []
    both, sending = threading.Barrier(2), set[int]()

    def send(entries: Sequence[Entry]) -> dict[int, str]:
        if threading.get_ident() not in sending:  # each has taken its first rows before one sends
            sending.add(threading.get_ident())
            both.wait(PATIENCE_SECONDS)
        bodies.extend(entry.body for entry in entries)
        return {}

    def run(_: int) -> int:
        with Database(world.url) as database:
            return sweep(database.get(), world.sqs, PREFIX).sent

    monkeypatch.setattr(world.sqs, "send_many", send)
    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(run, range(2))) == 2000
    assert len(bodies) == len(set(bodies)) == 2000


def test_concurrent_marks_of_the_same_rows_do_not_deadlock(world: World) -> None:
    fill(world, 300)
    taken = dict(world.run("select id, sweep_at::text from joblane.tasks"))
    ids = list(taken)
    given = [{"id": id_, "taken": taken[id_], "before": taken[id_]} for id_ in ids]
    ordered = (
        "update joblane.tasks t set runs = runs + 1"
        " from (select id from joblane.tasks order by id for no key update) s where t.id = s.id"
    )

    def repeat(statement: tuple[str, ...]) -> None:
        with Database(world.url) as database:
            for _ in range(25):
                database.get().run(*statement)

    statements = [
        (TAKE, json.dumps(ids)),
        (TAKE, json.dumps(ids[::-1])),
        (GIVE_BACK, json.dumps(given)),
        (GIVE_BACK, json.dumps(given[::-1])),
        (ordered,),
    ]
    with ThreadPoolExecutor(len(statements)) as threads:
        list(threads.map(repeat, statements))  # raises the error of a deadlock


# --- Plans ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(world: World) -> Callable[[bool], Connection]:
    """Write 25,000 scheduled and 25,000 ended tasks, of which few are due, and return a connection with the sweep's
    settings. The statistics are those of an empty table, or of the filled one."""

    def make(analyzed: bool) -> Connection:
        world.run("analyze joblane.tasks")
        world.run(
            "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds,"
            " due_at, sweep_at, finished_at, expire_at, dead_letter_unsent, dead_sent_at, reason)"
            " select 't-' || n, 'sample:one', 'default', case when waits then 'scheduled' else 'archived' end, '', 4,"
            " 60, now() + interval '1 day', at, case when not waits then now() end, case when not waits then at end,"
            " not waits and n < 40, case when not waits and n >= 40 then now() end, case when not waits then 'why' end"
            " from (select n, n % 2 = 0 as waits, now() + n * interval '1 hour' - interval '20 hours' as at"
            " from generate_series(1, 50000) n) s"
        )
        if analyzed:
            world.run("analyze joblane.tasks")
        connection = world.database.get()
        connection.execute_simple(PLANNING)
        return connection

    return make


def plan(connection: Connection, sql: str, *parameters: str) -> str:
    """Return the generic plan of an executed statement with its counts, and roll the statement back."""
    connection.execute_simple("begin")
    try:
        connection.execute_simple(f"prepare it as {sql}")
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in parameters)
        rows = connection.run(f"explain (analyze, buffers, costs off) execute it{f'({values})' if values else ''}")
        return "\n".join(row[0] for row in rows)
    finally:
        connection.rollback()
        connection.execute_simple("deallocate all")
        connection._prepared.clear()


@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed"])
def test_statements_read_only_the_rows_they_need_whatever_the_statistics(
    large: Callable[[bool], Connection], analyzed: bool
) -> None:
    connection = large(analyzed)
    ids = json.dumps([f"t-{n}" for n in range(1, 100)])
    marked = json.dumps([{"id": f"t-{n}", "generation": 0, "taken": "2026-01-01"} for n in range(1, 100)])
    for name, rows, statement, parameters in (
        ("walk", 10_000, READ, ("-infinity", "")),
        ("take", 100, TAKE, (ids,)),
        ("give back", 100, GIVE_BACK, (marked,)),
        ("find dead letters", 100, unsent_dead_letters.FIND, ("-infinity", "", "[]")),
        ("take dead letters", 100, unsent_dead_letters.TAKE, (ids,)),
        ("mark dead letters", 100, MARK_DEAD_SENT, (marked,)),
        ("tidy", 100, TIDY, (ids,)),
        ("find expired", 100, FIND, ("100",)),
        ("expire", 100, EXPIRE, (ids,)),
        ("times of the next sweep", 100, TIMES, ("0",)),
    ):
        found = plan(connection, statement, *parameters)
        assert not re.search("(Seq|Bitmap Heap) Scan on tasks", found), f"{name}:\n{found}"
        removed = [int(line.rpartition(":")[2]) for line in found.splitlines() if "Rows Removed by" in line]
        assert max(removed, default=0) <= 100, f"{name} reads rows that it does not need:\n{found}"
        buffers = sum(map(int, re.findall(r"(?:hit|read)=(\d+)", found.splitlines()[1])))
        assert buffers < 40 * min(rows, 100) + rows / 5, f"{name} reads {buffers} buffers:\n{found}"


def test_a_walk_reads_each_live_row_once(large: Callable[[bool], Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    # given a table whose live rows are in half of its pages' rows
    walk = Walk(large(False), PREFIX)
    pages: list[int] = []
    real = Connection.run

    def run(self: Connection, sql: str, *parameters: Any) -> Any:
        rows = real(self, sql, *parameters)
        pages.append(sum(row[4] for row in rows))
        return rows

    monkeypatch.setattr(Connection, "run", run)
    # when
    while not walk.is_over:
        walk.read()
    # then
    assert pages == [10_000, 10_000, 5_000]
    (lane,) = walk.take()
    assert (len(lane.unsent), lane.unclaimed, walk.ended) == (10, [], [])


# --- Waking --------------------------------------------------------------------------------------------------------


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
