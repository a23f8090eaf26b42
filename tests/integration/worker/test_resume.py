"""Work that commits chunk by chunk: the position of the next run after a kill, an error or a timeout."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
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
from tests.builders import events as builders
from tests.builders.events import record
from tests.builders.rows import active, put
from tests.kills import KILLED, killable_workers
from tests.samples import Sample, behaviour, sample_one
from tests.samples_long import HANDLED, Thing, counts, make_things, sample_long, write
from tests.world import World, handle

BRIEF = 8.1
"""Seconds of an invocation that ends after a tenth: three are Lambda's own, five the least that a chunk is given."""


message = partial(builders.message, type_="sample:long")


def again(world: World, do: str, seconds: float = 60.0) -> list[str]:
    world.later("it")
    return world.deliver(sample_long, message(do), seconds=seconds)


def once_each(numbers: Any) -> dict[int, int]:
    return dict.fromkeys(numbers, 1)


def cursor(world: World) -> tuple[Any, int] | None:
    rows = world.run("select cursor, done from joblane.task_cursors where task_id = 'it'")
    return (rows[0][0], rows[0][1]) if rows else None


# --- Sources -------------------------------------------------------------------------------------------------------

Core = Table("things", MetaData(), Column("id", BigInteger, primary_key=True), Column("code", Thing.code.type))


def entities_by_id(ctx: TaskContext) -> Iterator[int]:
    for thing in ctx.resume(select(Thing), cursor=Thing.id, chunk=7):
        yield thing.id


def entities_by_uuid(ctx: TaskContext) -> Iterator[int]:
    for thing in ctx.resume(select(Thing).order_by(Thing.id), cursor=Thing.code, chunk=7):
        yield thing.id


def entities_by_time(ctx: TaskContext) -> Iterator[int]:
    for thing in ctx.resume(select(Thing), cursor=Thing.at, chunk=7):
        yield thing.id


def one_column(ctx: TaskContext) -> Iterator[int]:
    yield from ctx.resume(select(Thing.id), cursor=Thing.id, chunk=7)


def one_column_by_another(ctx: TaskContext) -> Iterator[int]:
    yield from ctx.resume(select(Thing.id), cursor=Thing.code, chunk=7)


def columns(ctx: TaskContext) -> Iterator[int]:
    for id_, _ in ctx.resume(select(Thing.id, Thing.at), cursor=Thing.at, chunk=7):
        yield id_


def core_table(ctx: TaskContext) -> Iterator[int]:
    for row in ctx.resume(select(Core), cursor=Core.c.code, chunk=7):
        yield row.id


def where(ctx: TaskContext) -> Iterator[int]:
    yield from ctx.resume(select(Thing.id).where(Thing.id > 0), cursor=Thing.id, chunk=7)


def joined_by_another_table(ctx: TaskContext) -> Iterator[int]:
    """The entity has an ``id`` too, which is not the cursor."""
    other = select(Thing.id.label("id"), (-Thing.id).label("back")).subquery()
    query = select(Thing).join(other, Thing.id == -other.c.back)
    for thing in ctx.resume(query, cursor=other.c.back, chunk=7):
        yield thing.id


def a_function(ctx: TaskContext) -> Iterator[int]:
    def source(after: int | None) -> Iterator[int]:
        yield from range(1 if after is None else after + 1, 51)

    yield from ctx.resume(source, cursor=lambda item: item, chunk=7)


def a_function_with_two_in_its_cursor(ctx: TaskContext) -> Iterator[int]:
    def source(after: list[int] | None) -> list[tuple[int, int]]:
        pairs = [(number // 10, number % 10) for number in range(1, 51)]
        return [pair for pair in pairs if after is None or list(pair) > after]

    for tens, ones in ctx.resume(source, cursor=lambda pair: pair, chunk=7):
        yield tens * 10 + ones


def a_function_of_times(ctx: TaskContext) -> Iterator[int]:
    first = datetime(2026, 1, 1, tzinfo=UTC)

    def source(after: str | None) -> list[datetime]:
        days = [first + timedelta(days=number) for number in range(1, 51)]
        return [day for day in days if after is None or day > datetime.fromisoformat(after)]

    for day in ctx.resume(source, cursor=lambda day: day, chunk=7):
        yield (day - first).days


def a_sequence(ctx: TaskContext) -> Iterator[int]:
    yield from ctx.resume(range(1, 51), chunk=7)


SOURCES = [
    entities_by_id,
    entities_by_uuid,
    entities_by_time,
    one_column,
    one_column_by_another,
    columns,
    core_table,
    where,
    joined_by_another_table,
    a_function,
    a_function_with_two_in_its_cursor,
    a_function_of_times,
    a_sequence,
]


@pytest.mark.parametrize("source", SOURCES)
def test_a_failed_run_continues_after_its_last_complete_chunk(
    world: World, source: Callable[[TaskContext], Iterator[int]]
) -> None:
    make_things(world, 50)
    handled: list[int] = []

    @behaviour
    def fail_twice(payload: Sample, ctx: TaskContext) -> None:
        for number, thing in enumerate(source(ctx)):
            handled.append(thing)
            write(ctx, thing)
            if ctx.attempt < 3 and number == 16:
                raise ValueError("in the third chunk")

    assert len(world.deliver(sample_long, message("fail_twice"))) == 1
    assert len(handled) == 17
    assert counts(world) == once_each(handled[:14])
    found = cursor(world)
    assert found is not None
    assert found[1] == 14
    assert len(again(world, "fail_twice")) == 1
    assert counts(world) == once_each(handled[:14] + handled[17:31])
    assert again(world, "fail_twice") == []

    assert counts(world) == once_each(range(1, 51))
    assert Counter(handled) == once_each(range(1, 51)) | dict.fromkeys(handled[14:17] + handled[31:34], 2)
    assert handled[14:17] == handled[17:20]
    status = world.client.get("it")
    assert status is not None
    assert (status.state, status.items_done) == (State.COMPLETED, 50)


@pytest.mark.parametrize("number", [0, 1, 6, 7, 8, 14])
@pytest.mark.parametrize("source", [entities_by_id, a_sequence])
def test_chunks_end_where_the_source_does(
    world: World, number: int, source: Callable[[TaskContext], Iterator[int]]
) -> None:
    make_things(world, number)

    @behaviour
    def all_of_them(payload: Sample, ctx: TaskContext) -> None:
        for thing in source(ctx):
            if thing <= number:
                write(ctx, thing)

    assert world.deliver(sample_long, message("all_of_them")) == []
    assert counts(world) == once_each(range(1, number + 1))


def test_rows_that_come_while_it_runs_are_taken_along(world: World) -> None:
    make_things(world, 10)

    @behaviour
    def more_come(payload: Sample, ctx: TaskContext) -> None:
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=3):
            write(ctx, thing)
            if thing < 20:
                world.run("insert into things values ($1::int, gen_random_uuid(), now())", str(thing + 10))

    assert world.deliver(sample_long, message("more_come")) == []
    assert counts(world) == once_each(range(1, 30))


def test_work_without_the_session_moves_the_cursor_too(world: World) -> None:
    handled: list[int] = []

    @behaviour
    def elsewhere(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(range(10), chunk=4):
            handled.append(item)
            if ctx.attempt == 1 and item == 5:
                raise ValueError("stop")

    assert len(world.deliver(sample_long, message("elsewhere"))) == 1
    assert cursor(world) == (4, 4)
    assert again(world, "elsewhere") == []
    assert handled == [0, 1, 2, 3, 4, 5, *range(4, 10)]


def test_a_chunk_costs_a_query_a_cursor_and_a_commit_in_addition_to_its_own_work(world: World) -> None:
    make_things(world, 50)
    statements: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        statements.append(sql)
        return send()

    @behaviour
    def five_chunks(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            if item == 11:
                statements.clear()

    world.database = HookedDatabase(world.url, hook)
    assert world.deliver(sample_long, message("five_chunks")) == []
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

    @behaviour
    def by_a_bad_source(payload: Sample, ctx: TaskContext) -> None:
        with pytest.raises(CursorError, match=problem):
            write_all(ctx, source(ctx))

    assert world.deliver(sample_long, message("by_a_bad_source")) == []
    assert (counts(world), cursor(world)) == ({}, None)


def test_a_bad_cursor_in_a_later_chunk_keeps_the_earlier_chunks(world: World) -> None:
    make_things(world, 0)

    @behaviour
    def goes_bad(payload: Sample, ctx: TaskContext) -> None:
        def source(after: int | None) -> Iterator[int]:
            yield from range(after or 0, 10)

        for item in ctx.resume(source, cursor=lambda item: item + 1 if item < 5 else Bare(), chunk=3):
            write(ctx, item)

    assert len(world.deliver(sample_long, message("goes_bad"))) == 1
    assert world.row("it")["error_type"] == "CursorError"
    assert counts(world) == once_each(range(3))
    assert cursor(world) == (3, 3)


def test_a_column_that_is_not_unique_passes_no_row_over_in_silence(world: World) -> None:
    make_things(world, 10)
    world.run("update things set maybe = id / 4")

    @behaviour
    def by_fours(payload: Sample, ctx: TaskContext) -> None:
        for thing in ctx.resume(select(Thing), cursor=Thing.maybe, chunk=3):
            write(ctx, thing.id)

    assert len(world.deliver(sample_long, message("by_fours"))) == 1
    assert world.row("it")["error_message"] == "cursor: two rows have the same value; a unique column is required"
    assert counts(world) == once_each([1, 2, 3])


def test_a_function_that_does_not_move_on_is_refused_and_not_repeated_for_ever(world: World) -> None:
    make_things(world, 0)

    @behaviour
    def stand_still(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(lambda after: [1, 2, 3], cursor=lambda item: item, chunk=3):
            write(ctx, item)

    assert len(world.deliver(sample_long, message("stand_still"))) == 1
    assert world.row("it")["error_message"].startswith("source: it returned the same items again")
    assert counts(world) == once_each([1, 2, 3])


def test_a_task_has_one_cursor_and_a_second_loop_would_take_it_for_its_own(world: World) -> None:
    make_things(world, 0)

    @behaviour
    def two_loops(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(range(5)):
            write(ctx, item)
        for item in ctx.resume(range(100, 110)):
            write(ctx, item)

    assert len(world.deliver(sample_long, message("two_loops"))) == 1
    assert world.row("it")["error_message"].startswith("source: a task has one cursor")
    assert counts(world) == once_each(range(5))


# --- Runs that overlap, or end in the middle -----------------------------------------------------------------------


def test_a_run_whose_lease_is_lost_rolls_its_chunk_back_and_leaves_the_message(world: World) -> None:
    make_things(world, 20)
    ends: list[type[BaseException]] = []

    @behaviour
    def be_overtaken_in_a_chunk(payload: Sample, ctx: TaskContext) -> None:
        try:
            for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=4):
                write(ctx, thing)
                if thing == 7 and ctx.attempt == 1:
                    world.expire_leases()
                    with world.rival(sample_long) as other:
                        again = record(message("be_overtaken_in_a_chunk"), world.lane(sample_long))
                        assert handle(other, again) == []
        except LeaseLostError as error:
            ends.append(type(error))
            raise

    assert len(world.deliver(sample_long, message("be_overtaken_in_a_chunk"))) == 1
    assert ends == [LeaseLostError]
    assert (world.row("it")["state"], world.outcomes("it")) == ("completed", ["lost", "completed"])
    assert counts(world) == once_each(range(1, 21))


THINGS, CHUNK, KILLS = 100_000, 500, 5


def test_a_hundred_thousand_rows_are_handled_once_with_five_kills(
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


def test_a_task_out_of_invocation_time_continues_in_the_next_without_an_attempt(
    world: World,
) -> None:
    make_things(world, 60)
    runs: list[tuple[int, int]] = []

    @behaviour
    def take_time(payload: Sample, ctx: TaskContext) -> str:
        first = True
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            if first:
                runs.append((ctx.attempt, thing))
                first = False
            write(ctx, thing)
            time.sleep(0.005)
        return "all done"

    watched = world.watch()
    again_and_again = 0
    while kept := world.deliver(sample_long, message("take_time"), seconds=BRIEF):
        again_and_again += 1
        assert len(kept) == 1
        row = world.row("it")
        assert (row["state"], row["attempts"], row["continuations"]) == ("pending", 0, again_and_again)
        assert again_and_again < 10

    assert watched.visibilities == [0] * again_and_again
    assert watched.sent == []  # the same message continues
    assert again_and_again >= 2
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, again_and_again + 1)
    assert row["result"] == "all done"
    assert row["used_ms"] == 0
    assert world.outcomes("it") == ["continued"] * again_and_again + ["completed"]
    assert {attempt for attempt, _ in runs} == {1}
    assert [thing % 10 for _, thing in runs] == [1] * len(runs)
    assert counts(world) == once_each(range(1, 61))


def test_the_time_of_all_invocations_adds_up_to_the_tasks_own_timeout(world: World) -> None:
    make_things(world, 0)
    left: list[float] = []

    @behaviour
    def never_end(payload: Sample, ctx: TaskContext) -> None:
        left.append(ctx.remaining().total_seconds())
        for _ in ctx.resume(range(1_000_000), chunk=10):
            time.sleep(0.002)

    assert len(world.deliver(sample_long, message("never_end"), seconds=BRIEF)) == 1
    used = world.row("it")["used_ms"]
    assert 0 < used < 3000
    assert len(again(world, "never_end", BRIEF)) == 1
    assert world.row("it")["used_ms"] > used
    # the attempt has a second left of its half an hour
    world.run("update joblane.tasks set used_ms = 1799 * 1000")
    assert len(again(world, "never_end")) == 1

    assert 0 < left[-1] <= 1
    row = world.row("it")
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "TaskTimeout")
    assert world.outcomes("it") == ["continued", "continued", "timeout"]
    assert row["used_ms"] == 0  # the next attempt has its half an hour again, and continues at the cursor
    assert cursor(world) != (0, 0)
    assert len(again(world, "never_end", BRIEF)) == 1
    assert left[-1] > 4
    assert world.row("it")["attempts"] == 1


def test_a_chunk_that_the_invocation_cannot_hold_is_done_again_in_the_next(world: World) -> None:
    make_things(world, 30)
    slow: list[int] = []

    @behaviour
    def have_a_slow_chunk(payload: Sample, ctx: TaskContext) -> None:
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            write(ctx, thing)
            if thing == 15 and not slow:
                slow.append(thing)
                signal.raise_signal(signal.SIGALRM)  # its time is over

    assert len(world.deliver(sample_long, message("have_a_slow_chunk"))) == 1
    row = world.row("it")
    assert (row["state"], row["attempts"], row["continuations"]) == ("pending", 0, 1)
    assert counts(world) == once_each(range(1, 11))
    assert again(world, "have_a_slow_chunk") == []
    assert counts(world) == once_each(range(1, 31))
    assert world.outcomes("it") == ["continued", "completed"]


def test_an_invocation_that_keeps_nothing_is_a_failed_attempt(world: World) -> None:
    make_things(world, 30)

    @behaviour
    def have_a_hopeless_chunk(payload: Sample, ctx: TaskContext) -> None:
        for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=10):
            write(ctx, thing)
            signal.raise_signal(signal.SIGALRM)

    assert len(world.deliver(sample_long, message("have_a_hopeless_chunk"))) == 1
    row = world.row("it")
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "TaskTimeout")
    assert (counts(world), cursor(world)) == ({}, None)


def test_an_item_loop_in_a_resumable_task_continues_with_the_interrupted_item(world: World) -> None:
    make_things(world, 0)
    handled: list[int] = []

    @behaviour
    def have_a_slow_item(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            handled.append(item)
            write(ctx, item)
            if item == 2 and handled.count(2) == 1:
                signal.raise_signal(signal.SIGALRM)

    assert len(world.deliver(sample_long, message("have_a_slow_item"))) == 1
    assert (world.row("it")["state"], world.row("it")["attempts"]) == ("pending", 0)
    assert again(world, "have_a_slow_item") == []
    assert handled == [0, 1, 2, 2, 3, 4]
    assert counts(world) == once_each(range(5))


@pytest.mark.usefixtures("standing_clock")
def test_a_task_that_is_not_declared_resumable_is_given_no_more_than_its_invocation(world: World) -> None:
    make_things(world, 0)
    ends: list[type[BaseException]] = []

    @behaviour
    def take_too_long(payload: Sample, ctx: TaskContext) -> None:
        try:
            for item in ctx.resume(range(1000), chunk=10):
                write(ctx, item)
                time.sleep(0.01)
        except BaseException as error:
            ends.append(type(error))
            raise

    short = {"type": "sample:one", "id": "it", "payload": {"do": "take_too_long"}}
    assert len(world.deliver(sample_one, short, seconds=3.5)) == 1
    assert ends == [TaskTimeout]
    assert (world.row("it")["state"], world.row("it")["attempts"]) == ("retry", 1)


def test_a_deadline_ends_a_task_that_continues(world: World) -> None:
    make_things(world, 0)

    @behaviour
    def go_on(payload: Sample, ctx: TaskContext) -> None:
        for _ in ctx.resume(range(1_000_000), chunk=10):
            time.sleep(0.002)

    world.lane(sample_long)  # before the deadline is set: it takes a while on a busy machine
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    put(world, sample_long, "it", {"do": "go_on"}, deadline=soon)
    sent = {"type": "sample:long", "id": "it", "rec": True}

    assert world.deliver(sample_long, sent) == []
    row = world.row("it")
    assert (row["state"], row["reason"]) == ("archived", "DeadlinePassed: the deadline passed while the task ran")
    assert len(world.dead_letters(sample_long)) == 1


def test_a_task_cancelled_between_two_invocations_does_not_continue(world: World) -> None:
    make_things(world, 0)

    @behaviour
    def be_cancelled_between(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(range(1000), chunk=10):
            write(ctx, item)
            time.sleep(0.01)

    assert len(world.deliver(sample_long, message("be_cancelled_between"), seconds=BRIEF)) == 1
    done = counts(world)
    assert world.client.cancel("it") == State.CANCELLED
    assert world.deliver(sample_long, message("be_cancelled_between")) == []
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

    @behaviour
    def by_exact(payload: Sample, ctx: TaskContext) -> None:
        seen.extend(ctx.resume(select(exact.c.id), cursor=exact.c.id, chunk=1))

    assert world.deliver(sample_long, message("by_exact")) == []
    assert seen == values


def test_an_attempt_that_follows_a_lost_one_has_the_whole_time(world: World) -> None:
    left: list[float] = []

    @behaviour
    def look_at_the_clock(payload: Sample, ctx: TaskContext) -> None:
        left.append(ctx.remaining().total_seconds())

    put(
        world,
        sample_long,
        "it",
        {"do": "look_at_the_clock"},
        **active(-1, used_ms=1_799_900, continuations=7),
    )
    assert world.deliver(sample_long, {"type": "sample:long", "id": "it", "rec": True}) == []
    assert left[0] > 50
