"""A process of an application, with the code of a release. It uses what an application uses, and Lambda's entry.

``python -m tests.integration.upgrade.process`` answers lines of JSON: the name of a function below, and its arguments.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import joblane
from joblane import Job, JobClient, every
from joblane.record.migrate import migrate
from joblane.record.sql_functions import VERSION
from tests.integration.upgrade.functions.work_alone.handler import work_alone
from tests.integration.upgrade.functions.work_do.handler import work_do
from tests.integration.upgrade.work import Work

TASKS = {"work:do": work_do, "work:alone": work_alone}
CONTEXT = SimpleNamespace(
    aws_request_id="11111111-2222-4333-8444-555555555555",
    memory_limit_in_mb="512",
    log_stream_name="stream",
    get_remaining_time_in_millis=lambda: 60_000,
)
client = JobClient()
handlers: dict[str, Callable[[Any, Any], dict[str, list[dict[str, str]]]]] = {}
running: dict[int, int] = {}
"""Process → the pipe from which its answer is read."""


def code() -> list[str | None]:
    return [joblane.__file__, VERSION]


def migrated() -> None:
    migrate(os.environ["DATABASE_URL"])


def enqueue(type_: str, do: str, *ids: str, hours: int = 0) -> None:
    for id_ in ids:
        client.enqueue(TASKS[type_], Work(do=do), task_id=id_, process_in=timedelta(hours=hours))


def batch(id_: str, *members: str) -> None:
    with client.batch(id_, on_success=Job(work_do, Work())) as opened:
        opened.enqueue_many(Job(work_do, Work(), task_id=member) for member in members)


def put_schedule(name: str) -> None:
    client.schedules.put(name, work_do, Work(), every(hours=1))


def run_schedule(name: str) -> None:
    client.schedules.run_now(name)


def answer(id_: str) -> bool:
    return client.signal(id_, "answer", "yes")


def deliver(type_: str, *records: dict[str, Any]) -> list[str]:
    """Invoke the function of a type. Return the ids of the messages that stay in the queue."""
    if type_ not in handlers:
        os.environ["JOBLANE_TASK"] = type_
        sys.modules.pop("joblane.worker.lambda_entry", None)
        handlers[type_] = importlib.import_module("joblane.worker.lambda_entry").handler
    failed = handlers[type_]({"Records": list(records)}, CONTEXT)["batchItemFailures"]
    return [each["itemIdentifier"] for each in failed]


def start(type_: str, *records: dict[str, Any]) -> int:
    """Invoke the function of a type, in a process of its own. Return its number."""
    reads, writes = os.pipe()
    number = os.fork()
    if number == 0:
        handlers.clear()  # its connections are the parent's
        try:
            os.write(writes, json.dumps(deliver(type_, *records)).encode())
        finally:
            os._exit(0)
    os.close(writes)
    running[number] = reads
    return number


def join(number: int) -> Any:
    with os.fdopen(running.pop(number)) as pipe:
        kept = pipe.read()
    os.waitpid(number, 0)
    return json.loads(kept)


def kill(number: int) -> None:
    os.kill(number, signal.SIGKILL)
    os.close(running.pop(number))
    os.waitpid(number, 0)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # log lines go elsewhere
    for line in sys.stdin:
        name, arguments, named = json.loads(line)
        print(json.dumps(globals()[name](*arguments, **named)), file=answers, flush=True)
