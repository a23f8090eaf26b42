"""The three queues, and the names of all resources made from them.

A *queue* is critical, default or low. It consists of *lanes*: one SQS queue for each task type in that queue, with the
type's Lambda function as its only consumer. The types of a *place* share one function, and one lane in each queue. A
*front door* is the SQS queue with the name of the queue alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache

from joblane.errors import DeclarationError

PLACES = "JOBLANE_PLACES"
"""Variable with the types of each place. Functions that know a type only by its name read it."""
PLACE = "JOBLANE_PLACE"
"""Variable of a place's function: its name."""


class Queue(StrEnum):
    """The three queues, by weight: their shares of the stage's concurrency."""

    CRITICAL = "critical"
    """Weight 6."""
    DEFAULT = "default"
    """Weight 3."""
    LOW = "low"
    """Weight 1."""


WEIGHTS: Mapping[Queue, int] = {Queue.CRITICAL: 6, Queue.DEFAULT: 3, Queue.LOW: 1}
"""Shares of the concurrency budget, as in the weighted queues of asynq. SQS has no strict priority."""

OWN_TYPES = "jobs:"
"""The category of Joblane's own task types. A pause of a queue leaves them out."""
SYSTEM_TYPES = "system:"
"""The category of tasks that monitor the others. They may read the attributes of the front doors."""
SWEEP = f"{OWN_TYPES}sweep"
"""Task type of the sweep."""
BULK = f"{OWN_TYPES}bulk"
"""Task type of an operator's action on many tasks."""
TYPE_PATTERN = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*:[a-z][a-z0-9]*(_[a-z0-9]+)*")
PREFIX_PATTERN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_QUEUE_NAME = 80
"""Source: CreateQueue, SQS API reference."""
MAX_FUNCTION_NAME = 64
"""Source: CreateFunction, Lambda API reference."""
MAX_PREFIX = 20
TICKER = "Disabled: the ticker of the local stack sends its ticks"
"""Description of each schedule of a local stage."""
CONTROL_URL, PAGE_URL = "ControlUrl", "PageUrl"
"""Outputs of the stack ``PREFIX-control``: the address of the control API, and of the page, if the stage has one."""
DEFAULT_BUS = "default"
"""The event bus that every account has in EventBridge."""


def folder_of(type_: str) -> str:
    """``data:export`` → ``data_export``, its folder under ``functions/``."""
    return type_.replace(":", "_")


def slug_of(type_: str) -> str:
    """``data:export`` → ``data-export``, its part in the names of AWS resources."""
    return type_.replace(":", "-").replace("_", "-")


_homes: dict[str, str | None] = {}
"""Type → the name of its place, or None, of the tasks that this process has declared."""


def set_home(types: Iterable[str], place: str | None) -> None:
    """Note where tasks of ``types`` run. ``place``: the name of their place; None: each has its own function.

    The declaration of a task calls it.
    """
    changed = {type_: place for type_ in types if _homes.get(type_, "") != place}
    if changed:
        _homes.update(changed)
        lane_name.cache_clear()


def home_of(type_: str) -> str:
    """Return the last part of the names of the type's function and lanes: the name of its place, or its slug.

    A type that this process has not declared is looked up in :data:`PLACES`.
    """
    if type_ in _homes:
        return _homes[type_] or slug_of(type_)
    text = os.environ.get(PLACES)
    return (text and type_ in (deployed := _deployed(text)) and deployed[type_][0]) or slug_of(type_)


def types_with_lanes_of(type_: str) -> list[str]:
    """Return the type, and the other types of its place that this process has declared: they share its lanes."""
    home = home_of(type_)
    return [type_, *(other for other, place in _homes.items() if place == home and other != type_)]


def use_places(text: str) -> None:
    """Use other places in this process. ``text``: from :func:`encode_places`; empty if there is none."""
    os.environ[PLACES] = text
    lane_name.cache_clear()


def encode_places(places: Mapping[str, Iterable[Sequence[str]]]) -> str:
    """Return the value of :data:`PLACES`. ``places``: the name of each place → each type, followed by its aliases.

    The types without a place have the name ``""``. It is compressed: all variables of a function have 4,096 bytes, and
    240 types take about 1,400, and up to 2,200 if their names have few words in common.
    """
    from base64 import b64encode
    from zlib import compress

    lines = (" ".join([name, *sorted(map(",".join, types))]) for name, types in sorted(places.items()))
    return b64encode(compress("\n".join(lines).encode(), 9)).decode()


def types_at(place: str, text: str) -> dict[str, str]:
    """Return what the place runs: each type and alias → its type. ``text``: from :func:`encode_places`."""
    return {name: type_ for name, (found, type_) in _deployed(text).items() if found == place}


def types_in(text: str) -> set[str]:
    """Return the types and aliases that run on a place. ``text``: as for :func:`types_at`."""
    return {name for name, (place, _) in _deployed(text).items() if place}


def aliases_in(text: str) -> dict[str, str]:
    """Return each alias → its type, as far as the text has them. ``text``: as for :func:`types_at`."""
    return {name: type_ for name, (_, type_) in _deployed(text).items() if name != type_}


def decode_places(text: str) -> dict[str, list[list[str]]]:
    """Return what :func:`encode_places` got. ``text``: empty if there is no place."""
    if not text:
        return {}
    from base64 import b64decode
    from zlib import decompress

    lines = (line.split(" ") for line in decompress(b64decode(text)).decode().splitlines())
    return {place: [types.split(",") for types in found] for place, *found in lines}


@cache
def _deployed(text: str) -> Mapping[str, tuple[str, str]]:
    """Return each type and alias → its place and its type."""
    return {
        name: (place, names[0]) for place, types in decode_places(text).items() for names in types for name in names
    }


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` or raise :class:`DeclarationError`."""
    if not PREFIX_PATTERN.fullmatch(prefix) or len(prefix) > MAX_PREFIX:
        raise DeclarationError(
            f"prefix: {prefix!r} is not lower-case letters, digits and single hyphens, "
            f"starting with a letter, {MAX_PREFIX} characters at most, for example 'jobs' or 'jobs-dev'"
        )
    return prefix


def front_door_name(prefix: str, queue: Queue) -> str:
    return f"{prefix}-{queue}"


@cache
def lane_name(prefix: str, queue: Queue, type_: str) -> str:
    """Return the lane of a type in ``queue``: its own, or the lane of its place."""
    return f"{prefix}-{queue}-{home_of(type_)}"


def own_lane_name(prefix: str, queue: Queue, type_: str) -> str:
    """Return the lane that a type has without a place."""
    return f"{prefix}-{queue}-{slug_of(type_)}"


@cache
def queue_of(prefix: str, lane: str) -> Queue:
    """Return the queue of a lane. Raises ValueError if ``lane`` is no lane of the prefix."""
    return Queue(lane.removeprefix(f"{prefix}-").partition("-")[0])


def dead_letter_name(queue_name: str) -> str:
    """The dead-letter queue of a lane or front door."""
    return f"{queue_name}-dlq"


def function_name(prefix: str, type_: str) -> str:
    """Return the function of a type: its own, or the function of its place."""
    return f"{prefix}-{home_of(type_)}"


def log_group_name(function: str) -> str:
    """Return the log group of a Lambda function. Source: Lambda, *Sending Lambda function logs to CloudWatch Logs*."""
    return f"/aws/lambda/{function}"


def cron_group_name(prefix: str) -> str:
    """The group of a stage's schedules in EventBridge Scheduler."""
    return f"{prefix}-cron"


def event_bus_name(prefix: str) -> str:
    """The event bus of a stage in EventBridge. Its dead-letter queue has the events that its webhook refused."""
    return f"{prefix}-events"


def webhook_name(prefix: str) -> str:
    """The rule of a stage's webhook, its API destination and its connection."""
    return f"{prefix}-webhook"


def database_id(prefix: str) -> str:
    """The Aurora cluster or RDS instance of a stage's own."""
    return f"{prefix}-database"


def nat_name(prefix: str) -> str:
    """The description of the launch template of a stage's NAT instance."""
    return f"{prefix}-nat"


def full_schedule_name(type_: str, name: str) -> str:
    """Return the name of a schedule of the code in ``joblane.schedules``. The ids of its ticks begin with it."""
    return f"{type_}:{name}"


def schedule_name(type_: str, schedule: str, number: int = 1) -> str:
    """``data-export.nightly`` in its group, and ``data-export.nightly.2`` for a second expression."""
    return f"{slug_of(type_)}.{schedule}" + (f".{number}" if number > 1 else "")
