"""100 dead letters of 1 MiB in each front door, on the emulator: the listing, the page and a redrive, within 256 MB.

As a program, ``python -m tests.bench.large_dead_letters NAME`` does one of these, and prints its largest memory in MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from joblane import settings
from joblane.functions.jobs_bulk.handler import jobs_bulk
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.local.postgres import Postgres
from joblane.names import Queue, dead_letter_name, front_door_name
from joblane.record.driver.database import Database
from joblane.record.row.states import ENDED
from joblane.sqs.client import Sqs
from joblane.sqs.depth import queue_depth
from joblane.tasks.discovery import discover
from tests.bench.dead_letters import stage
from tests.bench.report import Ratio, within
from tests.builders.events import invoke, record

NUMBER = 100
BYTES = 1024 * 1024 - 1024  # a redrive adds an id
START, END = '{"type":"data:export","payload":{"a":[', "0]}}"
BODY = START + "{},".ljust(3) * ((BYTES - len(START + END)) // 3) + END
"""A payload of empty objects, each of which takes 64 bytes once it is decoded."""
MAX_MB = 256


def run(server: Postgres) -> Iterator[Ratio]:
    with stage(server, "large"):
        sqs, prefix = Sqs(), settings.prefix()
        queues = [dead_letter_name(front_door_name(prefix, queue)) for queue in Queue]
        for queue in queues:
            for _ in range(NUMBER):
                sqs.client.send_message(QueueUrl=sqs.url(queue), MessageBody=BODY)
        setting = f"{NUMBER} of 1 MiB in each of {len(queues)} front doors"
        for name in PROGRAMS:
            yield within("large dead letters", f"{name}: {setting}", _memory(name), MAX_MB, "MB")
        left = sum(queue_depth(sqs, queue).all for queue in queues)
        assert left == 0, f"{left} dead letters are left"


def _memory(name: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.large_dead_letters", name],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    return float(done.stdout.rpartition("\n")[2])


def _inspector() -> Inspector:
    return Inspector(Scope(Database(settings.database_url()), Sqs(), settings.prefix(), discover(), "bench"))


def _list() -> None:
    from joblane.cli import connect
    from joblane.cli.main import main

    inspector = _inspector()
    connect.connect = lambda **_: inspector
    with suppress(SystemExit):
        main(["dead"])
    counts = [group.archived for group in inspector.dead().groups]
    assert counts == [NUMBER] * len(Queue), f"dead letters by cause: {counts}"


def _page() -> None:
    from starlette.testclient import TestClient

    from joblane.page.app import build
    from joblane.page.inspectors import Desk
    from joblane.page.security import Keys

    keys = Keys(base="")
    browser = TestClient(build(Desk(_inspector), port=8700, keys=keys), base_url="http://127.0.0.1:8700")
    browser.cookies.update({"joblane-8700": keys.session})
    assert browser.get("/errors/messages").text.count("data:export") >= len(Queue)


def _redrive() -> None:
    from joblane.worker.worker import Worker

    inspector = _inspector()
    view = inspector.redrive(Filter(types=("data:export",)), rate=500, reason="a bench")
    worker = Worker(jobs_bulk, Database(settings.database_url()), Sqs(), settings.prefix())
    message = record({"type": "jobs:bulk", "id": view.id, "rec": True}, f"{settings.prefix()}-low-jobs-bulk")
    while (found := inspector.bulk_view(view.id)).state not in ENDED:  # it continues in the next invocation
        assert invoke(worker.handle, message, seconds=800) == []
    assert (found.done, found.failed) == (NUMBER * len(Queue), 0), found


PROGRAMS: Mapping[str, Callable[[], None]] = {"list": _list, "page": _page, "redrive": _redrive}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    sys.stdout.write(f"\n{int(peak.split()[1]) / 1024:.0f}")  # `ru_maxrss` would be at least that of the parent process
