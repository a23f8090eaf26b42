"""A folder that looks like this checkout, in which ``cdk`` and ``make deploy`` deploy to an emulator."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.pages import ROOT

OWN = (".git", ".joblane", "cdk.json", "cdk.out", "node_modules")
QUESTION = re.compile(rb"\(y/n\)\??\s*$")
BLOCK_SECONDS = 300


@dataclass
class Checkout:
    """Links to everything in this checkout, and a ``cdk.json`` of its own, with another ``app``.

    ``environment`` is that of the next command, and keeps what a command exports, as a shell does.
    """

    folder: Path
    environment: dict[str, str]
    seconds: list[tuple[str, float]] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path, environment: Mapping[str, str], databases: Mapping[str, str]) -> Checkout:
        """``databases``: see :func:`~tests.e2e.dev_stage.assembly.adapt`."""
        folder.mkdir()
        for path in ROOT.iterdir():
            if path.name not in OWN:
                (folder / path.name).symlink_to(path)
        (folder / ".joblane").mkdir()
        for path in (ROOT / ".joblane").iterdir():
            (folder / ".joblane" / path.name).symlink_to(path)
        (folder / "node_modules").symlink_to((ROOT / "node_modules").resolve())
        given = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))
        given["app"] = "python -m tests.e2e.dev_stage.app"
        (folder / "cdk.json").write_text(json.dumps(given), encoding="utf-8")
        (folder / "databases.json").write_text(json.dumps(dict(databases)), encoding="utf-8")
        return cls(folder, dict(environment))

    @property
    def assembly(self) -> Path:
        return self.folder / "assembly"

    def run(self, script: str, *, name: str, fails: bool = False) -> str:
        """Run a script in bash on a terminal, answer questions with ``y``, and return its output.

        ``fails``: it must fail.
        """
        state = self.folder / "environment"
        trap = f"trap 'env -0 >{state}' EXIT\n"
        started = time.monotonic()
        terminal, other = pty.openpty()
        termios.tcsetwinsize(other, (50, 200))  # the CDK redraws a screen of no size endlessly
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", trap + script],
            cwd=self.folder,
            env=self.environment,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        with (self.folder / "log").open("ab") as log:
            output = _conversation(terminal, log)
        status = process.wait(BLOCK_SECONDS)
        self.seconds.append((name, time.monotonic() - started))
        assert (status != 0) is fails, f"{name}: exit status {status}\n{script}\n{output[-6000:]}"
        pairs = state.read_bytes().decode().rstrip("\0").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        return output


def _conversation(terminal: int, log: BinaryIO) -> str:
    output = b""
    with os.fdopen(terminal, "rb+", buffering=0) as stream:
        while True:
            try:
                read = stream.read(65536)
            except OSError:  # the program has closed the terminal
                break
            if not read:
                break
            output += read
            log.write(read)
            log.flush()
            if QUESTION.search(_plain(output[-300:])):
                stream.write(b"y\n")
    return _plain(output).decode("utf-8", "replace").replace("\r\n", "\n")


def _plain(output: bytes) -> bytes:
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", output)
