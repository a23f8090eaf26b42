"""Work that commits item by item: the cost of a failing item, and the items that another run repeats."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from joblane import PartialFailure, RetryAfter, RevokeTask, SkipRetry, Snooze, TaskContext
from joblane.errors import ItemKeyError, JobError, LeaseLostError
from joblane.testing.faults import HookedDatabase, Send
from tests.builders.events import message, record
from tests.builders.handlers import Handler, run
from tests.builders.rows import put
from tests.kills import KILLED, killable_workers
from tests.samples import Sample, sample_one
from tests.samples_long import HANDLED, Thing, counts, make_things, sample_long, write
from tests.world import World, handle


@pytest.fixture(autouse=True)
def things(world: World) -> None:
    make_things(world, 20)


def once_each(numbers: Any) -> dict[int, int]:
    return dict.fromkeys(numbers, 1)


# --- What a failing item costs -------------------------------------------------------------------------------------


def test_of_a_thousand_items_a_retry_touches_only_those_that_failed(world: World) -> None:
    handled: Counter[int] = Counter()
    raised: list[PartialFailure] = []

    def most_work(ctx: TaskContext) -> None:
        try:
            for item in ctx.each(range(1000)):
                with ctx.isolated():
                    handled[item] += 1
                    write(ctx, item)
                    if ctx.attempt == 1 and item % 100 == 7:
                        raise ValueError("not now")
        except PartialFailure as failure:
            raised.append(failure)
            raise

    patient = replace(sample_one, timeout=timedelta(minutes=4))  # a thousand commits, on a machine that may be busy
    row = run(world, most_work, task=patient, seconds=240)
    failing = set(range(7, 1000, 100))
    assert handled == once_each(range(1000))
    assert counts(world) == once_each(set(range(1000)) - failing)
    assert (raised[0].failed, raised[0].done, str(raised[0].first)) == (10, 990, "not now")
    assert (row["state"], row["attempts"], row["error_type"]) == ("retry", 1, "PartialFailure")
    assert row["error_message"] == "10 of 1000 items failed, the first with ValueError"
    handled.clear()
    assert run(world, most_work)["state"] == "completed"
    assert handled == once_each(failing)
    assert counts(world) == once_each(range(1000))
    assert len(raised) == 1


def test_a_task_with_an_item_that_keeps_failing_is_archived_with_the_others_done(world: World) -> None:
    def one_never_works(ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated():
                write(ctx, item)
                if item == 3:
                    raise ValueError("never")

    rows = [run(world, one_never_works) for _ in range(4)]
    assert [row["state"] for row in rows] == ["retry"] * 3 + ["archived"]
    assert rows[-1]["error_message"] == "1 of 5 items failed, the first with ValueError"
    assert counts(world) == once_each([0, 1, 2, 4])
    assert len(world.dead_letters(sample_one)) == 1


# --- Stops at an item ----------------------------------------------------------------------------------------------


def raising(error: Exception) -> Handler:
    def fail(ctx: TaskContext) -> None:
        raise error

    return fail


def refused_by_a_constraint(ctx: TaskContext) -> None:
    write(ctx, -1)


def swallowed(ctx: TaskContext) -> None:
    try:
        write(ctx, -1)
    except Exception:
        write(ctx, -2)  # the transaction is broken already


def lose_the_connection(ctx: TaskContext) -> None:
    pid = ctx.session.execute(text("select pg_backend_pid()")).scalar_one()
    with ctx._producer.database().another() as other:
        other.get().run("select pg_terminate_backend($1::int, 5000)", str(pid))
    write(ctx, 99)


def lose_the_lease(ctx: TaskContext) -> None:
    with ctx._producer.database().another() as other:
        other.get().run("update joblane.tasks set lease_token = gen_random_uuid()")


def lose_the_lease_and_check(ctx: TaskContext) -> None:
    lose_the_lease(ctx)
    ctx.check()


def refused_at_the_flush(ctx: TaskContext) -> None:
    ctx.session.add(Thing(id=1))  # there is one already, and what it lacks is not null


def not_sql(ctx: TaskContext) -> None:
    ctx.session.execute(text("selekt"))


def no_file(ctx: TaskContext) -> None:
    Path("/nowhere/at/all").read_text()


@dataclass(frozen=True)
class Stop:
    """The fate of the third of five items in the first run. ``others``: those of its items that are kept."""

    act: Handler
    others: Sequence[int] = (0, 1, 3, 4)
    state: str = "retry"
    error: str | None = "PartialFailure"
    attempts: int = 1
    isolated: bool = True
    waits: bool = False


NO_ANSWER = raising(ConnectionRefusedError("the service of this item does not answer"))
WAIT = timedelta(seconds=300)
STOPS = {
    "a refusal by a constraint": Stop(refused_by_a_constraint),
    "a refusal at the flush": Stop(refused_at_the_flush),
    "a statement that is not SQL": Stop(not_sql),
    "an outage for one item": Stop(NO_ANSWER),
    "a file that is not there": Stop(no_file),
    "an error that it swallows": Stop(swallowed),
    "an error outside of isolated": Stop(raising(ValueError("stop")), (0, 1), error="ValueError", isolated=False),
    "RetryAfter": Stop(raising(RetryAfter(WAIT)), (0, 1), error=None, waits=True),
    "Snooze": Stop(raising(Snooze(WAIT)), (0, 1), "pending", None, attempts=0, waits=True),
    "SkipRetry": Stop(raising(SkipRetry("hopeless")), (0, 1), "archived", "SkipRetry"),
    "RevokeTask": Stop(raising(RevokeTask("not needed")), (0, 1), "cancelled", None),
    "a lost connection": Stop(lose_the_connection, (0, 1), error=None),
    "a lost lease": Stop(lose_the_lease, (0, 1), "active", None, isolated=False),
    "a lost lease that a check finds": Stop(lose_the_lease_and_check, (0, 1), "active", None),
}


@pytest.mark.parametrize("name", STOPS)
def test_an_item_that_stops_costs_only_itself_or_ends_the_loop(world: World, name: str) -> None:
    stop, handled, stopped = STOPS[name], list[int](), list[str]()

    def handler(ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            with ctx.isolated() if stop.isolated else nullcontext():
                handled.append(item)
                write(ctx, item)
                if item == 2 and not stopped:
                    stopped.append(name)
                    stop.act(ctx)

    row = run(world, handler)

    assert (row["state"], row["attempts"]) == (stop.state, stop.attempts)
    assert stop.error in (row["error_type"], None)
    assert stop.error != "PartialFailure" or row["error_message"].startswith("1 of 5 items failed")
    assert handled == [0, 1, 2, *stop.others[2:]]
    assert counts(world) == once_each(stop.others)
    if stop.waits:
        assert world.run("select due_at - now() > interval '290 s' from joblane.tasks where id = 'it'") == [[True]]
    if stop.state in ("archived", "cancelled"):
        return
    # then the next run handles only what was not kept
    world.expire_leases()
    assert run(world, handler)["state"] == "completed"
    assert handled == [0, 1, 2, *stop.others[2:], *(item for item in range(5) if item not in stop.others)]
    assert counts(world) == once_each(range(5))


def test_an_item_without_database_work_is_marked_too(world: World) -> None:
    handled: list[int] = []

    def each_elsewhere(ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                handled.append(item)
                if handled == [0, 1]:
                    raise ValueError("no")

    assert [run(world, each_elsewhere)["state"] for _ in range(2)] == ["retry", "completed"]
    assert handled == [0, 1, 2, 1]


def test_a_run_that_was_overtaken_rolls_its_item_back_and_keeps_its_message(world: World) -> None:
    ends: list[type[BaseException]] = []

    def be_overtaken(ctx: TaskContext) -> None:
        try:
            for item in ctx.each(range(5)):
                write(ctx, item)
                if item == 2 and ctx.attempt == 1:
                    world.expire_leases()
                    with world.rival(sample_one) as other:
                        again = record(message("handler_of_the_test"), world.lane(sample_one))
                        assert handle(other, again) == []
        except LeaseLostError as error:
            ends.append(type(error))
            raise

    assert run(world, be_overtaken)["kept"]
    assert ends == [LeaseLostError]
    assert (world.row("it")["state"], world.outcomes("it")) == ("completed", ["lost", "completed"])
    assert counts(world) == once_each(range(5))


def test_what_is_written_after_an_item_failed_does_not_ride_on_the_next(world: World) -> None:
    def write_after(ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                if item == 1:
                    write(ctx, -1)
            write(ctx, item)

    assert run(world, write_after)["error_type"] == "PartialFailure"
    assert counts(world) == once_each([0, 2])


def test_children_of_an_item_that_fails_are_never_sent(world: World) -> None:
    def enqueue_per_item(ctx: TaskContext) -> None:
        for item in ctx.each(range(3)):
            with ctx.isolated():
                ctx.enqueue(sample_one, Sample(number=item), task_id=f"child-{item}")
                if item == 1:
                    raise ValueError("no")

    watched = world.watch()
    run(world, enqueue_per_item)
    assert [row[0] for row in world.run("select id from joblane.tasks where id like 'child-%' order by 1")] == [
        "child-0",
        "child-2",
    ]
    assert len(watched.sent) == 2


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

    def plain(ctx: TaskContext) -> None:
        for item in ctx.each(range(4)):
            write(ctx, item)

    world.database = HookedDatabase(world.url, hook)
    assert run(world, plain)["kept"]
    assert broken == ["commit"]
    assert counts(world) == once_each([0, 1])
    assert run(world, plain)["state"] == "completed"
    assert counts(world) == once_each(range(4))


# --- What may be looped over ---------------------------------------------------------------------------------------


def test_items_come_with_keys_of_their_own(world: World) -> None:
    codes = [uuid.uuid4() for _ in range(3)]

    def by_key(ctx: TaskContext) -> None:
        for _, number in ctx.each(zip(codes, range(3), strict=True), key=lambda item: f"code {item[0]}"):
            write(ctx, number)
        for item in ctx.each([*codes, *codes]):  # those of the same key are one
            write(ctx, 10 + codes.index(item))

    assert run(world, by_key)["state"] == "completed"
    assert counts(world) == once_each([0, 1, 2, 10, 11, 12])
    keys = {row[0] for row in world.run("select key from joblane.task_items")}
    assert keys == {str(code) for code in codes} | {f"code {code}" for code in codes}


def test_entities_of_a_query_are_looped_over_while_each_commit_ends_its_transaction(world: World) -> None:
    def by_entity(ctx: TaskContext) -> None:
        found = ctx.session.scalars(select(Thing).order_by(Thing.id))
        for thing in ctx.each(found, key=lambda one: str(one.id)):
            with ctx.isolated():
                write(ctx, thing.id)
                thing.maybe = thing.id
                if ctx.attempt == 1 and thing.id == 3:
                    raise ValueError("no")

    run(world, by_entity)
    assert world.run("select id from things where maybe is null") == [[3]]
    assert run(world, by_entity)["state"] == "completed"
    assert counts(world) == once_each(range(1, 21))


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

    def by_a_bad_key(ctx: TaskContext) -> None:
        with pytest.raises(ItemKeyError, match=problem):
            handled.extend(item for item in ctx.each(items, key=key))

    assert run(world, by_a_bad_key)["state"] == "completed"
    assert handled == []


def test_the_longest_key_is_kept_with_any_characters(world: World) -> None:
    import random

    draw = random.Random(7)
    key = "".join(chr(draw.randrange(0x10000, 0x20000)) for _ in range(500))

    def by_a_long_key(ctx: TaskContext) -> None:
        assert len({*ctx.each([key])}) == 1

    assert run(world, by_a_long_key)["state"] == "completed"
    assert world.run("select key from joblane.task_items") == [[key]]


def isolated(ctx: TaskContext, items: Iterable[Any] = (0,)) -> None:
    for _ in items:
        with ctx.isolated():
            pass


MISUSES: dict[str, Callable[[TaskContext], object]] = {
    "a loop in a loop": lambda ctx: [{*ctx.each(range(3))} for _ in ctx.each(range(3))],
    "a loop in a chunk": lambda ctx: [{*ctx.each(range(3))} for _ in ctx.resume(range(3))],
    "isolated without a loop": isolated,
    "isolated in a chunk, whose rollback would take the chunk": lambda ctx: isolated(ctx, ctx.resume(range(3))),
    "isolated after the loop": lambda ctx: isolated(ctx, [next(ctx.each(range(3)))]),
}


@pytest.mark.parametrize("name", MISUSES)
def test_loops_that_would_keep_half_an_item_are_refused(world: World, name: str) -> None:
    def misuse(ctx: TaskContext) -> None:
        with pytest.raises(JobError, match=r"cannot be inside another such loop|belongs inside a loop over ctx.each"):
            MISUSES[name](ctx)

    assert run(world, misuse)["state"] == "completed"


def test_isolated_works_in_a_loop_that_follows_a_resumed_one(world: World) -> None:
    def one_then_the_other(ctx: TaskContext) -> None:
        for item in ctx.resume(range(3)):
            write(ctx, item)
        for item in ctx.each(range(10, 13)):
            with ctx.isolated():
                write(ctx, item)

    assert run(world, one_then_the_other)["state"] == "completed"
    assert counts(world) == once_each([0, 1, 2, 10, 11, 12])


def test_an_item_costs_a_mark_and_a_commit_in_addition_to_its_own_work(world: World) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        statements.append(sql)
        return send()

    def ten_items(ctx: TaskContext) -> None:
        for item in ctx.each(range(10)):
            if item == 1:
                statements.clear()
            write(ctx, item)

    world.database = HookedDatabase(world.url, hook)
    assert run(world, ten_items)["state"] == "completed"
    assert Counter(statement.split()[0].lower() for statement in statements) == {
        "begin": 9,
        "insert": 18,
        "commit": 9,
        "select": 1,
        "close": 1,  # the session is reset
    }


def test_a_loop_that_is_left_early_keeps_its_item_with_the_completion(world: World) -> None:
    def leave(ctx: TaskContext) -> None:
        for item in ctx.each(range(5)):
            write(ctx, item)
            if item == 2:
                break

    assert run(world, leave)["state"] == "completed"
    assert counts(world) == once_each([0, 1, 2])
