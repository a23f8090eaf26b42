"""The JSON Schema of a type's message, for producers in other languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from joblane.sqs.message import MESSAGE, MUST
from joblane.tasks import options as option_fields

if TYPE_CHECKING:
    from joblane.tasks.task import Task


def message_schema(task: Task[Any, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a type's message, for producers in other languages.

    ``type`` is required, and the payload if it has required fields. An option above its maximum is lowered to it.
    """
    whole = MESSAGE.json_schema()
    fields = _plain(whole["properties"], MUST)
    options = whole["$defs"]["Options"]
    options["properties"] = _plain(options["properties"], option_fields.MUST)
    for name in option_fields.DECLARED:
        options["properties"][name]["maximum"] = option_fields.declared(task, name)
    payload = dict(task.schema)
    definitions = payload.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A message of {task.type}",
        "type": "object",
        "properties": {
            "v": fields["v"],
            "type": {"const": task.type},
            "id": fields["id"] | {"description": f"{MUST['id']}; two messages with the same id are one task"},
            "payload": payload,
            "headers": fields["headers"],
            "options": options,
            "enqueued_at": fields["enqueued_at"],
        },
        "required": ["type", "payload"] if task.schema.get("required") else ["type"],
        **({"$defs": definitions} if definitions else {}),
    }


def _plain(fields: dict[str, dict[str, Any]], must: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the schemas of a model's fields for a reader of JSON Schema: without titles, defaults and null."""
    plain = {}
    for name, schema in fields.items():
        shape = schema.get("anyOf", [schema])[0]
        kept = {key: value for key, value in shape.items() if key not in ("title", "default")}
        plain[name] = kept | {"description": must[name]}
    return plain
