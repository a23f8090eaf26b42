"""A short storm of debounced enqueues, and storms that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from joblane.local.postgres import Postgres
from joblane.record.task.debounce import PUSH
from tests.faults.debounce_plants import KEPT, PLANTS, TEXTS, TOUCHED, planted
from tests.faults.debounce_storm import DebounceStorm
from tests.faults.report import keep_rows
from tests.faults.server_of_its_own import database, own_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("bursts")) as made:
        yield made


def test_the_last_payload_of_each_key_has_run_and_no_change_is_lost(server: Postgres, tmp_path: Path) -> None:
    url = server.database_url(database(server, "minute"))
    result = DebounceStorm(url, seed=1, pushes=100, others=2).go()

    assert not result.wrong, f"{result.table()}\n{keep_rows(url, tmp_path)}"


@pytest.mark.plants
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
        url = server.database_url(database(server, f"plant_{PLANTS.index(plant)}_{seed}"))
        with planted(url, plant):
            result = DebounceStorm(url, seed, producers=20, keys=4, seconds=25).go()
        if any(found in line for line in result.wrong):
            return
    pytest.fail(f"not found\n{result.table()}")


@pytest.mark.parametrize("plant", TEXTS)
def test_every_planted_bug_has_its_place_in_the_code(plant: str) -> None:
    assert PUSH.count(TEXTS[plant][0]) == 1
