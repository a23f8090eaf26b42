"""The sweep continues the tasks with a signal that is not heard: their processes died, or SQL sent the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from joblane.enqueue.follow_up import FollowUp
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.finish import Finish, finish
from joblane.record.task.stop import Stop
from joblane.record.task.waits import wake
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.signals import PAGE, Signals
from joblane.sweep.sweep import Swept, sweep
from joblane.sweep.walk import PLANNING, RESET_PLANNING
from tests.builders.rows import TOKEN, active, put
from tests.samples import sample_one
from tests.world import PREFIX, World

HOUR = 3600.0


@pytest.fixture
def waiting(world: World) -> World:
    """A world with a task that waits for the signal `approval`."""
    world.lane(sample_one)
    put(world, sample_one, "it", **active(60))
    stop(world, "it")
    return world


def stop(world: World, id_: str) -> None:
    end = Finish(id_, TOKEN, 1, "waiting", State.SCHEDULED, stop=Stop("approval", "approval", HOUR))
    assert finish(world.database.get(), [end]) == {id_}


def swept(world: World) -> tuple[int, bool]:
    """Run a sweep. Return the number of tasks that it has continued, and if it wants another one soon."""
    following = NextSweep()
    found = sweep(world.database.get(), world.sqs, PREFIX, following=following)
    assert found.failed == []
    return found.woken, following.is_due


def test_a_signal_by_sql_continues_its_task(waiting: World) -> None:
    waiting.run("select joblane.signal('it', 'approval')")
    assert swept(waiting)[0] == 1
    assert (waiting.row("it")["state"], len(waiting.take(sample_one))) == ("pending", 1)
    assert swept(waiting) == (0, False)


def test_a_signaller_that_dies_after_its_commit_has_the_sweep_behind_it(
    waiting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FollowUp, "act", lambda *_, **__: None)
    assert waiting.client.signal("it", "approval")
    assert waiting.row("it")["state"] == "scheduled"
    assert swept(waiting)[0] == 1


def test_a_process_that_dies_after_a_wake_up_has_the_sweep_behind_it(waiting: World) -> None:
    waiting.run("select joblane.signal('it', 'approval')")
    assert [turn.id for turn in wake(waiting.database.get(), ids=["it"])] == ["it"]
    assert swept(waiting)[0] == 0
    assert waiting.take(sample_one) == []  # the process may still send it
    waiting.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    swept(waiting)
    assert len(waiting.take(sample_one)) == 1


def test_a_worker_that_dies_after_an_unsure_stop_has_the_sweep_behind_it(world: World) -> None:
    world.lane(sample_one)
    put(world, sample_one, "it", **active(60))
    with Database(world.url) as worker:
        run = worker.get()
        run.execute_simple("begin isolation level repeatable read")
        run.run("select 1")  # the snapshot
        assert world.client.signal("it", "approval")
        end = Finish("it", TOKEN, 1, "waiting", State.SCHEDULED, stop=Stop("approval", "approval", HOUR))
        assert finish(run, [end]) == {"it"}
        assert end.wakes
        assert swept(world) == (0, True)  # the row is locked, and another sweep follows
        run.execute_simple("commit")
    assert world.row("it")["state"] == "scheduled"
    assert swept(world)[0] == 1
    assert len(world.take(sample_one)) == 1


def test_without_a_death_the_sweep_has_nothing_to_continue(waiting: World) -> None:
    waiting.client._producer.sqs = waiting.sqs
    assert waiting.client.signal("it", "approval")
    assert waiting.sweep() == Swept()
    assert len(waiting.take(sample_one)) == 1


def test_the_signal_of_a_run_in_progress_is_left_and_another_sweep_follows(world: World) -> None:
    put(world, sample_one, "it", **active(60))
    world.run("select joblane.signal('it', 'approval')")
    assert swept(world) == (0, True)
    world.run("update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() + interval '1 day'")
    assert swept(world)[0] == 0
    assert swept(world) == (0, False)


def test_a_locked_task_is_left_to_the_next_sweep_and_the_others_continue(waiting: World) -> None:
    put(waiting, sample_one, "other", **active(60))
    stop(waiting, "other")
    waiting.run("select joblane.signal(id, 'approval') from joblane.tasks")
    with waiting.locked("it"):
        assert swept(waiting) == (1, True)
    assert swept(waiting)[0] == 1


def no_pages(world: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Signals, "_pages", lambda _: iter(()))


def no_sweep_after_a_wake_up(world: World, patch: pytest.MonkeyPatch) -> None:
    text, soon = FUNCTIONS["wake"], "sweep_at = clock_timestamp() + interval '60 s'"
    assert soon in text, "the function has changed: the fault can no longer be planted by this text"
    world.run(text.replace(soon, "sweep_at = t.sweep_at"))


FAULTS: list[tuple[Callable[[World, pytest.MonkeyPatch], None], Callable[[World], None]]] = [
    (no_pages, test_a_signal_by_sql_continues_its_task),
    (no_sweep_after_a_wake_up, test_a_process_that_dies_after_a_wake_up_has_the_sweep_behind_it),
]


@pytest.mark.parametrize(("plant", "test"), FAULTS)
def test_each_planted_fault_of_the_duty_is_found(
    waiting: World,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[World, pytest.MonkeyPatch], None],
    test: Callable[[World], None],
) -> None:
    plant(waiting, monkeypatch)
    with pytest.raises(AssertionError):
        test(waiting)


def test_many_signals_are_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(250):
        put(world, sample_one, f"t{number}", state="pending")
    world.run("select joblane.signal(id, 'a'), joblane.signal(id, 'b') from joblane.tasks")
    pages: list[str] = []
    connection = world.database.get()
    run = connection.run

    def counted(sql: str, *parameters: Any) -> Any:
        pages.append(sql) if sql == PAGE else None
        return run(sql, *parameters)

    monkeypatch.setattr(connection, "run", counted)
    swept(world)
    assert world.run("select count(*) from joblane.task_signals where not heard") == [[0]]
    assert len(pages) <= 7


def test_a_page_is_read_from_its_index(world: World) -> None:
    world.run(
        "insert into joblane.task_signals (task_id, name, value, heard)"
        " select n::text, 'a', '1', n > 20 from generate_series(1, 20000) as n"
    )
    connection = world.database.get()
    connection.execute_simple(PLANNING)
    plan = "\n".join(row[0] for row in connection.run(f"explain {PAGE}", "-infinity", ""))
    connection.execute_simple(RESET_PLANNING)
    assert "task_signals_unheard" in plan
    assert "Sort" not in plan
