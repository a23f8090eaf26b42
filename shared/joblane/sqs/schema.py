"""JSON Schema of a type's message, for producers in other languages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblane.options import MAX_TAG, MAX_TAGS
from joblane.sqs.message import ID_PATTERN, MAX_HEADERS, VERSION

if TYPE_CHECKING:
    from joblane.declaration import Task


def message_schema(task: Task[Any, Any]) -> dict[str, Any]:
    """What a foreign sender may write: only ``type``, and the payload where it has required fields, must be there."""
    payload = dict(task.schema)
    definitions = payload.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A message of {task.type}",
        "type": "object",
        "properties": {
            "v": {"const": VERSION},
            "type": {"const": task.type},
            "id": {
                "type": "string",
                "pattern": f"^{ID_PATTERN.pattern}$",
                "description": "Twice the same is one task.",
            },
            "payload": payload,
            "headers": {
                "type": "object",
                "maxProperties": MAX_HEADERS,
                "additionalProperties": {"type": "string", "maxLength": 1000},
            },
            "options": _options(task),
            "enqueued_at": {"type": "number", "description": "Seconds since 1970."},
        },
        "required": ["type", "payload"] if task.schema.get("required") else ["type"],
        **({"$defs": definitions} if definitions else {}),
    }


def _options(task: Task[Any, Any]) -> dict[str, Any]:
    """What is above a maximum is cut to it."""
    seconds = {"type": "number", "minimum": 0, "description": "Seconds."}
    return {
        "type": "object",
        "properties": {
            "max_retry": {"type": "integer", "minimum": 0, "maximum": task.max_retry},
            "timeout": {**seconds, "minimum": 1, "maximum": task.timeout.total_seconds()},
            "retention": {**seconds, "maximum": task.retention.total_seconds()},
            "retry_delay": {"anyOf": [seconds, {"type": "array", "items": seconds, "minItems": 1}]},
            "deadline": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "maxItems": MAX_TAGS, "items": {"type": "string", "maxLength": MAX_TAG}},
        },
        "additionalProperties": False,
    }
