"""The order of the messages of a process that the zygote has forked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from joblane.local.dev.channel import Channel

SLOW_KEEPER = """
import os, socket, time
from joblane.local.dev import zygote
ours, theirs = socket.socketpair()
output = os.open(os.devnull, os.O_WRONLY)
encoded = zygote.encoded
zygote.encoded = lambda message: time.sleep(0.2) or encoded(message)
if os.fork() == 0:
    target = "tests.unit.local.test_zygote:say"
    zygote._keep({"target": target, "arguments": {}, "environment": dict(os.environ)}, theirs, output)
theirs.close()
print(ours.makefile().read())
"""


def say(channel: Channel, _files: Sequence[int]) -> None:
    channel.send({"kind": "said"})


def test_a_process_that_speaks_at_once_is_named_before_it_speaks() -> None:
    command = [sys.executable, "-c", SLOW_KEEPER]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert [json.loads(line)["kind"] for line in out.splitlines() if line] == ["started", "said", "ended"]
