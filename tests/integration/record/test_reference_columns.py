"""Every column of a migrated database is in the reference, with its type and its comment."""

from __future__ import annotations

from joblane.record.driver.database import Database
from tests.pages import table
from tests.reference import page

CATALOGUE = """
select c.relname, a.attname, format_type(a.atttypid, null), a.attnotnull, col_description(c.oid, a.attnum),
       obj_description(c.oid)
  from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'joblane'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
   and c.relname <> 'alembic_version'
 order by c.relname, a.attnum
"""
WRITTEN = {"timestamp with time zone": "timestamptz"}


def test_the_reference_has_the_columns_of_the_database(database_url: str) -> None:
    # given
    with Database(database_url) as database:
        rows = database.get().run(CATALOGUE)
    # when
    found: dict[str, list[list[str]]] = {}
    for name, column, kind, is_not_null, comment, of_table in rows:
        assert comment, f"{name}.{column} has no comment"
        assert of_table, f"{name} has no comment"
        shown = str(WRITTEN.get(kind, kind)) + ("" if is_not_null else " null")
        found.setdefault(name, []).append([f"`{column}`", f"`{shown}`", comment])
    # then
    assert found == {name: table(page("tables"), f"`joblane.{name}`") for name in found}
    assert set(found) == {
        line.strip("#` ").removeprefix("joblane.")
        for line in page("tables").read_text().splitlines()
        if line.startswith("### `joblane.")
    }
