"""The command line on the deployed stack: a task from its enqueue to its end."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import Deployed
from tests.pages import ROOT
from tests.patience import PATIENCE_SECONDS

Jobs = Callable[..., tuple[int, str]]


@pytest.fixture
def jobs(deployed: Deployed) -> Jobs:
    """Run a command as a shell does, and return its exit status and its output."""

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "joblane.cli.main", *arguments]
        ran = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode, ran.stdout

    return run


def decoded(answer: tuple[int, str]) -> Any:
    code, out = answer
    assert code == 0, out
    return json.loads(out)


def test_a_task_is_enqueued_awaited_shown_and_listed(deployed: Deployed, jobs: Jobs) -> None:
    # when
    payload = json.dumps(deployed.export()["payload"])
    code, out = jobs("enqueue", "data:export", "--json", payload, "--tag", "by-hand", "--reason", "a test")
    id_ = out.strip()
    # then
    assert code == 0
    assert jobs("wait", id_, "--timeout", "2m")[0] == 0
    view = decoded(jobs("show", id_, "--json"))
    assert (view["row"]["state"], view["why"]["reason"], len(view["attempts"])) == ("completed", "ended", 1)
    assert view["audit"][0]["action"] == "enqueue"
    assert [task["id"] for task in decoded(jobs("ls", "--tag", "by-hand", "--json"))["tasks"]] == [id_]


def test_watch_works_on_a_terminal_and_restores_it(deployed: Deployed) -> None:
    # given a terminal of 80 columns and 24 lines
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    before, drawn = termios.tcgetattr(theirs), b""

    def read_until(text: bytes) -> None:
        nonlocal drawn
        while text not in drawn:
            assert select.select([ours], [], [], PATIENCE_SECONDS)[0], drawn[-2000:]
            drawn += os.read(ours, 65_536)

    command = [sys.executable, "-m", "joblane.cli.main", "watch"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as watch:
        # when keys of several bytes, an arrow to the last list and a function key, and then q
        read_until(b"RUNS PER MINUTE")
        os.write(ours, b"\x1b[D")
        read_until(b"SCHEDULE")  # a narrow terminal leaves other columns out
        os.write(ours, b"\x1bOP\x1b[B\x1b[A?")
        read_until(b"choose the list")
        os.write(ours, b"\x1b[15~q")
        watch.terminate()
        # then it leaves the alternate screen, shows the cursor, and restores the modes
        read_until(b"\x1b[?1049l")
        read_until(b"\x1b[?25h")
        assert watch.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert termios.tcgetattr(theirs) == before
    assert b"Traceback" not in drawn
    for end in (ours, theirs):
        os.close(end)
