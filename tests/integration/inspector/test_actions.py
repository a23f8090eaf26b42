"""Actions on one task: the effect on its row and its messages, and on a second operator."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_forgotten, sample_one, sample_only, sample_tick, sample_watched
from tests.world import PREFIX, World

OFTEN = every(minutes=5)
WAITING = {"scheduled", "pending", "retry"}
AsOperator = Callable[[str], Inspector]


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
def extended(world: World, scope: Scope) -> Inspector:
    """An inspector with two more types."""
    tasks = dict(scope.tasks)
    for declared in (sample_sized, sample_secretive):
        world.lane(declared)
        tasks[declared.type] = declared
    return Inspector(Scope(scope.database, scope.sqs, scope.prefix, tasks, "op"))


@pytest.fixture
def two_operators(world: World, scope: Scope) -> Iterator[tuple[Inspector, Inspector]]:
    """Alice and bob, with a connection each."""
    databases = [Database(world.url), Database(world.url)]
    alice, bob = (
        Inspector(Scope(database, scope.sqs, PREFIX, scope.tasks, who))
        for database, who in zip(databases, ("alice", "bob"), strict=True)
    )
    yield alice, bob
    for database in databases:
        database.drop()


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

    acted = inspector.run("t")

    assert acted.note is not None
    assert "the next sweep sends it" in acted.note
    world.lane(sample_one)
    world.sqs._urls.clear()
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    assert world.sweep().sent == 1
    assert deliver_waiting(world) == 1


def test_a_run_now_of_a_paused_type_reports_that_it_waits(world: World, inspector: Inspector) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **columns_in("scheduled"))
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")

    assert "paused" in (inspector.run("t").note or "")


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


def test_a_retry_leaves_the_row_as_a_redrive_does(world: World, inspector: Inspector) -> None:
    """The claim resets the row when its dead letter is sent back; the action resets it by itself."""
    columns = {"snoozes": 2, "mismatch_since": In(-9), "cancel_requested_at": In(-9), "deadline": In(-9), "used_ms": 5}
    for id_ in ("acted", "redriven"):
        put(world, sample_one, id_, **archived(**columns))
    world.lane(sample_one)
    inspector.retry("acted")
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")

    world.deliver(
        sample_one,
        {"type": "sample:one", "id": "redriven", "rec": True},
        attributes={"joblane-dead": ("Number", "0")},
    )

    acted, redriven = world.row("acted"), world.row("redriven")
    its_own = {"id", "created_at", "due_at", "sends", "sweep_at"}
    error = {"error_type", "error_message", "fingerprint"}  # the redriven task keeps these until its next run
    assert {name for name in acted if acted[name] != redriven[name]} <= its_own | error
    assert redriven["generation"] == 1


def test_the_dead_letter_of_a_retried_task_runs_nothing_twice(world: World, inspector: Inspector) -> None:
    # given: an archived task, with its dead letter in the queue
    world.client._producer.sqs = world.sqs
    world.lane(sample_one)
    id_ = world.client.enqueue(sample_one, Sample(do="refuses")).id
    deliver_waiting(world)
    (dead_letter,) = world.dead_letters(sample_one)
    world.run("update joblane.tasks set payload = jsonb_set(payload, '{do}', '\"nothing\"') where id = $1", id_)

    # when: it is retried and runs, and its dead letter is sent back afterwards, as by the console
    inspector.retry(id_)
    deliver_waiting(world)
    generation = dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"]
    kept = world.deliver(sample_one, dead_letter["Body"], attributes={"joblane-dead": ("Number", generation)})

    # then
    assert kept == []
    assert world.outcomes(id_) == ["archived", "completed"]


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
    world.run("insert into joblane.task_progress (task_id, done, note) values ('t', 1, '471147114711')")

    acted = inspector.delete("t")

    row = world.row("t")
    assert acted.after == row["state"] == ("cancelled" if state in WAITING else state)
    assert row["cleared"]
    assert row["expire_at"] is not None
    assert "471147114711" not in json.dumps([row, world.attempts("t")])
    for table in ("task_items", "task_cursors", "task_steps", "task_progress"):
        assert world.run(f"select count(*) from joblane.{table}") == [[0]]


def test_a_dead_letter_of_a_deleted_task_runs_nothing(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", **archived())

    inspector.delete("t")
    kept = world.deliver(
        sample_one, {"type": "sample:one", "id": "t", "rec": True}, attributes={"joblane-dead": ("Number", "0")}
    )

    assert (kept, world.outcomes("t"), world.row("t")["state"]) == ([], [], "archived")
    assert world.sweep().dead_letters == 0


@pytest.mark.parametrize("state", sorted(WAITING | {"active"}))
def test_cancel_cancels_waiting_tasks_and_asks_running_tasks_to_stop(
    world: World, inspector: Inspector, state: str
) -> None:
    put(world, sample_one, "t", **columns_in(state))

    acted = inspector.cancel("t")

    assert acted.after is (State.ACTIVE if state == "active" else State.CANCELLED)
    assert world.row("t")["cancel_requested_at"] is not None


def test_a_running_task_is_asked_to_stop_once(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", **active(60))
    inspector.cancel("t")

    with pytest.raises(ActionError, match=r"requested already.*op cancelled it \d+ s ago"):
        inspector.cancel("t")

    assert audited(world) == [("op", "cancel", "t")]


# --- Payloads ------------------------------------------------------------------------------------------------------


def test_an_edited_task_runs_with_its_new_payload(world: World, inspector: Inspector) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **columns_in("retry"), schema="of-another-version")

    inspector.edit("t", {"do": "looks", "number": 7})

    row = world.row("t")
    assert row["payload"] == {"do": "looks", "number": 7}
    assert row["schema"] == sample_one.schema_digest
    assert world.run("select details from joblane.audit") == [[{"fields": ["do", "number"]}]]
    world.later("t")
    world.deliver(sample_one, {"type": "sample:one", "id": "t", "rec": True})
    assert world.row("t")["result"] == 7


def test_the_message_of_an_external_producer_still_runs_an_edited_task(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", {"number": 1})

    inspector.edit("t", {"number": 2})
    world.deliver(sample_one, {"type": "sample:one", "id": "t", "payload": {"number": 1}})

    assert world.row("t")["state"] == "completed"


@pytest.mark.parametrize("operation", ["edit", "replay_with"])
def test_an_invalid_payload_is_refused_without_showing_its_values(
    world: World, extended: Inspector, operation: str
) -> None:
    put(world, sample_sized, "t", {"name": "kept"}, **archived())

    with pytest.raises(UnreadablePayloadError) as refused:
        getattr(extended, operation)("t", {"size": "secret-value", "unknown-key": "secret-value"})

    assert "name: Field required" in str(refused.value)
    assert "size:" in str(refused.value)
    assert "secret-value" not in str(refused.value)
    assert world.row("t")["payload"] == {"name": "kept"}
    assert audited(world) == []


@pytest.mark.parametrize("bad", ["nul \0", "lone \ud800", "x" * 10])
def test_text_that_postgres_cannot_hold_is_refused(world: World, extended: Inspector, bad: str) -> None:
    put(world, sample_sized, "t", {"name": "kept"}, **archived())
    if bad.isalpha():
        extended.edit("t", {"name": bad})
        return

    with pytest.raises(ValueError, match="payload: "):
        extended.edit("t", {"name": bad})


@pytest.mark.parametrize("operation", ["edit", "replay_with"])
def test_a_redacted_field_that_is_left_masked_keeps_its_value(
    world: World, extended: Inspector, operation: str
) -> None:
    put(world, sample_secretive, "t", {"token": "hidden", "page": 1}, **archived())

    acted = getattr(extended, operation)("t", {"token": MASK, "page": 2})

    assert world.row(acted.new_id or "t")["payload"] == {"token": "hidden", "page": 2}
    assert extended.audit()[0].details["fields"] == ["page"]


@pytest.mark.parametrize(
    ("given", "shown"), [({}, MASK), ({"unique_key": "of 4711-secret"}, f"of {MASK}"), ({"unique_key": "mine"}, "mine")]
)
def test_a_unique_key_does_not_reveal_a_redacted_field(
    world: World, extended: Inspector, given: dict[str, str], shown: str
) -> None:
    extended.enqueue("sample:secretive", {"token": "4711-secret"}, options={"task_id": "t", "unique_for": 60, **given})
    assert extended.task("t").unique_key == f"sample:secretive {shown}"


def test_a_masked_field_without_an_earlier_value_is_refused(world: World, extended: Inspector) -> None:
    with pytest.raises(PayloadError, match="token: it is masked, and the task has no value"):
        extended.enqueue("sample:secretive", {"token": MASK})


def test_an_unchanged_payload_is_refused(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t")

    with pytest.raises(ActionError, match="the payload is unchanged"):
        inspector.edit("t", {"do": "nothing", "number": 0})

    assert audited(world) == []


def test_a_resumable_task_is_not_edited_between_two_invocations(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "t", used_ms=1000, attempts=1, runs=1)

    with pytest.raises(ActionError, match="an attempt continues in the next invocation"):
        inspector.edit("t", {"number": 5})


@pytest.mark.parametrize("state", ["completed", "archived", "cancelled"])
def test_a_replay_is_a_new_task_linked_to_the_old(world: World, inspector: Inspector, state: str) -> None:
    world.lane(sample_one)
    whose = {"tenant": "acme", "owner": "ann", "tags": ["nightly"], "headers": {"traceparent": "00-a"}}
    put(world, sample_one, "old", {"number": 3}, **columns_in(state) | whose)

    acted = inspector.replay("old")

    assert acted.new_id is not None
    assert (acted.before, acted.after) == (State(state), State.PENDING)
    new = world.row(acted.new_id)
    assert {name: new[name] for name in whose} == whose
    assert (new["replay_of"], new["payload"]) == ("old", {"do": "nothing", "number": 3})
    assert world.run("select target, details from joblane.audit") == [["old", {"new_id": acted.new_id}]]
    assert deliver_waiting(world) == 1
    assert (world.row(acted.new_id)["state"], world.row("old")["state"]) == ("completed", state)


def test_a_replay_with_another_payload_names_the_fields_that_differ(world: World, extended: Inspector) -> None:
    put(world, sample_sized, "old", {"name": "a", "extra": 1}, **archived())

    acted = extended.replay_with("old", {"name": "b"})

    assert world.row(acted.new_id or "")["payload"] == {"name": "b", "size": 1}
    (details,) = world.run("select details from joblane.audit")[0]
    assert details == {"new_id": acted.new_id, "fields": ["name", "size"], "dropped": 1}


def test_a_replay_of_an_unreadable_payload_names_the_remedy(world: World, extended: Inspector) -> None:
    put(world, sample_sized, "old", {"size": 1}, **archived())

    with pytest.raises(UnreadablePayloadError, match="name: Field required; replay it with a corrected payload"):
        extended.replay("old")


def test_a_replay_respects_the_unique_key_of_its_type(world: World, inspector: Inspector) -> None:
    world.lane(sample_only)
    world.client._producer.sqs = world.sqs
    live = world.client.enqueue(sample_only, Sample())
    put(world, sample_only, "old", **archived())

    with pytest.raises(DuplicateTaskError, match=live.id):
        inspector.replay("old")

    assert audited(world) == []


# --- Refused actions -----------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, ...]] = {"edit": ({"number": 1},), "replay_with": ({"number": 1},)}
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


@pytest.mark.parametrize("action", ["retry", "replay", "edit"])
def test_cleared_content_cannot_be_restored(world: World, inspector: Inspector, action: str) -> None:
    put(world, sample_forgotten, "t", **archived(cleared=True, payload=None))

    with pytest.raises(ActionError, match=r"its payload was cleared.*nor be replayed"):
        getattr(inspector, action)("t", *ARGUMENTS.get(action, ()))


def test_a_retry_is_refused_while_another_task_holds_the_unique_key(world: World, inspector: Inspector) -> None:
    key: dict[str, Any] = {"unique_key": "sample:only k", "unique_expires_at": In(3600)}
    put(world, sample_only, "old", **archived(**key))
    put(world, sample_only, "holder", **key)

    with pytest.raises(ActionError, match="its unique key is held by task 'holder'"):
        inspector.retry("old")


def test_a_retry_takes_an_expired_unique_key(world: World, inspector: Inspector) -> None:
    world.lane(sample_only)
    put(world, sample_only, "old", **archived(unique_key="sample:only k", unique_expires_at=In(-9)))
    put(world, sample_only, "holder", unique_key="sample:only k", unique_expires_at=In(-1))

    assert inspector.retry("old").after is State.PENDING
    assert world.row("holder")["unique_key"] is None


# --- Many at once --------------------------------------------------------------------------------------------------


def test_a_change_of_many_skips_tasks_whose_state_does_not_allow_it(world: World, scope: Scope) -> None:
    key: dict[str, Any] = {"unique_key": "sample:only k", "unique_expires_at": In(3600)}
    put(world, sample_only, "a", **archived(**key))
    put(world, sample_only, "b", **archived(**key))  # needs the same key as a
    put(world, sample_one, "c", **archived(cleared=True, payload=None))
    put(world, sample_one, "d", **columns_in("cancelled"), tenant="acme")
    put(world, sample_one, "e", **active(60))

    changed = change(scope.connection, BulkAction.RETRY, ["e", "d", "c", "b", "a", "gone"], who="op")

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
    holder = Database(world.url)
    holder.get().execute_simple("begin")
    holder.get().run("select from joblane.tasks where id = 'held' for update")
    scope.connection.run("set lock_timeout = '5s'")  # a change that waits would wait for this thread

    changed = change(scope.connection, action, ["held", "free"], who="op")

    holder.drop()
    assert [one.id for one in changed] == ["free"]


def test_a_key_taken_concurrently_does_not_abort_the_open_transaction(world: World, scope: Scope) -> None:
    """Another transaction inserts a new holder of the key, and commits while the change waits for the index."""
    key = "sample:only k"
    put(world, sample_only, "old", **archived(unique_key=key, unique_expires_at=In(3600)))
    put(world, sample_one, "other", **archived())
    rival = Database(world.url)
    rival.get().execute_simple("begin")
    rival.get().run("update joblane.tasks set reason = reason where id = 'nobody'")
    rival.get().run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, "
        "unique_key)"
        " values ('new', 'sample:only', 'default', 'pending', '', 1, 1, $1)",
        key,
    )
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    with ThreadPoolExecutor(1) as threads:
        scope.connection.execute_simple("begin")
        changing = threads.submit(change, scope.connection, BulkAction.RETRY, ["old", "other"], who="op")
        while world.run(waits) == [[0]]:
            assert not changing.done()
        rival.get().commit()
        changed = changing.result(timeout=PATIENCE_SECONDS)
        scope.connection.commit()

    rival.drop()
    assert [one.id for one in changed] == ["other"]
    assert (world.row("old")["state"], world.row("other")["state"]) == ("archived", "pending")


# --- Ticks that were skipped ---------------------------------------------------------------------------------------


def tick_of_a_changed_schedule(world: World) -> str:
    for number in (1, 2):
        world.client.schedules.put("s", sample_one, Sample(number=number), OFTEN)
    return "ScheduleChanged"


def tick_of_a_paused_schedule(world: World) -> str:
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    world.client.schedules.pause("s")
    return "SchedulePaused"


def tick_of_a_deleted_schedule(world: World) -> str:
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
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
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    world.run("update joblane.tasks set due_at = clock_timestamp()")
    [[first, second]] = world.run("select min(id), max(id) from joblane.tasks")
    message = {"type": "sample:one", "rec": True}
    with mock.patch("joblane.worker.worker.Batch._finish", side_effect=SystemExit), pytest.raises(SystemExit):
        world.deliver(sample_one, message | {"id": first})
    world.deliver(sample_one, message | {"id": second})
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
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    [[first, last]] = world.run("select min(id), max(id) from joblane.tasks")
    inspector.cancel(first)
    inspector.archive(last)
    assert [inspector.retry(id_).after for id_ in (first, last)] == [State.PENDING] * 2


@pytest.mark.parametrize("action", ["archive", "cancel"])
def test_a_tick_that_has_run_is_retried_after_a_change_of_its_schedule(
    world: World, inspector: Inspector, action: str
) -> None:
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    [[tick]] = world.run("select min(id) from joblane.tasks")
    getattr(inspector, action)(tick)
    world.run("update joblane.tasks set runs = 1 where id = $1", tick)
    world.client.schedules.put("s", sample_one, Sample(number=2), OFTEN)
    assert inspector.retry(tick).after is State.PENDING


# --- Two operators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["archived", "scheduled"])
def test_the_second_of_two_operators_sees_what_the_first_did(
    world: World, two_operators: tuple[Inspector, Inspector], state: str
) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **columns_in(state))
    start = threading.Barrier(2)
    action = "retry" if state == "archived" else "archive"

    def act(inspector: Inspector) -> ActionError | None:
        start.wait()
        try:
            getattr(inspector, action)("t")
        except ActionError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as threads:
        results = dict(zip(("alice", "bob"), threads.map(act, two_operators), strict=True))

    (first,) = [who for who, error in results.items() if error is None]
    (refusal,) = [error for error in results.values() if error is not None]
    assert re.search(rf"{first} {'retried' if action == 'retry' else 'archived'} it \d+ s ago", str(refusal))
    assert audited(world) == [(first, action, "t")]


def test_an_action_waits_for_a_run_that_is_ending(world: World, inspector: Inspector) -> None:
    """A finish locks the row for a moment; the action then sees its result."""
    put(world, sample_one, "t", **active(60))
    finishing = Database(world.url)
    finishing.get().execute_simple("begin")
    finishing.get().run(
        "update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id = 't'"
    )
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    with ThreadPoolExecutor(1) as threads:
        deleting = threads.submit(inspector.delete, "t")
        while world.run(waits) == [[0]]:
            assert not deleting.done()
        finishing.get().commit()
        acted = deleting.result(timeout=PATIENCE_SECONDS)

    finishing.drop()
    assert (acted.before, acted.after) == (State.COMPLETED, State.COMPLETED)
