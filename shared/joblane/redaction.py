"""Redacted payload fields, whose values only the handler may see: ``token: Annotated[str, Redacted]``.

Payloads are masked before they are shown. Texts of errors are scrubbed, because a handler may put a value into any text
that it raises.

Fields are recognised by name: if any model of a payload marks a field, every key with its name or alias is masked in
that payload. So a payload of another schema, or of no schema, is masked too.
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
"""The text in place of a value."""
MARK = "x-redacted"
"""The keyword in the JSON Schema of a redacted field."""
MIN_SCRUBBED = 4
"""The shortest value that is scrubbed, in characters. Shorter values occur in ordinary words."""
MIN_HEADER = 8
"""The shortest header value that is scrubbed. It is rarely a secret, and often a word."""
MIN_LINE = 8
"""The shortest line of a value with several lines that is scrubbed."""
MIN_PIECE = 6
"""The shortest piece of a shortened value that is scrubbed."""
MAX_REWRITTEN = 10_000
"""The longest value that is also searched for in quoted, JSON and URL form."""
OPEN_HEADER = "traceparent"
"""The only header that is not scrubbed. It contains random numbers. Source: W3C, *Trace Context*."""

Scrub = Callable[[str], str]


class Redacted:
    """Marks a field of any type: ``Annotated[str, Redacted]``. Its whole value is masked; null stays null."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), MARK: True}


def unmarked(schema: Any) -> Any:
    """Return a JSON Schema without the marks, which do not change the values that it permits."""
    if isinstance(schema, Mapping):
        return {name: unmarked(part) for name, part in schema.items() if name != MARK or part is not True}
    return [unmarked(part) for part in schema] if isinstance(schema, list) else schema


@cache
def redacted_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the keys whose values are masked: names and aliases of marked fields, also in nested models."""
    names: set[str] = set()
    kinds: list[Any] = [model]
    for kind in kinds:  # grows during the loop
        for name, hint in _hints(kind).items():
            parts = _parts_of(hint)
            if any(part is Redacted or isinstance(part, Redacted) for part in parts):
                names |= {name, *_keys(kind, name, parts)}
            kinds += [part for part in parts if _has_fields(part) and part not in kinds]
    return frozenset(names)


def _has_fields(part: Any) -> bool:
    if not isinstance(part, type) or issubclass(part, RootModel):
        return False
    return issubclass(part, BaseModel) or is_dataclass(part) or is_typeddict(part)


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    known: Mapping[str, FieldInfo] | None = getattr(kind, "__pydantic_fields__", None)
    if known is None:
        return get_type_hints(kind, include_extras=True)
    return {name: info.rebuild_annotation() for name, info in known.items()}


def _parts_of(hint: Any) -> list[Any]:
    """Return an annotation and all its parts, down to the types with fields."""
    parts = [hint]
    for part in parts:  # grows during the loop
        inside = [*get_args(part), get_origin(part), getattr(part, "__value__", None)]
        if isinstance(part, type) and (issubclass(part, RootModel) or hasattr(part, "_field_defaults")):
            inside += _hints(part).values()  # a root model or a named tuple: JSON has no keys for it
        parts += [item for item in inside if item is not None and item not in parts]
    return parts


def _keys(kind: type[Any], name: str, parts: Iterable[Any]) -> Iterator[str]:
    """Yield the aliases by which a field is read or written. For an alias path: its last name."""
    field_info = (getattr(kind, "__pydantic_fields__", None) or {}).get(name)
    for info in (field_info, *parts):
        if isinstance(info, FieldInfo):
            for alias in (*aliases(info), info.serialization_alias):
                steps = alias.path if isinstance(alias, AliasPath) else [alias]
                yield from [step for step in steps if isinstance(step, str)][-1:]


def masked(model: type[BaseModel], payload: Any) -> Any:
    """Return ``payload`` (JSON values) with the values of redacted fields masked."""
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
    """Return ``edited`` with the values of ``kept`` in place of masks.

    The value behind a mask has the same key. In a list it belongs to the item that equals the edited one except for
    masks, or else to the item at the same position if both lists have the same length. Raises :class:`PayloadError` for
    a mask without a value.
    """
    names = redacted_names(model)
    return _restored(names, edited, kept, ()) if names else edited


def _restored(names: Collection[str], edited: Any, kept: Any, path: tuple[str | int, ...]) -> Any:
    if isinstance(edited, Mapping):
        before = kept if isinstance(kept, Mapping) else {}
        result = {}
        for key, item in edited.items():
            if key in names and item == MASK:
                if before.get(key) is None:
                    where = ".".join(str(step) for step in (*path, key) if step in names or isinstance(step, int))
                    raise PayloadError(
                        "payload", f"{where}: it is masked, and the task has no value for it; give a value"
                    )
                result[key] = before[key]
            else:
                result[key] = _restored(names, item, before.get(key), (*path, key))
        return result
    if isinstance(edited, list):
        return [
            _restored(names, item, _counterpart(names, position, edited, kept), (*path, position))
            for position, item in enumerate(edited)
        ]
    return edited


def _counterpart(names: Collection[str], position: int, edited: list[Any], kept: Any) -> Any:
    """Return the kept item of an edited list item, which may have a new position. None if no item is certain."""
    if not isinstance(kept, list):
        return None
    alike = [item for item in kept if _masked(names, item) == edited[position]]
    if len(alike) == 1 and edited.count(edited[position]) == 1:
        return alike[0]
    return kept[position] if len(kept) == len(edited) else None


def scrubber(model: type[BaseModel], *payloads: Any, headers: Mapping[str, str] | None = None) -> Scrub:
    """Return a function that replaces the values of redacted fields and headers in a text.

    ``payloads``: JSON values, or payload objects. It finds a value unchanged, in upper or lower case, quoted, in JSON,
    in a URL, and shortened by an ellipsis. It does not find a value in another encoding, or one shorter than
    :data:`MIN_SCRUBBED` characters.
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
    """Return a JSON value with all its texts scrubbed, also its keys."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(key): scrubbed(scrub, item) for key, item in value.items()}
    return [scrubbed(scrub, item) for item in value] if isinstance(value, list | tuple) else value


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
    quoted = _quoted(value)
    twice = {text for inner in quoted for text in _quoted(inner)}
    addresses = {
        quote(value, errors="replace"),
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
    }
    return {value, value.upper(), value.lower()} | quoted | twice | addresses


def _quoted(text: str) -> set[str]:
    """Return ``text`` as it is written inside quotes by Python and by JSON."""
    return {
        repr(text)[1:-1],
        repr(text.encode(errors="replace"))[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    }


def _without_pieces(text: str, forms: str) -> str:
    """Replace the rest of a value that a library has shortened: ``'the-first…the-last'``."""
    pieces = re.split(r"(\.\.\.|…)", text)
    for position in range(0, len(pieces), 2):
        piece = pieces[position]
        if position > 0:
            size = _matching_length(lambda size, piece=piece: piece[:size], len(piece), forms)  # type: ignore[misc]
            piece = MASK + piece[size:] if size else piece
        if position < len(pieces) - 1:
            size = _matching_length(lambda size, piece=piece: piece[-size:], len(piece), forms)  # type: ignore[misc]
            piece = piece[:-size] + MASK if size else piece
        pieces[position] = piece
    return "".join(pieces)


def _matching_length(part: Callable[[int], str], longest: int, forms: str) -> int:
    """Return the length of the longest part that is in a value; 0 if it is shorter than :data:`MIN_PIECE`."""
    size = MIN_PIECE
    while size <= longest and part(size) in forms:
        size += 1
    return size - 1 if size > MIN_PIECE else 0
