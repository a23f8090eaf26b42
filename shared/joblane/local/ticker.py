"""The local replacement for EventBridge Scheduler: it sends the ticks of all declared schedules at their times.

The schedulers of emulators have no time zones and do not insert the scheduled time. A tick that is sent twice, by two
tickers or by a restarted ticker, is one task, because its id consists of type, schedule and time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joblane.errors import SendError
from joblane.names import SWEEP, Queue, lane_name
from joblane.project import Project
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message
from joblane.sqs.tick import MAX_AGE, tick_entry
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task

LONGEST_SLEEP_SECONDS = 15.0
"""After at most this time the ticker notices that the machine was suspended or its clock was set."""
RETRY_SECONDS = 2.0

log = logging.getLogger("ticker")


@dataclass
class _Clock:
    task: Task[Any, Any]
    schedule: Schedule
    next_at: datetime

    def __str__(self) -> str:
        return f"{self.task.type} {self.schedule.name}"


class Ticker:
    """Sends the ticks of all schedules of `tasks` from `now` on. Ticks before `now` are not sent."""

    def __init__(self, tasks: Iterable[Task[Any, Any]], prefix: str, sqs: Sqs, now: datetime) -> None:
        self._prefix = prefix
        self._sqs = sqs
        self._clocks = [
            _Clock(task, schedule, schedule.next_after(now)) for task in tasks for schedule in task.schedules
        ]

    @classmethod
    def from_environment(cls) -> Ticker:
        """Return the ticker of the project's tasks. The environment has the addresses of the stack."""
        from joblane import settings
        from joblane.tasks.discovery import discover

        return cls(discover().values(), settings.prefix(), Sqs(), datetime.now(UTC))

    def run(self) -> None:
        """Send ticks until the process is stopped."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        for clock in sorted(self._clocks, key=lambda clock: clock.next_at):
            log.info("%s: next at %s", clock, _text(clock.next_at))
        self.start_sweep()
        while True:
            time.sleep(self.tick(datetime.now(UTC)))

    def start_sweep(self) -> None:
        """Start a sweep: the emulator may have lost the message of the planned sweep that the database knows."""
        message = Message(SWEEP, f"{SWEEP}:started:{time.time():.0f}")
        try:
            self._sqs.send(Entry(lane_name(self._prefix, Queue.LOW, SWEEP), message.encode()))
        except SendError as error:
            log.warning("the sweep could not be started; its next tick starts it: %s", error)

    def tick(self, now: datetime) -> float:
        """Send the ticks that are due, and return the seconds until the next call."""
        failed = False
        for clock in self._clocks:
            while clock.next_at <= now:
                if now - clock.next_at <= MAX_AGE:
                    try:
                        self._send(clock)
                    except SendError as error:
                        log.warning(
                            "%s: the tick of %s could not be sent, retrying: %s", clock, _text(clock.next_at), error
                        )
                        failed = True
                        break
                else:
                    log.error("%s: the tick of %s is too old and dropped", clock, _text(clock.next_at))
                clock.next_at = clock.schedule.next_after(clock.next_at)
        if failed:
            return RETRY_SECONDS
        return min([LONGEST_SLEEP_SECONDS, *((clock.next_at - now).total_seconds() for clock in self._clocks)])

    def _send(self, clock: _Clock) -> None:
        self._sqs.send(tick_entry(self._prefix, clock.task, clock.schedule, clock.next_at))
        log.info("%s: sent the tick of %s", clock, _text(clock.next_at))


def _text(moment: datetime) -> str:
    """Return the time in the format of EventBridge Scheduler."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


if __name__ == "__main__":  # as the local stack starts it
    Project.here().activate()
    Ticker.from_environment().run()
