"""Errors that the operator can fix: of the local stack, of the tools, and of a stage that does not answer."""

from __future__ import annotations

from pathlib import Path

from joblane.errors import JobError


class LocalError(JobError):
    """A part of the local stack, or a command, failed. The message says what to do."""


class UnavailableError(LocalError):
    """The stack, its database or its API is unavailable."""


class MisuseError(LocalError):
    """A command was used wrongly, and nothing was done."""


class ForbiddenError(LocalError):
    """The caller lacks a permission."""


class PortBusyError(LocalError):
    """Another program listens on the port of a part of the local stack."""

    port: int
    """The port."""
    setting: str
    """Environment variable that sets another port."""

    def __init__(self, program: str, port: int, setting: str) -> None:
        self.port = port
        self.setting = setting
        super().__init__(
            f"{program} cannot listen on 127.0.0.1:{port}: another program already listens there. "
            f"Stop that program, or choose another port with {setting}."
        )


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a note that it has none."""
    if not log.exists():
        return f"({log} was not written)"
    text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    return "\n".join(text.splitlines()[-lines:]) or f"({log} is empty)"
