"""The check of a job, field by field, before anything is written or sent. It also creates the job's message."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.enqueue.check_options import (
    check_duration,
    check_moment,
    check_needs_no_row,
    check_options,
    member,
)
from joblane.enqueue.parents import check_parents
from joblane.errors import EnqueueError, LaneError, MessageError, PayloadError
from joblane.json_values import canonical, check_tree, needs_walk
from joblane.names import Queue, lane_name
from joblane.quotas import LONGEST_PUSHES, MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES
from joblane.record.task.insert import NewTask
from joblane.sqs.client import Entry
from joblane.sqs.message import ID_PATTERN, MAX_ID, TENANT_PATTERN, TICK_ID_PATTERN, Message, check_headers
from joblane.tasks.job import Job
from joblane.tasks.limit import check_key
from joblane.tasks.options import NONE
from joblane.tasks.task import Task
from joblane.tasks.unique import MAX_KEY, Debounce, Keep, OnConflict, Unique, Until, key_of

if TYPE_CHECKING:
    from joblane.tasks.payload import Payload

UNIQUE_KEY_PATTERN = re.compile(rf"[ -~]{{1,{MAX_KEY}}}")


def check(job: Job, *, record: bool, prefix: str) -> NewTask:
    """Check every field and create the message. Raises :class:`EnqueueError` with the field's name."""
    task = job.task
    if not isinstance(task, Task):
        raise EnqueueError(
            "task",
            f"a function declared by @task is required, not {type(task).__name__}; import it from its handler, or from "
            "a package of declarations",
        )
    if not record:
        check_needs_no_row(job)
    queue = task.queue if job.queue is None else _lane(task, job.queue)
    delay, at = _when(job.process_in, job.process_at)
    seconds = seconds_until(at) if at else delay or 0.0
    debounce, latest = None, seconds
    if (debounced := _debounce(job)) is not None:
        debounce, delay = debounced[0], debounced[1].total_seconds()
        seconds, latest = delay, debounce.longest
    if not record and seconds > MAX_DELAY_SECONDS:
        when = "process_at" if at else "process_in"
        raise EnqueueError(when, "at most 15 minutes are possible with a MessageClient")
    id_ = new_id() if job.task_id is None else _task_id(job.task_id)
    tenant = None if job.tenant is None else _tenant(job.tenant)
    payload = task.write(job.payload)
    headers = _headers(job.headers) if job.headers else {}
    if headers and (seconds or job.after):
        from joblane.sqs.traceparent import headers_of_later  # most tasks are due at once, or have no headers

        headers = headers_of_later(headers)
    options = check_options(job, record=record)
    if options.deadline is not None and (left := seconds_until(options.deadline)) <= latest:
        why = "it is before the task is due" if left else "it has passed"
        raise EnqueueError("deadline", f"{why}, so the task would be archived without a run")
    on_conflict = member(OnConflict, "on_conflict", job.on_conflict)
    unique = _unique(job, queue, payload)
    message = Message(
        task.type,
        id_,
        payload,
        rec=record,
        schema=task.schema_digest,
        enqueued_at=int(time.time() * 1000) / 1000,  # round() takes three times as long
        headers=headers,
        options=None if record or options is NONE else options,
    )
    body = _body(message, task.payload)
    delay_now = delay_seconds(seconds) if seconds else 0
    entry = Entry(lane_name(prefix, queue, task.type), body, delay_now, tenant, keeps_chain=True)
    if entry.size > MAX_MESSAGE_BYTES:
        if not record:
            raise PayloadError(
                "payload",
                f"the message has {entry.size} bytes; at most {MAX_MESSAGE_BYTES} are possible with a MessageClient",
            )
        entry = replace(entry, body=replace(message, payload=None).encode())
    owner = None if job.owner is None else _id("owner", job.owner)
    limits = {} if task.flow is None and job.key is None else _limits(job, payload, tenant)
    links = check_parents(job)
    return NewTask(
        id_,
        task,
        queue,
        payload,
        headers,
        owner,
        options,
        unique,
        on_conflict,
        delay,
        at,
        entry,
        limits,
        links,
        debounce,
    )


def with_row_id(new: NewTask, id_: str) -> NewTask:
    """Return the task with the id of an existing row. Its message has no payload, because the row has it."""
    message = Message.of_row(new.task.type, id_, new.task.schema_digest, new.headers)
    return replace(new, id=id_, entry=replace(new.entry, body=message.encode()))


def _lane(task: Task[Any, Any], queue: Queue) -> Queue:
    queue = member(Queue, "queue", queue)
    if queue not in task.lanes:
        raise LaneError(task.type, queue, task.lanes)
    return queue


def _unique(job: Job, queue: Queue, payload: Mapping[str, Any]) -> Unique | None:
    task = job.task
    unique_for = task.unique_for
    if job.unique_for is not None:
        unique_for = check_duration("unique_for", job.unique_for)
    if unique_for is None:
        if job.unique_key is None and job.unique_until is None and job.on_conflict is OnConflict.RAISE:
            return None
        for name, default in (("unique_key", None), ("unique_until", None), ("on_conflict", OnConflict.RAISE)):
            if getattr(job, name) != default:
                raise EnqueueError(name, "give unique_for too, or declare it on the task")
        return None
    key = job.unique_key
    if key is not None and (not isinstance(key, str) or not UNIQUE_KEY_PATTERN.fullmatch(key)):
        raise EnqueueError("unique_key", f"1 to {MAX_KEY} printable ASCII characters are required")
    until = task.unique_until if job.unique_until is None else member(Until, "unique_until", job.unique_until)
    return Unique(key_of(task.type, queue, payload, key), unique_for.total_seconds(), until)


def _debounce(job: Job) -> tuple[Debounce, timedelta] | None:
    """Return the debounce of a job, and the time until it is due. None: it has none.

    Raises :class:`EnqueueError` with the argument's name.
    """
    debounce = job.debounce
    if debounce is None:
        if job.longest is not None or job.keep is not Keep.LAST:
            raise EnqueueError("keep" if job.longest is None else "longest", "give debounce too")
        return None
    keep = member(Keep, "keep", job.keep)
    check_duration("debounce", debounce)
    for name, value in (("process_in", job.process_in), ("process_at", job.process_at)):
        if value is not None:
            raise EnqueueError(name, f"give {name} or debounce, not both: debounce says when the task is due")
    if job.after:
        raise EnqueueError("after", "give after or debounce, not both: a task cannot be pushed while its parents run")
    if job.on_conflict != OnConflict.RAISE:
        raise EnqueueError("on_conflict", "leave it out: a further enqueue with debounce pushes the waiting task")
    longest = _longest(job.longest, debounce)
    _check_pushed_key(job, longest)
    return Debounce(longest.total_seconds(), keep), debounce


def _longest(longest: timedelta | None, debounce: timedelta) -> timedelta:
    if longest is None:
        return LONGEST_PUSHES * debounce
    if not isinstance(longest, timedelta):
        raise EnqueueError("longest", f"a timedelta is required, not {type(longest).__name__}")
    if longest < debounce:
        raise EnqueueError("longest", f"at least debounce, {debounce}, is required, not {longest}")
    return longest


def _check_pushed_key(job: Job, longest: timedelta) -> None:
    """Check that the task holds a unique key, until it starts and no shorter than it may be pushed."""
    unique_for = job.task.unique_for if job.unique_for is None else job.unique_for
    unique_until = job.task.unique_until if job.unique_until is None else job.unique_until
    if unique_for is None:
        raise EnqueueError("unique_for", "debounce needs a unique key: give unique_for, or declare it on the task")
    if isinstance(unique_for, timedelta) and unique_for < longest:
        default = f" (without longest: {LONGEST_PUSHES} times debounce)" if job.longest is None else ""
        raise EnqueueError("unique_for", f"at least longest, {longest}{default}, is required, not {unique_for}")
    if unique_until == Until.FINISH:
        raise EnqueueError(
            "unique_until",
            'debounce needs unique_until="start", here or on the task: a change while the task runs needs another task',
        )


def _limits(job: Job, payload: Mapping[str, Any], tenant: str | None) -> Mapping[str, Any]:
    flow = job.task.flow
    if job.key is not None:
        if flow is None or not flow.key:
            raise EnqueueError("key", f"{job.task.type} declares no key")
        check_key(job.key)
    return {} if flow is None else flow.row(job.task.type, payload, tenant, job.key)


def _id(name: str, value: str) -> str:
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise EnqueueError(name, f"1 to {MAX_ID} printable ASCII characters without spaces are required")
    return value


def _when(process_in: timedelta | None, process_at: datetime | None) -> tuple[float | None, datetime | None]:
    """Return the seconds from now, or the time in UTC; both None: due now."""
    if process_in is not None and process_at is not None:
        raise EnqueueError("process_at", "give process_in or process_at, not both")
    if process_in is not None:
        return check_duration("process_in", process_in).total_seconds(), None
    return None, None if process_at is None else check_moment("process_at", process_at)


def seconds_until(at: datetime | None) -> float:
    """Return the seconds from now to ``at`` by this machine's clock; zero for None and for the past."""
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at else 0.0


def is_past(at: datetime | None) -> bool:
    """True if ``at`` is past by more than a second, which allows for clocks that differ."""
    return at is not None and datetime.now(UTC) - at > timedelta(seconds=1)


def delay_seconds(seconds: float) -> int:
    """Return ``DelaySeconds``, rounded up so that the message does not arrive early."""
    return min(max(0, math.ceil(seconds)), MAX_DELAY_SECONDS)


def _task_id(task_id: str) -> str:
    if TICK_ID_PATTERN.fullmatch(_id("task_id", task_id)):
        raise EnqueueError("task_id", f"{task_id!r} has the form of a tick's id, which only the scheduler gives")
    return task_id


def _tenant(tenant: str) -> str:
    if not isinstance(tenant, str) or not TENANT_PATTERN.fullmatch(tenant):
        raise EnqueueError("tenant", "1 to 128 ASCII letters, digits and punctuation are required (MessageGroupId)")
    return tenant


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(headers, Mapping):
        raise EnqueueError("headers", f"a mapping is required, not {type(headers).__name__}")
    try:
        return check_headers(headers)
    except MessageError as error:
        raise EnqueueError("headers", str(error).removeprefix("headers: ")) from None


def _body(message: Message, model: type[Payload]) -> str:
    try:
        body = message.encode()
        if needs_walk(body):
            check_tree(message.payload)
    except ValueError as error:  # a MessageError, or a number that JSON cannot represent
        field = _invalid_field(message.payload or {}, model)
        raise PayloadError("payload", field + str(error).removeprefix("payload: ")) from None
    return body


def _invalid_field(payload: Mapping[str, Any], model: type[Payload]) -> str:
    """Return the prefix ``name: `` for the first field that JSON or PostgreSQL cannot store, or an empty string."""
    for name, value in payload.items():
        try:
            canonical(value)
            check_tree(value, depth=2)
        except ValueError:
            return f"{name}: " if name in model.model_fields else ""
    return ""


def new_id() -> str:
    """Return a time-ordered UUID (version 7, RFC 9562), which keeps the index of ids compact."""
    time_ms, random = f"{int(time.time() * 1000):012x}", os.urandom(10).hex()
    return f"{time_ms[:8]}-{time_ms[8:]}-7{random[:3]}-{VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""Random digit → variant digit, whose two high bits are 10."""
