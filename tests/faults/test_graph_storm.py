"""A short storm of graphs, and storms that must find planted bugs. ``make faults`` runs a long one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.row.conditions import MOST_RELEASED
from joblane.record.sql_functions import FUNCTIONS
from tests.faults.dying_workers import Result
from tests.faults.graph_plants import PLANTS, planted
from tests.faults.graph_storm import GraphStorm
from tests.faults.server_of_its_own import database, own_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("graphs")) as made:
        yield made


def storm(
    server: Postgres, name: str, plant: str | None = None, *, deaths: float, graphs: int, few: bool = False
) -> Result:
    """``few``: a statement releases one child, so that a release has many steps between which workers die."""
    url = server.database_url(database(server, name))
    if few:
        with Database(url) as owner:
            for function in ("finish", "release_children"):
                owner.get().run(FUNCTIONS[function].replace(f"limit {MOST_RELEASED}", "limit 1"))
    with planted(url, plant) if plant else nullcontext():
        return GraphStorm(url, seed=1, graphs=graphs, deaths=deaths).go()


def test_every_child_runs_once_and_after_its_parents_while_workers_die(server: Postgres) -> None:
    result = storm(server, "deaths", deaths=0.2, graphs=60, few=True)

    assert not result.wrong, result.table()
    assert result.counts["workers that died"] > 20, result.table()
    assert result.counts["children released by a worker"] > 50, result.table()


def test_the_sweep_releases_nobody_while_no_worker_dies(server: Postgres) -> None:
    result = storm(server, "calm", deaths=0.0, graphs=80, few=True)

    assert not result.wrong, result.table()
    assert result.counts["children released by a worker"] > 100, result.table()


@pytest.mark.plants
@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("the end of a run releases nobody", "released by the sweep alone"),
        ("what follows a commit is forgotten", "released by the sweep alone"),
        ("a child is released by its first parent", "ran before"),
    ],
)
def test_a_storm_finds_planted_bugs(server: Postgres, plant: str, found: str) -> None:
    result = storm(server, f"plant_{PLANTS.index(plant)}", plant, deaths=0.0, graphs=60)

    assert any(found in line for line in result.wrong), result.table()
