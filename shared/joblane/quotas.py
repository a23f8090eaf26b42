"""The limits of AWS with their sources, Joblane's own limits, and the settings of a lane."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from joblane.errors import DeclarationError
from joblane.names import WEIGHTS, Queue

# --- Limits of AWS, with their sources -----------------------------------------------------------------------------

MAX_MESSAGE_BYTES = 1024 * 1024
"""The limit for body and attributes of one message, and for all messages of a SendMessageBatch. Source: SQS message
quotas."""
MAX_ATTRIBUTES = 10
MAX_BATCH = 10
"""Entries in a SendMessageBatch, and the largest batch that a mapping delivers without a batching window."""
MAX_DELAY = timedelta(minutes=15)
"""The limit of ``DelaySeconds``. A task that waits longer waits in its row."""
MAX_DELAY_SECONDS = int(MAX_DELAY.total_seconds())
MAX_VISIBILITY = timedelta(hours=12)
"""The longest visibility timeout of a queue."""
MAX_LATER_VISIBILITY = timedelta(hours=11, minutes=45)
"""The longest timeout for ChangeMessageVisibility here. SQS counts its 12 hours from the receive."""
MAX_FUNCTION_TIMEOUT = timedelta(seconds=900)
"""The longest timeout of an on-demand function. Lambda Managed Instances, which Joblane does not use, allow more."""
MAX_RECEIVE_COUNT = 1000
QUEUE_RETENTION = timedelta(days=10)
DEAD_LETTER_RETENTION = timedelta(days=14)
"""SQS's maximum. The age of a dead letter counts from its first send, so this must be longer than QUEUE_RETENTION."""
MIN_CONCURRENCY, MAX_CONCURRENCY = 2, 1000
"""``MaximumConcurrency`` of a mapping without provisioned pollers.

Source: Lambda, *Configuring maximum concurrency for SQS event sources*."""
CONCURRENCIES = range(MIN_CONCURRENCY, MAX_CONCURRENCY + 1)
BATCH_SIZES = range(1, 11)
"""Messages of an invocation."""
MEMORY_MB = range(128, 10241)
"""Source: Lambda quotas, function memory allocation."""
DEFAULT_MEMORY_MB = 512

# --- Joblane's own limits ------------------------------------------------------------------------------------------

FINISH_MARGIN = timedelta(seconds=10)
"""The time between the timeout of the last task in a batch and Lambda's kill, for finish, sends and acknowledgement."""
LEASE_MARGIN = timedelta(seconds=1)
"""A lease ends this long after the invocation. The database adds what is left of the invocation to its own clock, which
it reads later than the function reads its clock. So the lease never ends before Lambda's kill."""
VISIBILITY_MARGIN = timedelta(seconds=10)
"""A message returns this long after the lease if the invocation starts with the receive. If it starts up to this much
later, as after a cold start, the message still returns after the lease. If it starts later than that, as after a
throttle, the claim answers ``leased``, and the message is hidden until the lease has ended.

Source: Lambda, *Lambda execution environments*: the Init phase is limited to 10 seconds."""
RESUMED_FUNCTION_TIMEOUT = timedelta(minutes=5)
"""The timeout of a function whose task continues in the next invocation."""
RESUME_RESERVE = timedelta(seconds=60)
"""The longest part of an invocation that a resumable task leaves unused to end between two chunks."""
MAX_RETENTION = timedelta(days=3650)
MAX_RESULT_BYTES = MAX_MESSAGE_BYTES
"""The maximum size of a result, as JSON: that of an SQS message."""
MAX_HEADERS = 32
SNOOZE_CEILING = 20
"""The number of times that a task may raise Snooze."""
PROMISED_OUTAGE = timedelta(hours=24)
"""The database may be unavailable this long before SQS moves a message to the dead letters."""
RECEIVES_PER_OUTAGE_HOUR = 4
"""The visibility timeout grows to 15 minutes while the database is unavailable."""
SCHEMA_RECEIVES = 8
"""Receives of a message that waits an hour for code that knows the schema of its payload."""
THROTTLED_TIME = timedelta(hours=3)
"""Receives that never reach the code last at least this long: throttles, failed starts, pollers that were scaled in.
Each hides the message for one visibility timeout: Lambda retries a throttled message until then.

Source: Lambda, *Handling errors for an SQS event source in Lambda*."""
MIN_HEADROOM = 120
"""The smallest number of receives that never reach the code."""
FRONT_DOOR_WAITS = 100
"""Receives of a message whose type is unknown, about an hour, or whose lane did not accept it."""
EARLY_RECEIVES = 10
"""A message that was received more often, and is early again, is replaced by a copy, whose receives are counted anew.
The message of a debounced task arrives early after each push."""
SHORTEST_DEBOUNCE, LONGEST_DEBOUNCE = timedelta(seconds=5), timedelta(days=1)
"""A task may start 2 seconds early, because SQS's delays are whole seconds: below 5 seconds it would be no debounce."""
LONGEST_PUSHES = 10
"""The default of ``longest`` is this many times ``debounce``."""
LONGEST_LIMIT_DELAY = timedelta(days=1)
"""The longest time for which a handler's ``RateLimited`` delays the other tasks of its limit."""
CONTENT_KEPT_FOR_MESSAGES = QUEUE_RETENTION + DEAD_LETTER_RETENTION
"""An id is kept this long after the task has ended. After that, none of its messages can return."""


@dataclass(frozen=True)
class Numbers:
    """The settings of a lane's queue and function. They follow from the task's declaration."""

    function_timeout: timedelta
    visibility: timedelta
    max_receive_count: int

    @classmethod
    def of(
        cls,
        *,
        timeout: timedelta,
        batch_size: int,
        max_retry: int,
        what: str,
        resumable: bool = False,
    ) -> Numbers:
        """Calculate the function's timeout, the visibility timeout and maxReceiveCount from the declaration.

        function timeout = batch size · task timeout + margin, in whole seconds; for the visibility timeout see
        :func:`visibility_of`. A resumable task that is longer than one invocation gets short invocations. Each
        continuation counts as a receive.

        Raises :class:`DeclarationError` if the values do not fit AWS's limits.
        """
        function_timeout = rounded_up(timeout * batch_size + FINISH_MARGIN)
        continuations = 0
        if resumable and function_timeout > MAX_FUNCTION_TIMEOUT:
            function_timeout = RESUMED_FUNCTION_TIMEOUT
            continuations = math.ceil(timeout / (RESUMED_FUNCTION_TIMEOUT - RESUME_RESERVE))
        if function_timeout > MAX_FUNCTION_TIMEOUT:
            longest = (MAX_FUNCTION_TIMEOUT - FINISH_MARGIN) / batch_size
            raise DeclarationError(
                f"{what}: timeout {timeout} with batch_size {batch_size} needs a function timeout of "
                f"{function_timeout}, and Lambda's maximum is {MAX_FUNCTION_TIMEOUT}; the longest timeout here is "
                f"{longest}, or loop over ctx.resume(…) and declare resumable=True"
            )
        visibility = visibility_of(function_timeout)
        others, fitting = _receives_without_attempt(visibility), _most_receives(visibility)
        receives = (max_retry + 1) * (1 + continuations) + others
        if receives > fitting:
            most = (fitting - others) // (1 + continuations) - 1
            advice = f"lower max_retry to {most}, or shorten" if most >= 0 else "even without a retry; shorten"
            raise DeclarationError(
                f"{what}: max_retry {max_retry} needs {receives} receives of {visibility} each"
                f"{f', with {continuations} continuations per attempt' if continuations else ''}. {fitting} are "
                f"possible: SQS counts to {MAX_RECEIVE_COUNT}, and a queue keeps a message for "
                f"{QUEUE_RETENTION.days} days; {advice} the timeout"
            )
        return cls(function_timeout, visibility, receives)

    @classmethod
    def of_place(cls, types: Mapping[str, Numbers], what: str) -> Numbers:
        """Return the numbers of a place, the largest of its types. ``types``: the numbers of each type.

        Raises :class:`DeclarationError` if the receives of one type do not fit the visibility timeout of another.
        """
        slowest = max(types, key=lambda type_: types[type_].function_timeout)
        visibility = types[slowest].visibility
        runs = {
            type_: each.max_receive_count - _receives_without_attempt(each.visibility) for type_, each in types.items()
        }
        most = max(runs, key=lambda type_: runs[type_])
        receives, fitting = runs[most] + _receives_without_attempt(visibility), _most_receives(visibility)
        if receives > fitting:
            raise DeclarationError(
                f"{what}: task {most!r} needs {receives} receives of {visibility} each, the visibility timeout that "
                f"{slowest!r} needs, and {fitting} are possible; lower max_retry of {most!r}, or let {slowest!r} run "
                "elsewhere"
            )
        return cls(types[slowest].function_timeout, visibility, receives)


def _receives_without_attempt(visibility: timedelta) -> int:
    outage = RECEIVES_PER_OUTAGE_HOUR * int(PROMISED_OUTAGE / timedelta(hours=1))
    return SNOOZE_CEILING + outage + SCHEMA_RECEIVES + headroom_of(visibility)


def _most_receives(visibility: timedelta) -> int:
    return min(MAX_RECEIVE_COUNT, math.ceil(QUEUE_RETENTION / visibility) - 1)


def visibility_of(function_timeout: timedelta) -> timedelta:
    """Return the visibility timeout of a queue: its messages return after the lease of a run that was killed.

    AWS advises six timeouts of the function, so that Lambda can retry throttled messages, and requires one. Here each
    mapping has a maximum concurrency: it reads no message that it may not run, and Lambda throttles only at the limit
    of the account. A throttled message has enough receives (:func:`headroom_of`). If it is delivered a second time
    during its run, the claim answers ``leased``.

    Sources: Lambda, *Creating and configuring an Amazon SQS event source mapping*; Z. Charles, *Does Maximum
    Concurrency Solve the Lambda+SQS Issue?*, who deployed AWS's demo.
    """
    return function_timeout + LEASE_MARGIN + VISIBILITY_MARGIN


def headroom_of(visibility: timedelta) -> int:
    """Return the number of receives that never reach the code, for :data:`THROTTLED_TIME`."""
    return max(MIN_HEADROOM, math.ceil(THROTTLED_TIME / visibility))


ROUTER_TIMEOUT = timedelta(seconds=30)
"""Enough for ten messages: one SendMessageBatch for each of their lanes."""
FRONT_DOOR = Numbers(
    ROUTER_TIMEOUT,
    visibility_of(ROUTER_TIMEOUT),
    FRONT_DOOR_WAITS + headroom_of(visibility_of(ROUTER_TIMEOUT)),
)
"""The numbers of the router and of each front door."""


def rounded_up(duration: timedelta) -> timedelta:
    """Return the duration in whole seconds, rounded up, as AWS takes it."""
    return timedelta(seconds=math.ceil(duration.total_seconds()))


def share_concurrency(lanes: Iterable[tuple[str, Queue, int | None]], budget: int) -> dict[str, int]:
    """Split ``budget`` over lanes ``(name, queue, max_concurrency or None)`` → ``MaximumConcurrency`` per name.

    ``share = floor(budget · weight / Σ weights of all lanes)``, at least 2 (Lambda's minimum), at most the task's
    ``max_concurrency``. Because of the minimum the sum can exceed the budget: the caller must check it.
    """
    lanes = list(lanes)
    total = sum(WEIGHTS[queue] for _, queue, _ in lanes)
    return {
        name: min(max(MIN_CONCURRENCY, budget * WEIGHTS[queue] // total), declared or MAX_CONCURRENCY, MAX_CONCURRENCY)
        for name, queue, declared in lanes
    }
