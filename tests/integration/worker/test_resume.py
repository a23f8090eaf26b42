"""Work that commits chunk by chunk: the position of the next run after a kill, an error or a timeout."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, column, select, table, text, union
from sqlalchemy.dialects.postgresql import INET

from joblane import State, TaskContext, TaskTimeout
from joblane.errors import CursorError, LeaseLostError
from joblane.testing.faults import HookedDatabase
from tests.builders import handlers
from tests.builders.events import message, record
from tests.builders.handlers import Clock
from tests.builders.rows import In, active, put
from tests.kills import KILLED, killable_workers
from tests.samples_long import HANDLED, Thing, counts, make_things, sample_long, write
from tests.world import World, handle

BRIEF = 8.1
"""Seconds of an invocation that ends after a tenth: three are Lambda's own, five the least that a chunk is given."""


run = partial(handlers.run, task=sample_long)


def once_each(numbers: Any) -> dict[int, int]:
    return dict.fromkeys(numbers, 1)


def cursor(world: World) -> tuple[Any, int] | None:
    rows = world.run("select cursor, done from joblane.task_cursors where task_id = 'it'")
    return (rows[0][0], rows[0][1]) if rows else None


# --- Sources -------------------------------------------------------------------------------------------------------

Core = Table("things", MetaData(), Column("id", BigInteger, primary_key=True), Column("code", Thing.code.type))


PAIRS = [(number // 10, number % 10) for number in range(1, 51)]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [FIRST + timedelta(days=number) for number in range(1, 51)]
# An entity that has an ``id`` too, which is not the cursor.
OTHER = select(Thing.id.label("id"), (-Thing.id).label("back")).subquery()
JOINED = select(Thing).join(OTHER, Thing.id == -OTHER.c.back)

SOURCES: dict[str, Callable[[TaskContext], Iterator[int]]] = {
    "entities by id": lambda ctx: (thing.id for thing in ctx.resume(select(Thing), cursor=Thing.id, chunk=7)),
    "entities by uuid": lambda ctx: (
        thing.id for thing in ctx.resume(select(Thing).order_by(Thing.id), cursor=Thing.code, chunk=7)
    ),
    "entities by time": lambda ctx: (thing.id for thing in ctx.resume(select(Thing), cursor=Thing.at, chunk=7)),
    "one column": lambda ctx: ctx.resume(select(Thing.id), cursor=Thing.id, chunk=7),
    "one column by another": lambda ctx: ctx.resume(select(Thing.id), cursor=Thing.code, chunk=7),
    "columns": lambda ctx: (id_ for id_, _ in ctx.resume(select(Thing.id, Thing.at), cursor=Thing.at, chunk=7)),
    "a table of SQLAlchemy's core": lambda ctx: (
        row.id for row in ctx.resume(select(Core), cursor=Core.c.code, chunk=7)
    ),
    "a condition": lambda ctx: ctx.resume(select(Thing.id).where(Thing.id > 0), cursor=Thing.id, chunk=7),
    "a join, by another table": lambda ctx: (thing.id for thing in ctx.resume(JOINED, cursor=OTHER.c.back, chunk=7)),
    "a function": lambda ctx: ctx.resume(
        lambda after: range(1 if after is None else after + 1, 51), cursor=lambda item: item, chunk=7
    ),
    "a function with two in its cursor": lambda ctx: (
        tens * 10 + ones
        for tens, ones in ctx.resume(
            lambda after: [pair for pair in PAIRS if after is None or list(pair) > after],
            cursor=lambda pair: pair,
            chunk=7,
        )
    ),
    "a function of times": lambda ctx: (
        (day - FIRST).days
        for day in ctx.resume(
            lambda after: [day for day in DAYS if after is None or day > datetime.fromisoformat(after)],
            cursor=lambda day: day,
            chunk=7,
        )
    ),
    "a sequence": lambda ctx: ctx.resume(range(1, 51), chunk=7),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_failed_run_continues_after_its_last_complete_chunk(world: World, name: str) -> None:
    make_things(world, 50)
    handled: list[int] = []

    def fail_twice(ctx: TaskContext) -> None:
        for number, thing in enumerate(SOURCES[name](ctx)):
            handled.append(thing)
            write(ctx, thing)
            if ctx.attempt < 3 and number == 16:
                raise ValueError("in the third chunk")

    assert run(world, fail_twice)["state"] == "retry"
    assert len(handled) == 17
    assert counts(world) == once_each(handled[:14])
    assert (cursor(world) or (0, 0))[1] == 14
    assert run(world, fail_twice)["state"] == "retry"
    assert counts(world) == once_each(handled[:14] + handled[17:31])
    assert run(world, fail_twice)["state"] == "completed"

    assert counts(world) == once_each(range(1, 51))
    assert Counter(handled) == once_each(range(1, 51)) | dict.fromkeys(handled[14:17] + handled[31:34], 2)
    assert handled[14:17] == handled[17:20]
    status = world.client.get("it")
    assert status is not None
    assert status.items_done == 50


@pytest.mark.parametrize("number", [0, 1, 6, 7, 8, 14])
@pytest.mark.parametrize("name", ["entities by id", "a sequence"])
def test_chunks_end_where_the_source_does(world: World, number: int, name: str) -> None:
    make_things(world, number)

    def all_of_them(ctx: TaskContext) -> None:
        for thing in SOURCES[name](ctx):
            if thing <= number:
                write(ctx, thing)

    assert run(world, all_of_them)["state"] == "completed"
    assert counts(world) == once_each(range(1, number + 1))


def test_rows_that_come_while_it_runs_are_taken_along(world: World) -> None:
    make_things(world, 10)

    def more_come(ctx: TaskContext) -> None:
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=3):
            write(ctx, thing)
            if thing < 20:
                world.run("insert into things values ($1::int, gen_random_uuid(), now())", str(thing + 10))

    assert run(world, more_come)["state"] == "completed"
    assert counts(world) == once_each(range(1, 30))


def test_work_without_the_session_moves_the_cursor_too(world: World) -> None:
    handled: list[int] = []

    def elsewhere(ctx: TaskContext) -> None:
        for item in ctx.resume(range(10), chunk=4):
            handled.append(item)
            if ctx.attempt == 1 and item == 5:
                raise ValueError("stop")

    assert run(world, elsewhere)["kept"]
    assert cursor(world) == (4, 4)
    assert run(world, elsewhere)["state"] == "completed"
    assert handled == [0, 1, 2, 3, 4, 5, *range(4, 10)]


def test_a_chunk_costs_a_query_a_cursor_and_a_commit_in_addition_to_its_own_work(world: World) -> None:
    make_things(world, 50)
    statements: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        statements.append(sql)
        return send()

    def five_chunks(ctx: TaskContext) -> None:
        for item in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            if item == 11:
                statements.clear()

    world.database = HookedDatabase(world.url, hook)
    assert run(world, five_chunks)["state"] == "completed"
    assert Counter(statement.split()[0].lower() for statement in statements) == {
        "insert": 4,
        "begin": 4,
        "select": 5,  # three more chunks, that there is none, and the finish
        "commit": 5,
        "close": 1,  # the session is reset
    }


# --- Cursors that cannot be gone by --------------------------------------------------------------------------------


class Bare:
    pass


def by_function(value: Any) -> Callable[[Any], Any]:
    return lambda ctx: ctx.resume(lambda after: [1, 2], cursor=lambda item: value)


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an object": (by_function(Bare()), "cursor: a value that JSON can store is required, not Bare"),
    "not a number": (by_function(float("nan")), "cursor: a value that JSON can store is required, not float"),
    "bytes": (by_function(b"\xff"), "cursor: a value that JSON can store is required, not bytes"),
    "none": (by_function(None), "cursor: None means the start"),
    "a nul": (by_function("a\0"), "cursor: contains a NUL character"),
    "a surrogate": (by_function(["\ud800"]), "cursor: contains a lone surrogate"),
    "no chunk": (lambda ctx: ctx.resume(range(3), chunk=0), "chunk: a whole number of 1 or more is required, not 0"),
    "less than no chunk": (lambda ctx: ctx.resume(range(3), chunk=-1), "chunk: .* not -1"),
    "half a chunk": (lambda ctx: ctx.resume(range(3), chunk=1.5), r"chunk: .* not 1\.5"),
    "a true chunk": (lambda ctx: ctx.resume(range(3), chunk=True), "chunk: .* not True"),
    "a generator": (lambda ctx: ctx.resume(iter([1]), cursor=str), "source: a select, a function or a sequence is"),
    "no source": (lambda ctx: ctx.resume(None), "source: a select, a function or a sequence is required, not NoneType"),
    "text": (lambda ctx: ctx.resume(text("select 1"), cursor=Thing.id), "source: a select, a function or a sequence"),
    "a union": (
        lambda ctx: ctx.resume(union(select(Thing.id), select(Thing.id)), cursor=Thing.id),
        "source: a select, a function or a sequence is required, not CompoundSelect",
    ),
    "a cursor for a sequence": (lambda ctx: ctx.resume([1], cursor=str), "cursor: a sequence uses its position"),
    "no cursor for a function": (
        lambda ctx: ctx.resume(lambda after: [1]),
        "cursor: a source function needs a cursor function",
    ),
    "a column for a function": (
        lambda ctx: ctx.resume(lambda after: [1], cursor=Thing.id),
        "cursor: a source function needs a cursor function",
    ),
    "no cursor for a query": (lambda ctx: ctx.resume(select(Thing)), "cursor: a column of the query is required"),
    "a function for a query": (
        lambda ctx: ctx.resume(select(Thing), cursor=lambda thing: thing.id),
        "cursor: a column of the query is required",
    ),
    "a column that is not there": (
        lambda ctx: ctx.resume(select(Thing.id, Thing.at), cursor=Thing.code),
        "cursor: a selected column is required",
    ),
    "a limit": (lambda ctx: ctx.resume(select(Thing).limit(5), cursor=Thing.id), "source: a select without limit"),
    "an offset": (lambda ctx: ctx.resume(select(Thing).offset(5), cursor=Thing.id), "source: a select without limit"),
    "no type": (
        lambda ctx: ctx.resume(select(column("id")).select_from(table("things")), cursor=column("id")),
        "cursor: a column of type NullType.* has no Python type",
    ),
    "a type of Postgres's own": (
        lambda ctx: ctx.resume(select(column("code", INET)).select_from(table("things")), cursor=column("code", INET)),
        "cursor: a column of type INET.* has no Python type",
    ),
    "a time declared without its zone": (
        lambda ctx: ctx.resume(
            select(column("at", DateTime)).select_from(table("things")), cursor=column("at", DateTime)
        ),
        r"cursor: .* DateTime\(timezone=True\) is required",
    ),
    "nulls": (
        lambda ctx: ctx.resume(select(Thing), cursor=Thing.maybe, chunk=2),
        "cursor: it is null in some rows",
    ),
}


def write_all(ctx: TaskContext, things: Iterator[Any]) -> None:
    for _ in things:
        write(ctx, 1)


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_source_or_cursor_is_refused_before_anything_is_written(world: World, name: str) -> None:
    make_things(world, 5)
    world.run("update things set maybe = id where id < 5")
    source, problem = BAD[name]

    def by_a_bad_source(ctx: TaskContext) -> None:
        with pytest.raises(CursorError, match=problem):
            write_all(ctx, source(ctx))

    assert run(world, by_a_bad_source)["state"] == "completed"
    assert (counts(world), cursor(world)) == ({}, None)


def grow_bad(ctx: TaskContext) -> Iterator[int]:
    return ctx.resume(
        lambda after: range(after or 0, 10), cursor=lambda item: item + 1 if item < 5 else Bare(), chunk=3
    )


def by_fours(ctx: TaskContext) -> Iterator[int]:
    return (thing.id for thing in ctx.resume(select(Thing), cursor=Thing.maybe, chunk=3))


def stand_still(ctx: TaskContext) -> Iterator[int]:
    return ctx.resume(lambda after: [1, 2, 3], cursor=lambda item: item, chunk=3)


def loop_twice(ctx: TaskContext) -> Iterator[int]:
    yield from ctx.resume(range(5))
    yield from ctx.resume(range(100, 110))


@pytest.mark.parametrize(
    ("source", "problem", "kept"),
    [
        (grow_bad, "cursor: a value that JSON can store is required, not Bare", range(3)),
        (by_fours, "cursor: two rows have the same value; a unique column is required", range(1, 4)),
        (stand_still, "source: it returned the same items again", range(1, 4)),
        (loop_twice, "source: a task has one cursor", range(5)),
    ],
)
def test_a_source_that_goes_wrong_later_fails_and_keeps_its_complete_chunks(
    world: World, source: Callable[[TaskContext], Iterator[int]], problem: str, kept: Sequence[int]
) -> None:
    make_things(world, 10)
    world.run("update things set maybe = id / 4")

    def handler(ctx: TaskContext) -> None:
        for item in source(ctx):
            write(ctx, item)

    row = run(world, handler)
    assert (row["kept"], row["error_type"]) == (True, "CursorError")
    assert row["error_message"].startswith(problem)
    assert counts(world) == once_each(kept)


# --- Runs that overlap, or end in the middle -----------------------------------------------------------------------


def test_a_run_whose_lease_is_lost_rolls_its_chunk_back_and_leaves_the_message(world: World) -> None:
    make_things(world, 20)
    ends: list[type[BaseException]] = []

    def be_overtaken_in_a_chunk(ctx: TaskContext) -> None:
        try:
            for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=4):
                write(ctx, thing)
                if thing == 7 and ctx.attempt == 1:
                    world.expire_leases()
                    with world.rival(sample_long) as other:
                        again = record(message("handler_of_the_test", type_="sample:long"), world.lane(sample_long))
                        assert handle(other, again) == []
        except LeaseLostError as error:
            ends.append(type(error))
            raise

    assert run(world, be_overtaken_in_a_chunk)["kept"]
    assert ends == [LeaseLostError]
    assert (world.row("it")["state"], world.outcomes("it")) == ("completed", ["lost", "completed"])
    assert counts(world) == once_each(range(1, 21))


THINGS, CHUNK, KILLS = 20_000, 100, 5


def test_twenty_thousand_rows_are_handled_once_with_five_kills(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 20_261_124
    draw = random.Random(seed)
    monkeypatch.setenv(HANDLED, str(tmp_path / "handled"))
    make_things(world, THINGS)
    put(world, sample_long, "it", {"do": "resume_all", "number": CHUNK})
    sent = record({"type": "sample:long", "id": "it", "rec": True}, world.lane(sample_long))
    statements_of_a_chunk = CHUNK // 50 + 4
    cursors: list[int] = []
    with killable_workers() as pool, pool.over(world) as workers:
        for _ in range(KILLS):
            nth = draw.randrange(5 * statements_of_a_chunk, 35 * statements_of_a_chunk)
            assert workers.handle("sample:long", sent, dies=f"after statement {nth}") is None, f"seed {seed}"
            assert workers.status == KILLED
            found = cursor(world)
            assert found is not None
            cursors.append(found[1])
            assert sum(counts(world).values()) == found[1] == found[0]  # the effects are those up to the cursor
            world.expire_leases()
        assert workers.handle("sample:long", sent) == []

    assert cursors == sorted(set(cursors)), "each run went on above the one before"
    assert 0 < cursors[0] < cursors[-1] < THINGS
    assert world.outcomes("it") == ["lost"] * KILLS + ["completed"]
    assert counts(world) == once_each(range(1, THINGS + 1))
    handled = Counter(int(line) for line in (tmp_path / "handled").read_text().split())
    assert len(handled) == THINGS
    assert max(handled.values()) <= 2
    again = sorted(thing for thing, times in handled.items() if times == 2)
    assert 0 < len(again) <= KILLS * CHUNK
    for at in cursors:  # only the chunk of each kill was repeated
        assert len([thing for thing in again if at < thing <= at + CHUNK]) <= CHUNK
    assert all(any(at < thing <= at + CHUNK for at in cursors) for thing in again)


# --- Going on in the next invocation -------------------------------------------------------------------------------


def test_a_task_out_of_invocation_time_continues_in_the_next_without_an_attempt(world: World, clock: Clock) -> None:
    make_things(world, 60)
    handled: list[tuple[int, int]] = []

    def take_time(ctx: TaskContext) -> str:
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            handled.append((ctx.attempt, thing))
            write(ctx, thing)
            clock.ahead += 0.005
        return "all done"

    watched = world.watch()
    again_and_again = 0
    while (row := run(world, take_time, seconds=BRIEF))["kept"]:
        again_and_again += 1
        assert (row["state"], row["attempts"], row["continuations"]) == ("pending", 0, again_and_again)
        assert again_and_again < 10

    assert again_and_again >= 2
    assert watched.visibilities == [0] * again_and_again
    assert watched.sent == []  # the same message continues
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, again_and_again + 1)
    assert (row["result"], row["used_ms"]) == ("all done", 0)
    assert world.outcomes("it") == ["continued"] * again_and_again + ["completed"]
    assert handled == [(1, thing) for thing in range(1, 61)]  # each chunk once
    assert counts(world) == once_each(range(1, 61))


def test_the_time_of_all_invocations_adds_up_to_the_tasks_own_timeout(world: World, clock: Clock) -> None:
    make_things(world, 0)
    left: list[float] = []

    def never_end(ctx: TaskContext) -> None:
        left.append(ctx.remaining().total_seconds())
        for _ in ctx.resume(range(1_000_000), chunk=10):
            clock.ahead += 0.002
            if left[-1] <= 1:
                signal.pause()  # until its time is over

    used = run(world, never_end, seconds=BRIEF)["used_ms"]
    assert 0 < used < 3000
    assert run(world, never_end, seconds=BRIEF)["used_ms"] > used
    # the attempt has a second left of its half an hour
    world.run("update joblane.tasks set used_ms = 1799 * 1000")
    row = run(world, never_end)
    assert 0 < left[-1] <= 1
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "TaskTimeout")
    assert world.outcomes("it") == ["continued", "continued", "timeout"]
    assert row["used_ms"] == 0  # the next attempt has its half an hour again, and continues at the cursor
    assert cursor(world) != (0, 0)
    assert run(world, never_end, seconds=BRIEF)["attempts"] == 1
    assert left[-1] > 4


def resume_by_ten(ctx: TaskContext) -> Iterator[int]:
    return ctx.resume(range(30), chunk=10)


def each_item(ctx: TaskContext) -> Iterator[int]:
    return ctx.each(range(30))


@pytest.mark.parametrize(
    ("loop", "slow", "done"),
    [(resume_by_ten, 15, range(10)), (each_item, 2, range(2)), (resume_by_ten, 0, range(0))],
    ids=["in a later chunk", "in a later item", "before anything is kept"],
)
def test_an_invocation_that_is_interrupted_continues_if_it_has_kept_something(
    world: World, loop: Callable[[TaskContext], Iterator[int]], slow: int, done: Sequence[int]
) -> None:
    make_things(world, 0)
    handled: list[int] = []

    def interrupt(ctx: TaskContext) -> None:
        for item in loop(ctx):
            handled.append(item)
            write(ctx, item)
            if item == slow and handled.count(item) == 1:
                signal.raise_signal(signal.SIGALRM)  # its time is over

    row = run(world, interrupt)
    assert row["kept"]
    continued = ("pending", 0, 1, None) if done else ("retry", 1, 0, "TaskTimeout")
    assert (row["state"], row["attempts"], row["continuations"], row["error_type"]) == continued
    assert counts(world) == once_each(done)
    assert run(world, interrupt)["state"] == "completed"
    assert handled == [*range(slow + 1), *range(len(done), 30)]
    assert counts(world) == once_each(range(30))
    assert world.outcomes("it") == ["continued" if done else "timeout", "completed"]


@pytest.mark.usefixtures("standing_clock")
def test_a_task_that_is_not_declared_resumable_is_given_no_more_than_its_invocation(world: World) -> None:
    make_things(world, 0)
    ends: list[type[BaseException]] = []

    def take_too_long(ctx: TaskContext) -> None:
        try:
            for item in ctx.resume(range(1000), chunk=10):
                write(ctx, item)
                if item == 15:
                    signal.pause()
        except BaseException as error:
            ends.append(type(error))
            raise

    row = handlers.run(world, take_too_long, seconds=3.5)
    assert ends == [TaskTimeout]
    assert (row["kept"], row["state"], row["attempts"]) == (True, "retry", 1)


def test_a_deadline_ends_a_task_that_continues(world: World) -> None:
    make_things(world, 0)

    def go_on(ctx: TaskContext) -> None:
        for item in ctx.resume(range(1000), chunk=10):
            if item == 15:
                signal.pause()

    world.lane(sample_long)  # before the deadline is set: it takes a while on a busy machine
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    put(world, sample_long, "it", {"do": "handler_of_the_test", "number": 0}, deadline=soon, due_at=In(0))
    row = run(world, go_on)
    assert (row["kept"], row["state"]) == (False, "archived")
    assert row["reason"] == "DeadlinePassed: the deadline passed while the task ran"
    assert len(world.dead_letters(sample_long)) == 1


def test_a_task_cancelled_between_two_invocations_does_not_continue(world: World, clock: Clock) -> None:
    make_things(world, 0)

    def be_cancelled_between(ctx: TaskContext) -> None:
        for item in ctx.resume(range(1000), chunk=10):
            write(ctx, item)
            clock.ahead += 0.01

    assert run(world, be_cancelled_between, seconds=BRIEF)["kept"]
    done = counts(world)
    assert world.client.cancel("it") == State.CANCELLED
    assert not run(world, be_cancelled_between)["kept"]
    assert counts(world) == done


def test_numbers_and_codes_come_back_from_json_as_the_columns_type(world: World) -> None:
    make_things(world, 3)
    world.run("create table exact (id numeric primary key)")
    values = [Decimal("0.1"), Decimal("12345678901234567890.123456789"), Decimal("99999999999999999999")]
    for value in values:
        world.run("insert into exact values ($1::numeric)", str(value))
    from sqlalchemy import Numeric

    exact = table("exact", column("id", Numeric))
    seen: list[Decimal] = []

    def by_exact(ctx: TaskContext) -> None:
        seen.extend(row for row in ctx.resume(select(exact.c.id), cursor=exact.c.id, chunk=1))

    assert run(world, by_exact)["state"] == "completed"
    assert seen == values


def test_an_attempt_that_follows_a_lost_one_has_the_whole_time(world: World) -> None:
    payload = {"do": "handler_of_the_test", "number": 0}
    put(world, sample_long, "it", payload, **active(-1, used_ms=1_799_900, continuations=7))
    assert run(world, lambda ctx: ctx.remaining().total_seconds())["result"] > 50
