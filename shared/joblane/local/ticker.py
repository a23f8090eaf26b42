"""The local stand-in for EventBridge Scheduler: sends the ticks of all declared schedules at their times.

The emulators' schedulers know no time zones and write no scheduled time. A tick sent twice, by two tickers or by one
that was started again, is one task: its id is made of type, schedule and time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.declaration import Task
from joblane.errors import SendError
from joblane.project import Project
from joblane.schedule import Schedule
from joblane.sqs.client import Sqs
from joblane.sqs.tick import tick_entry

MAX_AGE = timedelta(hours=1)
"""A tick that could not be sent for this long is dropped, as the deployed schedules do."""
LONGEST_SLEEP_SECONDS = 15.0
"""A machine that was suspended, or whose clock was set, is noticed after this."""
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
    """All schedules of `tasks`, from `now` on; what was due before is not made up for."""

    def __init__(self, tasks: Iterable[Task[Any, Any]], prefix: str, sqs: Sqs, now: datetime) -> None:
        self._prefix = prefix
        self._sqs = sqs
        self._clocks = [
            _Clock(task, schedule, schedule.next_after(now)) for task in tasks for schedule in task.schedules
        ]

    @classmethod
    def from_environment(cls) -> Ticker:
        """Return the ticker of the tasks in `functions/`, sending to where the environment says."""
        from joblane import settings
        from joblane.discovery import discover

        return cls(discover().values(), settings.prefix(), Sqs(), datetime.now(UTC))

    def run(self) -> None:
        """Tick until the process is stopped."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        for clock in sorted(self._clocks, key=lambda clock: clock.next_at):
            log.info("%s: next at %s", clock, _text(clock.next_at))
        while True:
            time.sleep(self.tick(datetime.now(UTC)))

    def tick(self, now: datetime) -> float:
        """Send what is due, and return after how many seconds to look again."""
        failed = False
        for clock in self._clocks:
            while clock.next_at <= now:
                if now - clock.next_at <= MAX_AGE:
                    try:
                        self._send(clock)
                    except SendError as error:
                        log.warning("%s: the tick of %s is sent later: %s", clock, _text(clock.next_at), error)
                        failed = True
                        break
                else:
                    log.error("%s: the tick of %s is dropped, it is too old", clock, _text(clock.next_at))
                clock.next_at = clock.schedule.next_after(clock.next_at)
        if failed:
            return RETRY_SECONDS
        return min([LONGEST_SLEEP_SECONDS, *((clock.next_at - now).total_seconds() for clock in self._clocks)])

    def _send(self, clock: _Clock) -> None:
        self._sqs.send(tick_entry(self._prefix, clock.task, clock.schedule, clock.next_at))
        log.info("%s: sent the tick of %s", clock, _text(clock.next_at))


def _text(moment: datetime) -> str:
    """Return the form that EventBridge Scheduler writes."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


if __name__ == "__main__":  # as the local stack starts it
    Project.here().activate()
    Ticker.from_environment().run()
