"""The oldest snapshot that keeps dead rows: of real sessions, prepared transactions, standbys and slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from pg8000.exceptions import Error as PostgresError

from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.local.ports import HOST
from joblane.local.postgres import USER, Postgres, run
from joblane.local.postgres import program as program_of
from joblane.record import migrate
from joblane.record.driver.connection import Connection
from joblane.record.migrations import LOCK, upgrade
from joblane.sqs.message import Message
from joblane.sweep.old_snapshot import OldSnapshot, old_snapshot
from joblane.tasks.discovery import discover
from tests import logs
from tests.builders.snapshots import MINUTE, REPEATABLE, pid_of, session, swept
from tests.conftest import administer
from tests.world import World

HAS_SNAPSHOT = "select backend_xmin is not null from pg_stat_activity where pid = $1"
FEEDBACK = "select backend_xmin::text from pg_stat_replication union select xmin::text from pg_replication_slots"

Wait = Callable[[Callable[[], bool]], None]


def found(world: World) -> OldSnapshot | None:
    return old_snapshot(world.database.get())


def named(world: World) -> OldSnapshot:
    """Return the oldest snapshot. There is one."""
    oldest = found(world)
    assert oldest is not None
    return oldest


def holder(world: World) -> tuple[str, str]:
    """Return the kind and the name of the holder of the oldest snapshot."""
    oldest = named(world)
    return oldest.holder, oldest.name


def run_until_terminated(connection: Connection, script: str) -> None:
    with suppress(PostgresError):
        connection.execute_simple(script)


# --- Sessions ------------------------------------------------------------------------------------------------------


def test_without_another_session_there_is_no_old_snapshot(world: World) -> None:
    swept(world, 40, 20, 5)
    assert found(world) is None


def test_a_session_with_an_old_snapshot_is_named_with_the_age_of_its_transaction(
    world: World, wait_until: Wait
) -> None:
    # given a transaction that began before the last two sweeps
    swept(world, 90, 60)
    with session(world.url) as dump:
        swept(world, 40, 20)
        # when it runs another query now
        dump.run("select count(*) from joblane.tasks")
        # then it is as old as the first sweep whose rows it keeps
        oldest = named(world)
        assert oldest.seconds == pytest.approx(40 * MINUTE, abs=30)
        [[database, user]] = dump.run("select current_database()::text, current_user::text")
        pid = pid_of(dump)
        assert oldest == OldSnapshot(
            oldest.seconds, "session", "a dump", pid, user, database, state="idle in transaction"
        )
        assert oldest.text == (
            f"session {pid} (user {user}, database {database}, application a dump, idle in transaction)"
        )
        # and the statement ends it
        world.run(oldest.end)
        assert oldest.end == f"select pg_terminate_backend({pid})"
        wait_until(lambda: found(world) is None)


def test_a_snapshot_that_is_younger_than_the_last_sweep_is_not_old(world: World) -> None:
    swept(world, 40, 20)
    with session(world.url):
        assert found(world) is None


@pytest.mark.parametrize(("minutes", "old"), [(14, False), (16, True)])
def test_a_snapshot_is_old_if_it_is_older_than_any_run_of_a_function(minutes: float, old: bool, world: World) -> None:
    with session(world.url):
        swept(world, minutes)
        assert (found(world) is not None) == old


def test_a_transaction_of_this_connection_is_not_reported(world: World) -> None:
    # given a transaction of the sweep's own connection that has written before the sweeps
    connection = world.database.get()
    connection.execute_simple("begin; insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    swept(world, 40)
    # when / then
    assert found(world) is None
    connection.rollback()


def test_an_open_transaction_without_a_snapshot_is_old_only_once_it_has_written(world: World) -> None:
    # given a transaction that takes a new snapshot for each statement
    with session(world.url, "begin; select 1") as idle:
        swept(world, 40)
        assert found(world) is None
        # when it writes
        idle.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
        assert found(world) is None, "its write is younger than the sweep"
        swept(world, 30)
        # then it is in the snapshots of all sessions
        oldest = named(world)
        assert oldest.pid == pid_of(idle)
        assert oldest.seconds == pytest.approx(30 * MINUTE, abs=30)


def test_many_sweeps_that_were_woken_do_not_make_a_snapshot_younger(world: World) -> None:
    with session(world.url):
        swept(world, 40)
        copies = "from generate_series(1, 300) n, {} r where r.{} = 'sweep-40'"
        for table, key in (("joblane.tasks", "id"), ("joblane.task_attempts", "task_id")):
            newer = f"jsonb_build_object('{key}', 'jobs:sweep:woken:' || n, 'created_at', now(), 'finished_at', now())"
            record = f"(jsonb_populate_record(r, {newer})).*"
            world.run(f"insert into {table} select {record} {copies.format(table, key)}")
        oldest = named(world)
        assert oldest.seconds == pytest.approx(40 * MINUTE, abs=30)


def test_the_oldest_of_two_snapshots_is_named(world: World) -> None:
    with session(world.url, name="first"):
        swept(world, 40)
        with session(world.url, name="second"):
            swept(world, 20)
            assert holder(world) == ("session", "first")
        assert holder(world) == ("session", "first")


def test_a_writer_is_named_and_not_the_sessions_whose_snapshots_it_is_in(world: World) -> None:
    write = "begin; insert into joblane.pauses (scope, name) values ('type', 'sample:one')"
    with session(world.url, "", name="reader") as reader, session(world.url, write, name="writer"):
        reader.execute_simple(REPEATABLE)
        swept(world, 40)
        assert holder(world) == ("session", "writer")


def test_of_another_database_only_a_transaction_that_has_written_counts(world: World, postgres: Postgres) -> None:
    url = postgres.database_url("postgres")
    with session(url, name="reader there"):
        swept(world, 40)
        assert found(world) is None
    with session(url, "begin; select pg_current_xact_id()", name="writer there"):
        swept(world, 30)
        oldest = named(world)
        assert (oldest.holder, oldest.name, oldest.database) == ("session", "writer there", "postgres")


def test_a_vacuum_is_not_reported(world: World, wait_until: Wait) -> None:
    """Its snapshot keeps no rows."""
    # given a vacuum that waits 100 ms after each page
    world.run("create table slow (number integer)")
    world.run("insert into slow select generate_series(1, 20000)")
    with session(world.url, "set vacuum_cost_delay = 100; set vacuum_cost_limit = 1") as connection:
        pid = pid_of(connection)
        vacuum = Thread(target=run_until_terminated, args=(connection, "vacuum slow"))
        vacuum.start()
        try:
            wait_until(lambda: world.run(HAS_SNAPSHOT, pid) == [[True]])
            # when / then
            swept(world, 40)
            assert found(world) is None
        finally:
            world.run("select pg_terminate_backend($1)", pid)
            vacuum.join()


# --- Rights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_app(world: World, postgres: Postgres) -> Iterator[World]:
    """The world of the user of the functions, with the rights that the migration grants."""
    administer(postgres, "create role app login password 'app'")
    world.run(migrate.GRANT.format(user="app", lock=LOCK))
    try:
        with World.over(world.url.replace(world.url.split("//")[1].split("@", maxsplit=1)[0], "app:app")) as made:
            yield made
    finally:
        world.run("drop owned by app")
        administer(postgres, "drop role app")


def test_the_user_of_the_functions_sees_all_but_the_state_of_a_session(world: World, as_app: World) -> None:
    with session(world.url) as dump:
        swept(world, 40)
        oldest, full = named(as_app), named(world)
        assert oldest.seconds == pytest.approx(full.seconds, abs=10)
        assert (oldest.pid, oldest.name, oldest.user) == (pid_of(dump), full.name, full.user)
        assert (full.state, oldest.state) == ("idle in transaction", None)
        assert "None" not in oldest.text


def test_a_sweep_without_the_right_to_see_sessions_completes_and_names_the_right(world: World, as_app: World) -> None:
    as_app.deploy(discover().values())
    world.run("revoke select on pg_stat_activity from public")
    try:
        with logs.lines() as lines:
            assert as_app.deliver(jobs_sweep, Message(jobs_sweep.type, "sweep").encode(), seconds=240.0) == []
        assert world.row("sweep")["state"] == "completed"
        [line] = [line for line in lines.fields if line["level"] == "WARNING"]
        assert "select on pg_stat_activity" in line["message"]
        assert "permission denied for view pg_stat_activity" in line["error"]
    finally:
        world.run("grant select on pg_stat_activity to public")


# --- Other holders -------------------------------------------------------------------------------------------------


def test_a_reader_of_aurora_is_named(world: World) -> None:
    """With a function that has the name and the columns of Aurora's."""
    [[xmin]] = world.run("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    world.run(
        "create function pg_catalog.aurora_replica_status() returns table (server_id text, session_id text,"
        " feedback_xmin bigint, last_update_timestamp timestamptz) language sql as $$ values"
        f" ('writer', 'MASTER_SESSION_ID', {xmin - 2}, now()), ('removed', 'x', {xmin - 1}, now() - interval '6 min'),"
        f" ('idle', 'y', 0, now()), ('reader-1', 'z', {xmin}, now()) $$"
    )
    assert found(world) is None
    swept(world, 40)
    oldest = named(world)
    assert (oldest.holder, oldest.name, oldest.text) == ("standby", "reader-1", "standby (name reader-1)")
    assert oldest.end.startswith("end the old transaction on the standby")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that prepares transactions and has standbys."""
    folder = tmp_path_factory.mktemp("primary")
    with Postgres(folder, settings={"max_prepared_transactions": "2"}) as server:
        upgrade(server.url)
        yield server


@pytest.fixture
def primary(server: Postgres, world: World) -> Iterator[World]:
    """A world over this server, without rows."""
    with World.over(server.url) as made:
        yield made
        made.run("truncate joblane.tasks, joblane.task_attempts")


@contextmanager
def standby(server: Postgres, folder: Path, slot: str = "") -> Iterator[Postgres]:
    """A standby of this server with hot_standby_feedback, which uses the slot if it has a name."""
    made = Postgres(
        folder,
        settings={
            "hot_standby_feedback": "on",
            "wal_receiver_status_interval": "1",
            "primary_slot_name": slot,
            "max_prepared_transactions": "2",
            "cluster_name": "reports",
        },
    )
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    program, password = str(program_of("pg_basebackup")), server.url.split(":")[2].split("@")[0]
    address = f"host={HOST} port={server.port} user={USER} password={password}"
    run([program, "-D", str(made.data), "-R", "-X", "stream", "-c", "fast", "-d", address])
    (folder / "password").write_text(password)
    with made:
        yield made


def test_a_prepared_transaction_is_named_and_its_statement_ends_it(primary: World) -> None:
    insert = "insert into joblane.pauses (scope, name) values ('type', 'sample:one')"
    with session(primary.url, f"begin; {insert}; prepare transaction 'it''s open'"):
        pass
    swept(primary, 40)
    oldest = named(primary)
    assert (oldest.holder, oldest.name, oldest.pid) == ("prepared transaction", "it's open", None)
    statement = oldest.end.partition(", or")[0]
    assert statement == "rollback prepared 'it''s open'"
    primary.run(statement)
    assert found(primary) is None


@pytest.mark.parametrize(("slot", "kind"), [("", ("standby", "reports")), ("copy", ("replication slot", "copy"))])
def test_a_standby_with_feedback_is_named_or_its_slot(
    slot: str, kind: tuple[str, str], primary: World, server: Postgres, tmp_path: Path, wait_until: Wait
) -> None:
    # given a standby with an old query
    if slot:
        primary.run("select pg_create_physical_replication_slot($1)", slot)
    with standby(server, tmp_path / "standby", slot) as copy, session(copy.url) as reader:
        snapshot = reader.run("select pg_snapshot_xmin(pg_current_snapshot())::text")
        wait_until(lambda: snapshot[0] in primary.run(FEEDBACK))
        # when
        swept(primary, 40)
        # then
        assert holder(primary) == kind
    # and without its standby a slot keeps the rows until it is dropped
    if slot:
        oldest = named(primary)
        assert oldest.state == "inactive"
        primary.run(oldest.end.rpartition(": ")[2])
    wait_until(lambda: found(primary) is None)
