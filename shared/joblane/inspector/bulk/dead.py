"""Dead letters: what was given up, grouped by what went wrong, and sent back.

The record explains most of what is in the dead-letter queues. Only where one holds more or less than that are its
messages looked at, and then no more than :data:`LOOKED_AT`: the groups are there in a second, however many have died.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from joblane.inspector.bulk import start
from joblane.inspector.bulk.dead_letters import (
    FINGERPRINT,
    MAX_SHOWN,
    DeadLetter,
    Kind,
    dead_letter_depths,
    identified,
    queues_of,
)
from joblane.inspector.bulk.redrive import wanted
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.links import log_group_link
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import BULK_TYPE
from joblane.inspector.views import BulkView, DeadGroup, DeadLetters
from joblane.limits import MAX_BATCH
from joblane.maintenance.unmarked_dead_letters import expected_dead_letters
from joblane.queues import Queue, dead_letter_name, lane_name
from joblane.record.states import State
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues
from joblane.sqs.received import Received
from joblane.worker.failure import normalised

LOOKED_AT = 100
"""Messages of one queue."""
LOOK_SECONDS = 20
"""How long a message that is looked at is hidden if it cannot be given back."""
MAX_GROUPS = 500

GROUPS = f"""
select g.fingerprint, t.type, coalesce(t.error_type, 'Archived'), coalesce(t.error_message, t.reason, ''),
       g.number, g.first_at, g.last_at, g.example, t.queue
  from (select coalesce(fingerprint, '') as fingerprint, count(*) as number, min(finished_at) as first_at,
               max(finished_at) as last_at, (array_agg(id order by finished_at desc))[1] as example
          from joblane.tasks where state = 'archived' and not cleared
           group by 1, case when fingerprint is null then type end
       ) as g join joblane.tasks t on t.id = g.example
 order by g.number desc, g.last_at desc, g.fingerprint limit {MAX_GROUPS}
"""


def groups(scope: Scope) -> DeadLetters:
    """Messages are hidden from others for as long as they are looked at, and then given back."""
    depths, dead_letters, unread = _unexplained(scope)
    found = [*_recorded(scope), *_unrecorded(scope, dead_letters)]
    found.sort(key=lambda group: (-group.count, group.fingerprint))
    leftovers = Counter(dead_letter.type for dead_letter in dead_letters if dead_letter.kind is Kind.OBSOLETE)
    return DeadLetters(tuple(found), {queue: held.all for queue, held in sorted(depths.items())}, unread, leftovers)


def redrive(scope: Scope, filter_: Filter, canary: int, rate: int, reason: str | None) -> BulkView:
    """Raises :class:`SelectionError` where neither a row nor a message matches.

    By types alone, or all: messages whose tasks have moved on are enough, as it removes them.
    """
    states = filter_.states or (State.ARCHIVED,)
    frozen = start.frozen(scope, replace(filter_, states=states), BulkAction.RETRY)
    dead_letters, leftovers = _wanted(scope, frozen)
    if canary and any(dead_letter.id is None for dead_letter in dead_letters):
        raise SelectionError("canary", "what cannot be read becomes no task that could be waited for; leave it out")
    none = leftovers > 0 and _clears(filter_)
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


def within(found: Sequence[DeadGroup], filter_: Filter) -> list[DeadGroup]:
    """Of groups, those that a redrive of a fingerprint, of types or of all sends back.

    All means neither bulk actions nor what cannot be read, which would be refused once more: these have to be named.
    """
    fingerprint, types = filter_.fingerprint, filter_.types
    return [
        group
        for group in found
        if fingerprint in (None, group.fingerprint)
        and (group.type in types if types else fingerprint or group.type not in ("", BULK_TYPE))
    ]


def left_over(found: DeadLetters, filter_: Filter) -> int:
    """How many messages whose tasks have moved on a redrive of these removes: of types, or of all."""
    if not _clears(filter_):
        return 0
    return sum(number for type_, number in found.leftovers.items() if not filter_.types or type_ in filter_.types)


def _clears(filter_: Filter) -> bool:
    return replace(filter_, types=(), states=()) == Filter()


def _wanted(scope: Scope, filter_: Filter) -> tuple[list[DeadLetter], int]:
    """Of the messages that are looked at: those without a row that match, and how many of its types are left over."""
    if filter_.fingerprint and not filter_.fingerprint.startswith(FINGERPRINT):
        return [], 0
    _, dead_letters, _ = _unexplained(scope)
    left = (dead_letter for dead_letter in dead_letters if dead_letter.kind is Kind.OBSOLETE)
    return (
        [dead_letter for dead_letter in dead_letters if wanted(dead_letter, filter_, scope.prefix, scope.tasks)],
        sum(not filter_.types or dead_letter.type in filter_.types for dead_letter in left),
    )


# --- The record ----------------------------------------------------------------------------------------------------


def _recorded(scope: Scope) -> list[DeadGroup]:
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
            queue=dead_letter_name(lane_name(scope.prefix, Queue(queue), type_)),
            log_link=_log_link(scope, type_),
        )
        for fingerprint, type_, error_type, message, number, first, last, example, queue in scope.connection.run(GROUPS)
    ]


def shown(message: str) -> str:
    """The first line of an error, without what is one task's alone."""
    return normalised(message.partition("\n")[0])[:MAX_SHOWN]


def _log_link(scope: Scope, type_: str) -> str | None:
    """Of the function that runs a type; None where the type cannot be told."""
    return log_group_link(scope.region, scope.log_group(type_)) if type_ else None


# --- Messages that the record does not explain ---------------------------------------------------------------------


def _unexplained(scope: Scope) -> tuple[Mapping[str, QueueDepth], list[DeadLetter], int]:
    """Depths of dead-letter queues; what was found where they are not as the record says; how many were not read."""
    depths = dead_letter_depths(scope.sqs, queues_of(scope.prefix, scope.tasks))
    expected = expected_dead_letters(scope.connection, scope.prefix)
    queues = [queue for queue, held in depths.items() if held.all != expected[queue]]
    looks = call_for_queues(scope.sqs, lambda queue: _look(scope.sqs, queue), queues)
    deliveries = [delivery for look in looks.values() for delivery in look]
    unread = sum(max(0, depths[queue].all - len(look)) for queue, look in looks.items())
    return depths, identified(scope.connection, scope.tasks, deliveries), unread


def _look(sqs: Sqs, queue: str) -> list[Received]:
    """Receive some, and let others see them again. Nothing is deleted."""
    found: dict[str, Any] = {}
    while len(found) < LOOKED_AT:
        messages = sqs.receive_many(queue, LOOK_SECONDS)
        found |= {message["MessageId"]: message for message in messages}
        if len(messages) < MAX_BATCH:
            break
    sqs.set_visibility(queue, {message["ReceiptHandle"]: 0 for message in found.values()})
    return [Received.from_receive(message, queue) for message in found.values()]


def _unrecorded(scope: Scope, dead_letters: Sequence[DeadLetter]) -> list[DeadGroup]:
    alike: defaultdict[str, list[DeadLetter]] = defaultdict(list)
    for dead_letter in dead_letters:
        if dead_letter.grouped:
            alike[dead_letter.fingerprint].append(dead_letter)
    return [_group(scope, sorted(some, key=lambda dead_letter: dead_letter.at)) for some in alike.values()]


def _group(scope: Scope, dead_letters: Sequence[DeadLetter]) -> DeadGroup:
    """Of letters with one fingerprint, oldest first."""
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
