"""Further producers: debounced asks, batches, schedules, and messages of programs without the library."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from joblane.errors import UnknownScheduleError
from joblane.sqs.client import Entry
from joblane.tasks.job import Job
from joblane.tasks.schedule import cron
from tests.faults.model import samples
from tests.faults.model.processes import Process
from tests.faults.model.producers import MEMBERS, Producers
from tests.faults.model.runs import Work
from tests.faults.model.samples import TASKS
from tests.faults.model.seen import SeenBatch

if TYPE_CHECKING:
    from tests.faults.model.world import World

WAIT = timedelta(seconds=30)
TIMES = ("*/5 * * * *", "*/20 * * * *", "0 * * * *")


class FurtherProducers:
    """The acts of these producers."""

    def __init__(self, world: World, producers: Producers) -> None:
        self._world, self._producers, self._dice, self._seen = world, producers, world.dice, world.seen
        self._asking: set[int] = set()
        self._last_ask = 0

    def ask(self) -> None:
        """Ask for the debounced task of a key. The asks of a key come one after the other."""
        key = self._dice.randint(0, 3)
        if key in self._asking:
            return
        self._asking.add(key)
        self._last_ask += 1
        work = Work(n=self._last_ask, number=key)
        options: dict[str, Any] = {"unique_key": f"d{key}", "debounce": WAIT, "longest": 5 * WAIT}

        def enqueue(process: Process, session: Session | None = None) -> list[str]:
            return [process.client.enqueue(samples.m_asked, work, session=session, **options).id]

        def ask(process: Process) -> None:
            try:
                is_committed = True
                if self._dice.random() < 0.5:
                    ids = enqueue(process)
                else:
                    ids, is_committed = self._producers.in_session(process, partial(enqueue, process))
                if is_committed:
                    self._seen.asks[key] = work.n
                    self._seen.ids += ids
                    self._world.counts["asks"] += 1
            finally:
                self._asking.discard(key)

        self._producers.act("an ask", ask)

    def batch(self) -> None:
        id_, seen = f"b{self._world.new_id()}", SeenBatch()
        self._seen.batches[id_] = seen
        callbacks: dict[str, Any] = {
            kind: Job(samples.m_plain, Work()) for kind in ("on_end", "on_success") if self._dice.random() < 0.75
        }
        seen.callbacks = {f"{id_}:{kind}" for kind in callbacks}

        def add(batch: Any) -> str:
            member = self._world.new_id()
            batch.enqueue(TASKS[self._dice.choice(MEMBERS)], self._producers.work(), task_id=member)
            return member

        def in_session(process: Process, session: Session) -> list[str]:
            with process.client.batch(id_, session=session, **callbacks) as batch:
                return [add(batch) for _ in range(self._dice.randint(0, 5))]

        def fill(process: Process) -> None:
            if self._dice.random() < 0.5:
                members, is_committed = self._producers.in_session(process, partial(in_session, process))
                if is_committed:
                    self._producers.accept(*members)
                    seen.members.update(members)
                    seen.is_sealed = True
            else:
                batch = process.client.batch(id_, **callbacks)
                for _ in range(self._dice.randint(1, 4)):
                    member = add(batch)
                    self._producers.accept(member)
                    seen.members.add(member)
                    process.rest(6)
                if self._dice.random() < 0.7:
                    batch.seal()
                    seen.is_sealed = True
            self._world.counts["batches"] += seen.is_sealed

        self._producers.act("a batch", fill)

    def external(self) -> None:
        """Send a message as a program of another language does."""
        types = ("m:plain", "m:bulky", "m:keyed", "m:only", "m:rated")
        task, lane = self._dice.choice([each for each in self._world.lanes if each[0].type in types])
        id_ = self._dice.choice((None, f"f{self._dice.randint(100, 999)}", f"f{self._dice.randint(1, 60)}"))
        body: dict[str, Any] = {"type": task.type, "payload": {"n": self._dice.randint(0, 3)}}
        if id_:
            body["id"] = id_
        for _ in range(self._dice.choice((1, 1, 2))):
            self._world.queues.send(Entry(lane, json.dumps(body), 0, self._dice.choice((None, "a", "b"))))
        self._world.counts["external messages"] += 1

    def schedule(self) -> None:
        name, what, n = f"s{self._dice.randint(0, 3)}", self._dice.random(), self._dice.randint(0, 2)
        times, missed = self._dice.choice(TIMES), self._dice.choice(("latest", "skip"))

        def change(process: Process) -> None:
            schedules = process.client.schedules
            with suppress(UnknownScheduleError):
                if what < 0.55:
                    schedules.put(name, samples.m_timed, Work(n=n), cron(times), missed=missed)
                    self._world.counts["schedules put"] += 1
                elif what < 0.7:
                    schedules.pause(name)
                elif what < 0.85:
                    schedules.resume(name)
                elif what < 0.93:
                    schedules.delete(name)
                else:
                    schedules.run_now(name)

        self._producers.act("a schedule", change)
