"""The command's side of its processes: it starts them by the zygote, writes to them, and reads their output."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from joblane.local.dev.channel import Message, encoded

MAX_MESSAGE, MAX_LINE = 64 << 20, 1 << 20
"""Bytes of a message to the command, and of a line of output. A longer line is several."""


class Process:
    """A running process. ``code``: its exit status once it has ended, negative for a signal."""

    def __init__(self, pid: int, code: asyncio.Future[int]) -> None:
        self.pid = pid
        self.code = code
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.output: asyncio.Task[None]

    async def connect(self, connection: socket.socket, output: int, on_line: Callable[[str], None]) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=MAX_MESSAGE)
        self.output = asyncio.create_task(_read_lines(output, on_line))

    def send(self, message: Message) -> None:
        self._writer.write(encoded(message))

    async def receive(self) -> Message | None:
        """Return the next message; None if the process has ended."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        message: Message = json.loads(line)
        return message

    @property
    def ended(self) -> bool:
        return self.code.done()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def close(self) -> None:
        """Wait for the end of the process, and for the rest of its output."""
        await self.code
        with suppress(asyncio.TimeoutError):  # a process of the handler's own may hold the output open
            await asyncio.wait_for(self.output, 0.5)
        self._writer.close()


def ended(code: int) -> str:
    """Return how a process has ended, from its exit status."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"


async def _read_lines(output: int, on_line: Callable[[str], None]) -> None:
    def add(line: bytes) -> None:
        on_line(line.decode("utf-8", "replace").rstrip("\r"))

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb"))
    try:
        rest = b""
        while data := await reader.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                add(line)
            if len(rest) >= MAX_LINE:
                add(rest)
                rest = b""
        if rest:
            add(rest)
    finally:
        transport.close()


class Zygote:
    """The process that forks all others. ``on_lost`` is called if it ends by itself."""

    def __init__(self, on_lost: Callable[[], object]) -> None:
        self._on_lost = on_lost
        self._turn = asyncio.Lock()
        self._started: asyncio.Future[tuple[int, asyncio.Future[int]]] | None = None
        self._codes: dict[int, asyncio.Future[int]] = {}
        self._closing = False

    def start(self, root: Path, folder: Path, environment: Mapping[str, str]) -> None:
        """Start it in the project ``root``, for the command of ``folder``. Call this early: it imports for a second."""
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-m", "joblane.local.dev.zygote", str(theirs.fileno()), str(folder)]
        self._child = subprocess.Popen(  # noqa: S603
            command,
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal reaches the command alone
        )
        theirs.close()

    def listen(self) -> None:
        """Read its messages in the running loop."""
        self._control.setblocking(False)
        self._rest = b""
        asyncio.get_running_loop().add_reader(self._control, self._read)

    async def spawn(
        self,
        target: str,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        files: Sequence[int] = (),
    ) -> Process:
        """Start a process that calls ``target``, a ``module:function``."""
        ours, theirs = socket.socketpair()
        output, their_output = os.pipe()
        data = encoded({"target": target, "arguments": arguments, "environment": environment})
        try:
            async with self._turn:
                self._started = asyncio.get_running_loop().create_future()
                await self._write(data, [theirs.fileno(), their_output, *files])
                pid, code = await self._started
        finally:
            theirs.close()
            os.close(their_output)
        process = Process(pid, code)
        await process.connect(ours, output, on_line)
        return process

    async def _write(self, data: bytes, files: list[int]) -> None:
        while data:
            try:
                sent = socket.send_fds(self._control, [data], files)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            data, files = data[sent:], []

    def _read(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._lose()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "started":
                code = self._codes[message["pid"]] = asyncio.get_running_loop().create_future()
                if self._started is not None and not self._started.done():
                    self._started.set_result((message["pid"], code))
            elif not (code := self._codes.pop(message["pid"])).done():
                code.set_result(message["code"])

    def _lose(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        for code in self._codes.values():
            if not code.done():
                code.set_result(-signal.SIGKILL)
        if not self._closing:
            self._on_lost()

    def close(self) -> None:
        """End it, with all processes that it has forked and that still run."""
        self._closing = True
        with suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)  # its session
        self._child.wait()
