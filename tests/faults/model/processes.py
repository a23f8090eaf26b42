"""Processes: their connections, which are cut when they die, and SQS as they see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from joblane.client.client import JobClient, client_within
from joblane.enqueue.wake import _Waker
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry
from joblane.testing.faults import HookedDatabase, Send
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker
from tests.faults.days.queues import VirtualSqs
from tests.faults.days.samples import PREFIX
from tests.faults.model.actors import AnswerLostError, Killed

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection
    from tests.faults.model.world import World

LOST_SEND = 0.01
"""The share of sends whose answer is lost."""


class Process:
    """A process, which does one thing at a time."""

    worker: Worker | SweepWorker

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_dead = self.is_busy = False
        self.databases: list[ProcessDatabase] = []
        self.waker = _Waker()
        vars(self.waker)["_try_again"] = lambda *_: None
        self.sqs = ProcessSqs(self)
        self.database = ProcessDatabase(self)

    @cached_property
    def client(self) -> JobClient:
        return client_within(self.database, self.sqs, PREFIX)

    def point(self, *, may_suspend: bool = True) -> None:
        self.world.actors.point(self, may_suspend=may_suspend)

    def rest(self, most: int = 4) -> None:
        """Do nothing at a few points."""
        for _ in range(self.world.dice.choice((0, 0, 1, 2, most))):
            self.point()

    def backends(self) -> list[int]:
        """Return the process ids of the back ends of its connections."""
        open_ones = [database._connection for database in self.databases if database._connection is not None]
        pids = [int.from_bytes(connection._backend_key_data[:4], "big") for connection in open_ones]
        return pids + [pid for database in self.databases if (pid := database.asynchronous_backend())]

    def kill(self) -> None:
        """Kill the process, and wait until the server has rolled its transactions back."""
        if self.is_dead:
            return
        self.is_dead = True
        pids = self.backends()
        for database in self.databases:
            database.cut()
            if database._connection is not None:  # SQLAlchemy rolls back when it collects its garbage
                database._connection.__dict__["rollback"] = lambda: None
        self.world.observer.terminate(pids)


class ProcessDatabase(HookedDatabase):
    """A connection of a process, and further ones."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.world.url, self._statement)
        self._process = process
        process.databases.append(self)

    def get(self) -> Connection:
        if self._process.is_dead:
            raise Killed
        return super().get()

    def another(self) -> Database:
        return ProcessDatabase(self._process)

    def cut(self) -> None:
        with suppress(Exception):
            super().cut()
        if self.asynchronous_backend():
            with suppress(Exception):
                self._driver_connection().terminate()

    def asynchronous_backend(self) -> int:
        with suppress(Exception):
            return int(self._driver_connection().get_server_pid())
        return 0

    def _driver_connection(self) -> Any:
        connection: Any = vars(self)["asynchronous"]._connection
        return connection._connection

    def _statement(self, sql: str, send: Send) -> Any:
        process, world = self._process, self._process.world
        process.point()
        world.counts["statements"] += 1
        answer = send()
        process.point()
        if world.actors.loses_answer():
            self.cut()
            raise AnswerLostError("the network has failed")
        return answer


class ProcessSqs(VirtualSqs):
    """SQS as a process sees it: it refuses sends, and loses answers."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.world.queues, process.point)
        self._process, self._world = process, process.world

    def now(self) -> float:
        return self._world.now

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        world, failed = self._world, dict[int, str]()
        for position, entry in enumerate(entries):
            is_wake = brief and entry.queue == world.sweep_lane
            self._process.point(may_suspend=not is_wake)
            if world.chance(world.faults.refuse):
                failed[position] = "InternalError: by the dice"
                world.counts["refused sends"] += 1
                continue
            world.queues.accept(entry)
            if not world.faults.is_calm and world.chance(LOST_SEND):
                failed[position] = "no answer: by the dice"
                world.counts["lost answers of sends"] += 1
            self._process.point(may_suspend=not is_wake)
        return failed


def pool(world: World) -> Callable[[str], Process]:
    """Return a function that returns a free process of a kind, or a new one."""
    kept: dict[str, list[Process]] = {}

    def process(kind: str) -> Process:
        alive = kept[kind] = [each for each in kept.get(kind, ()) if not each.is_dead]
        free = next((each for each in alive if not each.is_busy), None)
        if free is None:
            free = Process(world)
            alive.append(free)
        free.is_busy = True
        return free

    return process
