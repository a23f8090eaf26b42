"""Record the picture of `joblane dev` in the README: ``python -m tests.recording`` writes ``docs/images/dev.svg``.

It makes a project with `joblane init`, starts `joblane dev` in a terminal, enqueues a task, and breaks and repairs
its handler.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.pages import ROOT

PICTURE = ROOT / "docs" / "images" / "dev.svg"
COLUMNS = 122
JOBLANE = (sys.executable, "-m", "joblane.cli")
PATIENCE_SECONDS = 60
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.S)
"""A browser would fetch them."""


class Terminal:
    """`joblane dev` in a terminal, and what it has written."""

    def __init__(self, project: Path) -> None:
        self._project, self._ours = project, 0
        self.written = b""
        self._ours, theirs = pty.openpty()
        self._dev = subprocess.Popen([*JOBLANE, "dev"], cwd=project, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # its end
            while data := os.read(self._ours, 1 << 16):
                self.written += data

    def wait_for(self, text: str, times: int = 1) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while self.written.count(text.encode()) < times:
            assert time.monotonic() < ends, self.written.decode()
            time.sleep(0.05)

    def joblane(self, *arguments: str) -> None:
        subprocess.run([*JOBLANE, *arguments], cwd=self._project, check=True, capture_output=True)

    def close(self) -> None:
        self._dev.terminate()
        self._dev.wait()
        self._reader.join()
        os.close(self._ours)


def recorded(project: Path) -> str:
    """Return what `joblane dev` writes, with its colours."""
    subprocess.run([*JOBLANE, "init"], cwd=project, check=True, capture_output=True)
    handler = project / "functions" / "hello_world" / "handler.py"
    good = handler.read_text()
    terminal = Terminal(project)
    try:
        terminal.wait_for("Ready.")
        terminal.joblane("enqueue", "hello:world")
        terminal.wait_for("completed in")
        handler.write_text(
            good.replace("return ", 'raise ValueError("the mail server refuses the address")\n    return ')
        )
        terminal.wait_for("reloaded.")
        terminal.joblane("enqueue", "hello:world")
        terminal.wait_for("again in")
        handler.write_text(good)
        terminal.wait_for("reloaded.", times=2)
        terminal.wait_for("completed in", times=2)
    finally:
        terminal.close()
    return terminal.written.decode()


def picture(output: str) -> str:
    """Return the terminal as SVG, without fonts to fetch and without the token of the page."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(Text("$ joblane dev", style="bold"))
    console.print(Text.from_ansi(re.sub(r"token=[\w-]+", "token=…", output).replace("\r", "").strip()))
    svg = console.export_svg(title="joblane dev", theme=DIMMED_MONOKAI, unique_id="dev")
    return FONTS.sub("", svg).replace("Fira Code, ", "")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        PICTURE.write_text(picture(recorded(Path(folder))))
