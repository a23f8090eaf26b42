"""Tasks that wait: the end of a wait and a signal by an operator, the list of open waits, and what a task shows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import pytest

from joblane import Payload, TaskContext, task
from joblane.errors import SignalError, UnknownTaskError
from joblane.inspector import wire
from joblane.inspector.actions import changes, signals
from joblane.inspector.errors import ActionError, BusyError, SelectionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.tasks import waits
from joblane.inspector.views import Reason
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.record.task.stop import Stop
from joblane.record.task.waits import expire, read_history
from joblane.sqs.message import Message
from joblane.tasks.redaction import MASK, Redacted
from tests.builders.rows import TOKEN, In, active, archived, put
from tests.builders.waits import APPROVAL, HOUR, LEASE, claimed, send, stop_of, stopped
from tests.integration.inspector.scene import Scene, is_like
from tests.integration.record.test_races import WaitUntil, waiting_for_a_lock
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_one
from tests.world import World

NOW = "clock_timestamp()"
PAUSE = Stop("pause", seconds=HOUR)
FILM = Stop("film", seconds=HOUR, again=60)


class Secretive(Payload):
    token: Annotated[str, Redacted]


@task("sample:secret")
def sample_secret(payload: Secretive, ctx: TaskContext) -> None:
    pass


@behaviour
def asks_twice(payload: Sample, ctx: TaskContext) -> Any:
    answer = ctx.wait("approval", timeout=timedelta(hours=1), default=None)
    return answer or ctx.wait("approval", name="last call", timeout=timedelta(hours=1))


def waiting(world: World, id_: str = "it", stop: Stop = APPROVAL, run: int = 1, **columns: Any) -> None:
    """Put a task that has stopped at a wait."""
    put(world, sample_one, id_, **active(60, runs=run, **columns))
    assert stopped(world.database.get(), stop_of(run, stop, id_)) is not None


def audited(world: World) -> list[list[Any]]:
    return world.run("select who, action, target, reason, details from joblane.audit order by number")


def values(world: World) -> dict[str, str]:
    return read_history(world.database.get(), "it").signals


def bodies(world: World) -> list[str]:
    return [json.loads(message["Body"])["id"] for message in world.take(sample_one)]


# --- The end of a wait ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [APPROVAL, PAUSE, FILM])
def test_skip_ends_the_wait_now_and_the_task_runs(world: World, inspector: Inspector, stop: Stop) -> None:
    world.lane(sample_one)
    waiting(world, stop=stop, used_ms=0)
    acted = inspector.skip("it", reason="the customer called")
    assert (acted.before, acted.after, acted.note) == (State.SCHEDULED, State.PENDING, None)
    assert bodies(world) == ["it"]
    assert audited(world) == [["op", "skip", "it", "the customer called", {
        "wait": stop.name}]]  # fmt: skip
    assert claimed(world).verdict is Verdict.RUN
    assert read_history(world.database.get(), "it").is_over(stop.name)


def sleeps_on(world: World) -> None:
    """Let a task that waits run, and be due later for another reason."""
    world.later("it")
    claimed(world)
    columns = "state = 'scheduled', lease_token = null, lease_until = null"
    world.run(f"update joblane.tasks set {columns}, due_at = {NOW} + interval '1 h'")


def no_open_wait(world: World, inspector: Inspector) -> None:
    waiting(world)
    sleeps_on(world)
    with pytest.raises(ActionError, match="has not stopped at a wait; to run it now"):
        inspector.skip("it")
    assert world.row("it")["state"] == "scheduled"
    assert audited(world) == []


def test_only_the_wait_of_the_last_run_is_open(world: World, inspector: Inspector) -> None:
    no_open_wait(world, inspector)


def test_a_skip_that_does_not_look_at_the_run_is_found(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = changes.SKIP.replace("w.run = t.runs", "true")
    assert fault != changes.SKIP
    monkeypatch.setattr(changes, "SKIP", fault)
    monkeypatch.setattr(waits, "OPEN", waits.OPEN.replace("w.run = $2::int", "$2::int > 0"))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        no_open_wait(world, inspector)


def test_a_skip_keeps_the_expiry_to_the_run_and_other_waits_as_they_are(world: World, inspector: Inspector) -> None:
    waiting(world, stop=Stop("first", "first", HOUR))
    inspector.skip("it")
    claimed(world)
    assert stopped(world.database.get(), stop_of(2)) is not None
    before = world.run("select until from joblane.task_waits where name = 'first'")
    inspector.skip("it")
    assert world.run("select until from joblane.task_waits where name = 'first'") == before
    history = read_history(world.database.get(), "it")
    assert (history.is_over("approval"), history.waits["approval"].expired) == (True, False)


def test_a_skip_of_a_paused_type_reports_that_it_waits(scene: Scene) -> None:
    waiting(scene.world)
    scene.pause("type", "sample:one")
    assert "paused" in str(scene.inspector.skip("it").note)


Others = Callable[[], Connection]


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function. The returned one waits for it, and returns its answer or its exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> Any:
        thread.join(PATIENCE_SECONDS)
        return found[0]

    return wait


@pytest.mark.parametrize("act", ["skip", "replace"])
def test_an_action_between_the_claim_and_the_stop_is_refused_and_the_stop_holds(
    world: World, inspector: Inspector, act: str
) -> None:
    waiting(world)
    world.later("it")
    claimed(world)
    with pytest.raises(ActionError, match="is active"):
        inspector.skip("it") if act == "skip" else inspector.signal("it", "approval", 1, replace=True)
    assert stopped(world.database.get(), stop_of(2)) is not None
    assert (world.row("it")["state"], values(world), audited(world)) == ("scheduled", {}, [])


@pytest.mark.parametrize("act", ["skip", "replace"])
def test_an_action_that_waits_for_a_claim_sees_the_run(
    world: World, inspector: Inspector, others: Others, wait_until: WaitUntil, act: str
) -> None:
    """The claim has locked the row first."""
    replace_meets_a_claim(world, inspector, others, wait_until, act)


def replace_meets_a_claim(world: World, inspector: Inspector, others: Others, wait_until: WaitUntil, act: str) -> None:
    waiting(world)
    world.later("it")
    worker = others()
    worker.execute_simple("begin")
    arrived = arrival(sample_one, Message(sample_one.type, "it", rec=True), "it", Queue.DEFAULT)
    assert claim(worker, [arrived], LEASE, "request", TOKEN)["it"].verdict is Verdict.RUN
    done = in_thread(
        lambda: inspector.skip("it") if act == "skip" else inspector.signal("it", "approval", 1, replace=True)
    )
    wait_until(lambda: waiting_for_a_lock(world))
    worker.execute_simple("commit")
    refused = done()
    assert isinstance(refused, ActionError)
    assert refused.state is State.ACTIVE
    assert values(world) == {}


def test_a_replacement_that_does_not_look_at_the_state_is_found(
    world: World, inspector: Inspector, others: Others, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_forget", lambda doing, found, name: None)
    with pytest.raises(AssertionError):
        replace_meets_a_claim(world, inspector, others, wait_until, "replace")


def test_an_action_that_meets_a_stop_waits_for_it(
    world: World, inspector: Inspector, others: Others, wait_until: WaitUntil
) -> None:
    put(world, sample_one, "it", **active(60))
    run = others()
    run.execute_simple("begin")
    assert stopped(run, stop_of()) is not None
    done = in_thread(lambda: inspector.skip("it"))
    wait_until(lambda: waiting_for_a_lock(world))
    run.execute_simple("commit")
    assert done().after is State.PENDING
    assert read_history(world.database.get(), "it").is_over("approval")


def test_an_action_that_meets_an_expiry_is_refused(
    world: World, inspector: Inspector, others: Others, wait_until: WaitUntil
) -> None:
    waiting(world, stop=Stop("approval", "approval", 0))
    claimed(world)
    run = others()
    run.execute_simple("begin")
    assert expire(run, "it", TOKEN, name="approval", signal="approval", came=[])
    done = in_thread(lambda: inspector.skip("it"))
    wait_until(lambda: waiting_for_a_lock(world))
    run.execute_simple("commit")
    assert done().state is State.ACTIVE
    assert read_history(world.database.get(), "it").waits["approval"].expired


def test_of_two_skips_one_counts(world: World, inspector: Inspector) -> None:
    waiting(world)
    inspector.skip("it")
    with pytest.raises(ActionError, match=r"is pending; .*op skipped it \d+ s ago"):
        inspector.skip("it")
    assert [action for _, action, *_ in audited(world)] == ["skip"]


@pytest.mark.parametrize("skip_first", [True, False])
def test_a_signal_counts_although_its_wait_is_skipped(world: World, inspector: Inspector, skip_first: bool) -> None:
    waiting(world)
    if skip_first:
        inspector.skip("it")
        assert world.client.signal("it", "approval", "yes")
    else:
        assert send(world.database.get(), value='"yes"')  # nobody has heard it yet
        inspector.skip("it")
    claimed(world)
    came: list[str] = []
    assert expire(world.database.get(), "it", TOKEN, name="approval", signal="approval", came=came)
    assert came == ['"yes"']


def test_run_is_refused_for_a_task_that_waits_and_names_both_commands(world: World, inspector: Inspector) -> None:
    waiting(world)
    with pytest.raises(ActionError) as refused:
        inspector.run("it")
    for command in ("`joblane signal it approval VALUE`", "`joblane skip it`"):
        assert command in str(refused.value)
    assert changes.change(world.database.get(), BulkAction.RUN, ["it"], who="op", bulk="b") == []
    assert inspector.task("it").actions == ("archive", "delete", "cancel", "edit", "signal", "skip")
    world.later("it")
    assert inspector.run("it").after is State.PENDING  # it is due: its message may be lost


# --- A signal ------------------------------------------------------------------------------------------------------


def test_a_signal_continues_its_task_and_is_in_the_audit_without_its_value(world: World, inspector: Inspector) -> None:
    world.lane(sample_one)
    waiting(world)
    acted = inspector.signal("it", "approval", {"yes": 471147114711}, reason="by phone")
    assert (acted.before, acted.after, acted.note) == (State.SCHEDULED, State.PENDING, None)
    assert bodies(world) == ["it"]
    assert values(world) == {"approval": '{"yes":471147114711}'}
    assert audited(world) == [["op", "signal", "it", "by phone", {"signal": "approval"}]]
    assert world.run("select sent_by from joblane.task_signals") == [["op"]]
    assert "47114711" not in str(inspector.task("it"))


KEPT: list[tuple[Callable[[World], None], str]] = [
    (waiting, 'kept: it does not wait for "aproval" now, it waits for "approval"'),
    (lambda world: waiting(world, stop=PAUSE), 'kept: it does not wait for "aproval" now, it waits at "pause"'),
    (lambda world: put(world, sample_one, "it"), 'kept: it does not wait for "aproval" now; its next run finds…'),
    (lambda world: put(world, sample_one, "it", **active(60)), "kept: it is active; its run reads the signal…"),
    (lambda world: put(world, sample_one, "it", **archived()), "kept: it is archived; a retry finds the signal"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "note"), KEPT)
def test_a_signal_that_continues_nothing_is_kept_and_the_answer_says_why(
    world: World, inspector: Inspector, given: Callable[[World], None], note: str
) -> None:
    given(world)
    acted = inspector.signal("it", "aproval", 1)
    assert acted.before == acted.after
    assert is_like(str(acted.note), note)
    assert values(world) == {"aproval": "1"}


def test_a_signal_waits_for_no_run(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it", **active(60))
    with world.locked("it"):
        assert inspector.signal("it", "approval", 1).after is State.ACTIVE


def test_a_task_that_is_locked_is_left_to_the_sweep(world: World, inspector: Inspector) -> None:
    waiting(world)
    with world.locked("it"):
        assert "continues once its row is free, or with the next sweep" in str(inspector.signal("it", "approval").note)
    assert world.sweep().woken == 1


def test_a_second_signal_and_one_of_an_ended_task_are_refused(world: World, inspector: Inspector) -> None:
    waiting(world)
    inspector.signal("it", "approval", 1)
    with pytest.raises(ActionError, match=r"this signal came at .*add --replace.*op signalled it"):
        inspector.signal("it", "approval", 2)
    put(world, sample_one, "ended", state="completed", finished_at=In(-1), expire_at=In(60), sweep_at=None)
    put(world, sample_one, "cleared", **archived(cleared=True, payload=None))
    for id_, problem in (("ended", "is completed; signal is for"), ("cleared", "its payload was cleared")):
        for replace in (True, False):
            with pytest.raises(ActionError, match=problem):
                inspector.signal(id_, "approval", 2, replace=replace)
    assert (values(world), len(audited(world))) == ({"approval": "1"}, 1)


def test_wrong_arguments_are_refused_by_their_names(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it")
    for name, value, field in (("é", 1, "signal"), ("a", "x" * 65_536, "value"), ("a", float("nan"), "value")):
        with pytest.raises(SignalError) as refused:
            inspector.signal("it", name, value)
        assert refused.value.field == field
    world.run("insert into joblane.task_signals select 'it', n::text, '1' from generate_series(1, 1000) as n")
    with pytest.raises(SignalError, match=r"^signal: the task has 1,000 signals") as refused:
        inspector.signal("it", "a", 1)
    with pytest.raises(UnknownTaskError):
        inspector.signal("nobody", "a", 1, replace=True)
    assert inspector.signal("it", "7", 2, replace=True).note  # one replaces another
    assert (len(values(world)), values(world)["7"]) == (1000, "2")


# --- A signal that replaces another --------------------------------------------------------------------------------


def test_a_replacement_corrects_the_value_before_the_run(world: World, inspector: Inspector) -> None:
    world.lane(sample_one)
    waiting(world)
    inspector.signal("it", "approval", 1)
    acted = inspector.signal("it", "approval", 2, replace=True, reason="a typo")
    assert (acted.before, acted.after) == (State.PENDING, State.PENDING)
    assert values(world) == {"approval": "2"}
    assert audited(world)[1][3:] == ["a typo", {"signal": "approval", "replaced": True}]
    assert world.run("select name from joblane.task_signals where not heard") == []


def test_a_replacement_reopens_the_last_wait_that_has_expired_for_a_retry(scene: Scene) -> None:
    world, inspector = scene.world, scene.inspector
    scene.enqueue("it", do="asks_twice").deliver("it")
    for state in (State.SCHEDULED, State.ARCHIVED):
        inspector.skip("it")
        assert scene.deliver("it").states("it") == [state]
    assert "WaitExpired" in world.row("it")["reason"]
    # when
    acted = inspector.signal("it", "approval", "yes", replace=True)
    # then
    assert acted.note == "kept: it is archived; a retry finds the signal"
    assert [wait.state for wait in inspector.task("it").waits] == ["expired", "over"]
    assert [signal.unread for signal in inspector.task("it").signals] == [True]
    assert inspector.task("it").actions == ("retry", "delete", "replay", "edit", "signal", "replay_with")
    inspector.retry("it")
    scene.deliver("it")
    assert (world.row("it")["state"], world.row("it")["result"]) == ("completed", "yes")
    assert [entry.details for entry in inspector.audit(action="signal")] == [{"signal": "approval", "replaced": False}]


def test_a_replacement_for_an_open_wait_reopens_no_earlier_one(scene: Scene) -> None:
    scene.enqueue("it", do="asks_twice").deliver("it").act("skip", "it").deliver("it")
    scene.act("signal", "it", "approval", "yes", replace=True)
    assert [wait.state for wait in scene.inspector.task("it").waits] == ["expired", "over"]
    assert scene.deliver("it").world.row("it")["result"] == "yes"


def test_an_attempt_between_two_invocations_keeps_its_signal(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it", used_ms=1000, attempts=1, runs=1)
    inspector.signal("it", "approval", 1)
    with pytest.raises(ActionError, match="an attempt continues in the next invocation, and may have read the signal"):
        inspector.signal("it", "approval", 2, replace=True)
    assert values(world) == {"approval": "1"}


def test_a_replacement_gives_way_to_a_signal_that_commits_meanwhile(
    world: World, inspector: Inspector, others: Others, wait_until: WaitUntil
) -> None:
    waiting(world)
    sender = others()
    sender.execute_simple("begin")
    send(sender)
    done = in_thread(lambda: inspector.signal("it", "approval", 2, replace=True))
    wait_until(lambda: waiting_for_a_lock(world))
    sender.execute_simple("commit")
    assert isinstance(done(), BusyError)
    assert (values(world), audited(world)) == ({"approval": "1"}, [])


# --- What a task shows ---------------------------------------------------------------------------------------------


WHY: list[tuple[Callable[[World], None], str]] = [
    (waiting, 'It waits for the signal "approval" until {until}, 0 s so far. To send it: `joblane signal it ap…'),
    (lambda world: waiting(world, stop=Stop("last call", "approval", 60)),
     ('It waits at "last call" for the signal "approval" until {until}, 0 s so far. To send it: `joblane signal it '
      "approval VALUE`. To end the wait: `joblane skip it`. Its message should wait in SQS…")),
    (lambda world: waiting(world, stop=PAUSE),
     'It waits at "pause" until {until}, 0 s so far. To end the wait: `joblane skip it`. SQS…'),
    (lambda world: waiting(world, stop=FILM),
     'It waits at "film" until {until}, 0 s so far, and calls its function again at {due}; its last call was at …'),
    (lambda world: waiting(world, deadline=In(300)), "It waits for…It will not run: its deadline…"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "text"), WHY)
def test_a_task_says_for_what_it_waits_and_until_when(
    world: World, inspector: Inspector, given: Callable[[World], None], text: str
) -> None:
    given(world)
    [[until, due]] = world.run(
        "select " + ", ".join(f"to_char({column} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"')"
                              for column in ("w.until", "t.due_at"))
        + " from joblane.tasks t join joblane.task_waits w on w.task_id = t.id"
    )  # fmt: skip
    why = inspector.task("it").why
    assert is_like(why.text, text.format(until=until, due=due)), why.text
    assert why.reason is Reason.WAIT


def test_a_task_that_is_due_or_has_gone_on_does_not_wait(world: World, inspector: Inspector) -> None:
    waiting(world)
    world.later("it")
    assert inspector.task("it").why.reason in (Reason.IN_LANE, Reason.UNSENT)
    sleeps_on(world)
    assert inspector.task("it").why.reason is not Reason.WAIT


def test_waits_and_signals_are_shown_and_unread_ones_as_unread(world: World, inspector: Inspector) -> None:
    waiting(world)
    world.later("it")
    assert claimed(world).verdict is Verdict.RUN
    assert expire(world.database.get(), "it", TOKEN, name="approval", signal="approval", came=[])
    for name in ("approval", "seen"):
        send(world.database.get(), name)
    assert stopped(world.database.get(), stop_of(2, Stop("last", "other", HOUR))) is not None
    inspector.signal("it", "aproval", "471147114711")
    # when
    view = inspector.task("it")
    # then
    assert [(wait.name, wait.signal, wait.state) for wait in view.waits] == [
        ("approval", "approval", "expired"), ("last", "other", "open"),
    ]  # fmt: skip
    assert [(signal.name, signal.sent_by, signal.unread) for signal in view.signals] == [
        ("approval", None, True), ("seen", None, False), ("aproval", "op", True),
    ]  # fmt: skip
    assert "47114711" not in str(view)


def test_names_show_no_redacted_value(scene: Scene) -> None:
    scene.declare(sample_secret)
    world, inspector = scene.world, scene.inspector
    put(world, sample_secret, "it", {"token": "47114711"}, **active(60))
    assert stopped(world.database.get(), stop_of(1, Stop("at 47114711", "for 47114711", HOUR))) is not None
    shown = [str(inspector.task("it")), str(inspector.waits()), str(inspector.signal("it", "to 47114711", 1))]
    inspector.skip("it")
    shown.append(str(inspector.audit()))
    for text in shown:
        assert "47114711" not in text
        assert MASK in text
    assert [wait.name for wait in scene.declare().inspector.waits().waits] == []


def test_the_status_of_a_task_has_its_wait(world: World) -> None:
    waiting(world, stop=Stop("last call", "approval", HOUR))
    found = world.client.get("it")
    assert found is not None
    assert found.wait is not None
    assert (found.wait.name, found.wait.signal) == ("last call", "approval")
    assert (found.wait.until - found.wait.since).total_seconds() == pytest.approx(HOUR, abs=1)
    assert found.wait.until == found.due_at
    sleeps_on(world)
    found = world.client.get("it")
    assert found is not None
    assert found.wait is None


# --- The list of open waits ----------------------------------------------------------------------------------------


def test_open_waits_are_listed_by_their_end_a_page_at_a_time(scene: Scene) -> None:
    world, inspector = scene.world, scene.inspector
    for number, stop in enumerate([Stop("c", "c", 3 * HOUR), Stop("a", "a", HOUR), Stop("b", seconds=2 * HOUR)]):
        waiting(world, f"t{number}", stop, tenant="acme" if number else None)
    waiting(world, "woken", APPROVAL)
    inspector.signal("woken", "approval", 1)
    waiting(world, "ran", APPROVAL)
    world.run("update joblane.tasks set runs = 2 where id = 'ran'")
    waiting(world, "past", APPROVAL)
    world.run(f"update joblane.task_waits set until = {NOW} where task_id = 'past'")
    # when
    first = inspector.waits(limit=2)
    second = inspector.waits(limit=2, after=first.after)
    # then
    assert [(row.task.id, row.name, row.signal) for row in (*first.waits, *second.waits)] == [
        ("t1", "a", "a"), ("t2", "b", None), ("t0", "c", "c"),
    ]  # fmt: skip
    assert second.after is None
    assert [row.task.id for row in inspector.waits(tenant="acme").waits] == ["t1", "t2"]
    assert [row.task.id for row in inspector.waits(signal="c").waits] == ["t0"]
    assert [row.task.id for row in inspector.waits(type="sample:one", signal="a").waits] == ["t1"]
    for wrong in ({"limit": 0}, {"signal": "é"}, {"type": "no:such"}, {"after": "x"}, {"after": first.after,
                                                                                      "tenant": "acme"}):  # fmt: skip
        with pytest.raises(SelectionError):
            inspector.waits(**wrong)


def test_a_page_reads_a_bounded_number_of_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "LAST"):
        monkeypatch.setattr(
            waits, name, getattr(waits, name).replace("limit 20000", "limit 10").replace("offset 19999", "offset 9")
        )
    scene.sql(
        f"insert into joblane.task_waits select 't' || n, 'a', 'a', {NOW} + n * interval '1 min', 1"
        " from generate_series(1, 25) as n"
    )
    waiting(scene.world, "last", APPROVAL)
    found: list[str] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = scene.inspector.waits(after=after, limit=5)
        found, after, pages = [*found, *(row.task.id for row in page.waits)], page.after, pages + 1
    assert (found, pages) == (["last"], 3)


def test_a_page_reads_few_rows_of_a_large_table_and_its_plan_is_by_index(scene: Scene) -> None:
    scene.sql(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, runs,"
        " due_at) select 't' || n, 'sample:one', 'default', 'scheduled', '', 4, 60, 1, now() + n * interval '1 s'"
        " from generate_series(1, 50000) as n"
    ).sql(
        "insert into joblane.task_waits select 't' || n, 'a', 'a', now() + (n + 600) * interval '1 s', 1"
        " from generate_series(1, 50000) as n"
    ).sql("analyze joblane.tasks, joblane.task_waits")
    world = scene.world
    given = (world.run("select now()::text")[0][0], "", None, None, None, "51")
    read, plan = scene.rows_read(waits.PAGE, *given)
    assert read < 51 + 51 * 3
    for statement, parameters in ((waits.PAGE, "text, text, text, text, text, text"), (waits.LAST, "text, text")):
        world.run("set plan_cache_mode = force_generic_plan")
        world.run(f"prepare planned({parameters}) as {statement}")
        called = ", ".join(["now()::text", "''", *["null"] * 3, "'51'"][: parameters.count(",") + 1])
        plan = "\n".join(row[0] for row in world.run(f"explain execute planned({called})"))
        assert "task_waits_until" in plan
        assert "Seq Scan" not in plan, plan
        world.run("deallocate planned")


def test_a_handler_that_waits_for_its_children_says_for_which(scene: Scene) -> None:
    scene.put("one", state="pending").put("two", **active(60))
    waiting(scene.world, stop=Stop("sums", children=["one", "two"]))
    answer = wire.call(scene.inspector, "task", wire.encode_arguments("task", ("it",), {}))
    view = wire.decode_answer("task", answer)  # as the control API returns it
    why = view.why
    assert [(wait.name, wait.until, wait.state) for wait in view.waits] == [("sums", None, "open")]
    assert scene.inspector.waits().waits == ()
    assert is_like(
        why.text, "It waits for its child one, which is pending, and for 1 more. To see one: `joblane show one`."
    )
    assert why.reason is Reason.PARENTS


def test_a_task_that_waits_is_neither_late_nor_stuck(scene: Scene) -> None:
    for number, stop in enumerate((APPROVAL, PAUSE, FILM)):
        waiting(scene.world, f"t{number}", stop)
    scene.sql("update joblane.tasks set created_at = created_at - interval '30 d'")
    # when
    overview = scene.inspector.overview()
    swept = scene.world.sweep()
    # then
    lanes = [lane for queue in overview.queues for lane in queue.lanes if lane.type == sample_one.type]
    assert [(lane.tasks, lane.oldest_wait_seconds) for lane in lanes if lane.tasks] == [({State.SCHEDULED: 3}, None)]
    assert (swept.sent, swept.overdue, swept.waits, swept.stuck) == (0, 0, {}, 0)
    assert [tenant.due for tenant in scene.inspector.tenants()] == [0]
