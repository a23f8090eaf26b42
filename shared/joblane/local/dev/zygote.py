"""The process that forks all others. It has imported the library, so that a new process starts at once, and none of the
project's code, so that a new process has the code as it is on the disk.

It has one thread: a fork in a process with several can copy a lock that nobody releases. For each request it forks a
keeper, which forks the process and sends its exit status. When the command ends, the zygote kills all of
them and itself. If the command was killed, it stops PostgreSQL first.
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from joblane.local.dev.channel import Channel, encoded
from joblane.local.errors import LocalError

PRELOADED = (
    "joblane.tasks.discovery",
    "joblane.record.driver.database",
    "joblane.record.task_types",
    "joblane.sweep.sweep",
    "joblane.local.ticker",
    "joblane.worker.worker",
    "joblane.local.dev.forked",
    "sqlalchemy.orm",
    "aws_lambda_powertools",
    "boto3",
    "joblane.sqs.sender",
)
"""Modules in the order in which they are needed. Most handlers import SQLAlchemy."""
MOST_BYTES, MOST_FILES = 1 << 20, 4
PR_SET_PDEATHSIG = 1
"""Source: Linux, prctl(2)."""


def run(control: socket.socket, folder: Path) -> NoReturn:
    """Answer the requests of the command. ``control``: the socket to it. ``folder``: its folder."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes keepers that have ended
    for module in PRELOADED:
        with suppress(ImportError):  # a process that needs the module says so
            importlib.import_module(module)
        while select.select([control], [], [], 0)[0]:
            _answer(control, folder)
    while True:
        _answer(control, folder)


def _answer(control: socket.socket, folder: Path) -> None:
    """Wait for a request: ``target``, a ``module:function``, its ``arguments`` and ``environment``; and its files: the
    socket of the new process, its output, and others for the target."""
    data, files = b"", list[int]()
    with suppress(ConnectionError):
        data, files, _, _ = socket.recv_fds(control, MOST_BYTES, MOST_FILES)
        while data and not data.endswith(b"\n"):
            more = control.recv(MOST_BYTES)
            data = data + more if more else b""
    if not data:
        _end(folder)
    if os.fork() == 0:
        control.close()
        _keep(json.loads(data), socket.socket(fileno=files[0]), *files[1:])
    for file in files:
        os.close(file)


def _end(folder: Path) -> None:
    """End with all processes, because the command has ended. Stop PostgreSQL after a command that was killed."""
    try:
        import psutil

        from joblane.local.dev import lock
        from joblane.local.postgres import Postgres

        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(LocalError), lock.turn(folder):  # the next `joblane dev` waits
            lock.refuse_if_held(folder)
            lock.refuse_if_up(folder)
            (folder / "env").unlink(missing_ok=True)
            Postgres(folder / "postgres").stop()
    finally:
        os.killpg(0, signal.SIGKILL)


def _keep(request: dict[str, Any], own: socket.socket, output: int, *files: int) -> NoReturn:
    """Fork the process, and send its exit status after its own messages."""
    _end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        _become(request, own, output, files)
    os.closerange(3, own.fileno())
    for file in (output, *files):
        os.close(file)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(ConnectionError):
        own.sendall(b"\n" + encoded({"kind": "ended", "code": code}))
    os._exit(0)


def _become(request: dict[str, Any], own: socket.socket, output: int, files: Sequence[int]) -> NoReturn:
    """Send the pid of the new process, and run its target, which never returns."""
    code = 1
    try:
        _end_with_parent()
        own.sendall(encoded({"kind": "started", "pid": os.getpid()}))
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.environ.clear()
        os.environ.update(request["environment"])
        random.seed()
        module, _, function = request["target"].partition(":")
        getattr(importlib.import_module(module), function)(Channel(own), files, **request["arguments"])
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


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent has ended. Without Linux, it ends when it next waits."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":  # as the command starts it, with its socket and its folder
    run(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
