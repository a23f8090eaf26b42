"""Check that tests find faults: ``.venv/bin/python -m tests.mutants --seed 1 --number 10 tests/integration/record``.

The tests run once, and must pass. Faults are drawn with the seed: from lines of functions that the tests have run in
their own process, and from SQL if they have used a database. Each fault is put into a copy of the checkout. The tests
run there until one fails; the first are the tests that run the line. A killed run leaves no fault in the checkout, only
the copy in the folder for temporary files.

``--json FILE`` keeps the faults, and ``--again FILE`` repeats them, found by their lines: before and after tests are
removed. A fault with ``gone`` has no such line any more. Exit status: 1 if a test has found a fault before, and no test
does now; 2 if the tests fail without a fault.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY, DATABASE = "shared/joblane", "shared/joblane/record/driver/connection.py"
LISTED = "shared/joblane/record"
"""A fault here may change the functions of the schema. A migration refuses functions that ``schema.txt`` lacks."""
REPORT = "JOBLANE_MUTANTS"
"""The file in which this module, as a plugin of pytest, reads the order of the tests and writes what they did."""
SQL_SHARE = 3
"""A fault in so many is in SQL."""
NOT_FOUND, GONE, TOO_LONG = "not found", "gone", "the tests do not end"

COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
STATES = ("scheduled", "pending", "held", "active", "retry", "completed", "archived", "cancelled")
COLUMNS = {
    "due_at": "deadline", "deadline": "due_at", "lease_until": "due_at", "attempts": "runs", "runs": "attempts",
    "first_due_at": "due_at", "unique_expires_at": "due_at", "finished_at": "started_at", "dead_sent_at": "finished_at",
    "unique_key": "tick_key", "shared_limit": "total_limit", "total_limit": "key_limit", "key_limit": "total_limit",
    "generation": "attempts", "seq": "generation",
}  # fmt: skip
"""Column of a task → another of its type."""
SQL = (
    (r"\b(when|if|elsif)\s+(.+?)\s+then\b", r"\1 not (\2) then"),
    (r"\b(where)\s+", r"\1 not "),
    (r"^(\s*and)\s+", r"\1 not "),
    *((rf"'{one}'", f"'{other}'") for one, other in itertools.pairwise((*STATES, STATES[0]))),
    *((rf"\b([a-z]\.){one}\b", rf"\g<1>{other}") for one, other in COLUMNS.items()),
)
"""Pattern in a line of SQL → what a fault makes of it."""


@dataclass(frozen=True)
class Fault:
    """``before`` and ``after`` are whole lines, the first of which has the number ``line``."""

    file: str
    line: int
    before: str
    after: str
    found: str = ""


def python_faults(file: str, text: str, lines: set[int]) -> Iterator[Fault]:
    """Yield the faults in these lines of functions."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in dict.fromkeys(inner for one in functions for statement in one.body for inner in ast.walk(statement)):
        if getattr(node, "lineno", 0) in lines:
            for start, end, new in _edits(node, text):
                yield _fault(file, text, start, end, new)


def sql_faults(file: str, text: str) -> Iterator[Fault]:
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("--")[0]
        for pattern, new in SQL:
            for found in re.finditer(pattern, code):
                after = line[: found.start()] + found.expand(new) + line[found.end() :]
                yield Fault(file, number, line, after)


def _edits(node: ast.AST, text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the start and the end of what to replace, and what to write there."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            start, end = _span(test, text)
            yield start, end, f"(not ({text[start:end]}))"
        case ast.BoolOp(op=op, values=[one, other, *_]):
            word, new = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from _between(one, other, word, new, text)
        case ast.Compare(left=left, ops=[op, *_], comparators=[right, *_]):
            yield from _between(left, right, *COMPARISONS[type(op)], text)
        case ast.Constant(value=bool() | int() | float() as value):
            new = str(not value) if isinstance(value, bool) else str(value + 1)
            yield *_span(node, text), new
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield *_span(node, text), "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield *_span(node, text), "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield *_span(node, text), "pass"


def _between(one: ast.expr, other: ast.expr, word: str, new: str, text: str) -> Iterator[tuple[int, int, str]]:
    start, end = _span(one, text)[1], _span(other, text)[0]
    if text[start:end].count(word) == 1:
        yield start, end, text[start:end].replace(word, new)


def _span(node: ast.AST, text: str) -> tuple[int, int]:
    """Return the start and the end of a node in the text. The columns of ``ast`` count bytes."""
    lines = text.splitlines(keepends=True)

    def place(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    assert isinstance(node, ast.stmt | ast.expr)
    return place(node.lineno, node.col_offset), place(node.end_lineno or 0, node.end_col_offset or 0)


def _fault(file: str, text: str, start: int, end: int, new: str) -> Fault:
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    return Fault(file, text.count("\n", 0, start) + 1, text[first:last], text[first:start] + new + text[end:last])


class Copy:
    """A copy of a checkout, in which tests run with the packages of this interpreter."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder, self._report = folder / "checkout", folder / "report.json"
        self._changed_at = itertools.count(int(time.time()) - 10**6)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        for name in subprocess.check_output(listed, cwd=root, text=True).split("\0"):
            if name and (root / name).is_file():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self._folder / name)
        for name in (".venv", ".joblane/tools", "node_modules", ".git"):
            if (root / name).exists():
                (self._folder / name).parent.mkdir(exist_ok=True)
                (self._folder / name).symlink_to(root / name)

    def read(self, file: str) -> str:
        return (self._folder / file).read_text("utf-8")

    def files(self, places: Sequence[str], suffix: str) -> list[str]:
        found = (one for place in places for one in ((self._folder / place).rglob(f"*{suffix}")))
        return sorted({str(one.relative_to(self._folder)) for one in found} | {p for p in places if p.endswith(suffix)})

    @contextmanager
    def changed(self, fault: Fault) -> Iterator[bool]:
        """Put the fault into the file. False: its lines are not there, or PostgreSQL refuses the function."""
        original = self.read(fault.file) if (self._folder / fault.file).exists() else ""
        listing = self._folder / LISTED / "migrations" / "schema.txt"
        before = listing.read_text() if fault.file.startswith(LISTED) else ""
        places = [one.start(1) for one in re.finditer(rf"(?:^|\n)({re.escape(fault.before)})(?=\n|$)", original)]
        if not places:
            yield False
            return
        near = min(places, key=lambda place: abs(original.count("\n", 0, place) + 1 - fault.line))
        self._write(fault.file, original[:near] + fault.after + original[near + len(fault.before) :])
        try:
            is_listed = not before or self._run([sys.executable, "-m", "tests.listing"], 600) == 0
            if not is_listed:
                listing.write_text(before)
            yield is_listed or fault.file.endswith(".py")
        finally:
            self._write(fault.file, original)
            if before:
                listing.write_text(before)

    def test(self, tests: Sequence[str], *, first: Sequence[str] = (), seconds: float, covers: bool = False) -> Any:
        """Run the tests until one fails. Return what the plugin has written."""
        self._report.write_text(json.dumps({"first": first, "covers": covers, "failed": TOO_LONG}))
        self._run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "tests.mutants", *tests],
            seconds,
        )
        report = json.loads(self._report.read_text())
        return report | {
            "covered": {key.removeprefix(f"{self._folder}/"): by for key, by in report.get("covered", {}).items()}
        }

    def _run(self, command: Sequence[str], seconds: float) -> int | None:
        """Return the exit status. None: the program did not end in time. SIGTERM stops the tests' processes too."""
        path = os.pathsep.join((str(self._folder / "shared"), str(self._folder), str(ROOT)))
        environment = os.environ | {"PYTHONPATH": path, REPORT: str(self._report)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each run would compile all modules
        output = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=self._folder, env=environment, stdout=output, stderr=output) as process:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    return process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                    seconds = 60
        return None

    def _write(self, file: str, text: str) -> None:
        """Write a file with a new time, or Python would take the compiled file of a fault of the same length."""
        (self._folder / file).write_text(text, "utf-8")
        changed_at = next(self._changed_at)
        os.utime(self._folder / file, (changed_at, changed_at))


class Plugin:
    """The tests that run each line of a folder, if the report asks for them, and the first test that fails."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._asked: dict[str, Any] = json.loads(report.read_text())
        self._covered: dict[str, list[str]] = {}
        self._failed = ""
        self._test = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        first = set(self._asked["first"])
        items.sort(key=lambda item: item.nodeid not in first)

    def pytest_collection_finish(self) -> None:
        if self._asked["covers"]:
            watch = sys.monitoring
            watch.use_tool_id(watch.COVERAGE_ID, "mutants")
            watch.register_callback(watch.COVERAGE_ID, watch.events.LINE, self._line)
            watch.set_events(watch.COVERAGE_ID, watch.events.LINE)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        if self._asked["covers"]:
            sys.monitoring.restart_events()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._failed = self._failed or (report.nodeid if report.failed else "")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        failed = self._failed or ("" if exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED) else "pytest")
        self._report.write_text(json.dumps({"failed": failed, "covered": self._covered}))

    def _line(self, code: Any, line: int) -> object:
        if "/shared/" in code.co_filename:
            self._covered.setdefault(f"{code.co_filename}:{line}", []).append(self._test)
        return sys.monitoring.DISABLE


def pytest_configure(config: pytest.Config) -> None:
    if report := os.environ.get(REPORT):
        config.pluginmanager.register(Plugin(Path(report)))


def draw(copy: Copy, places: Sequence[str], covered: dict[str, list[str]], dice: random.Random) -> Iterator[Fault]:
    """Yield faults in any order, at most one of a line."""
    python: list[Fault] = []
    for file in copy.files(places, ".py"):
        lines = {int(key.rpartition(":")[2]) for key in covered if key.startswith(f"{file}:")}
        python += python_faults(file, copy.read(file), lines) if lines else []
    uses_database = any(key.startswith(f"{DATABASE}:") for key in covered)
    sql = [fault for file in copy.files(places, ".sql") for fault in sql_faults(file, copy.read(file)) if uses_database]
    of_python, of_sql = _one_of_each_line(python, dice), _one_of_each_line(sql, dice)
    while of_python or of_sql:
        yield (of_sql if of_sql and (not of_python or dice.randrange(SQL_SHARE) == 0) else of_python).pop()


def _one_of_each_line(faults: Sequence[Fault], dice: random.Random) -> list[Fault]:
    lines: dict[tuple[str, int], list[Fault]] = {}
    for fault in faults:
        lines.setdefault((fault.file, fault.line), []).append(fault)
    chosen = [dice.choice(lines[line]) for line in sorted(lines)]
    dice.shuffle(chosen)
    return chosen


def check(
    root: Path, tests: Sequence[str], *, places: Sequence[str], seed: int, number: int, again: Sequence[Fault] = ()
) -> list[Fault]:
    """Return the faults with the test that found each, or why none did.

    Raises SystemExit if the tests fail without a fault.
    """
    with tempfile.TemporaryDirectory(prefix="joblane-mutants-") as folder:
        copy = Copy(root, Path(folder).resolve())
        started = time.monotonic()
        first = copy.test(tests, seconds=3600, covers=True)
        if first["failed"]:
            print(f"This fails without a fault: {first['failed']}", file=sys.stderr)
            raise SystemExit(2)
        seconds = 60 + 3 * (time.monotonic() - started)
        checked: list[Fault] = []
        for fault in again or draw(copy, places, first["covered"], random.Random(seed)):
            with copy.changed(fault) as is_possible:
                if not is_possible and not again:
                    continue
                runs_line = first["covered"].get(f"{fault.file}:{fault.line}", [])
                failed = copy.test(tests, first=runs_line, seconds=seconds)["failed"] if is_possible else GONE
            checked.append(replace(fault, found=failed or NOT_FOUND))
            _print(checked[-1], len(checked))
            if len(checked) == number and not again:
                break
        return checked


def _print(fault: Fault, number: int) -> None:
    print(f"{number:3}  {fault.file}:{fault.line}")
    for sign, text in (("-", fault.before), ("+", fault.after)):
        first, *more = text.splitlines()
        print(f"     {sign} {first.strip()}{' …' if more else ''}")
    print(f"     {fault.found if fault.found in (NOT_FOUND, GONE) else f'found by {fault.found}'}", flush=True)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="+", help="folders and files of tests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=10, help="the number of faults (10)")
    parser.add_argument("--of", nargs="+", default=[LIBRARY], help=f"folders and files that get faults ({LIBRARY})")
    parser.add_argument("--json", type=Path, help="keep the faults in this file")
    parser.add_argument("--again", type=Path, help="repeat the faults of this file")
    options = parser.parse_args(arguments)
    again = [Fault(**fault) for fault in json.loads(options.again.read_text())] if options.again else []
    checked = check(root, options.tests, places=options.of, seed=options.seed, number=options.number, again=again)
    if options.json:
        options.json.write_text(json.dumps([asdict(fault) for fault in checked], indent=1) + "\n")
    missed = (NOT_FOUND, GONE)
    print(f"{sum(fault.found not in missed for fault in checked)} of {len(checked)} faults were found")
    lost = [old for old, new in zip(again, checked, strict=False) if old.found not in missed and new.found == NOT_FOUND]
    for fault in lost:
        print(f"Found no more, before by {fault.found}: {fault.file}:{fault.line}: {fault.before.strip()}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
