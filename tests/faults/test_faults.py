"""A short run from a fixed seed, and runs that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joblane.local.postgres import Postgres
from tests.faults.plants import PLANTS
from tests.faults.report import table
from tests.faults.run import Findings, run
from tests.faults.server_of_its_own import database, own_server

Storm = Callable[..., Findings]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def storm(server: Postgres, tmp_path: Path, numbers: Iterator[int]) -> Storm:
    def blow(seed: int, jobs: int, plant: str | None = None) -> Findings:
        server.start()
        name = database(server, f"storm_{next(numbers)}")
        return run(tmp_path, server, name, seed=seed, jobs=jobs, minutes=2, plant=plant)

    return blow


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


def test_nothing_is_lost_and_nothing_done_twice_while_everything_breaks(storm: Storm) -> None:
    findings = storm(seed=1, jobs=150)

    assert not findings.wrong, table(findings)
    assert findings.counts["processes that died"] > 20, table(findings)
    assert findings.counts["restarts of PostgreSQL"] >= 2, table(findings)
    assert findings.counts["running tasks cancelled"] > 3, table(findings)


@pytest.mark.parametrize(
    ("plant", "jobs", "finding"),
    [
        ("fence", 100, "done twice"),
        ("token", 100, "by a run without a lease"),
        ("due", 100, "s early"),
        ("dead-letter-order", 100, "no dead letter of generation"),
        ("outbox", 100, "has not ended"),
        ("unique-index", 200, "is held twice"),
        ("overlap", 200, "is held twice"),
        ("cancelled", 100, "cancelled while active"),
    ],
)
def test_a_storm_finds_a_planted_bug(storm: Storm, plant: str, jobs: int, finding: str) -> None:
    assert plant in PLANTS

    # the timing of the processes depends on the machine, not on the seed: another run may find a missed bug
    for seed in range(7, 15):
        findings = storm(seed=seed, jobs=jobs, plant=plant)
        if any(finding in line for line in findings.wrong):
            return
    pytest.fail(table(findings))
