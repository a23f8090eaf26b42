"""A job as the caller gives it: the task, the payload, and the options of this one enqueue."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from joblane.errors import EnqueueError
from joblane.names import Queue
from joblane.tasks.task import Task
from joblane.tasks.unique import Keep, OnConflict, Until

if TYPE_CHECKING:
    from joblane.tasks.payload import Payload
    from joblane.tasks.retry import RetryDelay


class WithId(Protocol):
    """A result of an enqueue, for example."""

    @property
    def id(self) -> str:
        """Id of a task."""


class JobOptions(TypedDict, total=False):
    """Options of one enqueue. :class:`Job` documents each."""

    queue: Queue | None
    process_in: timedelta | None
    process_at: datetime | None
    task_id: str | None
    tenant: str | None
    headers: Mapping[str, str]
    owner: str | None
    tags: Sequence[str]
    max_retry: int | None
    timeout: timedelta | None
    deadline: datetime | None
    retention: timedelta | None
    retry_delay: RetryDelay | None
    unique_for: timedelta | None
    unique_key: str | None
    unique_until: Until | str | None
    on_conflict: OnConflict | str
    debounce: timedelta | None
    longest: timedelta | None
    keep: Keep | str
    key: str | None
    after: Sequence[str | WithId]
    on_parent_dead: OnParentDead | str


class OnParentDead(StrEnum):
    """The fate of a task if a task for which it waits ends without success."""

    HOLD = "hold"
    """It waits until an archived parent is redriven and completes. A cancelled parent cancels it."""
    CANCEL = "cancel"
    """An archived or cancelled parent cancels it."""
    RUN = "run"
    """It runs when all parents have ended, in whatever way."""


ELSEWHERE = {
    "countdown": "process_in",
    "delay": "process_in",
    "eta": "process_at",
    "schedule_at": "process_at",
    "expires": "deadline",
    "retries": "max_retry",
    "max_retries": "max_retry",
    "time_limit": "timeout",
    "job_id": "task_id",
    "queue_name": "queue",
    "max_wait": "longest",
    "max_delay": "longest",
    "depends_on": "after",
    "parents": "after",
}
"""Option of another library → the option here."""


def check_names(options: Mapping[str, object], *, others: Collection[str] = (), more: Collection[str] = ()) -> None:
    """Raise :class:`EnqueueError` for an unknown option, with the names that are similar.

    ``others``: options that are refused later, with a reason. ``more``: other arguments of the call.
    """
    if not options or not options.keys() - JobOptions.__annotations__.keys():
        return
    from difflib import get_close_matches

    names = [name for name in (*JobOptions.__annotations__, *more) if name not in others]
    for name in options.keys() - JobOptions.__annotations__.keys():
        near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise EnqueueError(name, f"there is no such option; {hint}")


@dataclass(slots=True)
class Job:
    """A task to enqueue, with the options of this one enqueue.

    For ``max_retry``, ``timeout``, ``retention``, ``retry_delay``, ``unique_for`` and ``unique_until``, None means: as
    the task declares.
    """

    task: Task[Any, Any]
    """The function declared by ``@task``."""
    payload: Payload
    """An instance of the task's payload class."""
    queue: Queue | None = None
    """Queue in which the task waits; the type has to have a lane in it. None: the task's home queue."""
    process_in: timedelta | None = None
    """Time until the task is due. With a ``MessageClient`` at most 15 minutes. None: the task is due at ``process_at``,
    or now if ``process_at`` is None too. Range: 0 seconds to 3650 days."""
    process_at: datetime | None = None
    """Time at which the task is due, with a time zone, at most 3,650 days ahead. A time in the past means now. Give
    ``process_in`` or ``process_at``, not both."""
    task_id: str | None = None
    """Id of the task: 1 to 200 printable ASCII characters without spaces, and not in the form of a tick's id
    (``type:schedule:time``, or ``@name:time:number``). An id that exists raises :class:`TaskIdConflictError`. None: a
    new UUID of version 7."""
    tenant: str | None = None
    """Tenant of the task: 1 to 128 ASCII letters, digits and punctuation. It is the message group of a fair queue, and
    a filter for operators. It authorises nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Strings for the handler (``ctx.headers``): at most 32, names of at most 100 characters, values of at most 1,000.
    The header ``traceparent`` (W3C Trace Context) puts the task into a trace."""
    owner: str | None = None
    """Owner of the task, for the application's own checks: 1 to 200 printable ASCII characters without spaces. Take it
    from verified claims. A ``MessageClient`` refuses it."""
    tags: Sequence[str] = ()
    """Words to find the task by: at most 20, of 1 to 100 characters. Repeated tags count once."""
    max_retry: int | None = None
    """Number of attempts after the first, from 0 to the ``max_retry`` that the task declares."""
    timeout: timedelta | None = None
    """Time for one attempt, from 1 second to the ``timeout`` that the task declares."""
    deadline: datetime | None = None
    """Time after which no run starts. A run in progress is interrupted at this time. In both cases the task is
    archived. The deadline has a time zone, and is later than the time at which the task is due. None: no deadline."""
    retention: timedelta | None = None
    """Time for which payload and result are kept after the task is completed or cancelled. 0: they are removed at
    once. With a ``MessageClient`` at most the ``retention`` that the task declares. Range: 0 seconds to 3650 days."""
    retry_delay: RetryDelay | None = None
    """Wait before the next attempt, 0 to 365 days: one timedelta, or a list of at most 100 whose last entry is
    repeated. A function is refused, because the row cannot hold it."""
    unique_for: timedelta | None = None
    """Longest time for which this task holds its unique key. A ``MessageClient`` refuses it.
    Range: 1 second to 3650 days."""
    unique_key: str | None = None
    """Unique key of this task within its type: 1 to 200 printable ASCII characters. It requires ``unique_for``, here or
    in the declaration. None: a digest of queue and payload."""
    unique_until: Until | str | None = None
    """When the key is released: ``"finish"`` (the task ends) or ``"start"`` (its first run starts)."""
    on_conflict: OnConflict | str = OnConflict.RAISE
    """Result if a live task holds the key. ``"raise"``: :class:`DuplicateTaskError`. ``"return"``: the existing task.
    ``"replace"``: the existing task with this payload, time and options, or
    :class:`DuplicateTaskError` if that task is running."""
    debounce: timedelta | None = None
    """Time for which no further enqueue with the unique key must come before the task runs. Each enqueue pushes the
    waiting task. It requires a unique key with ``unique_until="start"``, and is refused with ``process_in``,
    ``process_at`` and ``on_conflict``. A ``MessageClient`` refuses it. None: no debounce. Range: 5 seconds to 1 day."""
    longest: timedelta | None = None
    """Time after the first enqueue at which a debounced task is due, however often it is pushed: at least ``debounce``,
    and at most ``unique_for``. None: ten times ``debounce``."""
    keep: Keep | str = Keep.LAST
    """Payload and options of a debounced task. ``"last"``: those of the last enqueue. ``"first"``: those of the first
    enqueue; the others only push the task."""
    key: str | None = None
    """Key of this task for the limits of its type: 1 to 200 printable ASCII characters. A ``MessageClient`` refuses it.
    None: the key that the task declares."""
    after: Sequence[str | WithId] = ()
    """Tasks that have to end before this one runs, its *parents*: at most 1,000 ids, or results of an enqueue. Each
    has to exist in this stage's database. This task does not wait for a parent that has completed. Refused with
    ``on_conflict="replace"``, and by a ``MessageClient``. For more parents, use a batch. A task can have any number of
    children; of more than a few thousand, the sweep starts or cancels the last ones, within minutes."""
    on_parent_dead: OnParentDead | str = OnParentDead.HOLD
    """The fate of this task if a parent is archived: ``"hold"`` (it waits until the parent is redriven and completes),
    ``"cancel"`` (it is cancelled), or ``"run"`` (it runs). If a parent is cancelled or deleted, this task is cancelled,
    unless ``"run"``. Only with ``after``."""
