"""Why a task is not running: what holds it now, in the order in which it would have to give way.

Nothing is guessed from the state alone: each answer is what the claim or the sweep would find if it looked now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from joblane.inspector.durations import stamp
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.row import Record
from joblane.inspector.views import Reason, Why
from joblane.limits import DEAD_LETTER_RETENTION, MAX_DELAY
from joblane.queues import dead_letter_name, lane_name
from joblane.record.claim import EARLY_SECONDS
from joblane.record.connection import Connection, Row
from joblane.record.states import State

AHEAD_CAP = 10_000
"""Tasks before this one are counted up to here."""

# As the claim sees it: see claim.PAUSED.
PAUSES = """
select scope, name, reason, paused_by, until from joblane.pauses
 where (until is null or until > clock_timestamp())
   and ((scope = 'queue' and name = $1 and $2 not like 'jobs:%') or (scope = 'type' and name = $2)
     or (scope = 'tenant' and name = $3))
 order by scope, name
"""
AHEAD = f"""
select (select count(*) from (select from joblane.tasks
                               where state = any('{{scheduled,pending,retry}}'::text[]) and type = $1 and queue = $2
                                 and due_at < least($3, clock_timestamp()) limit {AHEAD_CAP + 1}) as w),
       (select count(*) from joblane.tasks where state = 'active' and type = $1 and queue = $2)
"""


def why(scope: Scope, connection: Connection, record: Record, last_outcome: str | None) -> Why:
    """``last_outcome``: of the last run that has ended, None where there is none."""
    match record.state:
        case State.COMPLETED:
            return Why(Reason.ENDED, f"It completed at {_text(record.finished_at)}.")
        case State.CANCELLED:
            return Why(
                Reason.ENDED, f"It was cancelled at {_text(record.finished_at)}: {record.reason or 'cancelled'}."
            )
        case State.ARCHIVED:
            return _dead(scope, record)
        case State.ACTIVE:
            return _active(connection, record)
        case _:
            return _waiting(scope, connection, record, last_outcome)


# --- Given up ------------------------------------------------------------------------------------------------------


def _dead(scope: Scope, record: Record) -> Why:
    dead_letters = dead_letter_name(lane_name(scope.prefix, record.queue, record.type))
    text = f"It was given up at {_text(record.finished_at)}: {record.reason or 'archived'}."
    if record.dead_sent_at is None:
        return Why(
            Reason.DEAD,
            f"{text} Its dead letter is still to be sent to {dead_letters}; {_sweep(record, 'sends it')}.",
            record.sweep_at,
        )
    gone = record.dead_sent_at + DEAD_LETTER_RETENTION
    if gone <= record.now:
        return Why(Reason.DEAD, f"{text} Its dead letter in {dead_letters} expired at {_text(gone)}; the row is kept.")
    return Why(
        Reason.DEAD, f"{text} Its dead letter was sent to {dead_letters} at {_text(record.dead_sent_at)}; retry it."
    )


# --- Running, or lost ----------------------------------------------------------------------------------------------


def _active(connection: Connection, record: Record) -> Why:
    lease = record.lease_until
    attempt = f"attempt {record.attempts} of {record.max_attempts}"
    if lease is not None and lease > record.now:
        if record.cancel_requested_at is not None:
            text = (
                f"It was asked to stop at {_text(record.cancel_requested_at)} while {attempt} runs; it is told at its "
            )
            return Why(Reason.STOPPING, f"{text}next check, or at its end, {_text(lease)} at the latest.", lease)
        return Why(Reason.RUNNING, f"It is running: {attempt}, until {_text(lease)} at the latest.", lease)
    text = f"Its lease ended at {_text(lease)} and the run has not told how: {attempt} counts as lost once the "
    text += f"message comes back, or the sweep sends another: {_sweep(record, 'does')}. Then {_after_loss(record)}."
    if pauses := _pauses(connection, record):
        text += f" {_said(pauses)}"
    return Why(Reason.LOST, text, record.sweep_at)


def _after_loss(record: Record) -> str:
    """As the claim's ``case`` decides on a row whose lease is over, in its order."""
    if record.cancel_requested_at is not None:
        return "it is cancelled, as was asked for"
    if record.batch_size <= 1 and record.attempts >= record.max_attempts:
        return "it is given up, as no attempt is left"
    if record.deadline is not None and record.deadline <= record.now:
        return "it is given up, as its deadline has passed"
    if record.batch_size > 1:
        return "it runs again by itself: a loss beside others does not count"
    return f"it runs again, as attempt {record.attempts + 1} of {record.max_attempts}"


# --- Waiting -------------------------------------------------------------------------------------------------------


def _waiting(scope: Scope, connection: Connection, record: Record, last_outcome: str | None) -> Why:
    if (problem := _no_lane(scope, record)) is not None:
        return Why(Reason.NO_LANE, problem)
    pauses = _pauses(connection, record)
    also = f" {_said(pauses)}" if pauses else ""
    if record.due_at > record.now + timedelta(seconds=EARLY_SECONDS):
        return Why(Reason.NOT_DUE, f"{_not_due(record, last_outcome)}{_late(record)}{also}", record.due_at)
    if pauses:
        ends = [until for *_, until in pauses]
        return Why(Reason.PAUSED, f"{_said(pauses)}{_late(record)}", None if None in ends else max(ends))
    lane = lane_name(scope.prefix, record.queue, record.type)
    if record.sent_at is None:
        text = f"It is due, and its message is not in {lane} yet, as far as is known; {_sweep(record, 'sends it')}."
        return Why(Reason.UNSENT, text + _late(record), record.sweep_at)
    in_lane = (
        f"its message is in {lane}, sent at {_text(record.sent_at)}. {_queue_before(connection, record)} If nobody "
    )
    in_lane += f"takes it, {_sweep(record, 'sends it again')}.{_late(record)}"
    if record.claim_alone:
        text = f"A run of it was lost beside others, so that it is claimed by itself: {in_lane}"
        return Why(Reason.ALONE, text, record.sweep_at)
    begun = "It goes on in the next invocation" if last_outcome == "continued" else "It waits in its lane"
    return Why(Reason.IN_LANE, f"{begun}: {in_lane}", record.sweep_at)


def _queue_before(connection: Connection, record: Record) -> str:
    """Messages are taken about in the order in which they were due."""
    ahead, running = connection.run(AHEAD, record.type, record.queue, record.due_at)[0]
    before = f"more than {AHEAD_CAP:,}" if ahead > AHEAD_CAP else f"{ahead:,}"
    return f"Of the same type and queue, {before} due before it wait as well, and {running:,} run now."


def _no_lane(scope: Scope, record: Record) -> str | None:
    task = scope.task(record.type)
    if task is None:
        return f"No task of type {record.type!r} is declared, so that nothing can run it: deploy one, or cancel it."
    if record.queue not in task.lanes:
        lanes = ", ".join(task.lanes)
        return f"{record.type!r} has no lane in {record.queue} any more, only in {lanes}: replay it, or cancel it."
    return None


def _not_due(record: Record, last_outcome: str | None) -> str:
    due = _text(record.due_at)
    if record.mismatch_since is not None:
        begun = f"Its payload has another schema than the code knows, since {_text(record.mismatch_since)}; tried again"
    elif record.state is State.RETRY:
        begun = f"Attempt {record.attempts} of {record.max_attempts} failed ({record.error_type}); the next is due"
    elif last_outcome == "snoozed":
        begun = "Its last run asked to be called later: due"
    else:
        begun = "It is due"
    if record.due_at - MAX_DELAY > record.now:
        return (
            f"{begun} at {due}. Until shortly before that the row alone waits; {_sweep(record, 'sends its message')}."
        )
    if record.sent_at is None:
        return f"{begun} at {due}. Its message is not on its way yet; {_sweep(record, 'sends it')}."
    return f"{begun} at {due}; its message waits in SQS until then."


def _late(record: Record) -> str:
    if record.deadline is None or record.deadline > max(record.now, record.due_at):
        return ""
    return f" It will not run: its deadline is {_text(record.deadline)}, and it is given up when its message comes."


def _pauses(connection: Connection, record: Record) -> Sequence[Row]:
    return connection.run(PAUSES, record.queue, record.type, record.tenant)


def _said(pauses: Sequence[Row]) -> str:
    said = []
    for scope, name, reason, by, until in pauses:
        lasting = f"until {_text(until)}" if until else "until it is resumed"
        said.append(
            f"The {scope} {name} is paused{f' by {by}' if by else ''}, {lasting}{f': {reason}' if reason else ''}."
        )
    return " ".join(said)


# --- Words ---------------------------------------------------------------------------------------------------------


def _sweep(record: Record, does: str) -> str:
    if record.sweep_at is None:
        return f"no sweep {does}"
    if record.sweep_at <= record.now:
        return f"the next sweep {does}"
    return f"the first sweep after {_text(record.sweep_at)} {does}"


def _text(at: datetime | None) -> str:
    return stamp(at) if at is not None else "an unknown time"
