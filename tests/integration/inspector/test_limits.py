"""Limits for operators: the values, the tasks that wait, changes with their audit, and the order of a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.errors import LimitError
from joblane.inspector.actions.changes import change
from joblane.inspector.durations import stamp
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Reason
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_status import STATUS, LimitKind
from joblane.tasks.limit import Rate
from tests.integration.inspector.scene import Scene
from tests.samples import sample_keyed, sample_ordered, sample_rated, sample_single, sample_tree
from tests.world import World

KEYED, ORDERED, SINGLE, TREE = sample_keyed.type, sample_ordered.type, sample_single.type, sample_tree.type
KEY = "acme 7"


def hold(on: Scene, *ids: str, number: int = 7) -> Scene:
    """Hold tasks of an ordered key."""
    return on.send(*ids, task=sample_ordered, number=number, tenant="acme")


def hold_all(on: Scene, *ids: str) -> Scene:
    """Set the limit of the key to 0 first, so that each task waits."""
    return hold(on.limit(ORDERED, key=KEY, max_per_key=0), *ids)


def taken(on: Scene) -> list[str]:
    return [json.loads(message["Body"])["id"] for message in on.world.take(sample_ordered)]


def line(on: Scene) -> list[str]:
    return [row.id for row in on.inspector.line(ORDERED, KEY)]


# --- Run ------------------------------------------------------------------------------------------------------------


def test_run_leaves_out_a_task_that_waits_for_the_time_of_a_rate(scene: Scene, operator: Inspector) -> None:
    scene.limit("sample:rated", rate=Rate(1, timedelta(hours=1))).send("a", "b", "c", task=sample_rated)
    before, due_at = scene.world.row("b"), operator.task("b").why.until
    assert due_at is not None
    with pytest.raises(ActionError) as refused:
        operator.run("b")
    assert str(refused.value).startswith(
        "task 'b' is pending: the rate of the total of sample:rated, 1 an hour, gives it the time"
        f" {stamp(due_at)}. To change the rate: `joblane limits set sample:rated` with --rate"
    )
    assert change(scene.world.database.get(), BulkAction.RUN, ["b", "c"], who="op") == []
    assert scene.world.row("b") == before
    assert "run" not in operator.task("b").actions


@pytest.mark.parametrize("waiting", ["retry", "scheduled"])
def test_run_starts_a_retry_or_a_scheduled_task_which_asks_its_rate(
    scene: Scene, operator: Inspector, waiting: str
) -> None:
    scene.limit("sample:rated", rate=Rate(1, timedelta(hours=1)))
    scene.enqueue("a", task=sample_rated, process_in=timedelta(hours=9)).sql(
        "update joblane.tasks set state = $1", waiting
    )
    assert operator.run("a").after == "pending"
    scene.send("b", task=sample_rated).deliver("a", task=sample_rated)
    assert (scene.states("a", "b"), operator.task("a").why.reason) == (["pending", "completed"], Reason.RATED)


def test_run_gives_a_scheduled_task_its_place_in_the_order_from_now_on(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a", task=sample_ordered, number=7, tenant="acme", process_in=timedelta(hours=20)).act("run", "a")
    scene.enqueue("b", task=sample_ordered, number=7, tenant="acme")
    assert line(scene) == ["a", "b"]
    operator.run("b")
    assert scene.deliver("b", task=sample_ordered).states("a", "b") == ["pending", "held"]


# --- Edit -----------------------------------------------------------------------------------------------------------


def test_an_edit_that_gives_the_limits_another_key_is_refused(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a", task=sample_keyed, number=1)
    with pytest.raises(ActionError, match=r"gives its limits another key, .*; cancel it, and replay it instead"):
        operator.edit("a", {"number": 2})
    operator.archive("a")
    with pytest.raises(ActionError, match=r"gives its limits another key, .* them; replay it instead"):
        operator.edit("a", {"number": 2})
    row = scene.world.row("a")
    assert (row["payload"]["number"], row["key_limit"]) == (1, f"{KEYED}/1")
    operator.edit("a", {"number": 1, "do": "other"})
    new = operator.replay_with("a", {"number": 2}).new_id
    assert scene.world.row(str(new))["key_limit"] == f"{KEYED}/2"


@pytest.mark.parametrize("key", ["'7'", "null"])
def test_an_edit_leaves_a_key_alone_that_is_not_from_the_payload(scene: Scene, operator: Inspector, key: str) -> None:
    scene.enqueue("a", task=sample_keyed, number=1).change("a", f"key_limit = '{KEYED}/' || {key}")
    before = scene.world.row("a")["key_limit"]
    operator.edit("a", {"number": 2})
    row = scene.world.row("a")
    assert (row["payload"]["number"], row["key_limit"]) == (2, before)


# --- Values --------------------------------------------------------------------------------------------------------


def test_all_declared_limits_are_listed_and_keys_with_values_of_their_own(scene: Scene, operator: Inspector) -> None:
    scene.limit(KEYED, key="7", max_per_key=3)
    found = {(one.name, one.key, one.kind) for one in operator.limits()}
    assert found == {
        ("shared", None, LimitKind.SHARED),
        (KEYED, None, LimitKind.EACH_KEY),
        (KEYED, "7", LimitKind.KEY),
        (SINGLE, None, LimitKind.TOTAL),
        (TREE, None, LimitKind.EACH_KEY),
        (TREE, None, LimitKind.TOTAL),
        (ORDERED, None, LimitKind.EACH_KEY),
        ("sample:rated", None, LimitKind.TOTAL),
    }


def test_of_a_type_the_keys_whose_tasks_wait_longest_come_first(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements, execute = list[str](), Connection.run

    def noted(connection: Connection, sql: str, *parameters: Any) -> Any:
        statements.append(sql)
        return execute(connection, sql, *parameters)

    scene.limit(ORDERED, max_per_key=0)
    for number in (1, 2, 3):
        hold(scene, f"a{number}", f"b{number}", number=number)
    scene.change("a2", "due_at = due_at - interval '1 hour'")
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "run", noted)
        each, *keys = operator.limits(ORDERED)
    assert (each.held, each.in_force.at_a_time, each.declared.at_a_time) == (6, 0, 1)
    assert [(one.key, one.held) for one in keys] == [("acme 2", 2), ("acme 1", 2), ("acme 3", 2)]
    assert statements.count(STATUS) == 1, "one statement for all limits"


def test_what_is_set_for_undeclared_limits_is_listed_and_reset(scene: Scene, operator: Inspector) -> None:
    scene.limit("shared", total=0).limit(KEYED, max_per_key=5).limit(KEYED, key="7", max_per_key=0)
    scene.limit(ORDERED, key="9", max_per_key=0).sql("delete from joblane.limits where name <> 'sample:single'")
    listed = [(one.name, one.key, one.kind, one.is_declared) for one in operator.limits()]
    assert listed == [
        (KEYED, None, LimitKind.EACH_KEY, False),
        (KEYED, "7", LimitKind.KEY, False),
        (ORDERED, "9", LimitKind.KEY, False),
        (SINGLE, None, LimitKind.TOTAL, True),
        ("shared", None, LimitKind.SHARED, False),
    ]
    assert [(one.kind, one.key) for one in operator.limits(ORDERED)] == [
        (LimitKind.EACH_KEY, None),
        (LimitKind.KEY, "9"),
    ]
    for name, key in (("shared", None), (KEYED, None), (KEYED, "7"), (ORDERED, "9")):
        operator.reset_limit(name, key=key)
    assert [one.name for one in operator.limits()] == [SINGLE]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("nosuch", None), "name"), ((None, "7"), "key"), (("shared", "7"), "key"), ((SINGLE, "7"), "key")],
)
def test_an_unknown_limit_is_an_error(operator: Inspector, arguments: tuple[str, str], field: str) -> None:
    name, key = arguments
    with pytest.raises(LimitError) as caught:
        operator.limits(name, key=key)
    assert caught.value.field == field


def test_a_held_task_names_its_limits(scene: Scene, operator: Inspector) -> None:
    view = hold_all(scene, "a").inspector.task("a")
    assert (view.limits, view.waits_for) == ((f"{ORDERED}/{KEY}",), f"{ORDERED}/{KEY}")
    assert {one.type for one in operator.types() if one.ordered} == {ORDERED}


def test_a_change_answers_with_the_limits_and_is_in_the_audit(limited: World, operator: Inspector) -> None:
    until = datetime.now(UTC) + timedelta(hours=2)
    rate = Rate(100, timedelta(minutes=1), burst=10)
    each, total = operator.set_limit(TREE, max_per_key=1, max_total=0, rate=rate, until=until, reason="  it\nmoves ")
    assert (each.kind, each.in_force.at_a_time, each.in_force.rate) == (LimitKind.EACH_KEY, 1, rate)
    assert total.change is not None
    assert (total.change.by, total.change.reason, total.change.until) == ("op", "it moves", until)
    assert [one.name for one in operator.reset_limit(TREE, reason="done")] == [TREE, TREE]
    done, was_set = operator.audit()
    assert (was_set.action, was_set.target, was_set.who, was_set.reason) == (
        "set_limit",
        f"limit:{TREE}",
        "op",
        "it moves",
    )
    assert was_set.details == {
        "set": {
            f"{TREE}/": {"at_a_time": 1, "rate": {"starts": 100, "per_seconds": 60.0, "burst": 10}},
            TREE: {"at_a_time": 0},
        },
        "until": until.isoformat(),
    }
    assert (done.action, done.reason, set(done.details["limits"])) == ("reset_limit", "done", {TREE, f"{TREE}/"})


def test_bad_input_leaves_neither_a_change_nor_an_entry(limited: World, operator: Inspector) -> None:
    with pytest.raises(LimitError, match="an integer from 0"):
        operator.set_limit(TREE, max_per_key=1, max_total=-1, reason="a test")
    with pytest.raises(LimitError, match="in the future"):
        operator.set_limit(TREE, max_total=1, until=datetime(2020, 1, 1, tzinfo=UTC), reason="a test")
    with pytest.raises(LimitError, match="nothing is set"):
        operator.reset_limit(TREE)
    assert limited.run("select * from joblane.limit_changes") == []
    assert operator.audit() == ()


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_change_without_a_reason_is_refused(limited: World, operator: Inspector, reason: str) -> None:
    with pytest.raises(SelectionError, match="reason: a reason is required"):
        operator.set_limit(TREE, max_total=1, reason=reason)
    assert limited.run("select * from joblane.limit_changes") == []


def test_a_raised_limit_sends_the_messages_and_wakes_the_sweep(scene: Scene, operator: Inspector) -> None:
    hold_all(scene, "a", "b")
    scene.world.take(sample_ordered)
    operator.reset_limit(ORDERED, key=KEY)
    assert (scene.states("a", "b"), taken(scene)) == (["pending", "held"], ["a"])
    assert scene.world.depth("jobs-low-jobs-sweep") > 0


# --- The order of a key --------------------------------------------------------------------------------------------


def test_the_order_of_a_key_is_shown(scene: Scene, operator: Inspector) -> None:
    hold(hold_all(scene, "c", "a", "b"), "other", number=8)
    assert [(row.id, row.state) for row in operator.line(ORDERED, KEY)] == [("c", "held"), ("a", "held"), ("b", "held")]
    assert [row.id for row in operator.line(ORDERED, KEY, limit=1)] == ["c"]
    assert operator.line(ORDERED, "none") == ()


def test_the_first_task_gives_its_place_to_the_next(scene: Scene, operator: Inspector) -> None:
    """It waits for a retry, and the others of its key wait for it."""
    scene.send("a", task=sample_ordered, do="fail", number=7, tenant="acme")
    assert hold(scene, "b", "c").states("a", "b", "c") == ["retry", "held", "held"]
    scene.world.take(sample_ordered)
    # when
    result = operator.pass_line(ORDERED, KEY, reason="it fails")
    # then
    note = f"It is the last of {ORDERED}/{KEY} now; b is first"
    assert (result.id, result.after, result.note) == ("a", "retry", note)
    assert (line(scene), scene.states("a", "b", "c")) == (["b", "c", "a"], ["retry", "pending", "held"])
    assert taken(scene) == ["b"]
    assert scene.later("a").deliver("a", task=sample_ordered).states("a") == ["held"]
    assert scene.deliver("b", "c", task=sample_ordered).states("a", "b", "c") == ["pending", "completed", "completed"]
    [entry] = operator.audit()
    assert (entry.action, entry.target, entry.reason) == ("pass_line", "a", "it fails")
    assert entry.details == {"line": f"{ORDERED}/{KEY}", "next": "b"}


def test_a_held_first_task_waits_at_the_end(scene: Scene) -> None:
    hold_all(scene, "a", "b", "c").act("pass_line", ORDERED, KEY).act("pass_line", ORDERED, KEY)
    assert line(scene) == ["c", "a", "b"]
    scene.world.take(sample_ordered)
    scene.act("reset_limit", ORDERED, key=KEY)
    order = []
    for _ in range(3):
        order += taken(scene)
        scene.deliver(order[-1], task=sample_ordered)
    assert order == ["c", "a", "b"]


def test_only_the_task_that_the_operator_saw_first_is_moved(scene: Scene, operator: Inspector) -> None:
    hold_all(scene, "a", "b", "c").act("pass_line", ORDERED, KEY, first="a")
    with pytest.raises(LimitError, match="first: task b is the first of"):
        operator.pass_line(ORDERED, KEY, first="a")
    assert line(scene) == ["b", "c", "a"]


LATER: dict[str, Any] = {"task": sample_ordered, "number": 7, "tenant": "acme"}
NONE_TO_MOVE: dict[str, tuple[Callable[[Scene], Scene], tuple[str, str], str]] = {
    "one task": (lambda on: hold_all(on, "a"), (ORDERED, KEY), "only task a is due in the order"),
    "a running first task": (
        lambda on: (
            hold_all(on, "a", "b")
            .act("reset_limit", ORDERED, key=KEY)
            .change("a", "state = 'active', lease_until = now() + interval '1 hour'")
        ),
        (ORDERED, KEY),
        "task a runs now",
    ),
    "no task": (lambda on: on, (ORDERED, "none"), "no task is due in the order"),
    "no order": (lambda on: on, (KEYED, "7"), f"{KEYED} declares no order; types with an order: {ORDERED}"),
    "tasks that are due later": (
        lambda on: on.enqueue("b", "c", process_in=timedelta(hours=1), **LATER),
        (ORDERED, KEY),
        "no task is due in the order .*, so there is none to move",
    ),
    "one task before tasks that are due later": (
        lambda on: hold_all(on.enqueue("b", "c", process_in=timedelta(hours=1), **LATER), "a"),
        (ORDERED, KEY),
        "only task a is due in the order",
    ),
}


@pytest.mark.parametrize("case", NONE_TO_MOVE.values(), ids=NONE_TO_MOVE.keys())
def test_a_first_task_that_cannot_be_moved_keeps_its_place(scene: Scene, operator: Inspector, case: Any) -> None:
    given, key, says = case
    before = line(given(scene))
    with pytest.raises(LimitError, match=says):
        operator.pass_line(*key)
    assert (line(scene), operator.audit(action="pass_line")) == (before, ())


def test_a_program_sees_what_an_operator_has_set(scene: Scene) -> None:
    change = scene.limit("shared", total=9).world.client.limits.get("shared").change
    assert change is not None
    assert (change.by, change.values.at_a_time) == ("op", 9)
