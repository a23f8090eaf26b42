"""Processes that are killed by SIGKILL at a point that the test names, with the test's own database and queues.

``python -m tests.kills`` imports everything, forks a worker for each line of JSON on its input, and writes a line when
the worker has ended. ``status``: the exit code, or the negative number of the signal that killed it. ``answer``: the
worker's response to Lambda. The worker reaches the queues by HTTP, because moto keeps them in the test's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from joblane import TaskContext
from joblane.client.client import JobClient
from joblane.functions.jobs_bulk import handler as bulk_handler
from joblane.functions.jobs_bulk.handler import jobs_bulk
from joblane.inspector.bulk import run as bulk_run
from joblane.record.events import Unsent
from joblane.record.task.claim import CLAIMS
from joblane.record.task.finish import FINISHES
from joblane.settings import SWEEP_MINUTES
from joblane.sqs.client import Entry, Sqs
from joblane.testing.faults import HookedDatabase, Send
from joblane.worker.group import Group
from joblane.worker.worker import Worker
from tests.builders.events import invoke
from tests.patience import PATIENCE_SECONDS
from tests.samples import (
    PLACE,
    Sample,
    behaviour,
    place_one,
    place_two,
    sample_async,
    sample_batch,
    sample_forgotten,
    sample_one,
)
from tests.samples_events import Bus, sample_heard
from tests.samples_long import HANDLED, sample_long
from tests.world import PREFIX, World

TASKS = {
    task.type: task
    for task in (sample_one, sample_async, sample_batch, sample_forgotten, sample_heard, sample_long, jobs_bulk)
}
PLACED = {task.type: task for task in (place_one, place_two)}
"""The types of the worker ``place``."""
KILLED = -signal.SIGKILL
DEATHS = {
    "after the claim": CLAIMS,
    "after the finish": FINISHES,
    "after the commit": ("commit",),
    "while the canary runs": (bulk_run.SET_CANARY_END,),
}
"""Point in time → the statements after which the process is killed."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- Handlers ------------------------------------------------------------------------------------------------------


@behaviour
def write_effect(payload: Sample, ctx: TaskContext) -> str:
    ctx.session.execute(text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": "done"})
    return "written"


@behaviour
async def write_effects_by_item(payload: Sample, ctx: TaskContext) -> str:
    async for item in ctx.aeach(["a", "b"]):
        await ctx.async_session.execute(
            text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": item}
        )
    await ctx.async_session.execute(text("insert into effects values (:id, 'end')"), {"id": ctx.task_id})
    return "written"


def note_call(name: str, key: str) -> None:
    with Path(os.environ[HANDLED]).open("a", buffering=1) as handled:
        print(name, key, file=handled)


@behaviour
def do_steps(payload: Sample, ctx: TaskContext) -> list[Any]:
    """Two steps, the first with a write. Each call is noted outside of the transaction."""

    def call(name: str, key: str, *, writes: bool) -> dict[str, str]:
        note_call(name, key)
        if writes:
            ctx.session.execute(text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": name})
        return {"of": name}

    return [ctx.step(name, partial(call, name, writes=name == "a")) for name in "ab"]


@behaviour
async def do_steps_async(payload: Sample, ctx: TaskContext) -> list[Any]:
    async def call(name: str, key: str, *, writes: bool) -> dict[str, str]:
        note_call(name, key)
        if writes:
            await ctx.async_session.execute(
                text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": name}
            )
        return {"of": name}

    return [await ctx.astep(name, partial(call, name, writes=name == "a")) for name in "ab"]


@behaviour
def return_only(payload: Sample, ctx: TaskContext) -> str:
    return "returned"


@behaviour
def die_at_first(payload: Sample, ctx: TaskContext) -> str:
    """Kill the process in the first ``number`` attempts, with the effect written and not committed; then complete."""
    write_effect(payload, ctx)
    if ctx.attempt <= payload.number:
        die()
    return "survived"


@behaviour
def archive_now(payload: Sample, ctx: TaskContext) -> None:
    from joblane import SkipRetry

    raise SkipRetry("enough")


# --- The process that is killed ------------------------------------------------------------------------------------


class DeadlyBus(Bus):
    def __init__(self, when: str) -> None:
        super().__init__()
        self._when = when

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        if self._when == "before the event":
            die()
        return super().send_many(events)


class DeadlySqs(Sqs):
    def __init__(self, when: str) -> None:
        super().__init__()
        self._when = when

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        if self._when == "before the send":
            die()
        failed = super().send_many(entries, brief=brief)
        if self._when == "after the send":
            die()
        return failed

    def delete_many(self, queue: str, receipts: Sequence[str]) -> None:
        if self._when == "before the delete":
            die()
        super().delete_many(queue, receipts)
        if self._when == "after the delete":
            die()


def hook_until(when: str) -> Any:
    """Return a hook that kills the process after a statement. The statement has its effect, and its answer is lost.
    "before the finish" kills it before it sends the finish, and the commit with it.

    "after statement 7" means the seventh statement.
    """
    last = DEATHS.get(when, ())
    left = int(when.removeprefix("after statement ")) if when.startswith("after statement ") else 0

    def hook(sql: str, send: Send) -> Any:
        nonlocal left
        if when == "before the finish" and sql in FINISHES:
            die()
        answer = send()
        left -= 1
        if sql in last or left == 0:
            die()
        return answer

    return hook


def work(order: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(order["environment"])
    when = order["dies"]
    if "enqueue" in order:
        client = JobClient()
        client._producer.sqs = DeadlySqs(when)
        if order["driver"] is not None:
            asyncio.run(enqueue_in_session(client, order["enqueue"], order["driver"]))
            return {}
        return {"id": client.enqueue(sample_one, Sample(), task_id=order["enqueue"]).id}
    database = HookedDatabase(order["environment"]["DATABASE_URL"], hook_until(when))
    sqs = DeadlySqs(when)
    vars(bulk_handler).update(Sqs=lambda: sqs, discover=lambda: TASKS)
    vars(bulk_run).update(HIDDEN_SECONDS=1, POLL_SECONDS=0.1)  # dead letters of a killed run are visible again soon
    worker = partial(Worker, database=database, sqs=sqs, prefix=PREFIX, bus=DeadlyBus(when))
    if order["type"] == PLACE.name:
        types = {type_: type_ for type_ in PLACED}
        group = Group(types, sqs, PREFIX, aliases={}, load=PLACED.__getitem__, worker=lambda _, task: worker(task))
        return {"kept": invoke(group.handle, *order["records"])}
    return {"kept": invoke(worker(TASKS[order["type"]]).handle, *order["records"])}


async def enqueue_in_session(client: JobClient, id_: str, driver: str) -> None:
    engine = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        await client.aenqueue(sample_one, Sample(), task_id=id_, session=session)
        await session.commit()


def fork(order: dict[str, Any]) -> dict[str, Any]:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reads)
            with os.fdopen(writes, "w") as pipe:
                json.dump(work(order), pipe)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise
        finally:
            os._exit(status)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "answer": json.loads(answer) if answer else None}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # log lines go elsewhere
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), file=answers, flush=True)


# --- In the test ---------------------------------------------------------------------------------------------------


class Workers:
    """Starts workers that may be killed. ``status``: the exit status of the last one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._world: World | None = None
        self._environment: dict[str, str] = {}
        self.status = 0

    @contextmanager
    def over(self, world: World) -> Iterator[Workers]:
        """Let the workers use this world."""
        server = queue_server(world)
        address = f"http://127.0.0.1:{server.server_address[1]}"
        names = ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        self._environment = {name: os.environ[name] for name in (*names, HANDLED) if name in os.environ}
        self._environment |= {"DATABASE_URL": world.url, "AWS_ENDPOINT_URL": address}
        self._environment[SWEEP_MINUTES] = "5"  # no wake-ups: the first send is that of the test
        self._world = world
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def handle(self, type_: str, *records: dict[str, Any], dies: str = "") -> list[str] | None:
        """Invoke a new worker. Return the ids of the messages that stay in the queue, or None if it was killed."""
        answer = self._order({"type": type_, "records": records, "dies": dies})
        return answer["kept"] if answer else None

    def enqueue(self, id_: str, *, dies: str, driver: str | None = None) -> None:
        """Enqueue a task. ``driver``: the driver of an ``AsyncSession``. None: without a session."""
        self._order({"enqueue": id_, "dies": dies, "driver": driver})

    def _order(self, order: dict[str, Any]) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order | {"environment": self._environment}), file=self._process.stdin, flush=True)
        ended = json.loads(self._process.stdout.readline())
        self.status = ended["status"]
        assert self.status in (0, KILLED), "see the standard error output"
        return ended["answer"]  # type: ignore[no-any-return]


@contextmanager
def killable_workers() -> Iterator[Workers]:
    command = [sys.executable, "-m", "tests.kills"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Workers(process)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(PATIENCE_SECONDS)


def queue_server(world: World) -> ThreadingHTTPServer:
    """Serve the test's queues on a port, with SQS's JSON protocol."""
    client = world.sqs.client

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = self.headers["X-Amz-Target"].rpartition(".")[2]
            arguments = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = "".join(f"_{character.lower()}" if character.isupper() else character for character in call).lstrip(
                "_"
            )
            status = 200
            try:
                answer = getattr(client, name)(**arguments)
            except ClientError as error:
                status, answer = 400, {"__type": f"com.amazonaws.sqs#{error.response['Error']['Code']}"}
            body = json.dumps({key: value for key, value in answer.items() if key != "ResponseMetadata"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


if __name__ == "__main__":
    main()
