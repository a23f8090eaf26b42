"""The tasks that a test has enqueued, and their differences from the expected ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import EllipsisType
from typing import Any

from pydantic_core import to_jsonable_python

from joblane.declaration import Task
from joblane.payload import Payload
from joblane.queues import Queue
from joblane.record.connection import Connection
from joblane.record.states import State
from joblane.redaction import masked, scrubber
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from joblane.testing.errors import KitError

TASKS = """
select id, type, queue, tenant, owner, tags, state, payload, headers,
       greatest(0, extract(epoch from due_at - created_at))::float8,
       extract(epoch from unique_expires_at - created_at)::float8
  from joblane.tasks order by created_at, id
"""
SHOWN = 10
"""Tasks that a failure shows."""
CLOSE = timedelta(seconds=5)
"""How far a time may be off: it is counted from the enqueue."""
MISSING = object()


@dataclass(frozen=True)
class EnqueuedTask:
    """A task that was enqueued, in any state."""

    id: str
    """Id of the task."""
    type: str
    """Type of the task."""
    queue: str
    """Queue of the task."""
    tenant: str | None
    """Tenant. None: none was given."""
    owner: str | None
    """Owner. None: none was given."""
    tags: tuple[str, ...]
    """Tags."""
    state: State
    """State of the task."""
    payload: Mapping[str, Any] | None
    """Payload, as JSON has it. None: it was removed."""
    headers: Mapping[str, str]
    """Headers."""
    process_in: timedelta
    """Time from the enqueue to the time at which the task is due; after a failed attempt, to that of the next one."""
    key_until: float | None = field(default=None, repr=False, compare=False)
    """End of its unique key, in seconds from the enqueue of the row. Each enqueue starts the key anew."""


def read(connection: Connection, sent: Sequence[Entry], prefix: str) -> list[EnqueuedTask]:
    """All rows in the order they were written; after them, messages of senders without a record that have not run."""
    found = [
        EnqueuedTask(id_, type_, queue, tenant, owner, tuple(tags), State(state), payload, headers, _seconds(due), key)
        for id_, type_, queue, tenant, owner, tags, state, payload, headers, due, key in connection.run(TASKS)
    ]
    known = {one.id for one in found}
    for entry in sent:
        message = decode(entry.body)
        if message.id is None or message.rec or message.id in known:
            continue
        known.add(message.id)
        queue = entry.queue.removeprefix(f"{prefix}-").partition("-")[0]
        state = State.SCHEDULED if entry.delay_seconds else State.PENDING
        tags = tuple(message.options.tags) if message.options else ()
        fields = (tags, state, message.payload, message.headers, timedelta(seconds=entry.delay_seconds))
        found.append(EnqueuedTask(message.id, message.type, queue, entry.group, None, *fields))
    return found


class Captured(Sequence[EnqueuedTask]):
    """A sequence of the tasks that were enqueued inside a block, or since the test began.

    It grows until the end of the block. A task that was replaced in the block counts as enqueued there.
    """

    def __init__(self, look: Callable[[], list[EnqueuedTask]], find: Callable[[str], Task[Any, Any]]) -> None:
        """``look`` returns all tasks. ``find`` returns the task of a type, and raises :class:`KitError`."""
        self._look = look
        self._find = find
        self._before = {(one.id, one.key_until) for one in look()}
        self._kept: list[EnqueuedTask] | None = None

    def close(self) -> None:
        """Keep the tasks of this moment: the block has ended."""
        self._kept = self.enqueued()

    def __getitem__(self, position: Any) -> Any:
        return self.enqueued()[position]

    def __len__(self) -> int:
        return len(self.enqueued())

    def __iter__(self) -> Iterator[EnqueuedTask]:
        return iter(self.enqueued())

    def enqueued(self, task: Task[Any, Any] | str | None = None) -> list[EnqueuedTask]:
        """Return the tasks of one type, or all, in order."""
        found = self._kept
        if found is None:
            found = [one for one in self._look() if (one.id, one.key_until) not in self._before]
        types = None if task is None else (task,) if isinstance(task, str) else task.types
        return [one for one in found if types is None or one.type in types]

    def assert_enqueued(
        self,
        task: Task[Any, Any] | str,
        payload: Payload | Mapping[str, Any] | None = None,
        *,
        count: int | None = None,
        task_id: str | None = None,
        queue: str | None = None,
        tenant: str | EllipsisType | None = ...,
        owner: str | EllipsisType | None = ...,
        tags: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
        state: State | str | None = None,
        process_in: timedelta | None = None,
        **fields: Any,
    ) -> list[EnqueuedTask]:
        """Return the tasks of a type that match, and fail if there is none. Arguments that are not given match all.

        Args:
            task: The task or its type.
            payload: An instance of the payload class, which is compared whole, or a mapping, whose keys are compared.
            count: Exact number of tasks. None: at least one.
            task_id: Id.
            queue: Queue.
            tenant: Tenant. None: the task has none.
            owner: Owner. None: the task has none.
            tags: Tags, in order.
            headers: Headers, of which the given keys are compared.
            state: State.
            process_in: Time from the enqueue to the time at which the task is due, compared to within 5 seconds.
            fields: Further fields of the payload.

        Raises:
            AssertionError: no task matches, or not ``count``. The message has the tasks that were enqueued, the most
                similar ones first.
            KitError: no task can match: the type, queue, state or a field of the payload does not exist.
        """
        __tracebackhide__ = True
        given: dict[str, Any] = {
            "id": task_id,
            "queue": _one_of("queue", Queue, queue),
            "tags": None if tags is None else tuple(tags),
            "state": _one_of("state", State, state),
            "process_in": process_in,
        }
        wanted = {name: value for name, value in given.items() if value is not None}
        wanted |= {name: value for name, value in (("tenant", tenant), ("owner", owner)) if value is not ...}
        wanted |= {f"headers.{name}": value for name, value in (headers or {}).items()}
        declared = self._find(task) if isinstance(task, str) else task
        wanted |= _payload(declared, payload, fields)
        of_type = self.enqueued(task)
        matching = [one for one in of_type if not differences(one, wanted)]
        if (len(matching) != count) if count is not None else not matching:
            type_ = task if isinstance(task, str) else task.type
            number = "at least one" if count is None else "none" if count == 0 else f"exactly {count}"
            what = f"{type_}: {number} was to be enqueued, {len(matching)} was"
            others = [one.type for one in self.enqueued() if one not in of_type]
            scrub = scrubber(declared.payload, *(one.payload for one in of_type), _of_payload(wanted))
            raise AssertionError(scrub(_failure(what, declared.payload, wanted, of_type, others)))
        return matching


def _one_of(name: str, words: type[StrEnum], value: str | None) -> str | None:
    try:
        return None if value is None else words(value).value
    except ValueError:
        raise KitError(f"{name}: {value!r} is not one of {', '.join(words)}") from None


def _payload(
    task: Task[Any, Any], payload: Payload | Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """What the payload is to hold, by ``payload.<field>``."""
    if isinstance(payload, Payload):
        if fields:
            raise KitError("a payload is compared whole; give some of its fields as a mapping, or as arguments")
        if type(payload) is not task.payload:
            raise KitError(f"{task.type} takes {task.payload.__name__}, not {type(payload).__name__}")
        return {f"payload.{name}": value for name, value in payload.model_dump(mode="json").items()}
    keys = {**(payload or {}), **fields}
    known = task.payload.model_fields
    for name in keys:
        if name not in known:
            raise KitError(f"{task.payload.__name__} has no field {name!r}; it has {', '.join(known) or 'none'}")
    return {f"payload.{name}": to_jsonable_python(value) for name, value in keys.items()}


def _of_payload(wanted: Mapping[str, Any]) -> dict[str, Any]:
    named = ((name.partition("."), value) for name, value in wanted.items())
    return {key: value for (part, _, key), value in named if part == "payload"}


def differences(task: EnqueuedTask, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``wanted`` this task has not, with what it has instead."""
    return {name: found for name, value in wanted.items() if not _same(found := _value(task, name), value)}


def _value(task: EnqueuedTask, name: str) -> Any:
    part, _, key = name.partition(".")
    value = getattr(task, part)
    return (value or {}).get(key, MISSING) if key else value


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, timedelta):
        return bool(abs(found - wanted) <= CLOSE)
    return bool(found == wanted) and _flags(found) == _flags(wanted)


def _flags(value: Any) -> Any:
    """Where booleans are in a value: to Python they are numbers, to JSON they are not."""
    if isinstance(value, Mapping):
        return {name: _flags(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_flags(item) for item in value]
    return isinstance(value, bool)


def _failure(
    what: str,
    model: type[Payload],
    wanted: Mapping[str, Any],
    of_type: Sequence[EnqueuedTask],
    others: Sequence[str],
) -> str:
    """``others``: the types of what else was enqueued. Values of redacted fields are masked."""

    def shown(name: str, value: Any) -> str:
        key = name.removeprefix("payload.")
        return _shown(value if value is MISSING or key == name else masked(model, {key: value})[key])

    lines = [what + (", with" if wanted else "")]
    lines += [f"    {name} = {shown(name, value)}" for name, value in wanted.items()]
    if of_type:
        lines.append(f"  enqueued of {of_type[0].type}:")
    for one in sorted(of_type, key=lambda one: len(differences(one, wanted)))[:SHOWN]:
        wrong = differences(one, wanted)
        lines.append(f"    {one.id}, {one.state} in {one.queue}{'' if wrong else ', as asked'}")
        lines += [
            f"      {name} = {shown(name, found)}, not {shown(name, wanted[name])}" for name, found in wrong.items()
        ]
        rest = {f"payload.{name}": value for name, value in (one.payload or {}).items()}
        lines += [f"      {name} = {shown(name, value)}" for name, value in rest.items() if name not in wrong]
    if len(of_type) > SHOWN:
        lines.append(f"    and {len(of_type) - SHOWN} more")
    if others:
        lines.append("  of other types: " + ", ".join(f"{type_} ({n})" for type_, n in Counter(others).items()))
    if not of_type and not others:
        lines.append("  nothing was enqueued at all; what is enqueued in a session exists once that has committed")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    return str(value) if isinstance(value, (State, timedelta)) else repr(value)


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds, 3))
