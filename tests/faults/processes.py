"""The processes from the test's side: the fork server starts them, and the test sends orders and kills them."""

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

from joblane import settings
from tests.faults.worker import PLANT, PREFIX

ROOT = Path(__file__).parents[2]
STARTS_SECONDS = 30.0


@contextmanager
def fork_server(folder: Path, database_url: str, endpoint: str, plant: str | None) -> Iterator[Path]:
    """Yield the socket of the fork server. The processes write errors to ``workers.log``."""
    address = folder / "fork_server"
    address.unlink(missing_ok=True)  # of an earlier run in this folder
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "JOBLANE_PREFIX": PREFIX,
        settings.SWEEP_MINUTES: "360",
        "POWERTOOLS_LOG_LEVEL": "CRITICAL",
        "POWERTOOLS_METRICS_DISABLED": "true",
        PLANT: plant or "",
    }
    command = [sys.executable, "-m", "tests.faults.worker", str(address)]
    with (
        (folder / "workers.log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the workers do not start:\n{(folder / 'workers.log').read_text()[-3000:]}")
            yield address
        finally:
            process.terminate()


class Process:
    """A process. If it was killed, the next order starts a new one."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._lines: Any = None
        self._pid = 0
        self._is_old = False
        self._lock = threading.Lock()
        self.busy = False

    def send(self, order: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """Send an order and return the answer.

        Return None if the process was killed, for example after ``seconds``, as by Lambda.
        """
        if self._is_old:
            self._is_old = False
            self.close()
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
        """Kill the process by SIGKILL, from any thread."""
        with self._lock:
            if self._pid:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                self._pid = 0

    def move(self, address: Path, *, kills: bool) -> None:
        """Let the next order start a process of another fork server. ``kills``: else the present order ends first."""
        self._address, self._is_old = address, True
        if kills:
            self.kill()

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
        self._socket.settimeout(STARTS_SECONDS)
        self._socket.connect(str(self._address))
        self._lines = self._socket.makefile("rb")
        self._pid = int(self._lines.readline())
