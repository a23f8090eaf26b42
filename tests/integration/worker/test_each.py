"""Work that commits item by item: the cost of a failing item, and the items that another run repeats."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from joblane import PartialFailure, RetryAfter, RevokeTask, SkipRetry, Snooze, State, TaskContext
from joblane.errors import ItemKeyError, JobError, LeaseLostError
from joblane.testing.faults import HookedDatabase, Send
from tests.builders.events import message, record
from tests.builders.rows import put
from tests.kills import KILLED, killable_workers
from tests.samples import Sample, behaviour, sample_one
from tests.samples_long import HANDLED, Thing, counts, make_things, sample_long, write
from tests.world import World, handle


@pytest.fixture(autouse=True)
def things(world: World) -> None:
    make_things(world, 20)


def run_again(world: World, do: str) -> list[str]:
    world.later("it")
    return world.deliver(sample_one, message(do))


def once_each(numbers: Any) -> dict[int, int]:
    return dict.fromkeys(numbers, 1)


# --- What a failing item costs -------------------------------------------------------------------------------------


def test_of_ten_thousand_items_a_retry_touches_only_those_that_failed(world: World) -> None:
    handled: Counter[int] = Counter()
    raised: list[PartialFailure] = []

    @behaviour
    def most_work(payload: Sample, ctx: TaskContext) -> None:
        try:
            for item in ctx.each(range(10_000)):
                with ctx.isolated():
                    handled[item] += 1
                    write(ctx, item)
                    if ctx.attempt == 1 and item % 100 == 7:
                        raise ValueError("not now")
        except PartialFailure as failure:
            raised.append(failure)
            raise

    patient = replace(sample_one, timeout=timedelta(minutes=4))  # ten thousand commits, on a machine that may be busy
    assert len(world.deliver(patient, message("most_work"), seconds=240)) == 1

    failing = set(range(7, 10_000, 100))
    assert handled == once_each(range(10_000))
    assert counts(world) == once_each(set(range(10_000)) - failing)
    assert (raised[0].failed, raised[0].done, str(raised[0].first)) == (100, 9_900, "not now")
    row = world.row("it")
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "PartialFailure")
    assert row["error_message"] == "100 of 10000 items failed, the first with ValueError"
    handled.clear()
    assert run_again(world, "most_work") == []
    assert handled == once_each(failing)
    assert counts(world) == once_each(range(10_000))
    assert (world.row("it")["state"], len(raised)) == ("completed", 1)


def test_a_task_with_an_item_that_keeps_failing_is_archived_with_the_others_done(world: World) -> None:
    @behaviour
    def one_never_works(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                write(ctx, item)
                if item == 3:
                    raise ValueError("never")

    world.deliver(sample_one, message("one_never_works"))
    for _ in range(3):
        run_again(world, "one_never_works")
    assert world.row("it")["state"] == "archived"
    assert world.row("it")["error_message"] == "1 of 5 items failed, the first with ValueError"
    assert counts(world) == once_each([0, 1, 2, 4])
    assert len(world.dead_letters(sample_one)) == 1


def test_an_error_outside_of_isolated_ends_the_loop_and_a_retry_continues_there(world: World) -> None:
    handled: list[int] = []

    @behaviour
    def stumble(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            handled.append(item)
            write(ctx, item)
            if ctx.attempt == 1 and item == 2:
                raise ValueError("stop")

    assert len(world.deliver(sample_one, message("stumble"))) == 1
    assert counts(world) == once_each([0, 1])
    assert run_again(world, "stumble") == []
    assert handled == [0, 1, 2, 2, 3, 4]
    assert counts(world) == once_each(range(5))


def refused_by_a_constraint(ctx: TaskContext) -> None:
    write(ctx, -1)


def refused_at_the_flush(ctx: TaskContext) -> None:
    ctx.session.add(Thing(id=1))  # there is one already, and what it lacks is not null


def not_sql(ctx: TaskContext) -> None:
    ctx.session.execute(text("selekt"))


def outage_for_one_item(ctx: TaskContext) -> None:
    raise ConnectionRefusedError("the service of this item does not answer")


def no_file(ctx: TaskContext) -> None:
    Path("/nowhere/at/all").read_text()


def swallowed(ctx: TaskContext) -> None:
    try:
        write(ctx, -1)
    except Exception:
        write(ctx, -2)  # the transaction is broken already


@pytest.mark.parametrize(
    "fail",
    [refused_by_a_constraint, refused_at_the_flush, not_sql, outage_for_one_item, no_file, swallowed],
)
def test_any_error_in_an_item_fails_only_that_item(world: World, fail: Callable[[TaskContext], None]) -> None:
    @behaviour
    def one_fails(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                write(ctx, item)
                if item == 2:
                    fail(ctx)

    world.deliver(sample_one, message("one_fails"))
    assert world.row("it")["error_type"] == "PartialFailure"
    assert world.row("it")["error_message"].startswith("1 of 5 items failed")
    assert counts(world) == once_each([0, 1, 3, 4])


def test_what_is_written_after_an_item_failed_does_not_ride_on_the_next(world: World) -> None:
    @behaviour
    def write_after(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                if item == 1:
                    write(ctx, -1)
            write(ctx, item)

    world.deliver(sample_one, message("write_after"))
    assert world.row("it")["error_type"] == "PartialFailure"
    assert counts(world) == once_each([0, 2])


def test_children_of_an_item_that_fails_are_never_sent(world: World) -> None:
    @behaviour
    def enqueue_per_item(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                ctx.enqueue(sample_one, Sample(number=item), task_id=f"child-{item}")
                if item == 1:
                    raise ValueError("no")

    watched = world.watch()
    world.deliver(sample_one, message("enqueue_per_item"))
    assert [row[0] for row in world.run("select id from joblane.tasks where id like 'child-%' order by 1")] == [
        "child-0",
        "child-2",
    ]
    assert len(watched.sent) == 2


@pytest.mark.parametrize(
    ("error", "state", "attempts"),
    [
        (RetryAfter(timedelta(seconds=300)), "retry", 1),
        (Snooze(timedelta(seconds=300)), "pending", 0),
        (SkipRetry("hopeless"), "archived", 1),
        (RevokeTask("not needed"), "cancelled", 1),
    ],
)
def test_what_speaks_for_the_whole_task_ends_the_loop(
    world: World, error: Exception, state: str, attempts: int
) -> None:
    handled: list[int] = []

    @behaviour
    def speak_for_all(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                handled.append(item)
                write(ctx, item)
                if item == 2:
                    raise error

    world.deliver(sample_one, message("speak_for_all"))
    assert handled == [0, 1, 2]
    row = world.row("it")
    assert (row["state"], row["attempts"]) == (state, attempts)
    assert counts(world) == once_each([0, 1])
    if state in ("retry", "pending"):
        assert world.run("select due_at - now() > interval '290 s' from joblane.tasks where id = 'it'") == [[True]]


def test_an_outage_during_an_item_fails_the_run_and_not_every_item(world: World) -> None:
    handled: list[int] = []

    @behaviour
    def lose_the_connection_in_the_loop(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                handled.append(item)
                if item == 2 and ctx.attempt == 1:
                    pid = ctx.session.execute(text("select pg_backend_pid()")).scalar_one()
                    world.run("select pg_terminate_backend($1::int, 5000)", str(pid))
                write(ctx, item)

    assert len(world.deliver(sample_one, message("lose_the_connection_in_the_loop"))) == 1
    assert handled == [0, 1, 2]
    assert counts(world) == once_each([0, 1])
    assert run_again(world, "lose_the_connection_in_the_loop") == []
    assert counts(world) == once_each(range(5))


# --- Runs that overlap, or end in the middle -----------------------------------------------------------------------


def test_a_process_killed_in_the_middle_does_the_item_in_hand_again_and_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HANDLED, str(tmp_path / "handled"))
    put(world, sample_long, "it", {"do": "each_until_killed", "number": 42})
    message = record({"type": "sample:long", "id": "it", "rec": True}, world.lane(sample_long))
    with killable_workers() as pool, pool.over(world) as workers:
        assert workers.handle("sample:long", message) is None
        assert workers.status == KILLED
        assert counts(world) == once_each(range(42))
        world.expire_leases()
        assert workers.handle("sample:long", message) == []

    assert (world.row("it")["state"], world.outcomes("it")) == ("completed", ["lost", "completed"])
    assert counts(world) == once_each(range(100))
    handled = Counter(int(line) for line in (tmp_path / "handled").read_text().split())
    assert handled == once_each(range(100)) | {42: 2}


def test_a_run_whose_lease_is_lost_rolls_its_item_back_and_leaves_the_message(world: World) -> None:
    ends: list[type[BaseException]] = []

    @behaviour
    def be_overtaken(payload: Sample, ctx: TaskContext) -> None:
        try:
            for item in ctx.each(range(5)):
                write(ctx, item)
                if item == 2 and ctx.attempt == 1:
                    world.expire_leases()
                    with world.rival(sample_one) as other:
                        assert handle(other, record(message("be_overtaken"), world.lane(sample_one))) == []
        except LeaseLostError as error:
            ends.append(type(error))
            raise

    assert len(world.deliver(sample_one, message("be_overtaken"))) == 1
    assert ends == [LeaseLostError]
    assert (world.row("it")["state"], world.outcomes("it")) == ("completed", ["lost", "completed"])
    assert counts(world) == once_each(range(5))


def test_an_item_is_not_kept_by_a_run_that_holds_no_lease_though_nobody_has_done_it(world: World) -> None:
    @behaviour
    def lose_it_in_silence(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            write(ctx, item)
            if item == 2:
                world.run("update joblane.tasks set lease_token = gen_random_uuid()")

    assert len(world.deliver(sample_one, message("lose_it_in_silence"))) == 1
    assert counts(world) == once_each([0, 1])
    assert (world.row("it")["state"], world.outcomes("it")) == ("active", [None])


def test_a_lost_lease_is_no_failure_of_one_item(world: World) -> None:
    handled: list[int] = []

    @behaviour
    def lose_it_isolated(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                handled.append(item)
                world.run("update joblane.tasks set lease_token = gen_random_uuid()")
                ctx.check()

    assert len(world.deliver(sample_one, message("lose_it_isolated"))) == 1
    assert handled == [0]
    assert (world.row("it")["state"], world.outcomes("it")) == ("active", [None])


def test_a_commit_that_the_database_does_not_take_leaves_the_item_undone(world: World) -> None:
    broken: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        if sql == "commit" and counts(world) == {0: 1, 1: 1} and not broken:
            broken.append(sql)
            world.run(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and state = 'idle in transaction'"
            )
        return send()

    @behaviour
    def plain(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(4)):
            write(ctx, item)

    world.database = HookedDatabase(world.url, hook)
    assert len(world.deliver(sample_one, message("plain"))) == 1
    assert broken == ["commit"]
    assert counts(world) == once_each([0, 1])
    assert run_again(world, "plain") == []
    assert counts(world) == once_each(range(4))


# --- What may be looped over ---------------------------------------------------------------------------------------


def test_items_come_with_keys_of_their_own(world: World) -> None:
    codes = [uuid.uuid4() for _ in range(3)]

    @behaviour
    def by_key(payload: Sample, ctx: TaskContext) -> None:
        for _, number in ctx.each(zip(codes, range(3), strict=True), key=lambda item: f"code {item[0]}"):
            write(ctx, number)
        for item in ctx.each([*codes, *codes]):  # those of the same key are one
            write(ctx, 10 + codes.index(item))

    assert world.deliver(sample_one, message("by_key")) == []
    assert counts(world) == once_each([0, 1, 2, 10, 11, 12])
    keys = {row[0] for row in world.run("select key from joblane.task_items")}
    assert keys == {str(code) for code in codes} | {f"code {code}" for code in codes}


def test_entities_of_a_query_are_looped_over_while_each_commit_ends_its_transaction(world: World) -> None:
    @behaviour
    def by_entity(payload: Sample, ctx: TaskContext) -> None:
        found = ctx.session.scalars(select(Thing).order_by(Thing.id))
        for thing in ctx.each(found, key=lambda one: str(one.id)):
            with ctx.isolated():
                write(ctx, thing.id)
                thing.maybe = thing.id
                if ctx.attempt == 1 and thing.id == 3:
                    raise ValueError("no")

    world.deliver(sample_one, message("by_entity"))
    assert world.run("select id from things where maybe is null") == [[3]]
    assert run_again(world, "by_entity") == []
    assert counts(world) == once_each(range(1, 21))


def test_items_without_database_work_are_marked_too(world: World) -> None:
    handled: list[int] = []

    @behaviour
    def each_elsewhere(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                handled.append(item)
                if ctx.attempt == 1 and item == 1:
                    raise ValueError("no")

    world.deliver(sample_one, message("each_elsewhere"))
    assert run_again(world, "each_elsewhere") == []
    assert handled == [0, 1, 2, 1]


class Bare:
    pass


@pytest.mark.parametrize(
    ("items", "key", "problem"),
    [
        ([Bare()], str, r"key: Bare does not define str\(\)"),
        ([1], lambda item: item, "key: text is required, not int"),
        ([1], lambda item: "", "key: text of 1 to 2,000 bytes is required, not 0"),
        (["ä" * 1001], str, "key: text of 1 to 2,000 bytes is required, not 2,002"),
        (["a\0b"], str, "key: contains a NUL character"),
        (["\ud800"], str, "key: contains a lone surrogate"),
    ],
)
def test_a_key_that_cannot_tell_items_apart_is_refused_before_the_item(
    world: World, items: list[Any], key: Callable[[Any], str], problem: str
) -> None:
    handled: list[Any] = []

    @behaviour
    def by_a_bad_key(payload: Sample, ctx: TaskContext) -> None:
        with pytest.raises(ItemKeyError, match=problem):
            handled.extend(ctx.each(items, key=key))

    assert world.deliver(sample_one, message("by_a_bad_key")) == []
    assert handled == []


def test_the_longest_key_is_kept_with_any_characters(world: World) -> None:
    import random

    draw = random.Random(7)
    key = "".join(chr(draw.randrange(0x10000, 0x20000)) for _ in range(500))

    @behaviour
    def by_a_long_key(payload: Sample, ctx: TaskContext) -> None:
        assert len(list(ctx.each([key]))) == 1

    assert world.deliver(sample_one, message("by_a_long_key")) == []
    assert world.run("select key from joblane.task_items") == [[key]]


def nested(ctx: TaskContext) -> Iterator[Any]:
    for _ in ctx.each(range(3)):
        yield from ctx.each(range(3))


def nested_in_a_chunk(ctx: TaskContext) -> Iterator[Any]:
    for _ in ctx.resume(range(3)):
        yield from ctx.each(range(3))


def isolated_without_a_loop(ctx: TaskContext) -> Iterator[Any]:
    with ctx.isolated():
        yield


def isolated_in_a_chunk(ctx: TaskContext) -> Iterator[Any]:
    for item in ctx.resume(range(3)):
        with ctx.isolated():  # its rollback would take the chunk with it
            yield item


def isolated_after_the_loop(ctx: TaskContext) -> Iterator[Any]:
    for _ in ctx.each(range(3)):
        break
    with ctx.isolated():
        yield


@pytest.mark.parametrize(
    "use", [nested, nested_in_a_chunk, isolated_without_a_loop, isolated_in_a_chunk, isolated_after_the_loop]
)
def test_loops_that_would_keep_half_an_item_are_refused(
    world: World, use: Callable[[TaskContext], Iterator[Any]]
) -> None:
    @behaviour
    def misuse(payload: Sample, ctx: TaskContext) -> None:
        with pytest.raises(JobError, match=r"cannot be inside another such loop|belongs inside a loop over ctx.each"):
            list(use(ctx))

    assert world.deliver(sample_one, message("misuse")) == []


def test_isolated_works_in_a_loop_that_follows_a_resumed_one(world: World) -> None:
    @behaviour
    def one_then_the_other(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(range(3)):
            write(ctx, item)
        for item in ctx.each(range(10, 13)):
            with ctx.isolated():
                write(ctx, item)

    assert world.deliver(sample_one, message("one_then_the_other")) == []
    assert counts(world) == once_each([0, 1, 2, 10, 11, 12])


def test_an_item_costs_a_mark_and_a_commit_in_addition_to_its_own_work(world: World) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        statements.append(sql)
        return send()

    @behaviour
    def ten_items(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(10)):
            if item == 1:
                statements.clear()
            write(ctx, item)

    world.database = HookedDatabase(world.url, hook)
    assert world.deliver(sample_one, message("ten_items")) == []
    assert Counter(statement.split()[0].lower() for statement in statements) == {
        "begin": 9,
        "insert": 18,
        "commit": 9,
        "select": 1,
        "close": 1,  # the session is reset
    }


def test_a_loop_that_is_left_early_keeps_its_item_with_the_completion(world: World) -> None:
    @behaviour
    def leave(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            write(ctx, item)
            if item == 2:
                break

    assert world.deliver(sample_one, message("leave")) == []
    assert (world.row("it")["state"], counts(world)) == (State.COMPLETED, once_each([0, 1, 2]))
