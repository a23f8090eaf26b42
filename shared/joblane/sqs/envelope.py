"""The envelope of a large dead letter: the fields that are shown, without its payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from joblane.errors import MessageError
from joblane.names import TYPE_PATTERN
from joblane.sqs.message import ID_PATTERN, MAX_TYPE, Flag, Message, Tick, refusal_of


@dataclass(slots=True)
class Envelope:
    """The fields of a large dead letter that are shown. Its payload does not become Python objects."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)

    type: Annotated[str, Field(max_length=MAX_TYPE, pattern=f"^{TYPE_PATTERN.pattern}$")]
    id: Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$")] | None = None
    rec: Flag = False
    tick: Tick | None = None


_ENVELOPE = TypeAdapter(Envelope)


def decode_envelope(body: str) -> Message:
    """Read a body without its payload, headers and options. Raises :class:`MessageError`."""
    try:
        read = _ENVELOPE.validator.validate_json(body)
    except ValidationError as error:
        raise MessageError(refusal_of(error)) from None
    return Message(read.type, read.id, rec=read.rec, tick=read.tick)
