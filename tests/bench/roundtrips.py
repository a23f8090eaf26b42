"""Statements and round trips to PostgreSQL per task, counted by a proxy that reads the protocol.

Source of the message types: PostgreSQL, *Message Formats*. A round trip ends with Query or Sync; Query and Execute run
a statement.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import text

from joblane import Payload, TaskContext, task
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs
from joblane.worker.worker import Worker
from tests.bench.quiet import silent
from tests.bench.report import Ratio
from tests.builders.events import invoke, record
from tests.freezing import FreezingProxy

TASKS = 200


class Write(Payload):
    write: bool = False


@task("bench:write", timeout=timedelta(seconds=10), batch_size=10)
def bench_write(payload: Write, ctx: TaskContext) -> None:
    if payload.write:
        ctx.session.execute(text("insert into bench_effects values (:id)"), {"id": ctx.task_id})


class CountingProxy(FreezingProxy):
    """A proxy that counts the messages of clients."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.counts: Counter[str] = Counter()

    @property
    def round_trips(self) -> int:
        return self.counts["Q"] + self.counts["S"]

    @property
    def statements(self) -> int:
        return self.counts["Q"] + self.counts["E"]

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        buffer, started = b"", False
        with suppress(OSError):
            while data := client.recv(65536):
                buffer += data
                while True:
                    header = 1 if started else 0  # the first message has no type
                    if len(buffer) < header + 4:
                        break
                    length = header + int.from_bytes(buffer[header : header + 4])
                    if len(buffer) < length:
                        break
                    if started:
                        self.counts[chr(buffer[0])] += 1
                    started, buffer = True, buffer[length:]
                server.sendall(data)  # counted before the server can answer


def run(url: str) -> list[Ratio]:
    proxy = CountingProxy(url)
    database = Database(proxy.url)
    database.get().run("create table if not exists bench_effects (id text)")
    worker = Worker(bench_write, database, Sqs(), "jobs")
    found = []
    for write, batch, bound in ((False, 1, 2.0), (False, 10, 0.2), (True, 1, 4.0)):
        _deliver(worker, batch, batch, write=write)  # a connection prepares its statements once
        proxy.counts.clear()
        _deliver(worker, TASKS, batch, write=write)
        trips, statements = proxy.round_trips / TASKS, proxy.statements / TASKS
        kind = "a task that writes one row" if write else "a no-op task"
        found.append(
            Ratio(
                f"round trips of {kind}",
                f"batch {batch}, {TASKS} tasks, counted on the wire; {statements:g} statements a task",
                f"{trips:g}",
                "1 a task",
                trips,
                bound,
                at_most=True,
            )
        )
    database.drop()
    return found


def _deliver(worker: Worker, count: int, batch: int, *, write: bool) -> None:
    records = [
        record(
            {"type": "bench:write", "id": f"{write}-{batch}-{count}-{n}", "payload": {"write": write}},
            "jobs-default-bench-write",
        )
        for n in range(count)
    ]
    with silent():
        for start in range(0, count, batch):
            assert invoke(worker.handle, *records[start : start + batch]) == []
