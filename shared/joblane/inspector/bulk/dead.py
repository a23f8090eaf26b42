"""Archived tasks and dead letters, grouped by their error: their redrive, and the note of an operator on an error.

The task table accounts for most messages in the dead-letter queues. Messages are read only from a queue that holds more
or fewer than expected, and at most :data:`MAX_READ` of them. So the groups are found within a second, whatever the
number of archived tasks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from joblane.inspector.actions import audit
from joblane.inspector.bulk import start
from joblane.inspector.bulk.dead_letters import (
    FINGERPRINT,
    MAX_SHOWN,
    DeadLetter,
    DeadLetterKind,
    dead_letter_depths,
    identified,
    queues_of,
    wanted,
)
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import SORTS, BulkAction, Filter
from joblane.inspector.links import log_group_link
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import checked
from joblane.inspector.views import Acknowledged, ActionResult, BulkView, DeadGroup, DeadLetters
from joblane.names import Queue, dead_letter_name, lane_name
from joblane.record.row.states import State, as_read
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues
from joblane.sqs.envelope import decode_envelope
from joblane.sqs.message import Received, decode
from joblane.sweep.unmarked_dead_letters import expected_dead_letters
from joblane.worker.outcome import normalised

MAX_READ = 100
"""Messages that are read from one dead-letter queue."""
LARGE = 16 * 1024
"""Characters. The payload of a longer message is not read here. Only the payload shows that an external message belongs
to the row with its id. So such a message is listed even if its task has ended. A redrive reads it, and removes it."""
READ_SECONDS = 20
"""The visibility timeout of messages that are read, which matters only if they cannot be released."""
MAX_GROUPS = 500
NEW = "1 day"
"""A cause is marked as new for this long after its first task, among the tasks that wait for a redrive."""

GROUPS = f"""
select g.fingerprint, t.type, coalesce(t.error_type, 'Archived'), coalesce(t.error_message, t.reason, ''),
       g.number, g.first_at, g.last_at, g.example, t.queue, g.first_at > clock_timestamp() - interval '{NEW}',
       c.at, c.who, c.note
  from (select coalesce(fingerprint, '') as fingerprint, count(*) as number, min(finished_at) as first_at,
               max(finished_at) as last_at, (array_agg(id order by finished_at desc))[1] as example
          from joblane.tasks
         where (dead_sent_at is not null or dead_letter_unsent) and state = 'archived' and not cleared
           and (cardinality($1::text[]) = 0 or type = any($1::text[])) and ($4::text is null or tenant = $4)
           group by 1, case when fingerprint is null then type end
       ) as g join joblane.tasks t on t.id = g.example
         left join joblane.causes c on c.fingerprint = g.fingerprint and c.at >= g.last_at
 where $2::timestamptz is null or g.last_at >= $2::timestamptz
 order by case when $3 = 'last' then g.last_at end desc, g.number desc, g.last_at desc, g.fingerprint
 limit {MAX_GROUPS}
"""
"""The causes of the types $1 (none: all) and the tenant $4 (null: all) that came at $2 or later.

A cause that is known is open again once another task has failed with it."""
ACKNOWLEDGE = """
insert into joblane.causes (fingerprint, who, note) values ($1, $2, $3)
on conflict (fingerprint) do update set at = clock_timestamp(), who = excluded.who, note = excluded.note
"""
IS_CAUSE = """
select where exists (select from joblane.tasks where fingerprint = $1 and state = 'archived' and not cleared
                        and (dead_sent_at is not null or dead_letter_unsent))
"""


def groups(scope: Scope, types: Sequence[str], tenant: str | None, since: datetime | None, sort: str) -> DeadLetters:
    """The groups. Messages that are read are invisible to other consumers meanwhile, and are then released."""
    if sort not in SORTS:
        raise SelectionError("sort", f"{' or '.join(SORTS)} is required")
    chosen = checked(scope, Filter(types=tuple(types), tenant=tenant, ended_after=since))
    depths, dead_letters, unread = _unexpected_dead_letters(scope)
    wanted = [
        one for one in dead_letters if tenant in (None, one.delivery.group) and (not types or one.type in chosen.types)
    ]
    unrecorded = [group for group in _unrecorded(scope, wanted) if since is None or group.last_at >= since]
    found = [*_recorded(scope, chosen, sort), *unrecorded]
    found.sort(key=lambda group: (-group.count, group.fingerprint))
    if sort == "last":
        found.sort(key=lambda group: group.last_at, reverse=True)
    obsolete = Counter(dead_letter.type for dead_letter in wanted if dead_letter.kind is DeadLetterKind.OBSOLETE)
    return DeadLetters(tuple(found), {queue: depth.all for queue, depth in sorted(depths.items())}, unread, obsolete)


def redrive(scope: Scope, filter_: Filter, canary: int, rate: int, reason: str | None) -> BulkView:
    """Start a redrive. Raises :class:`SelectionError` if neither a row nor a message matches.

    A redrive of all, or by types only, also removes obsolete dead letters, so these are enough for it to start.
    """
    states = filter_.states or (State.ARCHIVED,)
    frozen = start.frozen(scope, replace(filter_, states=states), BulkAction.RETRY)
    dead_letters, obsolete = _wanted(scope, frozen)
    if canary and any(dead_letter.id is None for dead_letter in dead_letters):
        raise SelectionError("canary", "an unreadable message creates no task to wait for; leave the canary out")
    none = obsolete > 0 and filter_.removes_obsolete
    return start.begin(
        scope,
        start.REDRIVE,
        frozen,
        rate=rate,
        canary=canary,
        reason=reason,
        dead_letters=len(dead_letters),
        may_be_none=none,
    )


def _wanted(scope: Scope, filter_: Filter) -> tuple[list[DeadLetter], int]:
    """The matching dead letters without a row, and the number of obsolete dead letters of the filter's types."""
    if filter_.fingerprint and not filter_.fingerprint.startswith(FINGERPRINT):
        return [], 0
    _, dead_letters, _ = _unexpected_dead_letters(scope)
    obsolete = (dead_letter for dead_letter in dead_letters if dead_letter.kind is DeadLetterKind.OBSOLETE)
    return (
        [dead_letter for dead_letter in dead_letters if wanted(dead_letter, filter_, scope.prefix, scope.tasks)],
        sum(not filter_.types or dead_letter.type in filter_.types for dead_letter in obsolete),
    )


# --- The task table ------------------------------------------------------------------------------------------------


def _recorded(scope: Scope, chosen: Filter, sort: str) -> list[DeadGroup]:
    rows = scope.connection.run(GROUPS, list(chosen.types), chosen.ended_after, sort, chosen.tenant)
    return [
        DeadGroup(
            fingerprint=fingerprint,
            type=type_,
            error_type=error_type,
            message=shown(message),
            recorded=True,
            count=number,
            first_at=first,
            last_at=last,
            example=example,
            queue=dead_letter_name(lane_name(scope.prefix, as_read(Queue, queue), type_)),
            log_link=_log_link(scope, type_),
            is_new=is_new,
            acknowledged=None if at is None else Acknowledged(at, who, note),
        )
        for fingerprint, type_, error_type, message, number, first, last, example, queue, is_new, at, who, note in rows
    ]


def shown(message: str) -> str:
    """The first line of an error, normalised: without ids and numbers of a single task."""
    return normalised(message.partition("\n")[0])[:MAX_SHOWN]


def _log_link(scope: Scope, type_: str) -> str | None:
    """A link to the log of the function that runs a type; None if the type is not known."""
    return log_group_link(scope.region, scope.log_group(type_)) if type_ else None


# --- Messages that the task table does not account for -------------------------------------------------------------


def _unexpected_dead_letters(scope: Scope) -> tuple[Mapping[str, QueueDepth], list[DeadLetter], int]:
    """The depths of the dead-letter queues, the messages read from queues with an unexpected depth, and the number of
    other messages there that the task table does not account for."""
    depths = dead_letter_depths(scope.sqs, queues_of(scope.prefix, scope.tasks))
    expected = expected_dead_letters(scope.connection, scope.prefix)
    queues = [queue for queue, depth in depths.items() if depth.all != expected[queue]]
    samples = call_for_queues(scope.sqs, lambda queue: _sample(scope.sqs, queue, depths[queue].waiting), queues)
    deliveries = [delivery for sample in samples.values() for delivery in sample]
    unread = sum(
        depths[queue].all - max(len(sample), expected[queue])
        for queue, sample in samples.items()
        if depths[queue].all > max(len(sample), expected[queue])
    )
    return depths, identified(scope.connection, scope.tasks, deliveries), unread


def _sample(sqs: Sqs, queue: str, waiting: int) -> list[Received]:
    """Receive the ``waiting`` messages, up to :data:`MAX_READ`, and make them visible again. Nothing is deleted."""
    found: dict[str, Received] = {}
    while len(found) < min(waiting, MAX_READ):
        # a short poll asks only some of SQS's servers, and even a long poll may return fewer messages than there are
        messages = sqs.receive_many(queue, READ_SECONDS, wait_seconds=1)
        known = len(found)
        found |= {message["MessageId"]: _without_body(message, queue) for message in messages}
        if len(found) == known:
            break
    sqs.set_visibility(queue, {delivery.receipt: 0 for delivery in found.values()})
    return list(found.values())


def _without_body(message: Any, queue: str) -> Received:
    """Keep only what is shown: a hundred messages of 1 MiB from each queue would not fit in memory."""
    read = decode_envelope if len(message["Body"]) > LARGE else decode
    return replace(Received.from_receive(message, queue, read=read), body="")


def _unrecorded(scope: Scope, dead_letters: Sequence[DeadLetter]) -> list[DeadGroup]:
    by_fingerprint: defaultdict[str, list[DeadLetter]] = defaultdict(list)
    for dead_letter in dead_letters:
        if dead_letter.is_unrecorded:
            by_fingerprint[dead_letter.fingerprint].append(dead_letter)
    return [_group(scope, sorted(alike, key=lambda dead_letter: dead_letter.at)) for alike in by_fingerprint.values()]


def _group(scope: Scope, dead_letters: Sequence[DeadLetter]) -> DeadGroup:
    """The group of dead letters with the same fingerprint, given oldest first."""
    last = dead_letters[-1]
    error_type, message = last.error
    return DeadGroup(
        fingerprint=last.fingerprint,
        type=last.type,
        error_type=error_type,
        message=message,
        recorded=False,
        count=len(dead_letters),
        first_at=dead_letters[0].at,
        last_at=last.at,
        example=last.id or last.delivery.message_id,
        queue=last.delivery.queue,
        log_link=_log_link(scope, last.type),
    )


def acknowledge(scope: Scope, fingerprint: str, note: str) -> ActionResult:
    """Mark a cause as known, until another task fails with it. Raises :class:`SelectionError`."""
    fingerprint = checked(scope, Filter(fingerprint=fingerprint)).fingerprint or ""
    with audit.action(scope, "acknowledge", f"cause:{fingerprint}", note) as doing:
        if doing.reason is None:
            raise SelectionError("reason", "a note is required, for other operators")
        if not doing.connection.run(IS_CAUSE, fingerprint):
            raise SelectionError("filter", f"no archived task has the fingerprint {fingerprint}; see `joblane dead`")
        doing.connection.run(ACKNOWLEDGE, fingerprint, doing.who, doing.reason)
    return ActionResult(fingerprint, "acknowledge", State.ARCHIVED, State.ARCHIVED)
