"""The declared task types in the database. ``joblane migrate`` writes them, so that SQL alone can enqueue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from joblane.record.driver.connection import Connection
from joblane.record.payload_description import check_of
from joblane.record.row.new import declared
from joblane.tasks.limit import check_shared
from joblane.tasks.options import NONE
from joblane.tasks.task import Task

REGISTER = """
with declared as (
  select * from jsonb_to_recordset($1::jsonb) as x(
    type text, queues text[], max_retry integer, retention_seconds bigint, unique_seconds float8, unique_until text,
    events text[], on_archived jsonb, schema jsonb, payload_check jsonb, flow jsonb)
),
dropped as (
  delete from joblane.task_types t where not exists (select from declared d where d.type = t.type)
)
insert into joblane.task_types select d.* from declared d
on conflict (type) do update set
  (queues, max_retry, retention_seconds, unique_seconds, unique_until, events, on_archived, schema, payload_check,
   flow)
  = (excluded.queues, excluded.max_retry, excluded.retention_seconds, excluded.unique_seconds, excluded.unique_until,
     excluded.events, excluded.on_archived, excluded.schema, excluded.payload_check, excluded.flow)
"""


LIMITS = """
with declared as (
  select * from jsonb_to_recordset($1::jsonb) as x(name text, slots integer, step float8, burst integer)
),
dropped as (
  delete from joblane.limits l where not exists (select from declared d where d.name = l.name)
)
insert into joblane.limits select d.name, d.slots, pg_catalog.make_interval(secs => d.step), d.burst from declared d
on conflict (name) do update set (slots, step, burst) = (excluded.slots, excluded.step, excluded.burst)
"""


def register(connection: Connection, tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Write the declared types and limits, and remove others."""
    connection.run(REGISTER, _document(tasks))
    register_limits(connection, tasks)


def register_limits(connection: Connection, tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Write the declared limits, and remove others."""
    connection.run(LIMITS, json.dumps(declared_limits(tasks)))


def register_statement(tasks: Mapping[str, Task[Any, Any]]) -> str:
    """Return the statements of :func:`register` as SQL without parameters."""
    limits = LIMITS.replace("$1", literal(json.dumps(declared_limits(tasks)))).strip()
    return f"{REGISTER.replace('$1', literal(_document(tasks))).strip()};\n{limits}"


def literal(text: str) -> str:
    """Return ``text`` as an SQL string literal, for the default ``standard_conforming_strings``."""
    return "'" + text.replace("'", "''") + "'"


def _document(tasks: Mapping[str, Task[Any, Any]]) -> str:
    return json.dumps([_row(task) for task in tasks.values()])


def _row(task: Task[Any, Any]) -> dict[str, Any]:
    return {
        "type": task.type,
        "queues": task.lanes,
        "max_retry": task.max_retry,
        "retention_seconds": NONE.retention_seconds(task),
        "unique_seconds": task.unique_for.total_seconds() if task.unique_for else None,
        "unique_until": task.unique_until,
        **declared(task),
        "schema": task.schema,
        "payload_check": check_of(task.payload),
        "flow": task.flow
        and {
            "key": task.flow.key,
            "total": task.type if task.flow.has_total else None,
            "shared": task.flow.limit.name if task.flow.limit else None,
            "ordered": task.flow.ordered,
        },
    }


def declared_limits(tasks: Mapping[str, Task[Any, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``joblane.limits``. Raises :class:`DeclarationError` if two types declare one differently."""
    check_shared({task.type: task.flow for task in tasks.values() if task.flow})
    found = {
        limit[0]: limit
        for task in tasks.values()
        if task.flow
        for type_ in task.types  # a task keeps the names of the limits that its type had at the enqueue
        for limit in task.flow.declared(type_)
    }
    return [
        {"name": name, "slots": slots}
        | ({} if rate is None else {"step": rate.step.total_seconds(), "burst": rate.burst})
        for name, slots, rate in found.values()
    ]
