"""``make faults``: a long run from a seed, a storm of limits, and their reports."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults import limit_plants
from tests.faults.limit_storm import Storm
from tests.faults.plants import PLANTS
from tests.faults.report import table
from tests.faults.run import run
from tests.faults.server_of_its_own import database, own_server

CALM = 5
"""The storm in which no worker dies has this part of the tasks of the other one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--jobs", type=int, default=2000, help="0: only the storm of limits")
    parser.add_argument("--tasks", type=int, default=10_000, help="of the storm of limits; 0: no storm")
    parser.add_argument("--minutes", type=float, default=15, help="after this time a run counts as stuck")
    parser.add_argument("--plant", choices=sorted([*PLANTS, *limit_plants.PLANTS]), help="a bug that its run must find")
    options = parser.parse_args()
    wrong = False
    if options.jobs and options.plant not in limit_plants.PLANTS:
        wrong |= _run_jobs(options)
    if options.tasks and options.plant not in PLANTS:
        wrong |= _run_limits(options)
    if options.plant:
        print(f"The planted bug ({options.plant}) was {'found' if wrong else 'NOT found'}")
        return 0 if wrong else 1
    return 1 if wrong else 0


def _run_jobs(options: argparse.Namespace) -> bool:
    """Return True if the run has found something wrong."""
    print(f"Seed {options.seed}: {options.jobs} jobs", flush=True)
    with TemporaryDirectory() as folder, own_server(Path(folder)) as server:
        name = database(server, "faults")
        findings = run(
            Path(folder),
            server,
            name,
            seed=options.seed,
            jobs=options.jobs,
            minutes=options.minutes,
            plant=options.plant,
        )
        log = (Path(folder) / "workers.log").read_text()
    print(table(findings))
    if log:
        print(f"The log of the workers:\n{log[-3000:]}")
    return bool(findings.wrong)


def _run_limits(options: argparse.Namespace) -> bool:
    """Like :func:`_run_jobs`. Some bugs show only where workers die, others only where none does."""
    wrong, out = False, sys.stdout
    with (
        TemporaryDirectory() as folder,
        own_server(Path(folder)) as server,
        (Path(folder) / "workers.log").open("w") as log,
        contextlib.redirect_stdout(log),
    ):
        for name, deaths, tasks in (("deaths", 0.3, options.tasks), ("calm", 0.0, options.tasks // CALM)):
            print(f"Seed {options.seed}: {tasks} tasks with limits, {deaths:.0%} deaths", file=out, flush=True)
            url = server.database_url(database(server, name))
            with limit_plants.planted(url, options.plant) if options.plant else contextlib.nullcontext():
                result = Storm(
                    url, options.seed, tasks, keys=max(20, tasks // 20), deaths=deaths, seconds=60 * options.minutes
                ).go()
            print(result.table(), file=out, flush=True)
            wrong |= bool(result.wrong)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
