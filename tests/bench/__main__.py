"""`make bench`: all comparisons in one run, as a table. The exit status is 1 if a comparison misses its target."""

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
    ratios: list[Ratio] = []
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
            # Imported here, because these modules read the settings above.
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
                synthesis,
            )

            runs = (
                ("sizes", sizes.run),
                ("synthesis", synthesis.run),
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
                    ratios += run()
        finally:
            emulator.stop()
    console.print(_table(ratios))
    return 0 if all(ratio.holds for ratio in ratios) else 1


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
