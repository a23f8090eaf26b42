"""The parent's side of the worker processes: they are started by the nursery, get orders, and are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.faults import plants
from tests.faults.worker import PREFIX

ROOT = Path(__file__).parents[2]
START_TIMEOUT_SECONDS = 30.0


@contextmanager
def nursery(folder: Path, database_url: str, endpoint: str, plant: str | None) -> Iterator[Path]:
    """Start the nursery. Yield the path of its socket. A connection starts a process. Errors are in ``workers.log``."""
    address = folder / "nursery"
    address.unlink(missing_ok=True)  # of an earlier run in this folder
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "JOBLANE_PREFIX": PREFIX,
        "POWERTOOLS_LOG_LEVEL": "CRITICAL",
        "POWERTOOLS_METRICS_DISABLED": "true",
        plants.VARIABLE: plant or "",
    }
    command = [sys.executable, "-m", "tests.faults.worker", str(address)]
    with (
        (folder / "workers.log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the workers did not start:\n{(folder / 'workers.log').read_text()[-3000:]}")
            yield address
        finally:
            process.terminate()


class Process:
    """A worker process. If it has died, the next order starts a new process."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._lines: Any = None
        self._pid = 0
        self._lock = threading.Lock()
        self.busy = False

    def send(self, order: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """Send an order and return its answer. None: the process died, or was killed after ``seconds`` as by Lambda."""
        if self._socket is None:
            self._start()
        assert self._socket is not None
        self._socket.settimeout(seconds)
        self.busy = True
        try:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            line = self._lines.readline()
        except OSError:
            line = b""
        finally:
            self.busy = False
        if not line:
            self.kill()
            self.close()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Kill the process by SIGKILL, at any point of its work. Can be called from any thread."""
        with self._lock:
            if self._pid:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                self._pid = 0

    def close(self) -> None:
        """Close the connection, which ends the process."""
        with self._lock:
            self._pid = 0
        if self._socket is not None:
            with suppress(OSError):
                self._lines.close()
            self._socket.close()
            self._socket = None

    def _start(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(START_TIMEOUT_SECONDS)
        self._socket.connect(str(self._address))
        self._lines = self._socket.makefile("rb")
        self._pid = int(self._lines.readline())
