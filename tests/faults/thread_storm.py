"""A storm of threads: producers and workers, queues in memory, and rules that hold at the end.

Workers, clients and statements are the library's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from joblane.client.client import JobClient, client_within
from joblane.names import Queue, lane_name
from joblane.record.driver.database import Database
from joblane.record.task_types import LIMITS, declared_limits
from joblane.tasks.task import Task
from joblane.worker.worker import Worker
from tests.builders.events import invoke
from tests.faults.limit_lanes import Lanes
from tests.faults.result import Result
from tests.patience import PATIENT
from tests.ways import Ways, never_short


class Gate:
    """Any number of threads are inside, or one that keeps the others out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class ThreadStorm:
    """A storm. ``seconds``: one that takes longer is stuck. The first violated rule ends it."""

    prefix: str
    tasks: Mapping[str, Task[Any, Any]]
    tables: str
    """Statements that create the storm's own tables."""
    held = "Every limit held."
    left = "select id, state from joblane.tasks where finished_at is null"
    """The tasks for whose end the storm waits."""

    def __init__(self, url: str, seed: int, *, seconds: float, lanes: Lanes | None = None) -> None:
        self._url, self._seed, self._seconds = url, seed, seconds
        self._lanes: Any = lanes or Lanes()
        self._gate, self._lock, self._over = Gate(), threading.Lock(), threading.Event()
        self.result = Result(seed, self.held)
        self._ways = Ways.mixed(seed)

    def go(self) -> Result:
        self._began = time.monotonic()
        with Database(self._url) as observer, self._ways.switched(), self._patched():
            observer.get().execute_simple(self.tables)
            observer.get().run(LIMITS, json.dumps(declared_limits(self.tasks)))
            self._blow(observer)
            self.result.counts += self._ways.counts
            if not self.result.wrong:
                self._check(observer)
                self.result.wrong += never_short(self.result.counts)
        self.result.seconds = time.monotonic() - self._began
        return self.result

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Change the library for the storm."""
        yield

    def _blow(self, observer: Database) -> None:
        """Run the storm to its end."""
        raise NotImplementedError

    def _check(self, observer: Database) -> None:
        """Check the rules that hold at the end."""
        raise NotImplementedError

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.result.counts[what] += number

    def wrong(self, line: str) -> None:
        with self._lock:
            self.result.wrong.append(line)

    # --- Threads ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _running(self, duties: Sequence[Callable[[], None]], over: threading.Event) -> Iterator[None]:
        """Run duties in threads during the block. ``over`` is set at its end."""
        threads = [threading.Thread(target=self._safely, args=(duty,), daemon=True) for duty in duties]
        with ExitStack() as ends:
            for thread in threads:
                thread.start()
                ends.callback(thread.join)
            ends.callback(over.set)
            yield

    def _safely(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:
            self.wrong(f"{type(error).__name__}: {error}")

    def _await(self, condition: Callable[[], bool], observer: Database, seconds: float = 0.05) -> None:
        """Wait until a condition holds, or a rule is violated."""
        while not self.result.wrong and not condition():
            if time.monotonic() - self._began > self._seconds:
                self.wrong(f"not over in time: {self._live(observer)}, messages: {self._lanes.depth}")
            time.sleep(seconds)

    def _live(self, observer: Database) -> Sequence[Sequence[Any]]:
        """Return some of the tasks for whose end the storm waits."""
        return observer.get().run(f"{self.left} limit 9")

    def _every(self, seconds: float) -> Iterator[None]:
        while not self._over.wait(seconds):
            yield

    @contextmanager
    def _client(self) -> Iterator[tuple[Database, JobClient]]:
        with Database(self._url, limits=PATIENT) as database:
            yield database, client_within(database, self._lanes, self.prefix)

    # --- Queues -------------------------------------------------------------------------------------------------------

    def _lane(self, type_: str) -> str:
        return lane_name(self.prefix, Queue.DEFAULT, type_)

    def _deliver(self, worker: Worker, seconds: float) -> int:
        """Deliver the next messages of a worker's lane. Return their number."""
        records = self._lanes.receive(self._lane(worker.task.type), worker.task.batch_size)
        if records:
            with self._gate.open():
                kept = invoke(worker.handle, *records, seconds=seconds)
            self._lanes.answer(records, kept)
        return len(records)
