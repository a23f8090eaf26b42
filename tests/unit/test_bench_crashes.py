"""The crashes of ``make bench-peers``: jobs that kill their process, and the count of their effects."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import crash_tables, crashes, kills
from tests.pages import ROOT

JOB = """
import sys
from tests.bench.peers import kills
fate = kills.Fate(7)
fate.before_write()
print("written", flush=True)
fate.before_commit()
print("committed", flush=True)
fate.after_return()
print("returned", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("point", "reached"),
    [
        (kills.BEFORE_WRITE, []),
        (kills.BEFORE_COMMIT, ["written"]),
        (kills.AFTER_RETURN, ["written", "committed", "returned"]),
    ],
)
def test_a_job_kills_its_process_at_the_chosen_point_and_only_once(
    tmp_path: Path, point: str, reached: list[str]
) -> None:
    (tmp_path / "kills.json").write_text(json.dumps({"7": [point, 0.05]}))
    environment = {"BENCH_KILLS": str(tmp_path / "kills.json"), "BENCH_RUNS": str(tmp_path / "runs")}

    def run(stdin: int) -> tuple[int, list[str]]:
        command = [sys.executable, "-c", JOB]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True
        ) as job:
            assert job.stdout is not None
            lines = job.stdout.read().split()
            return job.wait(), lines

    assert run(subprocess.PIPE) == (-signal.SIGKILL, reached)
    assert run(subprocess.DEVNULL) == (0, ["written", "committed", "returned"])
    assert (tmp_path / "runs").read_text() == "7\n7\n"


def test_a_seed_gives_the_same_kills_at_every_point() -> None:
    plan = kills.plan(1, 1_000, 60)
    assert plan == kills.plan(1, 1_000, 60) != kills.plan(2, 1_000, 60)
    assert len(plan) == 60
    assert {point for point, _ in plan.values()} == set(kills.POINTS)


def test_a_number_without_a_row_is_lost_and_each_further_row_is_doubled() -> None:
    effects = {0: [1.0], 1: [1.0, 2.0, 3.0], 9: [1.0]}
    assert crashes.lost_and_doubled(effects, range(4), 0) == {"jobs": 4, "unfinished": 0, "lost": 2, "doubled": 2}
    assert crashes.lost_and_doubled(effects, range(4), 2)["lost"] == 0, "they may still run"


def test_the_next_run_is_timed_only_for_kills_that_left_no_row() -> None:
    plan: kills.Plan = {
        "1": (kills.BEFORE_WRITE, 0),
        "2": (kills.BEFORE_COMMIT, 0),
        "3": (kills.AFTER_RETURN, 0),
        "4": (kills.BEFORE_WRITE, 0),
    }
    effects = {1: [40.0], 2: [35.0, 90.0], 3: [9.0, 50.0]}
    timed = crashes.seconds_until_effect(plan, {1: 10.0, 2: 15.0, 3: 10.0, 4: 10.0}, effects)
    assert timed == {"n": 2, "median": 25.0, "min": 20.0, "max": 30.0}


def test_a_system_that_fails_keeps_its_row_and_shows_the_reason() -> None:
    killed: dict[str, Any] = {
        "jobs": 500, "lost": 1, "doubled": 2, "killed": 10, "runs": 512, "unfinished": 0, "seconds": 12.3,
        "rerun_seconds": {"n": 2, "median": 30.0, "min": 5.25, "max": 1_000.0},
    }  # fmt: skip
    results = {
        "setting": {"date": "2026-01-01", "cores": 2, "python": "3", "postgresql": "18", "quick": True},
        "size": {"jobs": 500, "kills": 10, "deadline_seconds": 60, "outage_seconds": 5},
        "seed": 1,
        "processes": 4,
        "slots": 5,
        "rescue_seconds": 30,
        "kills": {"joblane, batch 10": killed, "celery": {"failed": "no | such\npackage"}},
        "long": {},
        "outage": {},
    }
    tables = crash_tables.tables(results)
    assert "| Joblane, batch 10 | 20 | 40 | 10 | 12 | 30 (5.2–1,000) | 0 | 12 |" in tables["crash-kills"]
    assert "| Celery | - | - | - | - | - | - | - |" in tables["crash-kills"]
    assert tables["crash-failed"] == "- Celery, killed workers: no such package"
