"""`make bench` ends with a value or a named failure for each measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from joblane.inspector.scope import Scope
from joblane.record.driver.database import Database
from tests.bench import __main__ as bench
from tests.bench import instructions, operations
from tests.bench.report import Ratio, within

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m tests.bench ARGUMENTS` with these measurements."""

    def main(runs: Mapping[str, bench.Run], *arguments: str) -> int:
        monkeypatch.setattr(bench, "_usual", lambda _folder, console, given: bench.measured(runs, console, given.only))
        monkeypatch.setattr("sys.argv", ["bench", *arguments])
        return bench.main()

    return main


def works(value: float = 1) -> list[Ratio]:
    return [within("a cost", "[of] a call", value, 2, "ms")]


def breaks() -> Iterator[Ratio]:
    yield from works()
    raise ValueError("first line\nand the [last] one")


def test_a_measurement_that_raises_is_named_and_the_next_is_measured(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []

    def observed() -> list[Ratio]:
        printed.append(capsys.readouterr())
        return works(1.5)

    # when
    status = run({"broken": breaks, "working": observed})
    # then the values were printed before the next measurement, those of the one that failed included
    [before], after = printed, capsys.readouterr()
    assert status == 1
    assert "✓ a cost, [of] a call: 1.0 ms against 2 ms, ratio 0.50, required ≤ 1\n" in before.out
    assert "✗ broken, and the [last] one: failed\n" in before.out
    assert "ValueError: first line" in before.err
    assert "✓ a cost, [of] a call: 1.5 ms" in after.out
    rows = [line.split("│")[1].strip() for line in after.out.splitlines() if line.startswith("│")]
    assert [row for row in rows if row] == ["a cost", "broken", "a cost"]


@pytest.mark.parametrize(("value", "status"), [(1, 0), (3, 1)])
def test_the_exit_status_shows_a_value_that_missed(run: Run, value: float, status: int) -> None:
    assert run({"broken": breaks, "working": lambda: works(value)}, "working") == status


def test_an_interrupt_ends_the_run_and_shows_what_was_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> list[Ratio]:
        raise KeyboardInterrupt

    assert run({"working": works, "interrupted": interrupted, "broken": breaks}) == 1
    out = capsys.readouterr().out
    assert "interrupted\n" in out
    assert out.count("a cost") == 2  # its line, and its row of the table
    assert "broken" not in out


def test_instructions_are_bound_by_the_newest_value_of_the_same_versions() -> None:
    versions = {"python": "3.13.5", "postgresql": "18.6"}
    kept = {
        "2026-11-30, before": {"versions": versions, "values": {"claim": 1_000, "message": 50}},
        "2026-12-01, after": {"versions": versions, "values": {"claim": 500}},
    }
    # then
    ratio = instructions.compared("claim", 600, versions, kept)
    assert (ratio.bare, ratio.ratio, ratio.holds) == ("500", 1.2, False)
    assert ratio.setting == "claim; against 2026-12-01, after"
    assert instructions.compared("message", 50, versions, kept).setting == "message; against 2026-11-30, before"
    assert instructions.compared("new", 1, versions, kept).bare == "no earlier value"
    # and other versions are named, and bind nothing
    other = instructions.compared("claim", 600, versions | {"python": "3.14.0"}, kept)
    assert "3.13.5" in other.setting
    assert other.holds


def test_without_valgrind_the_instructions_fail_by_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run({"instructions": lambda: instructions.run(tmp_path / "counts", None)}) == 1
    assert "✗ instructions, valgrind is missing: install the package `valgrind`" in capsys.readouterr().out


def test_values_are_kept_only_of_a_run_that_counts_instructions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run({"working": works}, "--write", "now", "working")
    assert "--write needs the measurement instructions" in capsys.readouterr().err


def test_each_reading_operation_has_a_measurement() -> None:
    scope = Scope(Database("postgresql://nowhere"), operations.Empty(), "jobs", {}, "bench")
    assert operations.missing(operations.calls(scope, "archived", "pending", "cause")) == set()
