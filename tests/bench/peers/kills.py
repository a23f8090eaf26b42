"""Jobs that record their runs, and kill their own process, each once. Standard library only.

``BENCH_RUNS`` names a file to which each run appends a line with the job's number. ``BENCH_KILLS`` names a JSON file,
number → [point, seconds of delay]. A second file for each number records that it has killed, so that the next run of
the job survives. Without ``BENCH_KILLS`` no job kills.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

BEFORE_WRITE, BEFORE_COMMIT, AFTER_RETURN = POINTS = ("before the write", "before the commit", "after the return")
LONGEST_DELAY_SECONDS = 0.01
"""The longest time between the end of a handler and a kill after it. Systems record the end of a job in this time."""

Plan = dict[str, tuple[str, float]]
"""Number → point, and the delay of a kill after the return in seconds."""


def plan(seed: int, jobs: int, kills: int) -> Plan:
    """Choose the jobs that kill, and where."""
    dice = random.Random(seed)
    numbers = dice.sample(range(jobs), kills)
    return {str(number): (dice.choice(POINTS), LONGEST_DELAY_SECONDS * dice.random()) for number in numbers}


@functools.cache
def _planned() -> Plan:
    file = os.environ.get("BENCH_KILLS")
    planned: Plan = json.loads(Path(file).read_text()) if file else {}
    return planned


class Fate:
    """A run of a job. The job calls the methods in this order, and one of them may kill the process."""

    def __init__(self, number: int) -> None:
        self.number = number
        _append(f"{number}\n")
        self._point, self._delay = _planned().get(str(number), ("", 0.0))

    def before_write(self) -> None:
        if self._point == BEFORE_WRITE and self._is_first():
            _kill()

    def before_commit(self) -> None:
        if self._point == BEFORE_COMMIT and self._is_first():
            _kill()

    def after_return(self) -> None:
        """The last call of a job. A thread kills the process while the system records the end."""
        if self._point == AFTER_RETURN and self._is_first():
            threading.Timer(self._delay, _kill).start()

    def _is_first(self) -> bool:
        try:
            os.close(os.open(f"{os.environ['BENCH_KILLS']}.{self.number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may arrive after the call has returned


def _append(line: str) -> None:
    file = os.open(os.environ["BENCH_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def long_seconds() -> float:
    """Return how long the job ``long`` takes before it writes its row."""
    return float(os.environ["BENCH_LONG"])
