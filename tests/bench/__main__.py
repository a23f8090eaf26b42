"""`make bench`: all comparisons in one run, as a table. The exit status is 1 if a comparison misses its target.

`--large`: those on tables of a million tasks and more, `make bench-large`. Names of measurements: only these.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.queues import SWEEP, Queue, lane_name
from joblane.record.migrations import upgrade
from joblane.sqs.client import Sqs
from tests.bench.report import Ratio

REGION = "us-east-1"
AUTOVACUUM = {"autovacuum": "off"}
"""Otherwise a vacuum falls into some rounds, and an analysis changes the plans in the middle of a measurement."""
BUFFERS = {**AUTOVACUUM, "shared_buffers": "3GB", "max_wal_size": "8GB"}

Run = Callable[[], list[Ratio]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--large", action="store_true", help="tables of a million tasks and more")
    parser.add_argument("only", nargs="*", help="names of measurements, the modules of this package")
    arguments = parser.parse_args()
    console, started = Console(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        runs = _large if arguments.large else _usual
        ratios = runs(Path(name), console, arguments.only)
    console.print(_table(ratios))
    console.print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return 0 if all(ratio.holds for ratio in ratios) else 1


def _usual(folder: Path, console: Console, only: list[str]) -> list[Ratio]:
    with (
        Postgres(folder / "postgres") as server,
        Postgres(folder / "steady", settings=AUTOVACUUM) as steady,
        Postgres(folder / "durable", durable=True) as durable,
    ):
        upgrade(server.url)
        emulator = MiniStack(folder, None, REGION)
        emulator.start()
        try:
            _configure(server, emulator)
            # Imported here, because these modules read the settings above.
            from tests.bench import (
                asynchronous,
                dead_letters,
                delivering,
                deploying,
                dev,
                end_to_end,
                enqueueing,
                finishing,
                first_claims,
                graphs,
                handling,
                large_dead_letters,
                limiting,
                lives,
                moves,
                recording,
                roundtrips,
                sizes,
                startup,
                synthesis,
            )

            return _all(
                {
                    "sizes": sizes.run,
                    "synthesis": synthesis.run,
                    "startup": lambda: startup.run(folder / "unpacked"),
                    "handling": handling.run,
                    "delivering": lambda: delivering.run(steady),
                    "moves": lambda: moves.run(server.url),
                    "roundtrips": lambda: roundtrips.run(server.url),
                    "lives": lambda: lives.run(steady),
                    "limiting": lambda: limiting.run(steady, durable),
                    "old_snapshot": lambda: limiting.next_to_a_snapshot(durable),
                    "graphs": lambda: graphs.run(steady, durable),
                    "recording": lambda: recording.run(steady),
                    "finishing": lambda: finishing.run(steady),
                    "first_claims": lambda: first_claims.run(steady),
                    "enqueueing": enqueueing.run,
                    "async": asynchronous.run,
                    "dead_letters": dead_letters.run,
                    "large_dead_letters": large_dead_letters.run,
                    "end_to_end": lambda: end_to_end.run(server, emulator, folder),
                    "deploying": lambda: deploying.run(folder),
                    "dev": lambda: dev.run(folder),
                },
                console,
                only,
            )
        finally:
            emulator.stop()


def _large(folder: Path, console: Console, only: list[str]) -> list[Ratio]:
    with Postgres(folder / "postgres", settings=BUFFERS) as server:
        os.environ.update(DATABASE_URL=server.url, JOBLANE_PREFIX="jobs", AWS_DEFAULT_REGION=REGION)
        from tests.bench import children, growth, inspecting, operations, sweeping

        runs: dict[str, Run] = {
            "inspecting": lambda: inspecting.run(server),
            "operations": lambda: operations.run(server),
            "sweeping": lambda: sweeping.run(server),
            "children": lambda: children.run(server),
            "growth": lambda: growth.run(server),
        }
        return _all(runs, console, only)


def _configure(server: Postgres, emulator: MiniStack) -> None:
    os.environ.update(
        AWS_ENDPOINT_URL=emulator.endpoint,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION=REGION,
        DATABASE_URL=server.url,
        JOBLANE_PREFIX="jobs",
    )
    Sqs().client.create_queue(QueueName=lane_name("jobs", Queue.LOW, SWEEP))  # each program that writes sends to it


def _all(runs: Mapping[str, Run], console: Console, only: list[str]) -> list[Ratio]:
    if unknown := set(only) - runs.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the measurements are {', '.join(runs)}")
    ratios: list[Ratio] = []
    for name, run in runs.items():
        if not only or name in only:
            with console.status(name):
                ratios += run()
    return ratios


def _table(ratios: list[Ratio]) -> Table:
    table = Table(title="Joblane against the bare service, measured in turns in this run, or against a target")
    for heading in ("measurement", "setting", "Joblane", "bare or target", "ratio", "required", ""):
        table.add_column(heading, justify="right" if heading in ("Joblane", "bare or target", "ratio") else "left")
    for ratio in ratios:
        mark = "[green]✓[/green]" if ratio.holds else "[red]✗[/red]"
        cells = (ratio.name, ratio.setting, ratio.ours, ratio.bare, f"{ratio.ratio:.2f}", ratio.required, mark)
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
