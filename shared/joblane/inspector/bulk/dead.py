"""Archived tasks and dead letters, grouped by their error, and their redrive.

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

from joblane.inspector.bulk import start
from joblane.inspector.bulk.dead_letters import (
    FINGERPRINT,
    DeadLetter,
    DeadLetterKind,
    dead_letter_depths,
    identified,
    queues_of,
    wanted,
)
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import SORTS, BulkAction, Filter
from joblane.inspector.scope import Scope
from joblane.inspector.stage.trends import causes
from joblane.inspector.tasks.filter_sql import checked
from joblane.inspector.views import BulkView, Cause, CauseState, DeadLetters
from joblane.record.row.states import State
from joblane.sqs.client import Sqs
from joblane.sqs.depth import QueueDepth, call_for_queues
from joblane.sqs.envelope import decode_envelope
from joblane.sqs.message import Received, decode
from joblane.sweep.unmarked_dead_letters import expected_dead_letters

MAX_READ = 100
"""Messages that are read from one dead-letter queue."""
LARGE = 16 * 1024
"""Characters. The payload of a longer message is not read here. Only the payload shows that an external message belongs
to the row with its id. So such a message is listed even if its task has ended. A redrive reads it, and removes it."""
READ_SECONDS = 20
"""The visibility timeout of messages that are read, which matters only if they cannot be released."""
MAX_GROUPS = 500


def groups(
    scope: Scope,
    types: Sequence[str],
    tenant: str | None,
    since: datetime | None,
    sort: str,
    *,
    messages_only: bool = False,
) -> DeadLetters:
    """The groups. Messages that are read are invisible to other consumers meanwhile, and are then released.

    ``messages_only``: only the groups of messages without a row.
    """
    if sort not in SORTS:
        raise SelectionError("sort", f"{' or '.join(SORTS)} is required")
    chosen = checked(scope, Filter(types=tuple(types), tenant=tenant, ended_after=since))
    depths, dead_letters, unread = _unexpected_dead_letters(scope)
    wanted = [
        one for one in dead_letters if tenant in (None, one.delivery.group) and (not types or one.type in chosen.types)
    ]
    unrecorded = [group for group in _unrecorded(scope, wanted) if since is None or group.last_at >= since]
    found = sorted(unrecorded, key=lambda group: (-group.archived, group.fingerprint))
    if not messages_only:
        found = [*causes.read(scope, chosen, sort="archived", archived_only=True, limit=MAX_GROUPS).causes, *found]
    if sort == "last":
        found.sort(key=lambda group: group.last_at, reverse=True)
    found.sort(key=lambda group: group.is_quiet)
    obsolete = Counter(dead_letter.type for dead_letter in wanted if dead_letter.kind is DeadLetterKind.OBSOLETE)
    return DeadLetters(tuple(found), {queue: depth.all for queue, depth in sorted(depths.items())}, unread, obsolete)


def redrive(scope: Scope, filter_: Filter, canary: int, rate: int, reason: str | None) -> BulkView:
    """Start a redrive. Raises :class:`SelectionError` if neither a row nor a message matches.

    A redrive of all, or by types only, also removes obsolete dead letters, so these are enough for it to start.
    """
    states = filter_.states or (State.ARCHIVED,)
    frozen = start.frozen(scope, replace(filter_, states=states), BulkAction.RETRY)
    dead_letters, obsolete, _ = wanted_dead_letters(scope, frozen)
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


def wanted_dead_letters(scope: Scope, filter_: Filter) -> tuple[list[DeadLetter], int, int]:
    """The matching dead letters without a row, the number of obsolete ones of the filter's types, and the number of
    unreadable ones that do not match."""
    if filter_.fingerprint and not filter_.fingerprint.startswith(FINGERPRINT):
        return [], 0, 0
    _, dead_letters, _ = _unexpected_dead_letters(scope)
    found = [dead_letter for dead_letter in dead_letters if wanted(dead_letter, filter_, scope.prefix, scope.tasks)]
    obsolete = (dead_letter for dead_letter in dead_letters if dead_letter.kind is DeadLetterKind.OBSOLETE)
    return (
        found,
        sum(not filter_.types or dead_letter.type in filter_.types for dead_letter in obsolete),
        sum(dead_letter.kind is DeadLetterKind.UNREADABLE for dead_letter in dead_letters if dead_letter not in found),
    )


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


def _unrecorded(scope: Scope, dead_letters: Sequence[DeadLetter]) -> list[Cause]:
    by_fingerprint: defaultdict[str, list[DeadLetter]] = defaultdict(list)
    for dead_letter in dead_letters:
        if dead_letter.is_unrecorded:
            by_fingerprint[dead_letter.fingerprint].append(dead_letter)
    return [_group(scope, sorted(alike, key=lambda dead_letter: dead_letter.at)) for alike in by_fingerprint.values()]


def _group(scope: Scope, dead_letters: Sequence[DeadLetter]) -> Cause:
    """The group of dead letters with the same fingerprint, given oldest first."""
    last = dead_letters[-1]
    error_type, message = last.error
    return Cause(
        fingerprint=last.fingerprint,
        type=last.type,
        error_type=error_type,
        message=message,
        runs=0,
        retry=0,
        archived=len(dead_letters),
        tenants=len({one.delivery.group for one in dead_letters if one.delivery.group}),
        first_at=dead_letters[0].at,
        first_version=None,
        last_at=last.at,
        last_version=None,
        bars=(0,) * causes.BARS,
        state=CauseState.OPEN,
        note=None,
        example=last.id or last.delivery.message_id,
        queue=last.delivery.queue,
        log_link=causes.log_link(scope, last.type),
        recorded=False,
    )
