"""A PostgreSQL server that may be killed at any time. Its commits are in the write-ahead log, which survives a kill."""

from __future__ import annotations

from pathlib import Path

from joblane.local.postgres import Postgres
from joblane.record.migrations import upgrade
from tests.conftest import administer

SETTINGS = {"fsync": "off", "autovacuum_naptime": "10s", "track_commit_timestamp": "on"}
"""Settings without fsync. A power failure loses commits, but a kill does not: they are written before the answer."""


def own_server(folder: Path) -> Postgres:
    return Postgres(folder / "postgres", durable=True, settings=SETTINGS)


def database(server: Postgres, name: str) -> str:
    administer(server, f"create database {name}")
    upgrade(server.database_url(name))
    return name
