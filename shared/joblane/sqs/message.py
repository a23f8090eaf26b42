"""The message: one JSON object, read strictly before any SQL and written compactly.

Only ``type`` is required from a foreign sender. ``rec`` says that a row was written for the task; then the row's
payload wins, and a message whose row is missing was rolled back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic_core import PydanticSerializationError, to_json

from joblane.errors import MessageError
from joblane.json_values import MAX_DEPTH, check_text, check_tree, needs_walk
from joblane.options import Options, decode_options
from joblane.queues import TYPE_PATTERN

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


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(slots=True)
class Message:
    """One decoded body, not to be changed: like all that is made per message it is not ``frozen``, which would double
    the cost of making it.

    ``id`` is None only for a foreign sender; ``payload`` is None where only the row holds it."""

    type: str
    id: str | None = None
    payload: Mapping[str, Any] | None = None
    rec: bool = False
    schema: str | None = None
    enqueued_at: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tick: Mapping[str, str] | None = None
    options: Options | None = None

    def encode(self) -> str:
        """The body, without what is empty. ``enqueued_at`` is in seconds since 1970.

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
        if self.options is not None and (options := self.options.encode()):
            body["options"] = options
        text = _to_json(body)
        if text.isascii():
            return text
        # The two characters of Unicode's basic plane that SQS does not take as they are.
        return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _to_json(body: dict[str, Any]) -> str:
    """By pydantic, in half the time; `json` writes or refuses what pydantic cannot, or would write as nobody reads it:
    no numbers, and integers of more digits than Python takes."""
    try:
        text = to_json(body, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        return _ENCODER.encode(body)
    odd = "NaN" in text or "Infinity" in text or len(text) > MAX_DIGITS
    return _ENCODER.encode(body) if odd else text


# --- Decoding ------------------------------------------------------------------------------------------------------


def decode(body: str) -> Message:
    """Read a body, or raise :class:`MessageError` with the field and what would be right."""
    fields = _parse(body)
    version = fields.get("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise MessageError(f"v: this code reads version {VERSION} of the message")
    type_ = fields.get("type")
    if not isinstance(type_, str) or len(type_) > MAX_TYPE or not TYPE_PATTERN.fullmatch(type_):
        raise MessageError("type: a string such as 'data:export' is required (lower case, one colon)")
    payload = _get(fields, "payload", dict)
    rec = _get(fields, "rec", bool) or False
    return Message(
        type=type_,
        id=_id(fields),
        payload={} if payload is None and not rec else payload,
        rec=rec,
        schema=_short_text(fields, "schema"),
        enqueued_at=_number(fields, "enqueued_at"),
        headers=check_headers(_get(fields, "headers", dict) or {}),
        tick=_tick(fields),
        options=_options(fields),
    )


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


def _parse(body: str) -> dict[str, Any]:
    try:
        fields = _DECODER.decode(body)
    except RecursionError:
        raise MessageError(f"body: nested deeper than {MAX_DEPTH} levels") from None
    except MessageError:  # from the decoder's hooks
        raise
    except ValueError as error:  # a JSONDecodeError, or an integer of more digits than Python reads
        detail = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "bad number"
        raise MessageError(f"body: not JSON ({detail})") from None
    if not isinstance(fields, dict):
        raise MessageError(f"body: a JSON object is required, not {type(fields).__name__}")
    if needs_walk(body):
        check_tree(fields, "body")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise MessageError("body: holds a number outside of what a double can hold")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise MessageError(f"body: {name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
"""Made once: ``json.loads`` with hooks makes one for every message."""


def _get(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        wanted = {dict: "an object", bool: "true or false", str: "a string"}[kind]
        raise MessageError(f"{name}: {wanted} is required, not {type(value).__name__}")
    return value


def _id(fields: Mapping[str, Any]) -> str | None:
    value = _get(fields, "id", str)
    if value is not None and not ID_PATTERN.fullmatch(value):
        raise MessageError(f"id: 1 to {MAX_ID} printable ASCII characters without spaces are required")
    return value  # type: ignore[no-any-return]


def _short_text(fields: Mapping[str, Any], name: str) -> str | None:
    value = _get(fields, name, str)
    if value is not None and len(value) > 100:
        raise MessageError(f"{name}: 100 characters at most")
    return value  # type: ignore[no-any-return]


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
        raise MessageError(f"{name}: seconds since 1970 are required")
    return float(value)


def _options(fields: Mapping[str, Any]) -> Options | None:
    given = _get(fields, "options", dict)
    return decode_options(given) if given else None


def _tick(fields: Mapping[str, Any]) -> Mapping[str, str] | None:
    tick = _get(fields, "tick", dict)
    if tick is None:
        return None
    schedule, at = tick.get("schedule"), tick.get("at")
    if not isinstance(schedule, str) or not re.fullmatch(r"[a-z0-9-]{1,40}", schedule) or not isinstance(at, str):
        raise MessageError("tick: an object of two strings, schedule and at, is required")
    return {"schedule": schedule, "at": at[:64]}
