"""Values of a payload that would reach the handler as other values: JSON has fewer types than Python."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union

from joblane.tasks.payload import parts_of

if TYPE_CHECKING:
    from pydantic import BaseModel

JSON_TYPES = {Any, Union, UnionType, NoneType, str, int, float, bool, list, dict}
"""The parts of an annotation whose values JSON keeps, if they have no others inside."""
NAIVE = (
    "a time with its zone is required, for example datetime.now(UTC); annotate the field with pydantic's "
    "NaiveDatetime if it has none"
)
OTHER = (
    "the handler would get a value of another type: JSON has texts, numbers, booleans, null, lists and objects; give "
    "these, or annotate the field with the type of its values"
)


def ambiguous_fields(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the fields of a model that need :func:`is_ambiguous`, each with the problem. Most models have none."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        parts = parts_of(info)
        if Any in parts and all(part in JSON_TYPES or part is None for part in map(_plain, parts)):
            found[name] = OTHER
        elif datetime in parts:
            found[name] = NAIVE
    return found


def _plain(part: Any) -> Any:
    """Return the origin of an annotation, ``list`` for ``list[Any]``."""
    return getattr(part, "__origin__", part)


def is_ambiguous(value: Any, written: Any, problem: str) -> bool:
    """True if a value, ``written`` as JSON, has the problem."""
    if problem is NAIVE:
        return isinstance(value, datetime) and value.tzinfo is None
    return bool(value != written)
