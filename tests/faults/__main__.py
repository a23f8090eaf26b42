"""``make faults``: a long run from a seed, storms of limits, of graphs and of debounced enqueues, a run of a rate, days
in virtual time, the model, and their reports."""

from __future__ import annotations

import argparse
import contextlib
import io
import secrets
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from tests.faults import debounce_plants, graph_plants, limit_plants
from tests.faults.days import plants as day_plants
from tests.faults.days.busy import BusyDay
from tests.faults.days.days import Days, together
from tests.faults.days.idle import IdleDay
from tests.faults.debounce_storm import DebounceStorm
from tests.faults.dying_workers import Result
from tests.faults.graph_storm import GraphStorm
from tests.faults.limit_storm import Storm
from tests.faults.model import plants as model_plants
from tests.faults.model import seeds as model
from tests.faults.plants import PLANTS
from tests.faults.rate_run import RateRun
from tests.faults.report import keep_rows, table
from tests.faults.run import run
from tests.faults.server_of_its_own import database, own_server

CALM = 5
"""The storm in which no worker dies has this part of the tasks of the other one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--jobs", type=int, default=2000, help="0: no run of jobs")
    parser.add_argument("--tasks", type=int, default=10_000, help="of the storm of limits; 0: no storm")
    parser.add_argument("--rated", type=int, default=5000, help="tasks of the run of a rate; 0: no such run")
    parser.add_argument("--bursts", type=float, default=10, help="virtual minutes of debounced enqueues; 0: none")
    parser.add_argument("--graphs", type=int, default=1000, help="of the storm of graphs; 0: no storm")
    parser.add_argument("--days", type=int, default=100, help="busy days in virtual time; 0: none")
    parser.add_argument("--model", type=int, default=40, help="seeds of the model; 0: none")
    parser.add_argument("--minutes", type=float, default=15, help="after this time a run counts as stuck")
    parts = (
        ("jobs", _run_jobs, PLANTS),
        ("tasks", _run_limits, limit_plants.PLANTS),
        ("rated", _run_rate, limit_plants.RATE_PLANTS),
        ("bursts", _run_bursts, debounce_plants.PLANTS),
        ("graphs", _run_graphs, graph_plants.PLANTS),
        ("days", _run_days, day_plants.PLANTS),
        ("model", _run_model, model_plants.PLANTS),
    )
    names = sorted(bug for _, _, bugs in parts for bug in bugs)
    parser.add_argument("--plant", choices=names, help="a bug that its run must find")
    parser.add_argument("--only", choices=[number for number, _, _ in parts], help="the part that runs; all by default")
    options = parser.parse_args()
    wrong = False
    for number, run_part, bugs in parts:
        is_wanted = options.only in (None, number) and (not options.plant or options.plant in bugs)
        if getattr(options, number) and is_wanted:
            wrong |= run_part(options)
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
    wrong = False
    for deaths, tasks in ((0.3, options.tasks), (0.0, options.tasks // CALM)):
        print(f"Seed {options.seed}: {tasks} tasks with limits, {deaths:.0%} deaths", flush=True)
        with _database(options.plant) as url:
            result = Storm(
                url, options.seed, tasks, keys=max(20, tasks // 20), deaths=deaths, seconds=60 * options.minutes
            ).go()
            wrong |= _reported(options, result, url)
    return wrong


def _run_rate(options: argparse.Namespace) -> bool:
    """Like :func:`_run_jobs`."""
    print(f"Seed {options.seed}: {options.rated} tasks with a rate", flush=True)
    with _database(options.plant) as url:
        result = RateRun(url, options.seed, options.rated, seconds=60 * options.minutes).go()
        return _reported(options, result, url)


def _run_bursts(options: argparse.Namespace) -> bool:
    """Like :func:`_run_jobs`."""
    print(f"Seed {options.seed}: {options.bursts:g} virtual minutes of debounced enqueues", flush=True)
    with _database(options.plant) as url:
        result = DebounceStorm(url, options.seed, seconds=60 * options.bursts, real_seconds=60 * options.minutes).go()
        return _reported(options, result, url)


def _run_graphs(options: argparse.Namespace) -> bool:
    """Like :func:`_run_limits`."""
    wrong = False
    for deaths, graphs in ((0.3, options.graphs), (0.0, options.graphs // CALM)):
        print(f"Seed {options.seed}: {graphs} graphs of tasks, {deaths:.0%} deaths", flush=True)
        with _database(options.plant) as url:
            result = GraphStorm(url, options.seed, graphs, deaths=deaths, seconds=60 * options.minutes).go()
            wrong |= _reported(options, result, url)
    return wrong


def _run_days(options: argparse.Namespace) -> bool:
    """Like :func:`_run_jobs`. Each day has a seed of its own: that of the run, the next one, and so on."""
    seeds = range(options.seed, options.seed + options.days)
    print(f"Seeds {seeds[0]} to {seeds[-1]}: days in virtual time", flush=True)
    planted = day_plants.planted(options.plant) if options.plant else contextlib.nullcontext()
    with Days.on_own_server() as days, planted:
        results = [days.live(partial(IdleDay, seed=seeds[0]))]
        print(results[0].table(), flush=True)
        for seed in seeds:
            results.append(days.live(partial(BusyDay, seed=seed)))
            if results[-1].wrong:
                print(results[-1].table(), flush=True)
                if options.plant:
                    break
    print(together(results).table(), flush=True)
    return any(result.wrong for result in results)


def _run_model(options: argparse.Namespace) -> bool:
    """Like :func:`_run_days`."""
    seeds = range(options.seed, options.seed + options.model)
    print(f"Seeds {seeds[0]} to {seeds[-1]}: the model", flush=True)
    results = model.run(seeds, options.plant)
    print(model.together(results).table(), flush=True)
    return any(result.wrong for result in results)


def _reported(options: argparse.Namespace, result: Result, url: str) -> bool:
    """Print the table of a storm, and keep its rows if it has violated a rule."""
    print(result.table(), flush=True, file=sys.__stdout__)
    if result.wrong and not options.plant:
        print(keep_rows(url, Path(mkdtemp(prefix="storm-"))), flush=True, file=sys.__stdout__)
    return bool(result.wrong)


class Nowhere(io.TextIOBase):
    """A stream that drops what it gets. It stays open, because the process's logger keeps the stream of its start."""

    def write(self, text: str) -> int:
        return len(text)


NOWHERE = Nowhere()


@contextlib.contextmanager
def _database(plant: str | None) -> Iterator[str]:
    """Return a database on its own server. What the workers print is not shown."""
    with TemporaryDirectory() as folder, own_server(Path(folder)) as server:
        url = server.database_url(database(server, "limits"))
        with (
            contextlib.redirect_stdout(NOWHERE),
            _planted(url, plant) if plant else contextlib.nullcontext(),
        ):
            yield url


def _planted(url: str, plant: str) -> contextlib.AbstractContextManager[None]:
    if plant in graph_plants.PLANTS:
        return graph_plants.planted(url, plant)
    if plant in debounce_plants.PLANTS:
        return debounce_plants.planted(url, plant)
    return limit_plants.planted(url, plant)


if __name__ == "__main__":
    sys.exit(main())
