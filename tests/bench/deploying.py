"""The time of a synth, and of a redeploy of a changed handler to the local stack, against their targets.

Both run in a copy of the checkout, whose files can be changed, with the installed tools of this checkout. The copy has
a local stack of its own. On a busy machine the elapsed seconds mean little, so the processor time is reported, too.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from joblane.local.ports import free_port
from joblane.local.tools import clean_environment
from tests.bench.report import Ratio, median, within
from tests.pages import ROOT
from tests.unpacked import layer

SYNTH_SECONDS, REDEPLOY_SECONDS = 20, 15
"""The targets, for a machine with two cores."""
ROUNDS = 3
COPIED = ("functions", "infra", "shared", "requirements", "cdk.json", "pyproject.toml")
SHARED = (".venv",)
CHANGED = Path("functions", "tenant_initialize", "handler.py")


@dataclass(frozen=True)
class Duration:
    """The time of a command. ``processor_seconds``: of the command and its child processes, on all cores."""

    seconds: float
    processor_seconds: float


def run(folder: Path) -> list[Ratio]:
    copy = _copy(folder / "checkout")
    built = copy / ".joblane" / "build"

    def synth(*, packaged: bool) -> Duration:
        if not packaged:
            shutil.rmtree(built, ignore_errors=True)
        command = ["-m", "infra.app", "-c", "stage=dev", "-c", "quiet=1", "-o", str(folder / "cdk.out")]
        return _time(copy, clean_environment(), *command)

    built_anew = [synth(packaged=False) for _ in range(ROUNDS)]
    cached = [synth(packaged=True) for _ in range(ROUNDS)]
    shutil.copy(layer().path, built)  # a redeploy uses the existing layer
    with _stack(copy) as redeploy:
        changed = [redeploy(number) for number in range(ROUNDS)]
    return [
        _row("synth, validated", "stage dev, code and layer are built", built_anew, SYNTH_SECONDS),
        _row("synth, validated", "stage dev, code and layer exist", cached, SYNTH_SECONDS),
        _row("redeploy", "a changed handler on the local stack", changed, REDEPLOY_SECONDS),
    ]


def _row(name: str, setting: str, rounds: list[Duration], target: float) -> Ratio:
    processor = median([duration.processor_seconds for duration in rounds])
    seconds = median([duration.seconds for duration in rounds])
    return within(name, f"{setting}: {processor:.1f} s of processor time; against the target", seconds, target, "s")


def _copy(target: Path) -> Path:
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for name in SHARED:
        (target / name).symlink_to(ROOT / name)
    return target


@contextmanager
def _stack(copy: Path) -> Iterator[Callable[[int], Duration]]:
    """Start a local stack. Yield a function that changes a handler, redeploys the stack and returns the duration."""
    environment = clean_environment() | {
        "JOBLANE_LOCAL": str(copy / ".joblane"),
        "JOBLANE_AWS_PORT": str(free_port()),
        "JOBLANE_POSTGRES_PORT": str(free_port()),
    }
    command = ("-m", "joblane.cli.main")

    def redeploy(number: int) -> Duration:
        with (copy / CHANGED).open("a") as file:
            file.write(f"\nCHANGED = {number}\n")
        duration = _time(copy, environment, *command, "up")
        assert "UPDATE_COMPLETE" in (copy / ".joblane" / "cdk-deploy.log").read_text()
        return duration

    try:
        _time(copy, environment, *command, "up")
        yield redeploy
    finally:
        _time(copy, environment, *command, "down")


def _time(copy: Path, environment: dict[str, str], *arguments: str) -> Duration:
    """Run Python with ``arguments`` and measure it."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Duration(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
