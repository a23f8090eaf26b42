"""Actions on one task: the effect on its row and its messages, and on a second operator."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any
from unittest import mock

import pytest

from joblane import Payload, SkipRetry, TaskContext, every, task
from joblane.errors import DuplicateTaskError, PayloadError, UnknownTaskError, UnreadablePayloadError
from joblane.inspector.actions.changes import change
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import ALLOWED, BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.schedules import register
from joblane.tasks.discovery import successor_of
from joblane.tasks.redaction import MASK, Redacted
from tests.builders.rows import In, active, archived, put
from tests.bulks import TASKS
from tests.integration.inspector.scene import Scene, of
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_forgotten, sample_one, sample_only, sample_tick, sample_watched
from tests.world import World

OFTEN = every(minutes=5)
WAITING = {"scheduled", "pending", "retry"}


@behaviour
def refuses(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("this cannot be done")


@behaviour
def looks(payload: Sample, ctx: TaskContext) -> int:
    return payload.number


class Sized(Payload):
    name: str
    size: int = 1


@task("sample:sized", max_retry=1)
def sample_sized(payload: Sized, ctx: TaskContext) -> None:
    pass


class Secretive(Payload):
    token: Annotated[str, Redacted]
    page: int = 1


@task("sample:secretive", max_retry=1)
def sample_secretive(payload: Secretive, ctx: TaskContext) -> None:
    pass


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """A stage with lanes of more types."""
    kinds = (sample_one, sample_only, sample_sized, sample_secretive)
    scene.world.deploy(kinds)
    return scene.declare(*TASKS.values(), *kinds)


def columns_in(state: str) -> dict[str, Any]:
    """The columns of a row in ``state``, as the library sets them."""
    if state == "active":
        return active(60)
    if state == "archived":
        return archived()
    if state in ("completed", "cancelled"):
        return {"state": state, "runs": 1, "finished_at": In(-60), "expire_at": In(600), "sweep_at": None}
    return {"state": state, "due_at": In(3600), "sweep_at": In(2700)}


def audited(world: World) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in world.run("select who, action, target from joblane.audit order by number")]


def deliver_waiting(world: World) -> int:
    """Deliver all messages in the lane of ``sample:one``. Returns their number."""
    messages = world.take(sample_one)
    for message in messages:
        world.deliver(sample_one, message["Body"])
    return len(messages)


# --- Each action ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(WAITING))
def test_run_brings_a_waiting_task_to_its_lane_now(world: World, inspector: Inspector, state: str) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **columns_in(state))
    acted = inspector.run("t", reason="it is urgent")
    assert (acted.before, acted.after, acted.note) == (State(state), State.PENDING, None)
    assert deliver_waiting(world) == 1
    assert world.row("t")["state"] == "completed"


def test_if_a_run_now_cannot_send_the_sweep_sends_the_message(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", **columns_in("scheduled"))  # without a lane
    assert "the next sweep sends it" in str(inspector.run("t").note)
    world.lane(sample_one)
    world.sqs._urls.clear()
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    assert (world.sweep().sent, deliver_waiting(world)) == (1, 1)


def test_a_run_now_of_a_paused_type_reports_that_it_waits(scene: Scene, operator: Inspector) -> None:
    scene.put("t", **columns_in("scheduled")).pause("type", "sample:one")
    assert "paused" in str(operator.run("t").note)


@pytest.mark.parametrize("state", ["archived", "cancelled"])
def test_retry_gives_new_attempts(world: World, inspector: Inspector, state: str) -> None:
    world.lane(sample_one)
    columns = columns_in(state) | {"attempts": 4, "snoozes": 3, "deadline": In(-5), "cancel_requested_at": In(-5)}
    put(world, sample_one, "t", **columns)
    acted = inspector.retry("t")
    row = world.row("t")
    assert (acted.before, acted.after) == (State(state), State.PENDING)
    assert (row["attempts"], row["snoozes"], row["generation"]) == (0, 0, 1)
    cleared = ("deadline", "cancel_requested_at", "dead_sent_at", "finished_at", "expire_at", "reason", "error_type")
    assert {name: row[name] for name in cleared} == dict.fromkeys(cleared)
    deliver_waiting(world)
    assert world.row("t")["state"] == "completed"


def test_a_retry_leaves_the_row_as_a_redrive_does(scene: Scene) -> None:
    """The claim resets the row when its dead letter is sent back; the action resets it by itself."""
    columns = {"snoozes": 2, "mismatch_since": In(-9), "cancel_requested_at": In(-9), "deadline": In(-9), "used_ms": 5}
    scene.put("acted", **archived(**columns)).put("redriven", **archived(**columns)).act("retry", "acted")
    scene.pause("type", "sample:one").deliver("redriven", attributes={"joblane-dead": ("Number", "0")})
    acted, redriven = scene.world.row("acted"), scene.world.row("redriven")
    its_own = {"id", "created_at", "due_at", "sends", "sweep_at"}
    error = {"error_type", "error_message", "fingerprint"}  # the redriven task keeps these until its next run
    assert {name for name in acted if acted[name] != redriven[name]} <= its_own | error
    assert redriven["generation"] == 1


def test_the_dead_letter_of_a_retried_task_runs_nothing_twice(scene: Scene, operator: Inspector) -> None:
    # given an archived task, with its dead letter in the queue
    scene.enqueue("it", do="refuses").deliver("it")
    (dead_letter,) = scene.world.dead_letters(sample_one)
    scene.change("it", "payload = jsonb_set(payload, '{do}', '\"nothing\"')")
    # when it is retried and runs, and its dead letter is sent back afterwards, as by the console
    operator.retry("it")
    deliver_waiting(scene.world)
    generation = dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"]
    dead = {"joblane-dead": ("Number", generation)}
    # then
    assert scene.world.deliver(sample_one, dead_letter["Body"], attributes=dead) == []
    assert scene.world.outcomes("it") == ["archived", "completed"]


@pytest.mark.parametrize("state", sorted(WAITING))
def test_archive_archives_a_waiting_task_and_sends_its_dead_letter(
    world: World, inspector: Inspector, state: str
) -> None:
    world.lane(sample_watched)
    put(world, sample_watched, "t", **columns_in(state), on_archived=successor_of(sample_watched))

    acted = inspector.archive("t")
    world.sweep()

    (dead_letter,) = world.dead_letters(sample_watched)
    assert acted.after is State.ARCHIVED
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"] == "archived by op"
    assert world.row("t:archived:0")["type"] == "sample:alert"


@pytest.mark.parametrize("state", sorted(WAITING | {"completed", "archived", "cancelled"}))
def test_delete_clears_the_content_and_keeps_the_id(world: World, inspector: Inspector, state: str) -> None:
    secret = {"do": "nothing", "number": 471147114711}
    texts = {
        "error_message": "471147114711 is bad",
        "reason": "471147114711 is bad",
        "result": {"is": 471147114711},
        "headers": {"a": "471147114711"},
    }
    put(world, sample_one, "t", secret, **columns_in(state) | texts)
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, error_message, traceback)"
        " values ('t', 9, 1, 0, '471147114711', '471147114711')"
    )
    world.run("insert into joblane.task_items (task_id, key) values ('t', '471147114711')")
    world.run("insert into joblane.task_cursors (task_id, cursor, done) values ('t', '471147114711', 1)")
    world.run("insert into joblane.task_steps (task_id, name, value) values ('t', '471147114711', '471147114711')")
    world.run("insert into joblane.task_waits (task_id, name, until, run) values ('t', '471147114711', now(), 1)")
    world.run("insert into joblane.task_signals (task_id, name, value) values ('t', '471147114711', '471147114711')")
    world.run("insert into joblane.task_progress (task_id, done, note) values ('t', 1, '471147114711')")

    acted = inspector.delete("t")

    row = world.row("t")
    assert acted.after == row["state"] == ("cancelled" if state in WAITING else state)
    assert row["cleared"]
    assert row["expire_at"] is not None
    assert "471147114711" not in json.dumps([row, world.attempts("t")])
    for table in ("task_items", "task_cursors", "task_steps", "task_waits", "task_signals", "task_progress"):
        assert world.run(f"select count(*) from joblane.{table}") == [[0]]


def test_a_dead_letter_of_a_deleted_task_runs_nothing(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", **archived())
    inspector.delete("t")
    kept = world.deliver(sample_one, of("t"), attributes={"joblane-dead": ("Number", "0")})
    assert (kept, world.outcomes("t"), world.row("t")["state"]) == ([], [], "archived")
    assert world.sweep().dead_letters == 0


@pytest.mark.parametrize("state", sorted(WAITING | {"active"}))
def test_cancel_cancels_waiting_tasks_and_asks_running_tasks_to_stop(
    world: World, inspector: Inspector, state: str
) -> None:
    put(world, sample_one, "t", **columns_in(state))
    assert inspector.cancel("t").after is (State.ACTIVE if state == "active" else State.CANCELLED)
    assert world.row("t")["cancel_requested_at"] is not None


# --- Payloads ------------------------------------------------------------------------------------------------------


def test_an_edited_task_runs_with_its_new_payload(scene: Scene, operator: Inspector) -> None:
    scene.put("t", **columns_in("retry"), schema="of-another-version")
    operator.edit("t", {"do": "looks", "number": 7})
    row = scene.world.row("t")
    assert (row["payload"], row["schema"]) == ({"do": "looks", "number": 7}, sample_one.schema_digest)
    assert operator.audit()[0].details == {"fields": ["do", "number"]}
    assert scene.later("t").deliver("t").world.row("t")["result"] == 7


def test_the_message_of_an_external_producer_still_runs_an_edited_task(scene: Scene, operator: Inspector) -> None:
    scene.put("t", payload={"number": 1})
    operator.edit("t", {"number": 2})
    assert scene.deliver({"type": "sample:one", "id": "t", "payload": {"number": 1}}).states("t") == ["completed"]


@pytest.mark.parametrize("operation", ["edit", "replay_with"])
def test_a_redacted_field_that_is_left_masked_keeps_its_value(
    scene: Scene, operator: Inspector, operation: str
) -> None:
    scene.put("t", sample_secretive, payload={"token": "hidden", "page": 1}, **archived())
    acted = getattr(operator, operation)("t", {"token": MASK, "page": 2})
    assert scene.world.row(acted.new_id or "t")["payload"] == {"token": "hidden", "page": 2}
    assert operator.audit()[0].details["fields"] == ["page"]


@pytest.mark.parametrize(
    ("given", "shown"), [({}, MASK), ({"unique_key": "of 4711-secret"}, f"of {MASK}"), ({"unique_key": "mine"}, "mine")]
)
def test_a_unique_key_does_not_reveal_a_redacted_field(operator: Inspector, given: dict[str, str], shown: str) -> None:
    operator.enqueue("sample:secretive", {"token": "4711-secret"}, options={"task_id": "t", "unique_for": 60, **given})
    assert operator.task("t").unique_key == f"sample:secretive {shown}"


@pytest.mark.parametrize("state", ["completed", "archived", "cancelled"])
def test_a_replay_is_a_new_task_linked_to_the_old(world: World, inspector: Inspector, state: str) -> None:
    world.lane(sample_one)
    whose = {"tenant": "acme", "owner": "ann", "tags": ["nightly"], "headers": {"traceparent": "00-a"}}
    put(world, sample_one, "old", {"number": 3}, **columns_in(state) | whose)
    acted = inspector.replay("old")
    assert (acted.before, acted.after) == (State(state), State.PENDING)
    new = world.row(str(acted.new_id))
    assert {name: new[name] for name in whose} == whose
    assert (new["replay_of"], new["payload"]) == ("old", {"do": "nothing", "number": 3})
    assert world.run("select target, details from joblane.audit") == [["old", {"new_id": acted.new_id}]]
    assert deliver_waiting(world) == 1
    assert [world.row(id_)["state"] for id_ in (str(acted.new_id), "old")] == ["completed", state]


def test_a_replay_with_another_payload_names_the_fields_that_differ(scene: Scene, operator: Inspector) -> None:
    scene.put("old", sample_sized, payload={"name": "a", "extra": 1}, **archived())
    new_id = str(operator.replay_with("old", {"name": "b"}).new_id)
    assert scene.world.row(new_id)["payload"] == {"name": "b", "size": 1}
    assert operator.audit()[0].details == {"new_id": new_id, "fields": ["name", "size"], "dropped": 1}


# --- Refused actions -----------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "edit": ({"number": 1},),
    "replay_with": ({"number": 1},),
    "signal": ("approval",),
}
WRONG = [
    (name, state)
    for name in (*ALLOWED, "replay_with")
    for state in State
    if state not in ALLOWED[name.removesuffix("_with")]
]


@pytest.mark.parametrize(("action", "state"), WRONG)
def test_a_wrong_state_is_refused_with_the_allowed_states(
    world: World, inspector: Inspector, action: str, state: State
) -> None:
    put(world, sample_one, "t", **columns_in(state))
    before = world.row("t")

    with pytest.raises(ActionError) as refused:
        getattr(inspector, action)("t", *ARGUMENTS.get(action, ()))

    right = ", ".join(each for each in State if each in ALLOWED[action.removesuffix("_with")])
    assert f"is {state}; " in str(refused.value)
    assert f"tasks that are {right}" in str(refused.value)
    assert (world.row("t"), audited(world)) == (before, [])


@pytest.mark.parametrize("action", [*ALLOWED, "replay_with"])
@pytest.mark.parametrize("id_", ["nobody", "with space", "nul\0", "", "ü"])
def test_an_unknown_id_is_refused(inspector: Inspector, action: str, id_: str) -> None:
    with pytest.raises(UnknownTaskError):
        getattr(inspector, action)(id_, *ARGUMENTS.get(action, ()))


def cleared(on: Scene) -> Scene:
    return on.put("t", sample_forgotten, **archived(cleared=True, payload=None))


def sized(on: Scene) -> Scene:
    return on.put("t", sample_sized, payload={"name": "kept"}, **archived())


KEY: dict[str, Any] = {"unique_key": "sample:only k", "unique_expires_at": In(3600)}
INVALID = ({"size": "secret-value", "unknown-key": "secret-value"},)
REFUSED: dict[str, tuple[Callable[[Scene], Scene], str, tuple[Any, ...], type[Exception], str]] = {
    **{
        f"{action} of cleared content": (
            cleared, action, ARGUMENTS.get(action, ()), ActionError, "its payload was cleared.*nor be replayed",
        )
        for action in ("retry", "replay", "edit")
    },
    **{
        f"{action} with an invalid payload": (
            sized, action, INVALID, UnreadablePayloadError, "(?s)(?=.*size:).*name: Field required",
        )
        for action in ("edit", "replay_with")
    },
    "a nul": (sized, "edit", ({"name": "nul \0"},), ValueError, "payload: "),
    "a lone surrogate": (sized, "edit", ({"name": "lone \ud800"},), ValueError, "payload: "),
    "a masked field without an earlier value": (
        lambda on: on.put("t", sample_secretive, payload={}, **archived()),
        "replay_with", ({"token": MASK},), PayloadError, "token: it is masked, and the task has no value",
    ),
    "an unchanged payload": (
        lambda on: on.put("t"), "edit", ({"do": "nothing", "number": 0},), ActionError, "the payload is unchanged",
    ),
    "an edit of a resumable task between two invocations": (
        lambda on: on.put("t", used_ms=1000, attempts=1, runs=1),
        "edit", ({"number": 5},), ActionError, "an attempt continues in the next invocation",
    ),
    "a replay of an unreadable payload": (
        lambda on: on.put("t", sample_sized, payload={"size": 1}, **archived()),
        "replay", (), UnreadablePayloadError, "name: Field required; replay it with a corrected payload",
    ),
    "a replay while another task holds the unique key of the type": (
        lambda on: on.enqueue("holder", task=sample_only).put("t", sample_only, **archived()),
        "replay", (), DuplicateTaskError, "holder",
    ),
    "a retry while another task holds the unique key": (
        lambda on: on.put("t", sample_only, **archived(**KEY)).put("holder", sample_only, **KEY),
        "retry", (), ActionError, "its unique key is held by task 'holder'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_action_says_why_and_changes_nothing(scene: Scene, operator: Inspector, case: Any) -> None:
    given, action, arguments, error, says = case
    before = given(scene).world.row("t")
    with pytest.raises(error, match=says) as refused:
        getattr(operator, action)("t", *arguments)
    assert "secret-value" not in str(refused.value)
    assert (scene.world.row("t"), audited(scene.world)) == (before, [])


def test_a_running_task_is_asked_to_stop_once(scene: Scene, operator: Inspector) -> None:
    scene.put("t", **active(60)).act("cancel", "t")
    with pytest.raises(ActionError, match=r"requested already.*op cancelled it \d+ s ago"):
        operator.cancel("t")
    assert audited(scene.world) == [("op", "cancel", "t")]


def test_a_retry_takes_an_expired_unique_key(scene: Scene, operator: Inspector) -> None:
    key = "sample:only k"
    scene.put("old", sample_only, **archived(unique_key=key, unique_expires_at=In(-9)))
    scene.put("holder", sample_only, unique_key=key, unique_expires_at=In(-1))
    assert operator.retry("old").after is State.PENDING
    assert scene.world.row("holder")["unique_key"] is None


# --- Many at once --------------------------------------------------------------------------------------------------


def test_a_change_of_many_skips_tasks_whose_state_does_not_allow_it(scene: Scene, scope: Scope) -> None:
    # given two tasks that need the same key, a cleared one, a cancelled one, and a running one
    scene.put("a", sample_only, **archived(**KEY)).put("b", sample_only, **archived(**KEY))
    scene.put("c", **archived(cleared=True, payload=None)).put("d", **columns_in("cancelled"), tenant="acme")
    scene.put("e", **active(60))
    # when
    changed = change(scope.connection, BulkAction.RETRY, ["e", "d", "c", "b", "a", "gone"], who="op")
    # then
    assert [(one.id, one.before, one.after) for one in changed] == [
        ("a", State.ARCHIVED, State.PENDING),
        ("d", State.CANCELLED, State.PENDING),
    ]
    assert (changed[1].type, changed[1].queue, changed[1].tenant) == ("sample:one", "default", "acme")


@pytest.mark.parametrize("action", BulkAction)
def test_a_locked_row_is_skipped(world: World, scope: Scope, action: BulkAction) -> None:
    state = min(ALLOWED[action] - {State.HELD})  # by a limit, so that it is not run
    for id_ in ("held", "free"):
        put(world, sample_one, id_, **columns_in(state))
    scope.connection.run("set lock_timeout = '5s'")  # a change that waits would wait for this thread
    with world.locked("held"):
        changed = change(scope.connection, action, ["held", "free"], who="op")
    assert [one.id for one in changed] == ["free"]


def while_locked(world: World, holder: Database, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function that waits for a transaction, which is then committed. Return its answer."""
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(function, *arguments, **named)
        while world.run(waits) == [[0]]:
            assert not waiting.done()
        holder.get().commit()
        return waiting.result(timeout=PATIENCE_SECONDS)


def test_a_key_taken_concurrently_does_not_abort_the_open_transaction(world: World, scope: Scope) -> None:
    """Another transaction inserts a new holder of the key, and commits while the change waits for the index."""
    put(world, sample_only, "old", **archived(**KEY))
    put(world, sample_one, "other", **archived())
    with world.locked() as rival:
        rival.get().run("update joblane.tasks set reason = reason where id = 'nobody'")
        rival.get().run(
            "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, "
            "unique_key) values ('new', 'sample:only', 'default', 'pending', '', 1, 1, $1)",
            KEY["unique_key"],
        )
        scope.connection.execute_simple("begin")
        ids = ["old", "other"]
        changed = while_locked(world, rival, change, scope.connection, BulkAction.RETRY, ids, who="op")
        scope.connection.commit()
    assert [one.id for one in changed] == ["other"]
    assert (world.row("old")["state"], world.row("other")["state"]) == ("archived", "pending")


# --- Ticks that were skipped ---------------------------------------------------------------------------------------


def put_schedule(world: World, number: int = 0) -> None:
    world.client.schedules.put("s", sample_one, Sample(number=number), OFTEN)


def tick_of_a_changed_schedule(world: World) -> str:
    put_schedule(world, 1)
    put_schedule(world, 2)
    return "ScheduleChanged"


def tick_of_a_paused_schedule(world: World) -> str:
    put_schedule(world)
    world.client.schedules.pause("s")
    return "SchedulePaused"


def tick_of_a_deleted_schedule(world: World) -> str:
    put_schedule(world)
    world.client.schedules.delete("s")
    return "ScheduleDeleted"


def declared_tick_of_a_pause(world: World) -> str:
    register(world.database.get(), {sample_tick.type: sample_tick})
    world.client.schedules.pause("sample:tick:0")
    deliver_tick(world, 0)
    return "SchedulePaused"


def overlapping_declared_tick(world: World) -> str:
    with mock.patch("joblane.worker.worker.Batch._finish", side_effect=SystemExit), pytest.raises(SystemExit):
        deliver_tick(world, 0)
    deliver_tick(world, 1)
    return "DuplicateTask"


def overlapping_tick(world: World) -> str:
    put_schedule(world)
    world.run("update joblane.tasks set due_at = clock_timestamp()")
    [[first, second]] = world.run("select min(id), max(id) from joblane.tasks")
    with mock.patch("joblane.worker.worker.Batch._finish", side_effect=SystemExit), pytest.raises(SystemExit):
        world.deliver(sample_one, of(first))
    world.deliver(sample_one, of(second))
    return "DuplicateTask"


def deliver_tick(world: World, hour: int) -> None:
    tick = {"schedule": "0", "at": f"2026-03-01T0{hour}:00:00Z"}
    world.deliver(sample_tick, {"type": "sample:tick", "payload": {"do": "nothing"}, "tick": tick})


@pytest.mark.parametrize(
    "skip",
    [
        tick_of_a_changed_schedule,
        tick_of_a_paused_schedule,
        tick_of_a_deleted_schedule,
        declared_tick_of_a_pause,
        overlapping_declared_tick,
        overlapping_tick,
    ],
)
def test_a_skipped_tick_is_not_retried_and_can_be_replayed(
    world: World, scope: Scope, inspector: Inspector, skip: Callable[[World], str]
) -> None:
    # given a skipped tick, whose unique key is free
    why = skip(world)
    world.run("delete from joblane.tasks where state = 'active'")
    skipped = [id_ for (id_,) in world.run("select id from joblane.tasks where state = 'cancelled' order by id")]
    put(world, sample_one, "other", **columns_in("cancelled"))
    # when it is retried alone, and with others
    with pytest.raises(ActionError, match=f"is cancelled: {why}: .*never runs; `joblane replay`"):
        inspector.retry(skipped[0])
    changed = change(scope.connection, BulkAction.RETRY, [*skipped, "other"], who="op")
    # then only the other task is live again
    assert [one.id for one in changed] == ["other"]
    detail = inspector.task(skipped[0])
    assert ("retry" in detail.actions, "replay" in detail.actions) == (False, True)
    # and a replay is a new task
    assert inspector.replay(skipped[0]).new_id not in skipped


def test_a_tick_that_an_operator_has_stopped_is_retried(world: World, inspector: Inspector) -> None:
    put_schedule(world)
    [[first, last]] = world.run("select min(id), max(id) from joblane.tasks")
    inspector.cancel(first)
    inspector.archive(last)
    assert [inspector.retry(id_).after for id_ in (first, last)] == [State.PENDING] * 2


@pytest.mark.parametrize("action", ["archive", "cancel"])
def test_a_tick_that_has_run_is_retried_after_a_change_of_its_schedule(
    world: World, inspector: Inspector, action: str
) -> None:
    put_schedule(world)
    [[tick]] = world.run("select min(id) from joblane.tasks")
    getattr(inspector, action)(tick)
    world.run("update joblane.tasks set runs = 1 where id = $1", tick)
    put_schedule(world, 2)
    assert inspector.retry(tick).after is State.PENDING


# --- Two operators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["archived", "scheduled"])
def test_the_second_of_two_operators_sees_what_the_first_did(world: World, scope: Scope, state: str) -> None:
    put(world, sample_one, "t", **columns_in(state))
    start = threading.Barrier(2)
    action = "retry" if state == "archived" else "archive"

    def act(who: str) -> ActionError | None:
        with Database(world.url) as database:
            inspector = Inspector(replace(scope, database=database, who=who, lock=threading.Lock()))
            inspector.pauses()
            start.wait()
            try:
                getattr(inspector, action)("t")
            except ActionError as error:
                return error
            return None

    with ThreadPoolExecutor(2) as threads:
        results = dict(zip(("alice", "bob"), threads.map(act, ("alice", "bob")), strict=True))

    (first,) = [who for who, error in results.items() if error is None]
    (refusal,) = [error for error in results.values() if error is not None]
    assert re.search(rf"{first} {'retried' if action == 'retry' else 'archived'} it \d+ s ago", str(refusal))
    assert audited(world) == [(first, action, "t")]


def test_an_action_waits_for_a_run_that_is_ending(world: World, inspector: Inspector) -> None:
    """A finish locks the row for a moment; the action then sees its result."""
    put(world, sample_one, "t", **active(60))
    with world.locked() as finishing:
        finishing.get().run(
            "update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id = 't'"
        )
        acted = while_locked(world, finishing, inspector.delete, "t")
    assert (acted.before, acted.after) == (State.COMPLETED, State.COMPLETED)
