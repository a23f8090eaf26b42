"""Docstrings and declarations as Markdown: sections of a docstring, texts under fields, types and defaults."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import cache
from textwrap import dedent
from typing import Any

SECTIONS = ("Args", "Raises", "Source")
ROLE = re.compile(r":(?:class|meth|func|data|mod|attr):`~?([^`]+)`")
RANGE = re.compile(r" ?Range: ([^.]+)\.")


class MissingTextError(Exception):
    """Something that the reference shows has no text."""


@dataclass
class Doc:
    """A docstring. ``text``: its paragraphs. ``args``, ``raises``: name → text."""

    text: list[str]
    args: dict[str, str] = field(default_factory=dict)
    raises: dict[str, str] = field(default_factory=dict)


def doc(what: Any, name: str) -> Doc:
    """Read the docstring of a class or function. ``name``: for the refusal where there is none."""
    found = inspect.cleandoc(vars(what).get("__doc__") or "" if isinstance(what, type) else what.__doc__ or "")
    if not found:
        raise MissingTextError(f"{name} has no docstring")
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", found, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return Doc(_paragraphs(parts[0]), _items(sections.get("Args", "")), _items(sections.get("Raises", "")))


def fields_of(model: type) -> dict[str, str]:
    """Field → the text under it, of a class and its bases in this project; a member of an enum is a field too.

    Raises :class:`MissingTextError` for a public field without a text.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.startswith(("joblane", "tests")):
            found |= _fields(base)
    missing = [name for name, text in found.items() if not text]
    if missing:
        raise MissingTextError(f"{model.__name__}.{missing[0]} has no text under it")
    return found


@cache
def _fields(model: type) -> Mapping[str, str]:
    [tree] = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.AnnAssign(target=ast.Name(name), annotation=kind) if "ClassVar" not in ast.unparse(kind):
                pass
            case ast.Assign(targets=[ast.Name(name)]) if issubclass(model, Enum):
                pass
            case _:
                continue
        if not name.startswith("_"):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            found[name] = " ".join(inspect.cleandoc(str(text or "")).split())
    return found


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.strip().split("\n\n") if part.strip()]


def _items(text: str) -> dict[str, str]:
    """``name: text`` each, further lines indented."""
    items = re.split(r"^    (\w+): ", text, flags=re.M)
    return {name: " ".join(words.split()) for name, words in zip(items[1::2], items[2::2], strict=True)}


def markdown(text: str, links: Mapping[str, str] | None = None) -> str:
    """A docstring's text: names of roles become links to where the reference has them."""

    def name(match: re.Match[str]) -> str:
        shown = match[1] if match[0].count("~") == 0 else match[1].rpartition(".")[2]
        target = (links or {}).get(shown) or (links or {}).get(shown.rpartition(".")[2])
        return f"[`{shown}`]({target})" if target else f"`{shown}`"

    return ROLE.sub(name, re.sub(r"``([^`]+)``", r"`\1`", text))


def split_range(text: str) -> tuple[str, str]:
    """A text without its sentence ``Range: …``, and the range; empty where there is none."""
    found = RANGE.search(text)
    return (RANGE.sub("", text), found[1]) if found else (text, "")


def shown_type(annotation: object) -> str:
    """A type as code, in words where it is a union."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Za-z])", "", text)
    parts = [part for part in _split(text) if part != "None"]
    return " or ".join([f"`{part}`" for part in parts] + (["None"] if "None" in _split(text) else []))


def _split(text: str) -> list[str]:
    """Split a union, but not within brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def shown_default(value: object) -> str:
    """A default as code; a duration in words."""
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, Enum):
        return f'`"{value.value}"`'
    if isinstance(value, str):
        return f'`"{value}"`'
    if value in ((), {}) or (isinstance(value, Sequence) and not value):
        return "none"
    return f"`{value}`" if not isinstance(value, bool) and isinstance(value, (int, float)) else f"{value}"


def duration(value: timedelta) -> str:
    """``1 minute``, ``24 days``: in the largest unit that is whole."""
    seconds = value.total_seconds()
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 and seconds >= size:
            return f"{seconds / size:,.0f} {unit}" + ("" if seconds == size else "s")
    return f"{seconds:g} seconds"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
