"""The step of a deploy that brings the database up to date, and the privileges of the functions' user."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pg8000.exceptions import DatabaseError
from pg8000.exceptions import Error as PostgresError
from sqlalchemy.exc import SQLAlchemyError

from joblane.errors import sqlstate
from joblane.functions.jobs_sweep.handler import JobsSweep, jobs_sweep
from joblane.functions.migrate.handler import handler
from joblane.local.postgres import Postgres
from joblane.record import deploys
from joblane.record import migrate as migrate_module
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import TimeLimits
from joblane.record.migrate import Migrated, _grant, migrate
from joblane.record.migrations import LOCK, TAKE_LOCK, newest, upgrade
from joblane.record.migrations.catalogue import differences
from joblane.record.pauses import pause_everything
from joblane.record.row.states import State
from joblane.record.sql_functions import installed
from joblane.record.task.finish import Finish, finish
from joblane.tasks.discovery import discover
from joblane.testing import JobTester
from tests.builders.events import LambdaContext
from tests.builders.revisions import second_revision
from tests.conftest import administer
from tests.freezing import FreezingProxy
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_only

FORBIDDEN = "42501"
EVENT = {
    "RequestType": "Update",
    "LogicalResourceId": "MigrationRun",
    "PhysicalResourceId": "made-before",
    "StackId": "arn:aws:cloudformation:eu-central-1:111122223333:stack/jobs/1",
    "RequestId": "r1",
    "ResourceProperties": {"ServiceToken": "arn", "Code": "2"},
    "OldResourceProperties": {"ServiceToken": "arn", "Code": "1"},
}


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    """Yield an empty database, and drop the role `app` after the test."""
    administer(postgres, "create database migrating")
    yield postgres.database_url("migrating")
    postgres.start()
    administer(postgres, "drop database migrating with (force)")
    administer(postgres, "drop role if exists app")


@contextmanager
def connected(url: str) -> Iterator[Any]:
    with Database(url) as database:
        yield database.get()


def as_app(postgres: Postgres, url: str) -> str:
    administer(postgres, "alter role app password 'app'")
    return url.replace(url.split("//")[1].split("@", maxsplit=1)[0], "app:app")


# --- The schema and the user ---------------------------------------------------------------------------------------


def test_an_empty_database_gets_schema_and_types_and_a_repeat_changes_nothing(empty: str) -> None:
    assert migrate(empty) == migrate(empty) == Migrated(len(discover()), newest(), newer=False)
    with connected(empty) as connection:
        assert {row[0] for row in connection.run("select type from joblane.task_types")} == set(discover())


def test_the_granted_user_can_run_all_statements_of_the_library(
    empty: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        migrate(empty, user="app", by_iam=True)
    address = as_app(postgres, empty)
    monkeypatch.setenv("DATABASE_URL", address)
    with JobTester(address) as jobs:
        held = jobs.enqueue(sample_only, Sample(do="nothing"))
        jobs.drain()
        status = jobs.client.get(held.id)
        assert status is not None
        assert status.state == "completed"
        jobs.run(jobs_sweep, JobsSweep())


MAY = [
    ("insert into joblane.audit (who, action, target) values ('me', 'run', 'x') returning who", "me"),
    ("select who from joblane.audit", "me"),
    ("insert into joblane.later values (1) returning a", 1),
    ("select joblane.later()", 1),  # although public may call no function
    ("select has_schema_privilege('pg_toast', 'usage')", False),
]
MAY_NOT = [
    "create table public.mine (a integer)",
    "drop table joblane.tasks",
    "alter table joblane.tasks add column mine integer",
    "truncate joblane.tasks",
    "update joblane.alembic_version set version_num = 'x'",
    "update joblane.stage set prefix = 'x'",
    "insert into joblane.stage (prefix) values ('x')",
    "insert into joblane.deploys (version) values ('x')",
    "update joblane.audit set who = 'another'",
    "delete from joblane.audit",
    "truncate joblane.audit",
    "create role other",
]


def test_the_granted_user_may_write_rows_call_functions_and_change_no_schema(
    empty: str, postgres: Postgres, subtests: pytest.Subtests
) -> None:
    # given a database whose functions are not for everybody, and objects of a later migration
    with connected(empty) as owner:
        owner.run("alter default privileges revoke execute on functions from public")
        migrate(empty, user="app", by_iam=True)
        owner.run("create function joblane.later() returns integer return 1")
        owner.run("create table joblane.later (a integer)")
    # then
    with connected(as_app(postgres, empty)) as connection:
        for statement, answer in MAY:
            with subtests.test(statement):
                assert connection.run(statement) == [[answer]]
        assert finish(connection, [Finish("it", str(uuid4()), 1, "completed", State.COMPLETED)]) == set()
        for statement in MAY_NOT:
            with subtests.test(statement):
                with pytest.raises(DatabaseError) as caught:
                    connection.run(statement)
                assert sqlstate(caught.value) == FORBIDDEN


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("app", "user: the role 'app' does not exist; create it with the password in its secret"),
        ('app"; drop table joblane.tasks; --', "user: a lower-case name"),
    ],
)
def test_a_user_that_cannot_be_granted_rights_is_refused(empty: str, user: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        migrate(empty, user=user, by_iam=False)


def test_rights_that_were_revoked_by_hand_return_with_the_next_migration(empty: str, postgres: Postgres) -> None:
    migrate(empty, user="app", by_iam=True)
    with connected(empty) as owner:
        owner.execute_simple("revoke all on schema joblane from app; revoke all on joblane.tasks from app")
        migrate(empty, user="app", by_iam=True)
        assert differences(owner) == [], "the rights of a deploy are no difference"
    with connected(as_app(postgres, empty)) as connection:
        assert connection.run("select from joblane.tasks") == []


def test_migrations_take_turns_to_grant_the_rights(
    empty: str, postgres: Postgres, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    waits = f"select count(*) from pg_locks where locktype = 'advisory' and objid = {LOCK % 2**32} and not granted"
    migrate(empty)
    administer(postgres, "create role app login")
    with Database(empty) as database, connected(empty) as other, connected(empty) as observer:
        other.execute_simple("begin")
        other.run(TAKE_LOCK)
        with ThreadPoolExecutor() as threads:
            granting = threads.submit(_grant, database, "app", by_iam=False)
            wait_until(lambda: granting.done() or observer.run(waits) == [[1]])
            assert not granting.done()
            other.commit()
            granting.result()


def test_the_granted_user_can_use_all_tables_of_the_migrating_role_and_no_other(empty: str, postgres: Postgres) -> None:
    # given tables of the project in its schema and in `public`, and tables of another role
    with connected(empty) as owner:
        owner.execute_simple(
            "create role app login; create role another; create schema shop; create schema theirs authorization another"
            "; create table shop.orders (id bigserial); create table shop.alembic_version (version_num text)"
            "; create table public.customers (id bigserial); create table theirs.secrets (id integer)"
            "; alter table theirs.secrets owner to another"
        )
    try:
        # when
        for _ in range(2):
            migrate(empty, user="app")
        # then
        with connected(empty) as owner:
            owner.run("create table shop.later (id bigserial)")
        with connected(as_app(postgres, empty)) as connection:
            for table in ("shop.orders", "public.customers", "shop.later"):
                connection.run(f"insert into {table} default values")
                connection.run(f"delete from {table}")
            assert connection.run("select * from shop.alembic_version") == []
            for refused in (
                "insert into shop.alembic_version values ('1')",
                "truncate shop.orders",
                "select * from theirs.secrets",
                "create table shop.mine (a integer)",
            ):
                with pytest.raises(DatabaseError) as caught:
                    connection.run(refused)
                assert sqlstate(caught.value) == FORBIDDEN
    finally:
        with connected(empty) as owner:
            owner.execute_simple("drop owned by another cascade; drop role another")


def test_a_deploy_of_older_code_does_not_change_the_schema_of_newer_code(empty: str) -> None:
    migrate(empty)
    with connected(empty) as connection:
        connection.run("update joblane.alembic_version set version_num = '9999'")
        connection.run("delete from joblane.task_types")
    assert migrate(empty) == Migrated(len(discover()), "9999", newer=True)
    with connected(empty) as connection:
        assert connection.run("select version_num from joblane.alembic_version") == [["9999"]]
        assert connection.run("select count(*) from joblane.task_types") == [[len(discover())]]


def test_an_iam_user_joins_rds_iam_once_and_a_password_user_does_not(empty: str, postgres: Postgres) -> None:
    administer(postgres, "create role rds_iam")
    administer(postgres, "create role app login password 'app'")
    try:
        with connected(empty) as connection:
            for by_iam in (False, True, True):
                migrate(empty, user="app", by_iam=by_iam)
                assert connection.run("select pg_has_role('app', 'rds_iam', 'member')") == [[by_iam]]
    finally:
        administer(postgres, "drop role rds_iam")


def test_a_migration_waits_for_a_table_in_short_tries_that_block_no_statement(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    upgrade(empty)
    second_revision(tmp_path, monkeypatch)  # it changes a table that a handler has locked
    with connected(empty) as handler_, connected(empty) as reader, ThreadPoolExecutor(1) as threads:
        handler_.run("begin")
        handler_.run("select count(*) from joblane.pauses")
        migrating = threads.submit(migrate, empty)
        reader.run("set statement_timeout = '4s'")
        for _ in range(3):  # longer than one try of the migration
            time.sleep(1)
            reader.run("select count(*) from joblane.pauses")
        assert not migrating.done()
        handler_.run("rollback")
        assert migrating.result(timeout=PATIENCE_SECONDS).types == len(discover())


@pytest.mark.parametrize("step", ["upgrade", "_grant"])
def test_a_migration_says_that_it_waits_for_another_one(
    empty: str, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[[Callable[[], bool]], None], step: str
) -> None:
    real = getattr(migrate_module, step)
    with connected(empty) as other, lines() as logged, ThreadPoolExecutor(1) as threads:

        def after_the_other(*args: Any, **named: Any) -> Any:
            if other.idle and not logged.texts:
                other.execute_simple("begin")
                other.run(TAKE_LOCK)
            return real(*args, **named)

        monkeypatch.setattr(migrate_module, "PAUSE_SECONDS", 0.05)
        monkeypatch.setattr(migrate_module, step, after_the_other)
        migrating = threads.submit(migrate, empty, user="app", by_iam=True)
        try:
            wait_until(lambda: any("another migration runs; waiting" in text for text in logged.texts))
        finally:
            other.rollback()
        assert migrating.result(timeout=PATIENCE_SECONDS).types == len(discover())


def freeze_at(statement: str, proxy: FreezingProxy, hung: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze the proxy before the first statement that contains ``statement``, and set ``hung``."""

    def hanging(real: Callable[..., Any]) -> Callable[..., Any]:
        def execute(connection: Connection, sql: str, *rest: Any, **named: Any) -> Any:
            if statement in sql.lower() and not hung.is_set():
                proxy.freeze()
                hung.set()
            return real(connection, sql, *rest, **named)

        return execute

    for name in ("execute_simple", "execute_unnamed"):
        monkeypatch.setattr(Connection, name, hanging(getattr(Connection, name)))


QUICK = TimeLimits(connect=2, lock=1, statement=2, network=0.1)


@pytest.mark.parametrize(
    "statement",
    [
        "from pg_class",
        "pg_advisory_xact_lock",
        "insert into joblane.stage",
        "delete from joblane.task_types",
        "grant usage",
    ],
)
def test_a_migration_fails_if_the_server_hangs(empty: str, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    monkeypatch.setitem(Database.__init__.__kwdefaults__ or {}, "limits", QUICK)
    hung = threading.Event()
    with FreezingProxy.before(empty) as proxy, ThreadPoolExecutor(1) as threads:
        freeze_at(statement, proxy, hung, monkeypatch)
        migrating = threads.submit(migrate, proxy.url, user="app", by_iam=True)
        rescue = threading.Timer(15, proxy.thaw)
        rescue.start()
        with pytest.raises(TimeoutError, match=r"the server did not answer within 2\.1 s"):
            migrating.result()
        rescue.cancel()
    assert hung.is_set()


def test_a_change_of_the_schema_takes_as_long_as_it_needs(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty)
    second_revision(tmp_path, monkeypatch, statement="select pg_sleep(2.5)")
    monkeypatch.setitem(Database.__init__.__kwdefaults__ or {}, "limits", QUICK)
    assert migrate(empty).revision == "0002"


def test_a_first_statement_that_hangs_is_repeated(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Database.__init__.__kwdefaults__ or {}, "limits", QUICK)
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    hung = threading.Event()
    with FreezingProxy.before(empty) as proxy, ThreadPoolExecutor(1) as threads:
        freeze_at("search_path", proxy, hung, monkeypatch)
        migrating = threads.submit(migrate, proxy.url, patience=timedelta(seconds=PATIENCE_SECONDS))
        assert hung.wait(PATIENCE_SECONDS)
        time.sleep(3)  # longer than the statement may take
        proxy.thaw()
        assert migrating.result(timeout=PATIENCE_SECONDS).types == len(discover())


@pytest.mark.parametrize(
    "statement", ["create table joblane.tasks ", "create or replace function", "joblane.task_types"]
)
def test_the_next_migration_completes_one_that_hung_and_was_killed(
    empty: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    hung = threading.Event()
    with FreezingProxy.before(empty) as proxy, ThreadPoolExecutor(1) as threads:
        freeze_at(statement, proxy, hung, monkeypatch)
        migrating = threads.submit(migrate, proxy.url)
        assert hung.wait(PATIENCE_SECONDS)
        proxy.thaw()  # it closes the connection, as the end of the process does
        with pytest.raises((PostgresError, SQLAlchemyError, OSError)):
            migrating.result(timeout=PATIENCE_SECONDS)
    assert migrate(empty) == Migrated(types=len(discover()), revision=newest(), newer=False)
    with connected(empty) as connection:
        assert installed(connection)


def test_a_migration_waits_for_a_paused_database(
    empty: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    postgres.stop()
    waking = threading.Timer(0.5, postgres.start)
    waking.start()
    assert migrate(empty, patience=timedelta(seconds=30)).types == len(discover())
    waking.join()


def test_a_migration_fails_if_the_database_stays_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    with pytest.raises(OSError, match="refused"):
        migrate("postgresql://jobs@127.0.0.1:1/jobs", patience=timedelta(seconds=0.2))


# --- CloudFormation's side -----------------------------------------------------------------------------------------


@pytest.fixture
def answers() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the URL for responses to CloudFormation, and the responses that arrived."""
    came: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert not self.headers["Content-Type"]
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/answer?signature=x", came
        server.shutdown()
        serving.join()


Deploy = Callable[..., dict[str, Any]]


@pytest.fixture
def deploy(empty: str, answers: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Call the function as CloudFormation does, with these fields of its event. Return the response."""
    url, came = answers
    monkeypatch.setenv("DATABASE_URL", empty)

    def call(**event: Any) -> dict[str, Any]:
        handler({**EVENT, **event, "ResponseURL": url}, LambdaContext())
        return came[-1]

    return call


def test_a_deploy_migrates_and_gets_the_result(empty: str, deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_USER", "app")
    monkeypatch.setenv("DATABASE_USER_LOGIN", "iam")
    answer = deploy()
    assert answer.pop("Reason").endswith("(log stream stream)")
    assert answer.pop("PhysicalResourceId").startswith("migrated-")
    assert answer == {
        "Status": "SUCCESS",
        **{name: EVENT[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    with connected(empty) as connection:
        assert connection.run("select has_table_privilege('app', 'joblane.tasks', 'insert')") == [[True]]


def test_a_migration_that_fails_fails_the_deploy_with_its_reason(empty: str, deploy: Deploy) -> None:
    with connected(empty) as connection:
        connection.execute_simple("create schema joblane; create table joblane.tasks (id integer)")
        answer = deploy(RequestType="Create")
        assert answer["Status"] == "FAILED"
        assert "the database has a schema joblane without a revision. If its tables are Joblane's" in answer["Reason"]
        assert connection.run("select to_regclass('joblane.task_attempts')") == [[None]]


def test_a_rollback_registers_the_old_codes_types_again(empty: str, deploy: Deploy) -> None:
    # given a deploy that succeeded, and a later deploy of code that dropped a type
    old = EVENT["OldResourceProperties"]
    id_ = deploy(RequestType="Create", ResourceProperties=old)["PhysicalResourceId"]
    with connected(empty) as connection:
        connection.run("delete from joblane.task_types where type = 'jobs:sweep'")
        # when it is rolled back
        assert deploy(ResourceProperties=old, PhysicalResourceId=id_)["Status"] == "SUCCESS"
        # then
        assert connection.run("select count(*) from joblane.task_types where type = 'jobs:sweep'") == [[1]]


def test_a_deploy_that_is_taken_back_is_in_the_audit(empty: str, deploy: Deploy) -> None:
    # given two deploys
    old, new = ({"ServiceToken": "arn", "Code": version, "Version": version} for version in ("v1", "v2"))
    first = deploy(RequestType="Create", ResourceProperties=old)["PhysicalResourceId"]
    id_ = deploy(ResourceProperties=new, OldResourceProperties=old, PhysicalResourceId=first)["PhysicalResourceId"]
    # when the earlier template is deployed again because an alarm fired
    why = "shop-errors fired 5m after the deploy"
    taken_back = {**old, "By": "eva", "TakenBack": json.dumps({"from": "v2", "why": why})}
    deploy(ResourceProperties=taken_back, OldResourceProperties=new, PhysicalResourceId=id_)
    # then
    with connected(empty) as connection:
        found = connection.run("select who, action, target, reason, details from joblane.audit")
        assert found == [["eva", "take_back", "deploy:v2", why, {"from": "v2", "to": "v1"}]]
        latest = "select version, deployed_by from joblane.deploys order by number desc limit 1"
        assert connection.run(latest) == [["v1", "eva"]]
    # and a later deploy of the same code, without the reason, has nothing to migrate and writes nothing
    deploy(ResourceProperties=old, OldResourceProperties=taken_back, PhysicalResourceId=id_)
    with connected(empty) as connection:
        assert connection.run("select count(*) from joblane.audit") == [[1]]


PAUSED = [["queue", "critical"], ["queue", "default"], ["queue", "low"], ["type", "jobs:bulk"]]
PAUSES = "select scope, name from joblane.pauses order by 1, 2"
PLAIN, COPY_A, COPY_B = (
    {"ServiceToken": "arn", "Code": "1", **more} for more in ({}, {"Restored": "A"}, {"Restored": "B"})
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (PLAIN, COPY_A, "the stage uses the restored copy A"),
        (COPY_A, COPY_B, "the stage uses the restored copy B"),
        (COPY_A, PLAIN, "the stage has left the restored copy A"),
        (None, COPY_A, "the stage uses the restored copy A"),
        (COPY_A, COPY_A, None),
        (PLAIN, PLAIN, None),
        (None, PLAIN, None),
    ],
)
def test_a_deploy_that_moves_the_stage_to_another_copy_pauses_everything_there(
    empty: str, deploy: Deploy, old: dict[str, str] | None, new: dict[str, str], reason: str | None
) -> None:
    properties = {"ResourceProperties": {**new, "By": "ann"}}
    if old is None:
        deploy(RequestType="Create", **properties)
    else:
        deploy(OldResourceProperties=old, **properties)
    with connected(empty) as connection:
        assert connection.run(PAUSES) == (PAUSED if reason else [])
        for table, by in (("pauses", "paused_by"), ("audit", "who")):
            found = connection.run(f"select distinct reason, {by} from joblane.{table}")
            said = f"{reason}. Check what will run again, then resume each queue: docs/how-to/restore.md"
            assert found == ([[said, "ann"]] if reason else [])


def test_an_earlier_pause_in_the_copy_is_in_the_reason_so_that_no_resume_forgets_it(empty: str, deploy: Deploy) -> None:
    # given a copy of a time at which an operator had paused a queue, and a deploy that was repeated
    id_ = deploy(RequestType="Create", ResourceProperties=PLAIN)["PhysicalResourceId"]
    with connected(empty) as connection:
        pause = "insert into joblane.pauses (scope, name, reason, paused_by) values ('queue', $1, $2, $3)"
        connection.run(pause, "low", "the provider is down", "bob")
        connection.run(pause, "critical", None, None)
        # when
        for _ in range(2):
            deploy(ResourceProperties=COPY_A, OldResourceProperties=PLAIN, PhysicalResourceId=id_)
        # then
        found = dict(connection.run("select name, reason from joblane.pauses"))
    start = (
        "the stage uses the restored copy A. Check what will run again, then resume each queue: docs/how-to/restore.md"
    )
    assert found["default"] == start
    assert found["low"] == f"{start}. It was paused before, by bob: the provider is down"
    assert found["critical"] == f"{start}. It was paused before"


def test_the_reason_of_a_pause_does_not_grow_with_each_move_and_keeps_the_operators(empty: str) -> None:
    migrate(empty)
    before = "r" * 500
    with connected(empty) as connection:
        pause = "insert into joblane.pauses (scope, name, reason, paused_by) values ('queue', 'low', $1, 'bob')"
        connection.run(pause, before)
        # when
        for number in range(4):
            pause_everything(connection, f"the stage uses the restored copy {number}", "ann")
        # then
        found = dict(connection.run("select name, reason from joblane.pauses"))
    start = (
        "the stage uses the restored copy 3. Check what will run again, then resume each queue: docs/how-to/restore.md"
    )
    assert found["default"] == start
    assert found["low"] == f"{start}. It was paused before, by bob: {before}"


def test_a_resumed_copy_stays_resumed_in_later_deploys(empty: str, deploy: Deploy) -> None:
    # given a stage that was moved to a copy, and resumed
    id_ = deploy(ResourceProperties=COPY_A, OldResourceProperties=PLAIN)["PhysicalResourceId"]
    with connected(empty) as connection:
        connection.run("delete from joblane.pauses")
        # when new code is deployed, and rolled back
        newer = {**COPY_A, "Code": "2"}
        deploy(ResourceProperties=newer, OldResourceProperties=COPY_A, PhysicalResourceId=id_)
        deploy(ResourceProperties=COPY_A, OldResourceProperties=newer, PhysicalResourceId=id_)
        # then
        assert connection.run("select from joblane.pauses") == []


def test_a_return_with_properties_of_before_pauses_although_it_looks_like_a_rollback(
    empty: str, deploy: Deploy
) -> None:
    # given a stage with a database of its own, that was moved to a copy; and the copy was resumed
    id_ = deploy(RequestType="Create", ResourceProperties=PLAIN)["PhysicalResourceId"]
    moved = deploy(ResourceProperties=COPY_A, OldResourceProperties=PLAIN, PhysicalResourceId=id_)
    with connected(empty) as connection:
        connection.run("delete from joblane.pauses")
        # when the setting is removed again, by the same code
        left = {"OldResourceProperties": COPY_A, "PhysicalResourceId": moved["PhysicalResourceId"]}
        answer = deploy(ResourceProperties=PLAIN, **left)
        # then
        assert "by an earlier deploy; every queue is paused" in answer["Reason"]
        assert connection.run(PAUSES) == PAUSED


@pytest.fixture
def moved(empty: str, deploy: Deploy) -> dict[str, Any]:
    """A stage that was moved to a copy, which was resumed. Return fields of the event of a return."""
    id_ = deploy(RequestType="Create", ResourceProperties=PLAIN)["PhysicalResourceId"]
    moved = deploy(ResourceProperties=COPY_A, OldResourceProperties=PLAIN, PhysicalResourceId=id_)
    with connected(empty) as connection:
        connection.run("delete from joblane.pauses")
    return {"OldResourceProperties": COPY_A, "PhysicalResourceId": moved["PhysicalResourceId"]}


WANTED = {**PLAIN, "Move": "2026-12-01T09:30:00+00:00"}


@pytest.mark.parametrize("new", [PLAIN, WANTED], ids=["rollback", "wanted"])
def test_a_return_waits_for_a_session_that_has_locked_the_pauses(
    empty: str, deploy: Deploy, moved: dict[str, Any], new: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Database.__init__.__kwdefaults__ or {}, "limits", QUICK)
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    with connected(empty) as other:
        other.execute_simple("begin; lock table joblane.pauses in row exclusive mode")
        release = threading.Timer(2.5, other.commit)
        release.start()
        answer = deploy(ResourceProperties=new, **moved)
        release.join()
        assert answer["Status"] == "SUCCESS", answer
        assert other.run(PAUSES) == PAUSED


def test_a_rollback_pauses_a_database_that_cannot_be_migrated(
    empty: str, deploy: Deploy, moved: dict[str, Any]
) -> None:
    with connected(empty) as connection:
        connection.execute_simple("alter table joblane.tasks drop column tenant cascade")
        assert deploy(ResourceProperties=PLAIN, **moved)["Status"] == "SUCCESS"
        assert connection.run(PAUSES) == PAUSED


def test_a_return_that_a_person_wants_fails_if_the_database_cannot_be_migrated(
    empty: str, deploy: Deploy, moved: dict[str, Any]
) -> None:
    with connected(empty) as connection:
        connection.execute_simple("alter table joblane.tasks drop column tenant cascade")
    assert deploy(ResourceProperties=WANTED, **moved)["Status"] == "FAILED"


def test_a_rollback_to_a_database_that_answers_and_cannot_be_paused_fails(
    empty: str, deploy: Deploy, moved: dict[str, Any]
) -> None:
    with connected(empty) as connection:
        connection.execute_simple("drop table joblane.pauses cascade")
    answer = deploy(ResourceProperties=PLAIN, **moved)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", moved["PhysicalResourceId"])
    assert answer["Reason"].startswith("the queues cannot be paused: ")


def test_a_move_whose_migration_failed_pauses_nothing_in_the_database_that_stays(
    empty: str, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a move to a copy that does not answer
    id_ = deploy(RequestType="Create", ResourceProperties=PLAIN)["PhysicalResourceId"]
    with monkeypatch.context() as patch:
        patch.setattr("joblane.functions.migrate.handler.PATIENCE", timedelta(0))
        patch.setenv("DATABASE_URL", "postgresql://jobs@127.0.0.1:1/jobs")
        answer = deploy(ResourceProperties=COPY_A, OldResourceProperties=PLAIN, PhysicalResourceId=id_)
    assert answer["Status"] == "FAILED"
    # when CloudFormation rolls back
    left = {"OldResourceProperties": COPY_A, "PhysicalResourceId": answer["PhysicalResourceId"]}
    assert deploy(ResourceProperties=PLAIN, **left)["Status"] == "SUCCESS"
    # then
    with connected(empty) as connection:
        assert connection.run("select reason from joblane.pauses") == []


def test_a_deploy_and_its_rollback_are_recorded_with_version_and_person(
    empty: str, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploys, "KEPT", 3)
    id_, needless = "made-before", []
    # when: the same version again, another person, and a return to the version before
    for version, by in [("1a", "ann"), ("1a", "ann"), ("2b", ""), ("2b", "bob"), ("1a", "ann"), ("3c", "")]:
        properties = {"ServiceToken": "arn", "Code": version[:2], "Version": version, "By": by}
        answer = deploy(PhysicalResourceId=id_, ResourceProperties=properties)
        id_ = answer["PhysicalResourceId"]
        needless.append("by an earlier deploy" in answer["Reason"])
    # then
    assert needless == [False, True, False, True, True, False]
    with connected(empty) as connection:
        rows = connection.run("select version, deployed_by from joblane.deploys order by number")
        assert rows == [["2b", None], ["1a", "ann"], ["3c", None]], "the latest are kept"
        [latest, *_] = deploys.deploys(connection, datetime.now(UTC) - timedelta(hours=1), 2)
        assert (latest.version, latest.by) == ("3c", None)


def test_a_deploy_that_removes_the_last_limit_wakes_the_sweep(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes: list[str] = []
    monkeypatch.setenv("DATABASE_URL", empty)
    monkeypatch.setattr("joblane.record.task_types.declared_limits", lambda _: [])
    monkeypatch.setattr("joblane.enqueue.wake.wake_after_commit", lambda _, prefix: prefixes.append(prefix))
    handler({}, LambdaContext())
    assert prefixes == ["jobs"]


def test_a_schema_that_was_changed_by_hand_fails_the_deploy_with_the_statement(empty: str, deploy: Deploy) -> None:
    migrate(empty)
    with connected(empty) as connection:
        connection.run("drop index joblane.tasks_unique")
    answer = deploy()
    assert answer["Status"] == "FAILED"
    assert "run `CREATE UNIQUE INDEX CONCURRENTLY tasks_unique ON joblane.tasks" in answer["Reason"]


def test_a_manual_invocation_migrates_and_returns_the_number_of_types(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty)
    migrated = {"types": len(discover()), "revision": newest(), "newer": False, "differences": ()}
    assert handler({}, LambdaContext()) == migrated
