"""Databases for tests. A database in which a test has only written rows, or created tables of its own, is emptied and
given to the next test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pg8000.exceptions import Error as PostgresError

from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.testing.databases import Databases
from tests.patience import PATIENCE_SECONDS, PATIENT

FIRST_OID = 16384
"""The first number of an object that PostgreSQL did not bring. Source: PostgreSQL, ``transam.h``."""
CATALOGS = {
    "pg_attrdef": "oid", "pg_attribute": "attrelid", "pg_class": "oid", "pg_constraint": "oid", "pg_depend": "objid",
    "pg_description": "objoid", "pg_index": "indrelid", "pg_proc": "oid", "pg_rewrite": "oid",
    "pg_statistic": "starelid", "pg_trigger": "oid", "pg_type": "oid",
}  # fmt: skip
"""Catalogs, with the column that numbers the object."""
SMALL_CATALOGS = ("pg_default_acl", "pg_event_trigger", "pg_extension", "pg_namespace", "pg_policy")
VERSION = "(count(*), max(xmin::text::bigint))::text"
SCHEMA = f"""
select {", ".join(f"(select {VERSION} from {name} where {oid} >= {FIRST_OID})" for name, oid in CATALOGS.items())},
       {", ".join(f"(select {VERSION} from {name})" for name in SMALL_CATALOGS)},
       (select (sum(relpages), sum(reltuples))::text from pg_class where oid >= {FIRST_OID}),
       (select count(*) from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
         where datname = current_database())
"""
"""Changes with each definition, right, comment, statistic and setting of the database, and with no row of a table."""
WRITTEN = f"""
select oid::regclass::text from pg_class where oid >= {FIRST_OID} and relkind = 'r' and pg_relation_size(oid) > 0
"""
TABLES = "select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
END_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid()
"""
RESTART_SEQUENCES = "select setval(seqrelid, seqstart, false) from pg_sequence"


class ReusedDatabases:
    """Clones of a template. A clone with another schema, or without its connection, is dropped."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._free: list[Clone] = []

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield the URL of a migrated, empty database."""
        clone = self._free.pop() if self._free else Clone(self._databases)
        try:
            yield clone.url
        finally:
            if clone.emptied():
                self._free.append(clone)
            else:
                clone.drop()

    def drop(self) -> None:
        while self._free:
            self._free.pop().drop()


class Clone:
    """A clone, with a connection that empties it.

    Emptied tables are new files, so that rows are read in the order in which a test has inserted them.
    """

    def __init__(self, databases: Databases) -> None:
        self._cleanup = ExitStack()
        self.url = self._cleanup.enter_context(databases.clone())
        self._database = self._cleanup.enter_context(Database(self.url, limits=PATIENT))
        self._filled = self._written()
        self._tables = {str(table) for (table,) in self._run(TABLES)}
        self._schema, self._rows = self._run(SCHEMA), self._rows_of_migrations()

    def emptied(self) -> bool:
        """End all other sessions and remove the rows of the test. False: the database cannot be used again."""
        try:
            self._end_sessions()
            if own := {str(table) for (table,) in self._run(TABLES)} - self._tables:
                self._run(f"drop table {', '.join(sorted(own))} cascade")
            if self._run(SCHEMA) != self._schema or self._rows_of_migrations() != self._rows:
                return False
            if written := self._written() - self._filled:
                self._run(f"truncate {', '.join(sorted(written))}")
                self._schema = self._run(SCHEMA)
            self._run(RESTART_SEQUENCES)
        except (PostgresError, OSError):  # the test has ended the connection or the server, or dropped a table
            return False
        return True

    def drop(self) -> None:
        self._cleanup.close()

    def _end_sessions(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while self._run(END_SESSIONS):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.001)

    def _written(self) -> set[str]:
        """Return the tables that have rows, or had."""
        return {str(table) for (table,) in self._run(WRITTEN)}

    def _rows_of_migrations(self) -> list[object]:
        sums = (f"(select md5(string_agg(t::text, ',' order by t::text)) from {table} t)" for table in self._filled)
        return self._run(f"select {', '.join(sums)}")[0]

    def _run(self, sql: str) -> list[list[object]]:
        return self._database.call(Connection.run, sql)


def administer(url: str, statement: str) -> None:
    """Run a statement that PostgreSQL refuses in a transaction, such as `create database`."""
    with Database(url, limits=None) as database:
        database.get().run(statement)
