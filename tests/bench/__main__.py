"""`make bench`: all comparisons in one run, each value as soon as it is measured, and all as a table at the end.

A measurement that raises is reported as failed, and the rest are measured. The exit status is 1 if a measurement failed
or a comparison missed its target. Ctrl-C ends the run and prints the table of what was measured.

`--large`: the measurements that take long, most on tables of a million tasks and more, `make bench-large`. Names: only
these measurements.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.names import SWEEP, Queue, lane_name
from joblane.record.migrations import upgrade
from joblane.sqs.client import Sqs
from tests.bench.report import Ratio, failed

REGION = "us-east-1"
AUTOVACUUM = {"autovacuum": "off"}
"""Otherwise a vacuum falls into some rounds, and an analysis changes the plans in the middle of a measurement."""
BUFFERS = {**AUTOVACUUM, "shared_buffers": "3GB", "max_wal_size": "8GB"}

Run = Callable[[], Iterable[Ratio]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--large", action="store_true", help="tables of a million tasks and more, and an old snapshot")
    parser.add_argument("--write", metavar="WORDS", help="keep the instructions under the date and these words")
    parser.add_argument("only", nargs="*", help="names of measurements, the modules of this package")
    arguments = parser.parse_args()
    if arguments.write and (arguments.large or (arguments.only and "instructions" not in arguments.only)):
        parser.error("--write needs the measurement instructions")
    console, started = Console(), time.monotonic()
    ratios, ended = list[Ratio](), False
    try:
        with tempfile.TemporaryDirectory() as name:
            runs = _large if arguments.large else _usual
            for ratio in runs(Path(name), console, arguments):
                ratios.append(ratio)
                console.print(_line(ratio), soft_wrap=True)
        ended = True
    except KeyboardInterrupt:
        console.print("interrupted")
    finally:  # after an error of a server as well
        console.print(_table(ratios))
        console.print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return 0 if ended and all(ratio.holds for ratio in ratios) else 1


def _usual(folder: Path, console: Console, arguments: argparse.Namespace) -> Iterator[Ratio]:
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
                instructions,
                large_dead_letters,
                limiting,
                lives,
                moves,
                recording,
                roundtrips,
                signalling,
                sizes,
                startup,
                synthesis,
                tracing,
            )

            yield from measured(
                {
                    "sizes": sizes.run,
                    "synthesis": synthesis.run,
                    "startup": lambda: startup.run(folder / "unpacked"),
                    "instructions": lambda: instructions.run(folder / "instructions", arguments.write),
                    "handling": handling.run,
                    "tracing": tracing.run,
                    "delivering": lambda: delivering.run(steady),
                    "moves": lambda: moves.run(server.url),
                    "roundtrips": lambda: roundtrips.run(server.url),
                    "lives": lambda: lives.run(steady),
                    "limiting": lambda: limiting.run(steady, durable),
                    "graphs": lambda: graphs.run(steady, durable),
                    "recording": lambda: recording.run(steady),
                    "finishing": lambda: finishing.run(steady),
                    "first_claims": lambda: first_claims.run(steady),
                    "enqueueing": enqueueing.run,
                    "async": asynchronous.run,
                    "dead_letters": lambda: dead_letters.run(server),
                    "large_dead_letters": lambda: large_dead_letters.run(server),
                    "end_to_end": lambda: end_to_end.run(server, emulator, folder),
                    "signalling": lambda: signalling.run(server, folder),
                    "deploying": lambda: deploying.run(folder),
                    "dev": lambda: dev.run(folder),
                },
                console,
                arguments.only,
            )
        finally:
            emulator.stop()


def _large(folder: Path, console: Console, arguments: argparse.Namespace) -> Iterator[Ratio]:
    with (
        Postgres(folder / "postgres", settings=BUFFERS) as server,
        Postgres(folder / "durable", durable=True) as durable,
    ):
        os.environ.update(DATABASE_URL=server.url, JOBLANE_PREFIX="jobs", AWS_DEFAULT_REGION=REGION)
        from tests.bench import children, growth, inspecting, limiting, operations, sweeping, waiting

        runs: dict[str, Run] = {
            "inspecting": lambda: inspecting.run(server),
            "operations": lambda: operations.run(server),
            "sweeping": lambda: sweeping.run(server),
            "children": lambda: children.run(server),
            "growth": lambda: growth.run(server),
            "waiting": lambda: waiting.run(server),
            "old_snapshot": lambda: limiting.next_to_a_snapshot(durable),
        }
        yield from measured(runs, console, arguments.only)


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


def measured(runs: Mapping[str, Run], console: Console, only: list[str]) -> Iterator[Ratio]:
    """Yield the ratios of each measurement, by name. One that raises yields a failed one, and the next is measured."""
    if unknown := set(only) - runs.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the measurements are {', '.join(runs)}")
    for name, run in runs.items():
        if only and name not in only:
            continue
        with console.status(name):
            try:
                yield from run()
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                yield failed(name, traceback.format_exception_only(error)[-1].strip().rpartition("\n")[2])


def _mark(ratio: Ratio) -> str:
    return "[green]✓[/green]" if ratio.holds else "[red]✗[/red]"


def _line(ratio: Ratio) -> str:
    line = f"{ratio.name}, {ratio.setting}: {ratio.ours}"
    if ratio.is_measured:
        line += f" against {ratio.bare}, ratio {ratio.ratio:.2f}, required {ratio.required}"
    return f"{_mark(ratio)} {escape(line)}"


def _table(ratios: list[Ratio]) -> Table:
    table = Table(title="Joblane against the bare service, measured in turns in this run, or against a target")
    for heading in ("measurement", "setting", "Joblane", "bare or target", "ratio", "required", ""):
        table.add_column(heading, justify="right" if heading in ("Joblane", "bare or target", "ratio") else "left")
    for ratio in ratios:
        cells = (ratio.name, ratio.setting, ratio.ours, ratio.bare, f"{ratio.ratio:.2f}", ratio.required)
        table.add_row(*map(escape, cells), _mark(ratio))
    return table


if __name__ == "__main__":
    sys.exit(main())
