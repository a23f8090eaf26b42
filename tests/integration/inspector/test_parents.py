"""Tasks that wait for others, as an operator sees them: why they wait, their relatives, and what an action does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from joblane import TaskContext
from joblane.inspector.durations import stamp
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import detail, why_held
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.views import Reason, Relative, Why
from joblane.record.row.states import State, WaitKind
from joblane.tasks.job import Job
from tests.integration.record.test_parents import HELD, RUN, ask, put, run
from tests.samples import LIMITED, Sample, behaviour, sample_one, sample_ordered, sample_single
from tests.world import World

JOB = Job(sample_one, Sample(do="nothing", number=0))
ALONE = "To run this task without waiting: `joblane run child`."


@pytest.fixture
def operator(scope: Scope, world: World) -> Inspector:
    world.make("jobs-low-jobs-sweep")
    return Inspector(replace(scope, tasks={task.type: task for task in (sample_one, *LIMITED)}))


@behaviour
def enqueues_another(_: Sample, ctx: TaskContext) -> None:
    ctx.enqueue(sample_one, Sample(), task_id="child")


def family(world: World, *parents: str, **options: Any) -> None:
    """Enqueue parents and a child, which is held."""
    put(world, *parents)
    put(world, "child", after=list(parents), **options)
    assert ask(world, "child") is HELD


def why(operator: Inspector, id_: str = "child") -> Why:
    return operator.task(id_).why


# --- Why -------------------------------------------------------------------------------------------------------------


def test_a_child_names_the_command_that_redrives_its_dead_parent(world: World, operator: Inspector) -> None:
    family(world, "a", "b", "c", "d")
    run(world, "c", State.ARCHIVED)
    run(world, "d", State.ARCHIVED)
    run(world, "a")
    assert why(operator) == Why(
        Reason.PARENTS,
        "It waits for task c, which is archived, and for 2 more, 1 of them archived. To run c again: `joblane retry c`."
        f" {ALONE}",
    )


def test_a_child_names_the_end_of_its_running_parent(world: World, operator: Inspector) -> None:
    family(world, "a")
    assert ask(world, "a") is RUN
    until = operator.task("a").lease_until
    assert until is not None
    found = why(operator)
    assert found.until == until
    assert found.text == (
        f"It waits for task a, which runs, until {stamp(until)} at the latest. To see a: `joblane show a`. {ALONE}"
    )


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda world: None, "which is pending. To see a: `joblane show a`."),
        (lambda world: run(world, "a", State.RETRY), "which waits for its 2nd attempt until "),
        (
            lambda world: world.run(
                "update joblane.tasks set state = 'scheduled', due_at = '2099-01-01Z' where id='a'"
            ),
            "which is scheduled for 2099-01-01 00:00:00Z. ",
        ),
    ],
)
def test_a_child_names_the_state_of_its_parent(
    world: World, operator: Inspector, prepare: Callable[[World], Any], says: str
) -> None:
    family(world, "a")
    prepare(world)
    assert why(operator).text.startswith(f"It waits for task a, {says}")


def test_a_child_that_is_due_later_names_its_time_and_a_pause(world: World, operator: Inspector) -> None:
    put(world, "a")
    put(world, "child", after=["a"], process_in=timedelta(hours=1))
    world.run("update joblane.tasks set deadline = now() where id = 'child'")
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    text = why(operator).text
    assert re.search(r"It waits for task a, .* It is due at 20\S+ \S+Z\. It will not run: .* is paused", text)


def test_a_child_whose_worker_died_is_started_by_the_sweep(world: World, operator: Inspector) -> None:
    family(world, "a")
    world.run("delete from joblane.task_parents")
    assert why(operator).text.endswith("the next sweep starts it.")
    world.run("insert into joblane.task_parents values ('child', 'gone', 'run')")
    assert why(operator).text.endswith("the next sweep starts it.")


def test_a_child_of_a_parent_that_cannot_complete_is_cancelled_by_the_sweep(world: World, operator: Inspector) -> None:
    family(world, "a")
    cancelled = "set state = 'cancelled', finished_at = now(), expire_at = now(), reason = 'by hand'"
    world.run(f"update joblane.tasks {cancelled} where id = 'a'")
    assert why(operator).text == "It waits for task a, which was cancelled: the next sweep cancels it."
    world.run("delete from joblane.tasks where id = 'a'")
    assert why(operator).text == "It waits for task a, which cannot complete any more: the next sweep cancels it."


def test_a_child_whose_parents_have_ended_before_its_message_came_waits_in_its_lane(
    world: World, operator: Inspector
) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    run(world, "a")
    assert why(operator).reason is Reason.IN_LANE


def test_a_child_with_a_limit_waits_for_its_parent_first(limited: World, operator: Inspector) -> None:
    put(limited, "a")
    put(limited, "child", task=sample_single, after=["a"])
    assert ask(limited, "child", task=sample_single) is HELD
    view = operator.task("child")
    assert (view.why.reason, view.waits_for) == (Reason.PARENTS, None)
    [limit] = operator.limits("sample:single")
    assert (limit.held, limit.taken) == (0, 0)


# --- Callbacks -------------------------------------------------------------------------------------------------------


def test_a_callback_waits_for_the_seal_and_for_the_members(world: World, operator: Inspector) -> None:
    world.lane(sample_one)
    batch = world.client.batch("import-7", on_success=JOB)
    batch.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in "abc"])
    found = why(operator, "import-7:on_success")
    assert found.text == (
        "It waits until the batch import-7 is sealed and for 3 members of it. If its creator cannot seal it any more:"
        " `joblane batch seal import-7`. To see the batch: `joblane batch show import-7`."
        " To run this task without waiting: `joblane run import-7:on_success`."
    )
    batch.seal()
    run(world, "a", State.ARCHIVED)
    run(world, "b")
    assert why(operator, "import-7:on_success").text == (
        "It waits for 2 members of batch import-7, 1 of them archived. To run the archived ones again: `joblane batch"
        " retry import-7`. To run this task without waiting: `joblane run import-7:on_success`."
    )


def test_the_members_of_a_large_batch_are_not_all_read(
    world: World, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why_held, "OPEN", why_held.OPEN.replace("limit 10000", "limit 2"))
    monkeypatch.setattr(why_held, "MOST_COUNTED", 2)
    world.lane(sample_one)
    with world.client.batch("import-7", on_end=JOB) as batch:
        batch.enqueue_many([Job(sample_one, Sample()) for _ in range(3)])
    assert "It waits for at least 2 members of batch import-7." in why(operator, "import-7:on_end").text


def test_the_statements_read_each_parent_by_its_id(world: World, operator: Inspector) -> None:
    # given many tasks, and statistics from before they came
    family(world, "a", "b")
    world.run("analyze joblane.tasks, joblane.task_parents, joblane.task_children")
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds)"
        " select 'other-' || n, 'a:b', 'default', 'pending', '', 4, 60 from generate_series(1, 20000) n"
    )
    world.run("insert into joblane.task_parents select 'other', 'other-' || n, 'hold' from generate_series(1, 20000) n")
    world.run("insert into joblane.task_children select 'other-' || n, 'other' from generate_series(1, 20000) n")
    connection = world.database.get()
    for sql, *parameters in (
        (why_held.OPEN, "child"),
        (detail.PARENT_TASKS, '["a", "b"]'),
        (detail.CHILD_TASKS, "a"),
    ):
        # when
        with reading(connection):
            read = "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_all_tables"
            where = " where schemaname = 'joblane'"
            [[before]] = connection.run(read + where)
            connection.run(sql, *parameters)
            [[after]] = connection.run(read + where)
            plan = "\n".join(row[0] for row in connection.run("explain analyze " + sql, *parameters))
        # then
        assert after - before <= 30, plan


# --- Relatives -------------------------------------------------------------------------------------------------------


def test_parents_and_children_are_shown_with_their_states(world: World, operator: Inspector) -> None:
    family(world, "a", "b", "c", on_parent_dead="hold")
    run(world, "a")
    run(world, "c", State.ARCHIVED)
    world.run("delete from joblane.tasks where id = 'a'")
    view = operator.task("child")
    assert view.parents.tasks == (
        Relative("c", "sample:one", State.ARCHIVED),
        Relative("b", "sample:one", State.PENDING),
        Relative("a", None, None),
    )
    assert (view.on_parent_dead, view.parents.more, view.options) == ("hold", False, {})
    assert operator.task("b").children.tasks == (Relative("child", "sample:one", State.HELD),)


def test_children_are_counted_by_state_and_listed_by_their_parent(
    world: World, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    put(world, "p")
    for number in range(6):
        put(world, f"c-{number}", after=["p"])
    world.run("update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id < 'c-3'")
    world.run("delete from joblane.tasks where id = 'c-5'")
    # then
    found = operator.task("p").children
    assert (found.number, found.summary) == ("6", "3 completed, 2 held, 1 removed")
    assert [one.id for one in found.tasks] == ["c-3", "c-4", "c-0", "c-1", "c-2", "c-5"]
    listed = operator.tasks(Filter(parent="p"))
    assert sorted(row.id for row in listed.tasks) == ["c-0", "c-1", "c-2", "c-3", "c-4"]
    assert operator.count(Filter(parent="p", states=(State.HELD,))).number == 2
    assert operator.tasks(Filter(parent="unknown")).tasks == ()
    # and the count has a bound
    monkeypatch.setattr(detail, "MOST_COUNTED", 4)
    monkeypatch.setattr(detail, "CHILD_TASKS", detail.CHILD_TASKS.replace("1001", "5"))
    found = operator.task("p").children
    assert (found.number, found.exact) == ("at least 4", False)


def test_many_relatives_are_cut(world: World, operator: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, *(f"p-{number:02}" for number in range(51)))
    parents = [f"p-{number:02}" for number in range(51)]
    for child in range(51):
        put(world, f"c-{child:02}", after=parents)
    view = operator.task("c-00")
    assert (len(view.parents.tasks), view.parents.more) == (50, True)
    view = operator.task("p-00")
    assert ([one.id for one in view.children.tasks][-1], view.children.more) == ("c-49", True)


def test_a_task_names_the_task_whose_run_enqueued_it(world: World, operator: Inspector) -> None:
    world.lane(sample_one)
    world.client.enqueue(sample_one, Sample(do="enqueues_another"), task_id="a")
    world.deliver(sample_one, {"type": "sample:one", "id": "a", "rec": True})
    assert operator.task("child").enqueued_by == "a"
    assert [one.id for one in operator.task("a").children.tasks] == ["child"]
    assert operator.task("child").parents.tasks == ()


def test_a_member_and_a_callback_name_their_batch(world: World, operator: Inspector) -> None:
    world.lane(sample_one)
    with world.client.batch("import-7", on_end=JOB) as batch:
        batch.enqueue(sample_one, Sample(), task_id="a")
    assert (operator.task("a").batch, operator.task("a").callback) == ("import-7", None)
    view = operator.task("import-7:on_end")
    assert (view.batch, view.callback, view.options) == ("import-7", "on_end", {})


# --- Actions, and lists ----------------------------------------------------------------------------------------------


def test_an_operator_runs_a_child_and_is_refused_for_a_task_with_a_limit(
    limited: World, scope: Scope, operator: Inspector
) -> None:
    family(limited, "a")
    operator.set_limit("sample:single", max_total=0, reason="r")
    put(limited, "b", task=sample_single)
    assert ask(limited, "b", task=sample_single) is HELD
    assert "run" in operator.task("child").actions
    assert "run" not in operator.task("b").actions
    assert operator.run("child").after is State.PENDING
    with pytest.raises(ActionError, match=r"it waits for the limit sample:single\. .*`joblane limits sample:single`"):
        operator.run("b")
    assert ask(limited, "child") is RUN


def test_a_child_has_no_place_in_the_order_before_it_is_released(
    limited: World, scope: Scope, operator: Inspector
) -> None:
    put(limited, "a")
    put(limited, "child", task=sample_ordered, after=["a"], tenant="acme")
    put(limited, "other", task=sample_ordered, tenant="acme")
    key = limited.row("other")["key_limit"].partition("/")[2]
    assert [row.id for row in operator.line("sample:ordered", key)] == ["other"]
    assert ask(limited, "child", task=sample_ordered) is HELD
    assert run(limited, "a") == ["child"]
    assert [row.id for row in operator.line("sample:ordered", key)] == ["other", "child"]


def test_a_replayed_member_is_no_member(world: World, operator: Inspector) -> None:
    world.lane(sample_one)
    with world.client.batch("import-7") as batch:
        batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id="a", tags=["mine"])
    run(world, "a")
    new = operator.replay("a").new_id
    assert operator.task(str(new)).row.tags == ("mine",)


def test_a_child_that_an_operator_enqueues_is_held(world: World, operator: Inspector) -> None:
    put(world, "a")
    acted = operator.enqueue("sample:one", {"number": 1}, options={"after": ["a"], "on_parent_dead": "run"})
    assert acted.after is State.HELD
    assert world.row(acted.id)["wait_kind"] == WaitKind.PARENTS


def test_a_held_child_is_counted_and_is_not_late(world: World, operator: Inspector) -> None:
    family(world, "a")
    run(world, "a", State.ARCHIVED)
    world.run("update joblane.tasks set due_at = now() - interval '1 day', created_at = now() - interval '1 day'")
    [lane] = [lane for queue in operator.overview().queues for lane in queue.lanes if lane.type == "sample:one"]
    assert (lane.tasks[State.HELD], lane.oldest_wait_seconds) == (1, None)
