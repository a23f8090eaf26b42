"""The parts that the programs of the peers share: the verbs, and the producer's commands. Standard library only.

A program runs as ``python -m tests.bench.peers.NAME_program VERB`` in the peers' environment, with its settings in
environment variables. It has functions and a class of these names:

- ``install()`` creates the system's own tables in ``DATABASE_URL``.
- ``describe()`` returns the fields of a :class:`Description`.
- ``worker(concurrency)`` returns the command of a worker, that of the system's documentation.
- ``Producer`` has the calls ``one``, ``many`` (one bulk call), ``transaction`` (each job with a row of business data)
  and ``rows`` (the same transactions without the job), each ``(job, first, count)``, and may have ``open`` and
  ``close``. A job is ``noop``, ``effect`` or ``long``; its argument is a number, ``first`` and following. ``count``
  is 1 except for a bulk call.

``install`` and the producer's methods may be async. The verb ``produce`` reads lines ``CALL JOB FIRST COUNT`` and
answers each by ``done CPU SECONDS`` (seconds of this process and of the clock) or ``error TEXT``. All calls but a bulk
call are made for one job at a time, with a pause of ``BENCH_PAUSE`` seconds before each, by default 0.005, as in a web
process that does other work in between.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

PAUSE_SECONDS = float(os.environ.get("BENCH_PAUSE", "0.005"))


@dataclass(frozen=True)
class Description:
    """A system, for the harness and for the page."""

    packages: tuple[str, ...]
    """Distributions whose versions are reported."""
    record: bool
    """True if the system keeps a record of each job in PostgreSQL."""
    settings: Mapping[str, str]
    """Setting → its source in the documentation."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Name of a call → how the system does it."""
    calls: tuple[str, ...] = ("one", "many", "transaction", "rows")
    """The producer's calls."""
    unfinished: str | None = None
    """Statement that counts jobs that have not ended. None: they are in ``queues``."""
    queues: tuple[str, ...] = ()
    """Names of its SQS queues."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Name of a call that the system does not have → the reason."""


def main(name: str) -> None:
    """Run the verb in ``sys.argv`` of the program in module ``name``.

    The module is imported by its name, because some systems derive the names of jobs from that of their module.
    """
    program = importlib.import_module(name)
    with asyncio.Runner() as runner:

        def finished(result: Any) -> Any:
            return runner.run(_awaited(result)) if inspect.isawaitable(result) else result

        match sys.argv[1:]:
            case ["install"]:
                finished(program.install())
            case ["describe"]:
                print(json.dumps(asdict(Description(**program.describe()))))
            case ["worker", concurrency]:
                command = program.worker(int(concurrency))
                os.execvp(command[0], command)
            case ["produce"]:
                _produce(program.Producer(), finished)
            case _:
                sys.exit("install, describe, worker N or produce")


async def _awaited(result: Any) -> Any:
    return await result


def _produce(producer: Any, finished: Callable[[Any], Any]) -> None:
    if hasattr(producer, "open"):
        finished(producer.open())
    print("ready", flush=True)
    for line in sys.stdin:
        name, job, first, count = line.split()
        call, numbers = getattr(producer, name), range(int(first), int(first) + int(count))
        parts = [(numbers.start, len(numbers))] if name.startswith("many") else [(number, 1) for number in numbers]
        try:
            print("done", *finished(_spent(partial(call, job), parts)), flush=True)
        except Exception as error:
            print("error", " ".join(f"{type(error).__name__}: {error}".split())[:500], flush=True)
    if hasattr(producer, "close"):
        finished(producer.close())


async def _spent(call: Callable[[int, int], Any], parts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Call for each part, and return the processor time of this process and the time, without the pauses."""
    cpu = seconds = 0.0
    for part in parts:
        if len(parts) > 1:
            await asyncio.sleep(PAUSE_SECONDS)
        started, started_cpu = time.perf_counter(), time.process_time()
        result = call(*part)
        if inspect.isawaitable(result):
            await result
        cpu += time.process_time() - started_cpu
        seconds += time.perf_counter() - started
    return cpu, seconds


def script(name: str) -> str:
    """Return the path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


@cache
def _ran() -> int:
    return os.open(os.environ["BENCH_RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def ran() -> None:
    """Append one byte to the file of jobs that have run: the work of ``noop``."""
    os.write(_ran(), b".")


def rescue_seconds() -> int:
    """Return the time after which a job of a killed worker runs again, where the system has such a setting."""
    return int(os.environ["BENCH_RESCUE"])


def check_seconds() -> int:
    """Return the interval of a search for jobs of killed workers, where the system has such a setting."""
    return rescue_seconds() // 6
