"""`ls`, `find`, `show`, `logs`, `wait`: their queries, output and exit statuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from joblane.cli import terminal
from joblane.cli.commands import tasks
from joblane.errors import UnknownTaskError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.views import ActionResult, Found, Reason, TaskPage, TaskView, Why
from joblane.names import Queue
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

PAGE = TaskPage((views.task_row(), views.task_row(id="other", state=State.RETRY)), "the=cursor")


def running(**changes: object) -> TaskView:
    row = views.task_row(state=State.ACTIVE, finished_at=None)
    return views.task_view(row=row, why=Why(Reason.RUNNING, "It runs."), **changes)


def ended(state: State) -> TaskView:
    return views.task_view(row=views.task_row(state=state))


# --- ls --------------------------------------------------------------------------------------------------------------


def test_every_option_of_ls_becomes_a_part_of_the_filter(jobs: Run, stub: FakeInspector) -> None:
    # given
    stub.answers["tasks"] = TaskPage((), None)
    # when
    ran = jobs(
        *("ls", "--state", "retry", "-s", "archived", "--type", "a:b", "-t", "c:d", "--queue", "low"),
        *("--tenant", "acme", "--tag", "nightly", "--id", "0193", "--error", "Timeout", "--fingerprint", "f"),
        *("--older", "2h", "--newer", "2026-01-02T05:04+02:00", "--longer", "1h30m", "--limit", "7", "--after", "x"),
    )
    # then
    [((chosen,), named)] = stub.called("tasks")
    assert named == {"after": "x", "limit": 7}
    assert chosen.created_before is not None
    assert abs(datetime.now(UTC) - timedelta(hours=2) - chosen.created_before) < timedelta(minutes=1)
    assert replace(chosen, created_before=None) == Filter(
        id_prefix="0193",
        states=(State.RETRY, State.ARCHIVED),
        types=("a:b", "c:d"),
        queues=(Queue.LOW,),
        tenant="acme",
        tag="nightly",
        error="Timeout",
        fingerprint="f",
        created_after=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        longer=timedelta(minutes=90),
    )
    assert ran.code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--state", "dead"), "'dead' is not valid. Valid: scheduled, pending, held, active"),
        (("--queue", "fast"), "'fast' is not valid. Valid: critical, default, low"),
        (("--older", "soon"), "'soon' is neither a duration"),
        (("--newer", "10y"), "'10y' is neither a duration"),
        (("--longer", "14:30"), "'14:30' is not a duration"),
        (("--limit", "501"), "--limit: 1 to 500, not 501"),
    ],
)
def test_an_invalid_option_is_a_usage_error_with_the_valid_values(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...], problem: str
) -> None:
    ran = jobs("ls", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert stub.calls == []


def test_text_of_a_task_cannot_control_the_terminal(jobs: Run, stub: FakeInspector) -> None:
    nasty = "\x1b]0;owned\x07\x9b31m\u202eabc\r\n"
    stub.answers["tasks"] = TaskPage((views.task_row(error_message=nasty, tenant=nasty),), None)
    stub.answers["task"] = views.task_view(
        row=views.task_row(reason=nasty, tags=(nasty,)),
        payload={"a": nasty},
        attempts=(views.attempt(1, traceback=nasty),),
    )
    stub.answers["logs"] = (views.log_line(nasty),)
    for command in (("ls",), ("show", "x"), ("logs", "x")):
        ran = jobs(*command)
        assert not set("\x1b\x07\x9b\u202e\r") & set(ran.out + ran.err), command


# --- show ------------------------------------------------------------------------------------------------------------


def test_an_unknown_id_ends_with_3(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = UnknownTaskError("gone")
    ran = jobs("show", "gone")
    assert (ran.code, ran.out, ran.err) == (3, "", "joblane: there is no task 'gone'\n")


@pytest.mark.parametrize("command", ["show", "logs"])
def test_the_beginning_of_one_id_is_enough_to_read(jobs: Run, stub: FakeInspector, command: str) -> None:
    stub.rows = [views.task_row(id=id_) for id_ in ("01a214ac-1", "01a214ad-2")]
    stub.lines = [views.log_line()]
    assert jobs(command, "01a214ac").code == 0
    [*_, (arguments, _)] = stub.called("task" if command == "show" else "logs")
    assert arguments == ("01a214ac-1",)


@pytest.mark.parametrize("command", ["show", "logs"])
def test_the_beginning_of_several_ids_names_them(jobs: Run, stub: FakeInspector, command: str) -> None:
    stub.rows = [views.task_row(id=f"01a214ac-{n}") for n in range(7)]
    ran = jobs(command, "01a214")
    assert (ran.code, ran.out) == (2, "")
    ids = ", ".join(f"01a214ac-{n}" for n in range(5))
    assert ran.err == f"joblane: ID: several ids begin with '01a214': {ids}, and more; give more of it\n"


@pytest.mark.parametrize("command", ["show", "logs"])
def test_what_no_id_begins_with_is_unknown(jobs: Run, stub: FakeInspector, command: str) -> None:
    stub.answers["tasks"] = [TaskPage((), None), SelectionError("id_prefix", "1 to 200 printable ASCII characters")]
    for text in ("02", "a b"):
        assert (jobs(command, text).code, jobs(command, "").code) == (3, 3)


@pytest.mark.parametrize("command", ["retry", "cancel", "run", "archive", "delete"])
def test_no_action_takes_the_beginning_of_an_id(jobs: Run, stub: FakeInspector, command: str) -> None:
    stub.rows = [views.task_row(id="01a214ac-1")]
    stub.answers[command] = UnknownTaskError("01a214ac")
    assert jobs(command, "01a214ac").code == 3
    assert stub.called("tasks") == []


# --- find ------------------------------------------------------------------------------------------------------------


def test_every_option_of_find_becomes_an_argument(jobs: Run, stub: FakeInspector) -> None:
    jobs("find", "a text", "--newer", "2026-01-02T05:04+02:00", "--older", "1h", "--after", "c")
    [((text,), named)] = stub.called("find")
    assert (text, named["after"]) == ("a text", "c")
    assert named["created_after"] == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert abs(datetime.now(UTC) - timedelta(hours=1) - named["created_before"]) < timedelta(minutes=1)


def test_a_search_that_names_a_task_shows_it(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"find": Found(views.ID, (), 0, None, None), "task": views.task_view()}
    assert "It was archived after 4 attempts." in jobs("find", views.ID[:9]).out


def test_a_search_that_is_refused_does_not_repeat_the_text(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["find"] = SelectionError("text", "1 to 200 characters are required")
    ran = jobs("find", "personal")
    assert (ran.code, ran.err) == (2, "joblane: TEXT: 1 to 200 characters are required\n")


# --- logs ------------------------------------------------------------------------------------------------------------


def test_following_shows_each_line_once_until_the_task_has_ended(jobs: Run, stub: FakeInspector) -> None:
    # given
    lines = tuple(views.log_line(f"line {number}") for number in range(3))
    stub.answers["task"] = [running(), running(), ended(State.COMPLETED)]
    stub.answers["logs"] = [lines[:1], lines[:2], lines]
    # when
    out = jobs("logs", "x", "--follow").out
    # then
    assert [out.count(f"line {number}") for number in range(3)] == [1, 1, 1]


def test_lines_are_not_followed_once_the_reader_has_closed_the_output(
    jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.given(task=running(), logs=(views.log_line(),))
    monkeypatch.setattr(terminal.Output, "is_closed_by_reader", True)
    assert (jobs("logs", "x", "--follow").code, len(stub.called("logs"))) == (0, 1)


def test_followed_lines_as_json_are_one_document_a_line(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"task": ended(State.COMPLETED), "logs": (views.log_line("a"), views.log_line("b"))}
    out = jobs("logs", "x", "-f", "--json").out
    assert [json.loads(line)["message"] for line in out.splitlines()] == ["a", "b"]


def test_following_ends_after_ten_minutes(jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.given(task=running(), logs=(views.log_line(),))
    monkeypatch.setattr(tasks, "FOLLOWED_SECONDS", -1)
    ran = jobs("logs", "x", "--follow")
    assert (ran.code, len(stub.called("logs"))) == (0, 1)
    assert "No longer following, after ten minutes." in ran.err


def test_lines_that_look_the_same_are_all_shown_and_once(jobs: Run, stub: FakeInspector) -> None:
    line = views.log_line("twice")
    stub.answers["task"] = [running(), running(), ended(State.COMPLETED)]
    stub.answers["logs"] = [(line, line), (line, line), (line, views.log_line("late"), line)]
    out = jobs("logs", "x", "-f").out
    assert (out.count("twice"), out.count("late")) == (2, 1)


def test_the_lines_of_a_type_are_those_of_the_options(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["type_logs"] = (views.log_line("a"),)
    assert "a" in jobs("logs", "--type", "data:export", "--level", "warning", "--text", "x y").out
    [*_, (arguments, named)] = stub.called("type_logs")
    assert (arguments, named) == (("data:export",), {"level": "WARNING", "text": "x y", "limit": 200})


@pytest.mark.parametrize("arguments", [(), ("x", "--type", "data:export")])
def test_either_an_id_or_a_type_is_required(arguments: tuple[str, ...], jobs: Run) -> None:
    ran = jobs("logs", *arguments)
    assert (ran.code, "an id or --type is required, and not both" in ran.err) == (2, True)


# --- wait ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "code"), [(State.COMPLETED, 0), (State.ARCHIVED, 1), (State.CANCELLED, 1)])
def test_wait_ends_with_the_status_of_the_task(jobs: Run, stub: FakeInspector, state: State, code: int) -> None:
    stub.answers["task"] = [running(), running(progress=None), ended(state)]
    ran = jobs("wait", "x")
    assert ran.code == code
    assert f"{state}" in ran.err


def test_a_wait_that_times_out_ends_with_7_and_says_why(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = running()
    ran = jobs("wait", "x", "--timeout", "0s")
    assert ran.code == 7
    assert "it is active. It runs." in ran.err


def test_ctrl_c_ends_the_wait_and_not_the_task(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = [running(), KeyboardInterrupt()]
    ran = jobs("wait", "x")
    assert ran.code == 130
    assert "task x continues" in ran.err


def test_wait_as_json_prints_the_ended_task(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = ended(State.ARCHIVED)
    ran = jobs("wait", "x", "--json")
    assert (ran.code, json.loads(ran.out)["row"]["state"]) == (1, "archived")


@pytest.mark.parametrize("id_", ["-x", "--json", "a$(b)'c"])
def test_a_suggested_command_quotes_the_id(jobs: Run, stub: FakeInspector, id_: str) -> None:
    # given
    view = views.task_view(row=views.task_row(id=id_))
    stub.answers |= {"task": view, "logs": (), "retry": ActionResult(id_, "retry", State.ARCHIVED, State.PENDING)}
    out = jobs("show", "--", id_).out
    stub.calls.clear()
    # when
    for action in ("logs", "retry"):
        [line] = [line for line in out.splitlines() if line.startswith(f"  jobs {action} ")]
        jobs(*shlex.split(line.partition("  # ")[0])[1:])
    # then
    assert {arguments for arguments, _ in stub.called("logs") + stub.called("retry")} == {(id_,)}
    advice = jobs("wait", "--", id_).err.splitlines()[-1]
    assert shlex.split(advice.partition("jobs ")[2])[-1] == id_
    assert (" -- " in advice) is id_.startswith("-")


def test_ages_that_exclude_each_other_are_reported_by_their_options(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("ls", "--older", "1d", "--newer", "1h")
    assert (ran.code, stub.calls) == (2, [])
    assert "--older" in ran.err
    assert "nothing is older than 1d and newer than 1h" in ran.err
    assert "created_" not in ran.err
    stub.answers["tasks"] = TaskPage((), None)
    assert jobs("ls", "--older", "1h", "--newer", "1d").code == 0


def test_a_shell_that_has_loaded_the_local_variables_uses_the_local_stack(
    jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given `.joblane/env` of a project in which a task declares the setting JOBLANE_STAGE
    monkeypatch.setenv("JOBLANE_STAGE", "local")
    stub.answers["task"] = views.task_view()
    # when a command runs
    ran = jobs("show", views.ID)
    # then it asks the local stack, and suggests commands without a stage
    assert (ran.code, stub.where["stage"]) == (0, None)
    assert "--stage" not in ran.out
