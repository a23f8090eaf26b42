"""The whole local stack: up, down, and killed programs in between.

The name of this module is the last of its folder, as its test stops the stack of the others.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import closing

import boto3
import psutil
import pytest

from joblane.local.daemon import Daemon, is_alive
from joblane.local.deployment import Deployment
from joblane.local.stack import LocalStack
from joblane.local.tools import environment_of
from joblane.project import Project
from tests.e2e.conftest import Deployed
from tests.patience import await_true

UP = """
import sys
from pathlib import Path
from joblane.local.stack import LocalStack
folder, aws_port, postgres_port, prefix = sys.argv[1:]
LocalStack(
    Path(folder), aws_port=int(aws_port), postgres_port=int(postgres_port), prefix=prefix, permissions=True
).up()
"""


def queue_names(stack: LocalStack) -> set[str]:
    with environment_of(stack.environment), closing(boto3.client("sqs")) as sqs:
        return {url.rpartition("/")[2] for url in sqs.list_queues().get("QueueUrls", [])}


def outcomes(stack: LocalStack) -> list[str]:
    """Return the CDK command line's result for each stack in the last deploy."""
    log = (stack.folder / "cdk-deploy.log").read_text(encoding="utf-8")
    return re.findall(r"^ *✅ +(.+?) *$", log, re.MULTILINE)


def killed_while_it_synthesises(stack: LocalStack) -> psutil.Process:
    """Kill an up of the stack in another process. Return the process of its synthesis, which still runs."""
    assert stack.emulator is not None
    arguments = [str(stack.folder), str(stack.emulator.port), str(stack.postgres.port), stack.prefix]
    with subprocess.Popen([sys.executable, "-c", UP, *arguments]) as other:
        synthesis = Daemon("cdk-synth", stack.folder)
        await_true(lambda: synthesis.pid is not None or other.poll() is not None, lambda: "no synthesis")
        left = psutil.Process(synthesis.pid)
        other.kill()
    assert is_alive(left)
    return left


def test_up_and_down_can_be_repeated_and_up_restarts_a_killed_emulator(
    one_stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a stack that is up
    stack = one_stack.stack
    for name, value in Project.here().migration_environment.items():  # the command line sets these, too
        monkeypatch.setenv(name, value)
    assert stack.emulator is not None
    assert {"other-critical", "other-default", "other-low"} <= queue_names(stack)
    written = dict(line.split("=", 1) for line in shlex.split(stack.env_file.read_text()))
    assert written.items() >= stack.environment.items()
    assert written["EXPORT_BUCKET"] == stack.output("ExportBucket")  # a setting that only the deploy knows
    assert stack.env_file.stat().st_mode & 0o077 == 0
    processes = stack.emulator.pid, stack.postgres.pid

    # when an up is killed in the middle, and it is brought up again, then no program of the first is left, none of the
    # stack is restarted, and no stack has changes
    left = killed_while_it_synthesises(stack)
    stack.up()
    assert not is_alive(left)
    assert (stack.emulator.pid, stack.postgres.pid) == processes
    assert {"other-data (no changes)", "other-jobs (no changes)"} <= {*outcomes(stack)}
    assert [outcome for outcome in outcomes(stack) if "(no changes)" not in outcome] == []

    # when the emulator and the database are killed, then up restores everything
    stack.emulator.kill()
    stack.postgres.kill()
    assert [runs for runs, _ in stack.status().values()] == [False, False, True]
    monkeypatch.setattr(Deployment, "synth", lambda self: None)  # the templates of the last synthesis are there
    stack.up()
    assert all(runs for runs, _ in stack.status().values())
    assert "other-default" in queue_names(stack)

    # and down stops it; a second down does nothing
    stack.down()
    stack.down()
    assert not any(runs for runs, _ in stack.status().values())
    assert not stack.env_file.exists()
