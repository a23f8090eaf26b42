"""`joblane up`, `down`, `status` and `init`: what they refuse, and folders of other users."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from joblane.cli.scaffold import FIRST_TYPE
from joblane.errors import DeclarationError
from joblane.inspector.views import ActionResult, TaskPage
from joblane.local import zipped
from joblane.local.ports import free_port
from joblane.local.stack import LocalStack
from joblane.project import Project
from joblane.record.row.states import State
from joblane.tasks import discovery
from tests.builders import views
from tests.inspector import FakeInspector
from tests.owners import ME, OTHER, own
from tests.pages import ROOT
from tests.samples import sample_one
from tests.unit.cli.conftest import Run

CDK_JSON = {"app": "python infra/app.py", "context": {"stages": {"local": {"prefix": "jobs", "local": True}}}}
PORTS = ("JOBLANE_AWS_PORT", "JOBLANE_POSTGRES_PORT")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JOBLANE_LOCAL", "JOBLANE_FUNCTIONS"):
        monkeypatch.setenv(name, "")  # the command changes these variables
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DeclarationError("two tasks of one type"), 1, "joblane: two tasks of one type"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_a_start_that_does_not_end_says_if_parts_still_run(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str, runs: bool
) -> None:
    def fail(_stack: LocalStack) -> None:
        raise error

    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    monkeypatch.setattr(LocalStack, "check", lambda _stack: None)
    monkeypatch.setattr(LocalStack, "up", fail)
    monkeypatch.setattr(LocalStack, "status", lambda _stack: {"PostgreSQL": (runs, "")})
    ran = jobs("up")
    advice = "The parts that started still run; `joblane down` stops them.\n" if runs else ""
    assert (ran.code, ran.err) == (code, f"{text}\n{advice}")


@pytest.mark.parametrize(
    ("running", "code", "advice"),
    [
        ((True, True), 0, ""),
        ((True, False), 3, "`joblane up` starts what is stopped; `joblane down` stops the rest.\n"),
        ((False, False), 3, "`joblane up` starts what is stopped.\n"),
    ],
)
def test_the_status_of_a_stopped_part_says_what_to_do(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, running: tuple[bool, bool], code: int, advice: str
) -> None:
    parts = {name: (runs, "here") for name, runs in zip(("PostgreSQL", "Ticker"), running, strict=True)}
    monkeypatch.setattr(LocalStack, "status", lambda _stack: parts)
    ran = jobs("status")
    assert (ran.code, ran.err) == (code, advice)


def test_a_failure_before_the_start_does_not(project: Path, jobs: Run) -> None:
    (project / "cdk.json").write_text('{"app": "node bin/app.js", "context": {}}')
    ran = jobs("up")
    assert ran.code == 1
    assert "no `stages` in its `context`" in ran.err
    assert "still run" not in ran.err


# --- Folders of other users ------------------------------------------------------------------------------------------

VICTIM = ["sleep", "300"]


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user."""
    with subprocess.Popen(VICTIM) as process, ExitStack() as at_end:
        at_end.callback(process.kill)
        yield process


@pytest.fixture
def theirs(project: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder above this one, with code and a process id that another user has written."""
    root, deep = project / "theirs", project / "theirs" / "deep" / "er"
    for folder in (root / "functions" / "evil_one", root / ".joblane", deep):
        folder.mkdir(parents=True)
    ran = f"import pathlib; pathlib.Path({str(project / 'ran')!r}).touch()"
    for name in ("__init__.py", "evil_one/handler.py"):
        (root / "functions" / name).write_text(ran)
    state = {"pid": victim.pid, "started": psutil.Process(victim.pid).create_time(), "program": VICTIM[0]}
    (root / ".joblane" / "ministack.json").write_text(json.dumps(state | {"remember": {"port": "4566"}}))
    (root / ".joblane").chmod(0o755)
    monkeypatch.chdir(deep)
    return root


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("command", ["ls", "schema", "down", "up", "dev", "new order:pay"])
def test_no_command_uses_the_folder_of_another_user(
    command: str, theirs: Path, victim: subprocess.Popen[bytes], project: Path
) -> None:
    # given
    for path in (theirs / "functions", theirs / ".joblane"):
        for each in (path, *path.rglob("*")):
            shutil.chown(each, 65534)
    # when
    done = subprocess.run(
        [sys.executable, "-m", "joblane.cli", *command.split()],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT / "shared"), "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # then
    assert (done.returncode, done.stdout) == (1, "")
    assert f"joblane: {theirs}/functions belongs to the user " in done.stderr
    assert not (project / "ran").exists()
    assert victim.poll() is None
    assert (theirs / ".joblane").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (theirs / ".joblane").iterdir()] == ["ministack.json"]


@pytest.mark.parametrize("named", [True, False])
def test_no_process_is_stopped_that_another_user_names(
    named: bool, theirs: Path, victim: subprocess.Popen[bytes], jobs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a folder by its place, or by its name
    folder = theirs / ".joblane"
    if named:
        monkeypatch.setenv("JOBLANE_LOCAL", str(folder))
        monkeypatch.chdir(theirs.parent)
    own(monkeypatch, **{".joblane": OTHER})
    # when
    ran = jobs("down")
    # then
    assert ran.code == 1
    assert ran.err.startswith(
        f"joblane: {folder} belongs to the user with id {OTHER}, and you are the user with id {ME}. "
    )
    assert victim.poll() is None


def test_a_folder_of_all_users_is_none_for_the_local_stack(
    theirs: Path, victim: subprocess.Popen[bytes], jobs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = theirs / ".joblane"
    folder.chmod(0o1777)
    monkeypatch.setenv("JOBLANE_LOCAL", str(folder))
    monkeypatch.chdir(theirs.parent)
    assert f"{folder} is not used, because every user may create files in it" in jobs("down").err
    assert victim.poll() is None


def test_init_makes_a_project_below_the_folder_of_another_user(theirs: Path, jobs: Run) -> None:
    theirs.chmod(0o1777)
    assert "is not used, because every user may create files in it" in jobs("ls").err
    ran = jobs("init")
    assert ran.code == 0
    assert "wrote  functions/__init__.py\n" in ran.out
    assert Project.here().root == theirs / "deep" / "er"


@pytest.mark.parametrize("has_run", [True, False])
def test_up_runs_the_first_job_once_and_says_later_how_to_run_it(
    project: Path, jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch, *, has_run: bool
) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    monkeypatch.setattr(LocalStack, "check", lambda _stack: None)
    monkeypatch.setattr(LocalStack, "up", lambda _stack: None)
    monkeypatch.setattr(discovery, "discover", lambda **_: {FIRST_TYPE: sample_one})
    monkeypatch.setattr(zipped, "check_zipped", lambda *_: None)
    monkeypatch.setattr(LocalStack, "environment", {})
    rows = (views.task_row(type=FIRST_TYPE),)
    found = iter([rows if has_run else (), rows])
    stub.answers["tasks"] = lambda *_, **__: TaskPage(next(found), None)
    stub.answers["enqueue"] = ActionResult("1", "enqueue", None, State.PENDING, "1")
    stub.answers["task"] = views.task_view(views.task_row(type=FIRST_TYPE, state=State.COMPLETED))
    ran = jobs("up")
    assert ran.code == 0, ran.err
    again = "The job hello:world has run here: `joblane enqueue hello:world --wait` runs it again.\n"
    assert (ran.err == again) is has_run
    assert bool(stub.called("enqueue")) is not has_run


@pytest.mark.parametrize("setting", PORTS)
def test_a_used_port_is_refused_before_anything_starts(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    for name in PORTS:
        monkeypatch.setenv(name, str(free_port()))
    monkeypatch.setattr(LocalStack, "up", lambda _stack: pytest.fail("up started"))
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        monkeypatch.setenv(setting, port := str(other.getsockname()[1]))
        ran = jobs("up")
    assert ran.code == 1
    assert f"cannot listen on 127.0.0.1:{port}: another program already listens there" in ran.err
    assert ran.err.endswith(f"or choose another port with {setting}.\n")


@pytest.mark.parametrize("command", ["up", "dev"])
def test_a_folder_that_cannot_be_created_says_what_to_do(
    project: Path, jobs: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    (project / "data").touch()
    monkeypatch.setenv("JOBLANE_LOCAL", "data")
    ran = jobs(command)
    assert ran.code == 1
    assert f"{project / 'data'} cannot be created: File exists." in ran.err
    assert ran.err.endswith("Let this user write there, or name another folder with JOBLANE_LOCAL.\n")


@pytest.mark.parametrize("command", ["up", "dev", "status", "init"])
def test_a_file_in_the_place_of_the_data_folder_is_named(project: Path, jobs: Run, command: str) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    (project / ".joblane").touch()
    ran = jobs(command)
    assert ran.code == 1
    assert ran.err.startswith(f"joblane: {project / '.joblane'} is a file, and the project's data needs a folder")
