"""The undo of an action within seconds: pauses and limits are as they were before, and the audit has both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from joblane.inspector.actions import causes, undo
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage import limits
from joblane.inspector.views import CauseState
from tests.builders.rows import archived
from tests.integration.inspector.scene import Scene
from tests.samples import sample_sharing

TYPE = PauseScope.TYPE
LATER = datetime.now(UTC) + timedelta(days=1)


def last(on: Inspector) -> int:
    return on.audit(limit=1)[0].number


def values(on: Inspector, name: str = "shared") -> list[object]:
    return [(one.in_force, one.change and (one.change.by, one.change.reason)) for one in on.limits(name)]


@pytest.mark.parametrize("before", ["nothing", "a pause of another operator", "a pause that is resumed"])
def test_pauses_are_as_they_were_before(scene: Scene, operator: Inspector, before: str) -> None:
    if before != "nothing":
        scene.pause("type", "sample:one", "1 hour")
    known = operator.pauses()
    # when
    if before == "a pause that is resumed":
        operator.resume(TYPE, "sample:one")
    else:
        operator.pause(TYPE, "sample:one", reason="by mistake", until=LATER)
    assert operator.pauses() != known
    number = last(operator)
    undone = operator.undo(number)
    # then
    assert operator.pauses() == known
    assert (undone.number, undone.target) == (number, "type:sample:one")
    newest, earlier = operator.audit(target="type:sample:one")
    assert (newest.action, newest.details, earlier.number) == (
        "undo",
        {"undone": undone.action, "number": number},
        number,
    )


@pytest.mark.parametrize("is_set", [False, True])
def test_the_values_of_a_limit_are_as_they_were_before(scene: Scene, operator: Inspector, is_set: bool) -> None:
    if is_set:
        scene.limit("shared", total=1)
    before = values(operator)
    operator.set_limit("shared", total=0, reason="test, please ignore")
    scene.enqueue("a", task=sample_sharing).deliver("a", task=sample_sharing)
    assert scene.states("a") == ["held"]
    # when
    operator.undo(last(operator))
    # then the task that was held starts
    assert values(operator) == before
    assert scene.states("a") == ["pending"]
    if is_set:
        operator.reset_limit("shared")
        operator.undo(last(operator))
        assert values(operator) == before


@pytest.mark.parametrize("name", ["limits", "until", "before", "delays", "set"])
def test_the_name_of_a_limit_can_be_any_word(scene: Scene, operator: Inspector, name: str) -> None:
    scene.sql("insert into joblane.limits (name, slots) values ($1, 5)", name).limit(name, total=1)
    before = values(operator, name)
    operator.set_limit(name, total=0, reason="by mistake")
    operator.undo(last(operator))
    assert values(operator, name) == before


def test_the_mark_of_an_error_is_as_it_was_before(scene: Scene, operator: Inspector) -> None:
    for id_ in "ab":
        scene.put(id_, **archived(fingerprint=id_ * 16))
    operator.mark_errors(("a" * 16,), CauseState.IGNORED, reason="noise")
    before = operator.errors().causes
    operator.mark_errors(("a" * 16,), CauseState.KNOWN, reason="the provider is down")
    operator.undo(last(operator))
    assert [(one.state, one.note) for one in operator.errors().causes] == [(one.state, one.note) for one in before]
    operator.mark_errors(("a" * 16, "b" * 16), CauseState.KNOWN, reason="both")
    refused(operator, operator.audit(target=f"cause:{'a' * 16}")[0].number, "several errors cannot be undone")


def refused(on: Inspector, number: object, why: str) -> None:
    known = on.pauses(), on.audit(limit=50)
    with pytest.raises(SelectionError) as caught:
        on.undo(number)  # type: ignore[arg-type]
    assert why in str(caught.value)
    assert (on.pauses(), on.audit(limit=50)) == known


def test_an_undo_is_refused_if_the_target_has_changed_since(
    operator: Inspector, as_operator: Callable[[str], Inspector]
) -> None:
    operator.pause(TYPE, "sample:one")
    number = last(operator)
    as_operator("bob").pause(TYPE, "sample:one", reason="an incident")
    refused(operator, number, "bob has changed type:sample:one since; nothing was undone")


def test_an_undo_replaces_no_value_that_another_operator_has_set(
    scene: Scene, operator: Inspector, as_operator: Callable[[str], Inspector]
) -> None:
    # given the reset of two limits of a type, of which one had expired
    scene.limit("sample:tree", max_per_key=1, max_total=1)
    scene.sql("update joblane.limit_changes set until = now() where name = 'sample:tree/'")
    operator.reset_limit("sample:tree")
    number = last(operator)
    # when
    as_operator("bob").set_limit("sample:tree", max_per_key=2, reason="an incident")
    # then
    refused(operator, number, "bob has changed limit:sample:tree since; nothing was undone")


def test_an_undo_is_refused_after_its_time_and_twice(scene: Scene, operator: Inspector) -> None:
    operator.pause(TYPE, "sample:one")
    number = last(operator)
    scene.sql("update joblane.audit set at = at - interval '16 seconds'")
    refused(operator, number, "more than 15 seconds have passed; nothing was undone")
    scene.sql("update joblane.audit set at = clock_timestamp()")
    operator.undo(number)
    refused(operator, number, "op has changed type:sample:one since")


def test_what_cannot_be_undone_is_refused(
    scene: Scene, operator: Inspector, as_operator: Callable[[str], Inspector]
) -> None:
    scene.put("a").act("archive", "a")
    refused(operator, last(operator), "archive of a cannot be undone")
    as_operator("bob").pause(TYPE, "sample:one")
    refused(operator, last(operator), "bob did it, and only bob can undo it")
    for wrong in (0, -1, 2**70, True, "1", 999_999):
        refused(operator, wrong, "there is no such entry in the audit")


# --- Planted faults ---------------------------------------------------------------------------------------------------

Check = Callable[[Scene, Inspector, Callable[[str], Inspector]], None]


def replaced(part: str, fault: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in the statement that decides whether an action can be undone."""
    assert part in undo.IN_TIME
    return lambda patch: patch.setattr(undo, "IN_TIME", undo.IN_TIME.replace(part, fault))


def limits_are_checked(scene: Scene, operator: Inspector, _: object) -> None:
    test_the_values_of_a_limit_are_as_they_were_before(scene, operator, is_set=False)


PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Check]] = {
    "it has no end": (
        replaced("clock_timestamp() <= a.at", "a.at <= a.at"),
        lambda scene, operator, _: test_an_undo_is_refused_after_its_time_and_twice(scene, operator),
    ),
    "a change since then is not seen": (
        replaced("x.number > a.number", "x.number > 2 * a.number + 9"),
        lambda _, operator, others: test_an_undo_is_refused_if_the_target_has_changed_since(operator, others),
    ),
    "a pause stays": (
        lambda patch: patch.setitem(undo.RESTORED, "pause", lambda *_: ()),
        lambda scene, operator, _: test_pauses_are_as_they_were_before(scene, operator, "nothing"),
    ),
    "a limit stays": (
        lambda patch: patch.setitem(undo.RESTORED, "set_limit", lambda *_: ("shared",)),
        limits_are_checked,
    ),
    "the held tasks stay": (lambda patch: patch.setattr(limits, "served", lambda *_: None), limits_are_checked),
    "a mark stays": (
        lambda patch: patch.setattr(causes, "RESTORE", "select $1"),
        lambda scene, operator, _: test_the_mark_of_an_error_is_as_it_was_before(scene, operator),
    ),
    "an archive can be undone": (
        lambda patch: patch.setitem(undo.RESTORED, "archive", lambda *_: ()),
        test_what_cannot_be_undone_is_refused,
    ),
}


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(
    scene: Scene,
    operator: Inspector,
    as_operator: Callable[[str], Inspector],
    monkeypatch: pytest.MonkeyPatch,
    plant: str,
) -> None:
    fault, check = PLANTS[plant]
    fault(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(scene, operator, as_operator)
