"""The CPU seconds of each folder of tests, which have a bound: ``pytest --seconds``, as in ``make test``.

They are the seconds of each worker and of all its child processes, servers included, from the first test of a file to
the last. A short loop measures after each file how fast Python runs at this moment. It converts the seconds to those of
the machine that measured the table. So a slower machine, or one with much else to do, keeps the same bounds.

``tests/seconds.txt`` is the table. A folder may need :data:`MARGIN` times its number there, and :data:`START` more. A
change that needs more writes the new numbers with ``--seconds=write``, and says why in its commit.
``.joblane/durations.txt`` has the seconds of this run, the files with the most, and the slowest tests.
"""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TABLE, DURATIONS = ROOT / "tests" / "seconds.txt", ROOT / ".joblane" / "durations.txt"
COLLECTION, DEEP = "collection", "tests/integration"
MARGIN = 1.5
START = 10
"""The seconds of the imports and of the server of a worker, which the first folder with a test that needs them has."""
LOOP_SECONDS = 0.00028
"""The CPU seconds of :func:`loop` on the machine of the table."""
SHOWN = 40
REMEDY = "Make its tests cheaper, or write the new number with --seconds=write and say why in the commit."
TICKS = os.sysconf("SC_CLK_TCK")


def loop() -> float:
    """Return the CPU seconds of a loop, the least of a few runs."""
    runs = []
    for _ in range(3):
        started = time.thread_time()
        sum(number * number for number in range(12_000))
        runs.append(time.thread_time() - started)
    return min(runs)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all processes that it has started, ended or not."""
    seconds = _live(os.getpid())
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        seconds += used.ru_utime + used.ru_stime
    return seconds


def _live(pid: int) -> float:
    """Return the seconds of the living children of a process, and of theirs. Not Linux: 0."""
    seconds = 0.0
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended at this moment
            for child in thread.read_text().split():
                used = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()[11:15]
                seconds += sum(map(int, used)) / TICKS + _live(int(child))
    return seconds


def folder_of(file: str) -> str:
    """Return the folder below ``tests``, and for :data:`DEEP` the one below that."""
    *folders, _ = file.split("/") if "/" in file else (file, "")
    return "/".join(folders[: 3 if file.startswith(DEEP) else 2])


def bounds() -> dict[str, float]:
    """Return the bound of each folder of the table."""
    lines = (line.split() for line in TABLE.read_text().splitlines())
    return {folder: MARGIN * float(seconds) + START for seconds, folder in lines}


def listed(seconds: dict[str, float]) -> str:
    most = sorted(seconds, key=lambda name: -seconds[name])[:SHOWN]
    return "".join(f"{seconds[name]:8.1f}  {name}\n" for name in most)


class Seconds:
    """Counts in each worker, and adds up in the process that reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._files: dict[str, float] = defaultdict(float)
        self._tests: dict[str, float] = defaultdict(float)
        self._last = self._factor = 0.0

    def pytest_collection_finish(self) -> None:
        self._count(COLLECTION)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        result = yield
        if nextitem is None or nextitem.path != item.path:
            self._count(item.nodeid.partition("::")[0])
        return result

    def _count(self, file: str) -> None:
        now, factor = cpu_seconds(), LOOP_SECONDS / loop()
        self._files[file] += (now - self._last) * (factor + (self._factor or factor)) / 2
        self._last, self._factor = now, factor

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tests[report.nodeid] += report.duration

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker has counted. A worker that died has nothing."""
        for file, seconds in getattr(node, "workeroutput", {}).get("seconds", {}).items():
            self._files[file] += seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workerinput"):
            vars(self._config)["workeroutput"]["seconds"] = dict(self._files)
        elif self._config.option.seconds == "write":
            self._write()
        elif self._above() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _folders(self) -> dict[str, float]:
        folders: dict[str, float] = defaultdict(float)
        for file, seconds in self._files.items():
            folders[folder_of(file)] += seconds
        return folders

    def _above(self) -> list[str]:
        """Return a sentence for each folder above its bound, or without one."""
        known, sentences = bounds(), []
        for folder, seconds in self._folders().items():
            if folder not in known:
                sentences.append(f"{folder} took {seconds:.0f} CPU seconds and has no line in tests/seconds.txt")
            elif seconds > known[folder]:
                sentences.append(f"{folder} took {seconds:.0f} CPU seconds, above its bound of {known[folder]:.0f}")
        return sentences if known else []

    def _write(self) -> None:
        numbers = {folder: seconds for seconds, folder in map(str.split, TABLE.read_text().splitlines())}
        numbers |= {folder: f"{seconds:.0f}" for folder, seconds in self._folders().items()}
        TABLE.write_text("".join(f"{numbers[folder]:>5} {folder}\n" for folder in sorted(numbers)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        folders = self._folders()
        parts = {
            "CPU seconds of folders": folders,
            "CPU seconds of files": self._files,
            "Seconds of tests": self._tests,
        }
        DURATIONS.parent.mkdir(exist_ok=True)
        DURATIONS.write_text("\n".join(f"{title}\n{listed(part)}" for title, part in parts.items()))
        terminalreporter.section("CPU seconds")
        terminalreporter.write(listed(folders))
        terminalreporter.line(
            f"{sum(folders.values()):8.1f}  in all; {DURATIONS.relative_to(ROOT)} has files and slow tests"
        )
        for sentence in self._above():
            terminalreporter.line(f"ERROR: {sentence}. {REMEDY}", red=True)
