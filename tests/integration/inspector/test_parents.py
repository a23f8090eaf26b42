"""Tasks that wait for others, as an operator sees them: their relatives, and what an action does."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import TaskContext
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.tasks import detail, why_held
from joblane.inspector.views import Reason, Relative
from joblane.record.row.states import State, WaitKind
from tests.integration.inspector.scene import JOB, AnyTask, Scene
from tests.samples import Sample, behaviour, sample_one, sample_ordered, sample_single


@behaviour
def enqueues_another(_: Sample, ctx: TaskContext) -> None:
    ctx.enqueue(sample_one, Sample(), task_id="child")


def family(on: Scene, *parents: str, task: AnyTask = sample_one, **options: Any) -> Scene:
    """Enqueue parents and a child, which is held."""
    on.enqueue(*parents).enqueue("child", task=task, after=list(parents), **options).deliver("child", task=task)
    assert on.states("child") == ["held"]
    return on


def test_a_child_with_a_limit_waits_for_its_parent_first(scene: Scene, operator: Inspector) -> None:
    family(scene, "a", task=sample_single)
    view = operator.task("child")
    assert (view.why.reason, view.waits_for) == (Reason.PARENTS, None)
    [limit] = operator.limits("sample:single")
    assert (limit.held, limit.taken) == (0, 0)


def test_the_members_of_a_large_batch_are_not_all_read(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why_held, "OPEN", why_held.OPEN.replace("limit 10000", "limit 2"))
    monkeypatch.setattr(why_held, "MOST_COUNTED", 2)
    scene.batch("import-7", *"abc", on_end=JOB)
    assert "It waits for at least 2 members of batch import-7." in operator.task("import-7:on_end").why.text


def test_the_statements_read_each_parent_by_its_id(scene: Scene) -> None:
    # given many tasks, and statistics from before they came
    family(scene, "a", "b").sql("analyze joblane.tasks, joblane.task_parents, joblane.task_children").others(20_000)
    scene.sql("insert into joblane.task_parents select 'other', 'other-' || n, 'hold' from generate_series(1, 20000) n")
    scene.sql("insert into joblane.task_children select 'other-' || n, 'other' from generate_series(1, 20000) n")
    # then
    statements = ((why_held.OPEN, "child"), (detail.PARENT_TASKS, '["a", "b"]'), (detail.CHILD_TASKS, "a"))
    for sql, parameter in statements:
        number, plan = scene.rows_read(sql, parameter)
        assert number <= 30, plan


# --- Relatives -------------------------------------------------------------------------------------------------------


def test_parents_and_children_are_shown_with_their_states(scene: Scene, operator: Inspector) -> None:
    family(scene, "a", "b", "c", on_parent_dead="hold").end("a").end("c", State.ARCHIVED)
    scene.sql("delete from joblane.tasks where id = 'a'")
    view = operator.task("child")
    assert view.parents.tasks == (
        Relative("c", "sample:one", State.ARCHIVED),
        Relative("b", "sample:one", State.PENDING),
        Relative("a", None, None),
    )
    assert (view.on_parent_dead, view.parents.more, view.options) == ("hold", False, {})
    assert operator.task("b").children.tasks == (Relative("child", "sample:one", State.HELD),)


def test_children_are_counted_by_state_and_listed_by_their_parent(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    scene.enqueue("p").enqueue(*(f"c-{number}" for number in range(6)), after=["p"])
    scene.sql("update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id < 'c-3'")
    scene.sql("delete from joblane.tasks where id = 'c-5'")
    # then
    found = operator.task("p").children
    assert (found.number, found.summary) == ("6", "3 completed, 2 held, 1 removed")
    assert [one.id for one in found.tasks] == ["c-3", "c-4", "c-0", "c-1", "c-2", "c-5"]
    assert sorted(row.id for row in operator.tasks(Filter(parent="p")).tasks) == ["c-0", "c-1", "c-2", "c-3", "c-4"]
    assert operator.count(Filter(parent="p", states=(State.HELD,))).number == 2
    assert operator.tasks(Filter(parent="unknown")).tasks == ()
    # and the count has a bound
    monkeypatch.setattr(detail, "MOST_COUNTED", 4)
    monkeypatch.setattr(detail, "CHILD_TASKS", detail.CHILD_TASKS.replace("1001", "5"))
    found = operator.task("p").children
    assert (found.number, found.exact) == ("at least 4", False)


def test_many_relatives_are_cut(scene: Scene, operator: Inspector) -> None:
    parents, children = ([f"{kind}-{number:02}" for number in range(51)] for kind in "pc")
    scene.enqueue(*parents).enqueue(*children, after=parents)
    view = operator.task("c-00")
    assert (len(view.parents.tasks), view.parents.more) == (50, True)
    view = operator.task("p-00")
    assert ([one.id for one in view.children.tasks][-1], view.children.more) == ("c-49", True)


def test_a_task_names_the_task_whose_run_enqueued_it(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a", do="enqueues_another").deliver("a")
    child = operator.task("child")
    assert (child.enqueued_by, child.parents.tasks) == ("a", ())
    assert [one.id for one in operator.task("a").children.tasks] == ["child"]


def test_a_member_and_a_callback_name_their_batch(scene: Scene, operator: Inspector) -> None:
    scene.batch("import-7", "a", on_end=JOB)
    assert (operator.task("a").batch, operator.task("a").callback) == ("import-7", None)
    view = operator.task("import-7:on_end")
    assert (view.batch, view.callback, view.options) == ("import-7", "on_end", {})


# --- Actions, and lists ----------------------------------------------------------------------------------------------


def test_an_operator_runs_a_child_and_is_refused_for_a_task_with_a_limit(scene: Scene, operator: Inspector) -> None:
    family(scene, "a").limit("sample:single", max_total=0).send("b", task=sample_single)
    assert ["run" in operator.task(id_).actions for id_ in ("child", "b")] == [True, False]
    assert operator.run("child").after is State.PENDING
    with pytest.raises(
        ActionError, match=r"it waits for the limit sample:single\. .*`joblane limits ls sample:single`"
    ):
        operator.run("b")
    scene.claim("child")


def test_a_child_has_no_place_in_the_order_before_it_is_released(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a").enqueue("child", task=sample_ordered, after=["a"], tenant="acme")
    scene.enqueue("other", task=sample_ordered, tenant="acme")
    key = scene.world.row("other")["key_limit"].partition("/")[2]
    assert [row.id for row in operator.line("sample:ordered", key)] == ["other"]
    scene.deliver("child", task=sample_ordered).end("a")
    assert [row.id for row in operator.line("sample:ordered", key)] == ["other", "child"]


def test_a_replayed_member_is_no_member(scene: Scene, operator: Inspector) -> None:
    scene.world.lane(sample_one)
    with scene.world.client.batch("import-7") as batch:
        batch.enqueue(sample_one, Sample(), task_id="a", tags=["mine"])
    new = scene.end("a").inspector.replay("a").new_id
    assert operator.task(str(new)).row.tags == ("mine",)


def test_a_child_that_an_operator_enqueues_is_held(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a")
    acted = operator.enqueue("sample:one", {"number": 1}, options={"after": ["a"], "on_parent_dead": "run"})
    assert acted.after is State.HELD
    assert scene.world.row(acted.id)["wait_kind"] == WaitKind.PARENTS


def test_held_tasks_are_counted_and_listed_and_are_not_late(scene: Scene, operator: Inspector) -> None:
    family(scene, "a").end("a", State.ARCHIVED).limit("sample:single", max_total=0).send("b", "c", task=sample_single)
    scene.sql("update joblane.tasks set due_at = now() - interval '1 day', created_at = now() - interval '1 day'")
    lanes = {lane.type: lane for queue in operator.overview().queues for lane in queue.lanes}
    for type_, number in (("sample:one", 1), ("sample:single", 2)):
        assert (lanes[type_].tasks, lanes[type_].oldest_wait_seconds) == ({State.HELD: number}, None)
    assert {row.id for row in operator.tasks(Filter(states=(State.HELD,))).tasks} == {"child", "b", "c"}
