"""``make faults``: a long run from a seed, one whose database is restored, storms of limits, of graphs, of waits, of
debounced enqueues and of moves, a run of a rate, days in virtual time, the model, and their reports."""

from __future__ import annotations

import argparse
import contextlib
import io
import secrets
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from tests.faults.days.busy import BusyDay
from tests.faults.days.days import Days
from tests.faults.days.idle import IdleDay
from tests.faults.debounce_storm import DebounceStorm
from tests.faults.graph_storm import GraphStorm
from tests.faults.limit_storm import Storm
from tests.faults.model import seeds as model
from tests.faults.moves_storm import MovesStorm
from tests.faults.plants import PLANTS, planted
from tests.faults.rate_run import RateRun
from tests.faults.restore_run import RestoreRun
from tests.faults.result import Result, keep_rows, together
from tests.faults.run import run
from tests.faults.server_of_its_own import database, own_server
from tests.faults.thread_storm import ThreadStorm
from tests.faults.wait_storm import WaitStorm

CALM = 5
"""The storm in which no worker dies has this part of the tasks of the other one."""
DEATHS = ((0.3, 1), (0.0, CALM))
"""Some bugs show only where workers die, others only where none does."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--jobs", type=int, default=2000, help="0: no run of jobs")
    parser.add_argument(
        "--restored", type=int, default=1000, help="jobs of the run whose database is restored; 0: none"
    )
    parser.add_argument("--tasks", type=int, default=10_000, help="of the storm of limits; 0: no storm")
    parser.add_argument("--rated", type=int, default=5000, help="tasks of the run of a rate; 0: no such run")
    parser.add_argument("--bursts", type=float, default=10, help="virtual minutes of debounced enqueues; 0: none")
    parser.add_argument("--graphs", type=int, default=1000, help="of the storm of graphs; 0: no storm")
    parser.add_argument("--moves", type=int, default=5000, help="steps of the storm of moves; 0: no storm")
    parser.add_argument("--waits", type=int, default=1000, help="tasks of the storm of waits; 0: no storm")
    parser.add_argument("--days", type=int, default=100, help="busy days in virtual time; 0: none")
    parser.add_argument("--model", type=int, default=40, help="seeds of the model; 0: none")
    parser.add_argument("--minutes", type=float, default=15, help="after this time a run counts as stuck")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a bug that its run must find")
    parser.add_argument("--only", choices=PARTS, help="the part that runs; all by default")
    options = parser.parse_args()
    wrong = False
    for part, results in PARTS.items():
        is_wanted = options.only in (None, part) and (not options.plant or PLANTS[options.plant][0] == part)
        if getattr(options, part) and is_wanted:
            for result in results(options):
                wrong |= bool(result.wrong)
    if options.plant:
        print(f"The planted bug ({options.plant}) was {'found' if wrong else 'NOT found'}")
        return 0 if wrong else 1
    return 1 if wrong else 0


def _jobs(options: argparse.Namespace) -> Iterator[Result]:
    print(f"Seed {options.seed}: {options.jobs} jobs", flush=True)
    with TemporaryDirectory() as folder, own_server(Path(folder)) as server:
        name = database(server, "faults")
        result = run(
            Path(folder),
            server,
            name,
            seed=options.seed,
            jobs=options.jobs,
            minutes=options.minutes,
            plant=options.plant,
        )
        log = (Path(folder) / "workers.log").read_text()
    yield _printed(result)
    if log:
        print(f"The log of the workers:\n{log[-3000:]}")


def _restored(options: argparse.Namespace) -> Iterator[Result]:
    print(f"Seed {options.seed}: {options.restored} jobs, and a restored copy of their database", flush=True)
    with TemporaryDirectory() as folder, own_server(Path(folder)) as server:
        given = {"seed": options.seed, "jobs": options.restored, "minutes": options.minutes, "plant": options.plant}
        yield _printed(run(Path(folder), server, database(server, "faults"), kind=RestoreRun, **given))


def _limits(options: argparse.Namespace) -> Iterator[Result]:
    for deaths, part in DEATHS:
        tasks = options.tasks // part
        storm = partial(Storm, tasks=tasks, keys=max(20, tasks // 20), deaths=deaths, seconds=60 * options.minutes)
        yield _stormed(options, f"{tasks} tasks with limits, {deaths:.0%} deaths", storm)


def _graphs(options: argparse.Namespace) -> Iterator[Result]:
    for deaths, part in DEATHS:
        graphs = options.graphs // part
        storm = partial(GraphStorm, graphs=graphs, deaths=deaths, seconds=60 * options.minutes)
        yield _stormed(options, f"{graphs} graphs of tasks, {deaths:.0%} deaths", storm)


def _waits(options: argparse.Namespace) -> Iterator[Result]:
    for deaths, part in DEATHS:
        tasks = options.waits // part
        storm = partial(WaitStorm, number=tasks, deaths=deaths, seconds=60 * options.minutes)
        yield _stormed(options, f"{tasks} tasks that wait, {deaths:.0%} deaths", storm)


def _rate(options: argparse.Namespace) -> Iterator[Result]:
    storm = partial(RateRun, tasks=options.rated, seconds=60 * options.minutes)
    yield _stormed(options, f"{options.rated} tasks with a rate", storm)


def _bursts(options: argparse.Namespace) -> Iterator[Result]:
    storm = partial(DebounceStorm, seconds=60 * options.bursts, real_seconds=60 * options.minutes)
    yield _stormed(options, f"{options.bursts:g} virtual minutes of debounced enqueues", storm)


def _moves(options: argparse.Namespace) -> Iterator[Result]:
    for is_calm in (False, True):
        storm = partial(MovesStorm, steps=options.moves, calm=is_calm)
        what = "nothing but producers dies" if is_calm else "everything dies"
        yield _stormed(options, f"{options.moves} steps while types move, {what}", storm)


def _days(options: argparse.Namespace) -> Iterator[Result]:
    """Each day has a seed of its own: that of the run, the next one, and so on."""
    seeds = range(options.seed, options.seed + options.days)
    print(f"Seeds {seeds[0]} to {seeds[-1]}: days in virtual time", flush=True)
    with Days.on_own_server() as days, _planted(days.template, options.plant):
        results = [days.live(partial(IdleDay, seed=seeds[0]))]
        _printed(results[0])
        for seed in seeds:
            results.append(days.live(partial(BusyDay, seed=seed)))
            if results[-1].wrong:
                _printed(results[-1])
                if options.plant:
                    break
    yield _printed(together(results))


def _model(options: argparse.Namespace) -> Iterator[Result]:
    """Like :func:`_days`."""
    seeds = range(options.seed, options.seed + options.model)
    print(f"Seeds {seeds[0]} to {seeds[-1]}: the model", flush=True)
    yield _printed(together(model.run(seeds, options.plant)))


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Result]]] = {
    "jobs": _jobs,
    "restored": _restored,
    "tasks": _limits,
    "rated": _rate,
    "bursts": _bursts,
    "graphs": _graphs,
    "moves": _moves,
    "waits": _waits,
    "days": _days,
    "model": _model,
}
"""Part, whose number is an option of this name → its results."""


def _printed(result: Result) -> Result:
    print(result.table(), flush=True)
    return result


def _planted(url: str, bug: str | None) -> contextlib.AbstractContextManager[None]:
    return planted(url, bug) if bug else contextlib.nullcontext()


class Nowhere(io.TextIOBase):
    """A stream that drops what it gets. It stays open, because the process's logger keeps the stream of its start."""

    def write(self, text: str) -> int:
        return len(text)


NOWHERE = Nowhere()


def _stormed(options: argparse.Namespace, what: str, storm: Callable[[str, int], ThreadStorm | MovesStorm]) -> Result:
    """Run a storm on its own server, and print its table. Keep its rows if it has violated a rule. What the workers
    print is not shown."""
    print(f"Seed {options.seed}: {what}", flush=True)
    with TemporaryDirectory() as folder, own_server(Path(folder)) as server:
        url = server.database_url(database(server, "limits"))
        with contextlib.redirect_stdout(NOWHERE), _planted(url, options.plant):
            result = storm(url, options.seed).go()
        _printed(result)
        if result.wrong and not options.plant:
            print(keep_rows(url, Path(mkdtemp(prefix="storm-"))), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
