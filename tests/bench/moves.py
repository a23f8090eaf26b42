"""The path of a delivery through the code: the number of files, and of moves from file to file, that a reader follows.

``sys.setprofile`` counts them during ``Worker.handle`` on a warm worker, for a task with an existing row. Calls of
functions of the library and of the handler count. A call in another file than the previous call is a move. Calls of
other packages (the database driver, SQLAlchemy, boto3) do not count. `python -m tests.bench.moves` prints the path.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import joblane
from joblane.client.client import client_within
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.migrations import upgrade
from joblane.sqs.client import Entry, Sqs
from joblane.worker.worker import Worker
from tests.bench import roundtrips
from tests.bench.quiet import silent
from tests.bench.report import Ratio, within
from tests.bench.roundtrips import Write, bench_write
from tests.builders.events import LambdaContext, event, record

MAX_FILES, MAX_MOVES = 15, 49
LIBRARY = Path(joblane.__file__).parent
HANDLER = Path(roundtrips.__file__)
PREFIX, LANE = "jobs", "jobs-default-bench-write"

Call = tuple[str, str]
"""A file, as a path in the library, and the called function."""


def run(url: str) -> list[Ratio]:
    found = []
    for kind, calls in paths(url).items():
        found.append(within("files that a delivery enters", kind, len({file for file, _ in calls}), MAX_FILES, "files"))
        found.append(within("moves between files in a delivery", kind, moves(calls), MAX_MOVES, "moves"))
    return found


def paths(url: str) -> dict[str, list[Call]]:
    """Return kind of task → calls of a delivery."""
    database = Database(url)
    database.get().run("create table if not exists bench_effects (id text)")
    worker = Worker(bench_write, database, Sqs(), PREFIX)
    found = {}
    for kind, write in (("a no-op task", False), ("a task that writes one row", True)):
        for _ in range(2):  # the first delivery initialises the worker
            found[kind] = _path(worker, database, write=write)
    database.drop()
    return found


def moves(calls: list[Call]) -> int:
    return sum(before != after for (before, _), (after, _) in pairwise(calls))


def _path(worker: Worker, database: Database, *, write: bool) -> list[Call]:
    calls: list[Call] = []

    def record_call(frame: FrameType, kind: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if kind == "call" and (path == HANDLER or path.is_relative_to(LIBRARY)):
            file = "the handler" if path == HANDLER else str(path.relative_to(LIBRARY))
            calls.append((file, frame.f_code.co_name))

    delivery = event(record(_enqueued(database, write=write), LANE))
    with silent():
        sys.setprofile(record_call)
        try:
            answer = worker.handle(delivery, LambdaContext())
        finally:
            sys.setprofile(None)
    assert answer == {"batchItemFailures": []}
    return calls


def _enqueued(database: Database, *, write: bool) -> str:
    """Enqueue a task with its row. Return the body of its message."""
    with patch.object(Sqs, "send_many", return_value={}) as send:
        client_within(database, Sqs(), PREFIX).enqueue(bench_write, Write(write=write))
    entry: Entry = send.call_args.args[0][0]
    return entry.body


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Postgres(Path(name) / "postgres") as server:
        upgrade(server.url)
        for kind, calls in paths(server.url).items():
            print(f"{kind}: {len({file for file, _ in calls})} files, {moves(calls)} moves")
            for file, function in calls:
                print(f"  {file}: {function}")


if __name__ == "__main__":
    main()
