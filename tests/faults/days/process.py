"""The events of a day, in the order of their times, and processes: their clocks, connections, and the steps at which
they die or stand still. Code of a process runs in a greenlet, which can wait in it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from greenlet import getcurrent, greenlet
from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.wake import _Waker
from joblane.record.driver.database import Database
from joblane.testing.faults import HookedDatabase, Send
from tests.faults.days.clock import Clock

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection


class Killed(KeyboardInterrupt):
    """The end of a process: the only error that a worker lets pass."""


class Loop:
    """``process``: the one whose code runs now. None: the code of the test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.process: Process | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._hub = getcurrent()
        self._background: WeakSet[greenlet] = WeakSet()

    @property
    def now(self) -> float:
        return self.clock.now

    def seconds(self) -> float:
        """Return the time by the clock of the process whose code runs."""
        return self.clock.now + (self.process.skew if self.process is not None else 0)

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), call))

    def spawn(self, process: Process, call: Callable[[], Any], *, is_background: bool = False) -> None:
        """Run code of a process, which begins at once and may wait. Its death ends it.

        ``is_background``: it stands still while the process is frozen.
        """

        def run() -> None:
            try:
                call()
            except Killed:
                if not process.dead:
                    raise

        code = greenlet(run, self._hub)
        if is_background:
            self._background.add(code)
        self._resume(code, process)

    def sleep(self, seconds: float) -> None:
        """Let other things happen. Raises :class:`Killed` if the process dies meanwhile."""
        process, waiting = self.process, getcurrent()
        if process is None:
            return
        process.alive()
        self.at(self.now + seconds, lambda: self._wake(waiting, process))
        self._hub.switch()
        process.alive()

    def _wake(self, code: greenlet, process: Process) -> None:
        if process.is_frozen and code in self._background:
            process.thaws.append(lambda: self.at(self.now, lambda: self._wake(code, process)))
        else:
            self._resume(code, process)

    def _resume(self, code: greenlet, process: Process) -> None:
        before, self.process = self.process, process
        try:
            code.switch()
        finally:
            self.process = before

    def next_at(self) -> float | None:
        return self._events[0][0] if self._events else None

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, call = heapq.heappop(self._events)
        self.clock.now = max(self.clock.now, when)
        call()


# --- Processes --------------------------------------------------------------------------------------------------------

ENDED = "select not exists (select from pg_stat_activity where pid = $1)"


class Witness(Protocol):
    """Sees what happens to the processes."""

    def used(self, process: Process, sql: str) -> None:
        """A process executes a statement."""

    def died(self, process: Process) -> None:
        """A process dies."""

    def note(self, what: str) -> None:
        """Something else happens."""


class Process:
    """``skew``: its clock is so many seconds ahead. ``observer``: a connection of the test.

    A *step* is the moment before or after a statement or a send. ``dies_at``, ``stalls_at``: the number of the step,
    from 1; 0: never. ``only_sends``: the process dies at a step of a send, and only these count.
    """

    def __init__(self, loop: Loop, name: str, url: str, observer: Connection, witness: Witness) -> None:
        self.loop, self.name = loop, name
        self.skew = 0.0
        self.dead = self.died = False
        self.dies_at = self.stalls_at = 0
        self.only_sends = False
        self.stall_seconds = 0.0
        self.steps = self.sends = 0
        self.covered: dict[str, tuple[float, float]] = {}
        self.waker = _Waker()
        vars(self.waker)["_lock"] = Lock(loop)
        self.unwoken_since: float | None = None
        """SQS has refused its last wake-up of the sweep at this time."""
        self.is_frozen = False
        self.thaws: list[Callable[[], None]] = []
        """Called when the process is not frozen any more."""
        self._observer, self._witness = observer, witness
        self._databases: list[ProcessDatabase] = []
        self.database = ProcessDatabase(url, self)

    def alive(self) -> None:
        """Raises :class:`Killed` if the process is dead: nothing that it does has an effect any more."""
        if self.dead:
            raise Killed

    def freeze(self) -> None:
        """Freeze the process, as Lambda does between two invocations."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        while self.thaws:
            self.thaws.pop()()

    def fate(
        self, *, dies_at: int = 0, only_sends: bool = False, stalls_at: int = 0, stall_seconds: float = 0.0
    ) -> None:
        self.steps = self.sends = 0
        self.dies_at, self.only_sends = dies_at, only_sends
        self.stalls_at, self.stall_seconds = stalls_at, stall_seconds

    def step(self, *, is_send: bool = False) -> None:
        self.alive()
        self.steps += 1
        self.sends += is_send
        if self.dies_at == (self.sends if self.only_sends else self.steps) and (is_send or not self.only_sends):
            self.died = True
            self._witness.died(self)
            self.kill()
            raise Killed
        if self.steps == self.stalls_at:
            if any(database.in_transaction for database in self._databases):  # its locks would hold up the others
                self.stalls_at += 1
            else:
                self._witness.note(f"{self.name} stands still for {self.stall_seconds:.0f} s at step {self.steps}")
                self.loop.sleep(self.stall_seconds)

    def kill(self) -> None:
        """Kill the process, and wait until the server has rolled its transactions back."""
        self.dead = True
        for database in self._databases:
            connection = database._connection
            pid = None if connection is None or connection.idle else _backend(connection)
            with suppress(Exception):
                database.drop()
            while pid is not None and not self._observer.run(ENDED, pid)[0][0]:
                pass

    def statement(self, sql: str, send: Send) -> Any:
        self.step()
        self.loop.clock.sync()
        self._witness.used(self, sql)
        answer = send()
        self.step()
        return answer


class ProcessDatabase(HookedDatabase):
    """A connection of a process, and further ones."""

    def __init__(self, url: str, process: Process) -> None:
        super().__init__(url, process.statement)
        self._url, self._process = url, process
        process._databases.append(self)

    def get(self) -> Connection:
        self._process.alive()
        return super().get()

    def another(self) -> Database:
        return ProcessDatabase(self._url, self._process)


def _backend(connection: Connection) -> int | None:
    with suppress(PostgresError, AttributeError, TypeError):
        return int.from_bytes(connection._backend_key_data[:4], "big")
    return None


class Lock:
    """A lock between the threads of a process."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._is_held = loop, False

    def __enter__(self) -> None:
        while self._is_held:
            self._loop.sleep(1.0)
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False


class Thread:
    """A thread of the process whose code runs: the library starts it to try again."""

    loop: Loop

    def __init__(self, *, target: Callable[..., None], args: Sequence[Any], **_: Any) -> None:
        self._call = partial(target, *args)

    def start(self) -> None:
        process = self.loop.process
        assert process is not None
        self.loop.at(self.loop.now, lambda: self.loop.spawn(process, self._call, is_background=True))
