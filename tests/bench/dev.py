"""The times of `joblane dev`, against their targets: from the command to the end of a job, and from a save to its run.

Each start is a second one: the database exists, and a task waits in it. On a busy machine the times mean little.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joblane.local.ports import free_port
from joblane.local.tools import environment_of
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from tests.bench.report import Ratio, median, within

START_SECONDS, SAVE_SECONDS = 3, 2
ROUNDS = 5
TYPE, QUEUE = "bench:run", "jobs-default"
PATIENCE_SECONDS = 60
HANDLER = """
from sqlalchemy import text

from joblane import Payload, TaskContext, task


class BenchRun(Payload):
    pass


@task("bench:run")
def bench_run(payload: BenchRun, ctx: TaskContext) -> int:
    return ctx.session.scalar(text("select {number}"))
"""


def run(folder: Path) -> list[Ratio]:
    root = folder / "dev"
    handler = root / "functions" / "bench_run" / "handler.py"
    handler.parent.mkdir(parents=True)
    handler.write_text(HANDLER.format(number=0))
    (root / "functions" / "__init__.py").touch()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DATABASE_URL"))},
        "JOBLANE_AWS_PORT": str(free_port()),
        "JOBLANE_POSTGRES_PORT": str(free_port()),
    }
    with _dev(root, environment) as variables:
        waiting = _insert(variables["DATABASE_URL"])
    starts, saves = [], []
    for number in range(1, ROUNDS + 1):
        began = time.time()
        with _dev(root, environment) as variables, environment_of(variables):
            url, sqs = variables["DATABASE_URL"], Sqs()
            starts.append(_ended(url, waiting)[0] - began)
            assert sqs.url(QUEUE)  # makes the client
            began, result = time.time(), None
            handler.write_text(HANDLER.format(number=number))
            while result != number:  # a message may be faster than the save
                id_ = str(uuid.uuid4())
                sqs.send(Entry(QUEUE, json.dumps({"type": TYPE, "id": id_, "payload": {}})))
                ended_at, result = _ended(url, id_)
            saves.append(ended_at - began)
            sqs.client.close()
            waiting = _insert(url)
    return [
        within(
            "joblane dev",
            "second start: from the command to the end of a job; the target",
            median(starts),
            START_SECONDS,
            "s",
        ),
        within(
            "joblane dev",
            "from the save of a handler to the end of its run; the target",
            median(saves),
            SAVE_SECONDS,
            "s",
        ),
    ]


@contextmanager
def _dev(root: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run `joblane dev`; yield the variables of its file."""
    file = root / ".joblane" / "env"
    command = [sys.executable, "-m", "joblane.cli", "dev", "--no-page"]
    with (root / "output.log").open("ab") as output:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)
        try:
            ends = time.monotonic() + PATIENCE_SECONDS
            while not file.exists() or "DATABASE_URL" not in (text := file.read_text()):
                assert time.monotonic() < ends, (root / "output.log").read_text()
                time.sleep(0.01)
            pairs = (line.split("=", 1) for line in text.splitlines())
            yield {name: value.strip("'") for name, value in pairs}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_SECONDS)


def _insert(url: str) -> str:
    """Insert a task, which is due and has no message."""
    with Database(url) as database:
        [[id_]] = database.get().run("select id from joblane.enqueue($1)", TYPE)
    return str(id_)


def _ended(url: str, id_: str) -> tuple[float, int]:
    """Wait for the end of a task. Return its time, in seconds since 1970, and the result."""
    ends = time.monotonic() + PATIENCE_SECONDS
    with Database(url) as database:
        while time.monotonic() < ends:
            for at, result in database.get().run(
                "select date_part('epoch', finished_at), result::text::int from joblane.tasks"
                " where id = $1 and state = 'completed'",
                id_,
            ):
                return float(at), int(result)
            time.sleep(0.01)
    raise TimeoutError(id_)
