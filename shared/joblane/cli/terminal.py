"""The output of `joblane`: answers to the output, as tables or one JSON document, and messages to the error output.

Text from tasks is written without control characters: the message of an error must not control the terminal.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from joblane.cli.exits import Exit
from joblane.cli.usage import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


PIPE_WIDTH = 1000
"""Width for a pipe: nothing is cut or wrapped."""
WIDE = 100
"""Width from which a remark stands next to its command."""
CONTROLS: dict[int, str] = dict.fromkeys(
    (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"
)
"""C0, C1 and the marks that change the direction of text."""
ESCAPES = {code: f"\\u{code:04x}" for code in (*CONTROLS, 0x200E, 0x200F) if code not in (0x0A, 0x20)}
"""The same as escapes of JSON."""
CONTROLS |= dict.fromkeys((0x09, 0x0A, 0x0D), " ")
SIGNS = {
    **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
    "–": "-",
    "·": ".",
    "×": "x",
    "✓": "+",
    "✗": "!",
    "┤": "|",
    "│": "|",
    "…": "...",
    "→": "->",
}
"""Sign of this package → what an output without UTF-8 shows in its place. It shows ? for other characters."""
STYLES = {
    "scheduled": "cyan",
    "pending": "blue",
    "held": "magenta",
    "active": "bold blue",
    "retry": "yellow",
    "completed": "green",
    "archived": "red",
    "cancelled": "dim",
    "stopped": "yellow",
    "stopping": "yellow",
    "good": "green",
    "warning": "yellow",
    "bad": "bold red",
    "unknown": "magenta",
}
"""State or grade → its style."""


class Output(FileIO):
    """An output whose reader may close it, as `head` does: the rest is discarded, and the command ends as usual."""

    is_closed_by_reader = False

    def write(self, data: Any, /) -> int:
        """Write bytes, or discard them. Returns their number."""
        try:
            return super().write(data)
        except BrokenPipeError:
            Output.is_closed_by_reader = True
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return len(data)

    @classmethod
    def of(cls, stream: TextIO) -> TextIO:
        """Return a stream with the same file, encoding and buffering. None, a closed output, stays None."""
        if not isinstance(stream, TextIOWrapper):
            return stream
        file = cls(stream.fileno(), "w", closefd=False)
        buffer = file if stream.write_through else BufferedWriter(file)
        return TextIOWrapper(buffer, stream.encoding, stream.errors, None, stream.line_buffering, stream.write_through)


def has_utf_8(stream: TextIO) -> bool:
    """True if the stream, such as a terminal, can show each character."""
    return not isinstance(stream, TextIOWrapper) or stream.encoding.lower().startswith("utf")


def allow_all_signs() -> None:
    """Let the outputs without UTF-8 write what they lack by :data:`SIGNS`."""

    def replaced(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end

    codecs.register_error("joblane", replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not has_utf_8(stream):
            stream.reconfigure(errors="joblane")


def console() -> Console:
    """The output. It respects NO_COLOR, and has the width of the terminal, or that of COLUMNS."""
    return _console(sys.stdout)


def messages() -> Console:
    """The error output."""
    return _console(sys.stderr, stderr=True)


def _console(stream: TextIO, *, stderr: bool = False) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def say(text: str) -> None:
    """Print a message to the error output."""
    typer.echo(clean(text, lines=True), file=sys.stderr)  # not its own, which is UTF-8 on any terminal


def document(value: Any) -> None:
    """Print an answer as one JSON document: its keys are the fields of the answer, its times ISO 8601 in UTC."""
    text = json_of(value, indent=2)
    typer.echo(escaped(text) if sys.stdout.isatty() else text, file=sys.stdout)


def answer(value: Any, *, as_json: bool, nothing: str | None = None) -> None:
    """End the command with its answer as a document if ``as_json``, or with the message ``nothing`` if it is empty."""
    if as_json:
        document(value)
        raise typer.Exit
    if nothing is not None and not value:
        say(nothing)
        raise typer.Exit


def json_of(value: Any, *, indent: int | None = None) -> str:
    from pydantic_core import to_json

    text = to_json(value, indent=indent, inf_nan_mode="null").decode()
    return text if has_utf_8(sys.stdout) else json.dumps(json.loads(text), indent=indent)


def escaped(document: str) -> str:
    """A JSON document whose control characters and marks of direction are escapes, which a terminal does not obey."""
    return document.translate(ESCAPES)


def clean(value: object, *, lines: bool = False) -> str:
    """Text without control characters. ``lines``: keep line ends and tabs."""
    text = str(value)
    return "\n".join(clean(line) for line in text.expandtabs().split("\n")) if lines else text.translate(CONTROLS)


def word(value: object, style: str = "") -> Text:
    """A text for a cell; a state or grade has its own style."""
    from rich.text import Text

    text = clean(value)
    return Text(text, style or STYLES.get(text, ""))


def steps(to: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print commands to paste, each with its meaning: next to it, or in a line of its own on a narrow terminal."""
    width = max((len(command) for command, _ in rows), default=0)
    longest = max((len(f"  {command}  # {meaning}") for command, meaning in rows), default=0)
    for command, meaning in rows:
        remark = f"  # {clean(meaning)}" if meaning else ""
        if to.width < max(WIDE, longest):
            to.print(*([word(remark, "dim")] if remark else []), word(f"  {command}", "none"), sep="\n", soft_wrap=True)
        else:
            padding = " " * (width - len(command)) if remark else ""
            to.print(word(f"  {command}{padding}", "none").append(remark, "dim"), soft_wrap=True)


def facts(pairs: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """A line for each name with a value."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(word(name, "dim"), word(value) if isinstance(value, str) else value)
    return made


def pretty(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def is_terminal() -> bool:
    """True if there is a terminal for questions."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def stop(message: str, code: Exit) -> NoReturn:
    """End the command with a message."""
    say(f"joblane: {message}")
    raise typer.Exit(code)


def usage(message: str, option: str | None = None) -> NoReturn:
    """End the command with a usage error. ``option``: the option or argument that is wrong."""
    raise UsageError(f"{option}: {message}" if option else message[:1].upper() + message[1:])


def confirm(question: str, *, yes: bool) -> None:
    """Ask the user; end the command if the answer is no, or if there is no terminal."""
    if yes:
        return
    if not is_terminal():
        stop(f"{question} There is no terminal to ask on: give --yes, or --dry-run to count only.", Exit.USAGE)
    if not typer.confirm(question, err=True):
        say("Nothing was done.")
        raise typer.Exit(Exit.FAILED)


def short(seconds: float) -> str:
    """Seconds in at most two units: ``43s``, ``12m``, ``3h20m``, ``5d``."""
    if seconds < 1:
        return "0s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes and hours < 10 else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours and days < 3 else f"{days}d"


def milliseconds(value: float | None) -> str:
    """``87 ms``, ``4.2 s``, ``4m44s``, ``12m``; a dash for None."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} ms"
    if value < 60_000:
        return f"{value / 1000:.1f} s"
    minutes, seconds = divmod(round(value / 1000), 60)
    return f"{minutes}m{seconds}s" if minutes < 10 and seconds else short(value / 1000)


def relative(at: datetime, now: datetime) -> str:
    """``3m ago``, ``in 2h``."""
    seconds = (at - now).total_seconds()
    return f"in {short(seconds)}" if seconds >= 1 else f"{short(-seconds)} ago"
