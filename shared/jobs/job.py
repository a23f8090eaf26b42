"""A job before it is enqueued: what the caller gave, checked field by field before anything is written or sent."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared.jobs.errors import EnqueueError, LaneError, MessageError, PayloadError
from shared.jobs.message import (
    ID_PATTERN,
    MAX_ID,
    TENANT_PATTERN,
    TICK_ID_PATTERN,
    Message,
    check_headers,
    check_tree,
    digest,
    needs_walk,
)
from shared.jobs.queues import MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES, Queue, lane_name
from shared.jobs.sqs import Entry
from shared.jobs.store import NewTask

if TYPE_CHECKING:
    from shared.jobs.task import Payload, Task

LONGEST_WAIT = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Job:
    """One item of :meth:`JobClient.enqueue_many`, with the options of :meth:`JobClient.enqueue`."""

    task: Task[Any, Any]
    payload: Payload
    queue: Queue | None = None
    process_in: timedelta | None = None
    process_at: datetime | None = None
    task_id: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Ready:
    """A job that was checked, with its message. ``delay``, ``at``: as in :class:`NewTask`."""

    id: str
    task: Task[Any, Any]
    queue: Queue
    payload: Mapping[str, Any]
    headers: Mapping[str, str]
    delay: float | None
    at: datetime | None
    entry: Entry

    def row(self, *, unsent: bool = False) -> NewTask:
        return NewTask(
            id=self.id,
            type=self.task.type,
            queue=self.queue,
            tenant=self.entry.group,
            payload=self.payload,
            payload_digest=digest(self.payload),
            schema=self.task.schema_digest,
            headers=self.headers,
            allowed=self.task.max_retry + 1,
            retention_seconds=int(self.task.retention.total_seconds()),
            delay=self.delay,
            at=self.at,
            unsent=unsent,
        )


def check(job: Job, *, record: bool, prefix: str) -> Ready:
    """Check every field and make the message. Raises :class:`EnqueueError` with the field's name."""
    task = job.task
    queue = task.queue if job.queue is None else _lane(task, job.queue)
    delay, at = _when(job.process_in, job.process_at)
    seconds = delay or distance(at)
    if not record and seconds > MAX_DELAY_SECONDS:
        raise EnqueueError("process_at" if at else "process_in", "15 minutes at most without a record")
    id_ = new_id() if job.task_id is None else _task_id(job.task_id)
    tenant = _tenant(job.tenant)
    payload = task.write(job.payload)
    headers = _headers(job.headers) if job.headers else {}
    message = Message(
        task.type,
        id_,
        payload,
        rec=record,
        schema=task.schema_digest,
        enqueued_at=round(time.time(), 3),
        headers=headers,
    )
    body = _body(message)
    entry = Entry(lane_name(prefix, queue, task.type), body, delay_seconds(seconds) if seconds else 0, tenant)
    if entry.size > MAX_MESSAGE_BYTES:
        if not record:
            raise PayloadError("payload", f"{entry.size} bytes as a message; {MAX_MESSAGE_BYTES} without a record")
        entry = replace(entry, body=replace(message, payload=None).encode())
    return Ready(id_, task, queue, payload, headers, delay, at, entry)


# --- Checking one argument each --------------------------------------------------------------------------------------


def _lane(task: Task[Any, Any], queue: Queue) -> Queue:
    if queue not in list(Queue):
        raise EnqueueError("queue", f"{queue!r} is not one of {', '.join(Queue)}")
    if queue not in task.lanes:
        raise LaneError(task.type, queue, task.lanes)
    return Queue(queue)


def _when(process_in: timedelta | None, process_at: datetime | None) -> tuple[float | None, datetime | None]:
    """Seconds from now, or a moment; both None: at once."""
    if process_in is not None and process_at is not None:
        raise EnqueueError("process_at", "give process_in or process_at, not both")
    if process_in is not None:
        if not isinstance(process_in, timedelta):
            raise EnqueueError("process_in", f"a timedelta is required, not {type(process_in).__name__}")
        if not timedelta(0) <= process_in <= LONGEST_WAIT:
            raise EnqueueError("process_in", f"from zero to {LONGEST_WAIT.days} days is required, not {process_in}")
        return process_in.total_seconds(), None
    if process_at is not None:
        if not isinstance(process_at, datetime):
            raise EnqueueError("process_at", f"a datetime is required, not {type(process_at).__name__}")
        if process_at.tzinfo is None:
            raise EnqueueError("process_at", "an aware datetime is required, for example datetime.now(UTC) + …")
        if process_at - datetime.now(UTC) > LONGEST_WAIT:
            raise EnqueueError("process_at", f"at most {LONGEST_WAIT.days} days ahead")
    return None, process_at


def distance(at: datetime | None) -> float:
    """Seconds from now, by this machine's clock; zero for the past."""
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at else 0.0


def delay_seconds(seconds: float) -> int:
    """``DelaySeconds``: rounded up, so that the message is not there before its time."""
    return min(max(0, math.ceil(seconds)), MAX_DELAY_SECONDS)


def _task_id(task_id: str) -> str:
    if not isinstance(task_id, str) or not ID_PATTERN.fullmatch(task_id):
        raise EnqueueError("task_id", f"1 to {MAX_ID} printable ASCII characters without spaces are required")
    if TICK_ID_PATTERN.fullmatch(task_id):
        raise EnqueueError("task_id", f"{task_id!r} has the form of a tick's id, which only the scheduler gives")
    return task_id


def _tenant(tenant: str | None) -> str | None:
    if tenant is not None and (not isinstance(tenant, str) or not TENANT_PATTERN.fullmatch(tenant)):
        raise EnqueueError("tenant", "1 to 128 ASCII letters, digits and punctuation are required (MessageGroupId)")
    return tenant


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return check_headers(headers)
    except MessageError as error:
        raise EnqueueError("headers", str(error).removeprefix("headers: ")) from None


def _body(message: Message) -> str:
    try:
        body = message.encode()
        if needs_walk(body):
            check_tree(message.payload)
    except ValueError as error:  # a MessageError, or a number that JSON does not have
        raise PayloadError("payload", str(error).removeprefix("payload: ")) from None
    return body


def new_id() -> str:
    """A time-ordered UUID (version 7, RFC 9562), which keeps the index of ids compact."""
    time_ms, random = f"{int(time.time() * 1000):012x}", os.urandom(10).hex()
    return f"{time_ms[:8]}-{time_ms[8:]}-7{random[:3]}-{VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The two high bits of the variant are 10."""
