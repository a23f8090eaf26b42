"""Previews of actions: the causes of their tasks, and what will keep these from starting; the check of a canary."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from joblane import State
from joblane.inspector.bulk import blocks
from joblane.inspector.bulk import preview as previews
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.blocks import block_line, canary_waits_line, cure_of
from joblane.inspector.views import Block, BlockKind, Preview
from tests.builders.rows import In, archived, put
from tests.bulks import Bulks
from tests.integration.inspector.scene import Scene
from tests.integration.inspector.test_bulk import BRIEF, ONES, done, put_archived
from tests.integration.inspector.test_dead import external, put_dead_letter
from tests.integration.inspector.test_redrive import put_groups, work_off
from tests.samples import sample_keyed, sample_one, sample_ordered, sample_sharing

ALL = Filter()
BY_ANN = "type sample:one is paused by ann until it is resumed: they asked"


def lines(blocks: tuple[Block, ...]) -> list[str]:
    return [block_line(block) for block in blocks]


def causes(preview: Preview) -> list[tuple[str, str, int]]:
    return [(cause.type, cause.error, cause.number) for cause in preview.causes]


# --- The causes ----------------------------------------------------------------------------------------------------


def test_a_preview_counts_the_tasks_of_each_cause(inspector: Inspector, bulks: Bulks) -> None:
    # given two causes, an archived task without an error, a live task, and a message without a row
    put_archived(bulks.world, "a", "b", "c", fingerprint="aaaa", error_type="Refused", error_message="12 of 20\nmore")
    put_archived(bulks.world, "d", fingerprint="dddd")
    put_archived(bulks.world, "e", error_type=None, reason="its deadline has passed")
    put(bulks.world, sample_one, "live")
    put_dead_letter(bulks.world, external(0), reason="Refused: no")
    # then
    preview = inspector.preview("redrive", ALL)
    assert causes(preview)[0] == ("sample:one", "Refused: # of #", 3)
    assert sorted(causes(preview)[1:]) == [
        ("sample:one", "Refused: no", 1),
        ("sample:one", "ValueError: attempt # of # failed", 1),
        ("sample:one", "its deadline has passed", 1),
    ]
    assert (preview.number, preview.exact, preview.more_causes, preview.blocks) == (6, True, 0, ())
    assert inspector.preview("redrive", Filter(fingerprint="aaaa")).number == 3
    assert inspector.preview("retry", ONES).number == 5
    assert inspector.preview("cancel", ONES).number == 1


def test_ten_thousand_causes_are_a_number_and_the_largest(inspector: Inspector, bulks: Bulks) -> None:
    put_archived(bulks.world, "a", fingerprint="aaaa")
    bulks.world.run(
        "insert into joblane.tasks select r.* from joblane.tasks t, generate_series(1, 10100) n, lateral"
        " jsonb_populate_record(t, jsonb_build_object('id', 'a-' || n, 'fingerprint', n::text)) r"
    )
    bulks.world.run("update joblane.tasks set error_message = repeat('x', 1000000) where id = 'a'")
    preview = inspector.preview("redrive", ALL)
    assert (preview.number, preview.exact) == (10_000, False)
    assert (len(preview.causes), preview.number_of_causes) == (50, 10_101)
    assert max(len(cause.error) for cause in preview.causes) < 400


def test_an_unknown_action_and_a_wrong_canary_are_refused(inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match="action: 'jump' is not valid"):
        inspector.preview("jump", ALL)
    with pytest.raises(SelectionError, match="canary: a whole number from 0 to 100"):
        inspector.preview("redrive", ALL, canary=101)


# --- What stops tasks ----------------------------------------------------------------------------------------------


def test_pauses_of_types_queues_and_tenants_stop_the_tasks_that_they_concern(scene: Scene, operator: Inspector) -> None:
    scene.put("a", **archived()).put("b", tenant="acme", **archived()).put("c", sample_keyed, **archived())
    scene.pause("tenant", "acme", "1 hour").pause("type", "sample:one").pause("tenant", "else")
    preview = operator.preview("redrive", ALL, canary=1)
    assert [(block.kind, block.tasks, block.stops) for block in preview.blocks] == [
        (BlockKind.PAUSE, 2, True),
        (BlockKind.PAUSE, 1, True),
    ]
    assert lines(preview.blocks)[0] == f"2 tasks would wait: {BY_ANN}."
    assert [cure_of(block) for block in preview.blocks] == ["resume type sample:one", "resume tenant acme"]
    scene.pause("queue", "default")
    assert operator.preview("retry", ALL).blocks[0].tasks == 3
    # and an action that sends nothing is not stopped
    assert operator.preview("delete", ALL).blocks == ()


def test_limits_of_0_stop_tasks_and_lowered_limits_slow_them(scene: Scene, operator: Inspector) -> None:
    place = {"first_due_at": In(-90), "seq": 1, **archived()}
    scene.put("a", sample_sharing, shared_limit="shared", **place)
    for number in range(3):
        keyed = {"key_limit": f"sample:keyed/{number}", **place}
        scene.put(f"k{number}", sample_keyed, **keyed)
    assert operator.preview("redrive", ALL).blocks == ()
    scene.limit("shared", total=1).limit("sample:keyed", max_per_key=0).limit("sample:keyed", key="2", max_per_key=3)
    # then the key with a value of its own is not stopped
    assert [line.replace(" until it is reset", "") for line in lines(operator.preview("redrive", ALL).blocks)] == [
        "2 tasks would wait: limit sample:keyed, each key is 0 at a time, set by op: r.",
        "1 task would start slowly: limit shared is 1 at a time, set by op: r.",
    ]


def test_tasks_of_an_ordered_key_run_after_the_later_ones_that_have_completed(
    scene: Scene, operator: Inspector
) -> None:
    # given that version 3 of a key is archived, 4 to 7 have completed, and 8 was created later and due earlier
    for number in range(1, 9):
        ended = archived() if number == 3 else {"state": "completed", "finished_at": In(-1)}
        place = {"key_limit": "sample:ordered/acme 42", "ordered": True, "first_due_at": In(-90 + number % 8)}
        at = {"created_at": In(-90 + number), "seq": number}
        scene.put(f"v{number}", sample_ordered, **ended, **place, **at)
    # then
    preview = operator.preview("redrive", ALL, canary=1)
    assert lines(preview.blocks) == [
        "4 later tasks of key acme 42 of sample:ordered have completed; it would run after them."
    ]
    assert preview.canary_stopped == ()
    # and the task itself and its retry say so
    later = "4 later tasks of key acme 42 of sample:ordered have completed"
    assert operator.task("v3").why.text.endswith(f"{later}; it would run after them.")
    scene.world.lane(sample_ordered)
    assert operator.retry("v3").note == f"{later}; it runs after them"
    assert "have completed" not in operator.task("v2").why.text


def test_no_code_runs_a_type_that_is_not_declared(scene: Scene, operator: Inspector) -> None:
    scene.put("a", **archived()).change("a", "type = 'gone:type'")
    assert lines(operator.preview("redrive", ALL).blocks) == ["1 task cannot run: no code declares the type gone:type."]


# --- The canary ----------------------------------------------------------------------------------------------------


def test_a_canary_whose_tasks_cannot_start_is_refused_with_what_helps(inspector: Inspector, bulks: Bulks) -> None:
    put_groups(bulks.world)
    inspector.pause(PauseScope.TYPE, "sample:one", reason="INC-12")
    preview = inspector.preview("redrive", ALL, canary=2)
    assert [block.kind for block in preview.canary_stopped] == [BlockKind.PAUSE]
    for act in (inspector.redrive, lambda *of, **how: inspector.bulk(BulkAction.RETRY, *of, **how)):
        with pytest.raises(SelectionError) as refused:
            act(ALL, canary=2)
        assert str(refused.value) == (
            "canary: it cannot run: type sample:one is paused by op until it is resumed: INC-12; "
            "run `joblane resume type sample:one` first, or start without a canary"
        )
    assert (inspector.bulks(), inspector.audit(action="redrive")) == ((), ())
    # and without a canary the tasks wait for the end of the pause
    assert inspector.redrive(ALL).total == 6


def test_a_canary_of_tasks_that_can_start_is_not_refused_because_of_others(inspector: Inspector, bulks: Bulks) -> None:
    put_groups(bulks.world)
    put_archived(bulks.world, "late", tenant="acme", created_at=In(0))
    inspector.pause(PauseScope.TENANT, "acme")
    preview = inspector.preview("redrive", ALL, canary=2)
    assert (len(preview.blocks), preview.canary_stopped) == (1, ())
    assert inspector.redrive(ALL, canary=2).total == 7


def test_a_pause_between_the_preview_and_the_start_refuses_the_canary(inspector: Inspector, bulks: Bulks) -> None:
    put_groups(bulks.world)
    assert inspector.preview("redrive", ALL, canary=2).canary_stopped == ()
    inspector.pause(PauseScope.TYPE, "sample:one")
    with pytest.raises(SelectionError, match="canary: it cannot run: type sample:one is paused"):
        inspector.redrive(ALL, canary=2)


def test_a_pause_between_the_start_and_the_run_stops_the_action_before_it_sends(
    inspector: Inspector, bulks: Bulks
) -> None:
    put_groups(bulks.world)
    view = inspector.redrive(ALL, canary=2)
    inspector.pause(PauseScope.TYPE, "sample:one")
    view = done(inspector, bulks, view.id)
    assert (view.done, view.failed, view.stopped) == (
        0,
        0,
        "the canary was not sent: type sample:one is paused by op until it is resumed; no task was sent",
    )
    assert bulks.world.run("select count(*) from joblane.tasks where state = 'archived'") == [[6]]


def test_a_canary_that_waits_says_why_and_so_does_its_end(inspector: Inspector, bulks: Bulks) -> None:
    # given a canary that is sent, and a pause before it runs
    put_groups(bulks.world)
    view = inspector.redrive(ALL, canary=2)
    while inspector.bulk_view(view.id).done == 0:
        bulks.run(view.id, seconds=BRIEF)
    assert inspector.bulk_view(view.id).blocks == ()
    inspector.pause(PauseScope.TYPE, "sample:one")
    # then
    view = inspector.bulk_view(view.id)
    assert [block.kind for block in view.blocks] == [BlockKind.PAUSE]
    assert canary_waits_line(view) == (
        "The canary waits: type sample:one is paused by op until it is resumed. "
        "To end that: `joblane resume type sample:one`."
    )
    bulks.world.run("update joblane.bulks set canary_until = clock_timestamp()")
    view = done(inspector, bulks, view.id)
    assert view.stopped == (
        "the canary failed: 2 of 2 had not ended in time, as type sample:one is paused by op until it is resumed; "
        "no other task was sent"
    )
    assert view.blocks == ()


def test_an_action_whose_canary_has_ended_names_no_pause(inspector: Inspector, bulks: Bulks) -> None:
    bulks.world.run("create table ran (id text)")
    put_groups(bulks.world)
    view = inspector.redrive(ALL, canary=2)
    bulks.run(view.id, after_commits={2: lambda: work_off(bulks.world)})
    inspector.pause(PauseScope.TYPE, "sample:one")
    view = inspector.bulk_view(view.id)
    assert (view.state, view.blocks) == (State.COMPLETED, ())


# --- Planted faults ---------------------------------------------------------------------------------------------------

Check = Callable[[Scene, Inspector], None]


def replaced(part: str, fault: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in the statement of the survey."""
    assert part in blocks.SURVEY
    return lambda patch: patch.setattr(blocks, "SURVEY", blocks.SURVEY.replace(part, fault))


PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Check]] = {
    "pauses are not read": (
        lambda patch: patch.setattr(blocks, "_paused", lambda *_: ()),
        test_pauses_of_types_queues_and_tenants_stop_the_tasks_that_they_concern,
    ),
    "tenants are not read": (
        replaced("p.scope = 'tenant'", "false"),
        test_pauses_of_types_queues_and_tenants_stop_the_tasks_that_they_concern,
    ),
    "actions that send nothing are stopped": (
        lambda patch: patch.setattr(previews, "SENDING", {"redrive", "retry", "delete"}),
        test_pauses_of_types_queues_and_tenants_stop_the_tasks_that_they_concern,
    ),
    "lowered limits are not named": (
        lambda patch: patch.setattr(blocks, "_is_lowered", lambda limit: False),
        test_limits_of_0_stop_tasks_and_lowered_limits_slow_them,
    ),
    "a key has the values of all keys": (
        replaced("then k.name else", "then split_part(k.name, '/', 1) || '/' else"),
        test_limits_of_0_stop_tasks_and_lowered_limits_slow_them,
    ),
    "earlier tasks of a key count": (
        replaced("(l.first_due_at, l.seq) > (f.first_due_at, f.seq)", "true"),
        test_tasks_of_an_ordered_key_run_after_the_later_ones_that_have_completed,
    ),
}


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    fault, check = PLANTS[plant]
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check(scene, operator)


@pytest.mark.plants
def test_a_canary_that_is_not_checked_is_found(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "stopping", lambda *_: ())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_canary_whose_tasks_cannot_start_is_refused_with_what_helps(inspector, bulks)


@pytest.mark.plants
def test_causes_in_a_wrong_order_are_found(inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch) -> None:
    causes_of = previews._causes
    monkeypatch.setattr(previews, "_causes", lambda *of: (causes_of(*of)[0][::-1], 0))
    with pytest.raises(AssertionError):
        test_a_preview_counts_the_tasks_of_each_cause(inspector, bulks)
