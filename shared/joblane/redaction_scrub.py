"""Texts without the values of redacted fields: a handler may have put one anywhere into what it raises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import BaseModel

from joblane.redaction import MASK, redacted_names

MIN_SCRUBBED = 4
"""Characters of a value that is looked for in texts; what is shorter stands in every other word."""
MIN_HEADER = 8
"""The same of a header, which is rarely a secret, and often a word."""
MIN_LINE = 8
"""The same of one line among several of a value."""
MIN_PIECE = 6
"""The same of a piece that an ellipsis has left."""
MAX_REWRITTEN = 10_000
"""Characters of a value up to which it is also looked for as it stands in quotes, JSON and addresses."""
OPEN_HEADER = "traceparent"
"""The one header whose value may be told. Source: W3C, *Trace Context*: it holds random numbers."""

Scrub = Callable[[str], str]


def scrubber(model: type[BaseModel], *payloads: Any, headers: Mapping[str, str] | None = None) -> Scrub:
    """What takes the values of redacted fields, and of headers, out of a text.

    ``payloads``: as JSON values, or as read. A value is found as it is, in capitals or small letters, in quotes, as
    JSON or part of an address writes it, and in pieces beside an ellipsis. One that was encoded in another way is not,
    nor one below :data:`MIN_SCRUBBED` characters.
    """
    names = redacted_names(model)
    values = {text for payload in payloads for text in _texts(names, payload)} if names else set()
    values |= {value for name, value in (headers or {}).items() if name != OPEN_HEADER and len(value) >= MIN_HEADER}
    if not values:
        return str
    lines = {line.strip() for value in values if "\n" in value for line in value.splitlines()}
    values |= {line for line in lines if len(line) >= MIN_LINE}
    forms = sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)
    haystack = "\0".join(forms)

    def scrub(text: str) -> str:
        for form in forms:
            text = text.replace(form, MASK)
        return _without_pieces(text, haystack)

    return scrub


def scrubbed(scrub: Scrub, value: Any) -> Any:
    """A JSON value with each of its texts scrubbed, keys included."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(key): scrubbed(scrub, item) for key, item in value.items()}
    return [scrubbed(scrub, item) for item in value] if isinstance(value, list | tuple) else value


def _texts(names: Collection[str], tree: Any, inside: bool = False) -> Iterator[str]:
    """What the values of redacted fields look like in a text; ``inside`` one of them already."""
    if isinstance(tree, BaseModel):
        tree = dict(tree)
    elif is_dataclass(tree):
        tree = {field.name: getattr(tree, field.name) for field in fields(tree)}
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _texts(names, item, inside or key in names)
        if inside:
            yield from _texts(names, list(tree), inside)
    elif isinstance(tree, list | tuple | set | frozenset):
        for item in tree:
            yield from _texts(names, item, inside)
    elif inside and tree is not None and not isinstance(tree, bool):
        yield from (text for text in _written(tree) if len(text) >= MIN_SCRUBBED)


def _written(leaf: Any) -> Iterable[str]:
    try:
        return _as_text(leaf)
    except Exception:  # what cannot be printed stands in no text, and its attempt has to end all the same
        return []


def _as_text(leaf: Any) -> Iterable[str]:
    match leaf:
        case Enum():
            return _as_text(leaf.value)
        case str():
            return [str(leaf)]
        case int() | float():
            return [str(leaf), f"{leaf:,}"]
        case bytes():
            return [leaf.decode(errors="replace"), repr(leaf)[2:-1]]
        case _:
            return [str(leaf), repr(leaf)]


def _forms(value: str) -> set[str]:
    if len(value) > MAX_REWRITTEN:
        return {value}
    quoted = _quoted(value)
    twice = {text for inner in quoted for text in _quoted(inner)}
    addresses = {
        quote(value, errors="replace"),
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
    }
    return {value, value.upper(), value.lower()} | quoted | twice | addresses


def _quoted(text: str) -> set[str]:
    """``text`` between quotes of Python and of JSON."""
    return {
        repr(text)[1:-1],
        repr(text.encode(errors="replace"))[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    }


def _without_pieces(text: str, forms: str) -> str:
    """``text`` without what some library has left of a value when it shortened it: ``'the-first…the-last'``."""
    pieces = re.split(r"(\.\.\.|…)", text)
    for position in range(0, len(pieces), 2):
        piece = pieces[position]
        if position > 0:
            size = _length(lambda size, piece=piece: piece[:size], len(piece), forms)  # type: ignore[misc]
            piece = MASK + piece[size:] if size else piece
        if position < len(pieces) - 1:
            size = _length(lambda size, piece=piece: piece[-size:], len(piece), forms)  # type: ignore[misc]
            piece = piece[:-size] + MASK if size else piece
        pieces[position] = piece
    return "".join(pieces)


def _length(part: Callable[[int], str], longest: int, forms: str) -> int:
    """How long the part is that is some of a value; 0 where it is too short to tell."""
    size = MIN_PIECE
    while size <= longest and part(size) in forms:
        size += 1
    return size - 1 if size > MIN_PIECE else 0
