"""Flow control: how many tasks run at a time, how many start in a time, and in which order.

A declaration names up to three limits, from the narrowest to the widest: one for each key, one for all tasks of the
type, and one that several types share. A task carries the names of its limits in its row. Their values are in the table
``joblane.limits``, which ``joblane migrate`` writes, so that the code of two releases uses the same values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel, RootModel

from joblane.errors import DeclarationError, EnqueueError
from joblane.tasks.arguments import RATE, advised
from joblane.tasks.redaction import field_types, has_fields, redacted_names

LIMIT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
"""The name of a shared limit. It has no colon and no slash, which the names of the other limits have."""
MAX_KEY = 200
MAX_AT_A_TIME = 10_000
MAX_BURST = 1_000_000
"""Also the most starts of a rate."""
LONGEST_PERIOD = timedelta(days=1)
LONGEST_BURST = timedelta(days=3650)
"""The longest time for which starts can be saved up."""
TENANT = "tenant"


@dataclass(frozen=True)
class Rate:
    """A rate of starts, evenly spaced. In any period of the length ``per``, at most ``starts`` plus ``burst`` tasks get
    a time to start. Retries and ticks count."""

    starts: int
    """Number of starts. Range: 1 to 1000000."""
    per: timedelta
    """Period in which they may start. Range: 1 second to 1 day."""
    burst: int = 1
    """Number of unused starts that are saved up, and can then follow each other at once. 1: none are saved up. Range: 1
    to 1000000, and at most the starts of ten years."""

    @property
    def step(self) -> timedelta:
        """The time between two starts."""
        return self.per / self.starts


Rate.__init__ = advised(RATE)(Rate.__init__)  # type: ignore[method-assign]

PERIODS = {timedelta(seconds=1): "a second", timedelta(minutes=1): "a minute", timedelta(hours=1): "an hour"} | {
    LONGEST_PERIOD: "a day"
}


def rate_text(rate: Rate | None) -> str | None:
    """Return ``100 a minute, burst 50``; None without a rate."""
    if rate is None:
        return None
    per = PERIODS.get(rate.per, f"in {rate.per.total_seconds():g} s")
    return f"{rate.starts:,} {per}" + (f", burst {rate.burst:,}" if rate.burst > 1 else "")


def values_text(at_a_time: int | None, rate: Rate | None) -> str:
    """Return ``25 at a time and 500 a minute``, or ``no limit``."""
    parts = [None if at_a_time is None else f"{at_a_time:,} at a time", rate_text(rate)]
    return " and ".join(filter(None, parts)) or "no limit"


@dataclass(frozen=True)
class Limit:
    """A limit that several types share: each of them declares it with ``limit=``, and with the same values."""

    name: str
    """Name of the limit: lower-case letters, digits, ``_`` and ``-``, 63 at most, the first from a to z."""
    total: int | None = None
    """Maximum number of tasks of all these types that run at a time. 0: none starts. None: any number. Range: 0 to
    10000."""
    rate: Rate | None = None
    """Rate of starts. None: no limit."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The limits of a type. ``key``: the parts of the key, ``tenant`` and one field path of the payload; empty: no key.

    ``rate``: of each key, or of the type if it has no key.
    """

    key: tuple[str, ...] = ()
    max_per_key: int | None = None
    max_total: int | None = None
    limit: Limit | None = None
    rate: Rate | None = None
    ordered: bool = False

    @property
    def has_total(self) -> bool:
        return self.max_total is not None or (self.rate is not None and not self.key)

    def names(self, type_: str) -> tuple[str | None, str | None, str | None]:
        """Return the names of the limits: of each key, of the type, shared. None: there is no such limit."""
        return (
            f"{type_}/" if self.key else None,
            type_ if self.has_total else None,
            self.limit.name if self.limit else None,
        )

    def declared(self, type_: str) -> Iterable[tuple[str, int | None, Rate | None]]:
        """Return the name, the tasks at a time and the rate of each limit."""
        if self.key:
            yield f"{type_}/", self.max_per_key, self.rate
        if self.has_total:
            yield type_, self.max_total, None if self.key else self.rate
        if self.limit is not None:
            yield self.limit.name, self.limit.total, self.limit.rate

    def row(
        self, type_: str, payload: Mapping[str, Any] | None, tenant: str | None, key: str | None = None
    ) -> dict[str, Any]:
        """Return the columns of a task's row: the names of its limits.

        ``key``: instead of the key that the declaration names. Raises :class:`EnqueueError` for a key that cannot be
        used.
        """
        text = self._key(payload or {}, tenant) if key is None and self.key else key
        limits = [
            None if text is None else f"{type_}/{text}",
            type_ if self.has_total else None,
            self.limit.name if self.limit else None,
        ]
        if not any(limits):
            return {}
        return {"limits": limits, "ordered": True} if self.ordered and text is not None else {"limits": limits}

    def _key(self, payload: Mapping[str, Any], tenant: str | None) -> str | None:
        """Return the key as text, or None if a part of it is missing or null."""
        parts: list[str] = []
        for part in self.key:
            value: Any = tenant if part == TENANT else payload
            for name in () if part == TENANT else part.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is None:
                return None
            parts.append(text_of_key(value, part))
        return check_key(" ".join(parts))


def text_of_key(value: Any, part: str) -> str:
    """Return a JSON value as it stands in a key."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    raise EnqueueError("key", f"{part}: a string, an integer or a boolean is required, not {type(value).__name__}")


def check_key(key: object) -> str:
    """Return a key. Raises :class:`EnqueueError` if it is no text of 1 to 200 printable ASCII characters."""
    if not isinstance(key, str) or not re.fullmatch(rf"[ -~]{{1,{MAX_KEY}}}", key):
        raise EnqueueError("key", f"1 to {MAX_KEY} printable ASCII characters are required")
    return key


# --- The check of a declaration -----------------------------------------------------------------------------------


def flow_of(
    what: str,
    *,
    key: str | None,
    max_per_key: int | None,
    max_total: int | None,
    limit: Limit | None,
    rate: Rate | None,
    order: Literal["first-due"] | None,
) -> Flow | None:
    """Return the limits of a declaration, or None if there are none. Raises :class:`DeclarationError`."""
    if isinstance(limit, (list, tuple, set)):
        raise DeclarationError(f"{what}: limit: a type can have one shared limit; split the type if it needs two")
    if limit is not None and not isinstance(limit, Limit):
        raise DeclarationError(f"{what}: limit: a Limit is required, not {limit!r}; write Limit('mail', total=10)")
    if limit is not None:
        if not isinstance(limit.name, str) or not LIMIT_NAME.fullmatch(limit.name):
            raise DeclarationError(
                f"{what}: limit: {limit.name!r}: lower-case letters, digits, _ and - are required, 63 at most, the "
                "first from a to z"
            )
        if limit.total is None and limit.rate is None:
            raise DeclarationError(f"{what}: limit: {limit.name!r} has neither a total nor a rate")
        _check_value(what, f"limit: {limit.name!r}: total", limit.total, problem_of_number)
        _check_value(what, f"limit: {limit.name!r}: rate", limit.rate, problem_of_rate)
    _check_value(what, "max_per_key", max_per_key, problem_of_number)
    _check_value(what, "max_total", max_total, problem_of_number)
    _check_value(what, "rate", rate, problem_of_rate)
    if order not in (None, "first-due"):
        raise DeclarationError(f"{what}: order: 'first-due' or None is required, not {order!r}")
    parts = _parts(what, key)
    if not parts:
        for name, given in (("max_per_key", max_per_key), ("order", order)):
            if given is not None:
                raise DeclarationError(f"{what}: {name}: give key too; it names the field whose values are the keys")
    elif max_per_key is None and rate is None and order is None:
        raise DeclarationError(f"{what}: key: give max_per_key, rate or order too, or a key has no effect")
    if order is not None and max_per_key not in (None, 1):
        raise DeclarationError(f"{what}: max_per_key: with an order only one task of a key can run at a time")
    if not parts and max_total is None and limit is None and rate is None:
        return None
    return Flow(parts, 1 if order else max_per_key, max_total, limit, rate, order is not None)


def check_key_fields(what: str, flow: Flow, model: type[BaseModel]) -> None:
    """Raise :class:`DeclarationError` if a part of the key is no field of the payload, a redacted one, or one whose
    values are no keys."""
    for part in flow.key:
        if part == TENANT:
            continue
        kinds: list[Any] = [model]
        for name in part.split("."):
            kinds = [kind for each in kinds for kind in _kinds_of_field(what, each, name)]
            if name in redacted_names(model):
                raise DeclarationError(f"{what}: key: {name!r} is a redacted field, and keys are shown to operators")
        for kind in kinds:
            if isinstance(kind, type) and (has_fields(kind) or issubclass(kind, float) or _is_collection(kind)):
                raise DeclarationError(
                    f"{what}: key: {part}: a field with a string, an integer or a boolean is required, not "
                    f"{kind.__name__}"
                )


def _is_collection(kind: type[Any]) -> bool:
    return issubclass(kind, Collection) and not issubclass(kind, (str, bytes))


def _kinds_of_field(what: str, kind: Any, name: str) -> Iterator[Any]:
    """Return the types of a field of ``kind``. A field of any type can have any fields."""
    if kind is Any or kind is object:
        yield Any
        return
    fields = field_types(kind) if isinstance(kind, type) and has_fields(kind) else {}
    if name not in fields:
        has = f"; it has {', '.join(fields)}" if fields else ""
        raise DeclarationError(f"{what}: key: {getattr(kind, '__name__', kind)} has no field {name!r}{has}")
    yield from _kinds(fields[name])


def _kinds(annotation: Any) -> Iterator[Any]:
    """Return the types of an annotation: of ``Account | None`` it is ``Account``, of ``list[int]`` it is ``list``."""
    origin = get_origin(annotation)
    if hasattr(annotation, "__value__"):  # a type alias
        yield from _kinds(annotation.__value__)
    elif origin in (Annotated, Required, NotRequired):
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _kinds(each)
    elif isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from _kinds(annotation.model_fields["root"].annotation)
    elif annotation is not NoneType:
        yield origin or annotation


def check_shared(flows: Mapping[str, Flow]) -> None:
    """Raise :class:`DeclarationError` if two types declare a shared limit with different values. ``flows``: by type."""
    first: dict[str, tuple[str, Limit]] = {}
    for type_, flow in flows.items():
        if flow.limit is None:
            continue
        other, limit = first.setdefault(flow.limit.name, (type_, flow.limit))
        if limit != flow.limit:
            raise DeclarationError(
                f"task {type_!r}: limit: {limit.name!r} is {values_text(flow.limit.total, flow.limit.rate)}, and in "
                f"task {other!r} it is {values_text(limit.total, limit.rate)}; declare the limit once, and import it "
                "into both"
            )


def _parts(what: str, key: object) -> tuple[str, ...]:
    if key is None:
        return ()
    parts = tuple(part.strip() for part in key.split(",")) if isinstance(key, str) else ()
    fields = [part for part in parts if part != TENANT]
    if not parts or not all(parts) or len(fields) > 1 or len(parts) - len(fields) > 1:
        raise DeclarationError(
            f"{what}: key: a field of the payload, such as 'account_id' or 'account.id', or 'tenant', or "
            f"'tenant,account_id' is required, not {key!r}"
        )
    return tuple(part for part in (TENANT, *fields) if part in parts)


def _check_value(what: str, name: str, value: object, problem_of: Callable[[object], str | None]) -> None:
    if value is not None and (problem := problem_of(value)):
        raise DeclarationError(f"{what}: {name}: {problem}")


def problem_of_number(value: object) -> str | None:
    """Return why a value is no number of tasks at a time; None if it is one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_AT_A_TIME:
        return f"an integer from 0 to {MAX_AT_A_TIME} is required, not {value!r}"
    return None


def problem_of_rate(rate: object) -> str | None:
    """Return why a value is no rate; None if it is one."""
    if not isinstance(rate, Rate):
        return f"a Rate is required, not {rate!r}; write Rate(10, per=timedelta(seconds=1))"
    for field, value in (("starts", rate.starts), ("burst", rate.burst)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BURST:
            return f"{field}: an integer from 1 to {MAX_BURST:,} is required, not {value!r}"
    if not isinstance(rate.per, timedelta) or not timedelta(seconds=1) <= rate.per <= LONGEST_PERIOD:
        return f"per: a timedelta from 1 second to 1 day is required, not {rate.per}"
    if (most := LONGEST_BURST // rate.step) < rate.burst:
        return f"burst: at most {most:,} at this rate, the starts of ten years, not {rate.burst:,}"
    return None
