"""All details of a task, and the reason why it is not running in each situation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Queue, SkipRetry, Snooze, TaskContext, task
from joblane.errors import UnknownTaskError
from joblane.handler.steps import key_of
from joblane.inspector.durations import stamp
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.detail import ATTEMPTS_SHOWN
from joblane.inspector.views import Reason, TaskView, Why
from joblane.names import Queue as Queues
from joblane.record.row.states import State
from joblane.record.task.claim import arrival, claim
from joblane.sqs.message import Message, decode
from joblane.sweep.sweep import sweep
from joblane.tasks.redaction import MASK
from joblane.tasks.task import Task
from tests.bulks import TASKS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@behaviour
def detailed_failure(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no room")


@behaviour
def detailed_snooze(payload: Sample, ctx: TaskContext) -> None:
    raise Snooze(timedelta(minutes=3))


@behaviour
def detailed_progress(payload: Sample, ctx: TaskContext) -> Any:
    for _ in ctx.each(["a", "b"], key=str):
        pass
    ctx.progress(2, 4, "half")
    return {"rows": 7}


Enqueue = Callable[..., str]


@pytest.fixture
def enqueue(world: World) -> Enqueue:
    """Enqueue a sample under an id, on its lane."""

    def make(id_: str, do: str = "nothing", of: Task[Any, Any] = sample_one, **options: Any) -> str:
        world.lane(of)
        return world.client.enqueue(of, Sample(do=do), task_id=id_, **options).id

    return make


def message(id_: str, of: Task[Any, Any] = sample_one) -> Mapping[str, Any]:
    return {"type": of.type, "id": id_, "rec": True}


def deliver(world: World, id_: str, of: Task[Any, Any] = sample_one) -> None:
    world.deliver(of, message(id_, of))


def start(world: World, *ids: str, lease: float = 60, of: Task[Any, Any] = sample_one) -> None:
    """Claim tasks like an invocation that has not ended; a negative lease has ended already."""
    incoming = [arrival(of, decode(json.dumps(message(id_, of))), id_, Queues.DEFAULT) for id_ in ids]
    claims = claim(world.database.get(), incoming, timedelta(seconds=lease), "request")
    assert {claimed.verdict for claimed in claims.values()} == {"run"}


def swept(world: World) -> None:
    sweep(world.database.get(), world.sqs, PREFIX)


def why(inspector: Inspector, id_: str) -> Why:
    return inspector.task(id_).why


def pause(world: World, kind: str, name: str, until: str | None = None) -> None:
    world.run(
        "insert into joblane.pauses (scope, name, reason, until, paused_by)"
        " values ($1, $2, 'they asked', clock_timestamp() + $3::interval, 'ann')"
        " on conflict (scope, name) do update set until = excluded.until",
        kind,
        name,
        until,
    )


# --- Why: it has ended, or it runs ---------------------------------------------------------------------------------


def test_a_completed_task_has_ended(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    deliver(world, enqueue("it"))
    found = why(inspector, "it")
    assert found.reason is Reason.ENDED
    assert found.text.startswith("It completed at 20")
    assert found.until is None


def test_a_cancelled_task_names_the_reason(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    world.client.cancel(enqueue("it"))
    found = why(inspector, "it")
    assert found.reason is Reason.ENDED
    assert found.text.endswith(": cancelled before it ran.")


def test_a_running_task_names_the_end_of_its_lease(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    start(world, enqueue("it"))
    found = why(inspector, "it")
    assert found.reason is Reason.RUNNING
    assert found.text.startswith("It is running: attempt 1 of 4, until 20")
    assert found.until == inspector.task("it").lease_until is not None


def test_a_task_that_was_asked_to_stop_says_so(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    start(world, enqueue("it"))
    world.client.cancel("it")
    found = why(inspector, "it")
    assert found.reason is Reason.STOPPING
    assert "attempt 1 of 4 runs" in found.text
    assert found.until == inspector.task("it").lease_until is not None


# --- Why: its run was lost -----------------------------------------------------------------------------------------


def test_a_lost_run_names_its_next_step_which_then_happens(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    start(world, enqueue("it", max_retry=1), lease=-20)
    found = why(inspector, "it")
    assert found.reason is Reason.LOST
    assert "the lease of attempt 1 of 2 ended at 20" in found.text
    assert "the next sweep sends another message. The task is then retried, as attempt 2 of 2." in found.text
    start(world, "it", lease=-1)
    found = why(inspector, "it")
    assert "the first sweep after " in found.text
    assert found.text.endswith("The task is then archived, as no attempt is left.")
    assert found.until is not None
    deliver(world, "it")
    assert why(inspector, "it").reason is Reason.ARCHIVED


def test_a_lost_run_with_a_requested_cancellation_is_cancelled_next(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    start(world, enqueue("it"), lease=-1)
    world.client.cancel("it")
    assert why(inspector, "it").text.endswith("The task is then cancelled, as requested.")
    deliver(world, "it")
    assert why(inspector, "it").text.endswith("cancelled while it ran.")


def test_a_lost_run_past_its_deadline_is_archived_next(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    start(world, enqueue("it", deadline=datetime.now(UTC) + timedelta(minutes=1)), lease=-1)
    world.run("update joblane.tasks set deadline = clock_timestamp() - interval '1 s'")
    assert why(inspector, "it").text.endswith("The task is then archived, as its deadline has passed.")
    deliver(world, "it")
    assert world.row("it")["error_type"] == "DeadlinePassed"


def test_a_task_lost_in_a_batch_is_claimed_alone_next(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    # given two tasks that were claimed in a batch, and lost
    start(world, enqueue("a", of=sample_batch), enqueue("b", of=sample_batch), lease=-1, of=sample_batch)
    found = why(inspector, "a")
    assert found.reason is Reason.LOST
    assert "The task then runs again, claimed alone: a loss in a batch does not count as an attempt." in found.text
    # when both are received again in one batch
    incoming = [arrival(sample_batch, Message("sample:batch", id_, rec=True), id_, Queues.DEFAULT) for id_ in "ab"]
    claims = claim(world.database.get(), incoming, timedelta(seconds=60), "request")
    # then
    assert {claimed.verdict for claimed in claims.values()} == {"claim_alone"}
    found = why(inspector, "a")
    assert found.reason is Reason.CLAIM_ALONE
    assert "claimed alone: its message should be in jobs-default-sample-batch." in found.text


# --- Why: paused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("queue", "default"), ("type", "sample:one"), ("tenant", "acme")])
def test_a_paused_task_names_the_pause_its_operator_and_its_end(
    world: World, inspector: Inspector, enqueue: Enqueue, kind: str, name: str
) -> None:
    enqueue("it", tenant="acme")
    pause(world, kind, name)
    world.deliver(sample_one, message("it"), group="acme")
    found = why(inspector, "it")
    assert found == Why(
        Reason.PAUSED, f"The {kind} {name} is paused by ann, until it is resumed: they asked.", until=None
    )
    pause(world, kind, name, "1 hour")
    found = why(inspector, "it")
    assert f"The {kind} {name} is paused by ann, until 20" in found.text
    assert found.until is not None
    assert found.until > datetime.now(UTC) + timedelta(minutes=50)


def test_the_pause_of_a_queue_excludes_the_librarys_own_tasks(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    enqueue("it")
    world.run("update joblane.tasks set type = 'jobs:bulk', queue = 'low'")
    pause(world, "queue", "low")
    assert why(inspector, "it").reason is Reason.IN_LANE
    pause(world, "type", "jobs:bulk")
    assert why(inspector, "it").reason is Reason.PAUSED


def test_with_several_pauses_the_longest_counts(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it")
    pause(world, "queue", "default", "1 hour")
    pause(world, "type", "sample:one", "2 hours")
    pause(world, "type", "sample:batch")
    found = why(inspector, "it")
    assert found.text.count("paused") == 2
    assert found.until is not None
    assert found.until > datetime.now(UTC) + timedelta(minutes=110)


def test_after_a_pause_has_ended_the_sweep_sends_the_waiting_tasks(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    # given a task whose message was received while its queue was paused
    enqueue("it")
    pause(world, "queue", "default", "1 hour")
    deliver(world, "it")
    assert why(inspector, "it").reason is Reason.PAUSED
    # when the pause ends
    pause(world, "queue", "default", "-1 s")
    # then there is no message until the next sweep
    found = why(inspector, "it")
    assert found.reason is Reason.UNSENT
    assert "the next sweep sends it" in found.text
    swept(world)
    assert why(inspector, "it").reason is Reason.IN_LANE


def test_an_external_message_received_during_a_pause_is_unsent_after_it(world: World, inspector: Inspector) -> None:
    pause(world, "type", "sample:one", "1 hour")
    world.deliver(sample_one, {"type": "sample:one", "id": "it", "payload": {}})
    assert why(inspector, "it").reason is Reason.PAUSED
    pause(world, "type", "sample:one", "-1 s")
    assert why(inspector, "it").reason is Reason.UNSENT


# --- Why: not due --------------------------------------------------------------------------------------------------


def test_a_task_due_far_ahead_waits_without_a_message(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it", process_in=timedelta(days=3))
    found = why(inspector, "it")
    assert found.reason is Reason.NOT_DUE
    assert found.until == inspector.task("it").row.due_at
    assert found.text.startswith("It is due at 20")
    assert "SQS cannot delay a message for that long; the first sweep after" in found.text
    pause(world, "queue", "default")
    assert why(inspector, "it").text.endswith("The queue default is paused by ann, until it is resumed: they asked.")


def test_a_task_due_soon_waits_in_sqs(inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it", process_in=timedelta(minutes=3))
    found = why(inspector, "it")
    assert found.reason is Reason.NOT_DUE
    assert found.text.endswith("Its message should wait in SQS until then.")


def test_a_debounced_task_says_how_often_it_was_pushed(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    how: dict[str, Any] = {"unique_for": timedelta(hours=1), "unique_until": "start", "unique_key": "k"}
    how |= {"debounce": timedelta(minutes=1), "longest": timedelta(minutes=5)}
    enqueue("it", **how)
    first = inspector.task("it").row.created_at
    ends = f"runs at {stamp(first + timedelta(minutes=5))} at the latest."
    found = why(inspector, "it")
    assert (found.reason, found.until) == (Reason.NOT_DUE, inspector.task("it").row.due_at)
    assert found.text.endswith(f"wait in SQS until then. A further enqueue pushes it; it {ends}")
    enqueue("a", **how)
    assert why(inspector, "it").text.endswith(f"It was pushed 1 time since {stamp(first)}; it {ends}")
    for id_ in "bcd":
        enqueue(id_, **how)
    assert f"It was pushed 4 times since {stamp(first)}; it {ends}" in why(inspector, "it").text
    world.later("it")
    assert why(inspector, "it").text.endswith(f"It was pushed 4 times since {stamp(first)}; it {ends}")
    start(world, "it")
    assert "pushed" not in why(inspector, "it").text
    world.run("update joblane.tasks set state = 'retry', error_type = 'ValueError', due_at = now() + interval '1 min'")
    assert "pushed" not in why(inspector, "it").text


def test_a_failed_task_names_the_time_of_its_next_attempt(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    deliver(world, enqueue("it", "detailed_failure"))
    found = why(inspector, "it")
    assert found.reason is Reason.NOT_DUE
    assert found.text.startswith("Attempt 1 of 4 failed (ValueError); the next is due at 20")
    assert found.until == inspector.task("it").row.due_at


def test_a_snoozed_task_says_so(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    deliver(world, enqueue("it", "detailed_snooze"))
    found = why(inspector, "it")
    assert found.reason is Reason.NOT_DUE
    assert found.text.startswith("Its last run snoozed it: it is due at 20")


def test_a_task_with_an_unknown_schema_waits_for_a_deploy(world: World, inspector: Inspector) -> None:
    world.deliver(sample_one, {"type": "sample:one", "id": "it", "schema": "other", "payload": {"number": "x"}})
    found = why(inspector, "it")
    assert found.reason is Reason.NOT_DUE
    assert found.text.startswith("Since 20")
    assert "its payload has a schema that the deployed code does not know; the next try is due at 20" in found.text


# --- Why: on its way -----------------------------------------------------------------------------------------------


def test_an_unsent_task_names_the_time_of_sending(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    # given a task that was due in an hour
    enqueue("it", process_in=timedelta(hours=1))
    world.run("update joblane.tasks set due_at = now() - interval '1 s', sweep_at = now() + interval '-15 min'")
    found = why(inspector, "it")
    assert found.reason is Reason.UNSENT
    assert f"its message to {LANE} has not been sent yet; the next sweep sends it" in found.text
    # when
    swept(world)
    # then
    assert why(inspector, "it").reason is Reason.IN_LANE


def test_a_task_in_its_lane_counts_the_tasks_ahead(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("other", of=sample_batch)
    for number in range(3):
        enqueue(f"before-{number}")
    enqueue("far", process_in=timedelta(hours=1))
    enqueue("it")
    enqueue("after")
    start(world, "before-0")
    found = why(inspector, "it")
    assert found.reason is Reason.IN_LANE
    assert f"It waits in its lane: its message should be in {LANE}." in found.text
    assert "Of the same type and queue, 2 waiting tasks were due earlier, and 1 are running." in found.text
    assert "If the lane then holds fewer messages than tasks, the first sweep after 20" in found.text


def test_a_task_that_no_worker_received_is_sent_again_by_the_next_sweep(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    enqueue("it")
    world.later("it")
    assert (
        "If the lane then holds fewer messages than tasks, the next sweep sends another one."
        in why(inspector, "it").text
    )


@pytest.mark.parametrize("due", [timedelta(0), timedelta(hours=1)])
def test_a_task_past_its_deadline_will_not_run(
    world: World, inspector: Inspector, enqueue: Enqueue, due: timedelta
) -> None:
    enqueue("it", process_in=due, deadline=datetime.now(UTC) + due + timedelta(minutes=1))
    assert "will not run" not in why(inspector, "it").text
    world.run("update joblane.tasks set deadline = due_at - interval '1 s'")
    assert "It will not run: its deadline is 20" in why(inspector, "it").text


def test_a_task_of_an_undeclared_type_has_no_lane(world: World, scope: Scope, enqueue: Enqueue) -> None:
    enqueue("it")
    gone = Scope(scope.database, scope.sqs, PREFIX, {}, "op")
    found = Inspector(gone).task("it")
    assert found.why.reason is Reason.NO_LANE
    assert "No code declares the type 'sample:one'" in found.why.text
    assert found.payload == MASK, "without a declaration all fields are masked"


def test_a_task_in_a_queue_that_its_type_has_left_has_no_lane(world: World, scope: Scope, enqueue: Enqueue) -> None:
    @task("sample:one", queue=Queue.LOW)
    def sample_one(payload: Sample, ctx: TaskContext) -> None:
        pass

    enqueue("it")
    moved = Scope(scope.database, scope.sqs, PREFIX, {"sample:one": sample_one}, "op")
    found = why(Inspector(moved), "it")
    assert found.reason is Reason.NO_LANE
    assert "'sample:one' no longer has a lane in default, only in low" in found.text


# --- Why: archived -------------------------------------------------------------------------------------------------


def test_an_archived_task_names_the_queue_of_its_dead_letter(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    deliver(world, enqueue("it", "detailed_failure", max_retry=0))
    found = why(inspector, "it")
    assert found.reason is Reason.ARCHIVED
    assert (
        ": attempt 1 of 1 failed: ValueError: no room. Its dead letter was sent to jobs-default-sample-one-dlq at"
        in (found.text)
    )
    # and when the dead letter has expired
    world.run("update joblane.tasks set dead_sent_at = clock_timestamp() - interval '15 days'")
    assert "Its dead letter in jobs-default-sample-one-dlq expired at 20" in why(inspector, "it").text


def test_an_archived_task_names_the_time_of_sending_its_dead_letter(
    world: World, inspector: Inspector, enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue("it", "detailed_failure", max_retry=0)
    with monkeypatch.context() as outage:
        outage.setattr(world.sqs, "send_many", lambda entries: dict.fromkeys(range(len(entries)), "away"))
        deliver(world, "it")
    found = why(inspector, "it")
    assert found.reason is Reason.ARCHIVED
    assert "Its dead letter has not been sent to jobs-default-sample-one-dlq yet; the first sweep after" in found.text
    assert found.until is not None


# --- Details -------------------------------------------------------------------------------------------------------


def test_a_task_is_shown_with_its_runs_its_progress_and_its_result(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    enqueue(
        "it", "detailed_progress", tenant="acme", tags=["x"], owner="ann", headers={"traceparent": PARENT, "k": "v"}
    )
    enqueue("again")
    world.run("update joblane.tasks set replay_of = 'it' where id = 'again'")
    world.run(
        "insert into joblane.audit (who, action, target, reason, details) values ('ann', 'run', 'it', 'soon', '{}'),"
        " ('b', 'run', 'x', '', '{}'), ('ann', 'replay', 'it', null, '{\"new_id\": \"again\"}')"
    )
    deliver(world, "it")
    view = inspector.task("it")
    assert view.row == inspector.tasks().tasks[-1]
    assert (view.row.state, view.owner, view.runs, view.generation) == (State.COMPLETED, "ann", 1, 0)
    assert view.payload == {"do": "detailed_progress", "number": 0}
    assert view.result == {"rows": 7}
    assert view.headers == {"traceparent": PARENT, "k": MASK}
    assert view.progress is not None
    assert (view.progress.done, view.progress.total, view.progress.note) == (2, 4, "half")
    assert view.items_done == 2
    assert view.replays == ("again",)
    assert inspector.task("again").replay_of == "it"
    entry = view.audit[-1]
    assert (entry.who, entry.action, entry.target, entry.reason, entry.details) == ("ann", "run", "it", "soon", {})
    [attempt] = view.attempts
    assert (attempt.run, attempt.attempt, attempt.outcome, attempt.error_type) == (1, 1, "completed", None)
    assert attempt.request_id == "11111111-2222-4333-8444-555555555555"
    assert attempt.finished_at is not None
    assert attempt.finished_at >= attempt.started_at


def test_a_task_is_shown_with_its_steps_and_their_keys_without_their_values(
    world: World, inspector: Inspector, enqueue: Enqueue
) -> None:
    @behaviour
    def detailed_steps(payload: Sample, ctx: TaskContext) -> None:
        ctx.step("charge", lambda _: {"id": "ch_1"})
        ctx.step("mail", lambda _: None)
        raise SkipRetry("after two")

    enqueue("it", "detailed_steps")
    deliver(world, "it")

    charge, mail = inspector.task("it").steps
    assert (charge.name, charge.key, charge.bytes) == ("charge", key_of("it", "charge"), len('{"id":"ch_1"}'))
    assert (mail.name, mail.key, mail.bytes) == ("mail", key_of("it", "mail"), 4)
    assert charge.done_at <= mail.done_at
    assert "ch_1" not in repr(inspector.task("it"))


def test_an_invalid_traceparent_is_masked_like_any_header(inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it", headers={"traceparent": "Bearer secret"})
    assert inspector.task("it").headers == {"traceparent": MASK}


def test_only_the_last_runs_are_shown(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it")
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation) select 'it', n, 1, 0"
        " from generate_series(1, 600) n"
    )
    assert [attempt.run for attempt in inspector.task("it").attempts] == [*range(601 - ATTEMPTS_SHOWN, 601)]


@pytest.mark.parametrize("id_", ["nobody", "", "a b", "a\0b", "x" * 300, None, 7])
def test_an_unknown_id_is_an_error(inspector: Inspector, id_: Any) -> None:
    with pytest.raises(UnknownTaskError, match="there is no task"):
        inspector.task(id_)


def test_the_log_link_leads_to_the_log_group_of_its_function(
    world: World, scope: Scope, inspector: Inspector, enqueue: Enqueue
) -> None:
    deliver(world, enqueue("it"))
    assert inspector.task("it").log_link is None
    there = Inspector(Scope(scope.database, scope.sqs, PREFIX, TASKS, "op", "eu-central-1"))
    link = there.task("it").log_link
    assert link is not None
    assert link.startswith("https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#logsV2:")
    assert "*2Faws*2Flambda*2Fjobs-sample-one" in link
    enqueue("unrun")
    assert there.task("unrun").log_link is None


# --- Actions -------------------------------------------------------------------------------------------------------


def actions(view: TaskView) -> set[str]:
    return set(view.actions)


def test_the_actions_follow_the_state(world: World, inspector: Inspector, enqueue: Enqueue) -> None:
    enqueue("it", "detailed_failure", max_retry=0)
    assert actions(inspector.task("it")) == {"run", "archive", "delete", "cancel", "edit"}
    start(world, enqueue("runs"))
    assert actions(inspector.task("runs")) == {"cancel"}
    world.client.cancel("runs")
    assert actions(inspector.task("runs")) == set()
    deliver(world, "it")
    assert actions(inspector.task("it")) == {"retry", "delete", "replay", "edit", "replay_with"}
    deliver(world, enqueue("done"))
    assert actions(inspector.task("done")) == {"delete", "replay", "replay_with"}
    world.run("update joblane.tasks set payload = null, cleared = true where id = 'done'")
    assert actions(inspector.task("done")) == set()


# --- Records of runs for statistics --------------------------------------------------------------------------------


def test_a_run_records_its_type_queue_tenant_and_wait(world: World, enqueue: Enqueue) -> None:
    enqueue("it", tenant="acme")
    world.run("update joblane.tasks set due_at = due_at - interval '5 s'")
    deliver(world, "it")
    [attempt] = world.attempts("it")
    assert (attempt["type"], attempt["queue"], attempt["tenant"]) == ("sample:one", "default", "acme")
    assert 5_000 <= attempt["wait_ms"] < 60_000


def test_the_end_of_a_run_changes_no_index_of_the_runs(world: World) -> None:
    """Otherwise each end would write all index entries again. Source: PostgreSQL, *Heap-Only Tuples*."""
    changed = {"finished_at", "outcome", "duration_ms", "error_type", "error_message", "fingerprint", "traceback",
               "billed_ms", "memory_mb", "cost_usd"}  # fmt: skip
    rows = world.run(
        "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
        " where i.indrelid = 'joblane.task_attempts'::regclass"
    )
    assert {row[0] for row in rows} == {"task_id", "run", "started_at"}
    assert not {row[0] for row in rows} & changed


def test_a_task_has_the_fingerprint_of_its_error_while_it_has_one(world: World, enqueue: Enqueue) -> None:
    deliver(world, enqueue("it", "detailed_failure"))
    fingerprint = world.row("it")["fingerprint"]
    assert fingerprint == world.attempts("it")[0]["fingerprint"] is not None
    world.run(
        "update joblane.tasks set payload = jsonb_set(payload, '{do}', '\"nothing\"'), due_at = clock_timestamp()"
    )
    deliver(world, "it")
    assert (world.row("it")["state"], world.row("it")["fingerprint"]) == ("completed", None)


def test_a_replaced_task_starts_without_an_error(world: World) -> None:
    from tests.samples import sample_only

    world.client.enqueue(sample_only, Sample(do="detailed_failure"), task_id="it", unique_key="k")
    world.deliver(sample_only, message("it", sample_only))
    assert world.row("it")["fingerprint"] is not None
    world.client.enqueue(sample_only, Sample(), unique_key="k", on_conflict="replace")
    assert (world.row("it")["error_type"], world.row("it")["fingerprint"]) == (None, None)


def test_tasks_archived_without_a_run_have_one_fingerprint_per_type(world: World, enqueue: Enqueue) -> None:
    for id_ in ("lost-1", "lost-2"):
        start(world, enqueue(id_, max_retry=0), lease=-1)
        deliver(world, id_)
    start(world, enqueue("lost-3", of=sample_batch, max_retry=0), lease=-1, of=sample_batch)
    deliver(world, "lost-3", sample_batch)
    enqueue("late", deadline=datetime.now(UTC) + timedelta(minutes=1))
    world.run("update joblane.tasks set deadline = clock_timestamp() where id = 'late'")
    deliver(world, "late")
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    world.deliver(sample_one, {"type": "sample:one", "id": "external", "payload": {}, "options": {"deadline": past}})
    rows = world.run("select id, state, error_type, fingerprint from joblane.tasks order by id")
    assert {(row[1], row[2]) for row in rows} == {("archived", "Lost"), ("archived", "DeadlinePassed")}
    prints = {row[0]: row[3] for row in rows}
    assert prints["lost-1"] == prints["lost-2"] != prints["lost-3"]
    assert prints["late"] == prints["external"]
    assert len(set(prints.values())) == 3
    assert all(len(fingerprint) == 16 for fingerprint in prints.values())
