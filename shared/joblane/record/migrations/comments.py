"""Comments of tables and columns: the ``--`` lines above them in ``create table``, written to the database as well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NO_COLUMN = ("primary key", "constraint")
"""First words of the lines of a ``create table`` that define no column."""


@dataclass(frozen=True, slots=True)
class Described:
    """A table, or one of its columns.

    ``name``: ``joblane.tasks``, or ``joblane.tasks.id``. ``definition``: the text after a column's name; empty for a
    table.
    """

    name: str
    definition: str
    comment: str


def described(statement: str) -> list[Described]:
    """Return the table of a ``create table`` statement and its columns, with their comments.

    A definition that goes over several lines is indented after its first.
    """
    found: list[Described] = []
    comment: list[str] = []
    for line in statement.strip().splitlines():
        if line.strip().startswith("--"):
            comment.append(line.strip().removeprefix("--").strip())
            continue
        if match := re.match(r"create (?:table|view) (\S+) (?:\(|as)", line):
            found.append(Described(match[1], "", " ".join(comment)))
        elif (match := re.match(r"    (\w+) (.+?),?$", line)) and not line.strip().startswith(NO_COLUMN):
            found.append(Described(f"{found[0].name}.{match[1]}", match[2], " ".join(comment)))
        comment = []
    return found


def statements(statement: str) -> Iterator[str]:
    """Yield a ``create table`` statement, and ``comment on`` for the table and each column."""
    yield statement
    for part in described(statement):
        kind = "column" if part.definition else statement.split()[statement.split().index("create") + 1]
        # a colon before a name would be a parameter of SQLAlchemy's
        comment = part.comment.replace("'", "''").replace(":", "\\:")
        yield f"comment on {kind} {part.name} is '{comment}'"
