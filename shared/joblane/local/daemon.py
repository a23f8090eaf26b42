"""Background programs. A file records the process of each, so that a later process finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from joblane.project import own_ids

START_SECONDS = 60
"""Time in which PostgreSQL, or the emulator, must answer."""
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class _State:
    pid: int
    started: float
    program: str
    remember: dict[str, str]


class Daemon:
    """A program with its log and its pid file in one folder. It outlives the process that starts it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.json"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Id of the running process, or None."""
        process = self._process()
        return process.pid if process else None

    @property
    def started_with(self) -> Mapping[str, str]:
        """The `remember` of `launch`; empty if the program does not run."""
        state = self._state()
        return state.remember if state and self._process() else {}

    def launch(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, remember: Mapping[str, str]
    ) -> None:
        """Start the program in `folder`. The previous log becomes `.log.1`. `remember` is for `started_with`."""
        child = self._start(command, environment, folder, remember)
        child.returncode = 0  # avoids Python's warning about a running child: it may outlive this process

    def run(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float) -> int:
        """Start the program as `launch` does, and return its exit status.

        After `seconds`, or if this process is interrupted, the program is killed with its process group.

        Raises: `subprocess.TimeoutExpired`.
        """
        child = self._start(command, environment, folder, {})
        try:
            return child.wait(seconds)
        finally:
            self.kill()

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, remember: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """If this process is interrupted meanwhile, the program is killed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        try:
            with self.log.open("wb") as log, _uninterrupted():
                self._child = child = subprocess.Popen(  # noqa: S603
                    command,
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # its own process group: no Ctrl-C, and `kill` finds its children
                )
                state = _State(child.pid, psutil.Process(child.pid).create_time(), command[0], dict(remember))
                self._file.write_text(json.dumps(asdict(state)), encoding="utf-8")
        except KeyboardInterrupt:
            self.kill()
            raise
        return child

    def stop(self) -> None:
        """Terminate the program, then kill the rest of its process group. Does nothing if it does not run."""
        if (process := self._process()) is not None:
            end([process], signal.SIGTERM, STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the program and its process group, including children of a program that was killed before."""
        end(self._group(), signal.SIGKILL, STOP_SECONDS)
        self._file.unlink(missing_ok=True)
        if self._child is not None:
            self._child.wait()

    def _state(self) -> _State | None:
        """A file of another user, in a folder where that user can write, names no process."""
        try:
            with self._file.open(encoding="utf-8") as file:
                owner = os.fstat(file.fileno()).st_uid
                return _State(**json.load(file)) if owner in own_ids(owner) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _process(self) -> psutil.Process | None:
        """Return the running process. The start time tells it from another process with a reused pid."""
        state = self._state()
        if state is None:
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(state.pid)
            if is_alive(process) and process.create_time() == state.started:
                return process
        return None

    def _group(self) -> list[psutil.Process]:
        """Return the processes of the program's group; if the program has ended, only processes of the same executable.

        Another program's group can then have its id.
        """
        state = self._state()
        if state is None:
            return []
        runs = self._process() is not None
        members = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                same_group = os.getpgid(process.pid) == state.pid
                if same_group and is_alive(process) and (runs or process.cmdline()[:1] == [state.program]):
                    members.append(process)
        return members


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block: no command finds a program without its pid file."""
    if threading.current_thread() is not threading.main_thread():  # which gets no KeyboardInterrupt
        yield
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for number in interrupts:
            signal.raise_signal(number)


def is_alive(process: psutil.Process) -> bool:
    """Return true if the process runs. A zombie does not, unless other threads still end: they hold its ports."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def end(processes: Sequence[psutil.Process], number: signal.Signals, seconds: float) -> bool:
    """Send a signal to all processes, and wait for their end as :func:`await_end` does."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return await_end(processes, seconds)


def await_end(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Wait until all processes have ended; return false after `seconds`. `psutil.wait_procs` also waits for zombies."""
    until = time.monotonic() + seconds
    while any(is_alive(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
