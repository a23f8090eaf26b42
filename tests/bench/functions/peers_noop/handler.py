"""A job that appends one byte to a file, as that of the peers."""

from __future__ import annotations

from datetime import timedelta

from joblane import Payload, TaskContext, task
from tests.bench.peers import program


class Numbered(Payload):
    number: int


@task("peers:noop", timeout=timedelta(seconds=10), batch_size=10)
def peers_noop(payload: Numbered, ctx: TaskContext) -> None:
    program.ran()
