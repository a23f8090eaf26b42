"""Why a task with limits is not running: each situation, with the command that helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.inspector.durations import stamp
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import Reason, Why
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from joblane.tasks.task import Task
from tests.samples import (
    LIMITED,
    Sample,
    sample_keyed,
    sample_ordered,
    sample_rated,
    sample_sharing,
    sample_single,
    sample_tree,
)
from tests.world import World

HOUR = timedelta(hours=1)


@pytest.fixture
def operator(scope: Scope, limited: World) -> Inspector:
    limited.make("jobs-low-jobs-sweep")
    return Inspector(replace(scope, tasks={task.type: task for task in LIMITED}))


def put(world: World, task: Task[Any, Any], *ids: str, number: int = 7, do: str = "nothing") -> None:
    """Enqueue tasks, and deliver their messages one after the other."""
    world.lane(task)
    for id_ in ids:
        world.client.enqueue(task, Sample(number=number, do=do), task_id=id_, tenant="acme")
        world.deliver(task, {"type": task.type, "id": id_, "rec": True})


def run_for_an_hour(world: World, id_: str) -> datetime:
    """Let a task that has its slots run. Return the end of its lease."""
    sql = (
        "update joblane.tasks set state = 'active', passed = 'all', lease_until = now() + interval '1 hour'"
        " where id = $1 returning lease_until"
    )
    return world.run(sql, id_)[0][0]  # type: ignore[no-any-return]


def why(inspector: Inspector, id_: str) -> Why:
    return inspector.task(id_).why


def hold_behind_a_run(world: World, operator: Inspector, task: Task[Any, Any], ids: str, **values: Any) -> datetime:
    """Hold tasks by a limit of 0, then let the first of them run."""
    none: dict[str, Any] = dict.fromkeys(values, 0)
    operator.set_limit(task.type, **none, reason="r")
    put(world, task, *ids)
    operator.set_limit(task.type, **values, reason="r")
    return run_for_an_hour(world, ids[0])


def test_a_task_held_by_the_limit_of_its_key(limited: World, operator: Inspector) -> None:
    until = hold_behind_a_run(limited, operator, sample_keyed, "abc", max_per_key=1)
    found = why(operator, "c")
    assert found.reason is Reason.HELD
    assert found.text == (
        f"It is held by the limit of sample:keyed for key 7: 1 of 1 slots are taken; task a runs, until {stamp(until)}"
        " at the latest. 1 task waits before it in its key. To see or change the limit: `joblane limits sample:keyed"
        " --key 7`."
    )


def test_a_task_held_by_a_total(limited: World, operator: Inspector) -> None:
    until = hold_behind_a_run(limited, operator, sample_single, "ab", max_total=1)
    assert why(operator, "b").text == (
        f"It is held by the total of sample:single: 1 of 1 slots are taken; task a runs, until {stamp(until)} at the"
        " latest. It is the next one. To see or change the limit: `joblane limits"
        " sample:single`."
    )


def test_a_task_held_by_a_shared_limit_of_several_types(limited: World, operator: Inspector) -> None:
    operator.set_limit("shared", total=0, reason="r")
    put(limited, sample_tree, "a", "b")
    put(limited, sample_sharing, "c", "d")
    operator.set_limit("shared", total=2, reason="r")
    until = run_for_an_hour(limited, "a")
    run_for_an_hour(limited, "b")
    text = why(operator, "d").text
    assert (
        f"the shared limit shared: 2 of 2 slots are taken; 2 tasks run, the first of them a, until {stamp(until)}"
        in text
    )
    assert "About 1 task waits before it; tenants are served in turn." in text
    assert "`joblane limits shared`" in text


def test_a_limit_set_to_0_names_the_operator_the_end_and_the_reason(limited: World, operator: Inspector) -> None:
    until = (datetime.now(UTC) + HOUR).replace(microsecond=0)
    operator.set_limit("sample:keyed", key="7", max_per_key=0, until=until, reason="it moves")
    put(limited, sample_keyed, "a")
    found = why(operator, "a")
    assert (found.reason, found.until) == (Reason.HELD, until)
    assert found.text == (
        f"It is held by the limit of sample:keyed for key 7, which was set to 0 by op until {stamp(until)} because: it"
        " moves. To start the tasks: `joblane limits reset sample:keyed --key 7`."
    )


def test_a_limit_set_to_0_for_each_key_names_the_command_that_resets_it(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:keyed", max_per_key=0, reason="r")
    put(limited, sample_keyed, "a")
    assert "which was set to 0 for each key by op because: r." in why(operator, "a").text
    assert why(operator, "a").text.endswith("To start the tasks: `joblane limits reset sample:keyed`.")


def test_a_key_with_a_rate_of_its_own_names_the_change_that_sets_its_slots_to_0(
    limited: World, operator: Inspector
) -> None:
    operator.set_limit("sample:keyed", key="7", rate=Rate(5, timedelta(seconds=1)), reason="slow")
    operator.set_limit("sample:keyed", max_per_key=0, reason="stop")
    put(limited, sample_keyed, "a")
    found = why(operator, "a").text
    assert "which was set to 0 for each key by op because: stop." in found
    assert found.endswith("To start the tasks: `joblane limits reset sample:keyed`.")


def test_a_task_whose_turn_came(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:single", max_total=0, reason="r")
    put(limited, sample_single, "a")
    operator.reset_limit("sample:single")
    found = why(operator, "a")
    assert found.reason is Reason.TURN
    assert found.text.startswith("Its turn came at ")
    assert "its message should be in jobs-default-sample-single" in found.text


def test_a_task_with_a_time_of_its_rate(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:rated", rate=Rate(1, HOUR, burst=1), reason="r")
    put(limited, sample_rated, "a", "b")
    found = why(operator, "b")
    assert found.reason is Reason.RATED
    assert found.until is not None
    assert found.text.startswith(
        f"The rate of the total of sample:rated, 1 an hour, gives it the time {stamp(found.until)}. To see or change"
        " the rate: `joblane limits sample:rated`. SQS cannot delay a message for that long; "
    )


def test_a_task_in_line_behind_a_retry(limited: World, operator: Inspector) -> None:
    put(limited, sample_ordered, "a", do="fail")
    put(limited, sample_ordered, "b", "c")
    found = why(operator, "c")
    assert (found.reason, found.until) == (Reason.IN_ORDER, operator.task("a").row.due_at)
    assert found.until is not None
    assert found.text == (
        f"It is in line behind a, which waits for its 2nd attempt until {stamp(found.until)}. 2 tasks are before it. To"
        " start that one now: `joblane run a`. To let the next one run first: `joblane limits pass"
        " sample:ordered 'acme 7'`."
    )


def test_a_task_in_line_behind_a_running_and_a_held_one(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:ordered", max_per_key=0, reason="r")
    put(limited, sample_ordered, "a", "b")
    assert "behind a, which is held itself. To see why: `joblane show a`." in why(operator, "b").text
    assert "which was set to 0 for each key by op" in why(operator, "a").text
    operator.reset_limit("sample:ordered")
    until = run_for_an_hour(limited, "a")
    found = why(operator, "b")
    assert found.text == (
        f"It is in line behind a, which runs, until {stamp(until)} at the latest. To see all of them: `joblane line"
        " show sample:ordered 'acme 7'`."
    )


def test_a_free_slot_is_named(limited: World, operator: Inspector) -> None:
    """As if a process had died before it could serve the limit."""
    operator.set_limit("sample:single", max_total=0, reason="r")
    put(limited, sample_single, "a")
    limited.run("delete from joblane.limit_changes")
    assert "has a free slot: the next end of a task there, or the next sweep, starts it" in why(operator, "a").text


def test_a_pause_of_a_held_task_is_named_too(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:single", max_total=0, reason="r")
    put(limited, sample_single, "a")
    operator.pause(PauseScope.TYPE, "sample:single", reason="stop")
    assert "set to 0 by op" in why(operator, "a").text
    assert why(operator, "a").text.endswith("The type sample:single is paused by op, until it is resumed: stop.")


def test_held_tasks_are_counted_and_listed_and_are_not_late(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:single", max_total=0, reason="r")
    put(limited, sample_single, "a", "b")
    limited.run("update joblane.tasks set due_at = due_at - interval '1 hour'")
    [lane] = [lane for queue in operator.overview().queues for lane in queue.lanes if lane.type == "sample:single"]
    assert lane.tasks == {State.HELD: 2}
    assert lane.oldest_wait_seconds is None
    assert {row.id for row in operator.tasks(Filter(states=(State.HELD,))).tasks} == {"a", "b"}


def test_a_held_task_that_was_pushed_says_so_and_no_latest_time(limited: World, operator: Inspector) -> None:
    how: dict[str, Any] = {"unique_for": HOUR, "unique_until": "start", "unique_key": "k"}
    limited.lane(sample_single)
    limited.run("update joblane.limits set slots = 0 where name = 'sample:single'")
    limited.client.enqueue(sample_single, Sample(), task_id="b", debounce=timedelta(minutes=1), **how)
    limited.later("b")
    limited.deliver(sample_single, {"type": "sample:single", "id": "b", "rec": True})
    assert "pushed" not in why(operator, "b").text
    for _ in range(2):
        limited.client.enqueue(sample_single, Sample(number=2), debounce=timedelta(minutes=1), **how)
    found = why(operator, "b")
    assert found.reason is Reason.HELD
    assert found.text.endswith(f"It was pushed 2 times since {stamp(operator.task('b').row.created_at)}.")
