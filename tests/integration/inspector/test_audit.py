"""The audit: its entries, and the values that never are in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.errors import DatabaseUnavailableError
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.scope import Scope
from joblane.inspector.views import CauseState
from tests.builders.rows import In, archived, put
from tests.samples import sample_one
from tests.world import World

AsOperator = Callable[[str], Inspector]


def test_an_entry_says_who_did_what_to_which_task_and_why(
    world: World, inspector: Inspector, as_operator: AsOperator
) -> None:
    put(world, sample_one, "one")
    put(world, sample_one, "two")
    as_operator("ann").cancel("one", reason="  it was\n a mistake ")
    as_operator("bob").cancel("two")
    as_operator("bob").delete("one", reason="   ")

    entries = inspector.audit()

    assert [(one.who, one.action, one.target, one.reason) for one in entries] == [
        ("bob", "delete", "one", None),
        ("bob", "cancel", "two", None),
        ("ann", "cancel", "one", "it was a mistake"),
    ]
    assert entries[2].details == {"before": "pending", "after": "cancelled"}
    assert entries[2].at.tzinfo is not None
    assert [one.action for one in inspector.audit(target="one", who="bob")] == ["delete"]
    assert inspector.audit(before=entries[0].number, limit=1) == (entries[1],)
    assert [one.target for one in inspector.audit(action="cancel")] == ["two", "one"]
    assert inspector.audit(since=entries[1].at, until=entries[0].at) == (entries[1],)
    assert inspector.audit(bulk="none") == ()


@pytest.mark.parametrize(
    "given",
    [{"limit": 0}, {"limit": 501}, {"before": -1}, {"before": "x"}, {"who": "nul\0"}, {"since": "x"}],
)
def test_an_invalid_query_names_its_field(inspector: Inspector, given: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match=f"^{next(iter(given))}: "):
        inspector.audit(**given)


@pytest.mark.parametrize("reason", ["x" * 501, "nul \0", "bell \a", "lone \ud800", 5])
def test_an_unprintable_reason_is_refused(world: World, inspector: Inspector, reason: Any) -> None:
    put(world, sample_one, "t")

    with pytest.raises(SelectionError, match=r"^reason: "):
        inspector.cancel("t", reason=reason)

    assert world.row("t")["state"] == "pending"


@pytest.mark.parametrize("who", ["", "two\nlines", "x" * 701])
def test_an_action_without_a_name_is_refused(world: World, as_operator: AsOperator, who: str) -> None:
    put(world, sample_one, "t")

    with pytest.raises(SelectionError, match=r"^who: "):
        as_operator(who).cancel("t")

    assert world.row("t")["state"] == "pending"


def test_a_row_that_stays_locked_gives_a_busy_error(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.inspector.actions.audit.PATIENCE", "50ms")
    put(world, sample_one, "t")
    with world.locked("t"), pytest.raises(BusyError, match=r"t is being changed at this moment"):
        inspector.cancel("t")
    assert inspector.cancel("t").after == "cancelled"


def test_a_broken_connection_leaves_neither_the_change_nor_the_entry(world: World, scope: Scope) -> None:
    """Before the commit: the server rolls both back, and the next call uses a new connection."""
    put(world, sample_one, "t")
    backend = scope.connection.run("select pg_backend_pid()")[0][0]
    world.run(
        "create function stop() returns trigger language plpgsql as $$ begin perform pg_terminate_backend("
        f"{backend}); return new; end $$"
    )
    world.run("create trigger stop after insert on joblane.audit for each row execute function stop()")

    with pytest.raises(DatabaseUnavailableError, match="check the audit before you repeat it"):
        Inspector(scope).cancel("t")

    world.run("drop trigger stop on joblane.audit")
    assert (world.row("t")["state"], world.run("select * from joblane.audit")) == ("pending", [])
    assert Inspector(scope).cancel("t").after == "cancelled"


# --- Every action --------------------------------------------------------------------------------------------------

ACTS: dict[str, tuple[Any, ...]] = {
    "run": ("waiting",),
    "retry": ("archived",),
    "archive": ("waiting",),
    "delete": ("waiting",),
    "cancel": ("waiting",),
    "replay": ("archived",),
    "edit": ("waiting", {"number": 471100815}),
    "signal": ("stopped", "approval", 471100815),
    "skip": ("stopped",),
    "replay_with": ("archived", {"number": 471100815}),
    "enqueue": ("sample:one", {"number": 471100815}),
    "pause": (PauseScope.TYPE, "sample:one"),
    "resume": (PauseScope.QUEUE, "low"),
    "pause_schedule": ("nightly",),
    "resume_schedule": ("paused",),
    "delete_schedule": ("nightly",),
    "run_schedule": ("nightly",),
    "set_limit": ("shared",),
    "reset_limit": ("shared",),
    "seal_batch": ("open",),
    "mark_errors": (("aaaa",), CauseState.KNOWN),
}
NAMED: dict[str, dict[str, Any]] = {"set_limit": {"total": 5}}
SHARED = """
with batch as (insert into joblane.batches (id) values ('open')),
scheduled as (
  insert into joblane.schedules (name, type, payload, expression, timezone, ticks_a_day, revision, next_at,
                                 paused_at)
  select name, 'sample:one', '{"do": "nothing", "number": 815004711}', '* * * * *', 'UTC', 1440, 1, now(), paused_at
    from (values ('nightly', null), ('paused', now())) as x(name, paused_at)
),
declared as (insert into joblane.limits (name, slots) values ('shared', 2))
insert into joblane.limit_changes (name, slots) values ('shared', 3)
"""
OWN_TESTS = {"bulk", "redrive", "abort", "pass_line", "undo"}
"""Bulk actions are tasks of their own, an order of a key has several tasks, and an undo needs another action."""


def test_every_action_is_tested_here() -> None:
    found = {
        name for name in vars(Inspector) if permission_of(Inspector, name) in (Permission.OPERATE, Permission.EDIT)
    }

    assert found == ACTS.keys() | OWN_TESTS


@pytest.fixture
def stage(deployed: World) -> World:
    """A stage in which each action is possible."""
    put(deployed, sample_one, "waiting", {"do": "nothing", "number": 815004711})
    put(deployed, sample_one, "archived", {"do": "nothing", "number": 815004711}, **archived(fingerprint="aaaa"))
    put(deployed, sample_one, "stopped", state="scheduled", runs=1, due_at=In(60), sweep_at=In(120))
    deployed.run(
        "insert into joblane.task_waits (task_id, name, signal, until, run) values ('stopped', 'a', 'a', now(), 1)"
    )
    deployed.run("insert into joblane.pauses (scope, name) values ('queue', 'low')")
    deployed.run(SHARED)
    return deployed


@pytest.mark.parametrize("name", ACTS)
def test_every_action_leaves_one_entry_without_the_payload(stage: World, inspector: Inspector, name: str) -> None:
    getattr(inspector, name)(*ACTS[name], reason="because", **NAMED.get(name, {}))
    (entry,) = inspector.audit()
    assert (entry.who, entry.action, entry.reason) == ("op", name.removesuffix("_with"), "because")
    assert not {"815004711", "471100815"} & set(re.findall(r"\w+", json.dumps(entry.details)))


CONTENTS = """
select (select jsonb_agg(t order by id) from joblane.tasks t),
       (select jsonb_agg(p order by name) from joblane.pauses p), (select jsonb_agg(s) from joblane.task_signals s),
       (select jsonb_agg(w) from joblane.task_waits w),
       (select jsonb_agg(c) from joblane.limit_changes c), (select jsonb_agg(b) from joblane.batches b),
       (select jsonb_agg(c) from joblane.causes c), (select jsonb_agg(s order by name) from joblane.schedules s)
"""


@pytest.mark.parametrize("name", ACTS)
def test_an_action_whose_entry_cannot_be_written_is_not_done(stage: World, inspector: Inspector, name: str) -> None:
    stage.run("alter table joblane.audit add constraint full_up check (who <> 'op')")
    before = stage.run(CONTENTS)
    with pytest.raises(DatabaseError):
        getattr(inspector, name)(*ACTS[name], reason="because", **NAMED.get(name, {}))
    assert stage.run(CONTENTS) == before
