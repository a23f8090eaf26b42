"""What can go wrong on this machine, told so that the reader knows what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LocalError(Exception):
    """Something of the local stack did not start, stop or answer; the message ends with what to do."""


class AwayError(LocalError):
    """The stack, its database or its API cannot be reached."""


class MisuseError(LocalError):
    """What was asked for makes no sense; nobody was asked."""


class ForbiddenError(LocalError):
    """Whoever asks lacks a permission."""


class PortBusyError(LocalError):
    """Another program listens where this one should."""

    def __init__(self, what: str, port: int, setting: str) -> None:
        self.port = port
        self.setting = setting
        super().__init__(
            f"{what} cannot listen on 127.0.0.1:{port}: another program does already. "
            f"Stop that program, or choose another port with {setting}."
        )


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a remark that there are none."""
    if not log.exists():
        return f"({log} was not written)"
    text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    return "\n".join(text.splitlines()[-lines:]) or f"({log} is empty)"
