"""Short days, each with the situation that a planted bug needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from joblane.inspector.filter import PauseScope
from joblane.names import lane_name
from tests.faults.days.busy import BusyDay, Server
from tests.faults.days.day import CHECK_SECONDS, HOUR, MINUTE, SWEEP_LANE, each
from tests.faults.days.queues import Refusal
from tests.faults.days.samples import PREFIX, Work, day_plain
from tests.faults.days.schedules import DECLARED

LANE = lane_name(PREFIX, day_plain.queue, day_plain.type)


class ShortDay(BusyDay):
    """A day of three hours with the situation of a bug. Nothing fails by chance."""

    def __init__(self, url: str, bug: str) -> None:
        super().__init__(url, seed=0, faults=0.0, hours=3.0)
        self._bug = bug
        self.begins -= self.begins % self._interval - MINUTE  # the day has no tick
        self._ends = self.begins + 3 * HOUR

    def plan(self) -> None:
        self.servers = [Server(self, "server")]
        SITUATIONS[self._bug](self)
        self.plan_ticks()
        each(CHECK_SECONDS, self.loop, self.check)

    def act(self, after: float, act: Callable[[Server], None]) -> None:
        self.loop.at(self.begins + after, lambda: self.servers[0].do(act))

    def moment(self, after: float) -> datetime:
        """Return the time a minute before so many seconds after the begin, a full hour of the day."""
        return datetime.fromtimestamp(self.begins + after - MINUTE, UTC)

    def refuse(self, begins: float, ends: float, queue: str | None) -> None:
        self.queues.refusals.append(Refusal(self.begins + begins, self.begins + ends, queue))


def _enqueue(seconds: float = 0.0) -> Callable[[Server], None]:
    wait = timedelta(seconds=seconds) if seconds else None

    def enqueue(server: Server) -> None:
        server.client.enqueue(day_plain, Work(), process_in=wait)

    return enqueue


def unsent(day: ShortDay) -> None:
    """SQS refuses a message after its commit."""
    day.refuse(0, 20, LANE)
    day.act(10, _enqueue())


def unsent_after_another(day: ShortDay) -> None:
    """SQS refuses a message six minutes after the wake-up of another enqueue."""
    day.act(10, _enqueue())
    day.refuse(6 * MINUTE, 7 * MINUTE, LANE)
    day.act(6 * MINUTE + 10, _enqueue())


def later(day: ShortDay) -> None:
    """A task waits for two hours."""
    day.act(10, _enqueue(2 * HOUR))


def unplanned(day: ShortDay) -> None:
    """SQS refuses the message of the next sweep while a task waits for two hours."""
    later(day)
    day.refuse(11, 10 * MINUTE, SWEEP_LANE)


def refused_for_long(day: ShortDay) -> None:
    """SQS refuses all messages for an hour, and nobody writes after that."""
    day.act(0, _enqueue(10 * MINUTE))
    day.refuse(10, HOUR, None)
    day.act(20, _enqueue())


def open_for_long(day: ShortDay) -> None:
    """A transaction stays open for twenty minutes, and SQS refuses its message."""
    day.refuse(19 * MINUTE, 21 * MINUTE, LANE)

    def enqueue(server: Server) -> None:
        with Session(server.process.database.engine) as session:
            server.client.enqueue(day_plain, Work(), session=session)
            day.loop.sleep(20 * MINUTE)
            session.commit()

    day.act(10, enqueue)


def paused(day: ShortDay) -> None:
    """A task is due while its type is paused for an hour."""
    until = datetime.fromtimestamp(day.begins + HOUR, UTC)

    def pause(server: Server) -> None:
        server.inspector.pause(PauseScope.TYPE, day_plain.type, until=until)

    day.act(10, pause)
    day.act(20, _enqueue())


def came(day: ShortDay) -> None:
    """A tick of the code comes in time, and a sweep looks for it."""
    day.schedules.deploy(DECLARED[0])
    day.schedules.send(DECLARED[0][0], day.moment(HOUR), 1)
    day.act(100 * MINUTE, _enqueue())


def missed(day: ShortDay) -> None:
    """Two ticks of the code do not come. The older one comes after a sweep."""
    day.schedules.deploy(DECLARED[0])
    day.act(155 * MINUTE, _enqueue())
    day.schedules.send(DECLARED[0][0], day.moment(HOUR), 110 * MINUTE)


def missed_before_a_deploy(day: ShortDay) -> None:
    """A tick of the code does not come. Then a deploy changes its payload, before a sweep looks for it."""
    day.schedules.deploy(DECLARED[0])
    day.loop.at(day.begins + 80 * MINUTE, lambda: day.schedules.deploy(DECLARED[1]))
    day.act(100 * MINUTE, _enqueue())


SITUATIONS: Mapping[str, Callable[[ShortDay], None]] = {
    "refused": refused_for_long,
    "no-wake": unsent,
    "long-cover": unsent_after_another,
    "plan-before-send": unplanned,
    "open-transactions": open_for_long,
    "next-due": later,
    "no-hops": later,
    "end-of-pause": paused,
    "without-looking": came,
    "late-ticks-run": missed,
    "nothing-passed": missed,
    "looks-anew": missed_before_a_deploy,
}
