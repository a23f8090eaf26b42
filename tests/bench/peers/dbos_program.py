"""DBOS: workflows recorded in PostgreSQL. Those on a queue are run by threads of worker processes.

A datasource records the end of a transaction in the transaction itself, so that a recovered workflow skips it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, SQLAlchemyDatasource
from sqlalchemy.orm import Session

from tests.bench.peers import kills, program

QUEUE = "bench"
POLLING_SECONDS = 0.05


def url() -> str:
    """Return the database's address with the driver that DBOS uses."""
    return os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")


def serve(concurrency: int) -> None:
    """Run workflows of the queue until the process is stopped."""
    config: DBOSConfig = {
        "name": QUEUE,
        "application_version": "1",
        "executor_id": os.environ.get("BENCH_WORKER", "0"),
        "system_database_url": url(),
        "run_admin_server": False,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    database = SQLAlchemyDatasource.create(url())
    fates: dict[int, kills.Fate] = {}
    """Those of the workflows that run. An argument of a step would be recorded."""

    @database.transaction()  # type: ignore[untyped-decorator]
    def write(number: int) -> None:
        insert = sqlalchemy.text("insert into effects (number) values (:number)")
        database.sql_session().execute(insert, {"number": number})
        fates[number].before_commit()

    @DBOS.workflow(name="noop")  # type: ignore[untyped-decorator]
    def noop(number: int) -> None:
        program.ran()

    @DBOS.workflow(name="effect")  # type: ignore[untyped-decorator]
    def effect(number: int) -> None:
        fate = fates[number] = kills.Fate(number)
        fate.before_write()
        write(number)
        del fates[number]
        fate.after_return()

    @DBOS.workflow(name="long")  # type: ignore[untyped-decorator]
    def long(number: int) -> None:
        fates[number] = kills.Fate(number)
        time.sleep(kills.long_seconds())
        write(number)

    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=concurrency, polling_interval_sec=POLLING_SECONDS)
    threading.Event().wait()


def describe() -> dict[str, Any]:
    return {
        "packages": ("dbos",),
        "record": True,
        "settings": {
            "worker processes with a main program of their own, producers with DBOSClient": "Queue Worker",
            f"worker_concurrency; polling_interval_sec {POLLING_SECONDS}, since a slot begins one job each interval, "
            "by default 1 s": "Queues & Concurrency",
            "an executor_id for each process, which recovers its own workflows when it starts": "Workflow Recovery",
            "SQLAlchemyDatasource.transaction for effects": "Transactions & Datasources",
        },
        "notes": {
            "many": "`enqueue` for each job: there is no bulk call",
            "transaction": "`enqueue_in_transaction`",
            "effect": "a transaction step of a datasource, which records its end in the same transaction",
        },
        "unfinished": "select count(*) from dbos.workflow_status where status in ('ENQUEUED', 'PENDING', 'DELAYED')",
    }


def install() -> None:
    DBOS.migrate(url())


def worker(concurrency: int) -> list[str]:
    return [sys.executable, "-m", "tests.bench.peers.dbos_program", "serve", str(concurrency)]


class Producer:
    def open(self) -> None:
        self._client, self._engine = DBOSClient(system_database_url=url()), sqlalchemy.create_engine(url())
        self._insert = sqlalchemy.text("insert into orders (number) values (:number)")

    def close(self) -> None:
        self._client.destroy()
        self._engine.dispose()

    def one(self, name: str, number: int, _count: int = 1) -> None:
        self._client.enqueue(_options(name), number)

    def many(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.one(name, number)

    def transaction(self, name: str, number: int, _count: int) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(self._insert, {"number": number})
            self._client.enqueue_in_transaction(session, _options(name), number)

    def rows(self, _job: str, number: int, _count: int) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(self._insert, {"number": number})


def _options(name: str) -> EnqueueOptions:
    return {"queue_name": QUEUE, "workflow_name": name}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        program.main("tests.bench.peers.dbos_program")
