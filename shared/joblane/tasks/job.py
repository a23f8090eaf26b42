"""A job as the caller gives it: the task, the payload, and the options of this one enqueue.

The fields of :class:`Job` are the table of these options, :data:`OPTIONS`. Code that checks, keeps, reads or offers an
option takes its facts from there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from joblane.errors import EnqueueError
from joblane.names import Queue
from joblane.quotas import LONGEST_DEBOUNCE, MAX_RETENTION, SHORTEST_DEBOUNCE
from joblane.tasks.arguments import FIELDS, JOB, hint
from joblane.tasks.option_facts import (
    DURATION,
    DURATIONS,
    HEADERS,
    IDS,
    MOMENT,
    NUMBER,
    TEXT,
    TEXTS,
    Option,
    choice,
    facts,
)
from joblane.tasks.retry import LONGEST
from joblane.tasks.unique import LONGEST_UNIQUE, Keep, OnConflict, Until

if TYPE_CHECKING:
    from joblane.tasks.payload import Payload
    from joblane.tasks.retry import RetryDelay
    from joblane.tasks.task import Task

LONGEST_WAIT = timedelta(days=3650)
MAX_DELAYS = 100
MAX_TAGS, MAX_TAG = 20, 100
MAX_PARENTS = 1_000
"""The first claim of a child locks the rows of its parents."""


class WithId(Protocol):
    """A result of an enqueue, for example."""

    @property
    def id(self) -> str:
        """Id of a task."""


class CommonOptions(TypedDict, total=False):
    """Options of every enqueue. :class:`Job` documents each."""

    queue: Queue | None
    headers: Mapping[str, str]
    tags: Sequence[str]
    max_retry: int | None
    timeout: timedelta | None
    retention: timedelta | None
    retry_delay: RetryDelay | None


class TickOptions(CommonOptions, total=False):
    """Options of the tasks of a schedule."""

    owner: str | None
    unique_for: timedelta | None
    unique_key: str | None
    unique_until: Until | str | None
    key: str | None


class MessageOptions(CommonOptions, total=False):
    """Options of one enqueue without a row."""

    process_in: timedelta | None
    process_at: datetime | None
    deadline: datetime | None
    task_id: str | None
    tenant: str | None


class JobOptions(TickOptions, MessageOptions, total=False):
    """Options of one enqueue."""

    on_conflict: OnConflict | str
    debounce: timedelta | None
    longest: timedelta | None
    keep: Keep | str
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


# --- The table of the options --------------------------------------------------------------------------------------

NOT_DEBOUNCED = "a tick is not debounced; leave it out"
NO_PARENTS = "a tick waits for no other task; leave it out"


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
    queue: Queue | None = field(
        default=None, metadata=facts(choice(Queue), "--queue", "-q", help="Queue in which the type has a lane")
    )
    """Queue in which the task waits; the type has to have a lane in it. None: the task's home queue."""
    process_in: timedelta | None = field(
        default=None,
        metadata=facts(
            DURATION,
            "--in",
            help="Wait before the first run",
            example="10m, 2h or 3d",
            label="Run in",
            low=timedelta(0),
            high=LONGEST_WAIT,
            not_of_ticks="the schedule has the times; leave it out",
        ),
    )
    """Time until the task is due. With a ``MessageClient`` at most 15 minutes. None: the task is due at ``process_at``,
    or now if ``process_at`` is None too."""
    process_at: datetime | None = field(
        default=None,
        metadata=facts(
            MOMENT,
            "--at",
            help="Run at this time (ISO 8601)",
            example="2030-01-31T12:00Z",
            label="Run at",
            high=LONGEST_WAIT,
            not_of_ticks="the schedule has the times; leave it out",
        ),
    )
    """Time at which the task is due, with a time zone. A time in the past means now. Give
    ``process_in`` or ``process_at``, not both."""
    deadline: datetime | None = field(
        default=None,
        metadata=facts(
            MOMENT,
            "--deadline",
            help="Archive the task at this time, unless it has ended",
            example="2030-01-31T12:00Z",
            not_of_ticks="it is one time, and the schedule fires again and again; leave it out, and limit each run by "
            "timeout",
        ),
    )
    """Time after which no run starts. A run in progress is interrupted at this time. In both cases the task is
    archived. The deadline has a time zone, and is later than the time at which the task is due. None: no deadline."""
    task_id: str | None = field(
        default=None,
        metadata=facts(
            TEXT,
            "--id",
            help="Id of the task. A second use is refused",
            not_of_ticks="the id of each task is made of the schedule's name and the time of the tick; leave it out",
        ),
    )
    """Id of the task: 1 to 200 printable ASCII characters without spaces, and not in the form of a tick's id
    (``type:schedule:time``, or ``@name:time:number``). An id that exists raises :class:`TaskIdConflictError`. None: a
    new UUID of version 7."""
    tenant: str | None = field(
        default=None, metadata=facts(TEXT, "--tenant", help="Tenant, for fair queues and for filters")
    )
    """Tenant of the task: 1 to 128 ASCII letters, digits and punctuation. It is the message group of a fair queue, and
    a filter for operators. It authorises nothing."""
    headers: Mapping[str, str] = field(default_factory=dict, metadata=facts(HEADERS))
    """Strings for the handler (``ctx.headers``): at most 32, names of at most 100 characters, values of at most 1,000.
    The header ``traceparent`` (W3C Trace Context) puts the task into a trace."""
    owner: str | None = field(default=None, metadata=facts(TEXT, needs_row=True))
    """Owner of the task, for the application's own checks: 1 to 200 printable ASCII characters without spaces. Take it
    from verified claims."""
    tags: Sequence[str] = field(
        default=(),
        metadata=facts(
            TEXTS, "--tag", help="Tag, for filters", example="nightly, import", low=1, high=MAX_TAG, most=MAX_TAGS
        ),
    )
    """Words to find the task by. Repeated tags count once."""
    max_retry: int | None = field(
        default=None,
        metadata=facts(
            NUMBER,
            "--max-retry",
            help="Number of retries, at most the declared number",
            label="Retries",
            low=0,
            high=1000,
            declared="always",
        ),
    )
    """Number of attempts after the first."""
    timeout: timedelta | None = field(
        default=None,
        metadata=facts(
            DURATION,
            "--timeout",
            help="Time for one attempt, at most the declared timeout",
            example="10m",
            low=timedelta(seconds=1),
            high=MAX_RETENTION,
            declared="always",
        ),
    )
    """Time for one attempt."""
    retention: timedelta | None = field(
        default=None,
        metadata=facts(
            DURATION,
            "--retention",
            help="Time to keep the ended task",
            example="7d",
            label="Keep for",
            low=timedelta(0),
            high=MAX_RETENTION,
            declared="without a row",
        ),
    )
    """Time for which payload and result are kept after the task is completed or cancelled. 0: they are removed at
    once. With a ``MessageClient`` at most the ``retention`` that the task declares."""
    retry_delay: RetryDelay | None = field(
        default=None, metadata=facts(DURATIONS, low=timedelta(0), high=LONGEST, most=MAX_DELAYS)
    )
    """Wait before the next attempt: one timedelta, or a list whose last entry is repeated. A function is refused,
    because the row cannot hold it."""
    unique_for: timedelta | None = field(
        default=None,
        metadata=facts(
            DURATION,
            "--unique-for",
            help="Longest time to hold the unique key",
            example="1h",
            low=timedelta(seconds=1),
            high=LONGEST_UNIQUE,
            needs_row=True,
        ),
    )
    """Longest time for which this task holds its unique key."""
    unique_key: str | None = field(
        default=None,
        metadata=facts(TEXT, "--unique-key", help="Unique key. Default: from queue and payload", needs_row=True),
    )
    """Unique key of this task within its type: 1 to 200 printable ASCII characters. It requires ``unique_for``, here or
    in the declaration. None: a digest of queue and payload."""
    unique_until: Until | str | None = field(default=None, metadata=facts(choice(Until), needs_row=True))
    """When the key is released: ``"finish"`` (the task ends) or ``"start"`` (its first run starts)."""
    on_conflict: OnConflict | str = field(
        default=OnConflict.RAISE,
        metadata=facts(
            choice(OnConflict, "ACTION"),
            "--on-conflict",
            help="If the key is held",
            label="If the key is held",
            needs_row=True,
            not_of_ticks="a tick whose unique key is held by another task is cancelled; leave it out",
        ),
    )
    """Result if a live task holds the key. ``"raise"``: :class:`DuplicateTaskError`. ``"return"``: the existing task.
    ``"replace"``: the existing task with this payload, time and options, or
    :class:`DuplicateTaskError` if that task is running."""
    debounce: timedelta | None = field(
        default=None,
        metadata=facts(
            DURATION, low=SHORTEST_DEBOUNCE, high=LONGEST_DEBOUNCE, needs_row=True, not_of_ticks=NOT_DEBOUNCED
        ),
    )
    """The task runs when no further enqueue with its unique key has come for this time. Each enqueue pushes the waiting
    task back. This requires a unique key with ``unique_until="start"``, and is refused with ``process_in``,
    ``process_at`` and ``on_conflict``. None: no debounce."""
    longest: timedelta | None = field(
        default=None, metadata=facts(DURATION, needs_row=True, not_of_ticks=NOT_DEBOUNCED)
    )
    """Time after the first enqueue at which a debounced task is due, however often it is pushed: at least ``debounce``,
    and at most ``unique_for``. None: ten times ``debounce``."""
    keep: Keep | str = field(
        default=Keep.LAST, metadata=facts(choice(Keep), needs_row=True, not_of_ticks=NOT_DEBOUNCED)
    )
    """Payload and options of a debounced task. ``"last"``: those of the last enqueue. ``"first"``: those of the first
    enqueue; the others only push the task."""
    key: str | None = field(default=None, metadata=facts(TEXT, needs_row=True))
    """Key of this task for the limits of its type: 1 to 200 printable ASCII characters. None: the key that the
    task declares."""
    after: Sequence[str | WithId] = field(
        default=(), metadata=facts(IDS, most=MAX_PARENTS, needs_row=True, not_of_ticks=NO_PARENTS)
    )
    """Tasks that have to end before this one runs, its *parents*: ids, or results of an enqueue. Each has to exist in
    this stage's database. This task does not wait for a parent that has completed. Refused with
    ``on_conflict="replace"``. For more parents, use a batch. A task can have any number of children; if it has more
    than a few thousand, the sweep starts or cancels the last of them, within minutes."""
    on_parent_dead: OnParentDead | str = field(
        default=OnParentDead.HOLD, metadata=facts(choice(OnParentDead), needs_row=True, not_of_ticks=NO_PARENTS)
    )
    """The fate of this task if a parent is archived: ``"hold"`` (it waits until the parent is redriven and completes),
    ``"cancel"`` (it is cancelled), or ``"run"`` (it runs). If a parent is cancelled or deleted, this task is cancelled,
    unless ``"run"``. Only with ``after``."""


OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Job) if each.metadata}
"""Option → its facts, in the order of the fields of :class:`Job`."""
NEED_A_ROW: dict[str, Any] = {
    each.name: each.default for each in fields(Job) if each.name in OPTIONS and OPTIONS[each.name].needs_row
}
"""Option that a ``MessageClient`` refuses → its default."""
NOT_OF_TICKS = {name: option.not_of_ticks for name, option in OPTIONS.items() if option.not_of_ticks}
"""Option that a schedule refuses → the reason."""


def check_names(options: Mapping[str, object], *, others: Collection[str] = (), more: Collection[str] = ()) -> None:
    """Raise :class:`EnqueueError` for an unknown option, with the names that are similar.

    ``others``: options that are refused later, with a reason. ``more``: other arguments of the call.
    """
    if not options or not options.keys() - OPTIONS.keys():
        return
    names = [name for name in (*OPTIONS, *more) if name not in others]
    for name in options.keys() - OPTIONS.keys():
        advice = hint(name, names, JOB)
        fields = f"; {FIELDS}" if advice.startswith("there are ") else ""
        raise EnqueueError(name, f"there is no such option; {advice}{fields}")


def options_from_json(given: Mapping[str, Any], *, others: Collection[str] = ()) -> dict[str, Any]:
    """Return the options of a job. Null means left out, and the check of an enqueue refuses values out of bounds.

    Raises :class:`EnqueueError` for an unknown option and for JSON of another form. ``others``: options that are
    refused later, with a reason.
    """
    check_names(given, others=others)
    options = {}
    for name, value in given.items():
        if value is not None:
            try:
                options[name] = OPTIONS[name].values.from_json(value)
            except ValueError as error:
                raise EnqueueError(name, str(error)) from None
    return options
