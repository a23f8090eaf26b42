"""Payload fields whose values nobody but the handler is to see: ``token: Annotated[str, Redacted]``.

Fields are known by name: one that is marked in any model of a payload is masked wherever its name, or an alias, stands
in that payload. So a payload of another schema is masked as well, and one that fits no schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints, is_typeddict

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


# --- Which fields --------------------------------------------------------------------------------------------------


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


# --- JSON values ---------------------------------------------------------------------------------------------------


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
