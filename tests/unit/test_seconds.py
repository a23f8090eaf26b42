"""The CPU seconds of a folder of tests include its child processes, and fail a run above their bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import seconds
from tests.seconds import Seconds

SPINS = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def test_a_child_process_counts_while_it_runs_and_after_its_end() -> None:
    before = seconds.cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", SPINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = seconds.cpu_seconds()
        child.communicate(b"\n")
    ended = seconds.cpu_seconds()

    if sys.platform == "linux":
        assert alive - before > 0.25
    assert ended - before > 0.25
    assert ended >= alive - 0.1, "it counts once; the seconds of a living process are in hundredths"


def test_a_folder_of_integration_tests_has_a_bound_of_its_own() -> None:
    files = (
        "collection",
        "tests/unit/cli/test_a.py",
        "tests/integration/test_a.py",
        "tests/integration/cli/x/test_a.py",
    )

    assert [*map(seconds.folder_of, files)] == [
        "collection",
        "tests/unit",
        "tests/integration",
        "tests/integration/cli",
    ]


@pytest.mark.parametrize(
    ("table", "took", "sentences"),
    [
        ("  100 tests/unit", 160.0, []),
        ("  100 tests/unit", 161.0, ["tests/unit took 161 CPU seconds, above its bound of 160"]),
        ("  100 tests/infra", 9.0, ["tests/unit took 9 CPU seconds and has no line in tests/seconds.txt"]),
        ("", 1000.0, []),
    ],
)
def test_a_run_fails_above_the_bound_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, took: float, sentences: list[str]
) -> None:
    monkeypatch.setattr(seconds, "TABLE", tmp_path / "seconds.txt")
    seconds.TABLE.write_text(table)
    config: Any = SimpleNamespace(option=SimpleNamespace(seconds="check"))
    session: Any = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    counted = Seconds(config)
    for part in (took - 1, 1):  # of two workers
        counted.pytest_testnodedown(SimpleNamespace(workeroutput={"seconds": {"tests/unit/test_a.py": part}}))

    counted.pytest_sessionfinish(session)

    assert counted._above() == sentences
    assert session.exitstatus == (pytest.ExitCode.TESTS_FAILED if sentences else pytest.ExitCode.OK)


def test_the_new_numbers_replace_those_of_the_same_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(seconds, "TABLE", tmp_path / "seconds.txt")
    seconds.TABLE.write_text("  100 tests/unit\n   50 tests/infra\n")
    config: Any = SimpleNamespace(option=SimpleNamespace(seconds="write"))
    counted = Seconds(config)
    counted.pytest_testnodedown(SimpleNamespace(workeroutput={"seconds": {"tests/unit/test_a.py": 200.4}}))

    counted.pytest_sessionfinish(SimpleNamespace(exitstatus=pytest.ExitCode.OK))  # type: ignore[arg-type]

    assert seconds.TABLE.read_text() == "   50 tests/infra\n  200 tests/unit\n"
