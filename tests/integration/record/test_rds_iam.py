"""The login of the migrating role on a server with RDS's rule: a member of rds_iam cannot log in by a password.

RDS reads the rule from ``pg_hba.conf``, and so does this server. In place of a token, the database ``by_token`` accepts
members without a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from joblane.record import migrate as module
from joblane.record.driver.database import Database
from joblane.record.driver.login import LoginError
from joblane.record.migrate import migrate
from joblane.testing.server_for_tests import server_for_tests
from tests.databases import administer as run
from tests.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joblane.local.postgres import Postgres

RULES = """
host by_token +rds_iam 127.0.0.1/32 trust
host all +rds_iam 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
GRANT_OF_RDS = "perform grant_rds_iam('app');"
"""RDS lets its master user grant rds_iam without being a member, which PostgreSQL has no right for."""
PAGE = ROOT / "docs" / "how-to" / "existing-database.md"
CHECK = "if may_lock_out and"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with server_for_tests() as server:
        (server.data / "pg_hba.conf").write_text(RULES, encoding="ascii")
        run(server.url, "select pg_reload_conf()")
        run(server.url, "create role rds_iam")
        yield server


@pytest.fixture
def owner(server: Postgres) -> Iterator[str]:
    """The address of an empty database, as its owner, who may create roles and is no superuser."""
    run(server.url, "create role migrator login createrole password 'x'")
    run(server.url, "create database app owner migrator")
    run(
        server.database_url("app"),
        "create function grant_rds_iam(name text) returns void security definer language plpgsql as"
        " $$ begin execute format('grant rds_iam to %I', name); end $$",
    )
    yield _login(server, "migrator:x", "app")
    _drop(server, "app", "app", "migrator")


@pytest.fixture
def on_rds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The migration's statement as a server executes it on which the master user may grant rds_iam."""
    statement = module.CREATE_USER.replace("grant rds_iam to {user};", GRANT_OF_RDS)
    assert statement != module.CREATE_USER
    monkeypatch.setattr(module, "CREATE_USER", statement)


def _login(server: Postgres, login: str, database: str) -> str:
    url = server.database_url(database)
    return url.replace(url.split("//")[1].split("@", maxsplit=1)[0], login)


def _roles(server: Postgres) -> set[str]:
    with Database(server.url) as database:
        return {name for (name,) in database.get().run("select rolname::text from pg_roles")}


@pytest.mark.usefixtures("on_rds")
def test_without_the_check_the_second_migration_cannot_log_in(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The danger is real: this is what the check prevents."""
    monkeypatch.setattr(module, "CREATE_USER", module.CREATE_USER.replace(CHECK, "if false and"))
    migrate(owner, user="app", by_iam=True)
    with pytest.raises(LoginError, match=r"refuses the login: .*28000.*from a direct or indirect member of rds_iam"):
        migrate(owner, user="app", by_iam=True)


@pytest.mark.usefixtures("on_rds")
def test_a_migration_that_would_lock_itself_out_fails_and_can_log_in_again(server: Postgres, owner: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="user: the migration cannot create the role 'app'") as caught:
            migrate(owner, user="app", by_iam=True)
        assert "migrator would become a member of rds_iam through it" in str(caught.value)
        assert "Let an administrator run: create role app login; grant rds_iam to app; or let" in str(caught.value)
    assert "app" not in _roles(server)


def test_a_role_that_may_not_grant_rds_iam_fails_with_the_statements_to_run(server: Postgres, owner: str) -> None:
    with pytest.raises(ValueError, match=r"permission denied to grant role .*Let an administrator run: create role"):
        migrate(owner, user="app", by_iam=True)
    assert "app" not in _roles(server)


@pytest.mark.usefixtures("on_rds")
def test_a_login_by_iam_may_become_a_member(server: Postgres, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses no password."""
    monkeypatch.setattr(Database, "by_iam", True)
    migrate(owner, user="app", by_iam=True)
    assert "app" in _roles(server)


def test_a_member_that_migrates_creates_the_user_and_migrates_again(server: Postgres) -> None:
    """As the master user of a cluster that logs in by IAM."""
    run(server.url, "create role master login createrole")
    run(server.url, "grant rds_iam to master with admin option")
    run(server.url, "create database by_token owner master")
    try:
        for _ in range(2):
            migrate(_login(server, "master", "by_token"), user="app", by_iam=True)
    finally:
        _drop(server, "by_token", "app", "master")


# --- The recipe of the page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("login", "database"), [("joblane_owner", "by_token"), ("migrator:x", "by_password")])
def test_the_documented_roles_migrate_twice(server: Postgres, login: str, database: str) -> None:
    # given the roles that an administrator creates, or an owner with a password in place of the page's owner
    role = login.partition(":")[0]
    run(server.url, f"create database {database}")
    if role != "joblane_owner":
        run(server.url, f"create role {role} login password 'x'")
        run(server.url, f"grant create on database {database} to {role}")
    for block in blocks("sql", PAGE)[:2]:
        with Database(server.url) as administrator:
            administrator.get().execute_simple(block.text.replace("database app", f"database {database}"))
    try:
        # when
        for _ in range(2):
            migrate(_login(server, login, database), user="joblane_app", by_iam=True)
        # then the functions log in by token only
        with pytest.raises(LoginError):
            Database(_login(server, "joblane_app:x", "postgres")).get()
        with Database(_login(server, login, database)) as connected:
            query = "select has_table_privilege('joblane_app', 'joblane.tasks', 'insert')"
            assert connected.get().run(query) == [[True]]
    finally:
        _drop(server, database, "joblane_app", "joblane_owner", "migrator")


def _drop(server: Postgres, database: str, *roles: str) -> None:
    run(server.url, f"drop database {database} with (force)")
    for role in roles:
        run(server.url, f"drop role if exists {role}")
