"""Short storms, and storms that must find planted bugs. ``make faults`` runs long ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.row.conditions import MOST_RELEASED
from joblane.record.sql_functions import FUNCTIONS
from tests.faults.debounce_storm import DebounceStorm
from tests.faults.graph_storm import GraphStorm
from tests.faults.limit_storm import Storm
from tests.faults.moves_storm import MovesStorm
from tests.faults.plants import PLANTS, places, planted
from tests.faults.rate_run import RateRun, most_in_a_second
from tests.faults.result import keep_rows
from tests.faults.server_of_its_own import database, own_server
from tests.faults.thread_storm import ThreadStorm
from tests.faults.wait_storm import WaitStorm

Storms = Callable[[str, int], ThreadStorm | MovesStorm]
"""Returns a storm for the address of its database and a seed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with own_server(tmp_path_factory.mktemp("storms")) as made:
        yield made


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest) -> str:
    return server.database_url(database(server, f"storm_{abs(hash(request.node.name))}"))


def few_children(url: str, seed: int, *, graphs: int, deaths: float) -> GraphStorm:
    """Return a storm in which a statement releases one child: workers die between the many steps of a release."""
    with Database(url) as owner:
        for function in ("finish", "release_children"):
            owner.get().run(FUNCTIONS[function].replace(f"limit {MOST_RELEASED}", "limit 1"))
    return GraphStorm(url, seed, graphs, deaths=deaths)


@pytest.mark.parametrize(
    ("storm", "least"),
    [
        pytest.param(
            lambda url, seed: Storm(url, seed, 300, deaths=0.2),
            {"workers that died": 20, "tasks served by the end of a run": 50},
            id="every limit holds while workers die",
        ),
        pytest.param(
            lambda url, seed: Storm(url, seed, 500, deaths=0.0),
            {"checks while all stood still": 5},
            id="nothing waits for a limit that has room while nobody dies",
        ),
        pytest.param(
            lambda url, seed: RateRun(url, seed + 7, tasks=60, starts=20, burst=5),
            {"starts": 60},
            id="a rate gives no more times than declared and plans anew when it is halved",
        ),
        pytest.param(
            lambda url, seed: few_children(url, seed, graphs=60, deaths=0.2),
            {"workers that died": 20, "children released by a worker": 50},
            id="every child runs once and after its parents while workers die",
        ),
        pytest.param(
            lambda url, seed: few_children(url, seed, graphs=80, deaths=0.0),
            {"children released by a worker": 100},
            id="the sweep releases nobody while no worker dies",
        ),
        pytest.param(
            lambda url, seed: WaitStorm(url, seed, 30, deaths=0.2),
            {"workers that died": 10, "runs waiting": 80, "signals": 10},
            id="each wait has one outcome while workers and signallers die",
        ),
        pytest.param(
            lambda url, seed: WaitStorm(url, seed, 60, deaths=0.0),
            {
                "tasks woken by a signaller or a worker": 15,
                "tasks woken by the end of a child": 20,
                "tasks run early": 0,
                "tasks skipped": 0,
                "pauses": 2,
            },
            id="the sweep wakes nobody while no process dies",
        ),
        pytest.param(
            lambda url, seed: DebounceStorm(url, seed, pushes=100, others=2),
            {},
            id="the last payload of each key has run and no change is lost",
        ),
        pytest.param(
            lambda url, seed: MovesStorm(url, seed, 150),
            {"messages parked": 1, "messages drained": 1, "messages sent by the sweep": 5, "functions that died": 2},
            id="every task has one effect while its type moves and everything dies",
        ),
        pytest.param(
            lambda url, seed: MovesStorm(url, seed, 100, calm=True),
            {"messages parked": 1, "messages sent by the sweep": 5},
            id="every due task has a message while its type moves",
        ),
    ],
)
def test_every_rule_of_a_storm_holds(url: str, storm: Storms, least: dict[str, int], tmp_path: Path) -> None:
    result = storm(url, 1).go()

    assert not result.wrong, f"{result.table()}\n{keep_rows(url, tmp_path)}"
    for count, number in least.items():
        assert result.counts[count] > number, result.table()


WITH_DEATHS = "tasks of workers that die"
SMALL: dict[str, Storms] = {
    "tasks": lambda url, seed: Storm(url, seed, 400, deaths=0.0),
    WITH_DEATHS: lambda url, seed: Storm(url, seed, 500, deaths=0.3),
    "rated": lambda url, seed: RateRun(url, seed + 7, tasks=60, starts=20, burst=5),
    "graphs": lambda url, seed: GraphStorm(url, seed, graphs=60, deaths=0.0),
    "waits": lambda url, seed: WaitStorm(url, seed, 200, deaths=0.0),
    "bursts": lambda url, seed: DebounceStorm(url, seed, producers=20, keys=4, seconds=25),
    "moves": lambda url, seed: MovesStorm(url, seed, 150, calm=seed % 2 == 0),
}
"""Part of ``make faults`` → a small storm that finds its planted bugs."""


@pytest.mark.plants
@pytest.mark.parametrize(
    ("bug", "found"),
    {
        "a run takes no slot": "over the limit",
        "the end of a run serves nobody": "waits for a limit",
        "a rate gives each time twice": "times in a second",
        "a changed rate plans nobody anew": "not planned anew",
        "the end of a run releases nobody": "released by the sweep alone",
        "what follows a commit is forgotten": "released by the sweep alone",
        "a child is released by its first parent": "ran before",
        "a short claim asks for no parent": "ran before",
        "a short finish lets no child go": "released by the sweep alone",
        "a stop does not look for a signal": "tasks woken by the sweep alone",
        "a stop trusts an old snapshot": "tasks woken by the sweep alone",
        "a stop restarts its time": "its wait a has got a later end",
        "a task that stops again for children is held": "tasks woken by the sweep alone",
        "the results of children are read before they have ended": "continued before its child",
        "a stop for children keeps its slots": "waits for children, and keeps a slot",
        "a wake-up takes no lock": "tasks woken by the sweep alone",
        "a wake-up hears the signal of a run": "waits next to its signal",
        "a stop leaves its order": "order broken",
        "a wake-up leaves what is paused": "waits next to its signal",
        "a wake-up passes all limits": "over the limit",
        "a poll ends at its second look": "its wait ready has expired",
        "a claim that ends a task frees nothing": "were not served",
        "a claim that parks a task frees nothing": "were not served",
        "a place keeps what it parks": "keeps a message of",
        "a place acknowledges what it has not parked": "lost: x",
        "a place drains no lane": "which no function reads",
        "the sweep counts the messages of a lane by type": "are due and have no message",
        "a push is cut to the present, not to the first ask": "s after its first ask",
        "a push forgets the payload": "it ran with the payload of ask",
        "the key is kept until the task ends": "an ask is refused: unique_key: held by task",
        "a push touches a task that has begun": "asks came after its start, and made no other task",
    }.items(),
)
def test_a_storm_finds_planted_bugs(server: Postgres, bug: str, found: str) -> None:
    # what the threads meet depends on the machine, not on the seed: another storm may find the bug
    for seed in range(1, 6):
        url = server.database_url(database(server, f"plant_{list(PLANTS).index(bug)}_{seed}"))
        with planted(url, bug):
            result = SMALL[WITH_DEATHS if bug.startswith("a claim that ") else PLANTS[bug][0]](url, seed).go()
        if any(found in line for line in result.wrong):
            return
    pytest.fail(f"not found\n{result.table()}")


@pytest.mark.parametrize("bug", PLANTS)
def test_every_planted_bug_has_its_place_in_the_code(bug: str) -> None:
    assert places(bug)


def test_the_most_in_a_second_is_that_of_any_second() -> None:
    assert most_in_a_second([0, 0.5, 0.9, 1.2, 1.3, 3]) == 4
    assert most_in_a_second([0, 1, 2]) == 1
