"""The library's functions in the database, rendered from the ``.sql`` files of this room.

Their names end with a version that is made from their text, so that the code of two releases can run side by side, in a
deploy and after a rollback. ``joblane migrate`` creates the functions of its own code, and drops all but the two sets
that were migrated last.

PostgreSQL searches ``pg_catalog`` first, but it prefers a function or an operator of a later schema whose parameters
have exactly the types of the arguments. So the functions search no other schema. The insert, the claim and the finish,
which run for each task, have no such setting, because it costs some microseconds for each call. They name
``pg_catalog`` in each call that another function could replace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from joblane.quotas import LONGEST_LIMIT_DELAY, MAX_DELAY_SECONDS
from joblane.record.row import transitions
from joblane.record.row.conditions import (
    BEFORE_IT,
    EARLY_SECONDS,
    FATE,
    IS_FREE,
    MOST_RELEASED,
    MOST_WAIT_AGAIN,
    ORDINARY,
    PARENT_CANCELS,
    PARENT_LETS_GO,
    PAUSED,
    SKIPPED_TICK,
    UNUSED_SECONDS,
    WAITED,
    WAITS_FOR_PARENTS,
)
from joblane.record.row.new import (
    COLUMNS,
    DUE,
    FIELDS,
    INSERTED,
    INSERTED_WITH_REST,
    PLAIN_FIELDS,
    RELATIONS,
    REST,
    defined,
    enqueued,
    of_one,
    one_columns,
)
from joblane.record.row.states import ENDED_SQL, LEVELS, LIVE_SQL, SWEEP_MARGIN_SECONDS, WAITING_SQL, Passed
from joblane.record.row.transitions import NOW, Columns, assignments

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

FOLDER = Path(__file__).parent
FILES = (
    "task/claim", "task/claim_one", "task/finish", "task/finish_one", "task/insert", "task/insert_one",
    "flow/lock_limits", "flow/limit_of", "flow/has_room", "flow/pass_limits", "flow/serve_limits", "flow/delay_limit",
    "flow/plan_limits", "flow/waiting_limits", "flow/link_task", "flow/open_parents", "flow/release_children",
    "flow/let_go", "flow/wait_again", "task/suspend", "task/wake", "lock_schedule", "cancel_ticks",
)  # fmt: skip
INSERT_REST = "insert_rest"
"""The insert of tasks with columns of :data:`REST`. Each column that a statement names costs each call of it."""
NAMES = (*(file.rpartition("/")[2] for file in FILES), INSERT_REST)
STEPS = (
    "run", "revive", "revive_limited", "revive_paused", "park", "release", "lost", "overdue", "cancel_lost",
    "duplicate", "tick_skipped", "hold", "start_later", "run_with_slots", "hold_for_parents", "cancelled_by_parent",
)  # fmt: skip
"""The transitions of the claim."""
SERVED = (
    "hold", "turn", "start_later", "park", "released", "cancelled_by_parent", "cancelled", "held_for_children",
)  # fmt: skip
"""The transitions of a task that waits for a limit, for its parents, for its children or for the time of its tick."""
NOT_HELD = "JB001"
"""SQLSTATE of a finish whose run does not hold its task, and after which no commit may follow."""
RUN_START = "task_id, run, attempt, generation, started_at, request_id, type, queue, tenant, wait_ms"
RUN_END = """finished_at, outcome, duration_ms, billed_ms, memory_mb, cost_usd, error_type, error_message, fingerprint,
            traceback"""
RUN_COLUMNS = [name for name in re.findall(r"\w+", f"{RUN_START}, {RUN_END}") if name not in ("task_id", "run")]
AGAIN = f"""on conflict (task_id, run) do update set
            ({", ".join(RUN_COLUMNS)}) = ({", ".join(f"excluded.{name}" for name in RUN_COLUMNS)})"""
"""The row of a run may be left by a task with the same id, whose own row was deleted by SQL."""


def assigned(columns: Columns) -> str:
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
    """Return the text for each ``@name`` of a template."""
    steps: dict[str, Columns] = {name: getattr(transitions, name.upper()) for name in STEPS}
    columns = sorted({column for step in steps.values() for column in step})
    arrived = {name: re.sub(r"\bx\b", "m", value) for name, value in COLUMNS.items() if name != "payload"}
    inserted = [name for name in arrived if name not in columns]
    return {
        **{name: f"changed := true; {assigned(step)}" for name, step in steps.items()},
        "finish": assignments(transitions.FINISH),
        "completed": assignments(_of_end(transitions.FINISH)),
        "ordinary": "\n     and ".join(ORDINARY.values()),
        "set_run": assignments(transitions.RUN),
        "stopped": assignments(transitions.STOPPED),
        "woken": assignments(transitions.WOKEN),
        "due_one": of_one(DUE),
        "one_columns": ", ".join(one_columns()),
        "one_values": ", ".join(one_columns().values()),
        "not_held": NOT_HELD,
        "run_start": RUN_START,
        "run_end": RUN_END,
        "again": AGAIN,
        "lost_names": ", ".join(transitions.LOST_ERROR),
        "lost_error": ", ".join(transitions.LOST_ERROR.values()),
        "waited": WAITED.format(row="t"),
        **{f"set_{name}": assignments(getattr(transitions, name.upper())) for name in SERVED},
        **{f"passed_{step}": f"'{step}'" for step in Passed},
        **{f"has_{level.slot}": level.has_slot for level in LEVELS.values()},
        "steps": f"'{{{','.join(Passed)}}}'",
        "slots": f"'{{{','.join(level.slot for level in LEVELS.values())}}}'",
        "times": f"'{{{','.join(level.time for level in LEVELS.values())}}}'",
        "columns": ", ".join(columns),
        "values": ", ".join(f"t.{column}" for column in columns),
        "run_columns": ", ".join(transitions.RUN),
        "run_values": ", ".join(f"t.{column}" for column in transitions.RUN),
        "arrived": assigned({name: value for name, value in arrived.items() if name not in REST}),
        "arrived_rest": assigned({name: arrived[name] for name in REST}),
        "arrived_fields": defined(FIELDS | {"payload": "json"}),
        "arrived_columns": ", ".join(inserted),
        "arrived_values": ", ".join(f"t.{column}" for column in inserted),
        "paused": PAUSED.format(row="t"),
        "waiter_paused": PAUSED.format(row="w"),
        "before_it": BEFORE_IT,
        "skipped_tick": SKIPPED_TICK,
        "is_free": IS_FREE,
        "parent_lets_go": PARENT_LETS_GO,
        "cancels": PARENT_CANCELS,
        "waits_for_parents": WAITS_FOR_PARENTS,
        "most_released": str(MOST_RELEASED),
        "most_again": str(MOST_WAIT_AGAIN),
        "fate": FATE,
        "live": LIVE_SQL,
        "waiting": WAITING_SQL,
        "ended": ENDED_SQL,
        "early": str(EARLY_SECONDS),
        "most_parked": "200",
        "most_turns": "100",
        "max_delay": str(MAX_DELAY_SECONDS),
        "longest_delay": str(int(LONGEST_LIMIT_DELAY.total_seconds())),
        "unused_seconds": str(UNUSED_SECONDS),
        "sweep_margin": str(SWEEP_MARGIN_SECONDS),
        "version": "@version",
    }


UNCHANGED = ("attempts", "snoozes", "continuations", "due_at", "payload", "headers")
"""Columns that the finish of a first run that completes leaves as they are. Each assignment costs some instructions."""


def _of_end(columns: Columns) -> Columns:
    """Return the finish of a first run that completes: its end ``f`` is known but for the variables of the function."""

    def known(found: re.Match[str]) -> str:
        return transitions.COMPLETED_AT_FIRST.get(found[1], found[1])

    return {name: re.sub(r"\bf\.(\w+)", known, text) for name, text in columns.items() if name not in UNCHANGED}


def version_of(rendered: Mapping[str, str]) -> str:
    """Return a digest of 8 hex characters. Nobody can forget to raise such a version."""
    return hashlib.sha256("".join(rendered.values()).encode()).hexdigest()[:8]


def _insert(name: str) -> dict[str, str]:
    """Return the text for the names of ``insert.sql`` that its two functions do not share."""
    has_rest = name == INSERT_REST
    columns = INSERTED_WITH_REST if has_rest else INSERTED
    do = f"return query select * from joblane.{INSERT_REST}_@version(given); return;"
    is_linked = " or ".join(f"t.{column} is not null" for column in RELATIONS)
    return {
        "insert": f"{name}_@version",
        "inserted_columns": ", ".join(columns),
        "inserted_values": ", ".join(columns.values()),
        "new": enqueued("given", FIELDS if has_rest else PLAIN_FIELDS),
        "with_rest": "" if has_rest else f"if strpos(given::text, '\"rest\"') > 0 then {do} end if;",
        "link": f"case when {is_linked} then joblane.link_task_@version(t) end" if has_rest else "null::boolean",
    }


def _rendered() -> dict[str, str]:
    values = _values()

    def rendered(name: str, file: str) -> str:
        known = values | _insert(name) if file == "task/insert" else values
        return re.sub(r"@([a-z_]+)", lambda found: known[found[1]], (FOLDER / f"{file}.sql").read_text("utf-8"))

    return {name: rendered(name, file) for name, file in zip(NAMES, (*FILES, "task/insert"), strict=True)}


_RENDERED = _rendered()
VERSION = version_of(_RENDERED)
"""The version of this code's functions."""
FUNCTIONS = {name: text.replace("@version", VERSION) for name, text in _RENDERED.items()}
"""Name → the statement that creates the function."""

KEPT = 2
"""The number of sets that a migration keeps: its own, and the one of the code that may still run, or run again."""
_KEEP = f"select version from joblane.functions order by migrated_at desc limit {KEPT}"
DROP_OLD = f"""
delete from joblane.functions where version not in ({_KEEP});
do $$
declare
  old text;
begin
  for old in
    select p.oid::regprocedure from pg_proc p
     where p.pronamespace = 'joblane'::regnamespace and p.proname ~ '_[0-9a-f]{{8}}$'
       and right(p.proname, 8) not in (select version from joblane.functions)
  loop
    execute format('drop function %s', old);
  end loop;
end
$$
"""


def install(version: str, functions: Mapping[str, str]) -> tuple[str, ...]:
    """Return the statements that create a set of functions and drop old sets, for one transaction.

    Repeating them is harmless.
    """
    migrated = f"""
insert into joblane.functions (version) values ('{version}')
on conflict (version) do update set migrated_at = clock_timestamp()
"""
    return (*functions.values(), migrated, DROP_OLD)


INSTALL = install(VERSION, FUNCTIONS)


def installed(connection: Connection) -> bool:
    """True if the database has the functions of this code."""
    names = [f"joblane.{name}_{VERSION}" for name in NAMES]
    [[found]] = connection.run("select count(to_regproc(name)) from unnest($1::text[]) as name", names)
    return bool(found == len(names))
