"""Declaring a task: ``@task`` on a function makes it a :class:`Task`, found by walking ``functions/*/handler.py``.

The declared job is still the function. Importing a handler makes no client, no engine, and reads no environment.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import inspect
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    WrapSerializer,
)

from shared.jobs import retry
from shared.jobs.cron import Schedule, parse
from shared.jobs.errors import DeclarationError, JobError, PayloadError, UnreadablePayloadError
from shared.jobs.message import canonical
from shared.jobs.queues import (
    MAX_CONCURRENCY,
    MAX_FUNCTION_NAME,
    MAX_PREFIX,
    MIN_CONCURRENCY,
    TYPE_PATTERN,
    Numbers,
    Queue,
    folder_of,
    slug_of,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from shared.jobs.context import TaskContext

MAX_SLUG = MAX_FUNCTION_NAME - MAX_PREFIX - 1
MAX_RETENTION = timedelta(days=3650)
ENVIRONMENT_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]+")
MEMORY_MB = range(128, 10241)
"""Source: Lambda quotas, function memory allocation."""


class Payload(BaseModel):
    """Base of every payload: one frozen class at both ends, whose errors never show a value."""

    # Infinities and NaN stay what they are, to be refused: pydantic would make them null.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Grants:
    """What a task's function may do beyond its own lane and the database. Least privilege follows from it."""

    buckets: tuple[str, ...] = ()
    """Names of buckets it reads and writes, e.g. ``("exports",)``."""
    enqueue: tuple[str, ...] = ()
    """Types it may send, e.g. ``("user:invitation",)``."""
    mail: bool = False
    """Send e-mail by SES."""


P = TypeVar("P", bound=Payload)
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Task(Generic[P, R]):
    """A declared task. Call it as the function it is; the rest is its declaration."""

    function: Callable[[P, TaskContext], R]
    type: str
    payload: builtins.type[P]
    queue: Queue
    also: tuple[Queue, ...]
    max_retry: int
    retry_delay: retry.RetryDelay
    timeout: timedelta
    retention: timedelta
    schedules: tuple[Schedule, ...]
    front_door: bool
    batch_size: int
    max_concurrency: int | None
    memory_mb: int
    environment: tuple[str, ...]
    grants: Grants
    numbers: Numbers = field(repr=False)

    def __call__(self, payload: P, ctx: TaskContext) -> R:
        return self.function(payload, ctx)

    @property
    def folder(self) -> str:
        return folder_of(self.type)

    @property
    def slug(self) -> str:
        return slug_of(self.type)

    @property
    def lanes(self) -> tuple[Queue, ...]:
        """The queues in which the type has a lane, home first."""
        return (self.queue, *self.also)

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """JSON Schema of the payload."""
        return self.payload.model_json_schema()

    @cached_property
    def schema_digest(self) -> str:
        """12 hex characters that change when the payload's schema does."""
        return hashlib.sha256(canonical(self.schema).encode()).hexdigest()[:12]

    def read(self, payload: Any, schema: str | None) -> P:
        """Validate a received payload.

        Fields that are unknown here are ignored from a newer schema and refused from our own, where they are typing
        errors. Raises :class:`UnreadablePayloadError`.
        """
        try:
            return self.payload.model_validate(payload)
        except ValidationError as error:
            if schema is None or schema == self.schema_digest:
                raise UnreadablePayloadError(f"payload: {describe(error, self.payload)}") from None
        try:
            return self.payload.model_validate(payload, extra="ignore")
        except ValidationError as error:
            raise UnreadablePayloadError(f"payload: {describe(error, self.payload)}") from None

    def write(self, payload: P) -> dict[str, Any]:
        """``payload`` as JSON values. Raises :class:`PayloadError` for anything but the declared class."""
        if type(payload) is not self.payload:
            raise PayloadError("payload", f"{self.type} takes {self.payload.__name__}, not {type(payload).__name__}")
        try:
            return payload.model_dump(mode="json")
        except (TypeError, ValueError, RecursionError) as error:  # pydantic's text would show the value
            raise PayloadError("payload", f"a value in it cannot be written as JSON ({type(error).__name__})") from None


UNTOLD = {
    "union_tag_invalid": "Input tag is not one of those expected",
    "uuid_parsing": "Input should be a valid UUID",
}
"""In place of pydantic's messages that show some of the value."""


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per field: where and what is wrong, with neither the values nor the keys that the sender chose."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    found = dict.fromkeys(_describe_one(item, model) for item in details)
    return f"{model.__name__} does not take it: " + "; ".join([*found][:10])


def _describe_one(item: ErrorDetails, model: type[BaseModel]) -> str:
    """Of the path only declared fields and positions; the rest are keys of a mapping, and pydantic's own remarks."""
    unknown = item["type"] == "extra_forbidden"
    path: list[str] = []
    models = [model]
    for part in item["loc"][:-1] if unknown else item["loc"]:
        fields = [(name, info) for known in models for name, info in known.model_fields.items()]
        found = [info for name, info in fields if part in (name, *_aliases(info))]
        if found or isinstance(part, int):
            path.append(str(part))
        if found:
            models = [nested for info in found for nested in _models(info)]
    problem = UNTOLD.get(item["type"], item["msg"])
    if unknown:
        names = [name for known in models for name in known.model_fields]
        problem = "an unknown field" + (f"; known are {', '.join(names[:10])}" if names else "")
    return f"{'.'.join(path) or model.__name__}: {problem}"


# --- What a payload is made of -------------------------------------------------------------------------------------


def _models(info: FieldInfo) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    return [part for part in _parts(info) if isinstance(part, type) and issubclass(part, BaseModel)]


def _parts(info: FieldInfo) -> list[Any]:
    """A field's annotation and all it is made of, down to what has a serializer of its own."""
    parts = [info.rebuild_annotation()]
    for part in parts:  # grows meanwhile
        inside = (*get_args(part), get_origin(part), getattr(part, "__value__", None))
        if not any(isinstance(item, (PlainSerializer, WrapSerializer)) for item in inside):
            parts += [item for item in inside if item not in parts]
    return parts


def _aliases(info: FieldInfo) -> list[Any]:
    """The keys by which a field is read, besides its name."""
    alias = info.validation_alias
    return alias.choices if isinstance(alias, AliasChoices) else [alias] if alias else []


def _check_model(where: str, model: type[BaseModel], seen: set[type[BaseModel]]) -> None:
    """A payload that cannot be read as it was written would be a dead letter each time.

    What is written by a serializer of its own is left to its author. ``seen``: the models that need no second look.
    """
    seen.add(model)
    serializers = model.__pydantic_decorators__
    if serializers.model_serializers:
        return
    if model.model_computed_fields and model.model_config.get("extra") == "forbid":
        raise DeclarationError(
            f"{where}.{next(iter(model.model_computed_fields))}: a computed field is written, and refused as unknown "
            "when it is read; make it a plain property"
        )
    serialized = {name for item in serializers.field_serializers.values() for name in item.info.fields}
    for name, info in model.model_fields.items():
        _check_key(f"{where}.{name}", name, info, model.model_config)
        if serialized.isdisjoint((name, "*")):
            _check_value(f"{where}.{name}", info, seen)


def _check_key(where: str, name: str, info: FieldInfo, config: ConfigDict) -> None:
    """A field is written under one key, which has to be among those by which it is read."""
    if info.exclude and info.is_required():
        raise DeclarationError(f"{where}: is required and never written; drop exclude=True, or give it a default")
    written = (config.get("serialize_by_alias") and info.serialization_alias) or name
    aliases = _aliases(info) if config.get("validate_by_alias", True) else []
    by_name = not aliases or config.get("validate_by_name") or config.get("populate_by_name")
    if written not in aliases and not (by_name and written == name):
        raise DeclarationError(
            f"{where}: is written as {written!r}, a key by which it is not read; drop its alias, or go by names: "
            "ConfigDict(validate_by_name=True, serialize_by_alias=False)"
        )


def _check_value(where: str, info: FieldInfo, seen: set[type[BaseModel]]) -> None:
    if any(isinstance(part, type) and issubclass(part, (Secret, SecretStr, SecretBytes)) for part in _parts(info)):
        raise DeclarationError(f"{where}: a secret is written as asterisks; pass the name to look it up by")
    for nested in _models(info):
        if nested not in seen:
            _check_model(where, nested, seen)


# --- The decorator -------------------------------------------------------------------------------------------------


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
    front_door: bool | None = None,
    batch_size: int = 1,
    max_concurrency: int | None = None,
    memory_mb: int = 512,
    environment: Sequence[str] = (),
    grants: Grants | None = None,
) -> Callable[[Callable[[P, TaskContext], R]], Task[P, R]]:
    """Declare a job. Whatever cannot work is refused here, with the reason.

    ``type_``: ``category:action``; the folder ``category_action`` and the function's name agree with it.
    ``queue``: home queue; ``also``: further queues in which it has a lane.
    ``max_retry``: attempts after the first, 0 to 100. ``retry_delay``: see :mod:`shared.jobs.retry`.
    ``timeout``: of one attempt. ``retention``: how long payload and result are kept after the end; 0 clears at once.
    ``schedule``: Unix cron text, ``"@hourly"``, :func:`~shared.jobs.cron.every`, :func:`~shared.jobs.cron.cron`.
    ``front_door``: whether foreign senders reach it through the plain queues; never for ``jobs:*`` and ``system:*``.
    ``batch_size``: messages one invocation may take, 1 to 10. ``max_concurrency``: 2 or more; None: the tier's share.
    ``environment``: names of settings the function gets. ``grants``: what else it may do.

    Raises :class:`DeclarationError`.
    """
    _check_type(type_)
    what = f"task {type_!r}"
    closed = type_.startswith(("jobs:", "system:"))
    if closed and front_door:
        raise DeclarationError(f"{what}: front_door: jobs:* and system:* never take foreign messages")
    lanes = [_queue(what, "queue", queue), *(_queue(what, "also", item) for item in also)]
    if len(set(lanes)) != len(lanes):
        raise DeclarationError(f"{what}: also: names a queue twice: {', '.join(lanes)}")
    _check_range(what, "max_retry", max_retry, 0, retry.MAX_RETRY)
    _check_range(what, "batch_size", batch_size, 1, 10)
    _check_range(what, "memory_mb", memory_mb, MEMORY_MB.start, MEMORY_MB.stop - 1)
    if max_concurrency is not None:
        _check_range(what, "max_concurrency", max_concurrency, MIN_CONCURRENCY, MAX_CONCURRENCY)
    _check_duration(what, "timeout", timeout, timedelta(seconds=1), timedelta(days=1))
    _check_duration(what, "retention", retention, timedelta(0), MAX_RETENTION)
    _check_environment(what, environment)
    try:
        back_off = retry.check_retry_delay(retry_delay)
    except DeclarationError as error:
        raise DeclarationError(f"{what}: {error}") from None
    numbers = Numbers.of(timeout=timeout, batch_size=batch_size, max_retry=max_retry, what=what)
    schedules = _schedules(what, list(schedule) if isinstance(schedule, (list, tuple)) else [schedule])

    def declare(function: Callable[[P, TaskContext], R]) -> Task[P, R]:
        if function.__name__ != folder_of(type_):
            raise DeclarationError(f"{what}: the function is called {function.__name__!r}, not {folder_of(type_)!r}")
        payload = _payload_class(what, function)
        _check_model(f"{what}: {payload.__name__}", payload, set())
        _check_ticks(what, schedules, payload)
        return Task(
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
            front_door=not closed if front_door is None else front_door,
            batch_size=batch_size,
            max_concurrency=max_concurrency,
            memory_mb=memory_mb,
            environment=tuple(environment),
            grants=grants or Grants(),
            numbers=numbers,
        )

    return declare


def _check_type(type_: str) -> None:
    if not isinstance(type_, str) or not TYPE_PATTERN.fullmatch(type_):
        raise DeclarationError(
            f"task type {type_!r}: 'category:action' is required, lower-case letters, digits and single underscores, "
            "for example 'data:export'"
        )
    if len(slug_of(type_)) > MAX_SLUG:
        raise DeclarationError(
            f"task type {type_!r}: {MAX_SLUG} characters at most, or its function's name is too long"
        )


def _queue(what: str, name: str, value: object) -> Queue:
    try:
        return Queue(value)  # type: ignore[arg-type]
    except ValueError:
        raise DeclarationError(f"{what}: {name}: {value!r} is not one of {', '.join(Queue)}") from None


def _check_range(what: str, name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DeclarationError(f"{what}: {name}: an integer from {low} to {high} is required, not {value!r}")


def _check_duration(what: str, name: str, value: object, low: timedelta, high: timedelta) -> None:
    if not isinstance(value, timedelta) or not low <= value <= high:
        raise DeclarationError(f"{what}: {name}: a timedelta from {low} to {high} is required, not {value!r}")


def _check_environment(what: str, names: Sequence[str]) -> None:
    """Source of the pattern: CreateFunction, Lambda API reference."""
    for name in [names] if isinstance(names, str) else names:
        if isinstance(names, str) or not isinstance(name, str) or not ENVIRONMENT_PATTERN.fullmatch(name):
            raise DeclarationError(
                f"{what}: environment: {name!r}: a list of names is required, letters, digits and underscores, two "
                "characters at least"
            )


def _schedules(what: str, declared: Sequence[Any]) -> tuple[Schedule, ...]:
    """Schedules with a name each: their position where they have none."""
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


def _check_ticks(what: str, schedules: Sequence[Schedule], payload: type[Any]) -> None:
    """A tick whose payload is refused would be a dead letter each time."""
    for schedule in schedules:
        try:
            payload.model_validate(json.loads(canonical(schedule.payload)))
        except ValidationError as error:
            raise DeclarationError(f"{what}: schedule: {schedule.name!r}: {describe(error, payload)}") from None
        except (TypeError, ValueError) as error:
            raise DeclarationError(f"{what}: schedule: {schedule.name!r}: payload is not JSON: {error}") from None


def _payload_class(what: str, function: Callable[..., Any]) -> type[Any]:
    """The class on the first parameter; only that annotation is evaluated."""
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise DeclarationError(f"{what}: a plain function is required, as handlers are not awaited or iterated")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        raise DeclarationError(f"{what}: the function takes (payload, ctx), not {len(parameters)} parameters")
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        names = inspect.getclosurevars(function)
        annotation = {**names.globals, **names.nonlocals, **function.__globals__}.get(annotation)
    if not isinstance(annotation, type) or not issubclass(annotation, Payload):
        raise DeclarationError(
            f"{what}: annotate {parameters[0].name!r} with a subclass of Payload, defined above the function"
        )
    return annotation


# --- Finding tasks -------------------------------------------------------------------------------------------------


def discover(package: str = "functions") -> dict[str, Task[Any, Any]]:
    """Every task under ``package``, by type, in order of type.

    A folder without ``handler.py``, or whose handler declares a Lambda of its own (``handler(event, context)``) and
    no task, is passed over. Raises :class:`DeclarationError`, for a handler that cannot be imported with the place.
    """
    root = Path(next(iter(importlib.import_module(package).__path__)))
    found: list[Task[Any, Any]] = []
    for path in sorted(root.glob("*/handler.py")):
        try:
            item = _load_folder(package, path.parent.name)
        except JobError:
            raise
        except (Exception, SystemExit) as error:
            raise DeclarationError(
                f"{_origin(error, path, root.parents[package.count('.')])}\nMend it and run this again; "
                f"`python -m {package}.{path.parent.name}.handler` shows the whole traceback."
            ) from error
        if item is not None:
            found.append(item)
    return {item.type: item for item in sorted(found, key=lambda item: item.type)}


def load(type_: str, package: str = "functions") -> Task[Any, Any]:
    """One task by its type, importing its handler alone. Raises :class:`DeclarationError`."""
    _check_type(type_)
    try:
        found = _load_folder(package, folder_of(type_))
    except ModuleNotFoundError as error:
        if error.name not in (f"{package}.{folder_of(type_)}", f"{package}.{folder_of(type_)}.handler"):
            raise
        found = None
    if found is None or found.type != type_:  # 'a_b:c' and 'a:b_c' have the same folder
        raise DeclarationError(f"no task {type_!r}: {package}/{folder_of(type_)}/handler.py declares none")
    return found


def _origin(error: BaseException, handler: Path, root: Path) -> str:
    """File, line and text of an error in importing ``handler``: its last step in the code under ``root``."""
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    text = str(error)
    if isinstance(error, SyntaxError):
        steps.append((error.filename or str(handler), error.lineno or 1))
        text = error.msg
    ours = [(path, line) for file, line in steps if file != __file__ and (path := Path(file)).is_relative_to(root)]
    path, line = next((step for step in reversed(ours) if "site-packages" not in step[0].parts), (handler, 1))
    return f"{path.relative_to(root)}, line {line}: {type(error).__name__}: {text}"


def _load_folder(package: str, folder: str) -> Task[Any, Any] | None:
    module = importlib.import_module(f"{package}.{folder}.handler")
    where = f"{package}/{folder}/handler.py"
    tasks = list(dict.fromkeys(item for item in vars(module).values() if isinstance(item, Task)))
    declared = [item for item in tasks if item.function.__module__ == module.__name__]
    if not declared:
        if not callable(getattr(module, "handler", None)):
            raise DeclarationError(f"{where}: declares no task; put @task on its function {folder!r}")
        return None
    if len(declared) > 1:
        raise DeclarationError(f"{where}: declares {', '.join(item.type for item in declared)}; one folder, one task")
    if declared[0].folder != folder:
        raise DeclarationError(
            f"{where}: declares {declared[0].type!r}, which belongs in {package}/{declared[0].folder}/handler.py"
        )
    return declared[0]
