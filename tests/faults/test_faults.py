"""A short run from a fixed seed, and runs that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from joblane.inspector.bulk.dead_letters import DeadLetter, DeadLetterKind
from joblane.local.postgres import Postgres
from tests.faults.plants import PLANTS
from tests.faults.restore_rows import ROWS
from tests.faults.restore_run import RestoreRun
from tests.faults.result import Result
from tests.faults.run import Run, run
from tests.faults.server_of_its_own import database, own_server

Storm = Callable[..., Result]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def storm(server: Postgres, tmp_path: Path, numbers: Iterator[int]) -> Storm:
    def blow(seed: int, jobs: int, plant: str | None = None, kind: type[Run] | None = None) -> Result:
        server.start()
        name = database(server, f"storm_{next(numbers)}")
        return run(tmp_path, server, name, seed=seed, jobs=jobs, minutes=20, plant=plant, kind=kind)

    return blow


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


def test_nothing_is_lost_and_nothing_done_twice_while_everything_breaks(storm: Storm) -> None:
    result = storm(seed=1, jobs=150)

    assert not result.wrong, result.table()
    assert result.counts["processes that died"] > 20, result.table()
    assert result.counts["restarts of PostgreSQL"] >= 2, result.table()
    assert result.counts["running tasks cancelled"] > 3, result.table()


def test_a_stage_that_moves_to_a_restored_copy_behaves_as_its_page_says(storm: Storm) -> None:
    result = storm(seed=7, jobs=60, kind=RestoreRun)

    assert not result.wrong, result.table()
    for row in ("in a session", "and its message is in a queue"):
        assert result.counts[f"row: enqueued after it, {row}"] > 3, result.table()
    assert result.counts["row: completed after it"] > 0, result.table()


@pytest.mark.plants
def test_a_restored_copy_has_an_example_of_each_row_of_its_page(storm: Storm) -> None:
    missing = set(ROWS)
    for seed in range(7, 10):  # which tasks have ended at the copy depends on the machine, not on the seed
        result = storm(seed=seed, jobs=300, kind=RestoreRun)
        assert not result.wrong, result.table()
        missing -= {row for row in ROWS if result.counts[f"row: {row}"]}
        if not missing:
            return
    pytest.fail(f"no example of: {', '.join(missing)}")


class UnpausedCopy(RestoreRun):
    """A move whose deploy writes no pause into the copy."""

    def _pause_copy(self) -> None:
        pass


class LatePause(RestoreRun):
    """A move whose pause comes after the functions read the copy."""

    def _move(self, move_functions: Callable[[], None]) -> None:
        self._note_messages()
        move_functions()
        self._sweep()
        self._until(self._idle)
        self._pause_copy()


class OneQueueResumed(RestoreRun):
    """A restore after which an operator resumes one queue only."""

    def _resume(self) -> None:
        self.sql("delete from joblane.pauses where scope = 'queue' and name = 'critical'")


class LiveRedriven(RestoreRun):
    """A redrive that sends back the dead letters of tasks that live again."""

    def _redrive_as_joblane(self, share: float) -> None:
        def kind(dead_letter: DeadLetter) -> DeadLetterKind:
            found = is_kind(dead_letter)
            return DeadLetterKind.MOVED if found is DeadLetterKind.OBSOLETE else found

        is_kind = DeadLetter.__dict__["kind"].func
        with patch.object(DeadLetter, "kind", property(kind)):
            super()._redrive_as_joblane(share)


@pytest.mark.plants
@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (UnpausedCopy, "began in the copy while it was paused"),
        (LatePause, "began in the copy while it was paused"),
        (OneQueueResumed, "has not ended"),
        (LiveRedriven, "the dead letter of a task that lives was sent back"),
        ("restored-generation", "its dead letters revived it"),
        ("restored-ids", "one job as two tasks"),
    ],
)
def test_a_wrong_move_to_a_copy_is_found(storm: Storm, kind: type[RestoreRun] | str, found: str) -> None:
    # the timing of the processes depends on the machine, not on the seed: another run may find a missed bug
    for seed in range(3, 9):
        plant, of = (kind, RestoreRun) if isinstance(kind, str) else (None, kind)
        result = storm(seed=seed, jobs=250, kind=of, plant=plant)
        if any(found in line for line in result.wrong):
            return
    pytest.fail(f"not found\n{result.table()}")


BUGS: list[tuple[dict[str, str], int]] = [
    ({"fence": "done twice", "overlap": "is held twice", "short-cancelled": "cancelled while active"}, 200),
    (
        {
            "due": "s early",
            "dead-letter-order": "no dead letter of generation",
            "cancelled": "cancelled while active",
            "unsent": "without the sweep",
            "step-before": "called after its commit",
            "short-token": "a run without an outcome",
        },
        100,
    ),
    (
        {
            "outbox": "has not ended",
            "step-key": "several keys",
            "token": "by a run without a lease",
            "unique-index": "is held twice",
        },
        130,
    ),
]
"""Bugs of one storm → their result, and the number of jobs. None of the bugs has the finding of another."""


@pytest.mark.plants
@pytest.mark.parametrize(("bugs", "jobs"), BUGS, ids=[" and ".join(bugs) for bugs, _ in BUGS])
def test_a_storm_finds_planted_bugs(storm: Storm, bugs: dict[str, str], jobs: int) -> None:
    missed = bugs
    # the timing of the processes depends on the machine, not on the seed: another run may find a missed bug
    for seed in range(7, 15):
        result = storm(seed=seed, jobs=jobs, plant=",".join(missed))
        missed = {bug: found for bug, found in missed.items() if not any(found in line for line in result.wrong)}
        if not missed:
            return
    pytest.fail(f"not found: {', '.join(missed)}\n{result.table()}")


def test_every_planted_bug_has_a_storm() -> None:
    storms = {bug for bugs, _ in BUGS for bug in bugs} | {bug for bug in PLANTS if bug.startswith("restored-")}
    assert storms == {bug for bug, (part, *_) in PLANTS.items() if part in ("jobs", "restored")}
