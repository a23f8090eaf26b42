"""A storm of moves: types move from functions of their own into places, between places and out again, under way.

One thread does one thing after another, in virtual time, as the seed decides: it enqueues, delivers messages, sweeps,
redrives, and deploys. A deploy reaches the sweep, the producers, the schedules, each place and each lane one after the
other, so that for a while they disagree about the lane of a type. Processes die before or after a statement or a send.

The rules: each task has one effect, in a function that runs its type. Attempts are spent by its own runs alone. No
message is left in a lane, and none that a place parks comes again. ``calm``: nothing but producers dies, and no message
is without a row. Then each due task has a message after two sweeps.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import text

from joblane import Lambda, Payload, TaskContext, names, settings
from joblane.client.client import client_within
from joblane.errors import DatabaseUnavailableError, SendError
from joblane.names import dead_letter_name, function_name, lane_name, set_home
from joblane.record import task_types
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry
from joblane.sqs.message import DEAD_ATTRIBUTE, Message, decode
from joblane.sqs.tick import tick_entry
from joblane.sweep.sweep import sweep
from joblane.tasks import places
from joblane.tasks.task import Task
from joblane.testing.faults import Hook, HookedDatabase
from joblane.testing.queues import KitQueues
from joblane.worker.group import Group
from joblane.worker.invocation import Invocation
from joblane.worker.worker import Worker
from tests.faults.days import clock
from tests.faults.declared import declared, follow
from tests.faults.dying_workers import Death
from tests.faults.result import Result
from tests.ways import Ways, never_short

PREFIX = "moves"
BEGINS = datetime(2027, 1, 15, 9, tzinfo=UTC).timestamp()
SWEEP_SECONDS, FUNCTION_SECONDS, VISIBILITY_SECONDS = 300.0, 50.0, 61.0
TICK_SECONDS = 300.0
LATE_SECONDS = 2 * SWEEP_SECONDS + 60
DELETE_LOST = 0.03
MOST_ROUNDS = 400
"""The number of steps until all has ended, once nothing fails any more."""
HELD = "Each task had one effect, and no move has spent an attempt."
PLACES = {name: Lambda(name, batch_size=4) for name in ("first", "second")}
TABLE = "create table public.effects (id text not null, function text not null)"
RULES = {
    "{0} is {1}, with {2} effects": """
select t.id, t.state, e.number
  from joblane.tasks t, lateral (select count(*) as number from effects e where e.id = t.id) as e
 where t.state <> 'completed' or e.number <> 1""",
    "{0} has spent {1} attempts in {2} runs of its own": """
select t.id, t.attempts, r.number from joblane.tasks t,
       lateral (select count(*) as number from joblane.runs r where r.task_id = t.id and r.outcome <> 'snoozed') r
 where t.generation = 0 and t.attempts > r.number""",
}
"""The line of a violated rule → the statement that finds its rows."""
WAITING = """
select id, type, due_at < clock_timestamp() - $1::float8 * interval '1 s' from joblane.tasks
 where state in ('pending', 'scheduled', 'retry')
"""
LIVE = "select id, type, state, due_at::text from joblane.tasks where finished_at is null limit 5"


class Work(Payload):
    script: tuple[str, ...] = ()


class Here:
    """The function that runs now."""

    name = ""


def work(payload: Work, ctx: TaskContext) -> None:
    """Follow the script's word for this run. A task that was redriven follows none."""
    words, run = payload.script if ctx._claim.generation == 0 else (), ctx._claim.run
    word = words[run - 1] if run <= len(words) else "ok"
    ctx.session.execute(text("insert into effects values (:id, :here)"), {"id": ctx.task_id, "here": Here.name})
    follow(word.partition(":")[0], timedelta(seconds=int(word.partition(":")[2] or 0)))


MOVING = declared(
    work,
    {
        "move:plain": {},
        "move:batched": {"batch_size": 5},
        "move:single": {"max_total": 1},
        "move:tick": {"schedule": "*/5 * * * *", "overlap": "allow"},
    },
    max_retry=50,
    retry_delay=[timedelta(seconds=2), timedelta(seconds=40), timedelta(minutes=20)],
    timeout=timedelta(seconds=3),
)
STAYING = {
    task.type: replace(task, place=PLACES[place], batch_size=4)
    for place in PLACES
    for task in declared(work, {f"stay:{place}": {}}, max_retry=50, timeout=timedelta(seconds=3)).values()
}
TASKS: Mapping[str, Task[Any, Any]] = {**MOVING, **STAYING}


@dataclass(frozen=True)
class Version:
    """A deployed version. ``homes``: each type → its place; None: a function of its own. ``drains``: types whose own
    lanes their place drains."""

    homes: Mapping[str, str | None]
    drains: frozenset[str] = frozenset()

    def tasks(self) -> dict[str, Task[Any, Any]]:
        made = {}
        for type_, place in self.homes.items():
            drains = tuple(drained for drained in sorted(self.drains) if self.homes[drained] == place)
            on = None if place is None else replace(PLACES[place], drains=drains)
            size = TASKS[type_].batch_size if on is None else on.batch_size
            made[type_] = replace(TASKS[type_], place=on, batch_size=size)
        return made

    def lanes(self) -> dict[str, str]:
        """Return each lane with its function."""
        with seen(self):
            return {
                lane: function_name(PREFIX, type_)
                for type_, task in self.tasks().items()
                for lane in places.lanes_of(PREFIX, task)
            }


@contextmanager
def seen(version: Version) -> Iterator[None]:
    """Find lanes as a process of this version does."""
    names._homes.clear()
    for type_, place in version.homes.items():
        set_home([type_], place)
    lane_name.cache_clear()
    yield


class Fate:
    """The death of a process: before or after one of its next statements and sends."""

    def __init__(self, left: int = -1, *, after: bool = False) -> None:
        self.left, self._after = left, after

    def __call__(self, _: object, send: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left == 0 and not self._after:
            raise Death
        result = send()
        if self.left == 0:
            raise Death
        return result


class Queues(KitQueues):
    """The queues of a deploy. A process that uses them may die."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        super().__init__(SimpleNamespace(seconds=seconds))  # type: ignore[arg-type]
        self.deployed: set[str] = set()
        self.fate = Fate()

    def send(self, entry: Entry, *, sent_at: float = 0.0) -> str:
        if entry.queue not in self.deployed:
            raise SendError(f"{entry.queue} does not exist")
        return super().send(entry, sent_at=sent_at)

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        return self.fate(entries, lambda: super(Queues, self).send_many(entries, brief=brief))  # type: ignore[no-any-return]

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[str, str]:
        return super().attributes(str(queue), names)

    def holds(self, lane: str) -> bool:
        return bool(self.queues[lane] or self.queues[dead_letter_name(lane)])


@dataclass
class Process:
    """A process of a function."""

    version: Version
    database: HookedDatabase
    handle: Any
    fate: Fate = field(default_factory=Fate)


class MovesStorm:
    """A storm. ``steps``: the number of things that happen until the faults end. ``deaths``: the share of things in
    which a process dies."""

    def __init__(self, url: str, seed: int, steps: int, *, deaths: float = 0.1, calm: bool = False) -> None:
        self._url, self._steps, self._deaths, self._is_calm = url, steps, deaths, calm
        self._dice = random.Random(f"moves {seed}")
        self.result = Result(seed, HELD)
        self.count: Counter[str] = self.result.counts
        self._ids = itertools.count(1)
        self._accepted: set[str] = set()
        self._redriven: set[str] = set()
        self._parked: set[str] = set()
        self._doubled: set[str] = set()
        """The ids of messages that SQS may deliver again."""

    def go(self) -> Result:
        began, ways = time.perf_counter(), Ways.mixed(self.result.seed)
        with ExitStack() as stack:
            with Database(self._url, limits=None) as owner:
                owner.get().execute_simple(TABLE)
                clock.install(owner.get())
            observer = stack.enter_context(Database(self._url, limits=None))
            self._sql = observer.get().run
            self._clock = clock.Clock(observer.get(), BEGINS)
            self._clock.sync()
            known, random_state = dict(names._homes), random.getstate()
            stack.callback(lane_name.cache_clear)
            stack.callback(names._homes.update, known)
            stack.callback(names._homes.clear)
            stack.callback(random.setstate, random_state)
            random.seed(self.result.seed)
            environment = {
                settings.SWEEP_MINUTES: str(round(SWEEP_SECONDS / 60)),
                "POWERTOOLS_METRICS_DISABLED": "true",
            }
            stack.enter_context(patch.dict(os.environ, environment))
            stack.enter_context(clock.virtual(lambda: self._clock.now, self._forward))
            stack.enter_context(ways.switched())
            task_types.register(observer.get(), TASKS)
            self._start()
            self._blow()
            self._end()
            for process in self._processes.values():
                process.database.drop()
        self.count += ways.counts
        self.result.wrong += never_short(self.count)
        self.result.seconds = time.perf_counter() - began
        return self.result

    def _start(self) -> None:
        self._version = version = Version(
            {type_: task.place.name if task.place else None for type_, task in TASKS.items()}
        )
        self._actors = dict.fromkeys(["producers", "schedules", "sweep", *self._functions(version)], version)
        self.queues = Queues(lambda: self._clock.now)
        self._consumers = version.lanes()
        self._add_queues(self._consumers)
        self._processes: dict[str, Process] = {}
        self._deploying: list[Callable[[], object]] = []
        self._swept_at = self._tick_at = self._clock.now

    def _functions(self, version: Version) -> list[str]:
        return sorted(set(version.lanes().values()))

    def _add_queues(self, lanes: Mapping[str, str]) -> None:
        self.queues.deployed |= {name for lane in lanes for name in (lane, dead_letter_name(lane))}

    def _wrong(self, line: str) -> None:
        self.result.wrong.append(line)

    # --- Time and chance ---------------------------------------------------------------------------------------------

    def _forward(self, seconds: float) -> None:
        self._clock.now += seconds
        self._clock.sync()

    def _draw(self) -> Fate:
        dies = self._dice.random() < self._deaths
        return Fate(self._dice.randrange(1, 9), after=self._dice.random() < 0.5) if dies else Fate()

    @contextmanager
    def _dying(self, version: Version, fate: Fate) -> Iterator[None]:
        """Act as a process of this version, which may die."""
        self.queues.fate = fate
        try:
            with seen(version):
                yield
        finally:
            self.queues.fate = Fate()

    # --- What happens ------------------------------------------------------------------------------------------------

    def _blow(self) -> None:
        acts = (self._enqueue, self._deliver, self._pass_time, self._deploy, self._external, self._redrive)
        weights = (4, 12, 4, 1, 0, 1) if self._is_calm else (2, 12, 4, 2, 3, 1)
        for _ in range(self._steps):
            self._dice.choices(acts, weights)[0]()
            self._duties()

    def _end(self) -> None:
        """Let nothing fail and nothing move any more, until all has ended."""
        self._deaths = 0.0
        while self._deploying:
            self._deploying.pop(0)()
        for _ in range(MOST_ROUNDS):
            while self._deliver():
                pass
            self._redrive()
            lanes = [lane for lane in self.queues.deployed if not lane.endswith("-dlq")]
            if not self._sql(LIVE) and not any(self.queues.holds(lane) for lane in lanes):
                break
            self._pass_time()
            self._duties(ticks=False)
        else:
            self._wrong(f"has not ended: {self._sql(LIVE)}")
        for lane, consumer in self._consumers.items():
            if self.queues.holds(lane):
                self._wrong(f"messages are left in {lane}, whose function is {consumer}")
        for lane in self.queues.deployed - self._consumers.keys():
            if self.queues.queues[lane]:
                self._wrong(f"messages are left in {lane}, which no function reads")
        rows = {id_ for (id_,) in self._sql("select id from joblane.tasks")}
        self.result.wrong += [f"lost: {id_}" for id_ in sorted(self._accepted - rows)]
        for line, statement in RULES.items():
            self.result.wrong += [line.format(*row) for row in self._sql(statement)]
        self.count["tasks"] = len(rows)
        [[lost]] = self._sql("select count(*)::int from joblane.runs where outcome = 'lost'")
        self.count["runs lost"] = lost
        if lost > self.count["functions that died"] * 4:
            self._wrong(f"{lost} runs were lost")

    def _duties(self, *, ticks: bool = True) -> None:
        """Do what happens by itself: a step of the deploy, ticks and sweeps."""
        if self._deploying:
            self._deploying.pop(0)()
        task = TASKS["move:tick"]
        while (at := self._tick_at + TICK_SECONDS) <= self._clock.now:
            self._tick_at = at
            if ticks:
                with seen(self._actors["schedules"]), suppress(SendError):
                    self.queues.send(tick_entry(PREFIX, task, task.schedules[0], datetime.fromtimestamp(at, UTC)))
                    self.count["ticks"] += 1
        if self._clock.now >= self._swept_at + SWEEP_SECONDS:
            self._sweep()

    def _sweep(self) -> None:
        self._swept_at = self._clock.now
        fate = Fate() if self._is_calm else self._draw()
        database = HookedDatabase(self._url, fate)
        try:
            with self._dying(self._actors["sweep"], fate):
                self.count["messages sent by the sweep"] += sweep(database.get(), self.queues, PREFIX).sent
        except Death:
            self.count["sweeps that died"] += 1
        finally:
            database.drop()
        if self._is_calm and not self._deploying:
            self._check_late()

    def _check_late(self) -> None:
        """Check that each due task has a message. A message of another task may hide that one is missing."""
        waiting = {id_: (type_, late) for id_, type_, late in self._sql(WAITING, str(LATE_SECONDS))}
        with seen(self._actors["sweep"]):
            lanes = {id_: lane_name(PREFIX, TASKS[type_].queue, type_) for id_, (type_, _) in waiting.items()}
        for lane in set(lanes.values()):
            ids = [decode(message.entry.body).id for message in self.queues.queues[lane].values()]
            others = len(ids) - len({id_ for id_ in ids if id_ and lanes.get(id_) == lane})
            late = [id_ for id_, of in lanes.items() if of == lane and waiting[id_][1] and id_ not in ids]
            if len(late) > others:
                self._wrong(f"late: {', '.join(late)} are due and have no message")

    def _pass_time(self) -> None:
        found = self.queues.next_lane()
        wait = self._dice.choice((1, 15, 60)) if found is None else max(0.5, found[1] - self._clock.now)
        self._forward(min(wait + self._dice.random(), SWEEP_SECONDS))

    def _enqueue(self) -> None:
        # a calm producer dies before it sends its message, at the most
        fate = Fate(self._dice.choice((0, 1))) if self._is_calm else self._draw()
        type_ = self._dice.choice([type_ for type_ in TASKS if type_ != "move:tick"])
        id_ = f"r{next(self._ids):05}"
        options: dict[str, Any] = {}
        waits = (0, 0, 800) if self._is_calm else (0, 0, 0, 20, 400, 2000)
        if (wait := self._dice.choice(waits)) > 0:
            options["process_in"] = timedelta(seconds=wait * self._dice.uniform(0.9, 1.1))
        database = HookedDatabase(self._url, Fate() if self._is_calm else fate)
        try:
            with self._dying(self._actors["producers"], fate):
                client_within(database, self.queues, PREFIX).enqueue(
                    TASKS[type_], self._payload(), task_id=id_, **options
                )
                self._accepted.add(id_)
                self.count["tasks enqueued"] += 1
        except (Death, DatabaseUnavailableError):
            self.count["producers that died"] += 1
        finally:
            database.drop()

    def _payload(self) -> Work:
        words = ("fail", "fail", "retry:5", "retry:1500", "snooze:30", "snooze:1200", "skip")
        return Work(script=tuple(self._dice.choices(words, k=self._dice.choice((0, 0, 1, 2)))))

    def _external(self) -> None:
        """Send a message without a row, as the router does for a program of another language."""
        type_, id_ = self._dice.choice([type_ for type_ in TASKS if type_ != "move:tick"]), f"x{next(self._ids):05}"
        with seen(self._actors["producers"]), suppress(SendError):
            body = Message(type_, id_, self._payload().model_dump(mode="json")).encode()
            self.queues.send(Entry(lane_name(PREFIX, TASKS[type_].queue, type_), body))
            self._accepted.add(id_)
            self.count["messages without a row"] += 1

    def _redrive(self) -> None:
        """Send the dead letters of first lives back to the lanes that they came from."""
        for lane in sorted(self._consumers):
            for message in list(self.queues.queues[dead_letter_name(lane)].values()):
                id_, generation = decode(message.entry.body).id, message.entry.attributes[DEAD_ATTRIBUTE]["StringValue"]
                self.queues.delete(message)
                if id_ is None or generation != "0" or id_ in self._redriven:
                    self._wrong(f"dead: {id_}, generation {generation}") if id_ is None else None
                    continue
                self._redriven.add(id_)
                self.count["dead letters redriven"] += 1
                self.queues.send(replace(message.entry, queue=lane))

    # --- Functions ---------------------------------------------------------------------------------------------------

    def _deliver(self) -> bool:
        """Deliver messages of a lane. Return False if no lane has a visible one."""
        waiting = [
            lane
            for lane in sorted(self._consumers)
            if (at := self.queues.next_visible_at(lane)) is not None and at <= self._clock.now
        ]
        if not waiting:
            return False
        lane = self._dice.choice(waiting)
        function = self._consumers[lane]
        process = self._processes.get(function) or self._start_process(function)
        own = {type_ for type_ in TASKS if self._runs(process.version, function, type_)}
        size = 4 if function.removeprefix(f"{PREFIX}-") in PLACES else max(TASKS[type_].batch_size for type_ in own)
        batch = self.queues.receive(lane, self._dice.randint(1, size), VISIBILITY_SECONDS, 10_000)
        Here.name, process.fate = function, Fate() if self._is_calm else self._draw()
        before = self._outside(own)
        try:
            with self._dying(process.version, process.fate):
                invocation = Invocation(f"00000000-0000-4000-8000-{next(self._ids):012}", FUNCTION_SECONDS)
                kept = process.handle([message.received() for message in batch], invocation).kept
        except Death:
            self.count["functions that died"] += 1
            self._doubled |= {message.message_id for message in batch}
            self._processes.pop(function).database.drop()
            return True
        if started := self._outside(own) - before:
            self._wrong(f"{function} has run {sorted(started)}")
        for message in batch:
            self._note(message, own, lane, kept=message.message_id in kept)
        lost = {message.message_id for message in batch if self._dice.random() < DELETE_LOST * (self._deaths > 0)}
        self._doubled |= lost
        self.queues.delete_handled(batch, [*kept, *lost])
        self._forward(self._dice.random())
        return True

    def _outside(self, own: set[str]) -> set[str]:
        """Return the runs of tasks of other types."""
        rows = self._sql(
            "select r.task_id || ' ' || r.run from joblane.runs r join joblane.tasks t on t.id = r.task_id"
            " where t.type <> all($1::text[])",
            sorted(own),
        )
        return {row[0] for row in rows}

    def _note(self, message: Any, own: set[str], lane: str, *, kept: bool) -> None:
        """Count a message that was parked or drained, and check that a parked one does not come again."""
        body = decode(message.entry.body)
        if body.type in own:
            is_own = lane.endswith(names.slug_of(body.type))
            self.count["messages drained"] += is_own and Here.name.removeprefix(f"{PREFIX}-") in PLACES
            return
        self.count["messages parked"] += 1
        if message.message_id in self._parked and message.message_id not in self._doubled:
            states = [row[0] for row in self._sql("select state from joblane.tasks where id = $1", body.id)]
            if kept and states != ["active"]:
                self._wrong(f"{Here.name} keeps a message of {body.type}, whose task is {states}")
        self._parked.add(message.message_id)

    def _runs(self, version: Version, function: str, type_: str) -> bool:
        with seen(version):
            return function_name(PREFIX, type_) == function

    def _hook_of(self, function: str) -> Hook:
        """Return the hook of a function's process, whose fate is another one in each invocation."""

        def hook(statement: str, send: Callable[[], Any]) -> Any:
            return self._processes[function].fate(statement, send)

        return hook

    def _start_process(self, function: str) -> Process:
        version = self._actors[function]
        tasks = version.tasks()
        process = Process(version, HookedDatabase(self._url, self._hook_of(function)), None)
        database, place = process.database, function.removeprefix(f"{PREFIX}-")
        if place in PLACES:
            side = database.another()
            types = {type_: type_ for type_, home in version.homes.items() if home == place}

            def worker(kind: type[Worker], task: Task[Any, Any]) -> Worker:
                return kind(task, database, self.queues, PREFIX, side=side)

            group = Group(types, self.queues, PREFIX, aliases={}, load=tasks.__getitem__, worker=worker)
            process.handle = group.handle
        else:
            [task] = [task for type_, task in tasks.items() if self._runs(version, function, type_)]
            process.handle = Worker(task, database, self.queues, PREFIX).handle
        self._processes[function] = process
        return process

    # --- Deploys -----------------------------------------------------------------------------------------------------

    def _deploy(self) -> None:
        """Begin a deploy that moves some types. Its queues are there at once."""
        if self._deploying:
            return
        homes = dict(self._version.homes)
        for type_ in self._dice.sample(sorted(MOVING), self._dice.randint(1, 3)):
            homes[type_] = self._dice.choice([place for place in (None, *PLACES) if place != homes[type_]])
            self.count["moves"] += 1
        own = Version(dict.fromkeys(MOVING)).lanes()
        drains = {
            type_
            for type_ in MOVING
            if homes[type_] is not None
            for lane in [next(lane for lane in own if lane.endswith(names.slug_of(type_)))]
            # its function was its own until now, or the lane is not empty yet
            if self._version.homes[type_] is None or (lane in self.queues.deployed and self.queues.holds(lane))
        }
        version = self._version = Version(homes, frozenset(drains))
        lanes = version.lanes()
        self._add_queues(lanes)
        steps: list[Callable[[], object]] = [
            *(lambda actor=actor: self._update(actor, version) for actor in [*self._actors, *self._functions(version)]),
            *(lambda lane=lane, to=to: self._consumers.update({lane: to}) for lane, to in lanes.items()),
        ]
        self._dice.shuffle(steps)
        # a function is there before its first message, and an unused lane is deleted in the end
        for function in self._functions(version):
            self._actors.setdefault(function, version)
        self._deploying = [*steps, lambda: self._finish(lanes)]

    def _update(self, actor: str, version: Version) -> None:
        if actor in self._functions(version) or actor in ("producers", "schedules", "sweep"):
            self._actors[actor] = version
            if actor in self._processes:
                self._processes.pop(actor).database.drop()

    def _finish(self, lanes: Mapping[str, str]) -> None:
        """Delete the queues and functions that no version needs any more. The preflight keeps those with messages."""
        self.count["deploys"] += 1
        for lane in self._consumers.keys() - lanes.keys():
            del self._consumers[lane]
            if not self.queues.holds(lane):
                self.queues.deployed -= {lane, dead_letter_name(lane)}
        for actor in [actor for actor in self._actors if actor not in ("producers", "schedules", "sweep")]:
            if actor not in self._consumers.values():
                del self._actors[actor]
                if actor in self._processes:
                    self._processes.pop(actor).database.drop()
