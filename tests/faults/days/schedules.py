"""The schedules of a day. EventBridge sends the ticks of the code in time, late, twice or never, also around a deploy.
Programs put others, change them and delete them.

The rules: a tick is one task. After each sweep, the newest tick of the code that is 30 minutes old, or a later one, has
a task, if the policy is ``latest``. A tick that comes after a sweep has passed it runs nothing; every other one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from joblane.errors import JobError
from joblane.local.memory_queues import QueuedMessage
from joblane.record import schedules
from joblane.record.driver.connection import Connection
from joblane.record.schedules import UNDELIVERED
from joblane.sqs.message import decode
from joblane.sqs.tick import id_of, tick_entry
from joblane.sweep.ticks import Ticks, make_ticks
from joblane.tasks.schedule import Missed, Schedule, cron, every
from joblane.tasks.task import Task
from tests.faults.days.samples import DAY_TICKED, DAY_TIMED, PREFIX, Work

if TYPE_CHECKING:
    from tests.faults.days.busy import BusyDay, Server

MINUTE, HOUR = 60.0, 3600.0
PATIENCE = UNDELIVERED.total_seconds()
PUT = {"hourly": every(hours=1), "often": every(minutes=15), "daily": cron("30 6 * * *", timezone="Asia/Kolkata")}
"""Names and times of the schedules that programs put. ``often`` never changes."""
DECLARED: Sequence[Sequence[Schedule]] = (
    (cron("0 * * * *", name="hourly"), cron("*/20 * * * *", name="often", missed="skip")),
    (cron("0 * * * *", name="hourly", payload={"key": 1}), cron("*/30 * * * *", name="often", missed="skip")),
    (cron("0 * * * *", name="hourly"), cron("*/15 * * * *", name="often")),
)
"""The schedules of the code, from one deploy to the next."""
ROW = "select 1 from joblane.tasks where id = $1"
BEFORE = "select id from joblane.tasks where id = any ($1::text[]) and created_at < $2::timestamptz"
NOT_BEFORE = "select 1 from joblane.tasks where id >= $1 and id < $2 limit 1"
TICKED = "select id, state, reason, finished_at from joblane.tasks where type = 'day:ticked' and schedule is not null"
TWICE = """
select substr(id, 1, length(schedule) + 18) from joblane.tasks where id like '@%' and state = 'completed'
 group by 1 having count(*) > 1
"""
MADE_LATE = "select count(*)::int from joblane.tasks where id like '@%' and created_at > due_at"


class Schedules:
    """The schedules of one day.

    ``arrived``: id of a tick of the code → its first arrival. ``passed``: those that a sweep had passed.
    ``sweeps``: the begins of sweeps that have made their ticks.
    """

    def __init__(self, day: BusyDay) -> None:
        self._day = day
        self._task: Task[Any, Any] = DAY_TICKED
        self._since: dict[str, float] = {}
        self.arrived: dict[str, float] = {}
        self.passed: set[str] = set()
        self.sweeps: list[float] = []

    def plan(self, ends: float) -> None:
        """Plan deploys, ticks and changes until a time."""
        dice, at = self._day.dice, self._day.begins
        while at < ends:
            until = at + dice.uniform(1, 8) * HOUR
            declared = dice.choice(DECLARED)
            self._day.loop.at(at, lambda declared=declared: self.deploy(declared))  # type: ignore[misc]
            for schedule in declared:
                for moment in _between(schedule, at, min(until, ends)):
                    for seconds in self._delays():
                        self.send(schedule, moment, seconds)
            at = until
        self._day.loop.at(self._day.begins + 1, lambda: self._day.servers[0].do(self._put_all))
        for _ in range(round((ends - self._day.begins) / HOUR)):
            self._day.loop.at(
                dice.uniform(self._day.begins + MINUTE, ends), lambda: dice.choice(self._day.servers).do(self._change)
            )

    def _delays(self) -> Collection[float]:
        """Return the times that EventBridge and SQS take for the messages of a tick, in seconds."""
        dice = self._day.dice
        late = dice.choice((dice.uniform(0, 20 * MINUTE), dice.uniform(PATIENCE, 5 * HOUR)))
        return dice.choice(((1.0,), (1.0,), (1.0,), (1.0,), (1.0, late), (late,), ()))

    def deploy(self, declared: Sequence[Schedule]) -> None:
        """Register the schedules of new code, as ``joblane migrate`` does, and let the functions have it."""
        day, before = self._day, {schedule.name: schedule.text for schedule in self._task.schedules}
        first = not self._since
        self._task = replace(DAY_TICKED, schedules=tuple(declared))
        day.tasks = {**day.tasks, DAY_TICKED.type: self._task}
        day.loop.clock.sync()
        schedules.register(day._observer, day.tasks)
        for schedule in declared:
            if first or before.get(schedule.name) != schedule.text:
                self._since[str(schedule.name)] = day.loop.now + PATIENCE
        day.result.counts["deploys"] += 1

    def send(self, schedule: Schedule, moment: datetime, seconds: float) -> None:
        """Send a tick so many seconds after its time."""
        id_, entry = (
            id_of(DAY_TICKED.type, str(schedule.name), moment),
            tick_entry(PREFIX, DAY_TICKED, schedule, moment),
        )

        def arrive() -> None:
            self.arrived.setdefault(id_, self._day.loop.now)
            self._day._send(entry)

        self._day.loop.at(moment.timestamp() + seconds, arrive)

    # --- What programs do -------------------------------------------------------------------------------------------

    def _put_all(self, server: Server) -> None:
        for name, times in PUT.items():
            server.client.schedules.put(name, DAY_TIMED, Work(), times)

    def _change(self, server: Server) -> None:
        name = self._day.dice.choice(("hourly", "daily"))
        made: Any = server.client.schedules
        change: Callable[[], object] = self._day.dice.choice(
            (
                lambda: made.put(name, DAY_TIMED, Work(key=self._day.dice.choice((1, 2))), PUT[name]),
                lambda: made.pause(name),
                lambda: made.resume(name, task=DAY_TIMED),
                lambda: made.delete(name),
            )
        )
        with suppress(JobError):
            change()

    # --- The rules --------------------------------------------------------------------------------------------------

    def make_ticks(self, connection: Connection, *arguments: Any, **named: Any) -> Ticks:
        """Make the ticks of a sweep, and check what it has made."""
        day, begins = self._day, self._day.loop.now
        made = make_ticks(connection, *arguments, **named)
        day.result.counts["missed ticks"] += len(made.missed)
        came = day._observer.run(BEFORE, list(made.missed), datetime.fromtimestamp(begins - 1, UTC).isoformat())
        self._wrong("a tick that has come is called missed", [id_ for (id_,) in came])
        if made.is_over:
            self.sweeps.append(begins)
            self._wrong(
                "the newest missing tick has no task", [id_ for id_ in self._newest(begins) if not self._has_later(id_)]
            )
        return made

    def _newest(self, begins: float) -> list[str]:
        until = datetime.fromtimestamp(begins - PATIENCE, UTC)
        return [
            id_of(DAY_TICKED.type, str(schedule.name), tick)
            for schedule in self._task.schedules
            if schedule.missed == Missed.LATEST
            and (tick := schedule.previous(until)).timestamp() >= self._since.get(str(schedule.name), begins)
        ]

    def _has_later(self, id_: str) -> bool:
        return bool(self._day._observer.run(NOT_BEFORE, id_, f"{id_.rpartition(':20')[0]};"))

    def deliver(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """Note the ticks that come after a sweep has passed them."""
        if task.type != DAY_TICKED.type:
            return
        for message in batch:
            if (tick := decode(message.entry.body).tick) is not None:
                at = datetime.fromisoformat(tick["at"])
                id_ = id_of(task.type, tick["schedule"], at)
                since = self._since.get(tick["schedule"], self._day.loop.now)
                is_passed = at.timestamp() >= since and self.sweeps and self.sweeps[-1] >= at.timestamp() + PATIENCE
                if is_passed and not self._day._observer.run(ROW, id_):
                    self.passed.add(id_)

    def check_end(self) -> None:
        day = self._day
        rows = {id_: (state, reason or "", ended) for id_, state, reason, ended in day._observer.run(TICKED)}
        delivered = {id_ for id_, at in self.arrived.items() if at < day.loop.now - HOUR}
        missed = {id_: ended.timestamp() for id_, (_, why, ended) in rows.items() if why.startswith("TickMissed")}
        self._wrong("a tick is lost", delivered - rows.keys())
        self._wrong("a tick that a sweep has passed ran", (self.passed & rows.keys()) - missed.keys())
        self._wrong(
            "a tick did not run, and no sweep has passed it",
            [id_ for id_, ended in missed.items() if not any(_at(id_) + PATIENCE <= at <= ended for at in self.sweeps)],
        )
        self._wrong("a tick ran twice", [id_ for (id_,) in day._observer.run(TWICE)])
        day.result.counts["ticks of the code"] = len(rows)
        day.result.counts["ticks of the code that came too late"] = len(missed)
        day.result.counts["ticks of the code that the sweep made"] = len(rows.keys() - self.arrived.keys())
        day.result.counts["ticks made after their time"] = day._observer.run(MADE_LATE)[0][0]

    def _wrong(self, rule: str, ids: Collection[str]) -> None:
        if ids:
            self._day.result.wrong.append(f"{rule}: {', '.join(sorted(ids)[:5])}")


def _between(schedule: Schedule, begins: float, ends: float) -> list[datetime]:
    found = list[datetime]()
    for moment in schedule.after(datetime.fromtimestamp(begins, UTC)):
        if moment.timestamp() >= ends:
            return found
        found.append(moment)
    return found


def _at(id_: str) -> float:
    return datetime.fromisoformat(id_[-17:]).timestamp()
