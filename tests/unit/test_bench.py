"""`make bench` ends with a value or a named failure for each measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.bench import __main__ as bench
from tests.bench.report import Ratio, within

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m tests.bench ARGUMENTS` with these measurements."""

    def main(runs: Mapping[str, bench.Run], *arguments: str) -> int:
        monkeypatch.setattr(bench, "_usual", lambda _folder, console, only: bench.measured(runs, console, only))
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
    assert "✗ broken, and the [last] one: failed" in before.out
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
