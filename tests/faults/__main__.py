"""``make faults``: a long run from a seed, and its report."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.plants import PLANTS
from tests.faults.report import table
from tests.faults.run import run
from tests.faults.server_of_its_own import database, own_server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=6, help="after this time the run counts as stuck")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a bug that the run must find")
    options = parser.parse_args()
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
    if options.plant:
        print(f"The planted bug ({options.plant}) was {'found' if findings.wrong else 'NOT found'}")
        return 0 if findings.wrong else 1
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
