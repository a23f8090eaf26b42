"""The parts of the local stack that need neither emulator nor database."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from joblane.local.daemon import Daemon, await_end, is_alive
from joblane.local.deployment import Deployment
from joblane.local.dev import lock
from joblane.local.errors import LocalError, PortBusyError, tail
from joblane.local.ministack import MiniStack
from joblane.local.ports import free_port, port_is_free
from joblane.local.stack import LocalStack
from joblane.local.tools import clean_environment
from joblane.project import Project
from tests.patience import PATIENCE_SECONDS, await_true

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAITS = "Another `joblane up`, `down` or `dev` is at work here: waiting for it."
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon("program", tmp_path)
    yield daemon
    daemon.kill()


def start(daemon: Daemon, code: str) -> psutil.Process:
    daemon.launch([sys.executable, "-c", code], os.environ, daemon.log.parent, {"port": "1"})
    return psutil.Process(daemon.pid)


def child_of(process: psutil.Process) -> psutil.Process:
    await_true(lambda: bool(process.children()), lambda: "no child")
    return process.children()[0]


def test_a_daemon_is_found_again_by_its_folder_and_stopped_with_its_children(daemon: Daemon, tmp_path: Path) -> None:
    process = start(daemon, PARENT)
    child = child_of(process)

    found = Daemon("program", tmp_path)

    assert found.pid == process.pid
    assert found.started_with == {"port": "1"}
    found.stop()
    assert await_end([process, child], 5)
    assert daemon.pid is None
    found.stop()  # a second stop does nothing


def test_children_of_a_killed_daemon_are_stopped_by_the_next_stop(daemon: Daemon) -> None:
    process = start(daemon, PARENT)
    child = child_of(process)
    process.kill()
    assert await_end([process], 5)
    assert daemon.pid is None

    daemon.stop()

    assert await_end([child], 5)


def test_a_program_of_a_killed_deploy_is_stopped_by_the_next_command(tmp_path: Path) -> None:
    # a killed `joblane up` leaves its synthesis running, with a child of another executable
    daemon = Daemon("cdk-synth", tmp_path)
    process = start(daemon, "import subprocess; subprocess.run(['sleep', '60'])")
    child = child_of(process)

    LocalStack(tmp_path).down()

    assert await_end([process, child], 1)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell lets its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_program_is_killed_with_its_children_if_the_command_is_interrupted(tmp_path: Path) -> None:
    daemon = Daemon("program", tmp_path)
    code = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
os.kill(os.getppid(), signal.SIGINT)
child.wait()
"""
    with pytest.raises(KeyboardInterrupt):
        daemon.run([sys.executable, "-c", code], os.environ, tmp_path, PATIENCE_SECONDS)
    assert daemon.pid is None
    with suppress(psutil.NoSuchProcess):
        assert not is_alive(psutil.Process(int(daemon.log.read_text())))


@pytest.mark.usefixtures("interruptible")
def test_a_program_is_killed_if_the_command_is_interrupted_before_its_pid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[psutil.Process] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        child = popen(*given, **named)
        started.append(psutil.Process(child.pid))
        os.kill(os.getpid(), signal.SIGINT)
        return child

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Daemon("program", tmp_path).launch(["sleep", "600"], os.environ, tmp_path, {})
    assert not is_alive(started[0])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_program_with_the_pid_of_a_daemon_is_not_stopped(daemon: Daemon, tmp_path: Path) -> None:
    process = start(daemon, "import time; time.sleep(60)")
    file = tmp_path / "program.json"
    state = json.loads(file.read_text())

    file.write_text(json.dumps({**state, "started": state["started"] - 5, "program": "/bin/other"}))
    daemon.stop()

    assert process.is_running()
    file.write_text(json.dumps(state))


def test_the_log_of_the_previous_start_is_kept(daemon: Daemon) -> None:
    await_end([start(daemon, "print('first')")], 10)
    await_end([start(daemon, "print('second')")], 10)

    assert tail(daemon.log) == "second"
    assert tail(daemon.log.with_suffix(".log.1")) == "first"


def test_a_busy_port_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        assert not port_is_free(port)

        with pytest.raises(PortBusyError, match=rf"127\.0\.0\.1:{port}: another program.*JOBLANE_AWS_PORT"):
            MiniStack(tmp_path, port, "us-east-1").start()


def test_aws_settings_of_the_shell_do_not_reach_the_local_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com")

    environment = clean_environment()

    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & environment.keys()
    assert "127.0.0.1" in environment["NO_PROXY"]


CAUSE = "2026-11-26 02:39:30 ERROR [lambda] Worker init failed: No module named 'pg8000'"
LOGS = f"import sys, time; print({CAUSE!r}, file=open(sys.argv[1], 'a'), flush=True)\n"


@pytest.mark.parametrize(
    ("program", "seconds", "message"),
    [
        ("import no_such_module", 60, r"The synthesis failed \(exit status 1\)[^$]*No module named 'no_such_module'$"),
        (f"{LOGS}exit(1)", 60, rf"The synthesis failed \(exit status 1\)[^$]*Errors in .*:\n{re.escape(CAUSE)}$"),
        (
            f"{LOGS}sys.exit('joblane: the app refuses\\nwhat it got')",
            60,
            r"^the app refuses\nwhat it got\nThe synthesis failed \(exit status 1\)\. Its log: .*\nErrors in ",
        ),
        (f"{LOGS}time.sleep(60)", 1, rf"The synthesis was stopped after 1 s[^$]*Errors in .*:\n{re.escape(CAUSE)}$"),
        (
            "exit('Stack [jobs-jobs] is in UPDATE_IN_PROGRESS state and can not be updated')",
            *(60, r"IN_PROGRESS[^$]*Run `joblane down`, then `joblane up`, to start afresh\.$"),
        ),
    ],
    ids=["its-log", "the-emulators-errors", "a-refusal", "a-limit", "an-unfinished-deploy"],
)
def test_a_synthesis_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: int, message: str
) -> None:
    monkeypatch.setattr("joblane.local.deployment.STEP_SECONDS", seconds)
    (tmp_path / "ministack.log").write_text("2026-11-26 02:39:29 ERROR [lambda] of an earlier deploy\n")
    (tmp_path / "program.py").write_text(program)
    with pytest.raises(LocalError, match=message):
        Deployment(tmp_path, {}, {}, app=f"python {tmp_path}/program.py {tmp_path}/ministack.log").synth()


def test_the_cdk_command_line_starts_with_its_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / ".joblane" / "tools" / "bin" / "cdk"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho $NODE_COMPILE_CACHE\n")
    program.chmod(0o755)
    log = tmp_path / "cdk-deploy.log"
    for given, kept in (("", str(tmp_path / ".joblane" / "cache" / "node")), ("/of/the/user", "/of/the/user")):
        monkeypatch.setenv("NODE_COMPILE_CACHE", given)
        Deployment(tmp_path, {}, {}, project=Project(tmp_path)).deploy()
        assert log.read_text() == f"{kept}\n"


LOCAL = {"prefix": "jobs", "local": True}


@pytest.mark.parametrize(
    ("cdk_json", "message"),
    [
        (None, "There is no .*cdk.json: `joblane init`"),
        ({"app": "python app.py"}, "no `stages` in its `context`.*docs/how-to/own-cdk-app.md"),
        ({"app": "python app.py", "context": []}, "no `stages` in its `context`.*docs/how-to/own-cdk-app.md"),
        ({"app": "python app.py", "context": {"stages": {"dev": {}}}}, "no stage `local` in its `context.stages`"),
        ({"context": {"stages": {"local": LOCAL}}}, "has no `app`"),
        ("a folder", r"cdk.json cannot be read: Is a directory"),
    ],
)
def test_a_project_that_cannot_be_deployed_says_so_before_anything_is_made(
    tmp_path: Path, cdk_json: object, message: str
) -> None:
    if cdk_json == "a folder":
        (tmp_path / "cdk.json").mkdir()
    elif cdk_json is not None:
        (tmp_path / "cdk.json").write_text(json.dumps(cdk_json))
    with pytest.raises(LocalError, match=message):
        LocalStack(tmp_path / ".joblane", project=Project(tmp_path)).up()
    assert not (tmp_path / ".joblane").exists()


def test_a_folder_that_cannot_be_created_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdk.json").write_text(json.dumps({"app": "python app.py", "context": {"stages": {"local": LOCAL}}}))
    stack = LocalStack(tmp_path / ".joblane", project=Project(tmp_path))
    (tmp_path / ".joblane").touch()
    with pytest.raises(LocalError, match=r"\.joblane cannot be created: File exists"):
        stack.up()
    (tmp_path / ".joblane").unlink()

    def refuse(path: Path, **_options: object) -> None:  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(LocalError, match=r"\.joblane cannot be created: Permission denied"):
        stack.up()


def test_two_stacks_take_different_ports_and_share_nothing(tmp_path: Path) -> None:
    first, second = LocalStack(tmp_path / "first"), LocalStack(tmp_path / "second")
    first.down()  # before its up

    assert not (tmp_path / "first").exists()
    assert first.endpoint != second.endpoint
    assert first.postgres.port != second.postgres.port


def test_programs_use_the_times_of_the_functions_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "password").write_text("secret")
    stack = LocalStack(tmp_path, stage={"schedules": {"tenant:cleanup": "0 * * * *"}, "sweep": "5 minutes"})

    assert json.loads(stack.environment["JOBLANE_SCHEDULES"]) == {"tenant:cleanup": "0 * * * *"}
    assert stack.environment["JOBLANE_SWEEP_MINUTES"] == "5"
    own = LocalStack(tmp_path).environment
    assert (json.loads(own["JOBLANE_SCHEDULES"]), own["JOBLANE_SWEEP_MINUTES"]) == ({}, "360")
    with pytest.raises(LocalError, match=r"cdk\.json: stage 'local': sweep: a string such as \"6 hours\" or"):
        LocalStack(tmp_path, stage={"sweep": "7 minutes"}).environment  # noqa: B018


def test_an_external_emulator_is_used_and_if_it_is_missing_the_setting_is_named(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    stack = LocalStack(tmp_path, external_endpoint=endpoint)

    assert (stack.emulator, stack.endpoint) == (None, endpoint)
    with pytest.raises(
        LocalError, match=rf"No AWS emulator answers at {endpoint}, the value of JOBLANE_EXTERNAL_ENDPOINT"
    ):
        stack.check()
    assert stack.status()["AWS emulator"] == (False, endpoint)


def await_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    await_true(lambda: WAITS in capsys.readouterr().err, lambda: "it does not say that it waits")


def test_a_second_command_says_that_it_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock.turn(tmp_path):
        second = threading.Thread(target=LocalStack(tmp_path).down)
        second.start()
        await_waiting(capsys)
        assert second.is_alive()
    second.join(PATIENCE_SECONDS)
    assert not second.is_alive()


def test_a_start_of_dev_waits_for_the_end_of_one_that_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given the zygote of a killed `joblane dev`, which stops PostgreSQL
    code = f"""
import pathlib, sys
from joblane.local.dev import zygote
from joblane.local.postgres import Postgres
Postgres.stop = lambda _: print("stopping", flush=True) or sys.stdin.read()
zygote._end(pathlib.Path({str(tmp_path)!r}))
"""
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as zygote,
        ThreadPoolExecutor() as pool,
    ):
        assert zygote.stdout
        assert zygote.stdin
        assert zygote.stdout.readline() == b"stopping\n"
        # when
        start = pool.submit(lock.held(tmp_path).__enter__)
        # then
        await_waiting(capsys)
        zygote.stdin.close()
        start.result(PATIENCE_SECONDS)
