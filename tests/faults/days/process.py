"""A process: its clock, its connections, and the step at which it dies or stands still."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.wake import _Waker
from joblane.record.driver.database import Database
from joblane.testing.faults import HookedDatabase, Send
from tests.faults.days.loop import Killed, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from joblane.record.driver.connection import Connection

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
