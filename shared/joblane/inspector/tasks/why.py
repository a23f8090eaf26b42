"""Why a task is not running: the first obstacle, in the order in which the claim would meet them.

Nothing is guessed from the state alone: each answer is what the claim or the sweep would find now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from joblane.inspector.durations import stamp
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import first_of
from joblane.inspector.shell import argument
from joblane.inspector.tasks.filter_sql import BOUND
from joblane.inspector.tasks.row import Record
from joblane.inspector.tasks.waits import open_wait, wait_text
from joblane.inspector.tasks.why_held import has_turn, passed_over, rate_of, why_held, why_parents
from joblane.inspector.views import Attempt, Reason, Why
from joblane.names import dead_letter_name, lane_name
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_DELAY
from joblane.record.driver.connection import Connection, Row
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.row.states import WAITING_SQL, State, WaitKind

EARLY = timedelta(seconds=EARLY_SECONDS)
PAUSES = """
select scope, name, reason, paused_by, until from joblane.pauses
 where (until is null or until > clock_timestamp())
   and ((scope = 'queue' and name = $1 and $2 not like 'jobs:%') or (scope = 'type' and name = $2)
     or (scope = 'tenant' and name = $3))
 order by scope, name
"""
AHEAD = f"""
with live as materialized (
  select type, queue, state, due_at from joblane.tasks
   where finished_at is null order by created_at, id limit {BOUND + 1}
)
select type, count(*) filter (where state in {WAITING_SQL} and due_at < least($3, clock_timestamp())) as ahead,
       count(*) filter (where state = 'active'), (select count(*) from live) > {BOUND}
  from (select * from live limit {BOUND}) as l where type = any($1::text[]) and queue = $2
 group by rollup (type) order by type is not null, ahead desc, type
"""
"""All types ($1) together, then each. The last column is true if the oldest :data:`BOUND` live tasks are not all."""


def why(scope: Scope, connection: Connection, record: Record, last: Attempt | None) -> Why:
    """Say why a task is not running. ``last``: the last run that has ended, None without one."""
    match record.state:
        case State.COMPLETED:
            return Why(Reason.ENDED, f"It completed at {_text(record.finished_at)}.")
        case State.CANCELLED:
            text = f"It was cancelled at {_text(record.finished_at)}: {record.reason or 'cancelled'}."
            if record.is_skipped_tick:
                name = str(record.schedule)
                text += f" Its schedule is {name}: `joblane schedules show {argument(name)}`."
            return Why(Reason.ENDED, text)
        case State.ARCHIVED:
            found = _archived(scope, record)
            later = passed_over(connection, record)
            return replace(found, text=f"{found.text} {later}; it would run after them.") if later else found
        case State.ACTIVE:
            return _active(connection, record)
        case _:
            return _waiting(scope, connection, record, last)


# --- Archived ------------------------------------------------------------------------------------------------------


def _archived(scope: Scope, record: Record) -> Why:
    dead_letters = dead_letter_name(lane_name(scope.prefix, record.queue, record.type))
    text = f"It was archived at {_text(record.finished_at)}: {record.reason or 'archived'}."
    if record.dead_sent_at is None:
        text += f" Its dead letter has not been sent to {dead_letters} yet; {_sweep(record, 'sends it')}."
        return Why(Reason.ARCHIVED, text, record.sweep_at)
    expired_at = record.dead_sent_at + DEAD_LETTER_RETENTION
    if expired_at <= record.now:
        text += f" Its dead letter in {dead_letters} expired at {_text(expired_at)}; the row is kept."
    else:
        text += (
            f" Its dead letter was sent to {dead_letters} at {_text(record.dead_sent_at)}. To run it again, retry it."
        )
    return Why(Reason.ARCHIVED, text)


# --- Running, or lost ----------------------------------------------------------------------------------------------


def _active(connection: Connection, record: Record) -> Why:
    lease = record.lease_until
    attempt = f"attempt {record.attempts} of {record.max_attempts}"
    if lease is not None and lease > record.now:
        if record.cancel_requested_at is not None:
            text = f"Cancellation was requested at {_text(record.cancel_requested_at)}, while {attempt} runs. The run "
            text += f"stops at its next check, or when it returns, {_text(lease)} at the latest."
            return Why(Reason.STOPPING, text, lease)
        return Why(Reason.RUNNING, f"It is running: {attempt}, until {_text(lease)} at the latest.", lease)
    text = (
        f"The run stopped without a result: the lease of {attempt} ended at {_text(lease)}. The attempt is marked as "
    )
    text += f"lost when its message returns, or {_sweep(record, 'sends another message')}. {_after_loss(record)}"
    if pauses := _pauses(connection, record):
        text += f" {_pauses_text(pauses)}"
    return Why(Reason.LOST, text, record.sweep_at)


def _after_loss(record: Record) -> str:
    """The decision of the claim on a row whose lease has ended, in the same order."""
    if record.cancel_requested_at is not None:
        return "The task is then cancelled, as requested."
    if record.batch_size <= 1 and record.attempts >= record.max_attempts:
        return "The task is then archived, as no attempt is left."
    if record.deadline is not None and record.deadline <= record.now:
        return "The task is then archived, as its deadline has passed."
    if record.batch_size > 1:
        return "The task then runs again, claimed alone: a loss in a batch does not count as an attempt."
    return f"The task is then retried, as attempt {record.attempts + 1} of {record.max_attempts}."


# --- Waiting -------------------------------------------------------------------------------------------------------


def _waiting(scope: Scope, connection: Connection, record: Record, last: Attempt | None) -> Why:
    last_outcome = None if last is None else last.outcome
    if (problem := _no_lane(scope, record)) is not None:
        return Why(Reason.NO_LANE, problem)
    pauses = _pauses(connection, record)
    also = f" {_pauses_text(pauses)}" if pauses else ""
    pushed = _pushed(record)
    if (other := _other(scope, connection, record, last)) is not None:
        return replace(other, text=f"{other.text}{pushed}{_late(record)}{also}")
    if record.due_at > record.now + EARLY:
        return Why(Reason.NOT_DUE, f"{_not_due(record, last_outcome)}{pushed}{_late(record)}{also}", record.due_at)
    if pauses:
        ends = [until for *_, until in pauses]
        return Why(Reason.PAUSED, f"{_pauses_text(pauses)}{_late(record)}", None if None in ends else max(ends))
    lane = lane_name(scope.prefix, record.queue, record.type)
    if _is_unsent(record):
        text = f"It is due, but its message to {lane} has not been sent yet; {_sweep(record, 'sends it')}."
        return Why(Reason.UNSENT, text + _late(record), record.sweep_at)
    in_lane = (
        f"its message should be in {lane}. {_queue_before(scope, connection, record)} If the lane then holds fewer "
    )
    in_lane += f"messages than tasks, {_sweep(record, 'sends another one')}.{pushed}{_late(record)}"
    if record.claim_alone:
        reason = Reason.CLAIM_ALONE
        place = "A run was lost while the task was claimed in a batch, so it is now claimed alone"
    elif has_turn(record):
        reason, place = Reason.TURN, f"Its turn came at {_text(record.due_at)}"
    else:
        continues = last_outcome == "continued"
        reason, place = Reason.IN_LANE, "It continues in the next invocation" if continues else "It waits in its lane"
    return Why(reason, f"{place}: {in_lane}", record.sweep_at)


def _other(scope: Scope, connection: Connection, record: Record, last: Attempt | None) -> Why | None:
    """Say which tasks, limit or signal a task waits for, or whose rate gave it its time; None if none of this is so."""
    if record.wait_kind is WaitKind.PARENTS and (waits := why_parents(connection, record)) is not None:
        later = f" It is due at {_text(record.due_at)}." if record.due_at > record.now + EARLY else ""
        return replace(waits, text=waits.text + later)
    if record.is_limited:
        return why_held(connection, record)
    if record.due_at <= record.now + EARLY:
        return None
    if (rated := rate_of(connection, record)) is not None:
        return Why(Reason.RATED, f"{rated} {_message_at(record)}", record.due_at)
    if record.runs > 0 and (wait := open_wait(scope, connection, record)) is not None:
        return Why(Reason.WAIT, f"It {wait_text(record, wait, last)}. {_message_at(record)}", record.due_at)
    return None


def _queue_before(scope: Scope, connection: Connection, record: Record) -> str:
    """Messages are received roughly in the order in which they were due, in the lane of a place of all its types."""
    of, types, task = "Of the same type and queue", [record.type], scope.task(record.type)
    if task is not None and task.place is not None:
        members = [each for each in scope.members(task) if record.queue in each.lanes]
        of, types = f"Of all types of {task.place.name} in this lane", [name for each in members for name in each.types]
    (_, ahead, running, more), *by_type = connection.run(AHEAD, types, record.queue, record.due_at)
    least = "at least " if more else ""
    first = [f"{number:,} of {type_}" for type_, number, *_ in by_type if number] if len(types) > 1 else []
    also = f" ({first_of(first)})" if first else ""
    return f"{of}, {least}{ahead:,} waiting tasks were due earlier{also}, and {running:,} are running."


def _no_lane(scope: Scope, record: Record) -> str | None:
    task = scope.task(record.type)
    if task is None:
        return f"No code declares the type {record.type!r}, so nothing can run it: deploy the type, or cancel the task."
    if record.queue not in task.lanes:
        lanes = ", ".join(task.lanes)
        return (
            f"{record.type!r} no longer has a lane in {record.queue}, only in {lanes}: replay the task, or cancel it."
        )
    return None


def _not_due(record: Record, last_outcome: str | None) -> str:
    due = _text(record.due_at)
    if record.mismatch_since is not None:
        text = (
            f"Since {_text(record.mismatch_since)} its payload has a schema that the deployed code does not know; the "
            "next try is due"
        )
    elif record.state is State.RETRY:
        text = f"Attempt {record.attempts} of {record.max_attempts} failed ({record.error_type}); the next is due"
    elif last_outcome == "snoozed":
        text = "Its last run snoozed it: it is due"
    elif last_outcome == "rate_limited":
        text = "Its last run met the limit of another service (RateLimited): it is due"
    elif last_outcome == "not_started":
        text = "A hook failed before the handler of its last run, and its runs name the hook: it is due"
    else:
        text = "It is due"
    return f"{text} at {due}. {_message_at(record)}"


def _message_at(record: Record) -> str:
    """Say where the message of a task is that is due later."""
    if record.due_at - MAX_DELAY > record.now:
        return f"SQS cannot delay a message for that long; {_sweep(record, 'sends it')}."
    if _is_unsent(record):
        return f"Its message has not been sent yet; {_sweep(record, 'sends it')}."
    return "Its message should wait in SQS until then."


def _is_unsent(record: Record) -> bool:
    """True if the sweep has to send the task's first message. See ``UNSENT_SWEEP``."""
    return record.sweep_at is not None and record.sweep_at < record.due_at


def _late(record: Record) -> str:
    if record.deadline is None or record.deadline > max(record.now, record.due_at):
        return ""
    return f" It will not run: its deadline is {_text(record.deadline)}, and it is archived when its message arrives."


def _pushed(record: Record) -> str:
    """Say how often a debounced task was pushed, and when it runs at the latest. A task with a place among those that
    wait for a limit is not pushed further."""
    if record.asks is None or record.longest_seconds is None or record.runs > 0:
        return ""
    pushes = record.asks - 1
    times = f"pushed {pushes:,} time{'' if pushes == 1 else 's'} since {_text(record.created_at)}"
    if record.state is State.HELD or record.passed is not None:
        return f" It was {times}." if pushes else ""
    at_latest = f"runs at {_text(record.created_at + timedelta(seconds=record.longest_seconds))} at the latest"
    return f" It was {times}; it {at_latest}." if pushes else f" A further enqueue pushes it; it {at_latest}."


def _pauses(connection: Connection, record: Record) -> Sequence[Row]:
    return connection.run(PAUSES, record.queue, record.type, record.tenant)


def _pauses_text(pauses: Sequence[Row]) -> str:
    sentences = []
    for scope, name, reason, by, until in pauses:
        lasting = f"until {_text(until)}" if until else "until it is resumed"
        sentences.append(
            f"The {scope} {name} is paused{f' by {by}' if by else ''}, {lasting}{f': {reason}' if reason else ''}."
        )
    return " ".join(sentences)


# --- Words ---------------------------------------------------------------------------------------------------------


def _sweep(record: Record, does: str) -> str:
    if record.sweep_at is None:
        return f"no sweep {does}"
    if record.sweep_at <= record.now:
        return f"the next sweep {does}"
    return f"the first sweep after {_text(record.sweep_at)} {does}"


def _text(at: datetime | None) -> str:
    return stamp(at) if at is not None else "an unknown time"
