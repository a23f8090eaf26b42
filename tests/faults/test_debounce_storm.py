"""A short storm of debounced enqueues, and storms that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from joblane.local.postgres import Postgres
from joblane.record.push import PUSH
from tests.faults.debounce_plants import KEPT, PLANTS, TEXTS, TOUCHED, planted
from tests.faults.debounce_storm import DebounceStorm
from tests.faults.dying_workers import Result
from tests.faults.server_of_its_own import database, own_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("bursts")) as made:
        yield made


def storm(server: Postgres, name: str, plant: str | None = None, *, seed: int = 1, **size: int) -> Result:
    url = server.database_url(database(server, name))
    with planted(url, plant) if plant else nullcontext():
        return DebounceStorm(url, seed=seed, **size).go()


def test_the_last_payload_of_each_key_has_run_and_no_change_is_lost(server: Postgres) -> None:
    result = storm(server, "minute")

    assert not result.wrong, result.table()
    assert result.counts["pushes"] > 100, result.table()
    assert result.counts["tasks that ran after their longest wait"] > 1, result.table()
    assert result.counts["asks while a task of their key ran"] > 1, result.table()


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("a push is cut to the present, not to the first ask", "s after its first ask"),
        ("a push forgets the payload", "it ran with the payload of ask"),
        (KEPT, "an ask is refused: unique_key: held by task"),
        (TOUCHED, "asks came after its start, and made no other task"),
    ],
)
def test_a_storm_finds_planted_bugs(server: Postgres, plant: str, found: str) -> None:
    # which asks come during a run depends on the machine, not on the seed: another storm may find the bug
    for seed in range(1, 6):
        name = f"plant_{PLANTS.index(plant)}_{seed}"
        result = storm(server, name, plant, seed=seed, producers=20, keys=4, seconds=25)
        if any(found in line for line in result.wrong):
            return
    pytest.fail(f"not found\n{result.table()}")


@pytest.mark.parametrize("plant", TEXTS)
def test_every_planted_bug_has_its_place_in_the_code(plant: str) -> None:
    assert PUSH.count(TEXTS[plant][0]) == 1
