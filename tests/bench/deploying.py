"""Time to synthesise, and to bring a changed handler to the local stack, against their targets.

All of it runs in a copy of the checkout, so that its files can be changed, with the installed tools of this one. The
stack is one of the copy's own. Where others keep this machine busy the seconds mean little; the processor's, which are
named too, are what the work takes.
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
"""On two cores."""
ROUNDS = 3
COPIED = ("functions", "infra", "shared", "requirements", "cdk.json", "pyproject.toml")
SHARED = (".venv",)
CHANGED = Path("functions", "tenant_initialize", "handler.py")


@dataclass(frozen=True)
class Took:
    """How long a command took; ``processor_seconds`` of it and of what it waited for, on all cores."""

    seconds: float
    processor_seconds: float


def run(folder: Path) -> list[Ratio]:
    copy = _copy(folder / "checkout")
    built = copy / ".joblane" / "build"

    def synth(*, packaged: bool) -> Took:
        if not packaged:
            shutil.rmtree(built, ignore_errors=True)
        command = ["-m", "infra.app", "-c", "stage=dev", "-c", "quiet=1", "-o", str(folder / "cdk.out")]
        return _time(copy, clean_environment(), *command)

    fresh = [synth(packaged=False) for _ in range(ROUNDS)]
    again = [synth(packaged=True) for _ in range(ROUNDS)]
    shutil.copy(layer().path, built)  # a redeploy finds it there
    with _stack(copy) as up:
        changed = [up(number) for number in range(ROUNDS)]
    return [
        _row("synth, validated", "stage dev, code and layer are built", fresh, SYNTH_SECONDS),
        _row("synth, validated", "stage dev, code and layer are there", again, SYNTH_SECONDS),
        _row("redeploy", "a changed handler on the local stack", changed, REDEPLOY_SECONDS),
    ]


def _row(name: str, setting: str, rounds: list[Took], target: float) -> Ratio:
    processor = median([took.processor_seconds for took in rounds])
    seconds = median([took.seconds for took in rounds])
    return within(name, f"{setting}: {processor:.1f} s of processor; against the target", seconds, target, "s")


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
def _stack(copy: Path) -> Iterator[Callable[[int], Took]]:
    """A local stack that is up. Yields what changes a handler, brings it up again and returns the seconds."""
    environment = clean_environment() | {
        "JOBLANE_LOCAL": str(copy / ".joblane"),
        "JOBLANE_AWS_PORT": str(free_port()),
        "JOBLANE_POSTGRES_PORT": str(free_port()),
    }
    command = ("-m", "joblane.cli.main")

    def up(number: int) -> Took:
        with (copy / CHANGED).open("a") as file:
            file.write(f"\nCHANGED = {number}\n")
        took = _time(copy, environment, *command, "up")
        assert "UPDATE_COMPLETE" in (copy / ".joblane" / "cdk-deploy.log").read_text()
        return took

    try:
        _time(copy, environment, *command, "up")
        yield up
    finally:
        _time(copy, environment, *command, "down")


def _time(copy: Path, environment: dict[str, str], *arguments: str) -> Took:
    """Run Python with ``arguments``."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
