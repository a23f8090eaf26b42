"""The process that forks all others. It has imported the library, so that a new process starts at once, and none of the
project's code, so that a new process has the code as it is on the disk.

It has one thread: a fork in a process with several can copy a lock that nobody releases. When the command ends, it
kills the processes of its group, which it has forked, and itself. If the command was killed, it stops PostgreSQL first.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from joblane.local.dev.channel import Channel, Message, encoded
from joblane.local.errors import LocalError

PRELOADED = (
    "joblane.tasks.discovery",
    "joblane.record.driver.database",
    "joblane.record.task_types",
    "joblane.sweep.sweep",
    "joblane.local.ticker",
    "joblane.worker.worker",
    "joblane.local.dev.control_process",
    "joblane.local.dev.worker_process",
    "sqlalchemy.orm",
    "aws_lambda_powertools",
    "boto3",
    "joblane.sqs.sender",
)
"""Modules in the order in which they are needed. Most handlers import SQLAlchemy."""
MOST_BYTES, MOST_FILES = 1 << 20, 4
PR_SET_PDEATHSIG = 1
"""Source: Linux, prctl(2)."""


class Zygote:
    """``control``: the socket to the command. ``folder``: the folder of the command. A request has ``target``, a
    ``module:function``, its ``arguments`` and ``environment``, and two files: the socket of the new process, and its
    output."""

    def __init__(self, control: socket.socket, folder: Path) -> None:
        self._control = control
        self._folder = folder
        self._children: set[int] = set()
        self._woken, wake = socket.socketpair()
        wake.setblocking(False)
        self._woken.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._wake = wake

    def run(self) -> None:
        for module in PRELOADED:
            with suppress(ImportError):  # a process that needs the module says so
                importlib.import_module(module)
            self._serve(0)
        while True:
            self._serve(None)

    def _serve(self, seconds: float | None) -> None:
        """Answer the requests that are there; wait at most ``seconds`` for one. None: until there is one."""
        while ready := select.select([self._control, self._woken], [], [], seconds)[0]:
            if self._woken in ready:
                with suppress(BlockingIOError):
                    self._woken.recv(1 << 12)
                self._reap()
            if self._control in ready:
                self._answer()

    def _answer(self) -> None:
        data, files = b"", list[int]()
        try:
            data, files, _, _ = socket.recv_fds(self._control, MOST_BYTES, MOST_FILES)
            while data and not data.endswith(b"\n"):
                more = self._control.recv(MOST_BYTES)
                data = data + more if more else b""
        except ConnectionError:
            data = b""
        if not data:
            self._end()
        request = json.loads(data)
        pid = os.fork()
        if pid == 0:
            self._control.close()
            self._become(request, files)
        for file in files:
            os.close(file)
        self._children.add(pid)
        self._send({"kind": "started", "pid": pid})

    def _end(self) -> None:
        """End with all processes, because the command has ended. Stop PostgreSQL after a command that was killed."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        try:
            from joblane.local.dev import lock
            from joblane.local.postgres import Postgres

            with suppress(LocalError), lock.turn(self._folder):  # the next `joblane dev` waits
                lock.refuse_if_held(self._folder)
                lock.refuse_if_up(self._folder)
                (self._folder / "env").unlink(missing_ok=True)
                Postgres(self._folder / "postgres").stop()
        finally:
            os.killpg(0, signal.SIGKILL)

    def _reap(self) -> None:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._children.discard(pid)
                self._send({"kind": "ended", "pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: Message) -> None:
        with suppress(ConnectionError):  # the next read notices that the command has ended
            self._control.sendall(encoded(message))

    def _become(self, request: dict[str, Any], files: list[int]) -> NoReturn:
        """Run the target in the new process, which never returns."""
        code = 1
        try:
            end_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            own, output = files[:2]
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            os.environ.clear()
            os.environ.update(request["environment"])
            random.seed()
            module, _, function = request["target"].partition(":")
            channel = Channel(socket.socket(fileno=own))
            getattr(importlib.import_module(module), function)(channel, files[2:], **request["arguments"])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent has ended. Without Linux, it ends when it next waits."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":  # as the command starts it, with its socket and its folder
    Zygote(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])).run()
