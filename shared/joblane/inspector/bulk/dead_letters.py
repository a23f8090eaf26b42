"""The messages in dead-letter queues: the kind of each, from its body, its attributes and its row; and the way back.

Each is sent to its own queue, then deleted, so a kill in between loses none. A dead letter may be deleted if it is
obsolete, or once it has been sent back. All others stay.

=============  =====================================================  ===============================================
kind           message                                                row
=============  =====================================================  ===============================================
``recorded``   dead letter of the library, of the row's generation    archived: the task table accounts for it
``obsolete``   dead letter, or a message that SQS moved               retried, deleted or ended: nothing to send back
``moved``      message that SQS moved after its last receive          live, or none
``refused``    dead letter of the library, with a reason              none, or that of another task
``unreadable`` not a message of the library                           not known
``unsent``     tick that EventBridge Scheduler could not send         none
=============  =====================================================  ===============================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from joblane.inspector.filter import Filter
from joblane.json_values import digest
from joblane.names import Queue, cron_group_name, dead_letter_name, front_door_name, lane_name
from joblane.record.causes import MAX_SHOWN, normalised
from joblane.record.driver.connection import Connection
from joblane.record.row.states import ENDED, State, as_read
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.dead_letter import unchanged_copy, with_id
from joblane.sqs.depth import QueueDepth, call_for_queues, queue_depth_if_exists
from joblane.sqs.message import REASON_ATTRIBUTE, Received
from joblane.sqs.tick import tick_id
from joblane.tasks.places import lanes_of
from joblane.tasks.task import Task

FINGERPRINT = "message:"
"""The prefix of fingerprints of dead letters without a row."""
MOVED_BY_SQS = "MovedBySqs"
NOT_SENT = "TickNotSent"


class DeadLetterKind(StrEnum):
    """The kinds of the table above."""

    RECORDED = "recorded"
    OBSOLETE = "obsolete"
    MOVED = "moved"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Row:
    """The row that has a message's id."""

    type: str
    state: State
    generation: int
    payload_digest: str


@dataclass(frozen=True)
class DeadLetter:
    """A message of a dead-letter queue. ``id``: the id of its task, None if it is not known."""

    delivery: Received
    id: str | None
    row: Row | None

    @cached_property
    def kind(self) -> DeadLetterKind:
        delivery, row = self.delivery, self.row
        if delivery.message is None:
            return DeadLetterKind.UNREADABLE
        if row is not None and self._belongs_to(row):
            if row.state is State.ARCHIVED and delivery.dead_generation == row.generation:
                return DeadLetterKind.RECORDED
            is_obsolete = row.state in ENDED or delivery.dead_generation is not None
            return DeadLetterKind.OBSOLETE if is_obsolete else DeadLetterKind.MOVED
        if delivery.message.tick is not None and REASON_ATTRIBUTE not in delivery.attributes:
            return DeadLetterKind.MOVED if "ERROR_CODE" not in delivery.attributes else DeadLetterKind.UNSENT
        return DeadLetterKind.REFUSED if REASON_ATTRIBUTE in delivery.attributes else DeadLetterKind.MOVED

    def _belongs_to(self, row: Row) -> bool:
        """True if the message belongs to the row, by the rules of the claim; otherwise two tasks have the same id."""
        message = self.delivery.message
        assert message is not None
        return row.type == message.type and (
            message.rec or message.tick is not None or row.payload_digest == digest(message.payload or {})
        )

    @property
    def is_unrecorded(self) -> bool:
        """True if the dead letter belongs into a group of its own: it has no archived row, and is not obsolete."""
        return self.kind not in (DeadLetterKind.RECORDED, DeadLetterKind.OBSOLETE)

    @property
    def type(self) -> str:
        return self.delivery.message.type if self.delivery.message else ""

    @cached_property
    def error(self) -> tuple[str, str]:
        """The type of the error, and its normalised text."""
        if self.kind is DeadLetterKind.UNSENT:
            code, text = (self._attribute(name) for name in ("ERROR_CODE", "ERROR_MESSAGE"))
            return code or NOT_SENT, normalised(text)[:MAX_SHOWN]
        reason = self._attribute(REASON_ATTRIBUTE)
        if reason:
            kind, colon, text = reason.partition(": ")
            named = bool(colon) and kind.isidentifier()
            return (kind if named else "Refused"), normalised(text if named else reason)[:MAX_SHOWN]
        if self.kind is DeadLetterKind.UNREADABLE:
            return "MessageError", normalised(self.delivery.refusal or "")[:MAX_SHOWN]
        task = f"; its task is {self.row.state}" if self.row is not None else ""
        return MOVED_BY_SQS, f"SQS moved it here after its last receive{task}"

    @cached_property
    def fingerprint(self) -> str:
        """Equal for dead letters of the same queue with the same error."""
        key = "|".join((self.delivery.queue, self.kind, self.type, *self.error))
        return FINGERPRINT + hashlib.sha256(key.encode(errors="replace")).hexdigest()[:16]

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.delivery.sent_at, UTC)

    def _attribute(self, name: str) -> str:
        return str(self.delivery.attributes.get(name, {}).get("StringValue", ""))

    def sent_back(self, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> Entry | None:
        """The message for the queue that it came from; None if no task takes it any more.

        An external message gets the id of its SQS message, and a tick gets its time: sent twice, it runs once.
        """
        delivery, message = self.delivery, self.delivery.message
        queue = delivery.queue.removesuffix(dead_letter_name(""))
        if message is None:
            return unchanged_copy(delivery, queue)
        if message.tick is None:
            return replace(with_id(delivery, queue), trace=None)
        task = declared(tasks).get(message.type)
        if task is None or self.id is None:
            return None
        if delivery.queue == cron_dead_letters(prefix):
            queue = lane_name(prefix, task.queue, task.type)
        at = self.id.rpartition(f":{message.tick['schedule']}:")[2]
        body = replace(message, tick={**message.tick, "at": at}).encode()
        return replace(unchanged_copy(delivery, queue), body=body, attributes={})


# --- Queues --------------------------------------------------------------------------------------------------------


def cron_dead_letters(prefix: str) -> str:
    """The queue of ticks that EventBridge Scheduler could not send."""
    return dead_letter_name(cron_group_name(prefix))


def declared(tasks: Mapping[str, Task[Any, Any]]) -> dict[str, Task[Any, Any]]:
    """The tasks by all their present and former names."""
    return {type_: task for task in tasks.values() for type_ in task.types}


def queues_of(prefix: str, tasks: Mapping[str, Task[Any, Any]], types: Iterable[str] = ()) -> list[str]:
    """The dead-letter queues that can hold messages of ``types``; of all types if none is given.

    The types of a place share its queues, which also hold dead letters of types that have moved since.
    """
    wanted, lanes = set(types), []
    for type_, task in declared(tasks).items():
        if not wanted or type_ in wanted:
            lanes += lanes_of(prefix, task, [type_])
        elif task.place is not None:
            lanes += [lane_name(prefix, queue, type_) for queue in task.lanes]
    front_doors = [front_door_name(prefix, queue) for queue in Queue]
    return [*map(dead_letter_name, dict.fromkeys([*lanes, *front_doors])), cron_dead_letters(prefix)]


def dead_letter_depths(sqs: Sqs, queues: Sequence[str]) -> dict[str, QueueDepth]:
    """The depths of the queues that are not empty."""
    found = call_for_queues(sqs, lambda queue: queue_depth_if_exists(sqs, queue), queues)
    return {queue: depth for queue, depth in found.items() if depth and depth.all}


# --- Reading -------------------------------------------------------------------------------------------------------

ROWS = """
select id, type, state, generation, payload_digest from joblane.tasks
 where id = any(array(select jsonb_array_elements_text(cast($1 as jsonb))))
"""


def read(
    connection: Connection, tasks: Mapping[str, Task[Any, Any]], messages: Sequence[Any], queue: str
) -> list[DeadLetter]:
    """Messages that were received from ``queue``, each with its row."""
    return identified(connection, tasks, [Received.from_receive(message, queue) for message in messages])


def identified(
    connection: Connection, tasks: Mapping[str, Task[Any, Any]], deliveries: Sequence[Received]
) -> list[DeadLetter]:
    """Deliveries, each with its row."""
    known = declared(tasks)
    ids = [_id(delivery, known) for delivery in deliveries]
    rows = connection.run(ROWS, json.dumps([id_ for id_ in ids if id_])) if any(ids) else []
    found = {row[0]: Row(row[1], as_read(State, row[2]), row[3], row[4]) for row in rows}
    return [DeadLetter(delivery, id_, found.get(id_ or "")) for delivery, id_ in zip(deliveries, ids, strict=True)]


def _id(delivery: Received, known: Mapping[str, Task[Any, Any]]) -> str | None:
    """The id of the message's task."""
    message = delivery.message
    if message is None:
        return None
    if message.tick is not None:
        task = known.get(message.type)
        return tick_id(task, message.type, message.tick, delivery.sent_at) if task else None
    return message.id or delivery.message_id


# --- Sending back -----------------------------------------------------------------------------------------------------


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
        and (not filter_.queues or queue_of(dead_letter, prefix, tasks) in filter_.queues)
        and (not filter_.tenant or delivery.group == filter_.tenant)
        and not filter_.tag
        and not filter_.parent
        and (not filter_.error or filter_.error.lower() in error)
        and (filter_.created_after is None or dead_letter.at >= filter_.created_after)
        and (filter_.created_before is None or dead_letter.at < filter_.created_before)
        and (filter_.ended_after is None or dead_letter.at >= filter_.ended_after)
        and (filter_.ended_before is None or dead_letter.at < filter_.ended_before)
    )


def queue_of(dead_letter: DeadLetter, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> str | None:
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
    """Send back the matching dead letters of one queue, at most ``room``, and delete them.

    Obsolete ones are deleted too, but not if the filter has types and theirs is another one of the queue's place.
    """
    result, done = Sent(), list[str]()
    sending: list[tuple[DeadLetter, Entry]] = []
    for dead_letter in dead_letters:
        if dead_letter.kind is DeadLetterKind.OBSOLETE and (not filter_.types or dead_letter.type in filter_.types):
            done.append(dead_letter.delivery.receipt)
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
