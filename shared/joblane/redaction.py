"""Payload fields whose values only the handler may see: ``token: Annotated[str, Redacted]``.

Masks what is shown, and scrubs what is said: a handler may have put a value anywhere into what it raises.

Fields are known by name: one that is marked in any model of a payload is masked wherever its name, or an alias, stands
in that payload. So a payload of another schema is masked as well, and one that fits no schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints, is_typeddict
from urllib.parse import quote, quote_plus

from pydantic import AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo

from joblane.errors import PayloadError
from joblane.payload import aliases

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

MASK = "[redacted]"
"""Stands for a value that is not shown."""
MARK = "x-redacted"
"""In the JSON Schema of a redacted field."""
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


class Redacted:
    """Marks a field: ``Annotated[str, Redacted]``, around any type. Its value is masked as a whole; null stays null."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), MARK: True}


def unmarked(schema: Any) -> Any:
    """A JSON Schema without the marks, which change nothing of what it takes."""
    if isinstance(schema, Mapping):
        return {name: unmarked(part) for name, part in schema.items() if name != MARK or part is not True}
    return [unmarked(part) for part in schema] if isinstance(schema, list) else schema


@cache
def redacted_names(model: type[BaseModel]) -> frozenset[str]:
    """The keys under which values are masked: names and aliases of marked fields, of nested models too."""
    found: set[str] = set()
    kinds: list[Any] = [model]
    for kind in kinds:  # grows meanwhile
        for name, hint in _hints(kind).items():
            parts = _made_of(hint)
            if any(part is Redacted or isinstance(part, Redacted) for part in parts):
                found |= {name, *_keys(kind, name, parts)}
            kinds += [part for part in parts if _has_fields(part) and part not in kinds]
    return frozenset(found)


def _has_fields(part: Any) -> bool:
    if not isinstance(part, type) or issubclass(part, RootModel):
        return False
    return issubclass(part, BaseModel) or is_dataclass(part) or is_typeddict(part)


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    known: Mapping[str, FieldInfo] | None = getattr(kind, "__pydantic_fields__", None)
    if known is None:
        return get_type_hints(kind, include_extras=True)
    return {name: info.rebuild_annotation() for name, info in known.items()}


def _made_of(hint: Any) -> list[Any]:
    """An annotation and all it is made of, down to what has keys of its own."""
    parts = [hint]
    for part in parts:  # grows meanwhile
        inside = [*get_args(part), get_origin(part), getattr(part, "__value__", None)]
        if isinstance(part, type) and (issubclass(part, RootModel) or hasattr(part, "_field_defaults")):
            inside += _hints(part).values()  # a root, or a named tuple: JSON has no key for it
        parts += [item for item in inside if item is not None and item not in parts]
    return parts


def _keys(kind: type[Any], name: str, parts: Iterable[Any]) -> Iterator[str]:
    """The keys by which a field is read or written, besides its name. Of a path its last name."""
    own = (getattr(kind, "__pydantic_fields__", None) or {}).get(name)
    for info in (own, *parts):
        if isinstance(info, FieldInfo):
            for alias in (*aliases(info), info.serialization_alias):
                steps = alias.path if isinstance(alias, AliasPath) else [alias]
                yield from [step for step in steps if isinstance(step, str)][-1:]


def masked(model: type[BaseModel], payload: Any) -> Any:
    """``payload`` (JSON values) with the values of redacted fields masked."""
    names = redacted_names(model)
    return _masked(names, payload) if names else payload


def _masked(names: Collection[str], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _masked(names, item) if key not in names else None if item is None else MASK
            for key, item in value.items()
        }
    return [_masked(names, item) for item in value] if isinstance(value, list) else value


def restored(model: type[BaseModel], edited: Any, kept: Any) -> Any:
    """``edited`` with the values of ``kept`` wherever a redacted field was left masked.

    What belongs together is found by its key, in a list by what is the same but for the mask, else by its position
    where both lists are as long. Raises :class:`PayloadError` where a mask has nothing behind it.
    """
    names = redacted_names(model)
    return _restored(names, edited, kept, ()) if names else edited


def _restored(names: Collection[str], edited: Any, kept: Any, path: tuple[str | int, ...]) -> Any:
    if isinstance(edited, Mapping):
        before = kept if isinstance(kept, Mapping) else {}
        found = {}
        for key, item in edited.items():
            if key in names and item == MASK:
                if before.get(key) is None:
                    where = ".".join(str(step) for step in (*path, key) if step in names or isinstance(step, int))
                    raise PayloadError(
                        "payload", f"{where}: it was left masked, and nothing is behind the mask there; give a value"
                    )
                found[key] = before[key]
            else:
                found[key] = _restored(names, item, before.get(key), (*path, key))
        return found
    if isinstance(edited, list):
        return [
            _restored(names, item, _counterpart(names, position, edited, kept), (*path, position))
            for position, item in enumerate(edited)
        ]
    return edited


def _counterpart(names: Collection[str], position: int, edited: list[Any], kept: Any) -> Any:
    """What stood in the place of an item: moved ones are found, and none is guessed."""
    if not isinstance(kept, list):
        return None
    alike = [item for item in kept if _masked(names, item) == edited[position]]
    if len(alike) == 1 and edited.count(edited[position]) == 1:
        return alike[0]
    return kept[position] if len(kept) == len(edited) else None


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
