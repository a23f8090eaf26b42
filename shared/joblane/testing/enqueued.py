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

from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from joblane.tasks.payload import Payload
from joblane.tasks.redaction import masked
from joblane.tasks.scrubbing import scrubber
from joblane.tasks.task import Task
from joblane.testing.errors import KitError

TASKS = """
select id, type, queue, tenant, owner, tags, state, payload, headers,
       greatest(0, round(extract(epoch from due_at - created_at)))::float8,
       extract(epoch from unique_expires_at - created_at)::float8
  from joblane.tasks order by created_at, id
"""
"""An insert reads the clock for `due_at` and then for `created_at`, on a slow machine some milliseconds later."""
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
    """Time from the enqueue until the task is due, in whole seconds. After a failed attempt: until the next attempt is
    due."""
    key_until: float | None = field(default=None, repr=False, compare=False)
    """End of its unique key, in seconds from the enqueue of the row. An enqueue that replaces the task
    begins this time again."""


def read(connection: Connection, sent: Sequence[Entry], prefix: str) -> list[EnqueuedTask]:
    """Return all rows, oldest first, then the messages of producers without a record that have not run."""
    enqueued = [
        EnqueuedTask(
            id_, type_, queue, tenant, owner, tuple(tags), State(state), payload, headers, timedelta(seconds=due), key
        )
        for id_, type_, queue, tenant, owner, tags, state, payload, headers, due, key in connection.run(TASKS)
    ]
    known = {task.id for task in enqueued}
    for entry in sent:
        message = decode(entry.body)
        if message.id is None or message.rec or message.id in known:
            continue
        known.add(message.id)
        queue = entry.queue.removeprefix(f"{prefix}-").partition("-")[0]
        state = State.SCHEDULED if entry.delay_seconds else State.PENDING
        tags = tuple(message.options.tags) if message.options else ()
        fields = (tags, state, message.payload, message.headers, timedelta(seconds=entry.delay_seconds))
        enqueued.append(EnqueuedTask(message.id, message.type, queue, entry.group, None, *fields))
    return enqueued


class Captured(Sequence[EnqueuedTask]):
    """A sequence of the tasks that were enqueued inside a block, or since the test began.

    It grows until the end of the block. A task that was replaced in the block counts as enqueued there.
    """

    def __init__(self, read_all: Callable[[], list[EnqueuedTask]], find: Callable[[str], Task[Any, Any]]) -> None:
        """``read_all`` returns all tasks. ``find`` returns the task of a type, and raises :class:`KitError`."""
        self._read_all = read_all
        self._find = find
        self._before = {(task.id, task.key_until) for task in read_all()}
        self._tasks: list[EnqueuedTask] | None = None

    def close(self) -> None:
        """Keep the tasks of this moment: the block has ended."""
        self._tasks = self.enqueued()

    def __getitem__(self, position: Any) -> Any:
        return self.enqueued()[position]

    def __len__(self) -> int:
        return len(self.enqueued())

    def __iter__(self) -> Iterator[EnqueuedTask]:
        return iter(self.enqueued())

    def enqueued(self, task: Task[Any, Any] | str | None = None) -> list[EnqueuedTask]:
        """Return the tasks of one type, or all, in order."""
        tasks = self._tasks
        if tasks is None:
            tasks = [new for new in self._read_all() if (new.id, new.key_until) not in self._before]
        types = None if task is None else (task,) if isinstance(task, str) else task.types
        return [new for new in tasks if types is None or new.type in types]

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
            AssertionError: no task matches, or the number of matching tasks is not ``count``. The message has the tasks
                that were enqueued, the most similar ones first.
            KitError: no task can match: the type, queue, state or a field of the payload does not exist.
        """
        __tracebackhide__ = True
        given: dict[str, Any] = {
            "id": task_id,
            "queue": _member("queue", Queue, queue),
            "tags": None if tags is None else tuple(tags),
            "state": _member("state", State, state),
            "process_in": process_in,
        }
        wanted = {name: value for name, value in given.items() if value is not None}
        wanted |= {name: value for name, value in (("tenant", tenant), ("owner", owner)) if value is not ...}
        wanted |= {f"headers.{name}": value for name, value in (headers or {}).items()}
        declared = self._find(task) if isinstance(task, str) else task
        wanted |= _payload(declared, payload, fields)
        of_type = self.enqueued(task)
        matching = [enqueued for enqueued in of_type if not differences(enqueued, wanted)]
        if (len(matching) != count) if count is not None else not matching:
            type_ = task if isinstance(task, str) else task.type
            number = "at least one" if count is None else "no" if count == 0 else f"exactly {count}"
            problem = (
                f"{type_}: expected {number} enqueued task{'' if count in (None, 1) else 's'}, not {len(matching)}"
            )
            others = [enqueued.type for enqueued in self.enqueued() if enqueued not in of_type]
            scrub = scrubber(declared.payload, *(enqueued.payload for enqueued in of_type), _of_payload(wanted))
            raise AssertionError(scrub(_failure(problem, declared.payload, wanted, of_type, others)))
        return matching


def _member(name: str, enum: type[StrEnum], value: str | None) -> str | None:
    try:
        return None if value is None else enum(value).value
    except ValueError:
        raise KitError(f"{name}: {value!r} is not one of {', '.join(enum)}") from None


def _payload(
    task: Task[Any, Any], payload: Payload | Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the expected fields of the payload, with names ``payload.<field>``."""
    if isinstance(payload, Payload):
        if fields:
            raise KitError("a payload instance is compared whole; to compare some fields, give a mapping or arguments")
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
    """Return the values of this task that differ from ``wanted``."""
    return {name: actual for name, value in wanted.items() if not _same(actual := _value(task, name), value)}


def _value(task: EnqueuedTask, name: str) -> Any:
    part, _, key = name.partition(".")
    value = getattr(task, part)
    return (value or {}).get(key, MISSING) if key else value


def _same(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, timedelta):
        return bool(abs(actual - wanted) <= CLOSE)
    return bool(actual == wanted) and _flags(actual) == _flags(wanted)


def _flags(value: Any) -> Any:
    """Return the positions of booleans in a value. In Python they equal numbers, in JSON they do not."""
    if isinstance(value, Mapping):
        return {name: _flags(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_flags(item) for item in value]
    return isinstance(value, bool)


def _failure(
    problem: str,
    model: type[Payload],
    wanted: Mapping[str, Any],
    of_type: Sequence[EnqueuedTask],
    others: Sequence[str],
) -> str:
    """Return the text of a failed assertion, with redacted values masked. ``others``: types of the other tasks."""

    def shown(name: str, value: Any) -> str:
        key = name.removeprefix("payload.")
        return _shown(value if value is MISSING or key == name else masked(model, {key: value})[key])

    lines = [problem + (", with" if wanted else "")]
    lines += [f"    {name} = {shown(name, value)}" for name, value in wanted.items()]
    if of_type:
        lines.append(f"  enqueued tasks of {of_type[0].type}:")
    for task in sorted(of_type, key=lambda task: len(differences(task, wanted)))[:SHOWN]:
        wrong = differences(task, wanted)
        lines.append(f"    {task.id}, {task.state} in {task.queue}{'' if wrong else ', as expected'}")
        lines += [
            f"      {name} = {shown(name, actual)}, not {shown(name, wanted[name])}" for name, actual in wrong.items()
        ]
        rest = {f"payload.{name}": value for name, value in (task.payload or {}).items()}
        lines += [f"      {name} = {shown(name, value)}" for name, value in rest.items() if name not in wrong]
    if len(of_type) > SHOWN:
        lines.append(f"    and {len(of_type) - SHOWN} more")
    if others:
        lines.append("  tasks of other types: " + ", ".join(f"{type_} ({n})" for type_, n in Counter(others).items()))
    if not of_type and not others:
        lines.append("  no task was enqueued; a task that is enqueued in a session exists only after its commit")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    return str(value) if isinstance(value, (State, timedelta)) else repr(value)
