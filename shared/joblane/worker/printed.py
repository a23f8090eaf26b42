"""The text that a handler prints: each line becomes a log line with the fields of the run, for ``joblane logs``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from threading import get_ident
from typing import Any, TextIO

from joblane import telemetry

MAX_LINE, MAX_LINES = 1_000, 1_000
"""Characters of a line, and lines of a run, that are logged. CloudWatch bills each byte."""
USERS_FRAME = 4
"""The frame of ``print``, below :meth:`Printed.write` and two more, for the field ``location``."""


class Printed:
    """The standard output while a handler runs.

    A line that is a JSON object stays as it is: it comes from a logger, or is a metric of CloudWatch.
    """

    def __init__(self) -> None:
        telemetry.logger()  # its handler keeps the real standard output
        self._fields: Mapping[str, Any] = {}
        self._under: TextIO = sys.stdout
        self._rests: dict[int, list[str]] = {}
        """Thread → the parts of a line that has no end yet. Lines of threads do not mix."""
        self._lines = 0

    def begin(self, fields: Mapping[str, Any]) -> None:
        """Take the place of ``sys.stdout``. ``fields``: those of the run's log lines."""
        if sys.stdout is not self:  # a thread of an earlier run may have put this object back
            self._under = sys.stdout
        self._fields, self._lines = fields, 0
        self._rests.clear()
        sys.stdout = self

    def end(self) -> None:
        """Restore ``sys.stdout``, also if the handler has replaced it, and log lines that have no end."""
        sys.stdout = self._under
        for parts in list(self._rests.values()):
            self._write("".join(parts))

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = get_ident()
        *lines, rest = text.split("\n")
        if lines:
            lines[0] = "".join((*self._rests.pop(thread, ()), lines[0]))
        if rest:
            parts = self._rests.setdefault(thread, [])
            is_json = (parts[0] if parts else rest).startswith("{")
            if is_json or len(parts) <= MAX_LINE:
                parts.append(rest if is_json else rest[: MAX_LINE + 1])
        for line in lines:
            self._write(line)
        return len(text)

    def close(self) -> None:
        """Do nothing. The process still needs its output, also for the log lines of later runs."""

    def _write(self, line: str) -> None:
        line = line.encode(errors="backslashreplace").decode()  # a lone surrogate has no encoding
        if line.startswith("{") and line.endswith("}"):
            self._under.write(f"{line}\n")
            return
        if not line.strip():
            return
        self._lines += 1
        if self._lines <= MAX_LINES:
            shown = line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
            telemetry.logger().info(shown, extra={**self._fields, "printed": True}, stacklevel=USERS_FRAME)
        elif self._lines == MAX_LINES + 1:
            telemetry.logger().warning(
                f"the handler has printed {MAX_LINES:,} lines; the others of this run are not logged",
                extra=dict(self._fields),
            )

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what else the output has. ``buffer``, for example, takes bytes, which are not logged."""
        return getattr(self._under, name)
