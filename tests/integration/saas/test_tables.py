"""The tables of the code are those of the migrations."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from joblane.record.driver.database import Database
from saas.tables import SCHEMA, metadata
from tests.integration.saas.conftest import Platform


def test_code_and_migrations_agree(database_url: str) -> None:
    def is_own(item: Any, name: str | None, kind: str, *_: object) -> bool:
        return bool((item if kind == "table" else item.table).schema == SCHEMA) and name != "alembic_version"

    database = Database(database_url)
    with database.engine.connect() as connection:
        options = {
            "include_object": is_own,
            "compare_server_default": True,
            "compare_type": True,
            "include_schemas": True,
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    database.drop()


def test_removing_a_tenant_removes_its_rows(platform: Platform) -> None:
    tenant, other = platform.tenant(), platform.tenant("Other", "other")
    for owner in (tenant, other):
        role = platform.role(owner)
        platform.member(owner, role)
        platform.invitation(owner, role)
    platform.world.run("delete from saas.tenants where id = $1", tenant)
    for table in ("roles", "tenant_members", "user_invitations"):
        assert platform.value(f"select count(*) from saas.{table}") == 1
