"""Payloads: their base class, the checks of a payload class, and refusals that show no value.

JSON has fewer types than Python, so a value that would reach the handler as another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Json,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    WrapSerializer,
)
from pydantic_core import ErrorDetails, to_jsonable_python

from joblane.errors import DeclarationError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
JSON_TYPES = {Any, Union, UnionType, NoneType, str, int, float, bool, list, dict}
"""The parts of an annotation whose values JSON keeps, if they have no others inside."""
NAIVE = (
    "a time with its zone is required, for example datetime.now(UTC); annotate the field with pydantic's "
    "NaiveDatetime if it has none"
)
OTHER = (
    "the handler would get a value of another type: JSON has strings, numbers, booleans, null, lists and objects; give "
    "these, or annotate the field with the type of its values"
)


class Payload(BaseModel):
    """Base class of every payload: a frozen pydantic model, used by the producer and by the handler.

    Unknown fields are refused. Errors never show a value.
    """

    # Infinities and NaN stay what they are, to be refused: pydantic would make them null.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid", ser_json_inf_nan="constants")


class ArchivedTask(Payload):
    """Payload of the task that ``on_archived`` names: the archived task and the reason."""

    task_id: str
    """Id of the archived task."""
    task_type: str
    """Type of the archived task."""
    queue: str
    """Queue of the archived task."""
    tenant: str | None
    """Tenant of the archived task. None: it has none."""
    reason: str
    """Reason why the task was archived."""
    error_type: str | None
    """Class of the last error. None: no attempt has failed."""
    runs: int
    """Number of runs, including the runs that do not count as attempts."""


WITHOUT_VALUES = {
    "byte_size": "Input should be a size in bytes, such as '1.5 MB'",
    "byte_size_unit": "Input should be a size in bytes, such as '1.5 MB'",
    "bool_parsing": "Input should be true or false",
    "float_parsing": "Input should be a valid number",
    "import_error": "Input should be the path of something that can be imported",
    "int_parsing": "Input should be a valid integer",
    "union_tag_invalid": "Input tag is not one of those expected",
    "uuid_parsing": "Input should be a valid UUID",
}
"""Replacements of those messages of pydantic that show a part of the value, or say what its parser does."""


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return where and what is wrong, for each field, without values and without keys that the sender chose."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    found = dict.fromkeys(_describe_one(item, model) for item in details)
    return f"not a valid {model.__name__}: " + "; ".join([*found][:10])


def _describe_one(item: ErrorDetails, model: type[BaseModel]) -> str:
    """Return declared fields and positions of the path: the rest are keys of a mapping, and remarks of pydantic."""
    unknown = item["type"] == "extra_forbidden"
    path: list[str] = []
    models = [model]
    for part in item["loc"][:-1] if unknown else item["loc"]:
        fields = [(name, info) for known in models for name, info in known.model_fields.items()]
        found = [info for name, info in fields if part in (name, *aliases(info))]
        if found or isinstance(part, int):
            path.append(str(part))
        if found:
            models = [nested for info in found for nested in _models(info)]
    problem = WITHOUT_VALUES.get(item["type"], item["msg"])
    if unknown:
        names = [name for known in models for name in known.model_fields]
        problem = "an unknown field" + (f"; known are {', '.join(names[:10])}" if names else "")
    return f"{'.'.join(path) or model.__name__}: {problem}"


def unwritable(payload: BaseModel, depth: int = 10) -> str:
    """Return the path of the first field whose value pydantic cannot write as JSON: fields and positions only."""
    for name in type(payload).model_fields:
        try:
            payload.model_dump(mode="json", include={name}, warnings="error")
        except (TypeError, ValueError, RecursionError):
            return name + _unwritable_in(getattr(payload, name), depth)
    return type(payload).__name__


def _unwritable_in(value: Any, depth: int) -> str:
    if depth == 0:
        return ""
    if isinstance(value, BaseModel):
        return f".{unwritable(value, depth - 1)}"
    for position, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
        try:
            to_jsonable_python(item)
        except (TypeError, ValueError, RecursionError):
            return f".{position}{_unwritable_in(item, depth - 1)}"
    return ""


def _models(info: FieldInfo) -> list[type[BaseModel]]:
    """Return the models that a field can hold."""
    return [part for part in parts_of(info) if isinstance(part, type) and issubclass(part, BaseModel)]


def parts_of(info: FieldInfo) -> list[Any]:
    """Return a field's annotation and all its parts, down to the parts with a serializer of their own."""
    parts = [info.rebuild_annotation()]
    for part in parts:  # grows during the loop
        inside = (*get_args(part), get_origin(part), getattr(part, "__value__", None))
        if not any(isinstance(item, (PlainSerializer, WrapSerializer)) for item in inside):
            parts += [item for item in inside if item not in parts]
    return parts


def aliases(info: FieldInfo) -> list[Any]:
    """Return the keys by which a field is read, in addition to its name."""
    alias = info.validation_alias
    return alias.choices if isinstance(alias, AliasChoices) else [alias] if alias else []


def check_model(where: str, model: type[BaseModel], seen: set[type[BaseModel]]) -> None:
    """Refuse a model whose payloads could not be read as they were written: each would become a dead letter.

    Fields with a serializer of their own are not checked. ``seen``: models that were checked already.
    """
    seen.add(model)
    serializers = model.__pydantic_decorators__
    if serializers.model_serializers:
        return
    if model.model_computed_fields and model.model_config.get("extra") == "forbid":
        raise DeclarationError(
            f"{where}.{next(iter(model.model_computed_fields))}: a computed field is written, and refused as unknown "
            "when it is read; make it a plain property"
        )
    serialized = {name for item in serializers.field_serializers.values() for name in item.info.fields}
    for name, info in model.model_fields.items():
        _check_key(f"{where}.{name}", name, info, model.model_config)
        if serialized.isdisjoint((name, "*")):
            _check_value(f"{where}.{name}", info, seen)


def _check_key(where: str, name: str, info: FieldInfo, config: ConfigDict) -> None:
    """Check that the key under which a field is written is one of those by which it is read."""
    if info.exclude and info.is_required():
        raise DeclarationError(f"{where}: is required and never written; drop exclude=True, or give it a default")
    written = (config.get("serialize_by_alias") and info.serialization_alias) or name
    read_by = aliases(info) if config.get("validate_by_alias", True) else []
    by_name = not read_by or config.get("validate_by_name") or config.get("populate_by_name")
    if written not in read_by and not (by_name and written == name):
        raise DeclarationError(
            f"{where}: is written as {written!r}, a key by which it is not read; drop its alias, or go by names: "
            "ConfigDict(validate_by_name=True, serialize_by_alias=False)"
        )


def _check_value(where: str, info: FieldInfo, seen: set[type[BaseModel]]) -> None:
    parts = parts_of(info)
    if any(isinstance(part, type) and issubclass(part, (Secret, SecretStr, SecretBytes)) for part in parts):
        raise DeclarationError(
            f"{where}: a secret is written as asterisks; pass its name, and look it up in the handler"
        )
    if any(part is Json or isinstance(part, Json) for part in parts):  # type: ignore[misc]
        raise DeclarationError(
            f"{where}: Json is written as a value and read as a string; declare the type of the value"
        )
    if any(isinstance(part, SerializeAsAny) for part in parts):  # type: ignore[misc]
        raise DeclarationError(
            f"{where}: with SerializeAsAny the fields of a subclass are written, and not known when they are read or "
            "redacted; declare a union of the classes"
        )
    for nested in _models(info):
        if nested not in seen:
            check_model(where, nested, seen)


def ambiguous_fields(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the fields of a model that need :func:`is_ambiguous`, each with the problem. Most models have none."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        parts = parts_of(info)
        if Any in parts and all(part is None or getattr(part, "__origin__", part) in JSON_TYPES for part in parts):
            found[name] = OTHER
        elif datetime in parts:
            found[name] = NAIVE
    return found


def is_ambiguous(value: Any, written: Any, problem: str) -> bool:
    """True if a value, ``written`` as JSON, has the problem."""
    if problem is NAIVE:
        return isinstance(value, datetime) and value.tzinfo is None
    return bool(value != written)
