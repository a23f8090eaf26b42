"""Actions on ids and by filter; bulk actions; dead letters and redrives."""

from __future__ import annotations

import json

import pytest

from joblane.cli.exits import Exit
from joblane.errors import DatabaseUnavailableError, UnknownTaskError
from joblane.inspector.errors import ActionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.views import ActionResult, Block, BlockKind, DeadLetters, Preview, PreviewCause
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

ACTIONS = ("run", "retry", "archive", "delete", "cancel")


def acted(id_: str, *, reason: str | None) -> ActionResult:
    return ActionResult(id_, "retry", State.ARCHIVED, State.PENDING)


def not_allowed(id_: str, *, reason: str | None) -> ActionResult:
    if id_ == "good":
        return acted(id_, reason=reason)
    raise ActionError(id_, "retry", State.ACTIVE, [State.ARCHIVED], "bob retried it 3 s ago")


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_on_ids_is_applied_to_each_with_its_reason(jobs: Run, stub: FakeInspector, action: str) -> None:
    stub.answers[action] = acted
    ran = jobs(action, "a", "b", "a", "--reason", "disk was full")
    assert ran.code == 0
    assert stub.called(action) == [(("a",), {"reason": "disk was full"}), (("b",), {"reason": "disk was full"})]
    assert ran.out.splitlines() == ["a was archived, is pending", "b was archived, is pending"]


def test_as_json_an_action_prints_an_object_for_one_id_and_a_list_for_more(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["retry"] = acted
    expected = {"id": "a", "action": "retry", "before": "archived", "after": "pending", "new_id": None, "note": None}
    assert json.loads(jobs("retry", "a", "--json").out) == expected
    assert [result["id"] for result in json.loads(jobs("retry", "a", "b", "--as-json").out)] == ["a", "b"]


def test_a_wrong_state_ends_with_4_and_says_what_another_operator_did(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["retry"] = not_allowed
    ran = jobs("retry", "a")
    assert ran.code == 4
    assert ran.err == "joblane: task 'a' is active; retry is for tasks that are archived. bob retried it 3 s ago\n"


def test_a_refused_id_does_not_stop_the_other_ids(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["retry"] = not_allowed
    ran = jobs("retry", "bad", "good")
    assert (ran.code, ran.out) == (4, "good was archived, is pending\n")
    assert "'bad' is active" in ran.err


def test_different_errors_together_end_with_1(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["retry"] = [UnknownTaskError("a"), ActionError("b", "retry", State.ACTIVE, [], None)]
    assert jobs("retry", "a", "b").code == 1


def test_an_action_without_ids_or_a_filter_is_a_usage_error(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("delete", "--yes")
    assert (ran.code, stub.calls) == (2, [])
    assert "Give ids, or options that choose tasks" in ran.err


# --- By filter -------------------------------------------------------------------------------------------------------


def test_an_action_by_filter_is_counted_confirmed_started_and_followed(jobs: Run, stub: FakeInspector) -> None:
    # given
    stub.answers["preview"] = Preview("retry", 940, exact=True)
    stub.answers["bulk"] = views.bulk(state=State.PENDING, done=0, skipped=0, finished_at=None)
    stub.answers["bulk_view"] = [views.bulk(state=State.ACTIVE, done=400, skipped=0), views.bulk()]
    # when
    ran = jobs("retry", "--type", "data:export", "--reason", "fixed", "--rate", "9", person="y")
    # then
    [(arguments, named)] = stub.called("bulk")
    assert arguments == (BulkAction.RETRY, Filter(types=("data:export",)))
    assert named == {"canary": 0, "rate": 9, "reason": "fixed"}
    assert len(stub.called("bulk_view")) == 2
    why = "changed in the meantime, without a free unique key, or a skipped tick"
    assert f"Retry: 930 of 940 tasks sent again, 10 skipped ({why})." in ran.out
    assert ran.code == 0


def test_after_the_answer_no_nothing_is_done(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["preview"] = Preview("retry", 940, exact=True)
    ran = jobs("delete", "--state", "archived", person="n")
    assert (ran.code, stub.called("bulk")) == (1, [])
    assert "Nothing was done." in ran.err


def test_without_a_terminal_and_without_yes_nothing_is_done(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["preview"] = Preview("delete", 10_000, exact=False)
    ran = jobs("delete", "--state", "archived")
    assert (ran.code, stub.called("bulk")) == (2, [])
    assert "Delete at least 10,000 tasks? There is no terminal to ask on: give --yes" in ran.err


@pytest.mark.parametrize("which", [("--state", "archived"), ("a", "b")])
def test_a_dry_run_counts_and_does_nothing(jobs: Run, stub: FakeInspector, which: tuple[str, ...]) -> None:
    stub.answers["preview"] = Preview("delete", 2, exact=True)
    assert jobs("delete", *which, "--dry-run").out == "Delete would change 2 tasks.\n"
    assert json.loads(jobs("delete", *which, "--dry-run", "--json").out)["number"] == 2
    assert {name for name, *_ in stub.calls} == {"preview"}


@pytest.mark.parametrize("more", [("--yes",), ("--dry-run",), ()])
def test_a_filter_that_matches_nothing_ends_with_3(jobs: Run, stub: FakeInspector, more: tuple[str, ...]) -> None:
    stub.answers["preview"] = Preview("cancel", 0, exact=True)
    ran = jobs("cancel", "--tenant", "gone", *more)
    assert (ran.code, ran.err, stub.called("bulk")) == (3, "joblane: no task matches\n", [])


def test_ctrl_c_stops_following_and_says_how_to_stop_the_action(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["preview"] = Preview("retry", 940, exact=True)
    stub.answers["bulk"] = views.bulk(state=State.ACTIVE)
    stub.answers["bulk_view"] = KeyboardInterrupt()
    ran = jobs("--stage", "dev", "run", "--queue", "low", "--yes")
    assert ran.code == 130
    assert "jobs --stage dev bulk abort bulk-1" in ran.err
    assert "the action continues" in ran.err


def test_a_stopping_action_is_not_offered_to_be_stopped_again(jobs: Run, stub: FakeInspector) -> None:
    stopping = views.bulk(state=State.ACTIVE, stopped="aborted by ann")
    stub.answers["bulk_view"] = [stopping, KeyboardInterrupt()]
    ran = jobs("bulk", "show", "bulk-1", "--follow")
    assert "bulk show bulk-1" in ran.err
    assert "bulk abort" not in ran.err
    assert "has begun" not in ran.err
    stub.answers["bulk_view"] = stopping
    assert "Stopping: aborted by ann" in jobs("bulk", "show", "bulk-1").out


@pytest.mark.parametrize(
    ("error", "code"), [(DatabaseUnavailableError("the database did not answer"), 5), (UnknownTaskError("bulk-1"), 3)]
)
def test_an_error_while_following_prints_the_id_and_ends_with_its_own_status(
    jobs: Run, stub: FakeInspector, error: Exception, code: int
) -> None:
    # given
    stub.answers["preview"] = Preview("retry", 940, exact=True)
    stub.answers["bulk"] = views.bulk(state=State.ACTIVE)
    stub.answers["bulk_view"] = error
    # when
    ran = jobs("--stage", "dev", "run", "--queue", "low", "--yes")
    # then
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.splitlines()[:3] == [
        "Started bulk action bulk-1.",
        "Bulk action bulk-1 continues.  Show it:  jobs --stage dev bulk show bulk-1",
        f"joblane: {error}",
    ]


def test_a_bulk_action_with_failures_ends_with_1(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"preview": Preview("run", 3, exact=True), "bulk": views.bulk(done=2, skipped=0, failed=1, total=3)}
    ran = jobs("run", "--queue", "low", "-y")
    assert (ran.code, ran.out) == (1, "Retry: 2 of 3 tasks sent again, 1 failed.\n")


# --- Dead letters ----------------------------------------------------------------------------------------------------


def test_obsolete_dead_letters_can_be_removed_without_archived_tasks(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {
        "dead": DeadLetters((), {"jobs-low-x-dlq": 2}, 0, {"a:b": 2}),
        "redrive": views.bulk(action="redrive"),
    }
    assert (
        "2 dead letters are obsolete: their tasks were retried or deleted. `jobs redrive --all` removes them."
        in jobs("dead").err
    )
    stub.answers["preview"] = views.preview(number=0, causes=(), removed=2)
    jobs("redrive", "--all", "--yes")
    assert len(stub.called("redrive")) == 1


def test_one_group_is_redriven_with_a_canary(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"preview": views.preview(), "redrive": views.bulk(action="redrive", done=940, skipped=0, canary=5)}
    ran = jobs("redrive", views.FINGERPRINT, "--canary", "5", "--yes")
    [((chosen,), named)] = stub.called("redrive")
    assert chosen == Filter(fingerprint=views.FINGERPRINT)
    assert named == {"canary": 5, "rate": 50, "reason": None}
    assert (ran.code, ran.out) == (0, "Redrive: all 940 tasks sent again.\n")


def test_a_failed_canary_is_reported_with_its_reason_and_ends_with_1(jobs: Run, stub: FakeInspector) -> None:
    stopped = views.bulk(action="redrive", done=0, skipped=0, failed=5, canary=5, stopped="the canary failed")
    stub.answers |= {"preview": views.preview(), "redrive": stopped}
    ran = jobs("redrive", views.FINGERPRINT, "--canary", "5", "--yes")
    assert (ran.code, ran.out) == (
        1,
        "Redrive: 0 of 940 tasks sent again, 5 failed again. Stopped: the canary failed\n",
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a", "b"), Filter(ids=("a", "b"))),
        (("--type", "data:export", "--yes"), Filter(types=("data:export",))),
        (("--all", "--yes"), Filter()),
    ],
)
def test_a_redrive_takes_ids_types_or_all(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...], expected: Filter
) -> None:
    stub.answers |= {"preview": views.preview(), "redrive": views.bulk()}
    jobs("redrive", *arguments)
    [((chosen,), _)] = stub.called("redrive")
    assert chosen == expected


@pytest.mark.parametrize("arguments", [(), ("--all", "x"), (views.FINGERPRINT, "an-id")])
def test_a_redrive_with_ambiguous_arguments_is_a_usage_error(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...]
) -> None:
    assert (jobs("redrive", *arguments).code, stub.called("redrive")) == (2, [])


@pytest.mark.parametrize("arguments", [("--type", "a:gone"), ("ffffffffffffffff",)])
def test_a_redrive_that_matches_nothing_ends_with_3(jobs: Run, stub: FakeInspector, arguments: tuple[str, ...]) -> None:
    stub.answers["preview"] = Preview("redrive", 0, exact=True)
    assert (jobs("redrive", *arguments, "--yes").code, stub.called("redrive")) == (3, [])


def test_a_dry_run_of_a_redrive_counts(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["preview"] = views.preview()
    ran = jobs("redrive", "--all", "--dry-run")
    assert ran.out == "940 tasks would be redriven.\n"
    assert "2 unreadable messages stay; redrive unreadable messages by fingerprint" in ran.err
    stub.answers["preview"] = views.preview(removed=3)
    expected = "940 tasks would be redriven; 3 obsolete dead letters would be removed.\n"
    assert jobs("redrive", "--all", "--dry-run").out == expected
    assert json.loads(jobs("redrive", "--all", "--dry-run", "--json").out)["removed"] == 3
    stub.answers["preview"] = views.preview(number=0, causes=(), removed=1)
    assert jobs("redrive", "--type", "a:b", "--dry-run").out == "1 obsolete dead letter would be removed.\n"
    stub.answers["preview"] = views.preview(number=0, causes=())
    assert jobs("redrive", "--type", "nope:nope", "--dry-run").code == Exit.NOTHING
    assert stub.called("redrive") == []


# --- What stops tasks ------------------------------------------------------------------------------------------------

TWO_CAUSES = (
    PreviewCause("3f9ab1c04d5e6f70", "mail:send", "ConnectionError: smtp refused", 300),
    PreviewCause("0000000000000021", "invoice:charge", "CardDeclined", 21),
)
LISTED = [
    "  300  mail:send: ConnectionError: smtp refused  [3f9ab1c04d5e6f70]",
    "   21  invoice:charge: CardDeclined  [0000000000000021]",
]


@pytest.mark.parametrize("person", ["y", "n"])
def test_the_question_of_a_redrive_follows_its_causes(jobs: Run, stub: FakeInspector, person: str) -> None:
    stub.answers |= {"preview": views.preview(number=321, causes=TWO_CAUSES), "redrive": views.bulk()}
    ran = jobs("redrive", "--all", "--canary", "3", person=person)
    assert ran.err.splitlines()[1:3] == LISTED
    assert len(stub.called("redrive")) == (person == "y")


@pytest.mark.parametrize("which", [("--all",), ("--type", "mail:send"), ("--tenant", "acme")])
def test_a_script_names_a_cause_or_accepts_all_of_them(jobs: Run, stub: FakeInspector, which: tuple[str, ...]) -> None:
    stub.answers |= {"preview": views.preview(number=321, causes=TWO_CAUSES, unreadable=0), "redrive": views.bulk()}
    ran = jobs("redrive", *which, "--yes")
    assert (ran.code, stub.called("redrive")) == (2, [])
    assert ran.err.splitlines() == [
        *LISTED,
        "joblane: these are 2 causes, of mail:send, invoice:charge: give a fingerprint, or --all-causes",
    ]
    jobs("redrive", *which, "--yes", "--all-causes")
    assert len(stub.called("redrive")) == 1
    assert "Redrive 321 tasks of 2 causes, the first 3 as a canary? There is no terminal" in (
        jobs("redrive", *which, "--canary", "3").err
    )


def test_a_preview_names_what_stops_tasks_with_the_command_that_helps(jobs: Run, stub: FakeInspector) -> None:
    limited = views.limit()
    ordered = "4 later tasks of key 42 of line:sync have completed, and so have later ones of 1 other key"
    order = Block(BlockKind.ORDER, 3, stops=False, type="line:sync", key="42", later=4, keys=2)
    undeclared = Block(BlockKind.UNDECLARED, 1, stops=True, type="gone:type")
    blocks = (views.block(), views.block(kind=BlockKind.LIMIT, tasks=1, pause=None, limit=limited), undeclared, order)
    stub.answers["preview"] = views.preview(blocks=blocks, unreadable=0)
    ran = jobs("--stage", "dev", "redrive", views.FINGERPRINT, "--dry-run")
    assert ran.err.splitlines()[1:] == [
        "617 tasks would wait: type data:export is paused by ann until it is resumed: INC-12.",
        "  jobs --stage dev resume type data:export",
        *ran.err.splitlines()[3:5],
        "1 task cannot run: no code declares the type gone:type.",
        f"{ordered}; 3 tasks would run after them.",
    ]
    assert ran.err.splitlines()[4] == "  jobs --stage dev limits reset openai"


@pytest.mark.parametrize(
    "command", [("redrive", views.FINGERPRINT), ("retry", "--type", "a:b"), ("batch", "retry", "b")]
)
def test_a_canary_that_cannot_run_is_refused_before_the_question(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...]
) -> None:
    stub.answers |= {"preview": views.preview(canary_stopped=(views.block(),)), "batch": views.batch()}
    ran = jobs("--stage", "dev", *command, "--canary", "5")
    assert (ran.code, stub.performed) == (2, [])
    assert (
        "--canary: it cannot run: type data:export is paused by ann until it is resumed: INC-12; "
        "run `jobs --stage dev resume type data:export` first, or start without a canary"
    ) in ran.err.replace("\n", " ")
    dry = jobs("--stage", "dev", *command, "--canary", "5", "--dry-run")
    assert "The canary would be refused: it cannot run" in dry.err


def test_a_redrive_that_is_followed_says_what_its_canary_waits_for(jobs: Run, stub: FakeInspector) -> None:
    waiting = views.bulk(action="redrive", state=State.ACTIVE, canary=5, done=5, skipped=0, blocks=(views.block(),))
    stub.answers |= {"preview": views.preview(), "redrive": waiting, "bulk_view": [waiting, waiting, views.bulk()]}
    ran = jobs("--stage", "dev", "redrive", views.FINGERPRINT, "--canary", "5", "--yes")
    assert ran.err.count("The canary waits: type data:export is paused by ann until it is resumed: INC-12.") == 1
    assert "jobs --stage dev resume type data:export" in ran.err
