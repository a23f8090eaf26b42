"""Limits for operators: the values, the tasks that wait, changes with their audit, and the order of a key."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from joblane.errors import LimitError
from joblane.inspector.actions.changes import change
from joblane.inspector.durations import stamp
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import Reason
from joblane.record.flow.limit_status import LimitKind
from joblane.tasks.limit import Rate
from tests.samples import LIMITED, Sample, sample_keyed, sample_ordered, sample_rated, sample_single, sample_tree
from tests.world import World

KEYED, ORDERED, SINGLE, TREE = sample_keyed.type, sample_ordered.type, sample_single.type, sample_tree.type
KEY = "acme 7"


@pytest.fixture
def operator(scope: Scope, limited: World) -> Inspector:
    limited.make("jobs-low-jobs-sweep")
    return Inspector(replace(scope, tasks={task.type: task for task in LIMITED}))


def hold(world: World, *ids: str, number: int = 7) -> None:
    """Enqueue tasks of an ordered key whose limit is 0, so that each of them waits."""
    world.lane(sample_ordered)
    for id_ in ids:
        world.client.enqueue(sample_ordered, Sample(number=number), task_id=id_, tenant="acme")
        world.take(sample_ordered)
        deliver(world, id_)


def deliver(world: World, id_: str) -> None:
    world.deliver(sample_ordered, {"type": ORDERED, "id": id_, "rec": True})


def states(world: World, *ids: str) -> list[str]:
    return [world.row(id_)["state"] for id_ in ids]


# --- Run ------------------------------------------------------------------------------------------------------------


def test_run_leaves_out_a_task_that_waits_for_the_time_of_a_rate(limited: World, operator: Inspector) -> None:
    operator.set_limit("sample:rated", rate=Rate(1, timedelta(hours=1)), reason="slow")
    limited.lane(sample_rated)
    for id_ in ("a", "b", "c"):
        limited.client.enqueue(sample_rated, Sample(), task_id=id_, tenant="acme")
        limited.deliver(sample_rated, limited.take(sample_rated)[0]["Body"])
    before = limited.row("b")
    due_at = operator.task("b").why.until
    assert due_at is not None
    with pytest.raises(ActionError) as refused:
        operator.run("b")
    assert str(refused.value).startswith(
        "task 'b' is pending: the rate of the total of sample:rated, 1 an hour, gives it the time"
        f" {stamp(due_at)}. To change the rate: `joblane limits set sample:rated` with --rate"
    )
    assert change(limited.database.get(), BulkAction.RUN, ["b", "c"], who="op") == []
    assert limited.row("b") == before
    assert "run" not in operator.task("b").actions


@pytest.mark.parametrize("waiting", ["retry", "scheduled"])
def test_run_starts_a_retry_or_a_scheduled_task_which_asks_its_rate(
    limited: World, operator: Inspector, waiting: str
) -> None:
    operator.set_limit("sample:rated", rate=Rate(1, timedelta(hours=1)), reason="a test")
    limited.lane(sample_rated)
    limited.client.enqueue(sample_rated, Sample(), task_id="a", tenant="acme", process_in=timedelta(hours=9))
    limited.run("update joblane.tasks set state = $1 where id = 'a'", waiting)
    assert operator.run("a").after == "pending"
    limited.client.enqueue(sample_rated, Sample(), task_id="b", tenant="acme")
    limited.deliver(sample_rated, {"type": sample_rated.type, "id": "b", "rec": True})
    limited.deliver(sample_rated, {"type": sample_rated.type, "id": "a", "rec": True})
    assert (states(limited, "a", "b"), operator.task("a").why.reason) == (["pending", "completed"], Reason.RATED)


def test_run_gives_a_scheduled_task_its_place_in_the_order_from_now_on(limited: World, operator: Inspector) -> None:
    limited.lane(sample_ordered)
    limited.client.enqueue(sample_ordered, Sample(), task_id="a", tenant="acme", process_in=timedelta(hours=20))
    operator.run("a")
    limited.client.enqueue(sample_ordered, Sample(), task_id="b", tenant="acme")
    assert [row.id for row in operator.line(ORDERED, "acme 0")] == ["a", "b"]
    operator.run("b")
    limited.deliver(sample_ordered, {"type": ORDERED, "id": "b", "rec": True})
    assert states(limited, "a", "b") == ["pending", "held"]


# --- Edit -----------------------------------------------------------------------------------------------------------


def test_an_edit_that_gives_the_limits_another_key_is_refused(limited: World, operator: Inspector) -> None:
    limited.lane(sample_keyed)
    limited.client.enqueue(sample_keyed, Sample(number=1), task_id="a")
    with pytest.raises(ActionError, match=r"gives its limits another key, .*; cancel it, and replay it instead"):
        operator.edit("a", {"number": 2})
    operator.archive("a")
    with pytest.raises(ActionError, match=r"gives its limits another key, .* them; replay it instead"):
        operator.edit("a", {"number": 2})
    assert (limited.row("a")["payload"]["number"], limited.row("a")["key_limit"]) == (1, f"{KEYED}/1")
    operator.edit("a", {"number": 1, "do": "other"})
    new = operator.replay_with("a", {"number": 2}).new_id
    assert new is not None
    assert limited.row(new)["key_limit"] == f"{KEYED}/2"


@pytest.mark.parametrize("key", ["'7'", "null"])
def test_an_edit_leaves_a_key_alone_that_is_not_from_the_payload(limited: World, operator: Inspector, key: str) -> None:
    limited.lane(sample_keyed)
    limited.client.enqueue(sample_keyed, Sample(number=1), task_id="a")
    limited.run(f"update joblane.tasks set key_limit = '{KEYED}/' || {key} where id = 'a'")
    before = limited.row("a")["key_limit"]
    operator.edit("a", {"number": 2})
    assert (limited.row("a")["payload"]["number"], limited.row("a")["key_limit"]) == (2, before)


# --- Values --------------------------------------------------------------------------------------------------------


def test_all_declared_limits_are_listed_and_keys_with_values_of_their_own(operator: Inspector) -> None:
    operator.set_limit(KEYED, key="7", max_per_key=3, reason="a test")
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


def test_of_a_type_the_keys_whose_tasks_wait_longest_come_first(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, max_per_key=0, reason="a test")
    for number in (1, 2, 3):
        hold(limited, f"a{number}", f"b{number}", number=number)
    limited.run("update joblane.tasks set due_at = due_at - interval '1 hour' where id = 'a2'")
    each, *keys = operator.limits(ORDERED)
    assert (each.held, each.in_force.at_a_time, each.declared.at_a_time) == (6, 0, 1)
    assert [(one.key, one.held) for one in keys] == [("acme 2", 2), ("acme 1", 2), ("acme 3", 2)]


def test_what_is_set_for_undeclared_limits_is_listed_and_reset(limited: World, operator: Inspector) -> None:
    operator.set_limit("shared", total=0, reason="a test")
    operator.set_limit(KEYED, max_per_key=5, reason="a test")
    operator.set_limit(KEYED, key="7", max_per_key=0, reason="a test")
    operator.set_limit(ORDERED, key="9", max_per_key=0, reason="a test")
    limited.run("delete from joblane.limits where name <> 'sample:single'")
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
    [(("nosuch",), "name"), ((None, "7"), "key"), (("shared", "7"), "key"), ((SINGLE, "7"), "key")],
)
def test_an_unknown_limit_is_an_error(operator: Inspector, arguments: tuple[str, ...], field: str) -> None:
    name, *key = arguments
    with pytest.raises(LimitError) as caught:
        operator.limits(name, key=key[0] if key else None)
    assert caught.value.field == field


def test_a_held_task_names_its_limits(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "a")
    view = operator.task("a")
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
        f"{TREE}/": {"at_a_time": 1, "rate": {"starts": 100, "per_seconds": 60.0, "burst": 10}},
        TREE: {"at_a_time": 0},
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


def test_a_raised_limit_sends_the_messages_and_wakes_the_sweep(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "a", "b")
    limited.run("truncate joblane.audit")
    operator.reset_limit(ORDERED, key=KEY)
    assert states(limited, "a", "b") == ["pending", "held"]
    assert [json.loads(message["Body"])["id"] for message in limited.take(sample_ordered)] == ["a"]
    assert limited.depth("jobs-low-jobs-sweep") > 0


# --- The order of a key --------------------------------------------------------------------------------------------


def test_the_order_of_a_key_is_shown(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "c", "a", "b")
    hold(limited, "other", number=8)
    assert [(row.id, row.state) for row in operator.line(ORDERED, KEY)] == [("c", "held"), ("a", "held"), ("b", "held")]
    assert [row.id for row in operator.line(ORDERED, KEY, limit=1)] == ["c"]
    assert operator.line(ORDERED, "none") == ()


def test_the_first_task_gives_its_place_to_the_next(limited: World, operator: Inspector) -> None:
    """It waits for a retry, and the others of its key wait for it."""
    limited.lane(sample_ordered)
    limited.client.enqueue(sample_ordered, Sample(do="fail", number=7), task_id="a", tenant="acme")
    deliver(limited, "a")
    hold(limited, "b", "c")
    assert states(limited, "a", "b", "c") == ["retry", "held", "held"]
    limited.take(sample_ordered)

    result = operator.pass_line(ORDERED, KEY, reason="it fails")

    assert (result.id, result.after, result.note) == (
        "a",
        "retry",
        f"It is the last of {ORDERED}/{KEY} now; b is first",
    )
    assert [row.id for row in operator.line(ORDERED, KEY)] == ["b", "c", "a"]
    assert states(limited, "a", "b", "c") == ["retry", "pending", "held"]
    assert [json.loads(message["Body"])["id"] for message in limited.take(sample_ordered)] == ["b"]
    limited.later("a")
    deliver(limited, "a")
    assert states(limited, "a") == ["held"]
    deliver(limited, "b")
    deliver(limited, "c")
    assert states(limited, "a", "b", "c") == ["pending", "completed", "completed"]
    [entry] = operator.audit()
    assert (entry.action, entry.target, entry.reason) == ("pass_line", "a", "it fails")
    assert entry.details == {"line": f"{ORDERED}/{KEY}", "next": "b"}


def test_a_held_first_task_waits_at_the_end(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "a", "b", "c")
    operator.pass_line(ORDERED, KEY)
    operator.pass_line(ORDERED, KEY)
    assert [row.id for row in operator.line(ORDERED, KEY)] == ["c", "a", "b"]
    operator.reset_limit(ORDERED, key=KEY)
    order = []
    for _ in range(3):
        [message] = limited.take(sample_ordered)
        order.append(json.loads(message["Body"])["id"])
        deliver(limited, order[-1])
    assert order == ["c", "a", "b"]


def test_only_the_task_that_the_operator_saw_first_is_moved(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "a", "b", "c")
    operator.pass_line(ORDERED, KEY, first="a")
    with pytest.raises(LimitError, match="first: task b is the first of"):
        operator.pass_line(ORDERED, KEY, first="a")
    assert [row.id for row in operator.line(ORDERED, KEY)] == ["b", "c", "a"]


def test_a_running_or_single_task_keeps_its_place(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    hold(limited, "a")
    with pytest.raises(LimitError, match="only task a is due in the order"):
        operator.pass_line(ORDERED, KEY)
    hold(limited, "b")
    operator.reset_limit(ORDERED, key=KEY)
    limited.run("update joblane.tasks set state = 'active', lease_until = now() + interval '1 hour' where id = 'a'")
    with pytest.raises(LimitError, match="task a runs now"):
        operator.pass_line(ORDERED, KEY)
    with pytest.raises(LimitError, match="no task is due in the order"):
        operator.pass_line(ORDERED, "none")
    with pytest.raises(LimitError, match=f"{KEYED} declares no order; types with an order: {ORDERED}"):
        operator.pass_line(KEYED, "7")


def test_a_task_that_is_not_due_takes_no_first_place(limited: World, operator: Inspector) -> None:
    operator.set_limit(ORDERED, key=KEY, max_per_key=0, reason="a test")
    for id_, hours in (("b", 1), ("c", 2)):
        in_hours = timedelta(hours=hours)
        limited.client.enqueue(sample_ordered, Sample(number=7), task_id=id_, tenant="acme", process_in=in_hours)
    with pytest.raises(LimitError, match=r"no task is due in the order .*, so there is none to move"):
        operator.pass_line(ORDERED, KEY)
    hold(limited, "a")
    with pytest.raises(LimitError, match="only task a is due in the order"):
        operator.pass_line(ORDERED, KEY)
    assert [row.id for row in operator.line(ORDERED, KEY)] == ["a", "b", "c"]
    assert operator.audit(target="a") == ()


def test_a_program_sees_what_an_operator_has_set(limited: World, operator: Inspector) -> None:
    operator.set_limit("shared", total=9, reason="a test")
    change = limited.client.limits.get("shared").change
    assert change is not None
    assert (change.by, change.values.at_a_time) == ("op", 9)
