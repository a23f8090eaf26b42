"""Edits by hand in the schema are found, and named with the statement that ends them. Some are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import pytest
from pg8000.exceptions import DatabaseError

from joblane.cli.main import main
from joblane.errors import ChangedSchemaError
from joblane.record import functions
from joblane.record.connection import Connection
from joblane.record.database import Database
from joblane.record.migrations import catalogue, upgrade
from joblane.record.migrations.catalogue import Difference, Severity, differences
from joblane.testing.databases import Databases

CLAIM, VERSION = f"joblane.claim_{functions.VERSION}", functions.VERSION
SIGNATURE = f"{CLAIM}(json,uuid,double precision,text)"
UNIQUE = "joblane.tasks (unique_key) where unique_key is not null"
REFUSED, RESTORED = Severity.ERROR, "restored"
WARNING, NOTE = Severity.WARNING, Severity.NOTE


@dataclass(frozen=True)
class Edit:
    """An edit by hand, with the differences that it makes: ``object found``. ``undo``: None: by their statements."""

    by: str
    grade: Severity | str
    found: str
    undo: str | None = None

    def __str__(self) -> str:
        return self.by[:60]


EDITS = (
    # a dropped part
    Edit("drop index joblane.tasks_unique", REFUSED, "unique index tasks_unique of joblane.tasks is missing: rows"),
    Edit("drop index joblane.tasks_live", WARNING, "index tasks_live of joblane.tasks is missing: statements that"),
    Edit(
        "alter table joblane.tasks drop constraint tasks_pkey",
        REFUSED,
        "constraint tasks_pkey of joblane.tasks is missing: rows that it refuses can be written",
    ),
    Edit(
        "alter table joblane.events drop constraint events_detail_check",
        REFUSED,
        "constraint events_detail_check of joblane.events is missing",
    ),
    Edit("drop sequence joblane.schedules_seq", REFUSED, "sequence joblane.schedules_seq is missing: each statement"),
    Edit(
        "drop trigger tasks_ended on joblane.tasks", RESTORED, "trigger tasks_ended of joblane.tasks is missing: rows"
    ),
    Edit("drop function joblane.canonical(jsonb)", RESTORED, "function joblane.canonical(jsonb) is missing: each"),
    Edit("drop table joblane.schedules", REFUSED, "table joblane.schedules is missing: each statement that uses it"),
    Edit("alter table joblane.tasks drop replay_of", REFUSED, "column replay_of of joblane.tasks is missing: each"),
    Edit(
        "alter table joblane.task_steps rename to steps2",
        REFUSED,
        "table joblane.task_steps is missing",
        "alter table joblane.steps2 rename to task_steps",
    ),
    Edit(
        "alter table joblane.tasks rename column tick to tock",
        REFUSED,
        "column tick of joblane.tasks is missing",
        "alter table joblane.tasks rename column tock to tick",
    ),
    Edit(
        "alter table joblane.tasks reset (autovacuum_vacuum_scale_factor)",
        WARNING,
        "setting autovacuum_vacuum_scale_factor of joblane.tasks is missing: writes to the table cost more",
    ),
    # a changed part
    Edit(
        "alter table joblane.tasks alter used_ms type numeric",
        REFUSED,
        "column used_ms of joblane.tasks is `numeric NOT NULL DEFAULT 0`, and this release needs `bigint NOT NULL",
    ),
    Edit(
        'alter table joblane.tasks alter tick type text collate "C"',
        REFUSED,
        'column tick of joblane.tasks is `text COLLATE "C"`, and this release needs `text`',
    ),
    Edit(
        "alter table joblane.tasks alter created_at drop default, alter state drop not null",
        REFUSED,
        "column created_at of joblane.tasks is `timestamp with time zone NOT NULL`",
    ),
    Edit(
        "alter table joblane.task_types alter max_retry set default 3, alter flow set not null",
        REFUSED,
        "column flow of joblane.task_types is `jsonb NOT NULL`, and this release needs `jsonb`",
    ),
    Edit(
        "alter table joblane.pauses drop constraint pauses_scope_check, add constraint pauses_scope_check check (true)",
        REFUSED,
        "constraint pauses_scope_check of joblane.pauses is `CHECK (true)`, and this release needs `CHECK",
    ),
    Edit(
        "alter table joblane.limits drop constraint limits_slots_check,"
        " add constraint limits_slots_check check (slots >= 0) not valid",
        REFUSED,
        "constraint limits_slots_check of joblane.limits is not valid: older rows may violate it",
    ),
    Edit(
        f"drop index joblane.tasks_unique; create unique index tasks_unique on {UNIQUE}",
        REFUSED,
        "unique index tasks_unique of joblane.tasks is `CREATE UNIQUE INDEX",
    ),
    Edit(
        f"drop index joblane.tasks_unique; create index tasks_unique on {UNIQUE} and finished_at is null",
        REFUSED,
        "unique index tasks_unique of joblane.tasks is `CREATE INDEX",
    ),
    Edit(
        "update pg_index set indisvalid = false where indexrelid = 'joblane.tasks_unique'::regclass",
        REFUSED,
        "unique index tasks_unique of joblane.tasks is invalid: PostgreSQL does not use it",
    ),
    Edit(
        "update pg_index set indisvalid = false where indexrelid = 'joblane.tasks_tags'::regclass",
        WARNING,
        "index tasks_tags of joblane.tasks is invalid",
    ),
    Edit(
        "alter sequence joblane.tasks_seq increment 2 cycle",
        REFUSED,
        "sequence joblane.tasks_seq is `AS bigint START 1 INCREMENT 2",
    ),
    Edit(
        "alter table joblane.tasks set unlogged",
        REFUSED,
        "table joblane.tasks is unlogged: a crash of the server removes its rows",
    ),
    Edit(
        "alter table joblane.tasks set (fillfactor = 100)",
        WARNING,
        "setting fillfactor of joblane.tasks is `100`, and this release needs `60`",
    ),
    Edit(
        "alter table joblane.tasks disable trigger tasks_checked",
        RESTORED,
        "trigger tasks_checked of joblane.tasks is disabled: rows are written without it",
    ),
    Edit(
        "alter table joblane.tasks enable replica trigger tasks_ended",
        RESTORED,
        "trigger tasks_ended of joblane.tasks is disabled, except on a replica",
    ),
    Edit(
        "create or replace trigger tasks_ended after update on joblane.tasks for each row"
        " execute function joblane.task_ended()",
        RESTORED,
        "trigger tasks_ended of joblane.tasks is `CREATE TRIGGER tasks_ended AFTER UPDATE ON joblane.tasks FOR",
    ),
    Edit(
        "create or replace function joblane.checks() returns boolean stable language plpgsql as"
        " 'begin return false;end'",
        RESTORED,
        "function joblane.checks() has another body",
    ),
    Edit(
        "alter function joblane.task_ended() security invoker",
        RESTORED,
        "function joblane.task_ended() is `() RETURNS trigger LANGUAGE plpgsql SET search_path",
    ),
    Edit("alter function joblane.task_ended() reset search_path", RESTORED, "function joblane.task_ended() is `()"),
    Edit("alter function joblane.canonical(jsonb) volatile", RESTORED, "function joblane.canonical(jsonb) is `(value"),
    Edit(f"alter function {SIGNATURE} set work_mem = '1GB'", RESTORED, f"function {SIGNATURE} is `(messages json,"),
    # an addition
    Edit(
        "create index mine on joblane.tasks (owner)",
        NOTE,
        "index mine of joblane.tasks was added: this release does not have it",
        "drop index joblane.mine",
    ),
    Edit(
        "alter table joblane.tasks add team text not null default 'x'",
        NOTE,
        "column team of joblane.tasks was added",
        "alter table joblane.tasks drop team",
    ),
    Edit(
        "create table joblane.mine (id int primary key, name text not null)",
        NOTE,
        "table joblane.mine was added",
        "drop table joblane.mine",
    ),
    Edit(
        "create view joblane.mine as select id from joblane.tasks",
        NOTE,
        "view joblane.mine was added",
        "drop view joblane.mine",
    ),
    Edit(
        "create aggregate joblane.mine(int) (sfunc = int4pl, stype = int)",
        NOTE,
        "function joblane.mine(integer) was added",
        "drop aggregate joblane.mine(int)",
    ),
    Edit("create type joblane.mood as enum ('good')", NOTE, "type joblane.mood was added", "drop type joblane.mood"),
    Edit(
        "alter table joblane.tasks set (autovacuum_vacuum_cost_delay = 1)",
        NOTE,
        "setting autovacuum_vacuum_cost_delay of joblane.tasks was added",
        "alter table joblane.tasks reset (autovacuum_vacuum_cost_delay)",
    ),
    Edit(
        "create trigger mine before update on joblane.tasks for each row"
        " execute function suppress_redundant_updates_trigger()",
        NOTE,
        "trigger mine of joblane.tasks was added",
        "drop trigger mine on joblane.tasks",
    ),
    Edit(
        "create function public.mine() returns trigger language plpgsql as 'begin return null;end';"
        " create trigger mine after update on joblane.pauses for each row execute function public.mine()",
        WARNING,
        "function public.mine() of a trigger on joblane.pauses has no search_path: names without a schema fail in it",
        "drop function public.mine() cascade",
    ),
    Edit(
        "alter table joblane.pauses add team text not null",
        WARNING,
        "column team of joblane.pauses was added without a default: it refuses each row that the library inserts",
        "alter table joblane.pauses drop team",
    ),
    Edit(
        "create unique index mine on joblane.tasks (owner)",
        WARNING,
        "unique index mine of joblane.tasks was added: it may refuse changes of the library",
    ),
    Edit(
        "alter table joblane.tasks add constraint mine check (attempts < 9) not valid",
        WARNING,
        "constraint mine of joblane.tasks was added: it may refuse changes of the library",
    ),
    Edit(
        "create table public.orders (task text constraint mine references joblane.tasks)",
        WARNING,
        "constraint mine of public.orders was added: it may refuse changes of the library",
        "drop table public.orders",
    ),
    Edit(
        "create rule mine as on delete to joblane.tasks do instead nothing",
        WARNING,
        "rule mine of joblane.tasks was added: it changes statements of the library",
    ),
    Edit(
        "alter table joblane.tasks enable row level security, force row level security",
        WARNING,
        "row security joblane.tasks is on: it may hide rows from the functions",
    ),
    Edit(
        "alter table joblane.pauses owner to pg_monitor",
        WARNING,
        "table joblane.pauses does not belong to owner, the owner of joblane.tasks, whose migrations cannot change it",
    ),
    Edit(
        "alter function joblane.task_ended() owner to pg_monitor",
        WARNING,
        "function joblane.task_ended() does not belong to owner",
    ),
    Edit(
        "grant select on joblane.tasks to public; grant usage on schema joblane to public",
        WARNING,
        "role PUBLIC has rights that Joblane does not grant: SELECT on joblane.tasks; USAGE on schema joblane",
        "revoke all on joblane.tasks from public; revoke all on schema joblane from public",
    ),
    Edit(
        "grant insert, update, truncate on joblane.audit to pg_monitor",
        WARNING,
        "role pg_monitor has rights that Joblane does not grant: TRUNCATE, UPDATE on joblane.audit",
        "revoke all on joblane.audit from pg_monitor",
    ),
    Edit(
        "grant truncate on all tables in schema joblane to pg_monitor",
        WARNING,
        "role pg_monitor has rights that Joblane does not grant: TRUNCATE on 26 objects",
        "revoke all on all tables in schema joblane from pg_monitor",
    ),
)


class Edited:
    """A database for edits by hand. ``free``: one without edits, if there is one."""

    free: ClassVar[list[Edited]] = []

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url, limits=None)

    @property
    def connection(self) -> Connection:
        return self.database.get()

    def found(self) -> list[Difference]:
        return differences(self.connection)

    def run(self, sql: str) -> None:
        """Run each statement by itself, as psql does."""
        for statement in sql.split("; "):
            self.connection.run(statement)


@pytest.fixture(scope="module")
def shared() -> Iterator[ExitStack]:
    """Closed after the tests of this file."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def edited(shared: ExitStack, joblane_databases: Databases) -> Iterator[Edited]:
    """A database without edits. The next test gets it if this one leaves none."""
    if not Edited.free:
        Edited.free.append(Edited(shared.enter_context(joblane_databases.clone())))
        shared.callback(Edited.free[0].database.close)
    yield Edited.free[0]
    if Edited.free[0].found():
        Edited.free.clear()


def test_the_listing_is_what_the_migrations_create(database_url: str) -> None:
    with Database(database_url) as database:
        written = catalogue.listing(catalogue.read(database.get()))
    assert written == catalogue.LISTING.read_text(), "write it again: .venv/bin/python -m tests.listing"


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_an_edit_by_hand_is_found_and_ended_by_its_statement(edited: Edited, edit: Edit) -> None:
    assert edited.found() == []
    # when
    edited.run(edit.by)
    # then
    found = edited.found()
    assert any(str(each).startswith(edit.found) for each in found), [*map(str, found)]
    worst = found[0]
    assert (RESTORED if worst.is_restored else worst.severity) == edit.grade
    assert all(bool(each.do) != (each.severity is NOTE) for each in found)
    # when
    if edit.grade == REFUSED:
        with pytest.raises(ChangedSchemaError) as caught:
            upgrade(edited.url)
        assert caught.value.differences == tuple(str(each) for each in found if each.severity is REFUSED)
        assert edited.found() == found, "nothing was changed"
    else:
        reported = upgrade(edited.url)
        assert [each.what for each in reported] == [each.what for each in found]
        assert edited.found() == [each for each in found if not each.is_restored]
    # then
    if edit.undo is not None:
        edited.run(edit.undo)
    elif edit.grade != RESTORED:
        for each in found:
            assert f"`{each.sql}`" in each.do
            edited.run(each.sql)
    assert edited.found() == []


def test_several_edits_are_in_one_refusal_and_what_can_be_restored_waits(edited: Edited) -> None:
    # given a dropped function with its trigger, and two dropped parts
    edited.run("drop function joblane.task_ended() cascade; drop index joblane.tasks_unique")
    edited.run("drop sequence joblane.tasks_seq")
    # when
    with pytest.raises(ChangedSchemaError) as caught:
        upgrade(edited.url)
    # then
    first, *lines = str(caught.value).splitlines()
    assert first == "the schema joblane was changed by hand. Nothing was migrated; fix this first:"
    assert lines == list(caught.value.differences)
    assert [line.split(" is missing")[0] for line in lines] == [
        "sequence joblane.tasks_seq",
        "unique index tasks_unique of joblane.tasks",
    ]
    # when
    for line in lines:
        edited.run(line.split("`")[1])
    # then
    assert [str(each) for each in upgrade(edited.url)] == [
        "function joblane.task_ended() is missing: each statement that calls it fails; it was restored",
        "trigger tasks_ended of joblane.tasks is missing: rows are written without it; it was restored",
    ]
    assert upgrade(edited.url) == edited.found() == []


def test_a_sequence_that_is_created_again_continues_above_its_numbers(edited: Edited) -> None:
    before = edited.connection.run("select nextval('joblane.schedules_seq')")
    edited.run("drop sequence joblane.schedules_seq")
    edited.run(edited.found()[0].sql)
    (number,) = edited.connection.run("select nextval('joblane.schedules_seq')")[0]
    assert before[0][0] < number < 2**53, "a place among waiting tasks is a float"


def test_settings_of_a_session_do_not_change_the_comparison(edited: Edited) -> None:
    with Database(edited.url) as database:
        connection = database.get()
        for setting in (
            *("timezone = 'Asia/Tokyo'", "datestyle = 'German'", "intervalstyle = 'iso_8601'"),
            *("quote_all_identifiers = on", "search_path = joblane, public", "extra_float_digits = 0"),
        ):
            connection.execute_simple(f"set {setting}")
        assert differences(connection) == []
        assert connection.run("select current_setting('timezone')") == [["Asia/Tokyo"]]


def test_a_role_without_any_right_can_compare(edited: Edited) -> None:
    edited.run("set role pg_monitor")
    try:
        assert edited.found() == []
    finally:
        edited.run("reset role")


def test_functions_of_another_release_are_no_difference(edited: Edited) -> None:
    other = {name: text.replace(VERSION, "0123abcd") for name, text in functions.FUNCTIONS.items()}
    for statement in other.values():
        edited.connection.execute_simple(statement)
    assert edited.found() == []
    edited.connection.execute_simple(functions.DROP_OLD)


def test_a_dropped_function_of_this_code_is_left_to_the_check_of_the_functions(edited: Edited) -> None:
    edited.run(f"drop function {SIGNATURE}")
    assert edited.found() == []
    assert not functions.installed(edited.connection)
    assert upgrade(edited.url) == []
    assert functions.installed(edited.connection)


def test_a_function_that_cannot_be_replaced_is_named_by_postgresql(edited: Edited) -> None:
    """Its other result would need a drop, and with it that of all that depends on it."""
    edited.run("alter function joblane.canonical(jsonb) rename to canon")
    edited.connection.execute_simple("create function joblane.canonical(value jsonb) returns json return value")
    with pytest.raises(Exception, match="cannot change return type of existing function"):
        upgrade(edited.url)
    edited.run("drop function joblane.canonical(jsonb); alter function joblane.canon(jsonb) rename to canonical")


def test_a_unique_index_that_meets_equal_keys_is_completed_after_one_is_removed(edited: Edited) -> None:
    edited.run("drop index joblane.tasks_unique")
    edited.run(
        "insert into joblane.tasks"
        " (id, type, queue, state, payload_digest, max_attempts, retention_seconds, unique_key)"
        " select id, 'a:b', 'low', 'pending', '', 1, 60, 'one' from (values ('a'), ('b')) as x(id)"
    )
    with pytest.raises(DatabaseError, match="could not create unique index"):
        edited.run(edited.found()[0].sql)
    edited.run("delete from joblane.tasks where id = 'b'")
    (invalid,) = edited.found()
    assert invalid.do == "run `reindex index concurrently joblane.tasks_unique` with psql"
    edited.run(f"{invalid.sql}; delete from joblane.tasks")
    assert edited.found() == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    """Run ``joblane``. Return the exit status and both outputs."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_command_prints_each_statement_and_ends_with_1_until_they_ran(
    edited: Edited, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", edited.url)
    edited.run("drop index joblane.tasks_unique; alter function joblane.checks() volatile")
    edited.run("create index mine on joblane.tasks (owner); drop index joblane.tasks_tags")
    # when
    for arguments in (["migrate"], ["migrate", "--sql"]):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(
            "joblane: the schema joblane was changed by hand. Nothing was migrated; fix this first:\n"
        )
        assert "run `CREATE UNIQUE INDEX CONCURRENTLY tasks_unique ON joblane.tasks" in err
        assert "tasks_tags" not in err
    edited.run(next(each.sql for each in edited.found() if not each.is_restored))
    # then
    code, out, err = run(capsys, "migrate", "--sql")
    assert (code, err) == (0, "")
    assert "create or replace function joblane.checks() returns boolean language plpgsql stable" in out
    code, out, err = run(capsys, "migrate")
    assert (code, err) == (0, "")
    stable = "() RETURNS boolean LANGUAGE plpgsql"
    created = "CREATE INDEX CONCURRENTLY tasks_tags ON joblane.tasks USING gin (tags) WHERE (tags <> '{}'::text[])"
    assert [line.removeprefix("Changed by hand: ") for line in out.splitlines()[1:]] == [
        f"function joblane.checks() is `{stable}`, and this release needs `{stable} STABLE`; it was restored.",
        f"index tasks_tags of joblane.tasks {catalogue.MISSING['index']}; run `{created}` with psql.",
        "index mine of joblane.tasks was added: this release does not have it.",
    ]
