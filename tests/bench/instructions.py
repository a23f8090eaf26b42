"""The instructions of a job, counted by valgrind's callgrind.

A count does not depend on the speed or the load of the machine. It leaves out what the kernel does.

- enqueue, claim, finish: of PostgreSQL's session. All tasks are claimed, by deliveries to a worker, then all finished.
- message: of the worker's process without a database, as in ``handling``.
- start-up: of the whole process of a function until it is ready for its first message, as in ``startup``.

All but the last are per job: the difference between :data:`MANY` jobs and :data:`FEW`, after a warm-up.

Each value is compared with the newest values in ``instructions.json``. ``make bench ONLY=instructions
WRITE="before chains of messages"`` adds the values to the file, with the date and these words.
As a program, ``python -m tests.bench.instructions`` handles the messages.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from joblane.local import postgres
from joblane.local.postgres import Postgres, as_other_user
from joblane.record.migrations import upgrade
from joblane.record.task.finish import finish
from joblane.worker import worker
from tests.bench import backends, handling, startup
from tests.bench.record import Accepting, Record
from tests.bench.report import Ratio, failed
from tests.pages import ROOT
from tests.unpacked import unpack

BATCHES, WARM, FEW, MANY = (1, 10), 100, 10, 110
BOUND = 1.01
"""Two runs differed by at most 0.4 %. An additional statement `select 1` in a finish is 2 %."""
KEPT = Path(__file__).with_name("instructions.json")
"""Moment, in the order of time → ``versions``, and ``values`` by name."""
SERVER = {"autovacuum": "off", "checkpoint_timeout": "1h"}
START_SECONDS = 300.0
SESSION_MARK, PROCESS_MARK = "pg_backend_pid", "*getppid"
"""Functions in C. A call ends a part: callgrind writes what it has counted, and begins again at 0."""

Counts = dict[str, int]


def run(folder: Path, words: str | None) -> Iterator[Ratio]:
    """``words``: write the values under the date and these words. None: do not write them."""
    if shutil.which("valgrind") is None:
        yield failed("instructions", "valgrind is missing: install the package `valgrind`, of Debian for example")
        return
    folder.mkdir()
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    versions = {"machine": platform.machine(), "python": platform.python_version()}
    values = Counts()
    for measure in (partial(_session, versions=versions), _messages, _start):
        counts = measure(folder)
        values |= counts
        yield from (compared(name, count, versions, kept) for name, count in counts.items())
    if words is not None:
        kept[f"{datetime.now(UTC).date()}, {words}"] = {"versions": versions, "values": values}
        KEPT.write_text(json.dumps(kept, indent=2) + "\n")


def compared(name: str, count: int, versions: dict[str, str], kept: dict[str, Any]) -> Ratio:
    """Compare a value with the newest one. It binds only on the same kind of machine, with the same versions."""
    moment = next((moment for moment in reversed(kept) if name in kept[moment]["values"]), None)
    if moment is None:
        return Ratio("instructions", name, f"{count:,}", "no earlier value", 1, None, at_most=True)
    before, others = kept[moment]["values"][name], kept[moment]["versions"]
    same = others == versions
    setting = f"{name}; against {moment}" + ("" if same else f", with {others} and not {versions}")
    return Ratio(
        "instructions", setting, f"{count:,}", f"{before:,}", count / before, BOUND if same else None, at_most=True
    )


def _callgrind(folder: Path, mark: str | None = None) -> tuple[str, ...]:
    """Return the command prefix that counts a program and its children, each into files with its pid."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # PostgreSQL's user may be another one
    marks = (f"--dump-before={mark}",) if mark else ()
    return ("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/%p", *marks)


def _parts(folder: Path, pid: int | str = "*") -> list[int]:
    """Return the instructions of each part of a process, in order; the last part may be missing."""
    files = sorted(folder.glob(f"{pid}.*"), key=lambda file: int(file.suffix[1:])) or [*folder.glob(f"{pid}")]
    return [int(re.findall(r"^totals: (\d+)", file.read_text(), re.MULTILINE)[-1]) for file in files]


def _per_job(names: Sequence[str], parts: Sequence[int]) -> Counts:
    """``names``: of the parts after the first. A name has two parts, for :data:`FEW` jobs and for :data:`MANY`."""
    found: dict[str, list[int]] = {}
    assert len(parts) > len(names), "callgrind has not counted all parts"
    for name, count in zip(names, parts[1:], strict=False):
        found.setdefault(name, []).append(count)
    return {name: round((many - few) / (MANY - FEW)) for name, (few, many) in found.items()}


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


def _session(folder: Path, versions: dict[str, str]) -> Counts:
    with Postgres(folder / "postgres", settings=SERVER) as server:
        upgrade(server.url)
    # pg_ctl starts the server
    prefix = (*as_other_user(), *_callgrind(folder / "session", SESSION_MARK), "--trace-children=yes")
    with (
        patch.object(postgres, "as_other_user", lambda: prefix),
        patch.object(postgres, "START_SECONDS", START_SECONDS),
        Postgres(folder / "postgres", settings=SERVER) as server,
    ):
        record = Record(server.url)
        versions["postgresql"] = record.connection.run("show server_version")[0][0]
        for batch in BATCHES:
            record.live(WARM, batch)
        names = []
        for name, work in _steps(record):
            backends.pid_of(record.connection)
            work()
            names.append(name)
        backends.pid_of(record.connection)
        record.close()
    parts = _parts(folder / "session", record.pid)
    return _per_job(names, parts[len(parts) - len(names) - 1 :])


def _steps(record: Record) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the session does, each step with its name, once for :data:`FEW` jobs and once for :data:`MANY`."""
    ends: list[Any] = []
    bodies: list[str] = []

    def enqueue(count: int, batch: int) -> None:
        bodies[:] = record.enqueue(count, batch)

    def kept(_connection: object, finishes: Any, **options: Any) -> set[str]:
        ends.append((finishes, options))
        return {end.id for end in finishes}

    def claim(batch: int) -> None:
        with patch.object(worker, "finish", kept):
            record.deliver(bodies, batch)

    def finish_all() -> None:
        while ends:
            finishes, options = ends.pop(0)
            assert len(finish(record.connection, finishes, **options)) == len(finishes)

    for batch in BATCHES:
        for count in (FEW, MANY):
            yield f"enqueue, batch {batch}", partial(enqueue, count, batch)
            yield f"claim, batch {batch}", partial(claim, batch)
            yield f"finish, batch {batch}", finish_all


# --- Python --------------------------------------------------------------------------------------------------------


def _messages(folder: Path) -> Counts:
    prefix = _callgrind(folder / "messages", PROCESS_MARK)
    program = [*prefix, sys.executable, "-m", "tests.bench.instructions"]
    subprocess.run(program, env=os.environ | {"PYTHONHASHSEED": "0"}, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    names = [f"message, batch {batch}" for batch in BATCHES for _ in (FEW, MANY)]
    return _per_job(names, _parts(folder / "messages"))


def _handle() -> None:
    """Handle the messages that are counted."""
    events = {(count, batch): handling.events(batch, count) for batch in BATCHES for count in (WARM, FEW, MANY)}
    sqs = Accepting()
    for batch in BATCHES:
        handling.ours(events[WARM, batch], sqs)
    for batch in BATCHES:
        for count in (FEW, MANY):
            os.getppid()
            handling.ours(events[count, batch], sqs)
    os.getppid()


def _start(folder: Path) -> Counts:
    unpacked = unpack(folder / "unpacked")
    startup.start(unpacked, startup.OURS, under=_callgrind(folder / "start"))
    return {"start-up": sum(_parts(folder / "start"))}


if __name__ == "__main__":
    _handle()
