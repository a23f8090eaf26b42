"""A redrive that is killed at any point: the next delivery finishes it, nothing is lost, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joblane import State
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from tests.builders.events import record
from tests.builders.rows import put
from tests.bulks import Bulks
from tests.integration.inspector.test_dead import DLQ, external, put_dead, put_dead_letter
from tests.integration.inspector.test_redrive import ran as ran  # noqa: PLC0414 - a fixture
from tests.integration.inspector.test_redrive import runs, work_off
from tests.kills import KILLED, Workers, killable_workers
from tests.samples import sample_one

ROWS, MESSAGES = 3, 2
STATEMENTS = range(3, 60, 6)
"""The statement of a run after which it dies; after the last statement it lives."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with killable_workers() as made:
        yield made


@pytest.fixture
def workers(ran: Bulks, pool: Workers) -> Iterator[Workers]:
    with pool.over(ran.world):
        yield pool


def given(bulks: Bulks, round_: str) -> set[str]:
    """Rows with dead letters, messages without a row, and an obsolete dead letter. Returns the ids that must run."""
    world = bulks.world
    payload = {"do": "redrive_counts", "number": 0}
    ids = {f"{round_}-{number}" for number in range(ROWS)}
    for id_ in sorted(ids):
        put_dead(world, id_, payload=payload)
    put(world, sample_one, f"{round_}-ended", state="completed", generation=5)
    put_dead_letter(
        world, {"type": "sample:one", "id": f"{round_}-ended", "rec": True}, generation=1, reason="it failed"
    )
    return ids | {put_dead_letter(world, external(payload=payload)) for _ in range(MESSAGES)}


def killed_and_finished(inspector: Inspector, bulks: Bulks, workers: Workers, dies: str, canary: int = 0) -> bool:
    """Redrive all; if the first run dies, a second run finishes. Returns True if it died."""
    view = inspector.redrive(Filter(types=("sample:one",)), canary=canary, rate=500)
    message = record({"type": "jobs:bulk", "id": view.id, "rec": True}, bulks.lane)
    workers.handle("jobs:bulk", message, dies=dies)
    died = workers.status == KILLED
    if died:
        bulks.world.expire_leases()
        if canary:
            work_off(bulks.world)
        while workers.handle("jobs:bulk", message):  # the server may still hold the locks of the killed run
            pass
    assert inspector.bulk_view(view.id).state is State.COMPLETED
    return died


def check(bulks: Bulks, ids: set[str]) -> None:
    """Each task ran once, and no dead letter is left."""
    world = bulks.world
    for _ in range(2):  # a minute later, and once the lane is empty: what was committed and not sent
        world.run("update joblane.tasks set sweep_at = now() where state = 'pending'")
        world.sweep()
        work_off(world)
    assert runs(world) == sorted(ids)
    assert world.depth(DLQ) == 0
    world.run("delete from ran")


@pytest.mark.parametrize(
    "dies", ["before the send", "after the send", "before the delete", "after the delete", "after the commit"]
)
def test_it_dies_between_a_send_and_a_delete(inspector: Inspector, ran: Bulks, workers: Workers, dies: str) -> None:
    ids = given(ran, "it")
    assert killed_and_finished(inspector, ran, workers, dies)
    check(ran, ids)


def test_messages_without_a_row_are_neither_lost_nor_run_twice(
    inspector: Inspector, ran: Bulks, workers: Workers
) -> None:
    for dies in ("before the send", "after the send", "before the delete"):
        ids = {
            put_dead_letter(ran.world, external(payload={"do": "redrive_counts", "number": 0})) for _ in range(MESSAGES)
        }
        assert killed_and_finished(inspector, ran, workers, dies)
        check(ran, ids)


def test_it_dies_after_any_statement(inspector: Inspector, ran: Bulks, workers: Workers) -> None:
    deaths = 0
    for number in STATEMENTS:
        ids = given(ran, f"n{number}")
        died = killed_and_finished(inspector, ran, workers, f"after statement {number}")
        deaths += died
        check(ran, ids)
        if not died:
            break
    assert not died  # all statements of the run were tried
    assert deaths >= 4


def test_it_dies_while_it_waits_for_the_canary(inspector: Inspector, ran: Bulks, workers: Workers) -> None:
    ids = given(ran, "it")
    assert killed_and_finished(inspector, ran, workers, "while the canary runs", canary=2)
    check(ran, ids)
