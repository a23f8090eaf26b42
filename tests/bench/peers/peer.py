"""A peer with a database of its own: a program in the peers' environment that enqueues and drains on command."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from joblane.local.postgres import Postgres
from joblane.record.database import Database
from joblane.testing.databases import administer
from tests.bench import backends
from tests.locked import environment


class PeerError(Exception):
    """A peer cannot be installed, or has failed."""


@cache
def _python() -> Path:
    try:
        return environment("peers") / "bin" / "python"
    except (subprocess.CalledProcessError, OSError) as error:
        raise PeerError(f"the peers of requirements/peers.txt cannot be installed: {error}") from error


class Peer:
    """``name``: of the library, and of its program in this folder."""

    def __init__(self, name: str, server: Postgres) -> None:
        if name == "oban" and sys.version_info < (3, 12):
            raise PeerError("oban needs Python 3.12")
        self.name = name
        self._server = server
        administer(server.database_url("postgres"), f"create database {name}")
        self._administrator = Database(server.database_url(name))
        self._errors = TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [_python(), Path(__file__).with_name(f"{name}_program.py"), server.database_url(name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._await("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._administrator.drop()
        administer(self._server.database_url("postgres"), f"drop database {self.name} with (force)")

    def enqueue(self, count: int) -> float:
        """Enqueue jobs one by one. Return the server's processor time per job, in seconds."""
        before = self._cpu()
        self._send(f"enqueue {count}")
        self._await("done")
        return self._since(before) / count

    def drain(self, limit: int, warm: int, count: int) -> float:
        """Run ``warm`` jobs and then ``count`` jobs, at most ``limit`` at a time.

        Returns the server's processor time per job of the latter, in seconds.
        """
        self._send(f"drain {limit} {count}")
        self._await("warm")
        before = self._cpu()
        self._send("")
        self._await("done")
        took = self._since(before) / count
        self._send("")
        self._await("done")
        return took

    def _cpu(self) -> dict[int, float]:
        return {pid: backends.cpu(pid) for pid in backends.sessions(self._administrator.get(), self.name)}

    def _since(self, before: dict[int, float]) -> float:
        return sum(seconds - before.get(pid, 0.0) for pid, seconds in self._cpu().items())

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _await(self, word: str) -> None:
        assert self._process.stdout is not None
        if (line := self._process.stdout.readline().strip()) != word:
            self._errors.seek(0)
            raise PeerError(f"{self.name}: {word!r} expected, got {line!r}: {self._errors.read()[-2000:]}")
