"""What `joblane` writes: answers to the output, as tables or as one JSON document, and messages to the error output.

Text that came with tasks is written without its control characters: an error's message must not steer a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from joblane.cli.exits import Exit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

PIPE_WIDTH = 1000
"""Into a pipe nothing is cut or wrapped."""
WIDE = 100
"""Columns from which tables show more of each row."""
NARROW = 80
"""Columns below which they show less: a number that is cut would be another number."""
BETWEEN = 2
"""Blanks after each column."""
LEAST_NAME = 20
"""Columns that a name gets before it is folded."""
CONTROLS: dict[int, str] = dict.fromkeys(
    (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"
)
"""C0, C1 and the marks that turn the direction of text."""
CONTROLS |= dict.fromkeys((0x09, 0x0A, 0x0D), " ")
STYLES = {
    "scheduled": "cyan",
    "pending": "blue",
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
"""Of the words that say how something is."""


def console() -> Console:
    """The output. It heeds NO_COLOR, and is as wide as the terminal, or as COLUMNS says."""
    return _console(sys.stdout)


def messages() -> Console:
    """The error output."""
    return _console(sys.stderr, stderr=True)


def _console(stream: TextIO, *, stderr: bool = False) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def say(text: str) -> None:
    """A message to the person: to the error output."""
    typer.echo(clean(text, lines=True), err=True)


def document(value: Any) -> None:
    """An answer as one JSON document: keys as the answers' fields, times ISO 8601 in UTC."""
    typer.echo(json_of(value, indent=2))


def answer(value: Any, *, as_json: bool, nothing: str | None = None) -> None:
    """End the command with its answer as a document, for ``as_json``; with ``nothing``, for an empty answer."""
    if as_json:
        document(value)
        raise typer.Exit
    if nothing is not None and not value:
        say(nothing)
        raise typer.Exit


def json_of(value: Any, *, indent: int | None = None) -> str:
    from pydantic_core import to_json

    return to_json(value, indent=indent, inf_nan_mode="null").decode()


def clean(value: object, *, lines: bool = False) -> str:
    """Text without control characters. ``lines``: line ends and tabs stay."""
    text = str(value)
    return "\n".join(clean(line) for line in text.expandtabs().split("\n")) if lines else text.translate(CONTROLS)


def word(value: object, style: str = "") -> Text:
    """A piece of text for a cell; one that says how something is has its own style."""
    from rich.text import Text

    text = clean(value)
    return Text(text, style or STYLES.get(text, ""))


def line(value: object) -> Text:
    """A cell of one line that gives way to all others, and is cut where there is no room."""
    from rich.text import Text

    return Text(clean(value), no_wrap=True, overflow="ellipsis")


def steps(to: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Commands to paste, each with what it is for."""
    width = max((len(command) for command, _ in rows), default=0)
    for command, meaning in rows:
        remark = f"{' ' * (width - len(command))}  # {clean(meaning)}" if meaning else ""
        to.print(word(f"  {command}", "none").append(remark, "dim"), soft_wrap=True)


def table(*titles: str, fold: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """A table without lines. What ``fold`` names may be broken over lines, all else stays whole; ``right``: numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, BETWEEN, 0, 0), header_style="bold")
    for title in titles:
        made.add_column(
            title,
            no_wrap=title not in fold,
            overflow="fold" if title in fold else "ellipsis",
            justify="right" if title in right else "left",
        )
    return made


def fitted(
    rows: Sequence[Mapping[str, object]], width: int, *, name: str, right: Sequence[str], drop: Sequence[str] = ()
) -> Table:
    """A table of rows (title → cell, one row at least) with the columns that have room beside each other.

    Of ``drop`` one after the other is left out until the rest fits; ``name`` stays, folded where it is long.
    """
    from rich.cells import cell_len

    def needs(title: str) -> int:
        cells = (title, *(each[title] for each in rows))
        longest = max(cell_len("–" if cell is None else str(cell)) for cell in cells)
        return BETWEEN + (min(longest, LEAST_NAME) if title == name else longest)

    kept = list(rows[0])
    for title in drop:
        if sum(map(needs, kept)) <= width:
            break
        kept.remove(title)
    made = table(*kept, right=right, fold=(name,))
    for each in rows:
        row(made, *(each[title] for title in kept))
    return made


def row(into: Table, *cells: object) -> None:
    """Add a row: None is a dash, text is cleaned, what Rich can show stays."""
    into.add_row(*(_cell(cell) for cell in cells))


def _cell(cell: object) -> RenderableType:
    if cell is None:
        return word("–", "dim")
    return cell if hasattr(cell, "__rich_console__") else word(cell)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def plural(number: int, noun: str = "task") -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def stop(message: str, code: Exit) -> NoReturn:
    """End the command with a message."""
    say(f"joblane: {message}")
    raise typer.Exit(code)


def usage(message: str, option: str | None = None) -> NoReturn:
    """End the command: it was used wrongly."""
    raise typer.BadParameter(message, param_hint=option)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person; end the command where they would rather not, or nobody can be asked."""
    if yes:
        return
    if not is_terminal():
        stop(f"{question} There is no terminal to ask on: say --yes, or --dry-run to count only.", Exit.USAGE)
    if not typer.confirm(question, err=True):
        say("Nothing was done.")
        raise typer.Exit(Exit.FAILED)
