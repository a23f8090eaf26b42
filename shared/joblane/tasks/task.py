"""A declared task: its function, its payload's class and its options, which :mod:`joblane.tasks.decorator` checks.

The declared job is still the function. Importing a handler makes no client, no engine, and reads no environment.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from joblane.errors import DeclarationError, PayloadError, UnreadablePayloadError
from joblane.json_values import canonical
from joblane.names import MAX_FUNCTION_NAME, MAX_PREFIX, TYPE_PATTERN, Queue, folder_of, slug_of
from joblane.quotas import Numbers
from joblane.tasks import retry
from joblane.tasks.arguments import METHODS
from joblane.tasks.limit import Flow
from joblane.tasks.payload import Payload, ambiguous_fields, describe, is_ambiguous, unwritable
from joblane.tasks.redaction import unmarked
from joblane.tasks.schedule import Schedule
from joblane.tasks.scrubbing import scrubber
from joblane.tasks.unique import LONGEST_UNIQUE, Unique, Until, key_of

if TYPE_CHECKING:
    from joblane.tasks.place import Lambda

MAX_SLUG = MAX_FUNCTION_NAME - MAX_PREFIX - 1
TARGET_WAIT: Mapping[Queue, timedelta] = {
    Queue.CRITICAL: timedelta(minutes=1),
    Queue.DEFAULT: timedelta(minutes=10),
    Queue.LOW: timedelta(hours=1),
}
"""Default of ``target_wait``, by home queue: time that a task may wait after it is due before an alarm is raised."""
MAX_TARGET_WAIT = timedelta(days=1)
EVERY_LANE = "*"
"""In ``Grants.enqueue``: all types."""
DEFAULT_MAX_DEPTH, MOST_DEPTH = 15, 10_000
"""With the first task, a chain of this depth has 16 runs. Lambda stops a function that is invoked more than 16 times in
a chain of messages. Source: AWS Lambda developer guide, *Recursive loop detection*."""
NO_HANDLER = "joblane.tasks.declare"
"""Module of the function of a task that is declared without one."""


@dataclass(frozen=True)
class Grants:
    """Permissions of a task's function in addition to its own lanes and the database."""

    buckets: tuple[str, ...] = ()
    """Names that the CDK app gives to buckets, for example ``("exports",)``. The task's function can write objects to
    these buckets. If the app declares a bucket with ``removes=True``, the function can list and delete its objects
    instead."""
    enqueue: tuple[str, ...] = ()
    """Types that the function can enqueue, and types of tasks that wait for tasks or signals of this one, for example
    ``("user:invitation",)``. ``("*",)``: all types. The task's own type and the type of ``on_archived`` need no entry.
    On AWS, IAM refuses a message of another type. So :meth:`TaskContext.enqueue` and the batches of the context refuse
    it everywhere, before anything is written. They cannot check tasks that wait for others: the sweep sends these
    messages, some minutes later, and `joblane doctor` warns."""
    run: tuple[str, ...] = ()
    """Types whose results the task waits for, by :meth:`TaskContext.run` or :meth:`TaskContext.gather`, for example
    ``("day:sum",)``. The function can enqueue them, and the functions of these types can send the message with which
    the task continues. A type that is only in ``enqueue`` can be waited for too; then the sweep continues the task,
    some minutes after the last child has ended."""
    mail: bool = False
    """True: the function can send e-mail by Amazon SES, from the address in the stage's setting ``mail_from``."""
    dead_letters: bool = False
    """True: the function can receive and delete messages of every dead-letter queue of the stage, and send them back
    through a front door."""
    services: tuple[str, ...] = ()
    """AWS services that the task's own code calls, as boto3 names them, for example ``("dynamodb",)``. The synthesis
    checks that the network of the stage reaches them. It does not allow any call: add the permissions that you need to
    the function's role. SQS, S3, mail and secrets need no entry."""

    def __post_init__(self) -> None:
        for name, example in (
            ("buckets", "exports"),
            ("enqueue", "data:export"),
            ("run", "day:sum"),
            ("services", "dynamodb"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not all(isinstance(item, str) for item in value):
                raise DeclarationError(f"grants: {name}: a tuple of strings is required, for example ({example!r},)")
        for type_ in (*self.enqueue, *self.run):
            if type_ != EVERY_LANE or type_ in self.run:
                check_type(type_)


P = TypeVar("P", bound=Payload)
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Task(Generic[P, R]):
    """A declared task; a call of the task calls its function. Its attributes are its declaration."""

    function: Callable[[P, Any], R]
    """It takes the payload and a :class:`~joblane.handler.context.TaskContext`. :func:`~joblane.tasks.decorator.task`
    checks it."""
    type: str
    payload: builtins.type[P]
    queue: Queue
    also: tuple[Queue, ...]
    max_retry: int
    retry_delay: retry.RetryDelay
    timeout: timedelta
    retention: timedelta
    schedules: tuple[Schedule, ...]
    overlap: Literal["skip", "allow"]
    unique_for: timedelta | None
    unique_until: Until
    resumable: bool
    aliases: tuple[str, ...]
    archived_to: Task[Any, Any] | str | None
    events: tuple[str, ...]
    front_door: bool
    batch_size: int
    max_depth: int
    max_concurrency: int | None
    memory_mb: int
    target_wait: timedelta
    environment: tuple[str, ...]
    grants: Grants
    flow: Flow | None
    """Its limits. None: it has none."""
    place: Lambda | None
    """The place that runs it, whose memory, batch size and concurrency it has. None: a function of its own."""
    numbers: Numbers = field(repr=False)

    def __call__(self, payload: P, ctx: Any) -> R:
        return self.function(payload, ctx)

    if not TYPE_CHECKING:  # or every attribute would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, with advice for a name of another library."""
            advice = METHODS.get(name)
            raise AttributeError(f"a task has no attribute {name!r}{f'; {advice}' if advice else ''}")

    @cached_property
    def is_async(self) -> bool:
        """True for an ``async def`` function, whose call returns a coroutine."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def has_handler(self) -> bool:
        """False if the task is declared by :func:`~joblane.tasks.declare.declare`, so that it can only be enqueued."""
        return self.function.__module__ != NO_HANDLER

    @property
    def folder(self) -> str:
        return folder_of(self.type)

    @property
    def slug(self) -> str:
        return slug_of(self.type)

    @property
    def lanes(self) -> tuple[Queue, ...]:
        """The queues in which the type has a lane, the home queue first."""
        return (self.queue, *self.also)

    @property
    def allows_loops(self) -> bool:
        """True if Lambda's recursive loop detection is off for the function: ``RecursiveLoop: Allow``."""
        return self.max_depth > DEFAULT_MAX_DEPTH

    @cached_property
    def max_attempts(self) -> int:
        """Number of attempts: the first and the retries."""
        return self.max_retry + 1

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The type, and the names it had before."""
        return (self.type, *self.aliases)

    @property
    def follower(self) -> str | None:
        """The type of the task that ``on_archived`` names."""
        return self.archived_to.type if isinstance(self.archived_to, Task) else self.archived_to

    def may_enqueue(self, type_: str) -> bool:
        """True if the permissions of the function include the lanes of ``type_``, by its declaration."""
        granted = (*self.grants.enqueue, *self.grants.run)
        return type_ in granted or EVERY_LANE in granted or type_ in (self.type, self.follower)

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """JSON Schema of the payload."""
        return self.payload.model_json_schema()

    @cached_property
    def schema_digest(self) -> str:
        """12 hex characters that change when the payload's schema accepts something else.

        A mark of redaction does not change it: a deploy of a mark would look like a deploy of another payload.
        """
        return hashlib.sha256(canonical(unmarked(self.schema)).encode()).hexdigest()[:12]

    def read(self, payload: Any, schema: str | None) -> P:
        """Validate a received payload.

        Unknown fields are ignored if another schema wrote the payload. They are refused if this schema wrote it: then
        they are typing errors. Raises :class:`UnreadablePayloadError`.
        """
        try:
            return self.payload.model_validate(payload)
        except ValidationError as error:
            if schema is None or schema == self.schema_digest:
                raise self._unreadable(payload, error) from None
        try:
            return self.payload.model_validate(payload, extra="ignore")
        except ValidationError as error:
            raise self._unreadable(payload, error) from None

    def _unreadable(self, payload: Any, error: ValidationError) -> UnreadablePayloadError:
        """Return the error without values: a validator of the payload class can have put one into its message."""
        problem = describe(error, self.payload)
        return UnreadablePayloadError(f"payload: {scrubber(self.payload, payload)(problem)}")

    def write(self, payload: P) -> dict[str, Any]:
        """Return ``payload`` as JSON values. Raises :class:`PayloadError` if it is not of the declared class."""
        if type(payload) is not self.payload:
            name = self.payload.__name__
            hint = (
                f"; build it by {name}(…), which checks the fields"
                if payload is None or isinstance(payload, Mapping)
                else ""
            )
            raise PayloadError("payload", f"{self.type} takes {name}, not {type(payload).__name__}{hint}")
        try:
            written = payload.model_dump(
                mode="json", warnings="error"
            )  # as by model_copy(update=…), which checks nothing
        except (TypeError, ValueError, RecursionError) as error:  # pydantic's text would show the value
            where, why = unwritable(payload), type(error).__name__
            raise PayloadError("payload", f"{where}: the value cannot be written as JSON ({why})") from None
        for name, problem in self._ambiguous.items():
            if name in written and is_ambiguous(getattr(payload, name), written[name], problem):
                raise PayloadError("payload", f"{name}: {problem}")
        return written

    @cached_property
    def _ambiguous(self) -> Mapping[str, str]:
        """The fields whose values can reach the handler as others, each with the problem."""
        return ambiguous_fields(self.payload)

    def key_of_message(self, queue: str, payload: Mapping[str, Any], schedule: str | None) -> Unique | None:
        """Return the unique key of a message without a row, as the task declares it.

        ``schedule``: name of a tick's schedule. If the task has no ``unique_for`` and its ticks do not overlap, the key
        of a tick is its schedule's.
        """
        if self.unique_for is not None:
            key = key_of(self.type, queue, self.as_written(payload), None)
            return Unique(key, self.unique_for.total_seconds(), self.unique_until)
        if schedule is not None and self.overlap == "skip":
            return Unique(f"{self.type} tick {schedule}", LONGEST_UNIQUE.total_seconds(), Until.FINISH)
        return None

    def as_written(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return ``payload`` with the defaults that a client writes, so that both have the same key."""
        try:
            return self.write(self.read(payload, None))
        except (UnreadablePayloadError, PayloadError):
            return payload


def check_type(type_: object) -> None:
    """Raise :class:`DeclarationError` if ``type_`` is no task type."""
    if callable(type_):
        name = getattr(type_, "__name__", type_)
        raise DeclarationError(f'task {name!r}: write the type into the decorator: @task("category:action")')
    if not isinstance(type_, str) or not TYPE_PATTERN.fullmatch(type_):
        raise DeclarationError(
            f"task type {type_!r}: 'category:action' is required, lower-case letters, digits and single underscores, "
            "for example 'data:export'"
        )
    if len(slug_of(type_)) > MAX_SLUG:
        raise DeclarationError(
            f"task type {type_!r}: {MAX_SLUG} characters at most, or its function's name is too long"
        )
