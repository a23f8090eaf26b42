"""The wake-ups of the sweep. The sweep plans its own runs, and learns from a wake-up that rows have changed since.

A process calls :func:`wake_after_commit` before each statement that writes to the database. A wake-up is a delayed
message in the sweep's lane, so that it also arrives if the process ends before it has sent the messages of its rows.
"""

from __future__ import annotations

import math
import threading
import time

from joblane import settings, telemetry
from joblane.forking import follow_forks
from joblane.names import SWEEP, Queue, lane_name
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message

WOKEN = f"{SWEEP}:woken:"
"""The beginning of the id of a sweep that was woken."""
AFTER_COMMIT = f"{WOKEN}after:"
"""The beginning of the id of a wake-up that was sent before a commit. The rest is the second at which its delay ends,
by the sender's clock."""
PLANNED = f"{SWEEP}:planned:"
"""The beginning of the id of a planned sweep's message. The rest is its time in seconds since 1970."""
SHARED_SECONDS = 5
"""All wake-ups within an interval of this many seconds start one sweep, at its end."""
GRID_SECONDS = 240
"""Delayed wake-ups of all processes end at the multiples of this, and so do the times of planned sweeps."""
AT_ONCE_SECONDS = 15
"""A sweep that has run out of time is followed by the next one after at most this time. Multiples of it are the times
of sweeps: see :mod:`joblane.worker.sweep_worker`."""
LONGEST_SECONDS = 2 * 24 * 3600
"""A planned sweep that is later than this runs at once: no sweep plans so far ahead."""
COMMIT_SECONDS = 30
"""The longest time from the check of a wake-up to the first write of the transaction. A transaction that has written is
visible to the sweep, however long it stays open."""
LEAD_SECONDS = COMMIT_SECONDS + AT_ONCE_SECONDS
"""The shortest time from the check of a wake-up to its arrival: the sweep that serves it may have begun
:data:`AT_ONCE_SECONDS` before it arrived."""
RETRY_SECONDS = 15
"""The pause between two tries to send a wake-up that SQS has not accepted."""
NOT_WOKEN = (
    "SQS does not accept the wake-up of the sweep; until it does, tasks that this process delays by more than 15 "
    "minutes may start late, and messages that it cannot send wait for another sweep, for hours if nothing else uses "
    "the database. Check that this process may send to the lane of jobs:sweep"
)


def wake(sqs: Sqs, prefix: str) -> None:
    """Start a sweep by a message, within five seconds. If SQS does not accept it, the next sweep does the work."""
    now = time.time()
    ends = (math.floor(now / SHARED_SECONDS) + 1) * SHARED_SECONDS
    _send(sqs, prefix, f"{WOKEN}{ends}", math.ceil(ends - now))


def wake_after_commit(sqs: Sqs, prefix: str) -> None:
    """Make sure that a sweep starts after a write that follows now: 30 seconds to 5 minutes from now.

    Call it when the database is connected, before the first statement of a transaction that writes, or before each
    statement: it only compares two times if an earlier wake-up covers this write. Otherwise it sends a message, for at
    most 2 seconds, and it never raises. If SQS does not accept the message, the next call tries again, and a thread
    every 15 seconds.

    It does nothing in a stage whose sweep runs every five minutes or more often.
    """
    if not is_covered(sqs, prefix):
        _waker.cover(sqs, prefix)


def is_covered(sqs: Sqs, prefix: str) -> bool:
    """True if :func:`wake_after_commit` would send nothing."""
    return sqs.covers(prefix) or not settings.sweep_plans()


class _Waker:
    """Sends the wake-ups of this process. One thread sends at a time, and the others wait for it."""

    def __init__(self) -> None:
        self._after_fork()
        follow_forks(self, _Waker._after_fork)

    def cover(self, sqs: Sqs, prefix: str) -> bool:
        """Send a wake-up unless one covers the next write. Return False if SQS does not accept it."""
        with self._lock:
            if is_covered(sqs, prefix):
                return True
            now, started = sqs.now(), time.monotonic()
            ends = math.ceil((now + LEAD_SECONDS) / GRID_SECONDS) * GRID_SECONDS
            why = _send(sqs, prefix, f"{AFTER_COMMIT}{ends}", math.ceil(ends - now))
            if why is None:
                left = ends - now - LEAD_SECONDS
                sqs.covered[prefix] = started + left, now + left
            elif prefix not in self._trying:
                telemetry.logger().warning(NOT_WOKEN, extra={"error": why})
                self._try_again(sqs, prefix)
            return why is None

    def _try_again(self, sqs: Sqs, prefix: str) -> None:
        thread = threading.Thread(target=self._keep_trying, args=(sqs, prefix), name="joblane-wake", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter ends: the next write tries again
            return
        self._trying.add(prefix)

    def _keep_trying(self, sqs: Sqs, prefix: str) -> None:
        trying = self._trying
        try:
            time.sleep(RETRY_SECONDS)
            while not self.cover(sqs, prefix):
                time.sleep(RETRY_SECONDS)
        finally:
            trying.discard(prefix)

    def _after_fork(self) -> None:
        """Make a new lock, which another thread of the parent may have held, and forget its threads."""
        self._lock, self._trying = threading.Lock(), set[str]()


_waker = _Waker()


def planned_entry(prefix: str, at: int, now: float) -> Entry:
    """Return the message of a sweep that is planned for ``at``. Both times are in seconds since 1970."""
    return _entry(prefix, f"{PLANNED}{at}", min(max(0, math.ceil(at - now)), MAX_DELAY_SECONDS))


def _entry(prefix: str, id_: str, delay_seconds: int) -> Entry:
    return Entry(lane_name(prefix, Queue.LOW, SWEEP), Message(SWEEP, id_).encode(), delay_seconds)


def _send(sqs: Sqs, prefix: str, id_: str, delay_seconds: int) -> str | None:
    """Send a message to the sweep. Return None, or the reason why SQS does not accept it."""
    return sqs.send_many([_entry(prefix, id_, delay_seconds)], brief=True).get(0)
