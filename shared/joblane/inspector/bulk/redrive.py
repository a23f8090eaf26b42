"""Sending dead letters back: each is sent to its own queue, then deleted, so a kill in between loses none.

A dead letter may be deleted if it is obsolete, or once it has been sent back. All others stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joblane.inspector.bulk.dead_letters import DeadLetter, DeadLetterKind, cron_dead_letters, declared
from joblane.inspector.filter import Filter
from joblane.names import Queue
from joblane.record.row.states import State
from joblane.sqs.client import Entry, Sqs
from joblane.tasks.task import Task

HIDDEN_SECONDS = 60
"""The visibility timeout of dead letters that a redrive holds. A message that it receives again is already held."""


@dataclass(slots=True)
class Sent:
    """The result for a batch of dead letters. ``ids``: of the tasks of those sent back, None for an unknown id.

    ``kept``: receipts of dead letters that stay. ``failed``: how many of these could not be sent.
    """

    ids: list[str | None] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: int = 0


def wanted(dead_letter: DeadLetter, filter_: Filter, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> bool:
    """True if the dead letter matches the filter, as far as its content allows to decide.

    An unreadable message matches only its own fingerprint.
    """
    if not dead_letter.is_unrecorded or (filter_.fingerprint or dead_letter.fingerprint) != dead_letter.fingerprint:
        return False
    if dead_letter.kind is DeadLetterKind.UNREADABLE and filter_.fingerprint is None:
        return False
    delivery = dead_letter.delivery
    ids = {dead_letter.id, delivery.message_id}
    error = ": ".join(dead_letter.error).lower()
    return (
        (not filter_.ids or bool(ids.intersection(filter_.ids)))
        and (not filter_.id_prefix or any(id_ and id_.startswith(filter_.id_prefix) for id_ in ids))
        and (not filter_.states or State.ARCHIVED in filter_.states)
        and (not filter_.types or dead_letter.type in filter_.types)
        and (not filter_.queues or _queue(dead_letter, prefix, tasks) in filter_.queues)
        and (not filter_.tenant or delivery.group == filter_.tenant)
        and not filter_.tag
        and not filter_.parent
        and (not filter_.error or filter_.error.lower() in error)
        and (filter_.created_after is None or dead_letter.at >= filter_.created_after)
        and (filter_.created_before is None or dead_letter.at < filter_.created_before)
        and (filter_.ended_after is None or dead_letter.at >= filter_.ended_after)
        and (filter_.ended_before is None or dead_letter.at < filter_.ended_before)
    )


def _queue(dead_letter: DeadLetter, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> str | None:
    """The queue of the three to which the dead letter belongs."""
    if dead_letter.delivery.queue == cron_dead_letters(prefix):
        task = declared(tasks).get(dead_letter.type)
        return task.queue if task else None
    rest = dead_letter.delivery.queue.removeprefix(f"{prefix}-")
    return next((queue for queue in Queue if rest.startswith(f"{queue}-")), None)


def send_back(
    sqs: Sqs,
    prefix: str,
    tasks: Mapping[str, Task[Any, Any]],
    filter_: Filter,
    dead_letters: Sequence[DeadLetter],
    *,
    room: int,
) -> Sent:
    """Send back the matching dead letters of one queue, at most ``room``, and delete them; delete obsolete ones."""
    result = Sent()
    done = [dead_letter.delivery.receipt for dead_letter in dead_letters if dead_letter.kind is DeadLetterKind.OBSOLETE]
    sending: list[tuple[DeadLetter, Entry]] = []
    for dead_letter in dead_letters:
        if dead_letter.kind is DeadLetterKind.OBSOLETE:
            continue
        entry = dead_letter.sent_back(prefix, tasks) if wanted(dead_letter, filter_, prefix, tasks) else None
        if entry is None or len(sending) >= room:
            result.kept.append(dead_letter.delivery.receipt)
        else:
            sending.append((dead_letter, entry))
    failed = sqs.send_many([entry for _, entry in sending]) if sending else {}
    for position, (dead_letter, _) in enumerate(sending):
        if position in failed:
            result.kept.append(dead_letter.delivery.receipt)
        else:
            result.ids.append(dead_letter.id)
            done.append(dead_letter.delivery.receipt)
    result.failed = len(failed)
    if done:
        sqs.delete_many(dead_letters[0].delivery.queue, done)
    return result
