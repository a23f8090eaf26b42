"""The undo of an action of the same operator, within seconds, if nothing has changed its target since.

An action whose effect is a row of a small table can be undone: its audit entry has the rows that it replaced. What has
been sent to a queue, archived or deleted cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from joblane.enqueue.wake import wake
from joblane.inspector.actions import audit, causes
from joblane.inspector.errors import SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.stage import limits, pauses
from joblane.inspector.views import AuditEntry
from joblane.record.driver.connection import Connection
from joblane.record.flow import limit_changes

SECONDS = 15
"""The time in which an action can be undone. The page offers it for 10 seconds, and a slow request takes some more."""
ENTRY = "select number, at, who, action, target, reason, bulk, details from joblane.audit where number = $1"
IN_TIME = f"""
select clock_timestamp() <= a.at + interval '{SECONDS} s',
       (select who from joblane.audit x where x.target = a.target and x.number > a.number order by x.number limit 1)
  from joblane.audit a where a.number = $1
"""


def undo(scope: Scope, number: int) -> AuditEntry:
    """Undo an action. Returns its entry. Raises :class:`SelectionError`."""
    rows = scope.connection.run(ENTRY, number) if type(number) is int and 0 < number < 2**63 else []
    if not rows:
        raise SelectionError("number", "there is no such entry in the audit")
    entry = AuditEntry(*rows[0])
    restore = RESTORED.get(entry.action)
    if restore is None or "delays" in entry.details:
        raise SelectionError("number", f"{entry.action.replace('_', ' ')} of {entry.target} cannot be undone")
    if entry.who != scope.who:
        raise SelectionError("number", f"{entry.who} did it, and only {entry.who} can undo it")
    with audit.action(scope, "undo", entry.target, None) as doing:
        changed = restore(scope, doing.connection, entry, json.dumps(entry.details.get("before", [])))
        # after the locks of the change, so that no other change of the target is under way
        [[in_time, other]] = doing.connection.run(IN_TIME, number)
        if other is not None:
            raise SelectionError("number", f"{other} has changed {entry.target} since; nothing was undone")
        if not in_time:
            raise SelectionError("number", f"more than {SECONDS} seconds have passed; nothing was undone")
        doing.details |= {"undone": entry.action, "number": number}
    if changed:
        limits.served(scope, changed)
    else:
        wake(scope.sqs, scope.prefix)
    return entry


def _pauses(scope: Scope, connection: Connection, entry: AuditEntry, before: str) -> Sequence[str]:
    pauses.restore(scope, connection, entry.target, before)
    return ()


def _limits(_: Scope, connection: Connection, entry: AuditEntry, before: str) -> Sequence[str]:
    found = list(entry.details.get("set") or entry.details.get("limits", ()))
    limit_changes.restore(connection, found, before)
    return found


def _marks(_: Scope, connection: Connection, entry: AuditEntry, before: str) -> Sequence[str]:
    if len({row["fingerprint"] for row in entry.details.get("before", [])}) != 1:
        raise SelectionError("number", "the mark of several errors cannot be undone; mark them again")
    connection.run(causes.RESTORE, before)
    return ()


RESTORED: dict[str, Callable[[Scope, Connection, AuditEntry, str], Sequence[Any]]] = {
    "pause": _pauses,
    "resume": _pauses,
    "set_limit": _limits,
    "reset_limit": _limits,
    causes.ACTION: _marks,
}
"""Action → what restores the rows that it replaced; it returns the limits that have changed."""
