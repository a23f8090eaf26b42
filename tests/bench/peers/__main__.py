"""`make bench-peers`: what a job costs and what a crash costs, Joblane and other systems on the same servers.

It prints the tables of `tests/bench/peers/report.md`. With `--write` it writes them into that page, and the
values of every round into `results.json`. A system that fails is reported with the reason, and the others are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.status import Status

from joblane.local import ministack
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from tests.bench.peers import costs, crashes, emulator, page
from tests.bench.peers.peer import REGION, Bench
from tests.bench.peers.systems import SYSTEMS

SERVER = {"checkpoint_timeout": "1h", "max_wal_size": "16GB", "max_connections": "1000"}
"""No checkpoint falls into a measurement: the first write to a page after it is a whole page of WAL. All systems with
their pools are connected at once in the outage."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOG_SECONDS = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs and one round, to see that it works")
    parser.add_argument("--write", action="store_true", help="write results.json and the tables of the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="only these systems")
    parser.add_argument("--part", choices=PARTS, help="only this part; the other keeps its results")
    arguments = parser.parse_args()
    if arguments.write and len(arguments.only) < len(SYSTEMS):
        parser.error("--write needs all systems: the values of two runs are not compared")
    for number in SIGNALS:  # a job in the background of a shell ignores Ctrl-C
        signal.signal(number, _interrupt)
    console, started = Console(stderr=True), time.monotonic()
    results = json.loads(page.RESULTS.read_text()) if arguments.part and page.RESULTS.exists() else {}
    with console.status("starting the servers") as status, servers() as bench:
        for part in [arguments.part] if arguments.part else PARTS:
            results[part] = {
                "setting": setting(bench, quick=arguments.quick),
                **PARTS[part](bench, arguments.only, quick=arguments.quick, report=Progress(console, status, part)),
            }
            if arguments.write:  # after each part, which takes long
                page.RESULTS.write_text(page.dumped(results))
                written = json.loads(page.RESULTS.read_text())  # its numbers are rounded
                page.PAGE.write_text(page.rendered(page.PAGE.read_text(), written))
    for difference in page.differences(results):
        console.print(f"The parts of the results differ: {difference}", style="yellow")
    if arguments.json:
        arguments.json.write_text(page.dumped(results))
    for name, table in page.tables(results).items():
        print(f"\n{name}\n\n{table}")
    console.print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return 0


def _interrupt(*_: object) -> None:
    for number in SIGNALS:  # every process is ended on the way out, which takes some seconds
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class Progress:
    """Shows what a part measures, and how long it still takes. A log gets a line each half minute."""

    def __init__(self, console: Console, status: Status, part: str) -> None:
        self._console, self._status, self._part = console, status, part
        self._started = time.monotonic()
        self._logged = 0.0

    def __call__(self, what: str, share: float | None = None) -> None:
        """Report a measurement that begins. ``share``: of the part, that is done, from 0 to 1."""
        spent = time.monotonic() - self._started
        left = f"; {share:.0%}, about {(spent / share - spent) / 60:.0f} minutes left" if share else ""
        line = f"{self._part}: {what}{left}"
        self._status.update(line)
        if not self._console.is_terminal and time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            self._console.print(line)


@contextmanager
def servers() -> Iterator[Bench]:
    """Start a PostgreSQL that survives a power failure, and the emulator that counts requests."""
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        folder = Path(name)
        with (
            Postgres(folder / "postgres", durable=True, settings=SERVER) as server,
            patch.object(ministack, "PROGRAM", Path(emulator.__file__)),
        ):
            counting = ministack.MiniStack(folder, None, REGION)
            counting.start()
            try:
                yield Bench(server, counting)
            finally:
                counting.stop()


PARTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "costs": costs.run,
    "crashes": partial(crashes.run, servers=servers),
}
"""Part of the results → the function that measures it: ``(bench, systems, quick=…, report=…)``."""


def setting(bench: Bench, *, quick: bool) -> dict[str, Any]:
    """Return where and when a part was measured."""
    with Database(bench.server.url, limits=None) as database:
        postgres = database.get().run("show server_version")[0][0]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "python": platform.python_version(),
        "postgresql": postgres,
        "cores": os.cpu_count(),
        "server": SERVER,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
