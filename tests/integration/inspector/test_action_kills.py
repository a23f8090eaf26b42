"""An operator's process that is killed during an action."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.builders.rows import archived, put
from tests.samples import sample_one
from tests.world import World

DYING = """
import os, signal, sys
from joblane.record.database import Database
from joblane.inspector.actions import audit
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.sqs.client import Sqs
from tests.samples import sample_one

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

url, where = sys.argv[1:]
setattr(*{"before the entry": (audit, "record", die), "before the send": (Sqs, "send_many", die)}[where])
Inspector(Scope(Database(url), Sqs(), "jobs", {"sample:one": sample_one}, "op")).retry("t")
"""


@pytest.mark.parametrize(("where", "done"), [("before the entry", False), ("before the send", True)])
def test_a_killed_retry_is_done_completely_or_not_at_all(world: World, where: str, done: bool) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **archived())

    died = subprocess.run([sys.executable, "-c", DYING, world.url, where], check=False, timeout=60)

    assert died.returncode == -signal.SIGKILL
    assert world.run("select who, action, target from joblane.audit") == ([["op", "retry", "t"]] if done else [])
    assert world.row("t")["state"] == ("pending" if done else "archived")
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    assert world.sweep().sent == (1 if done else 0)
    for message in world.take(sample_one):
        world.deliver(sample_one, message["Body"])
    assert world.outcomes("t") == (["completed"] if done else [])
