"""Redacted payload fields, whose values only the handler may see: ``token: Annotated[str, Redacted]``.

Payloads are masked before they are shown. Texts of errors are scrubbed by :mod:`joblane.tasks.scrubbing`.

Fields are recognised by name: if any model of a payload marks a field, every key with its name or alias is masked in
that payload. So a payload of another schema, or of no schema, is masked too.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from pydantic import AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from joblane.errors import DeclarationError, PayloadError
from joblane.tasks.payload import aliases

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

MASK = "[redacted]"
"""The text in place of a value."""
MARK = "x-redacted"
"""The keyword in the JSON Schema of a redacted field."""


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


def shown_schema(model: type[BaseModel], schema: Mapping[str, Any]) -> Any:
    """Return the JSON Schema of a payload with masks in place of the defaults of redacted fields, without examples."""
    names = redacted_names(model)
    return _shown(names, schema) if names else schema


def _shown(names: Collection[str], part: Any, *, is_masked: bool = False) -> Any:
    """``is_masked``: ``part`` is the schema of a redacted field."""
    if isinstance(part, list):
        return [_shown(names, one) for one in part]
    if not isinstance(part, Mapping):
        return part
    found = {key: one for key, one in part.items() if key != "examples"}
    for key, one in found.items():
        if key in ("properties", "$defs"):  # the keys in these are names
            found[key] = {
                name: _shown(names, inner, is_masked=key == "properties" and name in names)
                for name, inner in one.items()
            }
        elif key == "default":
            found[key] = MASK if is_masked and one is not None else _masked(names, one)
        elif key not in ("const", "enum"):
            found[key] = _shown(names, one)
    return found


def check_marks(where: str, model: type[BaseModel]) -> None:
    """Refuse marks on fields without a name. Raises :class:`DeclarationError`."""
    kinds: list[Any] = [model]
    for kind in kinds:  # grows during the loop
        extra = get_type_hints(kind, include_extras=True).get("__pydantic_extra__") if _has_typed_extra(kind) else None
        if any(part is Redacted or isinstance(part, Redacted) for part in _parts_of(extra)):
            raise DeclarationError(
                f"{where}: {kind.__name__} marks fields as redacted that it does not name, in __pydantic_extra__; put "
                "them into a field: extras: Annotated[dict[str, str], Redacted]"
            )
        for hint in field_types(kind).values():
            kinds += [part for part in _parts_of(hint) if has_fields(part) and part not in kinds]


def _has_typed_extra(kind: type[Any]) -> bool:
    return any("__pydantic_extra__" in inspect.get_annotations(base) for base in kind.__mro__ if base is not BaseModel)


@cache
def redacted_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the keys whose values are masked: names and aliases of marked fields, also in nested models."""
    names: set[str] = set()
    kinds: list[Any] = [model]
    for kind in kinds:  # grows during the loop
        for name, hint in field_types(kind).items():
            parts = _parts_of(hint)
            if any(part is Redacted or isinstance(part, Redacted) for part in parts):
                names |= {name, *_keys(kind, name, parts)}
            kinds += [part for part in parts if has_fields(part) and part not in kinds]
    return frozenset(names)


def has_fields(part: Any) -> bool:
    """True for a type whose values are JSON objects with declared fields."""
    if not isinstance(part, type) or issubclass(part, RootModel):
        return False
    return issubclass(part, BaseModel) or is_dataclass(part) or is_typeddict(part)


def field_types(kind: type[Any]) -> Mapping[str, Any]:
    """Return field → annotation, of a type with fields."""
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
            inside += field_types(part).values()  # a root model or a named tuple: JSON has no keys for it
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
