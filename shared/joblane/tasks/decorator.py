"""``@task`` declares a function as a task, and refuses a declaration that cannot work, with the reason."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from joblane.errors import DeclarationError, MessageError, PayloadError
from joblane.json_values import check_tree
from joblane.names import OWN_TYPES, SYSTEM_TYPES, Queue, folder_of, set_home
from joblane.quotas import BATCH_SIZES, CONCURRENCIES, DEFAULT_MEMORY_MB, MAX_RETENTION, MEMORY_MB, Numbers
from joblane.tasks import retry
from joblane.tasks.arguments import TASK, advised
from joblane.tasks.event_kinds import Kind, check_kinds
from joblane.tasks.limit import Limit, Rate, check_key_fields, flow_of
from joblane.tasks.payload import ArchivedTask, Payload, check_model, describe
from joblane.tasks.redaction import check_marks
from joblane.tasks.schedule import Schedule, parse
from joblane.tasks.task import (
    DEFAULT_MAX_DEPTH,
    MAX_TARGET_WAIT,
    MOST_DEPTH,
    TARGET_WAIT,
    Grants,
    P,
    R,
    Task,
    check_type,
)
from joblane.tasks.unique import LONGEST_UNIQUE, Until

if TYPE_CHECKING:
    from joblane.tasks.place import Lambda

E = TypeVar("E", bound=StrEnum)
ENVIRONMENT_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]+")


@advised(TASK)
def task(
    type_: str,
    *,
    queue: Queue = Queue.DEFAULT,
    also: Sequence[Queue] = (),
    max_retry: int = 5,
    retry_delay: retry.RetryDelay | None = None,
    timeout: timedelta = timedelta(minutes=1),
    retention: timedelta = timedelta(days=1),
    schedule: str | Schedule | Sequence[str | Schedule] = (),
    overlap: Literal["skip", "allow"] = "skip",
    unique_for: timedelta | None = None,
    unique_until: Until | str = Until.FINISH,
    on_archived: Task[Any, Any] | str | None = None,
    events: Sequence[Kind] = (),
    resumable: bool = False,
    aliases: Sequence[str] = (),
    front_door: bool | None = None,
    runs_on: Lambda | None = None,
    batch_size: int | None = None,
    max_depth: int = DEFAULT_MAX_DEPTH,
    max_concurrency: int | None = None,
    memory_mb: int | None = None,
    target_wait: timedelta | None = None,
    key: str | None = None,
    max_per_key: int | None = None,
    max_total: int | None = None,
    limit: Limit | None = None,
    rate: Rate | None = None,
    order: Literal["first-due"] | None = None,
    environment: Sequence[str] = (),
    grants: Grants | None = None,
) -> Callable[[Callable[[P, Any], R]], Task[P, R]]:
    """Declare a function as a task. A declaration that cannot work is refused at import, with the reason.

    The function has the name of its folder, ``category_action`` for the type ``category:action``. It is a ``def`` or an
    ``async def`` of two parameters: the payload, annotated with its subclass of :class:`Payload`, and a
    :class:`TaskContext`. Its return value is stored as the result and has to be JSON.

    Args:
        type_: Name of the task, ``category:action``, for example ``data:export``: lower-case letters, digits and single
            underscores on both sides of the colon, 43 characters at most. Types ``jobs:*`` belong to the library.
        queue: Home queue: a task is enqueued there, unless the enqueue names another queue.
        also: Further queues in which the type can be enqueued. The type has a lane, an SQS queue of its own or of its
            place, in each of its queues. Each queue can be named once.
        max_retry: Number of attempts after the first. 0: one attempt. For a ``resumable`` task with a long ``timeout``
            the maximum is lower, because SQS counts 1,000 receives of a message at most. Range: 0 to 100.
        retry_delay: Wait before the next attempt, 0 to 365 days. A timedelta: the same wait each time. A list: a wait
            for each failed attempt; its last entry is repeated. A function ``(attempt, error) -> timedelta``:
            ``attempt`` is the number of the failed attempt, from 1. If the function raises, the default applies. None:
            ``(n-1)⁴ + 15 + random(0..29)·n`` seconds after the failed attempt n.
        timeout: Time for one attempt. At its end :class:`TaskTimeout` is raised in the handler, and the attempt fails.
            ``timeout`` times ``batch_size`` is 890 seconds at most: the 900 seconds of Lambda's on-demand functions
            less 10. With ``resumable`` it can be longer: up to 24 hours with ``max_retry`` 0 or 1, 12.5 hours with
            3, 8.3 hours with 5. The message of a killed run returns when the timeout of its function has passed, so a
            short timeout lets it run again sooner.
            Range: 1 second to 890 seconds.
        retention: Time for which payload and result are kept after the task is completed or cancelled. 0: they are
            removed at once. Archived tasks keep payload and error for 90 days. Range: 0 seconds to 3650 days.
        schedule: Times at which the task runs by itself: five fields of Unix cron, a macro such as ``"@hourly"``, the
            result of :func:`cron` or :func:`every`, or a list of these. The payload of each schedule has to fit the
            payload class.
        overlap: ``"skip"``: a tick is cancelled if the task of the schedule's previous tick is still live.
            ``"allow"``: both run. Has no effect if ``unique_for`` is set.
        unique_for: Longest time for which a live task holds its unique key. By default the key consists of type, queue
            and payload. While a task holds a key, an enqueue with the same key raises :class:`DuplicateTaskError`,
            unless ``on_conflict`` says otherwise. None: no unique key. Range: 1 second to 3650 days.
        unique_until: When the key is released: ``"finish"``, when the task ends, or ``"start"``, when its first run
            starts.
        on_archived: Another task, or its type. It is enqueued when a task of this type is archived. Its payload class
            is :class:`ArchivedTask`. None: nothing is enqueued.
        events: Ends of a task that are sent to the stage's EventBridge bus, each at least once, see
            :class:`~joblane.tasks.events.Event`: ``"completed"``, ``"archived"``, ``"cancelled"``. They apply to tasks
            that are enqueued from then on.
        resumable: True if the handler loops over ``ctx.resume(…)``. Then ``timeout`` may exceed the 900 seconds of
            one invocation: the task continues in further invocations. Requires ``batch_size`` 1.
        aliases: Former types of the task. Tasks of these types still run.
        front_door: True if external producers can send this type to a front door. True is refused for ``jobs:*`` and
            ``system:*``. None: False for these, True for all others.
        runs_on: The function that runs this type together with others, see :class:`~joblane.tasks.place.Lambda`. Then
            ``batch_size``, ``max_concurrency`` and ``memory_mb`` belong to it. None: a function of its own.
        batch_size: Maximum number of messages in one invocation. They run one after the other. None: 1. Range: 1 to
            10.
        max_depth: Greatest depth of a task of this type. A task that is enqueued outside of a run has depth 0, and a
            task that a run enqueues is one deeper than the run's task. A deeper enqueue raises :class:`DepthError`, so
            that a task cannot enqueue itself forever. A value above 15 also switches off Lambda's own guard, which
            stops a function after about 16 such runs. 0: no run can enqueue this type. Range: 0 to 10000.
        max_concurrency: Maximum number of concurrent invocations for each lane of the task. None: the lane's share of
            the stage's ``concurrency_budget``. Range: 2 to 1000.
        memory_mb: Memory of the Lambda function, in MB. None: 512. Range: 128 to 10240.
        target_wait: Time that a task may wait after it is due before an alarm is raised. None: 1 minute for the home
            queue critical, 10 minutes for default, 1 hour for low. Range: 1 second to 1 day.
        key: What ``max_per_key``, ``rate`` and ``order`` count separately: a field of the payload (``"account_id"``, or
            ``"account.id"`` for a field of a nested model), ``"tenant"``, or both (``"tenant,account_id"``). Its values
            are strings, integers or booleans, and form a key of 200 printable ASCII characters at most. A task without
            a value has no limit per key. None: no keys.
        max_per_key: Tasks of one key that run at a time. 0: none starts. None: any number. Range: 0 to 10000.
        max_total: Tasks of this type that run at a time. 1: exactly one. 0: none starts. None: any number. Range: 0 to
            10000.
        limit: A limit that this type shares with others, see :class:`~joblane.tasks.limit.Limit`. None: no shared
            limit.
        rate: Rate of starts, of each key, or of the type if it has no ``key``, see :class:`~joblane.tasks.limit.Rate`.
            None: no limit.
        order: ``"first-due"``: the tasks of a key run one after the other, in the order in which they were first due.
            A task that waits for a retry keeps its place; an archived one passes it on. None: in no order.
        environment: Names of settings. Their values are in the stage's ``settings``, and the handler reads them from
            ``ctx.settings``. The function gets plain values as environment variables, and reads secrets when it uses
            them. A name has letters, digits and underscores, and two characters at least.
        grants: Permissions of the function in addition to its own lanes and the database, see :class:`Grants`.
            None: no further permission.

    Raises:
        DeclarationError: an option has a wrong type or is out of its range, or two options contradict each other. The
            message names the task and the option.
    """
    check_type(type_)
    what = f"task {type_!r}"
    closed = type_.startswith((OWN_TYPES, SYSTEM_TYPES))
    if closed and front_door:
        raise DeclarationError(f"{what}: front_door: jobs:* and system:* never take external messages")
    lanes = [_member(Queue, what, "queue", queue), *(_member(Queue, what, "also", item) for item in also)]
    if len(set(lanes)) != len(lanes):
        raise DeclarationError(f"{what}: also: names a queue twice: {', '.join(lanes)}")
    _check_range(what, "max_retry", max_retry, 0, retry.MAX_RETRY)
    _check_range(what, "max_depth", max_depth, 0, MOST_DEPTH)
    if closed and runs_on is not None:
        raise DeclarationError(
            f"{what}: runs_on: types of {OWN_TYPES}* and {SYSTEM_TYPES}* have functions of their own"
        )
    batch_size, memory_mb, max_concurrency = _of_function(
        what, runs_on, batch_size=batch_size, memory_mb=memory_mb, max_concurrency=max_concurrency
    )
    _check_duration(what, "timeout", timeout, timedelta(seconds=1), timedelta(days=1))
    if target_wait is not None:
        _check_duration(what, "target_wait", target_wait, timedelta(seconds=1), MAX_TARGET_WAIT)
    if unique_for is not None:
        _check_duration(what, "unique_for", unique_for, timedelta(seconds=1), LONGEST_UNIQUE)
    if overlap not in ("skip", "allow"):
        raise DeclarationError(f"{what}: overlap: 'skip' or 'allow' is required, not {overlap!r}")
    if resumable and batch_size != 1:
        where = "" if runs_on is None else f" of Lambda {runs_on.name!r}"
        raise DeclarationError(
            f"{what}: batch_size{where}: a resumable task takes an invocation for itself; leave it at 1"
        )
    if isinstance(aliases, str) or type_ in aliases:
        raise DeclarationError(f"{what}: aliases: a list of the names it had before is required")
    for name, others in (("aliases", aliases), ("on_archived", () if on_archived is None else (on_archived,))):
        _check_others(what, name, others)
    _check_duration(what, "retention", retention, timedelta(0), MAX_RETENTION)
    _check_environment(what, environment)
    try:
        back_off = retry.check_retry_delay(retry_delay)
    except DeclarationError as error:
        raise DeclarationError(f"{what}: {error}") from None
    if grants is not None and not isinstance(grants, Grants):
        raise DeclarationError(f"{what}: grants: Grants(…) is required, not {type(grants).__name__}")
    kinds = check_kinds(what, events)
    flow = flow_of(what, key=key, max_per_key=max_per_key, max_total=max_total, limit=limit, rate=rate, order=order)
    numbers = Numbers.of(
        timeout=timeout,
        batch_size=batch_size,
        max_retry=max_retry,
        what=what,
        resumable=resumable,
    )
    schedules = _schedules(what, list(schedule) if isinstance(schedule, (list, tuple)) else [schedule])

    def declare(function: Callable[[P, Any], R]) -> Task[P, R]:
        if function.__name__ != folder_of(type_):
            raise DeclarationError(f"{what}: the function is called {function.__name__!r}, not {folder_of(type_)!r}")
        payload = payload_class(what, function)
        check_model(f"{what}: {payload.__name__}", payload, set())
        check_marks(what, payload)
        if flow is not None:
            check_key_fields(what, flow, payload)
        set_home((type_, *aliases), None if runs_on is None else runs_on.name)
        made = Task(
            function=function,
            type=type_,
            payload=payload,
            queue=lanes[0],
            also=tuple(lanes[1:]),
            max_retry=max_retry,
            retry_delay=back_off,
            timeout=timeout,
            retention=retention,
            schedules=schedules,
            overlap=overlap,
            unique_for=unique_for,
            unique_until=_member(Until, what, "unique_until", unique_until),
            resumable=resumable,
            aliases=tuple(aliases),
            archived_to=on_archived,
            events=kinds,
            front_door=not closed if front_door is None else front_door,
            batch_size=batch_size,
            max_depth=max_depth,
            max_concurrency=max_concurrency,
            memory_mb=memory_mb,
            target_wait=TARGET_WAIT[lanes[0]] if target_wait is None else target_wait,
            environment=tuple(environment),
            grants=grants or Grants(),
            flow=flow,
            place=runs_on,
            numbers=numbers,
        )
        _check_ticks(made)
        return made

    return declare


def _of_function(
    what: str, place: object, *, batch_size: int | None, memory_mb: int | None, max_concurrency: int | None
) -> tuple[int, int, int | None]:
    """Return batch size, memory and concurrency of the function."""
    given = {
        "batch_size": (batch_size, BATCH_SIZES),
        "memory_mb": (memory_mb, MEMORY_MB),
        "max_concurrency": (max_concurrency, CONCURRENCIES),
    }
    for name, (value, range_) in given.items():
        if value is not None:
            _check_range(what, name, value, range_.start, range_.stop - 1)
    if place is None:
        return batch_size or 1, memory_mb or DEFAULT_MEMORY_MB, max_concurrency
    from joblane.tasks.place import Lambda

    if not isinstance(place, Lambda):
        raise DeclarationError(f'{what}: runs_on: a place is required, such as WEB = Lambda("web"), not {place!r}')
    for name, (value, _) in given.items():
        if value is not None:
            raise DeclarationError(
                f"{what}: {name}: it belongs to Lambda {place.name!r}, on which the task runs; set it there"
            )
    return place.batch_size, place.memory_mb, place.max_concurrency


def _check_others(what: str, name: str, others: Sequence[Task[Any, Any] | str]) -> None:
    for other in others:
        if not isinstance(other, Task):
            try:
                check_type(other)
            except DeclarationError as error:
                raise DeclarationError(f"{what}: {name}: {error}") from None
        elif other.payload is not ArchivedTask:
            raise DeclarationError(f"{what}: {name}: {other.type!r} takes {other.payload.__name__}, not ArchivedTask")


def _member(enum: type[E], what: str, name: str, value: Any) -> E:
    try:
        return enum(value)
    except ValueError:
        raise DeclarationError(f"{what}: {name}: {value!r} is not one of {', '.join(enum)}") from None


def _check_range(what: str, name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DeclarationError(f"{what}: {name}: an integer from {low} to {high} is required, not {value!r}")


def _check_duration(what: str, name: str, value: object, low: timedelta, high: timedelta) -> None:
    if not isinstance(value, timedelta) or not low <= value <= high:
        seconds = f"; write timedelta(seconds={value})" if isinstance(value, (int, float)) else ""
        raise DeclarationError(f"{what}: {name}: a timedelta from {low} to {high} is required, not {value!r}{seconds}")


def _check_environment(what: str, names: Sequence[str]) -> None:
    """Source of the pattern: CreateFunction, Lambda API reference."""
    for name in [names] if isinstance(names, str) else names:
        if isinstance(names, str) or not isinstance(name, str) or not ENVIRONMENT_PATTERN.fullmatch(name):
            raise DeclarationError(
                f"{what}: environment: {name!r}: a list of names is required, letters, digits and underscores, two "
                "characters at least"
            )


def _schedules(what: str, declared: Sequence[Any]) -> tuple[Schedule, ...]:
    """Return the schedules, each with a name: without one, its position."""
    schedules: list[Schedule] = []
    for position, item in enumerate(declared):
        try:
            schedule = parse(item)
            schedules.append(replace(schedule, name=schedule.name or str(position)))
        except DeclarationError as error:
            raise DeclarationError(f"{what}: schedule: {error}") from error
    names = [schedule.name for schedule in schedules]
    if len(set(names)) != len(names):
        raise DeclarationError(f"{what}: schedule: two schedules have the same name")
    return tuple(schedules)


def _check_ticks(task: Task[Any, Any]) -> None:
    """Check the payloads of ticks: each tick with a wrong payload would become a dead letter."""
    what = f"task {task.type!r}"
    for schedule in task.schedules:
        try:
            check_tree(schedule.json_payload)
            task.write(task.payload.model_validate(schedule.json_payload))
        except ValidationError as error:
            raise DeclarationError(
                f"{what}: schedule: {schedule.name!r}: {describe(error, task.payload)}; give each field a default, or "
                "the schedule a payload: cron(…, payload={…})"
            ) from None
        except (MessageError, PayloadError) as error:
            raise DeclarationError(f"{what}: schedule: {schedule.name!r}: {error}") from None
        except (TypeError, ValueError) as error:
            raise DeclarationError(f"{what}: schedule: {schedule.name!r}: payload is not JSON: {error}") from None


def payload_class(what: str, function: Callable[..., Any]) -> type[Any]:
    """Return the class of the first parameter. Only that annotation is evaluated."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"{what}: the function yields, and nothing would iterate over it; to work item by item, loop over "
            "ctx.each(items), or in an `async def` function over ctx.aeach(items)"
        )
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        raise DeclarationError(f"{what}: the function takes (payload, ctx), not {len(parameters)} parameters")
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        names = inspect.getclosurevars(function)
        first, *inside = annotation.split(".")
        annotation = {**names.globals, **names.nonlocals, **function.__globals__}.get(first)
        for name in inside:
            annotation = getattr(annotation, name, None)
    if not isinstance(annotation, type) or not issubclass(annotation, Payload):
        raise DeclarationError(
            f"{what}: annotate {parameters[0].name!r} with a subclass of Payload, defined above the function"
        )
    return annotation
