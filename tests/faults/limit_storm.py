"""A storm of limits: threads run thousands of tasks while workers die, messages come twice, and limits move.

The workers, the client and the statements are the library's. The queues are in memory, and their times run
:data:`SPEED` times as fast. A worker dies by an error that nothing catches, at one of its statements, with its
connection cut. The sweep of the storm only sends messages again; it serves no limit, so that a limit which nobody has
served is found.
"""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, pairwise
from typing import Any
from unittest.mock import patch

from joblane.client import JobClient
from joblane.errors import JobError
from joblane.job import Job
from joblane.maintenance.held import UNSERVED, Held
from joblane.maintenance.sends import Sends
from joblane.queues import Queue, lane_name
from joblane.record.database import Database
from joblane.record.functions import FUNCTIONS, VERSION
from joblane.record.serve import Turn, serve
from joblane.record.states import LIVE_SQL
from joblane.record.task_types import LIMITS, declared_limits
from joblane.record.transitions import TURN, assignments
from joblane.sqs.client import Entry
from joblane.sqs.message import DEAD_ATTRIBUTE, Message
from joblane.testing.faults import HookedDatabase
from joblane.worker import run as worker_run
from joblane.worker import worker as worker_module
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event, record
from tests.faults.limit_samples import POOL, TASKS, Work

PREFIX = "flow"
SPEED = 10.0
LEASE_SECONDS = 0.8
VISIBILITY_SECONDS = 1.5
THREADS = 12
PATIENCE_SECONDS = 1.0
MOVES = (5, 1, 0, 3, 5)
"""The values of the shared limit, half a second each."""
LEVELS = {"key_limit": 1, "total_limit": 3, "shared_limit": 5}
"""Column of a limit → the least ``passed`` of a task that has a slot of it."""
SWEEP = """
update joblane.tasks t set sweep_at = clock_timestamp() + interval '61 s'
 where t.id in (select id from joblane.tasks where finished_at is null and state <> 'held'
                   and (state <> 'active' or lease_until < clock_timestamp()) and due_at <= clock_timestamp()
                   and sweep_at <= clock_timestamp() + interval '58 s'
                 order by id for no key update skip locked)
returning t.id, t.type, t.queue, t.tenant
"""
"""The tasks whose message is missing for two seconds."""


class Death(KeyboardInterrupt):
    """The end of a worker's process: the only error that a worker lets pass."""


@dataclass
class Result:
    """``wrong``: the violated rules, one line each."""

    seed: int
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [f"seed {self.seed}: {self.seconds:.0f} s"]
        lines += [f"{name:<60} {number:>7}" for name, number in sorted(self.counts.items())]
        return "\n".join([*lines, *(["WRONG:", *self.wrong] if self.wrong else ["Every limit held."])])


class Lanes:
    """The queues, in the place of :class:`joblane.sqs.client.Sqs`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[str, list[tuple[float, int, dict[str, Any]]]] = defaultdict(list)
        self._flying: dict[str, dict[str, Any]] = {}
        self._numbers = count()
        self._visibility: dict[str, float] = {}
        self.dead: list[Entry] = []

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        for entry in entries:
            if entry.queue.endswith("-dlq"):
                self.dead.append(entry)
            else:
                attributes = {name: (kind, value) for name, (kind, value) in _attributes(entry).items()}
                self.put(entry.queue, entry.body, entry.delay_seconds, entry.group, attributes)
        return {}

    def put(
        self, queue: str, body: str, delay: float = 0, group: str | None = None, attributes: Mapping[str, Any] = {}
    ) -> None:
        message = {"queue": queue, "body": body, "group": group, "attributes": attributes, "receives": 0}
        self._push(message, delay / SPEED)

    def _push(self, message: dict[str, Any], seconds: float) -> None:
        with self._lock:
            heapq.heappush(self._messages[message["queue"]], (time.monotonic() + seconds, next(self._numbers), message))

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        self._visibility.update(receipts)

    def receive(self, queue: str, most: int) -> list[dict[str, Any]]:
        """Return records. They come back after the visibility timeout, unless they are answered."""
        records: list[dict[str, Any]] = []
        with self._lock:
            messages = self._messages[queue]
            while messages and len(records) < most and messages[0][0] <= time.monotonic():
                message = heapq.heappop(messages)[2]
                message["receives"] += 1
                made = record(
                    message["body"], queue, group=message["group"], attributes=message["attributes"],
                    receives=message["receives"],
                )  # fmt: skip
                records.append(made)
                copy = dict(message, receipt=made["receiptHandle"])
                self._flying[made["receiptHandle"]] = copy
                heapq.heappush(messages, (time.monotonic() + VISIBILITY_SECONDS, next(self._numbers), copy))
        return records

    def answer(self, records: Sequence[dict[str, Any]], failed: set[str]) -> None:
        for one in records:
            receipt = one["receiptHandle"]
            message = self._flying.pop(receipt)
            with self._lock:
                messages = self._messages[message["queue"]]
                left = [item for item in messages if item[2] is not message]
                found = len(left) < len(messages)
                if found:
                    heapq.heapify(left)
                    self._messages[message["queue"]] = left
            if found and one["messageId"] in failed:
                self._push(message, self._visibility.pop(receipt, 0) / SPEED)

    @property
    def number(self) -> int:
        return sum(len(messages) for messages in self._messages.values())


def _attributes(entry: Entry) -> Mapping[str, tuple[str, str]]:
    return {name: (value["DataType"], value["StringValue"]) for name, value in (entry.attributes or {}).items()}


class Storm:
    """A storm. ``deaths``: the share of invocations in which the worker dies. Without deaths, no task may wait for a
    limit that has a slot for it, other than for the moment between a commit and the statement that serves."""

    def __init__(
        self, url: str, seed: int, tasks: int, *, keys: int = 20, seconds: float = 100.0, deaths: float = 0.3
    ) -> None:
        self._deaths = deaths
        self._url, self._dice, self._number, self._keys = url, random.Random(seed), tasks, keys
        self._ends = time.monotonic() + seconds
        self._lanes: Any = Lanes()
        self._over = threading.Event()
        self._produced = threading.Event()
        self._observer = Database(url)
        self._redriven: set[tuple[str, str]] = set()
        self._pool_values: list[tuple[float, int]] = [(0.0, POOL.total or 0)]
        self.result = Result(seed)
        self._counts = self.result.counts
        self._lock = threading.Lock()

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    def go(self) -> Result:
        started = time.monotonic()
        sql = self._observer.get().run
        sql("create table if not exists public.effects (id text)")
        sql(LIMITS, json.dumps(declared_limits(TASKS)))
        duties: list[Callable[[], None]] = [
            self._produce, self._watch, self._move, self._cancel, self._pause, self._sweep, *[self._work] * THREADS,
        ]  # fmt: skip
        with (
            patch.object(worker_module, "LEASE_MARGIN", timedelta(0)),
            patch.object(worker_run, "KILL_MARGIN_SECONDS", 0.0),
            patch.object(worker_module, "serve", self._counting_serve),
        ):
            threads = [threading.Thread(target=self._safely, args=(duty,), daemon=True) for duty in duties]
            for thread in threads:
                thread.start()
            self._await_end()
            self._over.set()
            for thread in threads:
                thread.join()
        self._check()
        self.result.seconds = time.monotonic() - started
        self._observer.drop()
        return self.result

    def _counting_serve(self, *arguments: Any) -> list[Turn]:
        turns = serve(*arguments)
        self.count("turns given after a run", len(turns))
        return turns

    def _safely(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:
            self.result.wrong.append(f"{duty.__name__}: {type(error).__name__}: {error}")

    def _await_end(self) -> None:
        """Wait until no task is live. Tasks that are only held are served by the sweep's own step, and counted."""
        quiet = 0
        while time.monotonic() < self._ends:
            time.sleep(0.1)
            [[live, held]] = self._sql("select count(*), count(*) filter (where state = 'held') from joblane.tasks"
                                       " where finished_at is null")  # fmt: skip
            if not self._produced.is_set():
                continue
            if live == 0 and self._lanes.number == 0:
                return
            quiet = quiet + 1 if live == held > 0 and self._lanes.number == 0 else 0
            if quiet >= 20:
                held_step = Held(PREFIX, Sends(self._observer.get(), self._lanes))
                list(held_step.steps())
                self.count("tasks served by the sweep", held_step.served)
                quiet = 0
        self.result.wrong.append("the storm did not end in time")

    def _sql(self, statement: str, *parameters: Any) -> list[list[Any]]:
        with self._lock:
            return self._observer.get().run(statement, *parameters)

    # --- Producers --------------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        database = Database(self._url)
        client = JobClient.within(database, self._lanes, PREFIX)
        number = 0
        while number < self._number:
            jobs = [self._job(number + n) for n in range(min(self._dice.randint(1, 12), self._number - number))]
            number += len(jobs)
            foreign = self._dice.random() < 0.3
            if foreign:
                for job in jobs:
                    payload = job.payload.model_dump(mode="json")
                    body = Message(job.task.type, str(job.task_id), payload).encode()
                    self._lanes.put(lane_name(PREFIX, Queue.DEFAULT, job.task.type), body, group=job.tenant)
            else:
                for result in client.enqueue_many(jobs):
                    assert not isinstance(result, JobError), result
            for job in jobs:
                if self._dice.random() < 0.15:
                    self.count("messages that came twice")
                    body = Message(job.task.type, str(job.task_id), rec=True).encode()
                    delay = self._dice.random() * 3
                    if not foreign:
                        self._lanes.put(lane_name(PREFIX, Queue.DEFAULT, job.task.type), body, delay, job.tenant)
            time.sleep(0.001)
        database.drop()
        self._produced.set()

    def _job(self, number: int) -> Job:
        task = self._dice.choice(list(TASKS.values()))
        script: list[str] = []
        dice = self._dice.random()
        if dice < 0.09:
            script = ["retry"]
        elif dice < 0.12:
            script = ["snooze"]
        elif dice < 0.14:
            script = ["fail"] * 9
        key = self._dice.randrange(self._keys) if self._dice.random() < 0.95 else None
        return Job(task, Work(key=key, script=tuple(script)), task_id=f"t{number:05}", tenant=self._dice.choice("abc"))

    # --- Workers ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        dice = random.Random(self._dice.random())
        while not self._over.is_set():
            fate = Fate(dice, self._deaths, self.count)
            database = HookedDatabase(self._url, fate.hook)
            workers = {task.type: Worker(task, database, self._lanes, PREFIX) for task in TASKS.values()}
            with suppress(Death):
                while not self._over.is_set():
                    self._deliver(workers, dice, fate)
            database.drop()

    def _deliver(self, workers: Mapping[str, Worker], dice: random.Random, fate: Fate) -> None:
        task = dice.choice(list(TASKS.values()))
        queue = lane_name(PREFIX, Queue.DEFAULT, task.type)
        records = self._lanes.receive(queue, task.batch_size)
        if not records:
            time.sleep(0.002)
            return
        fate.begin()
        context = LambdaContext(seconds=LEASE_SECONDS, aws_request_id=f"{dice.random()}")
        answer = workers[task.type].handle(event(*records), context)
        self.count("invocations")
        self._lanes.answer(records, {item["itemIdentifier"] for item in answer["batchItemFailures"]})
        if self._lanes.dead and dice.random() < 0.5:
            self._redrive()

    def _redrive(self) -> None:
        with suppress(IndexError):
            dead_letter = self._lanes.dead.pop()
            attributes = _attributes(dead_letter)
            id_ = json.loads(dead_letter.body)["id"]
            generation = attributes[DEAD_ATTRIBUTE][1]
            with self._lock:
                if (id_, generation) in self._redriven or int(generation) > 0:
                    return
                self._redriven.add((id_, generation))
            self.count("tasks redriven")
            lane = dead_letter.queue.removesuffix("-dlq")
            for _ in range(2):
                self._lanes.put(lane, dead_letter.body, 0, dead_letter.group, attributes)

    # --- What else happens ------------------------------------------------------------------------------------------

    @contextmanager
    def _client(self) -> Iterator[tuple[Database, JobClient]]:
        database = Database(self._url)
        yield database, JobClient.within(database, self._lanes, PREFIX)
        database.drop()

    def _every(self, seconds: float) -> Iterator[None]:
        while not self._over.wait(seconds):
            yield

    def _cancel(self) -> None:
        dice = random.Random(self._dice.random())
        with self._client() as (database, client):
            for _ in self._every(0.03):
                rows = database.get().run(
                    f"select id from joblane.tasks where state in {LIVE_SQL} and state <> 'active' offset $1 limit 1",
                    dice.randrange(40),
                )
                for (id_,) in rows if dice.random() < 0.5 else ():
                    self.count("tasks cancelled", client.cancel(id_) is not None)

    def _pause(self) -> None:
        dice = random.Random(self._dice.random())
        with self._client() as (database, _):
            for _ in self._every(0.7):
                scope, name = dice.choice([("type", type_) for type_ in TASKS] + [("tenant", "a")])
                run = database.get().run
                run("insert into joblane.pauses (scope, name) values ($1, $2) on conflict do nothing", scope, name)
                self.count("pauses")
                time.sleep(dice.random() * 0.4)
                run("delete from joblane.pauses")

    def _move(self) -> None:
        with self._client() as (database, _):
            for number, _ in enumerate(self._every(0.5)):
                value = MOVES[number % len(MOVES)]
                self._pool_values.append((time.monotonic(), value))
                self._set_pool(database, value)
            self._set_pool(database, POOL.total or 0)

    def _set_pool(self, database: Database, value: int) -> None:
        database.get().run(
            "insert into joblane.limit_changes (name, slots) values ($1, $2)"
            " on conflict (name) do update set slots = excluded.slots",
            POOL.name,
            value,
        )
        self._serve_pool(database)

    def _serve_pool(self, database: Database) -> None:
        self._lanes.send_many([turn.entry(PREFIX) for turn in serve(database.get(), [[None, None, POOL.name]])])

    def _sweep(self) -> None:
        with self._client() as (database, _):
            for _ in self._every(0.3):
                for id_, type_, queue, tenant in database.get().run(SWEEP):
                    self.count("messages sent by the sweep")
                    body = Message(type_, id_, rec=True).encode()
                    self._lanes.put(lane_name(PREFIX, Queue(queue), type_), body, 0, tenant)

    # --- The check --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Count the slots of each limit from outside."""
        allowed = {name: slots for name, slots, _ in _declared()}
        seen: dict[str, float] = {}
        with self._client() as (database, _):
            for _ in self._every(0.03):
                self.count("snapshots")
                at = time.monotonic()
                for column, level in LEVELS.items():
                    for name, running in database.get().run(
                        f"select {column}, count(*) from joblane.tasks where {column} is not null and passed >= {level}"
                        f" and finished_at is null and state in {LIVE_SQL} group by 1"
                    ):
                        most = self._most_of_pool(at) if name == POOL.name else allowed[_declared_name(name)]
                        if most is not None and running > most:
                            self._wrong(f"over the limit: {running} of {most} {name}")
                unserved = {row[3] for row in database.get().run(UNSERVED)}
                seen = {name: seen.get(name, at) for name in unserved}
                late = {name for name, since in seen.items() if at - since > PATIENCE_SECONDS}
                self.count("times that tasks have waited next to free room for a second", len(late))
                if late and not self._deaths:
                    self._wrong(f"waits next to free room: {', '.join(sorted(late))}")
                for name in late:
                    seen[name] = float("inf")

    def _most_of_pool(self, at: float) -> int:
        """The highest value of the last four seconds: lowering a limit stops no task."""
        values = self._pool_values
        recent = [value for (_, value), (until, _) in pairwise([*values, (at, 0)]) if until >= at - 4]
        return max(recent)

    def _wrong(self, line: str) -> None:
        with self._lock:
            if len(self.result.wrong) < 20:
                self.result.wrong.append(line)

    def _check(self) -> None:
        for id_, state in self._sql("select id, state from joblane.tasks where finished_at is null"):
            self._wrong(f"left: {id_} is {state}")
        for id_, state, effects in self._sql(
            "select t.id, t.state, (select count(*) from public.effects e where e.id = t.id) from joblane.tasks t"
            " where (t.state = 'completed') <> ((select count(*) from public.effects e where e.id = t.id) = 1)"
        ):
            self._wrong(f"{effects} effects: {id_} is {state}")
        [[number]] = self._sql("select count(*) from joblane.tasks")
        if number != self._number:
            self._wrong(f"{number} rows of {self._number} tasks")
        self._check_order()
        died = self._counts["workers that died after a commit"]
        if self._counts["tasks served by the sweep"] > died:
            self._wrong(
                f"{self._counts['tasks served by the sweep']} tasks were served by the sweep alone, with {died} deaths"
            )

    def _check_order(self) -> None:
        """A task of an ordered key starts only after all before it have ended, as far as they were there."""
        pairs = self._sql("""
            select count(*)::int from joblane.tasks a join joblane.tasks b
                on a.key_limit = b.key_limit and (a.first_due_at, a.seq) < (b.first_due_at, b.seq)
             where a.ordered and b.ordered and a.generation = 0 and b.generation = 0""")
        self._counts["pairs in an order"] = pairs[0][0]
        for first, second in self._sql("""
            select a.id, b.id from joblane.tasks a join joblane.tasks b
                on a.key_limit = b.key_limit and (a.first_due_at, a.seq) < (b.first_due_at, b.seq)
             where a.ordered and b.ordered and a.generation = 0 and b.generation = 0
               and exists (select from joblane.task_attempts x join joblane.task_attempts y
                             on y.task_id = b.id and x.task_id = a.id
                            where y.started_at < x.started_at and y.started_at > a.created_at + interval '1 s')
             limit 5"""):
            self._wrong(f"order broken: {second} ran before {first}")


def _declared() -> Iterator[tuple[str, int | None, Any]]:
    for task in TASKS.values():
        if task.flow is not None:
            yield from task.flow.declared(task.type)


def _declared_name(name: str) -> str:
    return f"{name.split('/', maxsplit=1)[0]}/" if "/" in name else name


class Fate:
    """The death of a worker: at a statement of an invocation, before or after it, or none."""

    def __init__(self, dice: random.Random, share: float, count: Callable[[str], None]) -> None:
        self._dice, self._share, self._count = dice, share, count
        self._left = -1
        self._after = False

    def begin(self) -> None:
        dies = self._dice.random() < self._share
        self._left = self._dice.randrange(1, 9) if dies else -1
        self._after = self._dice.random() < 0.5

    def hook(self, statement: str, send: Callable[[], Any]) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            self._count("workers that died before a statement")
            raise Death
        result = send()
        if self._left == 0:
            self._count("workers that died after a commit")
            raise Death
        return result


# --- Planted bugs -----------------------------------------------------------------------------------------------------

LOCK = f"perform joblane.lock_limits_{VERSION}("
PLANTS: Mapping[str, tuple[str, str, str]] = {
    "the claim takes no lock": ("claim", f"{LOCK}locked_limits);", "null;"),
    "serving takes no lock": ("serve_limits", LOCK, "perform cardinality("),
    "only one task is served": (
        "serve_limits",
        f"while joblane.has_room_{VERSION}(limit_name, level, l.slots) loop",
        f"for once in 1 .. 1 loop exit when not joblane.has_room_{VERSION}(limit_name, level, l.slots);",
    ),
    "a turn takes no slot": ("serve_limits", assignments(TURN), assignments(TURN | {"passed": "t.passed"})),
    "nobody looks who is first": (
        "pass_limits",
        "(o.first_due_at, o.seq) < (t.first_due_at, t.seq)",
        "false",
    ),
    "a claim that ends a task frees nothing": ("claim", "'frees', frees or", "'frees', false and"),
    "a retry keeps its slots": (
        "finish",
        "when t.ordered and not f.is_end then least(t.passed, 1) else 0 end",
        "when not f.is_end then t.passed else 0 end",
    ),
}
"""Bug → the function of the library, its text, and the text with the bug."""
SILENT: Mapping[str, tuple[Any, str]] = {
    "the end of a run serves nobody": (Worker, "_serve"),
    "a cancel serves nobody": (JobClient, "_serve"),
    "a raised limit serves nobody": (Storm, "_serve_pool"),
}
"""Bug → the class and its method that does nothing."""


def plant(url: str, bug: str) -> None:
    """Plant a bug of :data:`PLANTS` in a database."""
    function, old, new = PLANTS[bug]
    assert old in FUNCTIONS[function], f"{function} has changed: the bug can no longer be planted by this text"
    with Database(url) as database:
        database.get().execute_simple(FUNCTIONS[function].replace(old, new))
