"""The path of a delivery through the code: the files that a reader opens, the calls, and the moves from file to file.

``sys.setprofile`` counts them during ``Worker.handle`` on a warm worker, for a task with an existing row. Calls of
functions of the library and of the handler count. A move is a call of a function in another file, or a return from one.
What the connection and other packages (SQLAlchemy, boto3) call does not count, and SQS is a fake. The message is read
before. Until Python 3.11 a comprehension is a call too. `python -m tests.bench.moves` prints the paths.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from sqlalchemy import text

import joblane
from joblane import Payload, SkipRetry, TaskContext, task
from joblane.client.client import client_within
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.migrations import upgrade
from joblane.sqs.client import Entry, Sqs
from joblane.worker.worker import Worker
from tests.bench.quiet import silent
from tests.bench.report import Ratio, within
from tests.builders.events import deliveries, invocation, record

LIBRARY = Path(joblane.__file__).parent
HANDLER = Path(__file__)
DRIVER = "the driver"
PREFIX, LANE = "jobs", "jobs-default-bench-end"


class Ending(Payload):
    end: str


@task("bench:end", timeout=timedelta(seconds=10), batch_size=10, retry_delay=timedelta(seconds=30))
def bench_end(payload: Ending, ctx: TaskContext) -> None:
    if payload.end == "written":
        ctx.session.execute(text("insert into bench_effects values (:id)"), {"id": ctx.task_id})
    if payload.end == "retried":
        raise ValueError("the service does not answer")
    if payload.end == "archived":
        raise SkipRetry("the account is closed")


BOUNDS = {"completed": (12, 38), "written": (13, 80), "archived": (21, 78), "retried": (17, 58)}
"""The end of a delivery → the maximum numbers of files and of moves. ``written``: the handler has written a row, and is
completed."""


@dataclass
class Trace:
    """The calls of a delivery, and the number of its moves. A call: its file, as a path in the library, and its
    function."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    moves: int = 0
    _open: list[str] = field(default_factory=list)
    """The files of the functions that have not returned; :data:`DRIVER` for a method of the connection, and for what it
    calls."""

    @property
    def files(self) -> int:
        return len({file for file, _ in self.calls})

    def __call__(self, frame: FrameType, kind: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if kind not in ("call", "return") or not (path == HANDLER or path.is_relative_to(LIBRARY)):
            return
        if kind == "call":
            self._call(path, frame.f_code.co_qualname)
        else:
            self._note(self._open.pop())

    def _call(self, path: Path, function: str) -> None:
        file = "the handler" if path == HANDLER else str(path.relative_to(LIBRARY))
        if function.startswith("Connection.") or DRIVER in self._open:
            file = DRIVER
        else:
            self.calls.append((file, function))
        self._note(file)
        self._open.append(file)

    def _note(self, file: str) -> None:
        """Count a move between a file and the one from which it was called."""
        self.moves += bool(self._open) and self._open[-1] != file != DRIVER


def run(url: str) -> list[Ratio]:
    found = []
    for kind, trace in traces(url).items():
        files, moves = BOUNDS[kind]
        found.append(within("files that a delivery enters", kind, trace.files, files, "files"))
        found.append(within("moves between files in a delivery", kind, trace.moves, moves, "moves"))
    return found


def traces(url: str) -> dict[str, Trace]:
    """Return end → calls of a delivery."""
    database = Database(url)
    database.get().run("create table if not exists bench_effects (id text)")
    worker = Worker(bench_end, database, Sqs(), PREFIX)
    found = {}
    with (
        patch.object(Sqs, "send_many", return_value={}) as send,
        patch.object(Sqs, "set_visibility"),
        silent(),
    ):
        for end in BOUNDS:
            for _ in range(2):  # the first delivery initialises the worker
                found[end] = _trace(worker, _enqueued(database, end, send))
    database.drop()
    return found


def _trace(worker: Worker, body: str) -> Trace:
    trace = Trace()
    received, given = deliveries([record(body, LANE)]), invocation()
    sys.setprofile(trace)
    try:
        worker.handle(received, given)
    finally:
        sys.setprofile(None)
    return trace


def _enqueued(database: Database, end: str, send: Any) -> str:
    """Enqueue a task with its row. Return the body of its message."""
    client_within(database, Sqs(), PREFIX).enqueue(bench_end, Ending(end=end))
    entry: Entry = send.call_args.args[0][0]
    return entry.body


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Postgres(Path(name) / "postgres") as server:
        upgrade(server.url)
        found = traces(server.url)
        for end, trace in found.items():
            print(f"{end}:")
            for file, function in trace.calls:
                print(f"  {file}: {function}")
        for end, trace in found.items():
            print(f"{end}: {trace.files} files, {len(trace.calls)} calls, {trace.moves} moves")


if __name__ == "__main__":
    main()
