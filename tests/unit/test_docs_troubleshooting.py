"""The page of troubleshooting quotes messages as the library writes them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.pages import ROOT, table

PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"
HEADINGS = (
    "`joblane dev` does not start, or does not run a task",
    "`joblane up` fails",
    "`joblane` finds no stack",
    "A deploy to AWS",
    "A database of another stage or project",
)
"""Sections whose tables have messages in their first column."""
OF_ANOTHER_PROGRAM = "of "
"""The beginning of a quoted message that another program writes."""


def quoted() -> list[str]:
    rows = [row[0] for heading in HEADINGS for row in table(PAGE, heading)]
    return [message for message in rows if not message.startswith(OF_ANOTHER_PROGRAM)]


def texts() -> tuple[str, ...]:
    """All texts in the library's code, with `…` in place of each value."""
    return tuple(
        text
        for path in sorted((ROOT / "shared" / "joblane").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        for text in _text(node)
    )


def _text(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_the_library_writes_the_quoted_messages() -> None:
    written = texts()
    for message in quoted():
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.S | re.I)
        assert any(pattern.search(text) for text in written), message


def test_a_message_is_compared_across_values_and_lines() -> None:
    assert "PostgreSQL ended while it started" in quoted()
    (node,) = ast.parse('f"a {value} b"\n').body
    assert isinstance(node, ast.Expr)
    assert list(_text(node.value)) == ["a … b"]
