"""The inspector's operations as JSON, for both ends of the control API, derived from their signatures.

The given arguments are one JSON object, an answer is the JSON of its type, and an error is the name of its class with
its text and fields. Unknown arguments are refused: a filter whose newest field was ignored would match tasks that it
was meant to exclude.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, NotRequired, Required, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from joblane.errors import JobError
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of


class ArgumentsError(JobError, ValueError):
    """An operation got arguments that it does not accept. The message has no values.

    Correct the call.
    """

    operation: str
    """Name of the operation."""
    fields: list[str]
    """Places of the wrong arguments."""

    def __init__(self, operation: str, problems: Mapping[str, str]) -> None:
        listed = "; ".join(f"{place}: {problem}" for place, problem in problems.items())
        super().__init__(f"{operation}: {listed}")
        self.operation = operation
        self.fields = list(problems)


@cache
def operations() -> Mapping[str, Permission]:
    """Every operation of the inspector → the permission that it takes."""
    found = {name: permission_of(Inspector, name) for name in vars(Inspector)}
    return {name: permission for name, permission in found.items() if permission is not None}


# --- Arguments -----------------------------------------------------------------------------------------------------


def encode_arguments(operation: str, positional: Sequence[Any], named: Mapping[str, Any]) -> bytes:
    """The body of a request, without arguments and fields with their default values: an older API may not know them.

    Raises :class:`TypeError`, as the call itself would, for arguments that do not fit.
    """
    signature = _signature(operation)
    bound = signature.bind(None, *positional, **named).arguments
    given = {
        name: each for name, each in bound.items() if name != "self" and each != signature.parameters[name].default
    }
    try:
        return _arguments(operation).dump_json(given, warnings=False, exclude_defaults=True)
    except PydanticSerializationError as error:
        raise ArgumentsError(operation, {", ".join(given): f"cannot be written as JSON: {_kind(error)}"}) from None


def call(inspector: Inspector, operation: str, arguments: bytes) -> bytes:
    """Carry out a request and return the body of the response.

    Raises :class:`ArgumentsError`, and the errors of the operation.
    """
    try:
        given = _arguments(operation).validate_json(arguments, strict=True, extra="forbid")
    except ValidationError as error:
        raise ArgumentsError(operation, _problems(error)) from None
    return _answer(operation).dump_json(getattr(inspector, operation)(**given))


def decode_answer(operation: str, answer: bytes) -> Any:
    """The operation's return value. Raises :class:`ValueError` if ``answer`` is not one."""
    return _answer(operation).validate_json(answer)


def missing(error: ValueError) -> list[str]:
    """The fields that an answer lacks, from an error of :func:`decode_answer`."""
    found = error.errors(include_input=False) if isinstance(error, ValidationError) else []
    return list(dict.fromkeys(str(item["loc"][-1]) for item in found if item["type"] == "missing"))


# --- Errors --------------------------------------------------------------------------------------------------------


OLDER = {"DatabaseAsleepError": "DatabaseUnavailableError"}
"""Class of an error → its class for an older client, which does not have the first one."""


def encode_error(error: JobError) -> dict[str, Any]:
    """``kind``: the class. ``class``: the class for an older client, which does not read ``kind``."""
    kind = type(error).__name__
    fields = to_jsonable_python(vars(error), fallback=lambda value: type(value).__name__)
    return {"class": OLDER.get(kind, kind), "kind": kind, "text": str(error), "fields": fields}


def class_of_error(encoded: Mapping[str, Any]) -> str:
    """Return the name of the error's class, from an API of any version."""
    return str(encoded.get("kind") or encoded.get("class"))


def decode_error(encoded: Mapping[str, Any]) -> JobError:
    """The same class with the same text and fields; a :class:`JobError` if this version does not have the class."""
    known = {found.__name__: found for found in _errors(JobError)}
    kind = known.get(class_of_error(encoded), JobError)
    error = kind.__new__(kind)
    error.args = (str(encoded.get("text")),)
    hints = get_type_hints(kind.__init__) if "__init__" in vars(kind) else {}
    for name, value in dict(encoded.get("fields") or {}).items():
        setattr(error, name, _revived(hints.get(name), value))
    return error


def _revived(hint: Any, value: Any) -> Any:
    """The member of an enumeration; any other value stays as in the JSON."""
    if isinstance(hint, type) and issubclass(hint, Enum) and value in {member.value for member in hint}:
        return hint(value)
    return value


def _errors(root: type[JobError]) -> Iterator[type[JobError]]:
    yield root
    for found in root.__subclasses__():
        yield from _errors(found)


# --- Types ---------------------------------------------------------------------------------------------------------


@cache
def _signature(operation: str) -> inspect.Signature:
    return inspect.signature(vars(Inspector)[operation])


@cache
def _arguments(operation: str) -> TypeAdapter[dict[str, Any]]:
    """The type of an object with the parameters as its keys; parameters with a default may be left out."""
    hints = get_type_hints(vars(Inspector)[operation])
    fields: dict[str, Any] = {
        name: Required[hints[name]] if parameter.default is parameter.empty else NotRequired[hints[name]]
        for name, parameter in _signature(operation).parameters.items()
        if name != "self"
    }
    return TypeAdapter(TypedDict(operation, fields))  # type: ignore[operator]


@cache
def _answer(operation: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(vars(Inspector)[operation])["return"])


def _problems(error: ValidationError) -> dict[str, str]:
    """Field → its problem, without the value."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return {".".join(map(str, item["loc"])) or "body": item["msg"] for item in found}


def _kind(error: PydanticSerializationError) -> str:
    """The class of the value that JSON cannot hold. pydantic names the class, and no value."""
    return str(error).removeprefix("Unable to serialize unknown type: ")
