"""The command's side of its processes: it starts them by the zygote, writes to them, and reads their output."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from joblane.local.dev.channel import Message, decoded, encoded
from joblane.local.errors import LocalError

MAX_MESSAGE, MAX_LINE = 64 << 20, 1 << 20
"""Bytes of a message to the command, and of a line of output. A longer line is several."""
CLOSE_SECONDS = 2.0
LOST = "The process that starts the others was killed, and they with it. Run `joblane dev` again."


class Process:
    """A running process. ``code``: its exit status once :meth:`receive` has returned None, negative for a signal."""

    pid: int
    code: int | None = None

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, output: asyncio.Task[None]) -> None:
        self._reader, self._writer, self._output = reader, writer, output

    def send(self, message: Message) -> None:
        self._writer.write(encoded(message))

    async def receive(self) -> Message | None:
        """Return the next message; None if the process has ended."""
        while self.code is None:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                line = b""
            with suppress(ValueError):  # an empty line, or half a message of a process that was killed
                message = decoded(line)
                if message["kind"] != "ended":
                    return message
                self.code = message["code"]
            if not line:  # what forked it was killed, and it with that
                self.code = -signal.SIGKILL
        return None

    def kill(self) -> None:
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def end_idle(self) -> None:
        """End a process that waits for a message. It gets :data:`CLOSE_SECONDS` to close its resources."""
        try:
            self._writer.write_eof()
            await asyncio.wait_for(self.close(), CLOSE_SECONDS)
        except (OSError, RuntimeError):  # TimeoutError too; it has ended, or its socket has
            return
        finally:
            self.kill()

    async def close(self) -> None:
        """Wait for the end of the process, and for the rest of its output."""
        while await self.receive() is not None:
            pass
        with suppress(asyncio.TimeoutError):  # a process of the handler's own may hold the output open
            await asyncio.wait_for(self._output, 0.5)
        self._writer.close()

    @property
    def end(self) -> str:
        """How the process has ended."""
        code = self.code or 0
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
        """Notice its end in the running loop. It writes nothing."""
        asyncio.get_running_loop().add_reader(self._control, self._lose)

    def _lose(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._on_lost()

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
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_MESSAGE)
        process = Process(reader, writer, asyncio.create_task(_read_lines(output, on_line)))
        data = encoded({"target": target, "arguments": arguments, "environment": environment})
        try:
            async with self._turn:
                sent = socket.send_fds(self._control, [data], [theirs.fileno(), their_output, *files])
                self._control.sendall(data[sent:])
                theirs.close()
                started = await process.receive()
        finally:
            theirs.close()
            os.close(their_output)
        if started is None or started["kind"] != "started":  # it was killed before it could say anything
            raise LocalError(LOST)
        process.pid = started["pid"]
        return process

    def close(self) -> None:
        """End it, with all processes that it has forked and that still run."""
        self._control.close()
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)  # its session
        self._child.wait()
