"""A PostgreSQL that may be killed at any moment: what it has committed is in the log, which a killed server keeps."""

from __future__ import annotations

from pathlib import Path

from joblane.local.postgres import Postgres
from joblane.record.migrations import upgrade
from tests.conftest import administer

SETTINGS = {"fsync": "off", "autovacuum_naptime": "10s"}
"""Without fsync a power cut would lose commits, and a kill does not: they are written before they are answered."""


def own_server(folder: Path) -> Postgres:
    return Postgres(folder / "postgres", durable=True, settings=SETTINGS)


def database(server: Postgres, name: str) -> str:
    administer(server, f"create database {name}")
    upgrade(server.database_url(name))
    return name
