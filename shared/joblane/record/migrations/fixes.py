"""The statements that end a difference between a schema and its release, for psql."""

from __future__ import annotations

import re
from pathlib import Path

from joblane.record.sql_functions import FUNCTIONS

Key = tuple[str, str, str]
"""Kind, object, part of the object: ``index``, ``joblane.tasks``, ``tasks_live``. The part is empty for an object."""
Schema = dict[Key, str]
"""Key → definition, as PostgreSQL prints it."""

FOLDER = Path(__file__).parent
VERSIONED = "_VERSION"
"""The end of the name of a function whose name has a version."""
COLUMN = re.compile(
    r"(?P<type>.+?)(?P<identity> GENERATED .* IDENTITY)?(?P<required> NOT NULL)?( DEFAULT (?P<default>.+))?"
)
CREATE = {
    "sequence": "create sequence {object} {definition}; select setval('{object}', {above})",
    "column": "alter table {object} add column {part} {definition}",
    "constraint": "alter table {object} add constraint {part} {definition}",
    "setting": "alter table {object} set ({part} = {definition})",
    "index": "{definition}",
    "trigger": "{definition}",
}
ABOVE = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
"""A number above all numbers that the sequence returned. A float holds it exactly."""
CHANGE = {
    "sequence": "alter sequence {object} {definition}",
    "constraint": "alter table {object} drop constraint {part}; {created}",
    "index": "drop index concurrently joblane.{part}; {created}",
}
RENAME = {
    "table": "alter table {other} rename to {name}",
    "column": "alter table {object} rename column {other} to {part}",
    "constraint": "alter table {object} rename constraint {other} to {part}",
    "index": "alter index joblane.{other} rename to {part}",
}
DROP = {
    "function": "drop routine {object}",
    "constraint": "alter table {object} drop constraint {part}",
    "index": "drop index joblane.{part}",
    "rule": "drop rule {part} on {object}",
    "row security": "alter table {object} disable row level security, no force row level security",
    "column": "alter table {object} alter column {part} drop not null",
    "search path": "alter function {object} set search_path = pg_catalog, public",
    "owner": "alter {object} owner to {definition}",
}


def created(key: Key, definition: str) -> str:
    """Return the statements that create a part. Empty: no statement can.

    An index is created without a lock that stops the workers.
    """
    kind, object_, part = key
    if kind == "function":
        return _function(object_)
    if kind == "column" and _needs_value(definition):
        return ""
    sql = CREATE[kind].format(object=object_, part=part, definition=definition, above=ABOVE)
    sql = re.sub("^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", sql)
    return re.sub("^CREATE TRIGGER ", "CREATE OR REPLACE TRIGGER ", sql)


def created_table(name: str, expected: Schema) -> str:
    """Return the statements that create a table with all its parts."""
    parts = {key: definition for key, definition in expected.items() if key[1] == name and key[2]}
    columns = ", ".join(f"{key[2]} {definition}" for key, definition in parts.items() if key[0] == "column")
    others = [created(key, definition) for key, definition in parts.items() if key[0] != "column"]
    return "; ".join([f"create table {name} ({columns})", *others])


def changed(key: Key, definition: str, found: str) -> str:
    """Return the statements that give a part its definition again. Empty: no statement can."""
    kind, object_, part = key
    if kind == "table":
        return ""
    if kind == "column":
        return _column(object_, part, definition, found)
    again = created(key, definition)
    return CHANGE.get(kind, "{created}").format(object=object_, part=part, definition=definition, created=again)


def renamed(key: Key, other: Key) -> str:
    """Return the statement that gives the object or part ``other`` the name ``key`` again."""
    kind, object_, part = key
    name = object_.removeprefix("joblane.")
    return RENAME[kind].format(object=object_, part=part, name=name, other=other[2] or other[1])


def dropped(key: Key, definition: str) -> str:
    """Return the statement that ends the effect of an addition."""
    kind, object_, part = key
    return DROP[kind].format(object=object_, part=part, definition=definition)


def _function(signature: str) -> str:
    """Return the statement that creates a function, from this code or from the newest migration with its name."""
    name = signature.removeprefix("joblane.").partition("(")[0]
    if name.endswith(VERSIONED):
        return FUNCTIONS[name.removesuffix(VERSIONED)]
    newest = max((FOLDER / "versions").glob(f"[0-9][0-9][0-9][0-9]_{name}.sql"))
    return newest.read_text("utf-8").replace("create function", "create or replace function", 1)


def _column(table: str, name: str, definition: str, found: str) -> str:
    """Return the statements that give a column its type, default, nullability and identity again.

    A new identity continues above all its numbers.
    """
    wanted, has = (match.groupdict() for match in map(COLUMN.fullmatch, (definition, found)) if match)
    changes, identity = [], wanted["identity"]
    if wanted["type"] != has["type"]:
        changes += ["drop default"] if has["default"] else []  # which PostgreSQL may not be able to convert
        changes.append(f"type {wanted['type']} using {name}::{wanted['type'].partition(' COLLATE ')[0]}")
        has["default"] = None
    if wanted["default"] != has["default"]:
        changes.append(f"set default {wanted['default']}" if wanted["default"] else "drop default")
    if wanted["required"] != has["required"]:
        changes.append("set not null" if wanted["required"] else "drop not null")
    if identity and has["identity"] not in (None, identity):
        changes.append("set" + identity.removesuffix(" AS IDENTITY"))
    elif identity != has["identity"]:
        changes.append(f"add{identity}" if identity else "drop identity")
    sql = f"alter table {table} " + ", ".join(f"alter column {name} {change}" for change in changes)
    if identity and not has["identity"]:
        sql += f"; select setval(pg_get_serial_sequence('{table}', '{name}'), {ABOVE})"
    return sql


def _needs_value(definition: str) -> bool:
    column = COLUMN.fullmatch(definition)
    return bool(column and column["required"] and not column["default"] and not column["identity"])
