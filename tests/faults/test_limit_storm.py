"""A short storm of limits, and storms that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from joblane.local.postgres import Postgres
from joblane.record.sql_functions import FUNCTIONS
from tests.faults.dying_workers import Result
from tests.faults.limit_plants import PLANTS, TEXTS, planted
from tests.faults.limit_storm import Storm
from tests.faults.server_of_its_own import database, own_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("limits")) as made:
        yield made


def storm(server: Postgres, name: str, plant: str | None = None, *, deaths: float, tasks: int) -> Result:
    url = server.database_url(database(server, name))
    with planted(url, plant) if plant else nullcontext():
        return Storm(url, seed=1, tasks=tasks, deaths=deaths).go()


def test_every_limit_holds_while_workers_die(server: Postgres) -> None:
    result = storm(server, "deaths", deaths=0.2, tasks=300)

    assert not result.wrong, result.table()
    assert result.counts["workers that died"] > 20, result.table()
    assert result.counts["tasks served by the end of a run"] > 50, result.table()


def test_nothing_waits_for_a_limit_that_has_room_while_nobody_dies(server: Postgres) -> None:
    result = storm(server, "calm", deaths=0.0, tasks=500)

    assert not result.wrong, result.table()
    assert result.counts["checks while all stood still"] > 5, result.table()


@pytest.mark.plants
@pytest.mark.parametrize(
    ("plant", "found"),
    [("a run takes no slot", "over the limit"), ("the end of a run serves nobody", "waits for a limit")],
)
def test_a_storm_finds_planted_bugs(server: Postgres, plant: str, found: str) -> None:
    result = storm(server, f"plant_{PLANTS.index(plant)}", plant, deaths=0.0, tasks=400)

    assert any(found in line for line in result.wrong), result.table()


@pytest.mark.parametrize("plant", TEXTS)
def test_every_planted_bug_has_its_place_in_the_code(plant: str) -> None:
    function, old, _ = TEXTS[plant]
    assert FUNCTIONS[function].count(old) == 1
