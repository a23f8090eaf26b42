"""Waits in a worker: its messages, its commits, what it refuses, and kills between its statements."""

from __future__ import annotations

import asyncio
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import TaskContext
from joblane.enqueue.follow_up import FollowUp
from joblane.errors import StepError
from joblane.handler import steps
from joblane.handler.waits import Waits
from joblane.record.task.finish import SUSPEND
from joblane.record.task.waits import READ, READ_SIGNAL
from joblane.testing.faults import Hook, HookedDatabase, Send
from joblane.worker.worker import Worker
from tests import logs
from tests.builders.events import message, record
from tests.builders.handlers import INSERT, Handler, run, write, write_async, written
from tests.samples import Sample, behaviour, behaviours, sample_async, sample_batch, sample_one
from tests.world import PREFIX, World, handle

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def waits(world: World) -> list[str]:
    return [name for (name,) in world.run("select name from joblane.task_waits order by name")]


def approve(ctx: TaskContext) -> Any:
    write(ctx, "asked")
    answer = ctx.wait("approval", timeout=HOUR)
    write(ctx, "answered")
    return answer


# --- Commits and messages ------------------------------------------------------------------------------------------


def test_the_work_before_a_wait_commits_with_the_stop(effects: World) -> None:
    row = run(effects, approve)
    assert (row["state"], row["attempts"], row["kept"]) == ("scheduled", 0, False)
    assert (written(effects), waits(effects)) == (["asked"], ["approval"])
    effects.client.signal("it", "approval", "yes")
    row = run(effects, approve)
    assert (row["state"], row["result"], effects.outcomes("it")) == ("completed", "yes", ["waiting", "completed"])
    assert written(effects) == ["answered", "asked", "asked"]  # work outside of a step is done by each run


@pytest.mark.parametrize(("timeout", "delay"), [(5 * MINUTE, 300), (15 * MINUTE, 900), (16 * MINUTE, None)])
def test_the_next_message_is_sent_before_the_old_one_is_acknowledged(
    world: World, timeout: timedelta, delay: int | None
) -> None:
    watched = world.watch()
    row = run(world, lambda ctx: ctx.wait("approval", timeout=timeout))
    assert not row["kept"]
    assert [entry.delay_seconds for entry in watched.sent] == ([] if delay is None else [delay])
    assert [entry.keeps_chain for entry in watched.sent] == [False] * len(watched.sent)
    assert [json.loads(entry.body)["id"] for entry in watched.sent] == ["it"] * len(watched.sent)


def test_the_old_message_stays_if_sqs_refuses_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.sqs, "send_many", lambda entries, **_: dict.fromkeys(range(len(entries)), "refused"))
    assert run(world, lambda ctx: ctx.sleep("a while", MINUTE))["kept"]


def test_a_run_reads_its_history_once_and_each_open_signal_once(effects: World) -> None:
    def two_answers(ctx: TaskContext) -> Any:
        answers = [ctx.wait("first", timeout=HOUR), ctx.step("between", lambda key: 1)]
        return [*answers, ctx.wait("second", timeout=HOUR)]

    counts: list[dict[str, int]] = []
    for signal in ("first", "second", None):
        seen = dict.fromkeys((READ, READ_SIGNAL, SUSPEND), 0)

        def hook(sql: str, send: Send, seen: dict[str, int] = seen) -> Any:
            if sql in seen:
                seen[sql] += 1
            return send()

        behaviours["handler_of_the_test"] = lambda _, ctx: two_answers(ctx)
        effects.run("update joblane.tasks set due_at = clock_timestamp()")
        with effects.rival(sample_one, hook) as worker:
            handle(
                worker, record(message("handler_of_the_test", "it", type_=sample_one.type), effects.lane(sample_one))
            )
        counts.append(seen)
        if signal:
            effects.client.signal("it", signal, signal)
    assert effects.row("it")["result"] == ["first", 1, "second"]
    # the first run has no history; the second one reads the signal of its second wait once more, before it stops
    assert [list(seen.values()) for seen in counts] == [[0, 1, 1], [1, 1, 1], [1, 0, 0]]


def test_a_task_without_waits_has_no_statement_for_them(effects: World) -> None:
    seen: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        seen.append(sql)
        return send()

    behaviours["handler_of_the_test"] = lambda _, ctx: write(ctx)
    with effects.rival(sample_one, hook) as worker:
        handle(worker, record(message("handler_of_the_test", "it", type_=sample_one.type), effects.lane(sample_one)))
    assert effects.row("it")["state"] == "completed"
    assert not [sql for sql in seen if "task_waits" in sql or "task_signals" in sql or "suspend" in sql]


def test_in_a_batch_some_stop_some_end_and_some_fail(effects: World) -> None:
    """And some get their signal during their run."""

    @behaviour
    def by_number(payload: Sample, ctx: TaskContext) -> Any:
        write(ctx)
        match payload.number % 4:
            case 0:
                ctx.sleep("a while", MINUTE)
            case 1:
                raise ValueError("it failed")
            case 2:
                effects.client.signal(ctx.task_id, "approval", "signalled")
                return ctx.wait("approval", timeout=HOUR)
        return "ended"

    bodies = [message("by_number", f"t{n}", type_=sample_batch.type, number=n) for n in range(10)]
    kept = effects.deliver(sample_batch, *bodies)
    rows = [effects.row(f"t{number}") for number in range(10)]
    each = [("scheduled", None), ("retry", None), ("completed", "signalled"), ("completed", "ended")]
    assert [(row["state"], row["result"]) for row in rows] == [each[number % 4] for number in range(10)]
    assert len(kept) == 3
    assert len(written(effects)) == 7  # the work of those that failed is rolled back
    assert [effects.outcomes(f"t{number}") for number in (0, 4, 8)] == [["waiting"]] * 3


def test_a_cancelled_run_does_not_stop(effects: World) -> None:
    def cancelled(ctx: TaskContext) -> None:
        write(ctx)
        effects.client.cancel("it")
        ctx.sleep("a while", HOUR)

    row = run(effects, cancelled)
    assert (row["state"], written(effects), waits(effects)) == ("cancelled", [], [])


def test_a_run_that_lost_its_lease_does_not_stop(effects: World) -> None:
    def taken(ctx: TaskContext) -> None:
        write(ctx)
        effects.run("update joblane.tasks set lease_token = gen_random_uuid()")
        ctx.sleep("a while", HOUR)

    assert run(effects, taken)["kept"]
    assert (written(effects), waits(effects)) == ([], [])


def test_each_part_between_two_waits_has_all_its_attempts(effects: World) -> None:
    failures = iter([True, True, True, False, True, True, True, False])

    def fails(ctx: TaskContext) -> int:
        if next(failures):
            raise ValueError("again")
        ctx.sleep("a while", MINUTE)
        return ctx.attempt

    for _ in range(4):
        row = run(effects, fails)
    assert (row["state"], row["attempts"], row["error_type"]) == ("scheduled", 0, None)
    effects.run("update joblane.task_waits set until = clock_timestamp()")
    for _ in range(4):
        row = run(effects, fails)
    assert (row["state"], row["result"]) == ("completed", 4)  # max_retry is 3


def test_names_that_a_completed_run_did_not_use_are_logged_without_values(effects: World) -> None:
    def first(ctx: TaskContext) -> None:
        ctx.step("charge", lambda key: 471147114711)
        ctx.step("mail", lambda key: 1)
        ctx.sleep("pause", HOUR)

    def renamed(ctx: TaskContext) -> None:
        ctx.step("charge 2", lambda key: 2)
        ctx.step("mail", lambda key: 1)

    run(effects, first)
    with logs.lines() as lines:
        assert run(effects, renamed)["state"] == "completed"
    [line] = [line for line in lines.fields if "without steps or waits" in line["message"]]
    assert (line["names"], line["unused"], line["task_id"]) == (["charge", "pause"], 2, "it")
    assert "47114711" not in str(lines.texts)


STRICT = """
do $$ begin
  execute format('alter database %I set default_transaction_isolation = ''repeatable read''', current_database());
end $$
"""


def test_a_run_with_an_old_snapshot_wakes_its_task_itself(effects: World) -> None:
    effects.run(STRICT)
    effects.database.drop()
    watched = effects.watch()
    signals = iter([True, False])

    def signalled(ctx: TaskContext) -> Any:
        ctx.session.execute(INSERT, {"id": "it", "what": ctx.session.scalar(text("show transaction_isolation"))})
        if next(signals):  # the snapshot of the run is taken
            effects.client.signal("it", "approval", 5)
        return ctx.wait("approval", timeout=HOUR)

    assert run(effects, signalled)["state"] == "pending"
    assert [entry.delay_seconds for entry in watched.sent] == [0]
    assert run(effects, signalled)["result"] == 5
    assert written(effects) == ["repeatable read"] * 2


def test_an_async_handler_stops_and_its_work_commits(effects: World) -> None:
    async def approved(ctx: TaskContext) -> Any:
        await write_async(ctx, "asked")
        return await ctx.await_signal("approval", timeout=HOUR)

    assert run(effects, approved, task=sample_async)["state"] == "scheduled"
    assert written(effects) == ["asked"]
    effects.client.signal("it", "approval", 1)
    assert run(effects, approved, task=sample_async)["result"] == 1


def test_an_exception_handler_of_a_wait_does_not_catch_the_stop(effects: World) -> None:
    def careful(ctx: TaskContext) -> Any:
        with suppress(Exception):
            return ctx.wait("approval", timeout=HOUR)
        return "caught"

    assert run(effects, careful)["state"] == "scheduled"


# --- What is refused -----------------------------------------------------------------------------------------------


def in_a_step(ctx: TaskContext) -> None:
    ctx.step("a", lambda key: ctx.wait("b", timeout=HOUR))


def in_a_poll(ctx: TaskContext) -> None:
    ctx.poll("a", lambda: ctx.step("b", lambda key: 1), every=MINUTE, timeout=HOUR)


def in_a_loop(ctx: TaskContext) -> None:
    for _ in ctx.each(["a"]):
        ctx.sleep("b", HOUR)


def in_a_savepoint(ctx: TaskContext) -> None:
    with ctx.session.begin_nested():
        ctx.sleep("b", HOUR)


def name_twice(ctx: TaskContext) -> None:
    ctx.step("a", lambda key: 1)
    ctx.sleep("a", HOUR)


def call_in_finally(ctx: TaskContext) -> None:
    try:
        ctx.sleep("a", HOUR)
    finally:
        ctx.step("b", lambda key: 1)


def session_in_finally(ctx: TaskContext) -> None:
    try:
        ctx.sleep("a", HOUR)
    finally:
        write(ctx)


def loop_after_the_stop(ctx: TaskContext) -> None:
    try:
        ctx.sleep("a", HOUR)
    finally:
        for _ in ctx.each(["a"]):
            pass


def caught(ctx: TaskContext) -> str:
    with suppress(BaseException):
        ctx.sleep("a", HOUR)
    return "went on"


def in_a_thread(ctx: TaskContext) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ctx.sleep, "a", HOUR)  # the error stays in the thread


REFUSED: list[tuple[Handler, str]] = [
    (in_a_step, "step 'b': it cannot be inside another step, or run with it"),
    (in_a_poll, "step 'b': it cannot be inside another step, or run with it"),
    (in_a_loop, r"step 'b': it cannot be inside a loop over ctx.each"),
    (in_a_savepoint, "step 'b': ctx.sleep cannot be inside of begin_nested"),
    (name_twice, "step 'a': this run has used the name already; each step and each wait needs a name of its own"),
    (
        call_in_finally,
        "ctx.step: the run has stopped at the wait 'a', so it can do nothing more. Do not catch the stop",
    ),
    (session_in_finally, "ctx.session: the run has stopped at the wait 'a'"),
    (loop_after_the_stop, "ctx.each: the run has stopped at the wait 'a'"),
    (caught, "the handler has caught the stop of the run. Do not catch it"),
    (in_a_thread, "step 'a': ctx.sleep is in another asyncio task or thread than the handler"),
    (lambda ctx: ctx.wait("é", timeout=HOUR), "signal: 1 to 100 printable ASCII characters are required"),
    (lambda ctx: ctx.wait("a", timeout=timedelta(0)), "timeout: a timedelta of more than zero and at most 3,650 days"),
    (lambda ctx: ctx.wait("a", timeout=3651 * DAY), "timeout: a timedelta of more than zero and at most 3,650 days"),
    (lambda ctx: ctx.wait("a", timeout=None), "a wait always has an end"),  # type: ignore[arg-type]
    (lambda ctx: ctx.sleep("a", 3651 * DAY), "duration: at most 3,650 days are required"),
    (lambda ctx: ctx.sleep("a", datetime(2099, 1, 1)), "duration: a time with a time zone is required"),  # noqa: DTZ001
    (lambda ctx: ctx.sleep("a", 5), "duration: a timedelta or a datetime is required, not int"),  # type: ignore[arg-type]
    (lambda ctx: ctx.sleep("", HOUR), "the name of a step or a wait is a string of 1 to 100 printable characters"),
    (lambda ctx: ctx.poll("a", lambda: None, every=MINUTE / 61, timeout=HOUR), "every: a timedelta of 1 second to"),
    (lambda ctx: ctx.poll("a", 5, every=MINUTE, timeout=HOUR), "a function without arguments is required"),  # type: ignore[arg-type]
    (lambda ctx: ctx.poll("a", object, every=MINUTE, timeout=HOUR), "which cannot be written as JSON"),
]


@pytest.mark.parametrize(("handler", "problem"), REFUSED)
def test_a_wait_in_a_wrong_place_is_refused_with_what_to_do(effects: World, handler: Handler, problem: str) -> None:
    row = run(effects, handler)
    assert (row["state"], row["error_type"]) == ("archived", StepError.__name__)
    assert problem in row["error_message"]
    assert (waits(effects), written(effects)) == ([], [])


def test_a_wait_without_a_timeout_is_refused_by_python(effects: World) -> None:
    row = run(effects, lambda ctx: ctx.wait("a"))  # type: ignore[call-arg]
    assert "missing 1 required keyword-only argument: 'timeout'" in row["error_message"]


def test_a_wait_in_another_asyncio_task_is_refused(effects: World) -> None:
    async def gathered(ctx: TaskContext) -> None:
        await asyncio.gather(ctx.asleep("a", HOUR), ctx.asleep("b", HOUR))

    row = run(effects, gathered, task=sample_async)
    assert (row["state"], waits(effects)) == ("archived", [])
    assert "ctx.asleep is in another asyncio task or thread than the handler" in row["error_message"]


def test_a_wait_in_a_task_group_is_refused(effects: World) -> None:
    async def grouped(ctx: TaskContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            await ctx.asleep("a", HOUR)

    row = run(effects, grouped, task=sample_async)
    assert (row["state"], waits(effects)) == ("archived", [])
    assert "step 'a': the handler has caught the stop of the run." in row["error_message"]
    assert "do not wait in an asyncio.TaskGroup" in row["error_message"]


def test_a_step_does_not_take_the_name_of_an_earlier_wait_nor_a_wait_that_of_a_step(effects: World) -> None:
    def first(ctx: TaskContext) -> None:
        ctx.step("s", lambda key: 1)
        ctx.sleep("w", HOUR)

    changes: list[tuple[Handler, str]] = [
        (lambda ctx: ctx.step("w", lambda key: 1), "an earlier run has stopped at a wait of this name"),
        (lambda ctx: ctx.sleep("s", HOUR), "an earlier run has stored a step of this name"),
        (lambda ctx: ctx.wait("s", timeout=HOUR), "an earlier run has stored a step of this name"),
    ]
    for number, (changed, problem) in enumerate(changes):
        run(effects, first, f"t{number}")
        row = run(effects, changed, f"t{number}")
        assert row["state"] == "archived"
        assert problem in row["error_message"]


def test_a_task_has_a_limited_number_of_steps_and_waits_and_a_limited_size(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", 2)
    monkeypatch.setattr(steps, "MAX_ALL_BYTES", 20)

    def three(ctx: TaskContext) -> None:
        ctx.step("a", lambda key: 1)
        ctx.step("b", lambda key: 1)
        ctx.sleep("c", HOUR)

    def large(ctx: TaskContext) -> None:
        ctx.step("a", lambda key: "x" * 10)
        ctx.step("b", lambda key: "x" * 10)

    assert "a task has at most 2 steps and waits" in run(effects, three, "t")["error_message"]
    assert "have 24 bytes as JSON, and at most 20 are stored" in run(effects, large, "u")["error_message"]


# --- Kills ---------------------------------------------------------------------------------------------------------


class DiedError(BaseException):
    """The process ends here."""


def dies_at(number: int) -> Hook:
    """Return a hook that ends the process after its statement of this number."""
    seen: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        if len(seen) >= number:
            raise DiedError
        answer = send()
        seen.append(sql)
        if len(seen) == number:
            raise DiedError
        return answer

    return hook


def attempt(world: World, hook: Hook, id_: str) -> bool:
    """Deliver the task to a process with a hook. Return False if it died."""
    database = HookedDatabase(world.url, hook)
    world.lane(sample_one)
    try:
        worker = Worker(sample_one, database, world.sqs, PREFIX)
        handle(worker, record(message("handler_of_the_test", id_, type_=sample_one.type), world.lane(sample_one)))
    except DiedError:
        return False
    finally:
        database.drop()
    return True


def test_a_worker_that_forgets_to_look_again_after_a_stop_is_found(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FollowUp, "_wake", lambda *_: iter(()))
    with pytest.raises(AssertionError):
        test_a_run_with_an_old_snapshot_wakes_its_task_itself(effects)


@pytest.mark.parametrize("part", range(3), ids=["first stop", "expiry and second stop", "end"])
def test_a_process_that_dies_after_any_statement_loses_no_wait_and_no_signal(effects: World, part: int) -> None:
    def asked_twice(ctx: TaskContext) -> Any:
        ctx.step("ask", lambda key: write(ctx, f"ask {ctx.task_id}"))
        first = ctx.wait("approval", timeout=HOUR, default=None)
        second = ctx.wait("approval", name="again", timeout=HOUR, default="expired")
        ctx.step("end", lambda key: write(ctx, f"end {ctx.task_id}"))
        return [first, second]

    behaviours["handler_of_the_test"] = lambda _, ctx: asked_twice(ctx)
    for number in itertools.count(1):
        id_ = f"t{number}"
        effects.client.enqueue(sample_one, Sample(do="handler_of_the_test"), task_id=id_)
        is_alive = True
        for each in range(3):
            if each == part:
                is_alive = attempt(effects, dies_at(number), id_)
                effects.expire_leases()
            if each != part or not is_alive:
                effects.run("update joblane.tasks set due_at = now() where id = $1 and state <> 'active'", id_)
                run(effects, asked_twice, id_)
            if each == 0:  # the first wait expires, and the second one gets its signal
                effects.run("update joblane.task_waits set until = clock_timestamp() where task_id = $1", id_)
                effects.run("update joblane.tasks set due_at = clock_timestamp() where id = $1", id_)
            if each == 1:
                effects.client.signal(id_, "approval", 7)
        row = effects.row(id_)
        assert (row["state"], row["result"]) == ("completed", [None, 7]), id_
        assert effects.run("select what from effects where task_id = $1 order by what", id_) == [
            [f"ask {id_}"],
            [f"end {id_}"],
        ]
        if is_alive:
            break
    assert number > 3


def test_an_expiry_that_is_not_committed_is_found(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waits, "_expire", lambda *_: [])
    with pytest.raises(AssertionError):
        test_a_process_that_dies_after_any_statement_loses_no_wait_and_no_signal(effects, 0)
