"""The comparison of the schema ``joblane`` with the schema that this release's migrations create.

``schema.txt`` lists each object of a migrated database. It is generated, and a test compares it. A difference is

- an error if the library relies on the part: a table, a column, a constraint, a unique index, a sequence, a trigger or
  a function. A migration restores triggers and functions, because no row can contradict them. It refuses the rest:
  rows may contradict a unique index that it would create, and a dropped column has lost its values.
- a warning if tasks are safe and something else is wrong: an index is missing, so that statements read more, or a
  trigger of the application has no search_path. A deploy must not fail for an index that an operator dropped in an
  incident.
- a note if it was added and harms nothing. No addition is refused or dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from joblane.errors import ChangedSchemaError
from joblane.record.migrations import fixes
from joblane.record.migrations.fixes import FOLDER, VERSIONED, Key, Schema
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

QUERY = (FOLDER / "catalogue.sql").read_text("utf-8").replace("@version", VERSION)
LISTING = FOLDER / "schema.txt"

MISSING = {
    "table": "is missing: each statement that uses it fails",
    "column": "is missing: each statement that uses it fails",
    "constraint": "is missing: rows that it refuses can be written",
    "unique index": "is missing: rows that it refuses can be written",
    "index": "is missing: statements that need it read the whole table",
    "sequence": "is missing: each statement that takes its numbers fails",
    "function": "is missing: each statement that calls it fails",
    "trigger": "is missing: rows are written without it",
    "setting": "is missing: writes to the table cost more",
}
STATES = {
    "unlogged": ("is unlogged: a crash of the server removes its rows", "alter table {} set logged"),
    " NOT VALID": ("is not valid: older rows may violate it", "alter table {} validate constraint {}"),
    " INVALID": ("is invalid: PostgreSQL does not use it", "reindex index concurrently joblane.{1}"),
    " DISABLED": ("is disabled: rows are written without it", "alter table {} enable trigger {}"),
    " REPLICA": ("is disabled, except on a replica: rows are written without it", "alter table {} enable trigger {}"),
}
"""The end of a definition, after the expected one → the finding, and the statement that restores the part."""
ADDED = {
    "column": "was added without a default: it refuses each row that the library inserts",
    "constraint": "was added: it may refuse changes of the library",
    "unique index": "was added: it may refuse changes of the library",
    "rule": "was added: it changes statements of the library",
    "row security": "is on: it may hide rows from the functions",
    "search path": "of a trigger on {} has no search_path: names without a schema fail in it",
    "owner": "does not belong to {}, the owner of joblane.tasks, whose migrations cannot change it",
    "grant": "has rights that Joblane does not grant: {}",
}
"""Additions that are a warning."""
LANGUAGE = " LANGUAGE "
"""It follows a function's parameters and result. PostgreSQL replaces no function by one with others."""
MIGRATE = "run `joblane migrate`, which restores it; on AWS, a deploy runs it"


class Severity(StrEnum):
    """The effect of a difference: see the module."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Difference:
    """A difference between a schema and this release.

    ``what``: the object. ``found``: a sentence about it, without its subject. ``do``: what an operator can do; empty:
    nothing. ``sql``: the statements that end the difference, some with a migration after them; empty: there are none.
    """

    severity: Severity
    kind: str
    what: str
    found: str
    do: str = ""
    sql: str = ""

    @property
    def is_restored(self) -> bool:
        """True if a migration runs :attr:`sql`."""
        return self.do == MIGRATE

    @property
    def is_refused(self) -> bool:
        """True if a migration fails because of it."""
        return self.severity is Severity.ERROR and not self.is_restored

    def __str__(self) -> str:
        return f"{self.what} {self.found}" + (f"; {self.do}" if self.do else "")


def read(connection: Connection) -> Schema:
    """Return the objects of the schema ``joblane``, in one round trip. Every role may read them."""
    rows = connection.execute_simple(QUERY).rows
    return {(kind, object_, part): definition for kind, object_, part, definition in rows}


def listed() -> Schema:
    """Return the objects that the migrations of this release create."""
    lines = (line.split("\t") for line in LISTING.read_text("utf-8").splitlines())
    return {(kind, object_, part): definition for kind, object_, part, definition in lines}


def differences(connection: Connection) -> list[Difference]:
    """Return what differs from this release, errors first, and functions before the triggers that call them.

    The schema must be at this release's revision. Missing functions of the release are left out:
    :func:`~joblane.record.sql_functions.installed` finds them.
    """
    found = _compare(listed(), read(connection))
    return sorted(found, key=lambda each: (list(Severity).index(each.severity), each.kind, each.what))


def accepted(connection: Connection) -> list[Difference]:
    """Like :func:`differences`. Raises :class:`ChangedSchemaError` for errors that a migration does not restore."""
    found = differences(connection)
    if refused := [str(each) for each in found if each.is_refused]:
        raise ChangedSchemaError(tuple(refused))
    return found


def _compare(expected: Schema, found: Schema) -> Iterator[Difference]:
    """A missing table, and an added one, are reported without their parts, and an added object without its owner."""
    missing, added = expected.keys() - found.keys(), found.keys() - expected.keys()
    renamed = {key: other for key in missing if (other := _other_name(key, expected, found, added))}
    lost, new = ({object_ for kind, object_, _ in keys if kind == "table"} for keys in (missing, added))
    for key, definition in expected.items():
        if key not in missing:
            if found[key] != definition:
                yield _changed(key, definition, found[key])
        elif key[0] == "table" or (key[1] not in lost and VERSIONED not in key[1]):
            yield _missing(key, definition, expected, renamed.get(key))
    for key in added - {*renamed.values()}:
        if key[0] == "owner":
            kind, _, name = key[1].partition(" ")
            is_ours = (kind, name, "") in expected
        else:
            is_ours = key[0] == "table" or key[1] not in new
        if is_ours:
            yield _added(key, found[key])


def _other_name(key: Key, expected: Schema, found: Schema, added: Set[Key]) -> Key | None:
    """Return the only added object or part that differs from a missing one in its name only."""

    def content(each: Key, schema: Schema) -> object:
        kind, object_, part = each
        if kind == "table":
            return {other[2]: text for other, text in schema.items() if other[:2] == ("column", object_)}
        return object_, schema[each].replace(f" INDEX {part} ON ", " INDEX ON ", 1)

    if key[0] not in fixes.RENAME:
        return None
    wanted = content(key, expected)
    same = [each for each in added if each[0] == key[0] and content(each, found) == wanted]
    return same[0] if len(same) == 1 else None


def _missing(key: Key, definition: str, expected: Schema, other: Key | None) -> Difference:
    """``other``: the object or part under another name, probably; None: there is none."""
    kind = _kind(key[0], definition)
    sql = fixes.created_table(key[1], expected) if kind == "table" else fixes.created(key, definition)
    found = _wrong(kind, key, MISSING[kind], sql)
    if other is None:
        return found
    sql = fixes.renamed(key, other)
    return replace(found, do=f"if {other[2] or other[1]} is it, run `{sql}` with psql; else {found.do}", sql=sql)


def _changed(key: Key, definition: str, found: str) -> Difference:
    kind = _kind(key[0], definition, found)
    if (state := found.removeprefix(definition)) in STATES:
        text, sql = STATES[state]
        return _wrong(kind, key, text, sql.format(key[1], key[2]))
    text = f"is `{found}`, and this release needs `{definition}`"
    if kind == "function":
        (found, _, body), (definition, _, own) = (each.rpartition(" AS ") for each in (found, definition))
        text = f"is `{found}`, and this release needs `{definition}`" if body == own else "has another body"
        if found.partition(LANGUAGE)[0] != definition.partition(LANGUAGE)[0]:
            sql = fixes.DROP[kind].format(object=_name(key))
            do = f"run `{sql}` with psql, and then `joblane migrate`, which creates it again"
            return Difference(Severity.ERROR, kind, _what(kind, key), text, do, sql)
    return _wrong(kind, key, text, fixes.changed(key, definition, found))


def _wrong(kind: str, key: Key, found: str, sql: str) -> Difference:
    severity = Severity.WARNING if kind in ("index", "setting") else Severity.ERROR
    do = f"run `{sql}` with psql" if sql else "restore it from a backup"
    if kind in ("function", "trigger"):
        do = MIGRATE
    return Difference(severity, kind, _what(kind, key), found, do, sql)


def _added(key: Key, definition: str) -> Difference:
    kind = _kind(key[0], definition)
    is_harmless = kind == "column" and (not definition.endswith(" NOT NULL") or " IDENTITY" in definition)
    if kind not in ADDED or is_harmless:
        return Difference(Severity.NOTE, kind, _what(kind, key), "was added: this release does not have it")
    found = ADDED[kind].format(definition)
    if kind == "grant":
        return Difference(Severity.WARNING, kind, _what(kind, key), found, "revoke them if it does not need them")
    sql = fixes.dropped(key, definition).replace(VERSIONED, f"_{VERSION}")
    do = {
        "search path": f"run `{sql}` with psql, with the schemas that it needs",
        "owner": f"run `{sql}` with psql",
    }.get(kind, f"if nothing needs it, run `{sql}` with psql")
    return Difference(Severity.WARNING, kind, _what(kind, key), found, do, sql)


def _kind(kind: str, *definitions: str) -> str:
    return "unique index" if any(each.startswith("CREATE UNIQUE") for each in definitions) else kind


def _what(kind: str, key: Key) -> str:
    name, part = _name(key), key[2]
    if kind == "owner":
        return name
    kind = {"search path": "function", "grant": "role"}.get(kind, kind)
    return f"{kind} {part} of {name}" if part else f"{kind} {name}"


def _name(key: Key) -> str:
    return key[1].replace(VERSIONED, f"_{VERSION}")
