"""Scrubbing: the values of redacted fields are removed from strings, because a handler may put one into any error.

A text is first made storable and cut (:func:`joblane.errors.shortened`), then scrubbed: nothing that is removed later
can put a value together again, and the time grows with the size of the values, not with a product of sizes.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import BaseModel

from joblane.errors import storable
from joblane.tasks.redaction import MASK, redacted_names

MIN_SCRUBBED = 4
"""The shortest value that is scrubbed, in characters. Shorter values occur in ordinary words."""
MIN_HEADER = 8
"""The shortest header value that is scrubbed. It is rarely a secret, and often a word."""
MIN_LINE = 8
"""The shortest line of a value with several lines that is scrubbed."""
MIN_START = 16
"""The shortest beginning of a value that is scrubbed. CPython shows the first 200 characters of a number that it cannot
read, without an ellipsis."""
MIN_PIECE = 6
"""The shortest piece of a shortened value that is scrubbed."""
MIN_ENCODED = 12
"""The shortest value in base64 or hexadecimal digits that is scrubbed."""
MAX_ENCODED = 100_000
"""The most characters of all values that are also searched for in base64, in UTF-16 and broken into lines. Each has
some fifty forms, which take memory and time at every failure."""
MAX_REWRITTEN = 10_000
"""The longest value that is also searched for in quoted, JSON and URL form."""
MAX_STEPS = 3_000_000_000
"""Comparisons of characters that the search for pieces may take, about a second. After that the rest of the text is
masked."""
OPEN_HEADER = "traceparent"
"""The only header that is not scrubbed. It contains random numbers. Source: W3C, *Trace Context*."""
PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
"""Values that are the same in quotes, in JSON and in a URL."""

Scrub = Callable[[str], str]


def scrubber(model: type[BaseModel], *payloads: Any, headers: Mapping[str, str] | None = None) -> Scrub:
    """Return a function that replaces the values of redacted fields and headers in a text.

    ``payloads``: JSON values, or payload objects. It finds a value unchanged, in upper, lower or title case, quoted up
    to three times, in JSON, in a URL, in HTML, in base64 or hexadecimal digits also as a part of more, and as bytes of
    UTF-16; shortened: its beginning, or a part next to an ellipsis; and broken into lines. It does not find a value in
    another encoding, or one shorter than :data:`MIN_SCRUBBED` characters.
    """
    names = redacted_names(model)
    values = {text for payload in payloads for text in _texts(names, payload)} if names else set()
    values |= {value for name, value in (headers or {}).items() if name != OPEN_HEADER and len(value) >= MIN_HEADER}
    if not values:
        return str
    lines = {line.strip() for value in values if "\n" in value for line in value.splitlines()}
    values |= {line for line in lines if len(line) >= MIN_LINE}
    few = sum(map(len, values)) <= MAX_ENCODED
    forms = {form for value in values for form in (*_forms(value), *(_encoded(value) if few else ()))}
    return Scrubber({written for form in forms for written in (form, storable(form))}, in_lines=few)


class Scrubber:
    """Replaces the ``forms`` of values in a text, and parts of them."""

    def __init__(self, forms: Collection[str], *, in_lines: bool = True) -> None:
        """``in_lines``: also find values that were broken into lines."""
        self._forms = sorted(form for form in forms if len(form) >= MIN_SCRUBBED)
        self._starts = {form[:MIN_START] for form in self._forms if len(form) >= MIN_START}
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for form in self._forms:
            lengths[form[:MIN_SCRUBBED]].add(len(form))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self._whole = frozenset(self._forms)
        self._haystack = "\0".join(self._forms)
        small = {"".join(form.split()) for form in self._forms if len(form) <= MAX_REWRITTEN} if in_lines else set()
        self._squeezed = Scrubber(small, in_lines=False) if small else None
        self.steps = 0
        """Comparisons of characters so far, at most."""

    def __call__(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for first, last in sorted([*self._found(text), *self._found_in_lines(text)]):
            if first >= end:
                parts += [text[end:first], MASK]
            end = max(end, last)
        return self._without_pieces("".join([*parts, text[end:]]))

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where values and beginnings of values are, by their first characters. They may overlap."""
        for first in range(len(text) - MIN_SCRUBBED + 1):
            lengths = self._lengths.get(text[first : first + MIN_SCRUBBED])
            if lengths is None:
                continue
            size = next((size for size in lengths if text[first : first + size] in self._whole), 0)
            if text[first : first + MIN_START] in self._starts:
                size = max(size, self._common(text[first : first + lengths[0]]))
            if size:
                yield first, first + size

    def _found_in_lines(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where values are that were broken into lines, whatever blanks that added or removed."""
        if self._squeezed is None or "\n" not in text:
            return
        places = [at for at, character in enumerate(text) if not character.isspace()]
        for first, last in self._squeezed._found("".join(text.split())):
            start, end = places[first], places[min(last, len(places)) - 1] + 1
            if last - first >= MIN_LINE and "\n" in text[start:end]:
                yield start, end

    def _common(self, text: str) -> int:
        """Return the length of the longest beginning of ``text`` that is the beginning of a form.

        It is that of a neighbour in the sorted list. Space at its end is not counted.
        """
        at = bisect_left(self._forms, text)
        forms = self._forms[max(0, at - 1) : at + 1]
        size = max(_longest(lambda size, form=form: form.startswith(text[:size]), 0, len(text)) for form in forms)  # type: ignore[misc]
        return len(text[:size].rstrip())

    def _without_pieces(self, text: str) -> str:
        """Replace the rest of a value that a library has shortened: ``'the-first…the-last'``."""
        pieces = re.split(r"(\.\.\.|…)", text)
        for position in range(0, len(pieces), 2):
            piece = pieces[position]
            if position > 0:
                size = self._matching(lambda size, piece=piece: piece[:size], len(piece))  # type: ignore[misc]
                piece = MASK + piece[size:] if size else piece
            if position < len(pieces) - 1:
                size = self._matching(lambda size, piece=piece: piece[-size:], len(piece))  # type: ignore[misc]
                piece = piece[:-size] + MASK if size else piece
            if self.steps > MAX_STEPS:
                return "".join(pieces[:position]) + MASK
            pieces[position] = piece
        return "".join(pieces)

    def _matching(self, part: Callable[[int], str], longest: int) -> int:
        """Return the length of the longest part that is in a value; 0 if it is shorter than :data:`MIN_PIECE`."""
        if longest < MIN_PIECE or not self._is_in_a_value(part(MIN_PIECE)):
            return 0
        return _longest(lambda size: self._is_in_a_value(part(size)), MIN_PIECE, longest)

    def _is_in_a_value(self, text: str) -> bool:
        self.steps += len(self._haystack) * min(len(text), 100)  # CPython's search is linear for longer texts
        return text in self._haystack


def _longest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest size that fits. ``low`` does, and so does each smaller size than one that does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def scrubbed(scrub: Scrub, value: Any) -> Any:
    """Return a JSON value with all its texts scrubbed, also its keys."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(key): scrubbed(scrub, item) for key, item in value.items()}
    return [scrubbed(scrub, item) for item in value] if isinstance(value, list | tuple) else value


def shares_text(text: str, *payloads: Any, model: type[BaseModel] | None = None) -> bool:
    """True if ``text`` is a part of a value of the payloads, or such a value a part of ``text``, in any case.

    ``model``: compare only the values of its redacted fields.
    """
    names, text = redacted_names(model) if model else (), text.lower()
    values = (value.lower() for payload in payloads for value in _texts(names, payload, model is None))
    return any(text in value or value in text for value in values)


def _texts(names: Collection[str], tree: Any, inside: bool = False) -> Iterator[str]:
    """Yield the texts of all values of redacted fields. ``inside``: ``tree`` is the value of such a field."""
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
    except Exception:  # a value that cannot be printed is in no text, and the attempt must end anyway
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
    cases = {value, value.upper(), value.lower(), value.title()}
    if PLAIN.fullmatch(value):
        return cases
    from html import escape  # with a table of 2,000 names, which a start would load

    quoted = _quoted(value)
    twice = {text for inner in quoted for text in _quoted(inner)}
    thrice = {text for inner in twice for text in _quoted(inner)}
    addresses = {
        quote(value, errors="replace"),
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
    }
    pages = {escape(value), escape(value, quote=False)}
    return cases | quoted | twice | thrice | addresses | pages


def _encoded(value: str) -> set[str]:
    """Return the value in base64 and in hexadecimal digits, from UTF-8 and UTF-16, and both read as single bytes.

    Base64 of more than the value has one of three forms, of whose ends the neighbours decide. A form that is shorter
    than :data:`MIN_ENCODED` could be a part of any text.
    """
    found: set[str] = set()
    for code in (value.encode(errors="replace"), value.encode("utf-16-le", errors="replace")):
        found |= {code.hex(), code.hex().upper(), repr(code)[2:-1], *_quoted(code.decode("latin-1"))}
        for before in range(3):
            whole = base64.b64encode(bytes(before) + code).decode()
            end = len(whole) - (0 if (before + len(code)) % 3 == 0 else 4)
            sure = whole[0 if before == 0 else 4 : end]
            found |= {sure, sure.replace("+", "-").replace("/", "_")}
        whole = base64.b64encode(code).decode().rstrip("=")
        found |= {whole, whole.replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= MIN_ENCODED}


def _quoted(text: str) -> set[str]:
    """Return ``text`` as it is written inside quotes by Python and by JSON."""
    return {
        repr(text)[1:-1],
        repr(text.encode(errors="replace"))[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    }
