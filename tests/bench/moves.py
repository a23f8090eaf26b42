"""How far a reader follows one delivery: the files that it enters, and the moves from file to file.

Counted by ``sys.setprofile`` over ``Worker.handle`` on a warm worker, for a task whose row is there. Each call of a
function of the library or of the handler counts; a call in another file than the call before it is a move. What the
library calls outside (the database's driver, SQLAlchemy, boto3) is passed through. `python -m tests.bench.moves` prints
the way.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import joblane
from joblane.client import JobClient
from joblane.local.postgres import Postgres
from joblane.record.database import Database
from joblane.record.migrations import upgrade
from joblane.sqs.client import Entry, Sqs
from joblane.worker.worker import Worker
from tests.bench import roundtrips
from tests.bench.quiet import silent
from tests.bench.report import Ratio, within
from tests.bench.roundtrips import Write, bench_write
from tests.builders.events import LambdaContext, event, record

MAX_FILES, MAX_MOVES = 14, 45
LIBRARY = Path(joblane.__file__).parent
HANDLER = Path(roundtrips.__file__)
PREFIX, LANE = "jobs", "jobs-default-bench-write"

Call = tuple[str, str]
"""A file, by its path in the library, and the function that is called."""


def run(url: str) -> list[Ratio]:
    found = []
    for kind, calls in ways(url).items():
        found.append(within("files that a delivery enters", kind, len({file for file, _ in calls}), MAX_FILES, "files"))
        found.append(within("moves between files in a delivery", kind, moves(calls), MAX_MOVES, "moves"))
    return found


def ways(url: str) -> dict[str, list[Call]]:
    """The calls of one delivery, by the kind of task."""
    database = Database(url)
    database.get().run("create table if not exists bench_effects (id text)")
    worker = Worker(bench_write, database, Sqs(), PREFIX)
    found = {}
    for kind, write in (("a no-op task", False), ("a task that writes one row", True)):
        for _ in range(2):  # what is made once is made by the first
            found[kind] = _way(worker, database, write=write)
    database.drop()
    return found


def moves(calls: list[Call]) -> int:
    return sum(before != after for (before, _), (after, _) in pairwise(calls))


def _way(worker: Worker, database: Database, *, write: bool) -> list[Call]:
    calls: list[Call] = []

    def note(frame: FrameType, kind: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if kind == "call" and (path == HANDLER or path.is_relative_to(LIBRARY)):
            file = "the handler" if path == HANDLER else str(path.relative_to(LIBRARY))
            calls.append((file, frame.f_code.co_name))

    delivery = event(record(_enqueued(database, write=write), LANE))
    with silent():
        sys.setprofile(note)
        try:
            answer = worker.handle(delivery, LambdaContext())
        finally:
            sys.setprofile(None)
    assert answer == {"batchItemFailures": []}
    return calls


def _enqueued(database: Database, *, write: bool) -> str:
    """The body of the message of a task that was enqueued with its row."""
    with patch.object(Sqs, "send_many", return_value={}) as send:
        JobClient.within(database, Sqs(), PREFIX).enqueue(bench_write, Write(write=write))
    entry: Entry = send.call_args.args[0][0]
    return entry.body


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Postgres(Path(name) / "postgres") as server:
        upgrade(server.url)
        for kind, calls in ways(server.url).items():
            print(f"{kind}: {len({file for file, _ in calls})} files, {moves(calls)} moves")
            for file, function in calls:
                print(f"  {file}: {function}")


if __name__ == "__main__":
    main()
