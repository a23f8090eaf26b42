"""The SQL of the documentation runs on a migrated PostgreSQL, and has the results that the pages describe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import text

from functions.tenant_initialize.handler import tenant_initialize
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.migrations.catalogue import differences
from joblane.record.task_types import register
from joblane.tasks.discovery import discover
from joblane.testing import JobTester
from tests.integration.testing.samples import TABLE, Order, order_ship
from tests.pages import ROOT, Block, blocks

DOCS = ROOT / "docs"
DATABASE, OPERATING, MOVING = (
    DOCS / "how-to" / "existing-database.md",
    DOCS / "how-to" / "operate.md",
    DOCS / "moving" / "redis-queues.md",
)
ELSEWHERE = DOCS / "how-to" / "produce-without-the-client.md"
"""The page whose SQL runs together with its Python, in ``tests/integration/test_docs_produce.py``."""
ROLES = {"joblane_app": "create role joblane_app", "rds_iam": "create role rds_iam"}
"""Roles that a block needs. The previous block creates the first role, and RDS has the second."""

Row = dict[str, Any]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with Database(database_url) as database:
        yield database.get()


def statement_with(words: str) -> str:
    """Return the only block of the operators' page with these words, for a task of the tests."""
    [found] = [block.text for block in blocks("sql", OPERATING) if words in block.text]
    return found.replace("data:export", order_ship.type)


def on(connection: Connection, block: Block) -> str:
    """Return the text of the block with the name of this database."""
    [[name]] = connection.run("select current_database()::text")
    return block.text.replace("database app", f"database {name}")


def grant(connection: Connection, script: str) -> None:
    for role, statement in ROLES.items():
        if role in script and statement not in script:
            connection.execute_simple(statement)


@pytest.mark.parametrize("block", [block for block in blocks("sql") if block.page != ELSEWHERE], ids=str)
def test_a_block_runs(block: Block, connection: Connection) -> None:
    assert block.mark == ""
    register(connection, discover())
    connection.execute_simple("begin")  # roles belong to the server, so they are rolled back
    grant(connection, block.text)
    connection.execute_simple(on(connection, block))
    connection.rollback()


# --- An existing database ------------------------------------------------------------------------------------------


def test_the_user_of_the_functions_may_read_and_write_but_change_no_table(connection: Connection) -> None:
    register(connection, discover())
    connection.execute_simple("begin; create role rds_iam")
    for block in blocks("sql", DATABASE):
        connection.execute_simple(on(connection, block))
    connection.execute_simple("create table public.made_later (id bigserial primary key); set local role joblane_app")
    connection.execute_simple("insert into public.made_later default values")
    connection.execute_simple("insert into joblane.pauses (scope, name) values ('type', 'data:export')")
    [[created]] = connection.run("select created from joblane.enqueue('jobs:sweep', '{}')")
    assert created is True
    connection.run("update joblane.stage set planned_sweep_at = now()")
    assert differences(connection) == [], "the rights are those of a deploy"
    with pytest.raises(DatabaseError, match="must be owner of table tasks"):
        connection.execute_simple("drop table joblane.tasks")
    connection.rollback()


# --- Moving --------------------------------------------------------------------------------------------------------


def test_the_transaction_of_a_producer_inserts_a_tenant_and_its_job(jobs: JobTester) -> None:
    jobs.register(tenant_initialize)
    [block] = blocks("sql", MOVING)
    execute(jobs, block.text)
    with jobs.session() as session:
        tenant = session.scalar(text("select id from saas.tenants where slug = 'acme'"))
    jobs.assert_enqueued(tenant_initialize, tenant_id=tenant, count=1)


# --- Operating -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(jobs: JobTester) -> JobTester:
    with jobs.session() as session:
        session.execute(text(TABLE))
    jobs.register(order_ship)
    return jobs


def execute(jobs: JobTester, script: str) -> None:
    with Database(jobs.url) as database:
        database.get().execute_simple(script)


def query(jobs: JobTester, statement: str) -> list[Row]:
    with jobs.session() as session:
        return [dict(row) for row in session.execute(text(statement.replace(":", r"\:"))).mappings()]


def enqueue(jobs: JobTester) -> None:
    jobs.enqueue(order_ship, Order(number=1), task_id="TASK-ID")


def test_a_type_is_paused_and_resumed(shop: JobTester) -> None:
    execute(shop, statement_with("insert into joblane.pauses"))
    enqueue(shop)
    assert shop.drain(within=timedelta(minutes=20)).of(order_ship) == []  # it waits
    execute(shop, statement_with("delete from joblane.pauses"))
    assert shop.drain(within=timedelta(minutes=20)).of(order_ship)[0].state == "completed"
