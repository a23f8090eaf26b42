"""The pages of the documentation, and their blocks of code, commands, links and tables.

The word after a block's language says what the block needs:

==================  =================================================================================================
``sh``              a test runs each of its commands; ``tests/unit/test_docs.py`` names the test
``sh stack``        needs the local stack (``make up``) and the AWS CLI
``sh emulator``     is for another emulator, which is not part of this project
``sh account``      needs an AWS account
``sql``             is run on a migrated PostgreSQL, by ``tests/integration/record/test_docs_sql.py``
``python celery``   is code for another system, as ``python dramatiq``, ``ruby sidekiq`` and ``go asynq`` are; Python is
                    compiled, by ``tests/integration/test_docs_moving.py``
``python app``      is a file of an application, which a test runs on its own
``python construct``  a CDK app or another program, which a test of ``tests/infra`` runs
``json stage``      settings of one stage, which a test reads as it reads ``cdk.json``
``json schedules``  only the ``schedules`` of a stage
==================  =================================================================================================
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docs" / "llms.txt")

MYPY = ("mypy", f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}")
TYPED = str(ROOT / "shared")
"""mypy as in ``make check``, with ``MYPYPATH``: then its cache has all but the files of a test."""

OTHER_SYSTEMS = ("celery", "dramatiq")
"""Marks of Python that is not run, as it is written for another library."""

FENCE = re.compile(r"^( *)```([a-z]*)[ ]*([^\n]*)\n(.*?)^\1```$", re.S | re.M)
"""A block in a list is indented."""
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.M)
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.S)


@dataclass(frozen=True)
class Block:
    """A block of code. ``mark``: the words after its language."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str, *pages: Path) -> list[Block]:
    """The blocks of a language in ``pages``, or in all pages."""
    return [block for page in pages or PAGES for block in _blocks(page) if block.language == language]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[2], match[3].strip(), dedent(match[4]))


def commands(text: str) -> Iterator[list[str]]:
    """Split a shell script into simple commands, at ``;``, ``&&``, ``|`` and in ``$(…)``; each is a list of words.

    Raises ValueError if a quotation does not end.
    """
    for line in _logical_lines(text):
        for inner in SUBSTITUTION.findall(line):
            yield from commands(inner)
        lexer = shlex.shlex(SUBSTITUTION.sub("SUBSTITUTED", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for token in lexer:
            if token and not token.strip("();<>|&"):
                yield from [words] if words else []
                words = []
            elif words or not ASSIGNMENT.fullmatch(token):
                words.append(token)
        yield from [words] if words else []


def _logical_lines(text: str) -> Iterator[str]:
    """The lines, joined with the next line after a backslash and inside quotes."""
    line = ""
    for part in text.splitlines():
        line += part
        if line.endswith("\\"):
            line = line[:-1]
            continue
        try:
            shlex.split(line, comments=True)
        except ValueError:
            line += "\n"
            continue
        yield line
        line = ""
    if line.strip():
        yield from [line] if shlex.split(line) else []


def links(page: Path) -> list[str]:
    """The targets of a page's links outside of its code."""
    return LINK.findall(FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of the page: its headings as GitHub writes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without the header row."""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if line.lstrip("#").strip() == heading and line.startswith("#"):
            break
    else:
        raise LookupError(f"{page.name}: there is no heading {heading!r}")
    for line in lines:
        if line.startswith("|"):
            next(lines)
            break
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in takewhile(_is_row, lines)]


def _is_row(line: str) -> bool:
    return line.startswith("|")
