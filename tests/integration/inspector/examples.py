"""Example values of types, made from the type only, with no field left at its default."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

AT = datetime(2026, 3, 29, 1, 59, 59, 123456, tzinfo=UTC)


def example(kind: Any) -> Any:
    """An example of any type that the inspector's operations take or return. A new kind of type is an error here."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return example(next(option for option in inner if option is not type(None)))
    if origin is tuple:
        return (example(inner[0]), example(inner[0]))
    if origin is Mapping:
        return {example(inner[0]): example(inner[1])}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: example(hints[field.name]) for field in dataclasses.fields(kind)})  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1]
    plain: Mapping[Any, Any] = {
        str: 'Grüße, "Zeile 1"\nZeile 2 \u2028',
        int: 2**53 - 1,
        float: 0.1,
        bool: True,
        datetime: AT,
        timedelta: timedelta(days=1, microseconds=1),
        Any: {"nested": [1, 2.5, None, True, "text", {"x": []}]},
    }
    return plain[kind]


def empty(kind: Any) -> Any:
    """Like :func:`example`, with None, an empty value or zero if the type allows it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if type(None) in inner else empty(inner[0])
    if origin is tuple:
        return ()
    if origin is Mapping:
        return {}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: empty(hints[field.name]) for field in dataclasses.fields(kind)})  # type: ignore[operator]
    plain: Mapping[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, timedelta: timedelta(0), Any: None}
    return plain.get(kind, example(kind) if kind not in plain else None)
