"""The message: a JSON object that is validated strictly before any SQL, and the SQS message that it was received in.

:class:`Message` defines its fields: pydantic reads and writes it, and derives its JSON Schema. An external producer has
to set only ``type``. ``rec`` is true if the task's row was written first. Then the row's payload counts, and a missing
row means that the transaction was rolled back.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypedDict

from joblane.errors import MessageError
from joblane.json_values import MAX_DEPTH, check_text, check_tree
from joblane.names import TYPE_PATTERN
from joblane.quotas import MAX_HEADERS
from joblane.tasks import options as option_fields
from joblane.tasks.options import Options

VERSION = 1
MAX_ID = 200
MAX_TYPE = 100
"""Longer than any declared type. It keeps a refusal that quotes a type short."""
MAX_DIGITS = 4300
"""The most digits of an integer that Python reads. Source: Python, *Integer string conversion length limitation*."""
ID_PATTERN = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
TENANT_PATTERN = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
"""``MessageGroupId``. Source: SendMessage, SQS API reference."""
TICK_ID_PATTERN = re.compile(
    rf"{TYPE_PATTERN.pattern}:[a-z0-9-]+:\d{{4}}-\d\d-\d\dT\d\d:\d\dZ|@[!-~]+:\d{{4}}-\d\d-\d\dT\d\d:\d\dZ:\d+"
)
"""The ids of ticks: of a declared schedule, or of one at run time. A producer may not choose such an id."""
TICK_ID_REFUSED = "MessageError: id: has the form of a tick's id, which only the scheduler gives"

DEAD_ATTRIBUTE = "joblane-dead"
"""The archived generation, on a dead letter. It distinguishes a redrive from an obsolete copy."""
REASON_ATTRIBUTE = "joblane-reason"
TRACE_ATTRIBUTE = "AWSTraceHeader"
"""The system attribute with the trace header of a message. Source: SQS, *Message system attributes*."""
Attributes = Mapping[str, Mapping[str, Any]]

MUST = {
    "v": f"must be {VERSION}, the message version that this code reads",
    "type": "must be a string such as 'data:export' (lower case, one colon)",
    "id": f"must be 1 to {MAX_ID} printable ASCII characters without spaces",
    "payload": "must be an object",
    "rec": "must be true or false",
    "schema": "must be a string of at most 100 characters",
    "enqueued_at": "must be seconds since 1970",
    "headers": f"must be at most {MAX_HEADERS} strings of at most 1,000 characters, under names of at most 100",
    "tick": "must be an object of two strings, schedule and at",
    "options": f"must be an object of {', '.join(option_fields.MUST)}; durations are in seconds",
    **{f"options.{name}": must for name, must in option_fields.MUST.items()},
}
"""Field → its permitted values, as text for refusals and for the JSON Schema."""


if TYPE_CHECKING:
    Object = Mapping[str, Any]
    Headers = Mapping[str, str]
    Flag = bool
else:  # for pydantic; null stands for a missing field
    Object = dict[str, Any]
    Flag = Annotated[bool, BeforeValidator(lambda flag: False if flag is None else flag)]
    Headers = Annotated[
        dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=1000)]],
        Field(max_length=MAX_HEADERS),
        BeforeValidator(lambda headers: {} if headers is None else headers),
    ]


class Tick(TypedDict):
    """``schedule``: its name. ``at``: the scheduled time in UTC, or any other text that the scheduler wrote there."""

    schedule: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    at: str


@dataclass(slots=True)
class Message:
    """A decoded body. Do not change it: it is not ``frozen`` only because that would double the cost of creating it.

    ``id`` is None only from an external producer. ``payload`` is None if only the row holds it. ``enqueued_at`` is in
    seconds since 1970.
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

    @classmethod
    def of_row(
        cls, type_: str, id_: str, schema: str | None, headers: Mapping[str, str], payload: Object | None = None
    ) -> Self:
        """Return the message of a task that has a row. ``payload``: for a dead letter, which shows it."""
        return cls(type_, id_, payload, rec=True, schema=schema, headers=headers)

    def encode(self) -> str:
        """Return the body without empty fields. Pydantic's own way to exclude them takes twice as long.

        Raises ValueError for numbers that JSON cannot represent.
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
        # SQS does not accept these two characters of Unicode's basic plane unescaped.
        return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


@cache
def _options() -> TypeAdapter[Options]:
    return TypeAdapter(Options)


def _to_json(body: dict[str, Any]) -> str:
    """Write JSON with pydantic, which takes half the time of ``json``.

    ``json`` handles the rest: values that pydantic cannot write, NaN and infinities, and integers with more digits than
    Python reads.
    """
    try:
        text = to_json(body, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        return _ENCODER.encode(body)
    needs_check = "NaN" in text or "Infinity" in text or len(text) > MAX_DIGITS
    return _ENCODER.encode(body) if needs_check else text


MESSAGE = TypeAdapter(Message)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def decode(body: str) -> Message:
    """Read a body. Raises :class:`MessageError` with the field and its permitted values."""
    try:
        message = MESSAGE.validator.validate_json(body)
        if "NaN" in body or "Infinity" in body:  # pydantic reads them as numbers
            from_json(body, allow_inf_nan=False)
    except ValidationError as error:
        raise MessageError(refusal_of(error)) from None
    except ValueError as error:
        raise MessageError(f"body: not JSON ({error})") from None
    if message.payload is None and not message.rec:
        message.payload = {}
    if "\\u" in body or body.count("{") + body.count("[") > MAX_DEPTH:
        # In JSON a NUL needs an escape, and a tree cannot be deeper than its number of brackets.
        tags = list(message.options.tags) if message.options else []
        check_tree([message.payload, message.headers, message.schema, tags], "body")
    if not message.rec and b"Infinity" in to_json(message.payload, inf_nan_mode="constants"):
        try:  # not for a recorded message: its row's payload counts
            _ENCODER.encode(message.payload)
        except ValueError:
            raise MessageError("body: contains a number outside the range of a double") from None
    return message  # type: ignore[no-any-return]


def refusal_of(error: ValidationError) -> str:
    """Return the reason for refusing a body, without its values."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(step) for step in first["loc"]]
    if not path:
        why = str(first.get("ctx", {}).get("error", ""))
        if "recursion" in why:
            return f"body: nested deeper than {MAX_DEPTH} levels"
        if "hex escape" in why or first["type"] == "string_unicode":
            return "body: contains a lone surrogate, which is not text"
        return f"body: not JSON ({why})" if why else "body: must be a JSON object"
    field_ = ".".join(path[: 2 if path[0] == "options" else 1])
    field_ = field_ if field_ in MUST else path[0]
    return f"{field_}: {MUST[field_]}"


def check_headers(headers: Mapping[str, Any]) -> Mapping[str, str]:
    """Return ``headers`` unchanged. Raises :class:`MessageError` unless they are at most 32 short strings."""
    if len(headers) > MAX_HEADERS:
        raise MessageError(f"headers: at most {MAX_HEADERS} are allowed, not {len(headers)}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or len(name) > 100 or len(value) > 1000:
            raise MessageError("headers: strings of at most 1,000 characters are required, under names of at most 100")
        check_text(name, "headers")
        check_text(value, "headers")
    return headers


@dataclass(slots=True)
class Received:
    """A received message. ``message`` is None if the body is refused, and ``refusal`` is the reason.

    ``receipt`` is valid for this receive only. ``system``: the attributes that SQS adds. ``sent_at``: seconds since
    1970. ``dead_generation``: the generation on a dead letter, None for any other message. ``group``: the tenant.
    ``trace``: the trace header.
    """

    message_id: str
    receipt: str
    queue: str
    body: str
    system: Mapping[str, str]
    receives: int
    sent_at: float
    group: str | None
    trace: str | None
    attributes: Attributes
    dead_generation: int | None
    message: Message | None
    refusal: str | None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Received:
        """Read a record of a Lambda event for SQS. It never raises for a message that a producer can send.

        Source of the shape: Lambda, *Using Lambda with Amazon SQS*, example event.
        """
        return cls.of(
            message_id=record["messageId"],
            receipt=record["receiptHandle"],
            queue=record["eventSourceARN"].rpartition(":")[2],
            body=record["body"],
            system=record["attributes"],
            attributes={name: _as_sent(value) for name, value in (record.get("messageAttributes") or {}).items()},
        )

    @classmethod
    def from_receive(
        cls, message: Mapping[str, Any], queue: str, *, read: Callable[[str], Message] = decode
    ) -> Received:
        """Read a message from the response of ReceiveMessage. ``read``: reads its body."""
        return cls.of(
            read=read,
            message_id=message["MessageId"],
            receipt=message["ReceiptHandle"],
            queue=queue,
            body=message["Body"],
            system=message.get("Attributes", {}),
            attributes={
                name: {part: value[part] for part in ("DataType", "StringValue", "BinaryValue") if value.get(part)}
                for name, value in message.get("MessageAttributes", {}).items()
            },
        )

    @classmethod
    def of(
        cls,
        *,
        message_id: str,
        receipt: str,
        queue: str,
        body: str,
        system: Mapping[str, str],
        attributes: Attributes,
        read: Callable[[str], Message] = decode,
    ) -> Received:
        """Read the parts of a message. ``attributes``: in the form of SendMessage."""
        message, refusal = None, None
        try:
            message = read(body)
            if attributes and not message.rec:
                message = _traced(message, attributes)
        except MessageError as error:
            refusal = str(error)
        return cls(
            message_id=message_id,
            receipt=receipt,
            queue=queue,
            body=body,
            system=system,
            receives=int(system.get("ApproximateReceiveCount", 1)),
            sent_at=int(system.get("SentTimestamp", 0)) / 1000,
            group=system.get("MessageGroupId"),
            trace=system.get(TRACE_ATTRIBUTE),
            attributes=attributes,
            dead_generation=_generation(attributes[DEAD_ATTRIBUTE]) if DEAD_ATTRIBUTE in attributes else None,
            message=message,
            refusal=refusal,
        )

    @property
    def first_received_at(self) -> float:
        """The time of the first receive, in seconds since 1970; 0 if it is unknown. Only the sweep needs it."""
        return int(self.system.get("ApproximateFirstReceiveTimestamp", 0)) / 1000


def _traced(message: Message, attributes: Attributes) -> Message:
    """Return an external message with the trace of its attribute in its headers, unless they have a trace already."""
    from joblane.sqs.traceparent import HEADER, caller_of, headers_within

    span = caller_of(attributes.get(HEADER, {}).get("StringValue"))
    return message if span is None else replace(message, headers=headers_within(span, message.headers))


def _as_sent(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an attribute from the form of a Lambda event to the form of SendMessage."""
    if value.get("binaryValue") is not None:
        return {"DataType": value["dataType"], "BinaryValue": base64.b64decode(value["binaryValue"])}
    return {"DataType": value["dataType"], "StringValue": value.get("stringValue") or ""}


def _generation(attribute: Mapping[str, Any]) -> int | None:
    text = attribute.get("StringValue", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
