"""The stream of `joblane dev`: lines for people from the JSON lines of workers, and a bounded file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joblane.local.dev import log as module
from joblane.local.dev.log import Log, LogStream

ID = "01a21c3a-a175-706e-88d8-7ad6ea2062e6"
GROUP = "/aws/lambda/jobs-order-mail"


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(tmp_path: Path, out: io.StringIO) -> Iterator[Log]:
    log = Log(tmp_path / "dev.log", "jobs", out=out)
    yield log
    log.close()


def line(message: str, level: str = "INFO", **fields: Any) -> str:
    return json.dumps({"level": level, "message": message, "timestamp": "now", "service": "jobs", **fields})


def shown(log: Log, out: io.StringIO, text: str, type_: str = "order:mail") -> str:
    """The line, without its time."""
    out.truncate(0)
    out.seek(0)
    log.add(type_, text, "dev-1", [ID])
    return "\n".join(each[14:] for each in out.getvalue().splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line("tasks completed", tasks=[{"task_id": ID, "attempt": 2, "ms": 7}]), "completed in 7 ms, attempt 2"),
        (
            line("task retry", "WARNING", task_id=ID, outcome="failed", ms=3, error_type="ValueError", error="no",
                 attempt=1, again_in_seconds=5),
            "retry (failed) after 3 ms, again in 5 s: ValueError: no",
        ),
        (
            line("task archived", "WARNING", task_id=ID, outcome="archived", reason="it is lost"),
            f"archived: it is lost  (joblane show {ID})",
        ),
        (
            line("message acknowledged", task_id=ID, verdict="held"),
            f"held: waits for other tasks or for a limit  (joblane show {ID})",
        ),
        (line("fetched", task_id=ID, rows=3, task_type="order:mail"), "fetched  rows=3"),
        (line("printed by it", task_id=ID, printed=True, attempt=1), "printed by it"),
        ("written to the error output", "written to the error output"),
        ("with \x1b[31m an escape", "with \ufffd[31m an escape"),
        ("a\u2067right\u2068to\u2069left", "a\ufffdright\ufffdto\ufffdleft"),
        ('{"half": ', '{"half":'),
    ],
)  # fmt: skip
def test_a_line_shows_type_task_and_text(log: Log, out: io.StringIO, text: str, expected: str) -> None:
    assert shown(log, out, text) == f"{'order:mail':<18}  {ID[-8:]}  {expected}"


def test_a_traceback_has_the_frames_of_the_handler_alone(log: Log, out: io.StringIO) -> None:
    library = Path(module.__file__).parents[2] / "worker" / "run.py"
    traceback = (
        f'Traceback (most recent call last):\n  File "{library}", line 7, in execute\n    result = function()\n'
        '  File "/project/functions/x/handler.py", line 3, in x\n    raise ValueError\n    ^^^^^\nValueError: no\n'
    )
    found = shown(log, out, line("traceback", "ERROR", task_id=ID, traceback=traceback))
    assert "run.py" not in found
    assert "result = function()" not in found
    assert [text.strip() for text in found.splitlines()][1:] == [
        'File "/project/functions/x/handler.py", line 3, in x', "raise ValueError", "^^^^^", "ValueError: no",
    ]  # fmt: skip


def test_lines_of_the_command_itself_have_the_same_form(log: Log, out: io.StringIO) -> None:
    LogStream(log).write(line("no task 'order:mial' takes messages", "WARNING") + "\n")
    assert out.getvalue()[14:] == f"{'dev':<18}  {'':<8}  no task 'order:mial' takes messages\n"


def test_sweeps_are_shown_only_when_they_warn(log: Log, out: io.StringIO) -> None:
    assert shown(log, out, line("swept"), "jobs:sweep") == ""
    assert "SQS refuses" in shown(log, out, line("SQS refuses", "ERROR"), "jobs:sweep")


def test_an_event_of_a_task_is_shown_with_its_type_and_task(tmp_path: Path, out: io.StringIO, log: Log) -> None:
    detail = {"type": "order:mail", "task_id": ID, "kind": "archived"}
    log.show_event("Task archived", detail)
    assert out.getvalue()[14:] == f"{'order:mail':<18}  {ID[-8:]}  event: Task archived\n"
    raw = Log(tmp_path / "raw.log", "jobs", raw=True, out=out)
    raw.show_event("Task archived", detail)
    raw.close()
    assert json.loads(out.getvalue().splitlines()[-1])["detail"] == detail


def test_raw_lines_stay_as_they_are(tmp_path: Path, out: io.StringIO) -> None:
    log = Log(tmp_path / "dev.log", "jobs", raw=True, out=out)
    log.add("order:mail", line("fetched"), None, ())
    log.say("Ready.")
    log.close()
    assert [json.loads(text)["message"] for text in out.getvalue().splitlines()] == ["fetched", "Ready."]


def test_lines_of_a_task_are_found_also_after_the_file_was_replaced(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 600)
    for number in range(4):
        log.add("order:mail", f"line {number} of {'x' * 80}", "dev-1", [ID])
    log.add("other:type", "line of another", "dev-2", ["other"])
    found = log.search(GROUP, 0, 1 << 50, ID, 100)
    assert [event["message"][:6] for event in found][-2:] == ["line 2", "line 3"]
    assert (tmp_path / "dev.log.1").exists()
    assert log.search(GROUP, 0, 5, ID, 100) == []
    assert log.search(GROUP, 0, 1 << 50, "other", 100) == []
    assert (tmp_path / "dev.log").stat().st_size <= 600
    assert (tmp_path / "dev.log").stat().st_mode & 0o077 == 0


def test_a_full_disk_is_named_once_and_lines_are_shown(tmp_path: Path, out: io.StringIO) -> None:
    # given
    (tmp_path / "full.log").symlink_to("/dev/full")
    full = Log(tmp_path / "full.log", "jobs", out=out)
    # when
    for text in ("one", "two"):
        full.add("order:ship", text, None, ())
    full.close()
    # then
    shown = out.getvalue()
    assert shown.count("cannot be kept") == 1
    assert "No space left on device" in shown
    assert [line.split()[-1] for line in shown.splitlines() if "order:ship" in line] == ["one", "two"]
