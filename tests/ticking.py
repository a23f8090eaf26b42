"""Days of schedules in virtual time: every tick is one task, and its message arrives at its time.

Of the ticks of the code, most come in time, some late, and some never. The database's session has a clock of its own,
which is set forward by a step. The sweep runs once after each.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from joblane import TaskContext, cron, task
from joblane.enqueue.ticks import TICK_PATTERN
from joblane.record.driver.connection import Connection
from joblane.record.schedules import UNDELIVERED, register, schedule_of
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.depth import ATTRIBUTES
from joblane.sqs.tick import written
from joblane.sweep.sweep import sweep
from joblane.sweep.ticks import make_ticks
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task
from tests.faults.clock import RENAME
from tests.samples import Sample

PREFIX = "jobs"
STEP = timedelta(minutes=10)
CLOCK = f"""
{RENAME}create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
  as $$select pg_catalog.real_clock_timestamp() + current_setting('virtual.ahead')::interval$$;
create function pg_catalog.now() returns timestamptz language sql stable
  as $$select pg_catalog.real_now() + current_setting('virtual.ahead')::interval$$;
"""
AHEAD = "set virtual.ahead = '{} s'"
INSERT = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, missed, ticks_a_day, revision,
                               next_at)
select x.name, 'sample:ticking', '{"number": 1}', x.tenant, x.expression, x.timezone, x.missed, x.ticks_a_day, 1,
       x.next_at
  from json_to_recordset($1::json) as x(name text, tenant text, expression text, timezone text, missed text,
                                        ticks_a_day float8, next_at timestamptz)
"""
CAME = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,
                           finished_at, expire_at)
select x.id, 'sample:ticked', 'default', 'completed', '{"number": 1}', '', 4, 604800, now(), now() + interval '7 days'
  from json_array_elements_text($1::json) as x(id)
"""
CHUNK = 10_000


@task("sample:ticking", overlap="allow")
def sample_ticking(payload: Sample, ctx: TaskContext) -> None:
    pass


@task("sample:ticked", overlap="allow")
def sample_ticked(payload: Sample, ctx: TaskContext) -> None:
    pass


class Arrivals(Sqs):
    """SQS that notes when each message will arrive. ``arrives``: id of the task → the times, in seconds since 1970."""

    def __init__(self, travelled: timedelta) -> None:
        super().__init__()
        self.travelled = travelled.total_seconds()
        self.arrives: defaultdict[str, list[float]] = defaultdict(list)

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        for entry in entries:
            self.arrives[json.loads(entry.body)["id"]].append(time.time() + self.travelled + entry.delay_seconds)
        return {}

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[Any, str]:
        return dict.fromkeys(ATTRIBUTES, "0")


@dataclass
class Days:
    """Schedules over virtual days. ``made``: schedule → the times of its ticks that got a task, in order.

    ``came``: id of a tick of the code → when it came. ``missed``: those that a sweep called missed. ``made_of_code``:
    those that it made.

    ``late``: the ticks due for a minute. ``latest_seconds``: of the others, the longest time from a tick to the arrival
    of its message. ``longest_seconds``: of a sweep, with all its sends. ``cpu_seconds``: of this process, in all
    sweeps.
    """

    connection: Connection
    travelled: timedelta = timedelta(0)
    made: defaultdict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    late: list[tuple[str, datetime]] = field(default_factory=list)
    latest_seconds: float = 0.0
    longest_seconds: float = 0.0
    cpu_seconds: float = 0.0
    sweeps: int = 0
    begins: dict[str, datetime] = field(default_factory=dict)
    tasks: dict[str, Task[Any, Any]] = field(default_factory=lambda: {sample_ticking.type: sample_ticking})
    declared: dict[str, Schedule] = field(default_factory=dict)
    coming: list[tuple[datetime, str]] = field(default_factory=list)
    came: dict[str, datetime] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    made_of_code: dict[str, datetime] = field(default_factory=dict)
    sent_until: datetime | None = None

    def __post_init__(self) -> None:
        self.connection.execute_simple(CLOCK)
        self.travel(timedelta(0))

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.travelled

    def put(self, schedules: Iterable[tuple[str, str, str, str]]) -> None:
        """Insert schedules: name, expression, time zone, and policy."""
        rows = list[dict[str, Any]]()
        for name, expression, timezone, missed in schedules:
            self.begins[name] = schedule_of(expression, timezone).next_after(self.now)
            rows.append(
                {
                    "name": name, "expression": expression, "timezone": timezone, "missed": missed,
                    "tenant": f"tenant-{len(rows) % 1000}", "next_at": self.begins[name].isoformat(),
                    "ticks_a_day": schedule_of(expression, timezone).ticks_a_day,
                }
            )  # fmt: skip
        for start in range(0, len(rows), CHUNK):
            self.connection.run(INSERT, json.dumps(rows[start : start + CHUNK]))

    def declare(self, number: int) -> None:
        """Register schedules of the code, at different minutes of the hour, half of them with ``skip``."""
        declared = [
            cron(f"{position % 60} * * * *", name=f"c{position}", missed=("latest", "skip")[position % 2])
            for position in range(number)
        ]
        self.tasks |= {sample_ticked.type: replace(sample_ticked, schedules=tuple(declared))}
        register(self.connection, self.tasks)
        self.declared = {f"{sample_ticked.type}:{schedule.name}": schedule for schedule in declared}
        self.sent_until = self.now

    def _bring(self) -> None:
        """Send the ticks of the code: most in time, some late, some never. Write the rows of those that have come."""
        if not self.declared or self.sent_until is None:
            return
        for name, schedule in self.declared.items():
            for tick in takewhile(lambda tick: tick <= self.now, schedule.after(self.sent_until)):
                id_ = f"{name}:{written(tick)}"
                fate = zlib.crc32(id_.encode()) % 10
                if fate < 8:
                    late = UNDELIVERED + timedelta(minutes=15 + fate) if fate < 2 else timedelta(0)
                    self.coming.append((tick + late, id_))
        self.sent_until = self.now
        for at, id_ in list(self.coming):
            if at <= self.now:
                self.coming.remove((at, id_))
                if id_ not in self.made_of_code:
                    self.came[id_] = at
        self.connection.run(CAME, json.dumps([*self.came, *self.made_of_code]))

    def travel(self, by: timedelta) -> None:
        """Let time pass without a sweep."""
        self.travelled += by
        self.connection.execute_simple(AHEAD.format(self.travelled.total_seconds()))

    def sweep(self) -> None:
        """Run a sweep, and note the tasks that it has made and sent. They are removed."""
        self._bring()
        sqs, started, cpu = Arrivals(self.travelled), time.monotonic(), time.process_time()
        while not (made := make_ticks(self.connection, self.tasks.get, PREFIX)).is_over:
            self.missed += made.missed
        self.missed += made.missed
        sweep(self.connection, sqs, PREFIX)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
        self.cpu_seconds += time.process_time() - cpu
        self.sweeps += 1
        for id_, due_at in self.connection.run(
            "select id, due_at from joblane.tasks where state <> 'completed' order by id"
        ):
            if not id_.startswith("@"):
                assert id_ in self.missed, id_
                self.made_of_code[id_] = self.now
                sqs.arrives.pop(id_)
                continue
            found = TICK_PATTERN.fullmatch(id_)
            assert found is not None
            tick = datetime.fromisoformat(found["time"])
            assert due_at == tick, id_
            self.made[found["name"]].append(tick)
            (arrives,) = sqs.arrives.pop(id_)  # one message
            seconds = arrives - due_at.timestamp()
            if due_at < self.now - timedelta(minutes=1):
                self.late.append((found["name"], tick))
            else:
                self.latest_seconds = max(self.latest_seconds, seconds)
        assert not sqs.arrives
        self.connection.run("truncate joblane.tasks")

    def run(self, hours: float) -> None:
        """Sweep, and let time pass, with a sweep after each step."""
        ends = self.now + timedelta(hours=hours)
        self.sweep()
        while self.now < ends:
            self.travel(STEP)
            self.sweep()

    def check(self) -> int:
        """Check that each tick up to the next one of each schedule got one task. Return their number."""
        number = 0
        for name, expression, timezone, next_at in self.connection.run(
            "select name, expression, timezone, next_at from joblane.schedules where origin = 'run_time'"
        ):
            ends, moment, expected = next_at, self.begins[name], list[datetime]()
            assert ends > self.now, name
            while moment < ends:
                expected.append(moment)
                moment = schedule_of(expression, timezone).next_after(moment)
            assert self.made[name] == expected, name
            number += len(expected)
        return number

    def check_code(self, since: datetime) -> int:
        """Check the ticks of the code that were due 30 minutes before the last sweep. Return the number of missed ones.

        ``since``: the time from which they are looked for.
        """
        missed = set[str]()
        for name, schedule in self.declared.items():
            ticks = list(takewhile(lambda tick: tick <= self.now - UNDELIVERED, schedule.after(since)))
            ids = [f"{name}:{written(tick)}" for tick in ticks]
            late = [id_ for id_, tick in zip(ids, ticks, strict=True) if not self._came_by(id_, tick + UNDELIVERED)]
            missed.update(late)
            made = [id_ for id_ in ids if id_ in self.made_of_code]
            assert made == (late if schedule.missed == "latest" else []), name  # an hour later the next one comes
        assert sorted(self.missed) == sorted(missed)
        return len(missed)

    def _came_by(self, id_: str, moment: datetime) -> bool:
        """True if a tick had come when the first sweep after ``moment`` looked for it."""
        return id_ in self.came and self.came[id_] < moment


def mixed(number: int) -> Iterable[tuple[str, str, str, str]]:
    """Yield schedules: most daily, at all minutes of the day, some of them at the same one; few every hour or often."""
    zones = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
    for position in range(number):
        minute, hour = position % 60, position // 60 % 24
        expression = f"{minute} {hour} * * *"
        if position % 5 == 0:
            expression = "0 6 * * *"
        elif position % 101 == 1:
            expression = f"{minute} * * * *"
        elif position % 1009 == 2:
            expression = "*/5 * * * *"
        yield f"s{position:06}", expression, zones[position % 4], ("latest", "skip")[position % 2]
