"""A program in the background, found again by a file that says which process it is."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

STOP_SECONDS = 5.0


@dataclass(frozen=True)
class _Record:
    pid: int
    started: float
    program: str
    remember: dict[str, str]


class Daemon:
    """One program with its log and its process number in one folder; it outlives the process that starts it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.json"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, None where it does not run."""
        process = self._process()
        return process.pid if process else None

    @property
    def started_with(self) -> Mapping[str, str]:
        """What `launch` was told to remember; empty where the program does not run."""
        record = self._record()
        return record.remember if record and self._process() else {}

    def launch(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, remember: Mapping[str, str]
    ) -> None:
        """Start it in `folder`, a former log kept as `.log.1`. `remember` is for `started_with`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            child = subprocess.Popen(  # noqa: S603
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own: Ctrl-C passes it by, and its children end with it
            )
        record = _Record(child.pid, psutil.Process(child.pid).create_time(), command[0], dict(remember))
        self._file.write_text(json.dumps(asdict(record)), encoding="utf-8")
        child.returncode = 0  # it may outlive us: spares the warning that it still runs
        self._child = child

    def stop(self) -> None:
        """End it and whatever it has started, politely first; nothing where it does not run."""
        process = self._process()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            await_end([process], STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it and whatever it has started, at once. Children of one that was killed before end as well."""
        group = self._group()
        for member in group:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        await_end(group, STOP_SECONDS)
        self._file.unlink(missing_ok=True)

    def _record(self) -> _Record | None:
        try:
            return _Record(**json.loads(self._file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _process(self) -> psutil.Process | None:
        """Numbers are given again to others: only the one with our start time is meant."""
        record = self._record()
        if record is None:
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(record.pid)
            if is_alive(process) and process.create_time() == record.started:
                return process
        return None

    def _group(self) -> list[psutil.Process]:
        """All that runs in the program's group: itself, and those of the same interpreter that it has left behind."""
        record = self._record()
        if record is None:
            return []
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                same_group = os.getpgid(process.pid) == record.pid
                if same_group and is_alive(process) and process.cmdline()[:1] == [record.program]:
                    found.append(process)
        return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and that nobody collects does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def await_end(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Wait until all have ended, and return whether they have. `psutil.wait_procs` would wait for zombies too."""
    until = time.monotonic() + seconds
    while any(is_alive(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
