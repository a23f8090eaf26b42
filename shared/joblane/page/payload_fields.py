"""The fields of a form for a payload, from its JSON Schema, and the payload from the strings of the form.

A field whose schema has no input of its own, for example a list, an object or a union, is a text area for JSON. The
strings only get their JSON types here: the operation checks the payload.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from joblane.tasks.redaction import MARK

LONGEST_LINE = 200
"""A string that may be longer, or whose default has several lines, gets a text area."""
DEEPEST = 20
"""References that are followed."""


class InputKind(StrEnum):
    """The kind of input that a form has for a field."""

    TEXT = "text"
    LINES = "lines"
    INTEGER = "integer"
    NUMBER = "number"
    CHOICE = "choice"
    """A value out of several: an enumeration or a boolean."""
    TIME = "time"
    DATE = "date"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class PayloadField:
    """A field of a payload. ``default``: as the text of its input; None: it has none, or a secret one.

    ``choices``: of a choice, each as JSON and as its label. ``masked``: the field is redacted. ``secret``: it is, or a
    part of its value is.
    """

    name: str
    kind: InputKind
    required: bool
    nullable: bool
    masked: bool
    secret: bool
    has_default: bool
    """True for a default that is not null."""
    default: str | None
    choices: tuple[tuple[str, str], ...]
    help: str

    @property
    def must_be_given(self) -> bool:
        """True if an empty input is refused."""
        return self.required and not self.nullable


class FieldProblem(ValueError):  # noqa: N818
    """The text of an input has no value. The message does not show the text."""


# --- Fields of a schema --------------------------------------------------------------------------------------------


def fields_of(schema: Mapping[str, Any]) -> tuple[PayloadField, ...]:
    """The fields of an object's schema, in their order."""
    properties = _mapping(schema.get("properties"))
    required, secrets = schema.get("required") or (), redacted_in(schema)
    return tuple(_field(schema, name, _mapping(part), name in required, secrets) for name, part in properties.items())


def redacted_in(schema: Any) -> frozenset[str]:
    """The names of all marked fields: a payload is masked by name, at any depth."""
    return frozenset(_marked_names(schema))


def _marked_names(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        for name, one in _mapping(part.get("properties")).items():
            if _is_marked(one):
                yield name
        for one in part.values():
            yield from _marked_names(one)
    elif isinstance(part, list):
        for one in part:
            yield from _marked_names(one)


def _is_marked(part: Any) -> bool:
    """True for the schema of a marked field; the mark of an optional field can be on one of its alternatives."""
    if not isinstance(part, Mapping):
        return False
    return part.get(MARK) is True or any(_is_marked(one) for one in (*_list(part, "anyOf"), *_list(part, "oneOf")))


def _field(
    schema: Mapping[str, Any], name: str, part: Mapping[str, Any], required: bool, secrets: frozenset[str]
) -> PayloadField:
    found = _resolved(schema, part)
    found, nullable = _without_null(schema, found)
    kind, choices = _input(found)
    masked = name in secrets or _is_marked(part)
    secret = masked or _holds(schema, found, secrets)
    has_default, default = part.get("default") is not None, None
    if has_default and not secret:
        default = _written(kind, part["default"])
        if kind is InputKind.TEXT and "\n" in default:
            kind = InputKind.LINES
    description = part.get("description") or ""
    return PayloadField(name, kind, required, nullable, masked, secret, has_default, default, choices, str(description))


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """``part`` with the schema that it refers to."""
    for _ in range(DEEPEST):
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
            break
        named = _mapping(_mapping(schema.get("$defs")).get(reference.removeprefix("#/$defs/")))
        part = {**named, **{name: value for name, value in part.items() if name != "$ref"}}
    return part


def _without_null(schema: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The schema of the values that are not null, and True if null is a value."""
    alternatives = [_resolved(schema, _mapping(one)) for one in (*_list(found, "anyOf"), *_list(found, "oneOf"))]
    others = [one for one in alternatives if one.get("type") != "null"]
    nullable = len(others) < len(alternatives)
    if others and all(one.get("type") == "string" and not _constants(one) for one in others) and len(others) > 1:
        return {"type": "string"}, nullable
    if len(others) == 1:
        found = others[0]
    constants = _constants(found)
    if None in constants:
        return {"enum": [one for one in constants if one is not None]}, True
    return found, nullable


def _constants(found: Mapping[str, Any]) -> list[Any]:
    return [found["const"]] if "const" in found else list(_list(found, "enum"))


def _input(found: Mapping[str, Any]) -> tuple[InputKind, tuple[tuple[str, str], ...]]:
    """The kind of input for the values that are not null, and the choices."""
    if constants := _constants(found):
        shown = [_written(InputKind.CHOICE, one) for one in constants]
        return InputKind.CHOICE, tuple(
            (text, one if isinstance(one, str) else text) for text, one in zip(shown, constants, strict=True)
        )
    type_, format_ = found.get("type"), found.get("format")
    if type_ == "boolean":
        return InputKind.CHOICE, (("true", "true"), ("false", "false"))
    if type_ != "string":
        return {"integer": InputKind.INTEGER, "number": InputKind.NUMBER}.get(str(type_), InputKind.JSON), ()
    longest = found.get("maxLength")
    lines = isinstance(longest, int) and longest > LONGEST_LINE
    return {"date-time": InputKind.TIME, "date": InputKind.DATE}.get(
        str(format_), InputKind.LINES if lines else InputKind.TEXT
    ), ()


def _holds(schema: Mapping[str, Any], part: Any, secrets: frozenset[str]) -> bool:
    """True if a value of this schema can have a redacted field inside."""
    definitions = _mapping(schema.get("$defs"))
    parts, seen = [part], set()
    for one in parts:  # grows during the loop
        if isinstance(one, list):
            parts += one
        elif isinstance(one, Mapping):
            if not secrets.isdisjoint(_mapping(one.get("properties"))):
                return True
            name = str(one.get("$ref")).removeprefix("#/$defs/")
            parts += [*one.values(), *([] if name in seen else [definitions.get(name)])]
            seen.add(name)
    return False


def _written(kind: InputKind, value: Any) -> str:
    """A value as the text of an input."""
    if isinstance(value, str) and kind in (InputKind.TEXT, InputKind.LINES, InputKind.TIME, InputKind.DATE):
        return value
    return json.dumps(value, ensure_ascii=False, indent=2 if kind is InputKind.JSON and value else None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(part: Mapping[str, Any], name: str) -> list[Any]:
    value = part.get(name)
    return value if isinstance(value, list) else []


# --- A payload from strings ----------------------------------------------------------------------------------------

LEFT_OUT = object()
"""Instead of the value of a field that the payload does not get."""


def value_of(field: PayloadField, text: str) -> Any:
    """The value of an input, or :data:`LEFT_OUT`. Raises :class:`FieldProblem`."""
    text = text.replace("\r\n", "\n")
    if field.kind not in (InputKind.TEXT, InputKind.LINES):
        text = text.strip()
    if not text:
        if field.must_be_given:
            raise FieldProblem("a value is required")
        return None if field.nullable and (field.required or field.has_default) else LEFT_OUT
    return READ[field.kind](text)


def _text(text: str) -> str:
    return text


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,4000}", text):
        raise FieldProblem("a whole number is required")
    return int(text)


def _number(text: str) -> float:
    if re.fullmatch(r"[+-]?[0-9]{1,4000}", text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise FieldProblem("a number is required, such as 12 or 0.5")
    return number


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_not_json)
    except json.JSONDecodeError as error:
        raise FieldProblem(f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise FieldProblem("it is nested too deeply") from None
    except FieldProblem:
        raise
    except ValueError:  # Python's own limit on the digits of a number
        raise FieldProblem("a number in it has too many digits") from None


def _not_json(_: str) -> NoReturn:
    raise FieldProblem("JSON has no NaN and no infinity")


def _choice(text: str) -> Any:
    try:
        return _json(text)
    except FieldProblem:
        return text  # not an option of the form; the schema refuses it


READ = {
    InputKind.TEXT: _text,
    InputKind.LINES: _text,
    InputKind.INTEGER: _integer,
    InputKind.NUMBER: _number,
    InputKind.CHOICE: _choice,
    InputKind.TIME: _text,
    InputKind.DATE: _text,
    InputKind.JSON: _json,
}
"""Kind → the value of a string that is not empty. Each raises :class:`FieldProblem`."""
