"""An operator's process that is killed during an action."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.builders.rows import archived, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.world import World

DYING = """
import os, signal, sys
from joblane.record.driver.database import Database
from joblane.inspector.actions import audit
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.sqs.client import Sqs
from tests.samples import sample_one
from tests.sends import is_before_commit

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def send(sqs, entries, **named):
    return {} if is_before_commit(entries[0].body) else die()

url, where = sys.argv[1:]
setattr(*{"before the entry": (audit, "write", die), "before the send": (Sqs, "send_many", send)}[where])
Inspector(Scope(Database(url), Sqs(), "jobs", {"sample:one": sample_one}, "op")).retry("t")
"""


@pytest.mark.parametrize(("where", "done"), [("before the entry", False), ("before the send", True)])
def test_a_killed_retry_is_done_completely_or_not_at_all(world: World, where: str, done: bool) -> None:
    world.lane(sample_one)
    put(world, sample_one, "t", **archived())

    died = subprocess.run([sys.executable, "-c", DYING, world.url, where], check=False, timeout=PATIENCE_SECONDS)

    assert died.returncode == -signal.SIGKILL
    assert world.run("select who, action, target from joblane.audit") == ([["op", "retry", "t"]] if done else [])
    assert world.row("t")["state"] == ("pending" if done else "archived")
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '1 min'")
    assert world.sweep().sent == (1 if done else 0)
    for message in world.take(sample_one):
        world.deliver(sample_one, message["Body"])
    assert world.outcomes("t") == (["completed"] if done else [])
