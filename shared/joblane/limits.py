"""Limits of AWS, each with its source, our own numbers between them, and what a lane is made with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from joblane.errors import DeclarationError
from joblane.queues import WEIGHTS, Queue

# --- Limits of AWS, each once, beside its source -------------------------------------------------------------------

MAX_MESSAGE_BYTES = 1024 * 1024
"""Body and attributes of one message, and the sum of a SendMessageBatch. Source: SQS message quotas."""
MAX_ATTRIBUTES = 10
MAX_BATCH = 10
"""Entries in a SendMessageBatch; also the largest batch a mapping delivers without a batching window."""
MAX_DELAY = timedelta(minutes=15)
"""``DelaySeconds``. Longer waits stay in the row."""
MAX_DELAY_SECONDS = int(MAX_DELAY.total_seconds())
MAX_VISIBILITY = timedelta(hours=12)
"""Of a queue. Counted from the receive for ChangeMessageVisibility, so that calls stop short of it:"""
MAX_LATER_VISIBILITY = timedelta(hours=11, minutes=45)
MAX_FUNCTION_TIMEOUT = timedelta(seconds=900)
MAX_RECEIVE_COUNT = 1000
QUEUE_RETENTION = timedelta(days=10)
DEAD_LETTER_RETENTION = timedelta(days=14)
"""The longest SQS has. A dead letter keeps the clock of the queue it came from, hence longer than QUEUE_RETENTION."""
MIN_CONCURRENCY, MAX_CONCURRENCY = 2, 1000
"""``MaximumConcurrency`` of a mapping. Source: Lambda, *Configuring maximum concurrency for SQS event sources*."""

# --- Numbers of ours -----------------------------------------------------------------------------------------------

FINISH_MARGIN = timedelta(seconds=10)
"""Between the alarm of the last task in a batch and Lambda's own kill: finish, sends and acknowledgement."""
LEASE_MARGIN = timedelta(seconds=5)
"""A lease outlives the invocation by this much."""
VISIBILITY_MARGIN = timedelta(seconds=10)
"""A queue's visibility timeout outlives the lease by at least this much."""
RESUMED_FUNCTION_TIMEOUT = timedelta(minutes=5)
"""Of a function whose task goes on in the next invocation."""
RESUME_RESERVE = timedelta(seconds=60)
"""What a resumable task leaves of an invocation at the most, so as to end it between two chunks."""
SNOOZE_CEILING = 20
"""How often one task may raise Snooze."""
PROMISED_OUTAGE = timedelta(hours=24)
"""How long the database may be away without SQS dead-lettering anything."""
RECEIVES_PER_OUTAGE_HOUR = 4
"""Visibility grows to 15 minutes while the database is away."""
RECEIVE_HEADROOM = 20
"""Receives that never reach the code: throttles, failed starts, pollers that were scaled away."""
CONTENT_KEPT_FOR_MESSAGES = QUEUE_RETENTION + DEAD_LETTER_RETENTION
"""How long an id is kept after the task has ended: until none of its messages can come back."""


@dataclass(frozen=True)
class Numbers:
    """What one lane's queue and function are made with. All of it follows from the declaration."""

    function_timeout: timedelta
    visibility: timedelta
    max_receive_count: int

    @classmethod
    def of(cls, *, timeout: timedelta, batch_size: int, max_retry: int, what: str, resumable: bool = False) -> Numbers:
        """T, B and retries → F = B·T + g, V ≥ 6·F, M; refused with the reason where they cannot hold together.

        A resumable task longer than one invocation gets short ones, so that the receives of its continuations leave
        room below M: they count like all others.

        Source of V ≥ 6·F: Lambda, *Configuring an Amazon SQS queue for use with Lambda*.
        """
        function_timeout = timeout * batch_size + FINISH_MARGIN
        continuations = 0
        if resumable and function_timeout > MAX_FUNCTION_TIMEOUT:
            function_timeout = RESUMED_FUNCTION_TIMEOUT
            continuations = math.ceil(timeout / (RESUMED_FUNCTION_TIMEOUT - RESUME_RESERVE))
        if function_timeout > MAX_FUNCTION_TIMEOUT:
            longest = (MAX_FUNCTION_TIMEOUT - FINISH_MARGIN) / batch_size
            raise DeclarationError(
                f"{what}: timeout {timeout} with batch_size {batch_size} needs a function of {function_timeout}, "
                f"and Lambda ends at {MAX_FUNCTION_TIMEOUT}; the longest timeout here is {longest}, or loop over "
                f"ctx.resume(…) and declare resumable=True"
            )
        visibility = max(6 * function_timeout, function_timeout + LEASE_MARGIN + VISIBILITY_MARGIN)
        visibility = timedelta(seconds=math.ceil(visibility.total_seconds()))
        others = (
            SNOOZE_CEILING + RECEIVES_PER_OUTAGE_HOUR * int(PROMISED_OUTAGE / timedelta(hours=1)) + RECEIVE_HEADROOM
        )
        receives = (max_retry + 1) * (1 + continuations) + others
        if receives > MAX_RECEIVE_COUNT or receives * visibility >= QUEUE_RETENTION:
            room = min(MAX_RECEIVE_COUNT, math.ceil(QUEUE_RETENTION / visibility) - 1) - others
            most = room // (1 + continuations) - 1
            advice = f"max_retry can be {most} here, or shorten" if most >= 0 else "even without a retry; shorten"
            raise DeclarationError(
                f"{what}: max_retry {max_retry} makes {receives} receives of {visibility} each"
                f"{f', {continuations} of each attempt continuations' if continuations else ''}, longer than the "
                f"{QUEUE_RETENTION.days} days a queue keeps a message; {advice} the timeout"
            )
        return cls(function_timeout, visibility, receives)


def share_concurrency(lanes: Iterable[tuple[str, Queue, int | None]], budget: int) -> dict[str, int]:
    """Split ``budget`` over lanes ``(name, queue, max_concurrency or None)`` → ``MaximumConcurrency`` per name.

    ``share = floor(budget · weight / Σ weights of all lanes)``, at least 2 (Lambda's minimum), at most what the task
    declares. The minimum can push the sum above the budget: the caller checks the sum it gets.
    """
    lanes = list(lanes)
    total = sum(WEIGHTS[queue] for _, queue, _ in lanes)
    return {
        name: min(max(MIN_CONCURRENCY, budget * WEIGHTS[queue] // total), declared or MAX_CONCURRENCY, MAX_CONCURRENCY)
        for name, queue, declared in lanes
    }
