"""`enqueue`, `replay`, `edit`, and the sources of payloads."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from joblane.errors import DuplicateTaskError, PayloadError
from joblane.inspector.views import ActionResult
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

MADE = ActionResult("new-one", "enqueue", None, State.PENDING, "new-one")
EDITED = ActionResult(views.ID, "edit", State.ARCHIVED, State.ARCHIVED)


def test_every_option_of_enqueue_is_passed_in_seconds_and_iso_text(jobs: Run, stub: FakeInspector) -> None:
    # given
    stub.answers["enqueue"] = MADE
    # when
    ran = jobs(
        *("enqueue", "data:export", "--json", '{"a": 1}', "--queue", "low", "--in", "10m", "--id", "mine"),
        *("--tenant", "acme", "--tag", "x", "--tag", "y", "--max-retry", "0", "--timeout", "90s", "--retention", "1d"),
        *("--unique-for", "1h", "--unique-key", "k", "--on-conflict", "return", "--deadline", "2030-01-01T00:00Z"),
        *("--reason", "by hand"),
    )
    # then
    [(arguments, named)] = stub.called("enqueue")
    assert arguments == ("data:export", {"a": 1})
    assert named == {
        "reason": "by hand",
        "options": {
            "queue": "low",
            "process_in": 600.0,
            "task_id": "mine",
            "tenant": "acme",
            "tags": ["x", "y"],
            "max_retry": 0,
            "timeout": 90.0,
            "retention": 86400.0,
            "unique_for": 3600.0,
            "unique_key": "k",
            "on_conflict": "return",
            "deadline": "2030-01-01T00:00:00+00:00",
        },
    }
    assert (ran.code, ran.out) == (0, "new-one\n")  # nothing else, for scripts
    assert "jobs wait new-one" in ran.err


def test_a_task_without_options_is_enqueued_with_none(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["enqueue"] = MADE
    jobs("enqueue", "jobs:sweep")
    assert stub.called("enqueue") == [(("jobs:sweep", {}), {"options": {}, "reason": None})]


def test_enqueue_with_wait_ends_with_the_status_of_the_task(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"enqueue": MADE, "task": views.task_view()}
    ran = jobs("enqueue", "data:export", "--wait")
    assert (ran.code, ran.out) == (1, "new-one\n")
    assert stub.called("task") == [(("new-one",), {})]


def test_in_and_at_exclude_each_other(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("enqueue", "data:export", "--in", "10m", "--at", "2030-01-01T00:00Z")
    assert (ran.code, stub.calls) == (2, [])
    assert "give --in or --at, not both" in ran.err


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("--queue", "lo"), "'lo' is not valid. Did you mean 'low'? Valid: critical, default, low"),
        (("--on-conflict", "foo"), "'foo' is not valid. Valid: raise, return, replace"),
        (("--at", "9999-12-31T23:00-10:00"), "is outside the calendar"),
    ],
)
def test_an_invalid_option_of_enqueue_is_a_usage_error(
    jobs: Run, stub: FakeInspector, option: tuple[str, str], problem: str
) -> None:
    ran = jobs("enqueue", "data:export", *option)
    assert (ran.code, stub.calls) == (2, [])
    assert f"{option[0]}: " in ran.err
    assert problem in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("invoke", "bad"),
        ("invoke", "data:export", "--tenant", "a b"),
        ("new", "bad"),
        ("new", "x:y", "--queue", "nope"),
        ("new", "x:y", "--schedule", "at noon"),
        ("schema", "bad"),
        ("schema", ""),
        ("schema", "data:export", "--out", "/dev/null/x"),
        ("preflight", "--stage", "nope"),
        ("preflight", "--assembly", "/no/such/folder"),
    ],
    ids=" ".join,
)
def test_an_invalid_argument_of_a_local_command_is_a_usage_error(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...]
) -> None:
    ran = jobs(*arguments)
    assert (ran.code, ran.out, stub.calls) == (2, "", [])


def test_a_payload_can_come_from_a_file_or_the_input(
    jobs: Run, stub: FakeInspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.answers["enqueue"] = MADE
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "input"}'))
    jobs("enqueue", "a:b", "--json", f"@{file}")
    jobs("enqueue", "a:b", "--json", "-")
    assert [arguments[1]["from"] for arguments, _ in stub.called("enqueue")] == ["file", "input"]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ('{"secret": ', "not JSON: Expecting value in line 1, column 12"),
        ('["secret"]', "a JSON object is required: {…}"),
        ("@/no/such/file", "the file cannot be read: No such file or directory"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"secret": ' + "1" * 5000 + "}", "a number in it has too many digits"),
    ],
)
def test_an_unreadable_payload_is_a_usage_error_without_its_values(
    jobs: Run, stub: FakeInspector, payload: str, problem: str
) -> None:
    ran = jobs("enqueue", "a:b", "--json", payload)
    assert (ran.code, stub.calls) == (2, [])
    assert problem in ran.err
    assert "secret" not in ran.err


@pytest.mark.parametrize("error", [PayloadError("payload", "a field is missing"), DuplicateTaskError("a", "active")])
def test_a_refused_enqueue_ends_with_1(jobs: Run, stub: FakeInspector, error: Exception) -> None:
    stub.answers["enqueue"] = error
    ran = jobs("enqueue", "a:b")
    assert (ran.code, ran.err) == (1, f"joblane: {error}\n")


def test_a_replay_takes_the_same_payload_or_another(jobs: Run, stub: FakeInspector) -> None:
    again = ActionResult("old", "replay", State.ARCHIVED, State.PENDING, "again")
    stub.answers |= {"replay": again, "replay_with": again}
    assert jobs("replay", "old").out == "again\n"
    assert json.loads(jobs("replay", "old", "--json", '{"a": 2}', "--as-json").out)["new_id"] == "again"
    assert stub.called("replay_with") == [(("old", {"a": 2}), {"reason": None})]


# --- edit ------------------------------------------------------------------------------------------------------------


def editor(tmp_path: Path, script: str) -> str:
    program = tmp_path / "an editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"'{program}'"


@pytest.fixture
def edit(jobs: Run, stub: FakeInspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`joblane edit`, with an editor that is a script."""
    stub.answers |= {"edit": EDITED, "task": views.task_view(payload={"count": 1, "key": "[redacted]"})}

    def run(script: str) -> Any:
        monkeypatch.setenv("VISUAL", editor(tmp_path, script))
        return jobs("edit", views.ID, "--reason", "typo", person="y")

    return run


def test_a_payload_can_be_changed_in_the_editor(edit: Any, stub: FakeInspector) -> None:
    ran = edit("""sed -i 's/"count": 1/"count": 2/' "$1" """)
    assert ran.code == 0
    assert stub.called("edit") == [((views.ID, {"count": 2, "key": "[redacted]"}), {"reason": "typo"})]


def test_an_editor_may_replace_the_file(edit: Any, stub: FakeInspector) -> None:
    edit("""echo '{"count": 3}' > "$1.new" && mv "$1.new" "$1" """)
    assert stub.called("edit")[0][0][1] == {"count": 3}


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("true", 0, "The payload is unchanged; nothing was done."),
        ("exit 3", 1, "failed (Command"),
        ("""echo '{"secret' > "$1" """, 2, "not JSON"),
    ],
)
def test_without_a_valid_change_nothing_is_done(
    edit: Any, stub: FakeInspector, script: str, code: int, message: str
) -> None:
    ran = edit(script)
    assert (ran.code, stub.called("edit")) == (code, [])
    assert message in ran.err


def test_a_refused_text_is_kept_in_a_file_and_any_other_is_removed(
    edit: Any, stub: FakeInspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    # when the payload is refused
    stub.answers["edit"] = PayloadError("payload", "count: a number is required")
    ran = edit("""echo '{"count": "x"}' > "$1" """)
    # then
    [file] = kept.iterdir()
    assert (ran.code, file.read_text(), file.stat().st_mode & 0o077) == (1, '{"count": "x"}\n', 0)
    assert f"--json @{file}" in ran.err
    # and when it is accepted
    file.unlink()
    stub.answers["edit"] = EDITED
    edit("""echo '{"count": 3}' > "$1" """)
    edit("true")
    edit("exit 1")
    assert list(kept.iterdir()) == []


def test_a_cleared_payload_is_not_edited(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = views.task_view(payload=None)
    ran = jobs("edit", "x", person="y")
    assert (ran.code, stub.called("edit")) == (4, [])


def test_without_a_terminal_edit_requires_the_payload(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {"task": views.task_view(), "edit": EDITED}
    assert jobs("edit", "x").code == 2
    assert jobs("edit", "x", "--json", "{}").code == 0
