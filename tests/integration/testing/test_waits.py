"""Tasks that wait, in virtual time: the rules of waits, polls and signals, and the faults of the kit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text

from joblane import JobClient, Lambda, Payload, Rate, State, TaskContext, task
from joblane.errors import SignalError, UnknownTaskError, WaitExpired
from joblane.testing import JobTester
from joblane.testing.report import NotRunError
from joblane.worker.run import Run

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
APPROVAL = "approval"
calls: Counter[str] = Counter()
ready: set[str] = set()
"""The tasks of `wait:render` whose film is ready."""
OTHERS = JobClient()


class Doc(Payload):
    id: str = "a"
    hours: int = 0
    minutes: int = 1


def called(name: str) -> int:
    calls[name] += 1
    return calls[name]


@task("wait:approve", max_retry=2, retry_delay=MINUTE)
def wait_approve(payload: Doc, ctx: TaskContext) -> Any:
    """It is asked, reminded after two days, and expires after seven."""
    ctx.step("ask", lambda key: called("ask"))
    answer = ctx.wait(APPROVAL, timeout=2 * DAY, default=None)
    if answer is None:
        ctx.step("remind", lambda key: called("remind"))
        answer = ctx.wait(APPROVAL, name="last call", timeout=5 * DAY, default="expired")
    calls["end"] += 1
    return answer


@task("wait:strict", max_retry=2)
def wait_strict(payload: Doc, ctx: TaskContext) -> Any:
    return ctx.wait(APPROVAL, timeout=HOUR)


@task("wait:sleep", max_retry=0)
def wait_sleep(payload: Doc, ctx: TaskContext) -> int:
    ctx.sleep("a while", timedelta(hours=payload.hours))
    ctx.sleep("until", datetime.now(UTC) + HOUR)
    ctx.sleep("not at all", timedelta(0))
    return called("slept")


@task("wait:render", max_retry=1)
def wait_render(payload: Doc, ctx: TaskContext) -> Any:
    def look() -> Any:
        called("look")
        return {"url": payload.id} if payload.id in ready else None

    return ctx.poll("film", look, every=timedelta(minutes=payload.minutes), timeout=DAY, default="too late")


@task("wait:tick", max_retry=0, batch_size=10)
def wait_tick(payload: Doc, ctx: TaskContext) -> str:
    if payload.hours:
        ctx.sleep("a while", timedelta(hours=payload.hours))
    return payload.id


@task("wait:signaller")
def wait_signaller(payload: Doc, ctx: TaskContext) -> bool:
    return ctx.signal(payload.id, APPROVAL, {"by": ctx.task_id})


@task("wait:coroutine", max_retry=0)
async def wait_coroutine(payload: Doc, ctx: TaskContext) -> Any:
    async def look() -> Any:
        return called("alook") if calls["alook"] else calls.update(["alook"])

    await ctx.asleep("a while", HOUR)
    found = await ctx.apoll("film", look, every=MINUTE, timeout=HOUR)
    answer = await ctx.await_signal(APPROVAL, timeout=HOUR)
    await ctx.asignal("another", APPROVAL, answer)
    return [found, answer]


@task("wait:ordered", key="id", max_per_key=1, order="first-due", max_retry=0)
def wait_ordered(payload: Doc, ctx: TaskContext) -> None:
    calls[f"start {payload.hours}"] += 1
    if payload.hours:
        ctx.sleep("a while", timedelta(hours=payload.hours))
    calls[f"end {payload.hours}"] += 1


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()
    ready.clear()


# --- Waits ---------------------------------------------------------------------------------------------------------


def test_a_signal_continues_the_task_with_its_value(jobs: JobTester) -> None:
    jobs.enqueue(wait_approve, Doc(), task_id="t")
    jobs.drain()
    [waiting] = jobs.assert_waiting(wait_approve, signal=APPROVAL)
    assert (waiting.id, waiting.state, waiting.runs, waiting.outcomes) == ("t", State.SCHEDULED, 1, ("waiting",))
    assert jobs.signal("t", APPROVAL, {"yes": True})
    assert jobs.drain().invocations == 1
    assert (jobs.task("t").result, calls) == ({"yes": True}, {"ask": 1, "end": 1})
    assert (jobs.task("t").attempts, jobs.task("t").runs) == (1, 2)


def test_it_is_reminded_and_expires(jobs: JobTester) -> None:
    jobs.enqueue(wait_approve, Doc(), task_id="t")
    jobs.drain(within=3 * DAY)
    assert calls == {"ask": 1, "remind": 1}
    jobs.assert_waiting(wait_approve, signal=APPROVAL)
    jobs.drain(within=5 * DAY).check()
    assert (jobs.task("t").result, jobs.task("t").outcomes) == ("expired", ("waiting", "waiting", "completed"))
    assert jobs.signal("t", APPROVAL) is False


def test_a_signal_before_the_wait_stops_nothing(jobs: JobTester) -> None:
    jobs.enqueue(wait_approve, Doc(), task_id="t")
    assert jobs.signal("t", APPROVAL, [None])
    assert jobs.signal("t", APPROVAL, 2) is False
    assert jobs.drain().invocations == 1
    assert (jobs.task("t").result, jobs.task("t").runs) == ([None], 1)


def test_null_is_a_value(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    assert jobs.signal("t", APPROVAL)
    jobs.drain().check()
    assert (jobs.task("t").state, jobs.task("t").result) == (State.COMPLETED, None)


def test_a_wait_without_a_default_archives_its_task_and_a_retry_expires_again(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain(within=2 * HOUR)
    found = jobs.task("t")
    assert (found.state, found.error_type, found.runs) == (State.ARCHIVED, WaitExpired.__name__, 2)
    assert "wait 'approval': its time has passed; to continue then, give default=" in str(found.reason)
    assert jobs.signal("t", APPROVAL, 1)  # kept, and too late
    jobs.redrive(wait_strict)
    jobs.drain()
    assert jobs.task("t").state is State.ARCHIVED


def test_a_signal_that_comes_after_the_time_and_before_the_run_counts(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    jobs.travel(2 * HOUR)
    assert jobs.signal("t", APPROVAL, 1)
    jobs.drain().check()
    assert jobs.task("t").result == 1


def test_a_sleep_ends_at_its_time(jobs: JobTester) -> None:
    jobs.enqueue(wait_sleep, Doc(hours=3), task_id="t")
    jobs.travel(3 * HOUR - MINUTE, ticks=True)
    assert jobs.task("t").runs == 1
    jobs.travel(2 * MINUTE, ticks=True)
    assert jobs.task("t").runs == 2
    jobs.travel(HOUR, ticks=True)
    assert (jobs.task("t").state, jobs.task("t").runs, calls["slept"]) == (State.COMPLETED, 3, 1)


def test_a_poll_of_a_day_spends_no_attempt_and_has_no_dead_letter(jobs: JobTester) -> None:
    jobs.enqueue(wait_render, Doc(minutes=15), task_id="t")
    jobs.drain(within=DAY + HOUR).check()
    assert calls["look"] == pytest.approx(96, abs=2)
    assert (jobs.task("t").result, jobs.task("t").attempts) == ("too late", 1)
    assert jobs.dead_letters(wait_render) == []


def test_a_poll_remembers_its_value(jobs: JobTester) -> None:
    jobs.enqueue(wait_render, Doc(), task_id="t")
    jobs.drain(within=3 * MINUTE + timedelta(seconds=30))
    ready.add("a")
    with jobs.crash_before_commit(wait_render):
        jobs.drain(within=HOUR).check()
    assert (jobs.task("t").result, calls["look"]) == ({"url": "a"}, 5)
    assert jobs.task("t").outcomes[-2:] == ("lost", "completed")


def test_coroutines_sleep_poll_wait_and_signal(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="another")
    jobs.enqueue(wait_coroutine, Doc(), task_id="t")
    jobs.drain(within=HOUR + 2 * MINUTE - timedelta(seconds=30))
    jobs.assert_waiting(wait_coroutine, signal=APPROVAL)
    jobs.signal("t", APPROVAL, "yes")
    jobs.drain()
    assert jobs.task("t").result == [2, "yes"]


def test_in_a_batch_some_stop_and_some_end(jobs: JobTester) -> None:
    for number in range(10):
        jobs.enqueue(wait_tick, Doc(id=f"{number}", hours=number % 2), task_id=f"t{number}")
    assert jobs.drain().invocations == 1
    assert [waiting.id for waiting in jobs.assert_waiting(wait_tick)] == [f"t{n}" for n in (1, 3, 5, 7, 9)]
    jobs.drain(within=2 * HOUR).check()
    assert {jobs.task(f"t{number}").state for number in range(10)} == {State.COMPLETED}


def test_an_ordered_task_keeps_its_key_while_it_waits(jobs: JobTester) -> None:
    for hours in (2, 1, 0):
        jobs.enqueue(wait_ordered, Doc(hours=hours))
    jobs.drain(within=HOUR)
    assert calls == {"start 2": 1}
    jobs.drain(within=3 * HOUR)
    assert list(calls) == ["start 2", "end 2", "start 1", "end 1", "start 0", "end 0"]


def test_a_cancelled_task_that_waits_ends_at_once(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    assert jobs.client.cancel("t") is State.CANCELLED
    assert jobs.signal("t", APPROVAL) is False
    with pytest.raises(AssertionError, match="no task 'wait:strict' waits; tasks that wait, and for what: none"):
        jobs.assert_waiting(wait_strict)


def test_a_deadline_is_for_the_whole_task(jobs: JobTester) -> None:
    jobs.enqueue(wait_approve, Doc(), task_id="t", deadline=datetime.now(UTC) + DAY)
    jobs.drain(within=3 * DAY)
    assert (jobs.task("t").state, jobs.task("t").error_type) == (State.ARCHIVED, "DeadlinePassed")


# --- Limits, pauses and places -------------------------------------------------------------------------------------

PLACE = Lambda("waiting", batch_size=10)


@task("wait:single", max_total=1, max_retry=0)
def wait_single(payload: Doc, ctx: TaskContext) -> Any:
    return ctx.wait(APPROVAL, timeout=HOUR) if payload.hours else payload.id


@task("wait:rated", rate=Rate(1, per=MINUTE), max_retry=0)
def wait_rated(payload: Doc, ctx: TaskContext) -> Any:
    return ctx.wait(APPROVAL, timeout=HOUR)


@task("wait:placed", runs_on=PLACE, max_retry=0)
def wait_placed(payload: Doc, ctx: TaskContext) -> Any:
    return ctx.wait(APPROVAL, timeout=HOUR)


@task("wait:other", runs_on=PLACE, max_retry=0)
def wait_other(payload: Doc, ctx: TaskContext) -> str:
    ctx.sleep("a while", HOUR)
    return "slept"


def test_a_task_that_waits_frees_its_slot_and_asks_for_it_again(jobs: JobTester) -> None:
    jobs.enqueue(wait_single, Doc(hours=1), task_id="t")
    jobs.enqueue(wait_single, Doc(id="other"), task_id="u")
    jobs.drain()
    assert [jobs.task(id_).state for id_ in "tu"] == [State.SCHEDULED, State.COMPLETED]
    jobs.limits.set("wait:single", max_total=0)
    jobs.signal("t", APPROVAL, 1)
    jobs.drain()
    assert jobs.task("t").state is State.HELD
    jobs.limits.reset("wait:single")
    jobs.drain()
    assert jobs.task("t").result == 1


def test_a_task_that_continues_counts_as_one_start_of_a_rate(jobs: JobTester) -> None:
    for id_ in "tu":
        jobs.enqueue(wait_rated, Doc(), task_id=id_)
    jobs.drain(within=2 * MINUTE)
    assert [jobs.task(id_).runs for id_ in "tu"] == [1, 1]
    jobs.travel(5 * MINUTE)
    for id_ in "tu":
        jobs.signal(id_, APPROVAL, 1)
    jobs.drain()
    assert sorted(jobs.task(id_).runs for id_ in "tu") == [1, 2]
    jobs.drain(within=2 * MINUTE).check()
    with jobs.session() as session:
        starts = session.scalars(text("select started_at from joblane.runs order by 1")).all()
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert len(gaps) == 3
    assert min(gaps) > MINUTE - timedelta(seconds=3)  # a run may be early by two seconds


def test_a_signal_counts_during_a_pause_that_lasts_longer_than_the_wait(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    with jobs.session() as session:
        session.execute(text("insert into joblane.pauses (scope, name) values ('type', 'wait:strict')"))
    assert jobs.signal("t", APPROVAL, 1)
    jobs.travel(2 * HOUR, ticks=True)
    assert jobs.task("t").runs == 1
    with jobs.session() as session:
        session.execute(text("delete from joblane.pauses"))
    jobs.drain(within=HOUR / 4)
    assert jobs.task("t").result == 1


def test_tasks_of_a_place_wait_and_continue_in_its_function(jobs: JobTester) -> None:
    jobs.enqueue(wait_placed, Doc(), task_id="t")
    jobs.enqueue(wait_other, Doc(), task_id="u")
    assert jobs.drain().invocations == 1
    jobs.travel(HOUR - MINUTE)
    jobs.signal("t", APPROVAL, 1)
    assert jobs.drain(within=2 * MINUTE).invocations == 2
    assert [jobs.task(id_).result for id_ in "tu"] == [1, "slept"]


# --- Signals -------------------------------------------------------------------------------------------------------


def test_a_handler_signals_in_its_transaction(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    jobs.enqueue(wait_signaller, Doc(id="t"), task_id="s")
    with jobs.crash_before_commit(wait_signaller):
        jobs.drain(within=MINUTE)
    jobs.assert_waiting(wait_strict)
    jobs.drain(within=10 * MINUTE)
    assert (jobs.task("s").result, jobs.task("t").result) == (True, {"by": "s"})


def test_a_signal_of_a_session_continues_the_task_after_the_commit(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    with jobs.session() as session:
        assert jobs.signal("t", APPROVAL, 1, session=session)
        assert jobs.drain().invocations == 0
        session.rollback()
    assert jobs.drain().invocations == 0
    with jobs.session() as session:
        assert jobs.signal("t", APPROVAL, 2, session=session)
    assert jobs.drain().invocations == 1
    assert jobs.task("t").result == 2


def test_the_sweep_continues_the_task_of_a_signal_by_sql(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    jobs.drain()
    with jobs.session() as session:
        session.execute(text("select joblane.signal('t', 'approval', '7')"))
    jobs.drain()
    assert jobs.task("t").result == 7


def test_a_signal_of_an_unknown_task_or_with_a_wrong_argument_is_refused(jobs: JobTester) -> None:
    with pytest.raises(UnknownTaskError):
        jobs.signal("nobody", APPROVAL)
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    for given, field in [
        (("", APPROVAL), "task_id"),
        (("t", "é"), "signal"),
        (("t", APPROVAL, "x" * 65_535), "value"),
        (("t", APPROVAL, object()), "value"),
        (("t", APPROVAL, float("nan")), "value"),
        (("t", APPROVAL, "\0"), "value"),
    ]:
        with pytest.raises(SignalError) as caught:
            jobs.signal(*given)  # type: ignore[arg-type]
        assert caught.value.field == field


# --- Faults --------------------------------------------------------------------------------------------------------


def test_a_stop_is_a_commit_for_the_faults(jobs: JobTester) -> None:
    jobs.enqueue(wait_strict, Doc(), task_id="t")
    with jobs.crash_before_commit(wait_strict):
        jobs.drain(within=5 * MINUTE)
    assert jobs.task("t").outcomes == ("lost", "waiting")
    jobs.enqueue(wait_strict, Doc(), task_id="u")
    with jobs.crash_after_commit(wait_strict):
        jobs.drain(within=5 * MINUTE)
    assert jobs.task("u").outcomes == ("waiting",)
    for id_ in ("t", "u"):
        jobs.signal(id_, APPROVAL, id_)
    jobs.drain()
    assert [jobs.task(id_).result for id_ in ("t", "u")] == ["t", "u"]


def test_a_task_whose_process_died_after_the_stop_continues_at_its_time(jobs: JobTester) -> None:
    """The message of the stop was not sent. The old one returns, or the sweep sends another."""
    jobs.enqueue(wait_sleep, Doc(hours=0), task_id="t")
    with jobs.crash_after_commit(wait_sleep):
        jobs.drain(within=3 * HOUR)
    assert (jobs.task("t").state, calls["slept"]) == (State.COMPLETED, 1)


def test_a_crash_between_an_expiry_and_what_follows_changes_nothing(jobs: JobTester) -> None:
    jobs.enqueue(wait_approve, Doc(), task_id="t")
    jobs.drain()
    with jobs.crash_after_commit(wait_approve, commit=1):
        jobs.drain(within=2 * DAY + timedelta(minutes=1))
    jobs.drain(within=HOUR)
    assert jobs.signal("t", APPROVAL, "late")
    jobs.drain()
    assert (jobs.task("t").result, calls["remind"]) == ("late", 1)


def test_a_run_of_one_call_that_stops_has_not_run(jobs: JobTester) -> None:
    with pytest.raises(NotRunError):
        jobs.run(wait_strict, Doc(), task_id="t")
    jobs.assert_waiting(wait_strict)


def test_a_handler_that_a_test_calls_stops_its_task(jobs: JobTester) -> None:
    with jobs.context(wait_strict, Doc(), task_id="t") as ctx:
        wait_strict(Doc(), ctx)
    jobs.assert_waiting(wait_strict, signal=APPROVAL)
    jobs.signal("t", APPROVAL, 3)
    jobs.drain()
    assert jobs.task("t").result == 3


def test_each_message_that_resumes_a_task_begins_a_chain(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda stops a function after 16 invocations in one chain."""
    jobs.enqueue(wait_render, Doc(), task_id="t")
    jobs.drain(within=40 * MINUTE)
    assert calls["look"] >= 40
    again = Run.again
    monkeypatch.setattr(Run, "again", lambda run, seconds: replace(again(run, seconds), keeps_chain=True))
    calls.clear()
    jobs.drain(within=40 * MINUTE)
    assert calls["look"] < 40  # the planted fault
