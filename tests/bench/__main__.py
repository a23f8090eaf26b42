"""`make bench`: every comparison in one run, as a table. Exit status 1 where one does not reach what it must."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.record.migrations import upgrade
from tests.bench.report import Ratio

REGION = "us-east-1"


def main() -> int:
    console = Console()
    found: list[Ratio] = []
    with tempfile.TemporaryDirectory() as name, Postgres(Path(name) / "postgres") as server:
        upgrade(server.url)
        emulator = MiniStack(Path(name), None, REGION)
        emulator.start()
        try:
            os.environ.update(
                AWS_ENDPOINT_URL=emulator.endpoint,
                AWS_ACCESS_KEY_ID="test",
                AWS_SECRET_ACCESS_KEY="test",
                AWS_DEFAULT_REGION=REGION,
                DATABASE_URL=server.url,
                JOBLANE_PREFIX="jobs",
            )
            # Imported here, as they read these settings.
            from tests.bench import (
                dead_letters,
                deploying,
                end_to_end,
                enqueueing,
                handling,
                inspecting,
                moves,
                roundtrips,
                sizes,
                startup,
            )

            runs = (
                ("sizes", sizes.run),
                ("start-up", lambda: startup.run(Path(name) / "unpacked")),
                ("handling", handling.run),
                ("moves", lambda: moves.run(server.url)),
                ("round trips", lambda: roundtrips.run(server.url)),
                ("enqueueing", enqueueing.run),
                ("dead letters", dead_letters.run),
                ("end to end", lambda: end_to_end.run(server.url, Path(name))),
                ("a million tasks", lambda: inspecting.run(server)),
                ("synth and redeploy", lambda: deploying.run(Path(name))),
            )
            for title, run in runs:
                with console.status(title):
                    found += run()
        finally:
            emulator.stop()
    console.print(_table(found))
    return 0 if all(ratio.holds for ratio in found) else 1


def _table(found: list[Ratio]) -> Table:
    table = Table(title="Ours against the bare thing, measured in turns within this run, or against a target")
    for heading in ("what", "setting", "ours", "bare, or target", "ratio", "must be", ""):
        table.add_column(heading, justify="right" if heading in ("ours", "bare, or target", "ratio") else "left")
    for ratio in found:
        mark = "[green]✓[/green]" if ratio.holds else "[red]✗[/red]"
        cells = (ratio.name, ratio.setting, ratio.ours, ratio.bare, f"{ratio.ratio:.2f}", ratio.wanted, mark)
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
