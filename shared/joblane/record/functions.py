"""The library's functions in the database, rendered from the ``.sql`` files of this folder.

Their names end with a version that is made from their text, so that the code of two releases can run side by side, in a
deploy and after a rollback. ``joblane migrate`` creates the functions of its own code, and drops all but the two sets
that were migrated last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from joblane.limits import MAX_DELAY_SECONDS
from joblane.record import transitions
from joblane.record.conditions import EARLY_SECONDS, PAUSED
from joblane.record.states import ENDED_SQL, LIVE_SQL, SWEEP_MARGIN_SECONDS
from joblane.record.transitions import NOW, Columns, assignments

if TYPE_CHECKING:
    from joblane.record.connection import Connection

NAMES = ("claim", "finish", "insert")
STEPS = (
    "RUN", "REVIVE", "REVIVE_PAUSED", "PARK", "RELEASE", "LOST", "OVERDUE", "CANCEL_LOST", "DUPLICATE",
    "SCHEDULE_PAUSED",
)  # fmt: skip
"""The transitions of the claim."""
EXPRESSIONS = ("SWEEP_SOON", "ARCHIVED_EXPIRES", "CLEARED_EXPIRES", "RETENTION_EXPIRES")


def _assigned(columns: Columns) -> str:
    """Return a transition as assignments to the row ``t``, each before the columns that it reads are assigned.

    Raises :class:`graphlib.CycleError` if no such order exists.
    """
    before: dict[str, set[str]] = {name: set() for name in sorted(columns)}
    for name, value in sorted(columns.items()):
        for read in re.findall(r"\bt\.(\w+)", value):
            if read in before and read != name:
                before[read].add(name)
    order = TopologicalSorter(before).static_order()
    return " ".join(f"t.{name} := {columns[name].replace(NOW, 'clock')};" for name in order)


def _values() -> dict[str, str]:
    """Return the text for each ``@NAME`` of a template."""
    steps: dict[str, Columns] = {name: getattr(transitions, name) for name in STEPS}
    columns = sorted({column for step in steps.values() for column in step})
    expressions = {name: getattr(transitions, name).replace(NOW, "clock") for name in EXPRESSIONS}
    return {
        **{name: f"changed := true; {_assigned(step)}" for name, step in steps.items()},
        **expressions,
        "COLUMNS": ", ".join(columns),
        "VALUES": ", ".join(f"t.{column}" for column in columns),
        "LEASE_RELEASED": assignments(transitions.LEASE_RELEASED),
        "NEW": transitions.NEW.format(document="given"),
        "DUE_STATE": transitions.DUE_STATE,
        "DUE_SWEEP": transitions.DUE_SWEEP,
        "PAUSED": PAUSED.format(row="t"),
        "LIVE": LIVE_SQL,
        "ENDED": ENDED_SQL,
        "EARLY": str(EARLY_SECONDS),
        "MAX_DELAY": str(MAX_DELAY_SECONDS),
        "SWEEP_MARGIN": str(SWEEP_MARGIN_SECONDS),
        "VERSION": "@VERSION",
    }


def _render(name: str, values: Mapping[str, str]) -> str:
    text = (Path(__file__).parent / f"{name}.sql").read_text("utf-8")
    return re.sub(r"@([A-Z_]+)", lambda found: values[found[1]], text)


_RENDERED = {name: _render(name, values) for values in [_values()] for name in NAMES}
VERSION = hashlib.sha256("".join(_RENDERED.values()).encode()).hexdigest()[:8]
"""The version of this code's functions."""
FUNCTIONS = {name: text.replace("@VERSION", VERSION) for name, text in _RENDERED.items()}
"""Name → the statement that creates the function."""

KEPT = 2
"""The number of sets that a migration keeps: its own, and the one of the code that may still run, or run again."""
_KEEP = f"select version from joblane.functions order by migrated_at desc limit {KEPT}"
INSTALL = (
    *FUNCTIONS.values(),
    f"""
insert into joblane.functions (version) values ('{VERSION}')
on conflict (version) do update set migrated_at = clock_timestamp()
""",
    f"delete from joblane.functions where version not in ({_KEEP})",
    """
do $$
declare
  old text;
begin
  for old in
    select p.oid::regprocedure from pg_proc p
     where p.pronamespace = 'joblane'::regnamespace and p.proname ~ '_[0-9a-f]{8}$'
       and right(p.proname, 8) not in (select version from joblane.functions)
  loop
    execute format('drop function %s', old);
  end loop;
end
$$
""",
)
"""The statements that create this code's functions and drop old ones, for one transaction. Repeating them is
harmless."""
UNDEFINED_FUNCTION = "42883"
"""The SQLSTATE of a function that does not exist."""


def installed(connection: Connection) -> bool:
    """True if the database has the functions of this code."""
    names = [f"joblane.{name}_{VERSION}" for name in NAMES]
    [[found]] = connection.run("select count(to_regproc(name)) from unnest($1::text[]) as name", names)
    return bool(found == len(names))
