"""Faults from outside during a run: kills at any time, clock jumps, restarts of the server, and cancels of running
tasks."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil
from pg8000.exceptions import Error as PostgresError

from joblane.local.daemon import end
from joblane.local.postgres import STOP_SECONDS, Postgres
from joblane.record.row.transitions import CANCEL
from tests.faults.slots import Scene, Slot

JUMPS = (5, 40, 120)
"""Clock jumps, in seconds. The longer jumps end every lease, so that runs continue without a lease."""
LONGEST_JUMP = 400
FROZEN = "delete from public.frozen returning task"
RUNNING = (
    "select id from joblane.tasks where state = 'active' and type like 'mix:%' and cancel_requested_at is "
    "null order by id"
)


class Storm:
    """The storm. :meth:`blow` is called repeatedly; the seed decides what it does and when."""

    def __init__(
        self,
        seed: int,
        scene: Scene,
        slots: Sequence[Slot],
        postgres: Postgres,
        sql: Callable[..., list[list[Any]]],
        restarts: int,
    ) -> None:
        self._random = random.Random(f"storm {seed}")
        self._scene, self._slots, self._postgres, self._sql = scene, slots, postgres, sql
        self.cancelled: dict[str, str] = {}
        """Task id → the state in which it was cancelled."""
        self._next = dict.fromkeys(FAULTS, 10)
        """The number of invocations at which each fault happens next. So it happens equally often on a slow machine."""
        self._restarts = [(number + 1) / (restarts + 1) for number in range(restarts)]
        """The shares of finished work at which the server is restarted."""

    def blow(self, progress: float) -> None:
        """Cause the faults that are due. ``progress``: the share of the acts that are done, from 0 to 1."""
        invocations = self._scene.counts["invocations"]
        for fault, interval in FAULTS.items():
            if invocations > self._next[fault]:
                self._next[fault] = invocations + self._random.randint(*interval)
                fault(self)
        if self._is_any_frozen():
            self._jump(LONGEST_JUMP)
        if self._restarts and progress >= self._restarts[0]:
            self._restarts.pop(0)
            self._restart()

    def kill(self) -> None:
        busy = [slot for slot in self._slots if slot.process.busy]
        if busy:
            self._random.choice(busy).process.kill()
            self._scene.counts["processes killed from outside"] += 1

    def cancel(self) -> None:
        """Cancel a task that is running, as far as the rows show."""
        with suppress(PostgresError, OSError):
            if running := self._sql(RUNNING):
                (id_,) = self._random.choice(running)
                for state, *_ in self._sql(CANCEL, id_):
                    self.cancelled[id_] = state
                    self._scene.counts["running tasks cancelled"] += state == "active"

    def _is_any_frozen(self) -> bool:
        with suppress(PostgresError, OSError):
            return bool(self._sql(FROZEN))
        return False

    def jump(self) -> None:
        self._jump(self._random.choice(JUMPS))

    def _jump(self, seconds: float) -> None:
        with suppress(PostgresError, OSError):
            self._scene.clock.move_forward(seconds)
            self._scene.counts["clock jumps"] += 1

    def _restart(self) -> None:
        """Restart the server after an immediate stop, as by ``pg_ctl stop -m immediate``, or after a crash.

        Committed work is in the write-ahead log.
        """
        pid = self._postgres.pid
        if pid is not None and self._random.random() < 0.5:
            end([psutil.Process(pid)], signal.SIGQUIT, STOP_SECONDS)
        else:
            self._postgres.kill()
        time.sleep(self._random.uniform(0.1, 0.8))
        self._postgres.start()
        self._scene.counts["restarts of PostgreSQL"] += 1


FAULTS: Mapping[Callable[[Storm], None], tuple[int, int]] = {
    Storm.kill: (5, 40),
    Storm.jump: (5, 30),
    Storm.cancel: (3, 15),
}
"""Fault → the least and the most number of invocations until it happens again."""
