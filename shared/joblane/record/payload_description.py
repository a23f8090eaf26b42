"""The check of a payload in SQL: a small description of its class, which ``joblane.payload_problem`` reads.

It refuses only what the class refuses when a worker reads the payload: pydantic converts ``"5"`` to a number, and a
validator that runs first can convert anything. So a field whose values cannot be known here accepts everything. Formats
and ranges are left to the worker.

A node is null, which accepts everything, or an object with ``says``, its description for errors, and one of:

- ``is``: a list of JSON types, with ``numeric`` (a text has to have a digit), ``whole`` (a number has no fraction),
  ``items`` (of an array), ``values`` (of an object), or ``fields``: name → node, with ``required``, lists of names of
  which one has to be there, and ``closed``, if there are no others;
- ``one_of``: a list of texts;
- ``any``: a list of nodes;
- ``ref``: the name of a node of ``defs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

Node = dict[str, Any] | None
SHOWN = 10
"""Fields that a hint names."""
SCALAR = ["string", "number", "boolean"]
TIME = {"is": SCALAR, "says": "a time as a text"}
SIMPLE: Mapping[str, dict[str, Any]] = {
    "none": {"is": ["null"], "says": "null"},
    "bool": {"is": SCALAR, "says": "a boolean"},
    "int": {"is": SCALAR, "says": "an integer", "numeric": True, "whole": True},
    "float": {"is": SCALAR, "says": "a number", "numeric": True},
    "decimal": {"is": [*SCALAR, "array"], "says": "a number"},
    "bytes": {"is": ["string"], "says": "a text"},
    "uuid": {"is": ["string"], "says": "a UUID"},
    "url": {"is": ["string"], "says": "a URL"},
    "multi-host-url": {"is": ["string"], "says": "a URL"},
    "json": {"is": ["string"], "says": "a text of JSON"},
    "date": {**TIME, "says": "a date as a text"},
    "time": TIME,
    "datetime": TIME,
    "timedelta": {**TIME, "says": "a duration as a text or a number of seconds"},
    "typed-dict": {"is": ["object"], "says": "an object"},
    "dataclass": {"is": ["object"], "says": "an object"},
}
"""Type of a pydantic-core schema → its node."""
INNER = {
    "default": "schema",
    "function-after": "schema",
    "model": "schema",
    "custom-error": "schema",
    "lax-or-strict": "lax_schema",
    "json-or-python": "python_schema",
}
"""Type of a pydantic-core schema → the schema inside, which sees the value first."""


def check_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the check of a payload class: its node ``check``, the nodes ``defs`` by name, and a ``hint``."""
    model.model_rebuild()  # of a class whose annotations could not be read at first
    reader = _Reader()
    node = reader.node(model.__pydantic_core_schema__, {})
    return {"check": node, "defs": reader.defs, "hint": _hint(model, node)}


def _hint(model: type[BaseModel], node: Node) -> str:
    if not node or not node.get("fields"):
        return f"Its class is {model.__name__}."
    required = {names[0] for names in node["required"]}
    fields = [
        f"{name} ({', '.join(filter(None, (inner and inner['says'], 'required' if name in required else '')))})"
        for name, inner in list(node["fields"].items())[:SHOWN]
    ]
    more = ", …" if len(node["fields"]) > SHOWN else ""
    return f"{model.__name__} has {', '.join(fields).replace(' ()', '')}{more}."


class _Reader:
    """Reads schemas of pydantic-core. Their types and keys: ``pydantic_core.core_schema``."""

    def __init__(self) -> None:
        self.defs: dict[str, Node] = {}

    def node(self, schema: Any, config: Mapping[str, Any]) -> Node:  # noqa: PLR0911, PLR0912 - a row each
        """Return the node of a schema. ``config``: of the model around it."""
        kind = schema["type"]
        if schema.get("on_error", "raise") != "raise" or schema.get("custom_init"):
            return None
        match kind:
            case "model":
                config = schema.get("config") or {}
                return self.node(schema["schema"], {**config, "cls": schema["cls"]})
            case "model-fields":
                return self._fields(schema, config)
            case "str":
                numbers = schema.get("coerce_numbers_to_str", config.get("coerce_numbers_to_str"))
                return {"is": ["string", *(["number"] if numbers else [])], "says": "a text"}
            case "nullable":
                return _any([{**SIMPLE["none"]}, self.node(schema["schema"], config)])
            case "union":
                choices = [one[0] if isinstance(one, tuple) else one for one in schema["choices"]]
                return _any([self.node(one, config) for one in choices])
            case "tagged-union" if isinstance(schema["discriminator"], str):
                return _any([self.node(one, config) for one in schema["choices"].values()])
            case "literal":
                return _one_of(schema["expected"])
            case "enum" if _is_plain(schema["cls"]):
                return _one_of([member.value for member in schema["members"]])
            case "list" | "set" | "frozenset":
                items = self.node(schema["items_schema"], config) if "items_schema" in schema else None
                return {"is": ["array"], "says": "a list", "items": items}
            case "tuple":
                return {"is": ["array"], "says": "a list", "items": None}
            case "dict":
                values = self.node(schema["values_schema"], config) if "values_schema" in schema else None
                return {"is": ["object"], "says": "an object", "values": values}
            case "chain":
                return self.node(schema["steps"][0], config)
            case "definitions":
                for one in schema["definitions"]:
                    self.defs[one["ref"]] = None
                    self.defs[one["ref"]] = self.node(one, config)
                return self.node(schema["schema"], config)
            case "definition-ref":
                return {"ref": schema["schema_ref"], "says": "an object"}
            case _ if kind in INNER:
                return self.node(schema[INNER[kind]], config)
            case _ if kind in SIMPLE:
                return {**SIMPLE[kind]}
        return None

    def _fields(self, schema: Any, config: Mapping[str, Any]) -> Node:
        declared = config["cls"].model_fields if "cls" in config else {}
        fields: dict[str, Node] = {}
        required: list[list[str]] = []
        closed = schema.get("extra_behavior", config.get("extra_fields_behavior")) == "forbid"
        for name, field in schema["fields"].items():
            alias = field.get("validation_alias")
            if alias is not None and not isinstance(alias, str):  # a path, or several: left to the worker
                closed = False
                continue
            keys = [name] if alias is None else [alias, name]
            fields |= dict.fromkeys(keys, self.node(field["schema"], config))
            if name in declared and declared[name].is_required():
                required.append(keys)
        return {"is": ["object"], "says": "an object", "fields": fields, "required": required, "closed": closed}


def _one_of(values: list[Any]) -> Node:
    """Return the node of some constants. Only texts are compared here: numbers and booleans equal others."""
    if all(type(value) is str for value in values):
        return {"one_of": values, "says": f"one of {', '.join(values)}"}
    return None


def _any(nodes: list[Node]) -> Node:
    known = [node for node in nodes if node is not None]
    if len(known) < len(nodes):
        return None
    return {"any": known, "says": " or ".join(dict.fromkeys(node["says"] for node in known[::-1]))}


def _is_plain(enum: type[Enum]) -> bool:
    """True if the class accepts the values of its members only."""
    return getattr(enum._missing_, "__func__", None) is getattr(Enum._missing_, "__func__", None)
