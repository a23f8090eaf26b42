"""Marks on charts: deploys, pauses, changed limits and bulk actions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage.trends import marks
from joblane.inspector.views import Mark
from joblane.names import Queue
from joblane.record.deploys import finish_deploy, write_deploy
from joblane.record.row.states import State
from tests.builders.rows import put
from tests.samples import sample_one
from tests.world import World

TYPE, TENANT, QUEUE = PauseScope.TYPE, PauseScope.TENANT, PauseScope.QUEUE
ONE = sample_one.type
QUEUE_OF_ONE = str(sample_one.queue)


def kinds(found: Sequence[Mark]) -> list[tuple[str, str]]:
    return [(mark.kind, mark.text) for mark in reversed(found)]


def test_a_deploy_that_has_not_ended_is_marked_as_started(deployed: World, inspector: Inspector) -> None:
    connection = deployed.database.get()
    for version in ("a1", "b2"):
        write_deploy(connection, version, None)
    finish_deploy(connection, "b2")
    started = ("started", "deploy a1 started, and not done")
    assert kinds(inspector.marks(TYPE, (ONE,))) == [started, ("deploy", "deploy b2")]


def test_each_page_has_the_marks_that_concern_it(deployed: World, inspector: Inspector) -> None:
    # given
    connection = deployed.database.get()
    write_deploy(connection, "3f2a1c0", "ann")
    finish_deploy(connection, "3f2a1c0")
    inspector.pause(TYPE, ONE, reason="provider is down")
    inspector.resume(TYPE, ONE)
    inspector.pause(QUEUE, QUEUE_OF_ONE)
    inspector.pause(TENANT, "acme")
    inspector.pause(TYPE, "jobs:bulk")
    deployed.run(
        "insert into joblane.audit (who, action, target) values ('bob', 'set_limit', $1), ('bob', 'set_limit', $2),"
        " ('bob', 'set_limit', 'limit:x'), ('bob', 'retry', 'some-task'), ('bob', 'edit', $3)",
        f"limit:{ONE}",
        f"limit:{ONE}/7",
        f"type:{ONE}",
    )
    # when
    deploy = ("deploy", "deploy 3f2a1c0")
    # then
    assert kinds(inspector.marks(TYPE, (ONE,))) == [
        deploy,
        ("pause", f"type {ONE} paused"),
        ("resume", f"type {ONE} resumed"),
        ("pause", f"queue {QUEUE_OF_ONE} paused"),
        ("limit", f"limit {ONE} set"),
        ("limit", f"limit {ONE}/7 set"),
    ]
    assert kinds(inspector.marks(TENANT, ("acme",))) == [deploy, ("pause", "tenant acme paused")]
    other, mine = sorted({"critical", "default", "low"} - {QUEUE_OF_ONE})[0], QUEUE_OF_ONE
    assert kinds(inspector.marks(QUEUE, (other,))) == [deploy]
    assert kinds(inspector.marks(QUEUE, (other, mine))) == [
        deploy,
        ("pause", f"queue {mine} paused"),
        ("limit", f"limit {ONE} set"),
    ]
    of_limits = [("limit", f"limit {ONE} set")]
    assert kinds(inspector.marks(QUEUE, (mine,))) == [deploy, ("pause", f"queue {mine} paused"), *of_limits]
    [first] = [mark for mark in inspector.marks(TYPE, (ONE,)) if mark.text == f"type {ONE} paused"]
    assert (first.who, first.reason, first.target) == ("op", "provider is down", f"type:{ONE}")


FILTERS: dict[str, tuple[Filter, bool, bool, bool, bool]] = {
    "its type": (Filter(types=(ONE,)), True, False, True, False),
    "its error": (Filter(fingerprint="f1"), True, False, True, False),
    "its id": (Filter(ids=("acme",)), True, False, True, False),
    "a type that no code declares": (Filter(types=("gone:type",)), False, False, True, True),
    "the error of this type": (Filter(fingerprint="f2"), False, False, True, True),
    "its type in another queue": (Filter(types=(ONE,), queues=(Queue.LOW,)), True, False, False, True),
    "its tenant": (Filter(tenant="acme"), True, True, True, True),
    "another tenant": (Filter(tenant="globex"), True, False, True, True),
    "a state": (Filter(states=(State.ARCHIVED,)), True, True, True, True),
}
"""Filters of bulk actions, each with whether it is a mark of a type, of a tenant, of the type's queue and of another
queue."""


def test_a_bulk_action_is_a_mark_of_what_it_is_for(deployed: World, inspector: Inspector) -> None:
    # given
    for name, type_, fingerprint in (("acme", ONE, "f1"), ("globex", "gone:type", "f2")):
        columns: dict[str, Any] = {"type": type_, "state": "archived", "tenant": name, "fingerprint": fingerprint}
        put(deployed, sample_one, name, **columns)
    put(deployed, sample_one, "low", state="archived", queue="low")
    # when
    ids = {
        what: inspector.bulk(BulkAction.RETRY, filter_, reason="fixed").id for what, (filter_, *_) in FILTERS.items()
    }
    # then
    for at, (kind, name) in enumerate([(TYPE, ONE), (TENANT, "acme"), (QUEUE, QUEUE_OF_ONE), (QUEUE, "low")]):
        found = inspector.marks(kind, (name,))
        marked = {mark.bulk for mark in found}
        assert [what for what in FILTERS if ids[what] in marked] == [
            what for what, (_, *expected) in FILTERS.items() if expected[at]
        ]
        assert all(mark.text.startswith("retry of ") and mark.reason == "fixed" for mark in found)


def test_old_marks_and_more_than_the_bound_are_left_out(
    deployed: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    deployed.run(
        "insert into joblane.deploys (at, done_at, version)"
        " select clock_timestamp() - n * interval '1 hour', clock_timestamp(), 'v' || n"
        " from generate_series(9, 0, -1) as n"
    )
    # then
    within = timedelta(hours=3, minutes=30)
    assert kinds(inspector.marks(TENANT, ("",), within=within)) == [("deploy", f"deploy v{n}") for n in (3, 2, 1, 0)]
    monkeypatch.setattr(marks, "MOST", 2)
    assert kinds(inspector.marks(TENANT, ("",), within=within)) == [("deploy", "deploy v1"), ("deploy", "deploy v0")]


@pytest.mark.parametrize(
    "given",
    [
        ("schedule", ("a:b:0",), timedelta(days=1)),
        (TYPE, (), timedelta(days=1)),
        (TYPE, "a:b", timedelta(days=1)),
        (TYPE, ("a\0",), timedelta(days=1)),
        (TYPE, ("a:b",) * 11, timedelta(days=1)),
        (TYPE, ("a:b",), timedelta(days=31)),
    ],
)
def test_arguments_that_select_nothing_are_refused(deployed: World, inspector: Inspector, given: Any) -> None:
    kind, names, within = given
    with pytest.raises(SelectionError):
        inspector.marks(kind, names, within=within)
