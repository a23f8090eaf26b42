"""The cost of a crash: killed workers, a job that is longer than the rescue time, and PostgreSQL stopped.

The effect of a job is a row with its number, written in the transactional way that the system documents. Afterwards the
rows are counted: a number without a row is lost, and each further row of a number is doubled.

- **Kills.** Chosen jobs kill the process of their worker at their first run: before the write, before the commit, or
  within 10 ms of the handler's return, while the system records the end. The systems run one after the other, with the
  same seed.
- **Long.** A job sleeps longer than the time after which the system gives a job of a lost worker to another one.
- **Outage.** A lock on the table of effects stops all jobs in the middle of their work, then PostgreSQL is stopped.
  Each second, a producer of each system tries to enqueue a job. All systems run at the same time, on servers of their
  own, while the kills happen on the other ones.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pg8000.exceptions import Error as PostgresError

from joblane.record.driver.database import Database
from tests.bench.peers import kills
from tests.bench.peers.peer import Bench, Peer, PeerError
from tests.bench.peers.systems import open_peer

SEED = 20
SLOTS, PROCESSES = 5, 2
"""Jobs at a time in each worker process, and worker processes."""
VARIANTS = {
    "joblane": {f"joblane, batch {batch}": {"BENCH_TIMEOUT": "2", "BENCH_BATCH": str(batch)} for batch in (1, 10)}
}
"""System → the variants whose workers are killed → their settings."""
RESCUE_SECONDS = 30
LONG_SECONDS = 45
LONG_JOBS = 5
LONG_DEADLINE_SECONDS = 180.0
"""Time for three more runs of a job that is taken for lost."""
BULK = 1_000
FIRST_WARM, FIRST_BEFORE, FIRST_DURING = 1_000_000, 2_000_000, 3_000_000
"""The first numbers of the jobs that start all workers, of the jobs before the outage, and of the jobs during it."""
BLOCKED_SECONDS = 8.0
"""The longest time for which jobs wait for the lock. It is shorter than the timeout of Joblane's task."""
WARM_SECONDS = 60.0
PRODUCER_SECONDS = 60.0
"""The time for an enqueue that waits for PostgreSQL, after the outage."""
QUIET_CHECKS = 3
"""Checks, a second apart, that must find no unfinished job. A message between two queues is in neither."""


class InterruptedRunError(Exception):
    """The main thread was interrupted."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run. ``deadline_seconds``: for all jobs, from the start of the workers or of PostgreSQL."""

    jobs: int
    kills: int
    jobs_before_outage: int
    outage_seconds: int
    deadline_seconds: int


FULL = Size(jobs=3_000, kills=30, jobs_before_outage=200, outage_seconds=600, deadline_seconds=420)
QUICK = Size(jobs=500, kills=10, jobs_before_outage=40, outage_seconds=20, deadline_seconds=240)

INTERRUPTED = threading.Event()
"""Ends the waits of the thread of the outage. Only the main thread hears Ctrl-C."""
FAILURES = (PeerError, PostgresError, OSError, BotoCoreError, ClientError)
Results = dict[str, Any]
Servers = Callable[[], Any]
"""Starts PostgreSQL and an emulator: a context manager that yields a :class:`Bench`."""


def run(
    bench: Bench,
    systems: Sequence[str],
    *,
    quick: bool,
    report: Callable[[str, float | None], object],
    servers: Servers,
) -> Results:
    """Return the results of all systems. ``servers``: starts those of the outage."""
    size = QUICK if quick else FULL
    variants = [
        (name, variant, settings) for name in systems for variant, settings in VARIANTS.get(name, {name: {}}).items()
    ]
    with ThreadPoolExecutor(1) as second, _interrupting():
        outage_and_long = second.submit(_outage_and_long, servers, systems, size)
        killed = {}
        for number, (name, variant, settings) in enumerate(variants):
            report(f"kills, {variant}", number / len(variants))
            killed[variant] = _result(partial(_kills, bench, name, settings, size))
        report("PostgreSQL stopped", None)
        outage, long, described = outage_and_long.result()
    return {
        "size": asdict(size),
        "seed": SEED,
        "slots": SLOTS,
        "processes": PROCESSES,
        "rescue_seconds": RESCUE_SECONDS,
        "long_seconds": LONG_SECONDS,
        "systems": described,
        "kills": killed,
        "long": long,
        "outage": outage,
    }


@contextmanager
def _interrupting() -> Iterator[None]:
    try:
        yield
    except BaseException:
        INTERRUPTED.set()
        raise


def _pause(seconds: float) -> None:
    if INTERRUPTED.wait(seconds):
        raise InterruptedRunError


def _result(part: Callable[[], Results]) -> Results:
    """Return a part's results, or the reason why there are none."""
    try:
        return part()
    except FAILURES as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def _settings(folder: Path, plan: kills.Plan) -> dict[str, str]:
    (folder / "kills.json").write_text(json.dumps(plan))
    (folder / "runs").touch()
    return {
        "BENCH_RESCUE": str(RESCUE_SECONDS),
        "BENCH_LONG": str(LONG_SECONDS),
        "BENCH_RUNS": str(folder / "runs"),
        "BENCH_KILLS": str(folder / "kills.json"),
    }


# --- Killed workers ---------------------------------------------------------------------------------------------------


def _kills(bench: Bench, name: str, settings: Mapping[str, str], size: Size) -> Results:
    with TemporaryDirectory(prefix="bench-crashes-") as temporary:
        folder = Path(temporary)
        plan = kills.plan(SEED, size.jobs, size.kills)
        with open_peer(name, bench, {**_settings(folder, plan), **settings}) as peer:
            for first in range(0, size.jobs, BULK):
                peer.produce("many", "effect", first, min(BULK, size.jobs - first))
            started = time.time()
            peer.work(SLOTS, processes=PROCESSES)
            unfinished = _await_quiet(peer, size.deadline_seconds)
            peer.stop_work()
            killed_at = {int(file.suffix[1:]): file.stat().st_mtime for file in folder.glob("kills.json.*")}
            effects = _effects(peer.url)
            return {
                **lost_and_doubled(effects, range(size.jobs), unfinished),
                "killed": len(killed_at),
                "runs": len((folder / "runs").read_text().split()),
                "seconds": max((time for times in effects.values() for time in times), default=started) - started,
                "rerun_seconds": seconds_until_effect(plan, killed_at, effects),
            }


def seconds_until_effect(
    plan: kills.Plan, killed_at: Mapping[int, float], effects: Mapping[int, Sequence[float]]
) -> Results:
    """Return the time between a kill that left no effect and the effect of the job's next run, in seconds."""
    none_left = [number for number in killed_at if plan[str(number)][0] != kills.AFTER_RETURN and number in effects]
    delays = [effects[number][0] - killed_at[number] for number in none_left]
    if not delays:
        return {"n": 0}
    return {"n": len(delays), "median": statistics.median(delays), "min": min(delays), "max": max(delays)}


def _await_quiet(peer: Peer, seconds: float) -> int:
    """Wait until no job is unfinished. Return the number of unfinished jobs, which is not 0 after ``seconds``."""
    until, quiet = time.monotonic() + seconds, 0
    while True:
        unfinished = peer.unfinished()
        quiet = quiet + 1 if unfinished == 0 else 0
        if quiet == QUIET_CHECKS or time.monotonic() > until:
            return unfinished
        _pause(1)


def _effects(url: str) -> dict[int, list[float]]:
    """Return number → times of its rows."""
    found: dict[int, list[float]] = {}
    with Database(url, limits=None) as database:
        for number, at in database.get().run("select number, extract(epoch from at)::float8 from effects order by at"):
            found.setdefault(number, []).append(at)
    return found


def lost_and_doubled(effects: Mapping[int, Sequence[float]], numbers: Sequence[int], unfinished: int) -> dict[str, int]:
    """Count the jobs that have ended without a row, and the further rows. ``effects``: number → times of its rows."""
    missing = sum(number not in effects for number in numbers)
    return {
        "jobs": len(numbers),
        "unfinished": unfinished,
        "lost": max(0, missing - unfinished),
        "doubled": sum(len(effects[number]) - 1 for number in numbers if number in effects),
    }


# --- A long job, and PostgreSQL stopped -------------------------------------------------------------------------------


def _outage_and_long(servers: Servers, systems: Sequence[str], size: Size) -> tuple[Results, Results, Results]:
    with ExitStack() as stack:
        bench = stack.enter_context(servers())
        peers: dict[str, Peer] = {}
        failed: Results = {}
        for name in systems:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-crashes-")))
            try:
                peers[name] = stack.enter_context(open_peer(name, bench, _settings(folder, {})))
                peers[name].work(SLOTS, processes=PROCESSES)
            except FAILURES as error:
                failed[name] = {"failed": f"{type(error).__name__}: {error}"}
        described = {name: peer.described() for name, peer in peers.items()}
        outage = _outage(bench, peers, size)
        with ThreadPoolExecutor(len(peers) or 1) as threads:  # last, because some of its jobs do not end
            long = dict(
                zip(peers, threads.map(lambda peer: _result(partial(_long, peer)), peers.values()), strict=True)
            )
        return failed | outage, failed | long, described


def _long(peer: Peer) -> Results:
    numbers = range(LONG_JOBS)
    peer.produce("many", "long", numbers.start, len(numbers))
    unfinished = _await_quiet(peer, LONG_DEADLINE_SECONDS)
    runs = Path(peer.environment["BENCH_RUNS"]).read_text().split()
    return {
        **lost_and_doubled(_effects(peer.url), numbers, unfinished),
        "runs": sum(int(number) in numbers for number in runs),
    }


@dataclass
class Attempts:
    """The enqueues of a producer while PostgreSQL is stopped."""

    accepted: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    error: str = ""
    longest_seconds: float = 0.0


def _outage(bench: Bench, peers: Mapping[str, Peer], size: Size) -> Results:
    before = range(FIRST_BEFORE, FIRST_BEFORE + size.jobs_before_outage)
    results: Results = {}
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(peers) or 1))
        wait([threads.submit(_warm, peer) for peer in peers.values()])
        blocked = {name: threads.submit(_blocked, peer, before, stack) for name, peer in peers.items()}
        running = {name: _result(jobs.result) for name, jobs in blocked.items()}
        bench.server.stop()
        stopped, over = time.monotonic(), threading.Event()
        attempts = {name: Attempts() for name in peers}
        producers = {threads.submit(_enqueue, peer, attempts[name], over): peer for name, peer in peers.items()}
        try:
            _pause(size.outage_seconds)
            bench.server.start()
            started_at, took = time.time(), time.monotonic() - stopped
        finally:
            over.set()
            wait(producers, 0 if INTERRUPTED.is_set() else PRODUCER_SECONDS)
            for producer, peer in producers.items():
                if not producer.done():
                    peer.stop_producing()
        ends = {
            name: threads.submit(_after_outage, peer, before, attempts[name], started_at, size)
            for name, peer in peers.items()
        }
        for name, end in ends.items():
            results[name] = running[name] | _result(end.result) | {"outage_seconds": took}
    return results


def _warm(peer: Peer) -> None:
    """Let every worker run a job."""
    peer.produce("many", "effect", FIRST_WARM, SLOTS * PROCESSES)
    _await_quiet(peer, WARM_SECONDS)


def _blocked(peer: Peer, numbers: range, stack: ExitStack) -> Results:
    """Enqueue jobs and wait until their effects wait for a lock. Return the number of jobs that do."""
    lock = stack.enter_context(Database(peer.url, limits=None)).get()
    lock.execute_simple("begin; lock table effects in exclusive mode")
    peer.produce("many", "effect", numbers.start, len(numbers))
    until, waiting = time.monotonic() + BLOCKED_SECONDS, 0
    while waiting < SLOTS * PROCESSES and time.monotonic() < until:
        _pause(0.2)
        waiting = lock.run(
            "select count(*)::int from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )[0][0]
    return {"running": waiting}


def _enqueue(peer: Peer, attempts: Attempts, over: threading.Event) -> None:
    """Enqueue a job each second, or when the last call has returned, until ``over``."""
    number = FIRST_DURING
    while not over.wait(1):
        started = time.monotonic()
        try:
            peer.produce("one", "effect", number, 1)
            attempts.accepted.append(number)
        except PeerError as error:
            attempts.refused.append(number)
            attempts.error = str(error)
        attempts.longest_seconds = max(attempts.longest_seconds, time.monotonic() - started)
        number += 1


def _after_outage(peer: Peer, before: range, attempts: Attempts, started_at: float, size: Size) -> Results:
    unfinished = _await_quiet(peer, size.deadline_seconds)
    effects = _effects(peer.url)
    after = [at - started_at for times in effects.values() for at in times if at > started_at]
    return {
        **lost_and_doubled(effects, [*before, *attempts.accepted], unfinished),
        "accepted": len(attempts.accepted),
        "refused": len(attempts.refused),
        "refused_and_run": sum(number in effects for number in attempts.refused),
        "error": attempts.error,
        "longest_enqueue_seconds": attempts.longest_seconds,
        "restarts": peer.restarts,
        "first_effect_seconds": min(after, default=None),
        "last_effect_seconds": max(after, default=None),
    }
