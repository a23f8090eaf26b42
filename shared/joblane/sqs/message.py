"""The message: one JSON object, read strictly before any SQL and written compactly; and its JSON Schema.

:class:`Message` is its one shape: pydantic reads and writes it, and derives the schema from it. Only ``type`` is
required from an external producer. ``rec`` says that a row was written for the task; then the row's
payload wins, and a message whose row is missing was rolled back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypedDict

from joblane import options as option_fields
from joblane.errors import MessageError
from joblane.json_values import MAX_DEPTH, check_text, check_tree
from joblane.options import Options
from joblane.queues import TYPE_PATTERN

if TYPE_CHECKING:
    from joblane.declaration import Task

VERSION = 1
MAX_ID = 200
MAX_TYPE = 100
"""Far above any declared type, so that a refusal which names one stays short."""
MAX_HEADERS = 32
MAX_DIGITS = 4300
"""Of an integer that Python reads. Source: Python, *Integer string conversion length limitation*."""
ID_PATTERN = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
TENANT_PATTERN = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
"""``MessageGroupId``. Source: SendMessage, SQS API reference."""
TICK_ID_PATTERN = re.compile(rf"{TYPE_PATTERN.pattern}:[a-z0-9-]+:\d{{4}}-\d\d-\d\dT\d\d:\d\dZ")
"""The ids that ticks get, so no sender may choose one."""

DEAD_ATTRIBUTE = "joblane-dead"
"""On a dead letter: the generation that was given up, so that a redrive is told from a leftover copy."""
REASON_ATTRIBUTE = "joblane-reason"

MUST = {
    "v": f"must be {VERSION}: this code reads that version of the message",
    "type": "must be a string such as 'data:export' (lower case, one colon)",
    "id": f"must be 1 to {MAX_ID} printable ASCII characters without spaces",
    "payload": "must be an object",
    "rec": "must be true or false",
    "schema": "must be a string of at most 100 characters",
    "enqueued_at": "must be seconds since 1970",
    "headers": f"must be at most {MAX_HEADERS} strings of at most 1,000 characters, under names of at most 100",
    "tick": "must be an object of two strings, schedule and at",
    "options": f"must be an object of {', '.join(option_fields.MUST)} (in seconds)",
    **{f"options.{name}": must for name, must in option_fields.MUST.items()},
}
"""Field → the one text that says what it may hold, in refusals and in the JSON Schema."""


if TYPE_CHECKING:
    Object = Mapping[str, Any]
    Headers = Mapping[str, str]
    Flag = bool
else:  # as pydantic reads them; null stands for a field that is left out
    Object = dict[str, Any]
    Flag = Annotated[bool, BeforeValidator(lambda flag: False if flag is None else flag)]
    Headers = Annotated[
        dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=1000)]],
        Field(max_length=MAX_HEADERS),
        BeforeValidator(lambda headers: {} if headers is None else headers),
    ]


class Tick(TypedDict):
    """``schedule``: its name. ``at``: the scheduled time in UTC, or whatever the scheduler wrote in its place."""

    schedule: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    at: str


@dataclass(slots=True)
class Message:
    """One decoded body, not to be changed: like all that is made per message it is not ``frozen``, which would double
    the cost of making it.

    ``id`` is None only for an external producer; ``payload`` is None where only the row holds it. ``enqueued_at`` is
    in seconds since 1970.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)

    type: Annotated[str, Field(max_length=MAX_TYPE, pattern=f"^{TYPE_PATTERN.pattern}$")]
    id: Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$")] | None = None
    payload: Object | None = None
    rec: Flag = False
    schema: Annotated[str, Field(max_length=100)] | None = None
    enqueued_at: Annotated[float, Field(ge=0, lt=1e11)] | None = None
    headers: Headers = field(default_factory=dict)
    tick: Tick | None = None
    options: Options | None = None
    v: Annotated[float, Field(ge=VERSION, le=VERSION), WithJsonSchema({"const": VERSION})] = VERSION

    def encode(self) -> str:
        """The body, without what is empty. Field by field: pydantic's own way of leaving out takes twice as long.

        Raises ValueError for numbers that JSON does not have, or has no room for.
        """
        body: dict[str, Any] = {"v": VERSION, "type": self.type}
        if self.id is not None:
            body["id"] = self.id
        if self.payload is not None:
            body["payload"] = self.payload
        if self.rec:
            body["rec"] = True
        if self.schema:
            body["schema"] = self.schema
        if self.enqueued_at:
            body["enqueued_at"] = self.enqueued_at
        if self.headers:
            body["headers"] = self.headers
        if self.tick:
            body["tick"] = self.tick
        if self.options is not None:
            body["options"] = _options().dump_python(self.options, mode="json", exclude_defaults=True)
        text = _to_json(body)
        if text.isascii():
            return text
        # The two characters of Unicode's basic plane that SQS does not take as they are.
        return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


@cache
def _options() -> TypeAdapter[Options]:
    return TypeAdapter(Options)


def _to_json(body: dict[str, Any]) -> str:
    """By pydantic, in half the time; `json` writes or refuses what pydantic cannot, or would write as nobody reads it:
    no numbers, and integers of more digits than Python takes."""
    try:
        text = to_json(body, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        return _ENCODER.encode(body)
    odd = "NaN" in text or "Infinity" in text or len(text) > MAX_DIGITS
    return _ENCODER.encode(body) if odd else text


_MESSAGE = TypeAdapter(Message)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def decode(body: str) -> Message:
    """Read a body, or raise :class:`MessageError` with the field and what it must be."""
    try:
        message = _MESSAGE.validator.validate_json(body)
        if "NaN" in body or "Infinity" in body:  # pydantic takes them for numbers
            from_json(body, allow_inf_nan=False)
    except ValidationError as error:
        raise MessageError(_refusal(error)) from None
    except ValueError as error:
        raise MessageError(f"body: not JSON ({error})") from None
    if message.payload is None and not message.rec:
        message.payload = {}
    if "\\u" in body or body.count("{") + body.count("[") > MAX_DEPTH:
        # In JSON only an escape can make a NUL, and a tree is no deeper than it has brackets.
        tags = list(message.options.tags) if message.options else []
        check_tree([message.payload, message.headers, message.schema, tags], "body")
    if not message.rec and b"Infinity" in to_json(message.payload, inf_nan_mode="constants"):
        try:  # of a recorded message the row's payload counts
            _ENCODER.encode(message.payload)
        except ValueError:
            raise MessageError("body: holds a number outside of what a double can hold") from None
    return message  # type: ignore[no-any-return]


def _refusal(error: ValidationError) -> str:
    """Why a body is refused, without a value of it."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(step) for step in first["loc"]]
    if not path:
        why = str(first.get("ctx", {}).get("error", ""))
        if "recursion" in why:
            return f"body: nested deeper than {MAX_DEPTH} levels"
        if "hex escape" in why or first["type"] == "string_unicode":
            return "body: holds a lone surrogate, which is not text"
        return f"body: not JSON ({why})" if why else "body: must be a JSON object"
    where = ".".join(path[: 2 if path[0] == "options" else 1])
    where = where if where in MUST else path[0]
    return f"{where}: {MUST[where]}"


def check_headers(headers: Mapping[str, Any]) -> Mapping[str, str]:
    """Return ``headers`` where they are at most 32 short strings under short names; raise :class:`MessageError`."""
    if len(headers) > MAX_HEADERS:
        raise MessageError(f"headers: {len(headers)} of them; {MAX_HEADERS} at most")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or len(name) > 100 or len(value) > 1000:
            raise MessageError("headers: strings of at most 1,000 characters under names of at most 100")
        check_text(name, "headers")
        check_text(value, "headers")
    return headers


def message_schema(task: Task[Any, Any]) -> dict[str, Any]:
    """JSON Schema of a type's message, for producers in other languages: what they may write.

    Only ``type``, and the payload where it has required fields, must be there. An option above its maximum is cut to
    it.
    """
    whole = _MESSAGE.json_schema()
    fields = _plain(whole["properties"], MUST)
    options = whole["$defs"]["Options"]
    options["properties"] = _plain(options["properties"], option_fields.MUST)
    options["properties"]["max_retry"]["maximum"] = task.max_retry
    options["properties"]["timeout"]["maximum"] = task.timeout.total_seconds()
    options["properties"]["retention"]["maximum"] = task.retention.total_seconds()
    payload = dict(task.schema)
    definitions = payload.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A message of {task.type}",
        "type": "object",
        "properties": {
            "v": fields["v"],
            "type": {"const": task.type},
            "id": fields["id"] | {"description": f"{MUST['id']}; twice the same is one task"},
            "payload": payload,
            "headers": fields["headers"],
            "options": options,
            "enqueued_at": fields["enqueued_at"],
        },
        "required": ["type", "payload"] if task.schema.get("required") else ["type"],
        **({"$defs": definitions} if definitions else {}),
    }


def _plain(fields: dict[str, dict[str, Any]], must: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """A model's fields as an author of JSON reads them: without null, which stands for a field that is left out."""
    found = {}
    for name, schema in fields.items():
        shape = schema.get("anyOf", [schema])[0]
        kept = {key: value for key, value in shape.items() if key not in ("title", "default")}
        found[name] = kept | {"description": must[name]}
    return found
