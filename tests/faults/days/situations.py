"""Short days, each with the situation that a planted bug needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from joblane.inspector.filter import PauseScope
from joblane.names import lane_name
from tests.faults.days.busy import BusyDay, Server
from tests.faults.days.day import CHECK_SECONDS, HOUR, MINUTE, SWEEP_LANE, each
from tests.faults.days.queues import Refusal
from tests.faults.days.samples import DAY_PLAIN, PREFIX, Work
from tests.faults.days.schedules import DECLARED

LANE = lane_name(PREFIX, DAY_PLAIN.queue, DAY_PLAIN.type)


class ShortDay(BusyDay):
    """A day of three hours with the situation of a bug. Nothing fails by chance."""

    def __init__(self, url: str, bug: str) -> None:
        super().__init__(url, seed=0, faults=0.0, hours=3.0)
        self._bug = bug
        self.begins -= self.begins % self._interval - MINUTE  # the day has no tick
        self._ends = self.begins + 3 * HOUR

    def plan(self) -> None:
        self.servers = [Server(self, "server")]
        for step in SITUATIONS[self._bug]:
            step(self)
        self.plan_ticks()
        each(CHECK_SECONDS, self.loop, self.check)

    def moment(self, after: float) -> datetime:
        """Return the time so many seconds after the begin."""
        return datetime.fromtimestamp(self.begins + after, UTC)


Step = Callable[[ShortDay], None]


def _act(after: float, act: Callable[[ShortDay, Server], object]) -> Step:
    """Let the server do something so many seconds after the begin."""
    return lambda day: day.loop.at(day.begins + after, lambda: day.servers[0].do(lambda server: act(day, server)))


def _refuse(begins: float, ends: float, queue: str | None) -> Step:
    return lambda day: day.queues.refusals.append(Refusal(day.begins + begins, day.begins + ends, queue))


def _enqueue(after: float, seconds: float | None = None) -> Step:
    """Let the server enqueue a task. ``seconds``: after which it is due."""
    wait = timedelta(seconds=seconds) if seconds else None
    return _act(after, lambda _, server: server.client.enqueue(DAY_PLAIN, Work(), process_in=wait))


def _enqueue_in_long_transaction(day: ShortDay, server: Server) -> None:
    with Session(server.process.database.engine) as session:
        server.client.enqueue(DAY_PLAIN, Work(), session=session)
        day.loop.sleep(20 * MINUTE)
        session.commit()


def _pause_for_an_hour(day: ShortDay, server: Server) -> None:
    server.inspector.pause(PauseScope.TYPE, DAY_PLAIN.type, until=day.moment(HOUR))


def _send(hour: float, seconds: float) -> Step:
    """Send a tick of the code so many seconds after its time. ``hour``: that of the tick. The day begins a minute
    after a full hour."""
    return lambda day: day.schedules.send(DECLARED[0][0], day.moment(hour - MINUTE), seconds)


def _deploy(day: ShortDay) -> None:
    day.schedules.deploy(DECLARED[0])


def _deploy_another_payload(day: ShortDay) -> None:
    day.loop.at(day.begins + 80 * MINUTE, lambda: day.schedules.deploy(DECLARED[1]))


SITUATIONS: Mapping[str, Sequence[Step]] = {
    # SQS refuses all messages for an hour, and nobody writes after that
    "refused": (_enqueue(0, 10 * MINUTE), _refuse(10, HOUR, None), _enqueue(20)),
    # SQS refuses a message after its commit
    "no-wake": (_refuse(0, 20, LANE), _enqueue(10)),
    # SQS refuses a message six minutes after the wake-up of another enqueue
    "long-cover": (_enqueue(10), _refuse(6 * MINUTE, 7 * MINUTE, LANE), _enqueue(6 * MINUTE + 10)),
    # SQS refuses the message of the next sweep while a task waits for two hours
    "plan-before-send": (_enqueue(10, 2 * HOUR), _refuse(11, 10 * MINUTE, SWEEP_LANE)),
    # a transaction stays open for twenty minutes, and SQS refuses its message
    "open-transactions": (_refuse(19 * MINUTE, 21 * MINUTE, LANE), _act(10, _enqueue_in_long_transaction)),
    # a task waits for two hours
    "next-due": (_enqueue(10, 2 * HOUR),),
    "no-hops": (_enqueue(10, 2 * HOUR),),
    # a task is due while its type is paused for an hour
    "end-of-pause": (_act(10, _pause_for_an_hour), _enqueue(20)),
    # a tick of the code comes in time, and a sweep looks for it
    "without-looking": (_deploy, _send(HOUR, 1), _enqueue(100 * MINUTE)),
    # two ticks of the code do not come; the older one comes after a sweep
    "late-ticks-run": (_deploy, _enqueue(155 * MINUTE), _send(HOUR, 110 * MINUTE)),
    "nothing-passed": (_deploy, _enqueue(155 * MINUTE), _send(HOUR, 110 * MINUTE)),
    # a tick of the code does not come; a deploy changes its payload before a sweep looks for it
    "looks-anew": (_deploy, _deploy_another_payload, _enqueue(100 * MINUTE)),
}
