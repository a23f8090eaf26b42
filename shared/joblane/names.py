"""The three queues, and the names of all resources made from them.

A *queue* is critical, default or low. It consists of *lanes*: one SQS queue for each task type in that queue, with the
type's Lambda function as its only consumer. A *front door* is the SQS queue with the name of the queue alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from joblane.errors import DeclarationError


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
    return f"{prefix}-{queue}-{slug_of(type_)}"


def dead_letter_name(queue_name: str) -> str:
    """The dead-letter queue of a lane or front door."""
    return f"{queue_name}-dlq"


def function_name(prefix: str, type_: str) -> str:
    return f"{prefix}-{slug_of(type_)}"


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
