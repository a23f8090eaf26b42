"""The processes that do the work, and that the faults kill.

``python -m tests.faults.worker SOCKET`` starts a fork server: it imports everything, and forks a process for each
connection. A process answers lines of JSON, one at a time. ``{"invoke": QUEUE, "records": […], …}`` is an invocation of
the queue's function, ``{"produce": MODE, "jobs": […], …}`` enqueues tasks, and ``{"cancel": […]}`` cancels tasks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from datetime import timedelta
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

import joblane.functions.jobs_sweep.handler as sweep_handler
from joblane import Job, JobClient, MessageClient
from joblane.client.client import client_within
from joblane.enqueue import wake
from joblane.enqueue.result import Enqueued
from joblane.errors import DatabaseUnavailableError, JobError
from joblane.names import Queue, front_door_name, lane_name
from joblane.record.driver.database import Database
from joblane.tasks.discovery import discover
from joblane.worker.of_type import worker_of
from joblane.worker.router import Router
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker
from tests.builders.events import invoke
from tests.faults.fates import NONE, SWEEP, CurrentFate, Fate, FaultyDatabase, FaultySqs
from tests.faults.plants import planted
from tests.faults.samples import TASKS, SideConnection, Work
from tests.ways import Ways

PREFIX = "faults"
PLANT = "FAULTS_PLANT"
"""The variable that names the planted bugs, with commas."""
ALL_TASKS = TASKS | {sweep_handler.jobs_sweep.type: sweep_handler.jobs_sweep}
SWEEP_LANE = lane_name(PREFIX, sweep_handler.jobs_sweep.queue, sweep_handler.jobs_sweep.type)
GRID_SECONDS, LEAD_SECONDS = 2, 1
"""The wake-ups of the sweep are more frequent than in production, because a run is short."""

current = CurrentFate()
sqs, sqs_of_sweep = FaultySqs(current), FaultySqs(current, SWEEP)
ways = Ways(lambda: current.is_short)


class Process:
    """The contents of a process: a function for every type, and a client that enqueues."""

    def __init__(self, url: str) -> None:
        database = FaultyDatabase(url, current)
        workers = {type_: worker_of(task, database, sqs, PREFIX) for type_, task in ALL_TASKS.items()}
        self._functions: dict[str, Worker | SweepWorker | Router] = {
            lane_name(PREFIX, queue, type_): workers[type_] for type_, task in ALL_TASKS.items() for queue in task.lanes
        }
        router = Router({type_: list(task.lanes) for type_, task in TASKS.items()}, sqs, PREFIX)
        self._functions |= {front_door_name(PREFIX, queue): router for queue in Queue}
        self._client = client_within(FaultyDatabase(url, current), sqs, PREFIX)
        self._direct = MessageClient()
        self._direct._sqs, self._direct._prefix = sqs, PREFIX
        self._callers = FaultyDatabase(url, current)
        SideConnection.database = Database(url)

    def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        current.fate, current.ahead = Fate(**order.get("fate", {})), order["ahead"]
        current.is_short = order["is_short"]
        try:
            answer = self._do(order) | {"ways": ways.taken()}
            current.at("before", "answer")
            return answer
        finally:
            current.fate = NONE

    def _do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        if "invoke" in order:
            try:
                handle = self._functions[order["invoke"]].handle
                return {"failed": invoke(handle, *order["records"], seconds=order["seconds"])}
            except BaseException:  # a function must not raise, because SQS would deliver the whole batch again
                failed = [record["messageId"] for record in order["records"]]
                return {"failed": failed, "raised": traceback.format_exc()}
        try:
            if "cancel" in order:
                return {"states": {id_: self._client.cancel(id_) for id_ in order["cancel"]}}
            return self._produce(order["produce"], order["jobs"])
        except Exception as error:  # the caller's transaction is rolled back, with the tasks enqueued in it
            self._callers.drop()
            return {"created": [], "replaced": [], "unavailable": f"{type(error).__name__}: {error}"}

    # --- Producers -------------------------------------------------------------------------------------------------

    def _produce(self, mode: str, jobs: list[dict[str, Any]]) -> dict[str, Any]:
        unavailable: dict[str, str] = {}
        match mode:
            case "alone" | "direct":
                results, unavailable = self._one_by_one(self._client if mode == "alone" else self._direct, jobs)
            case "many":
                results = self._client.enqueue_many([_job(job) for job in jobs])
            case _:
                results = self._in_session(mode, jobs)
        enqueued = [result for result in results if isinstance(result, Enqueued)]
        return {
            "created": [task.id for task in enqueued if task.created],
            "replaced": [task.id for task in enqueued if not task.created],
        } | unavailable

    def _one_by_one(
        self, client: JobClient | MessageClient, jobs: list[dict[str, Any]]
    ) -> tuple[list[Enqueued | JobError], dict[str, str]]:
        """Return the results up to an error of the unavailable database, and that error."""
        results: list[Enqueued | JobError] = []
        for job in jobs:
            new = _job(job)
            try:
                results.append(client.enqueue(new.task, new.payload, **job_options(job)))
            except DatabaseUnavailableError as error:
                return results, {"unavailable": str(error)}
            except JobError as error:
                results.append(error)
        return results, {}

    def _in_session(self, mode: str, jobs: list[dict[str, Any]]) -> list[Enqueued | JobError]:
        """Enqueue in a session that commits or, in mode ``rollback``, rolls back.

        In mode ``savepoint``, every second job is in a savepoint that is rolled back.
        """
        with Session(self._callers.engine) as session:
            results: list[Enqueued | JobError] = []
            for number, job in enumerate(jobs):
                if mode == "savepoint" and number % 2:
                    savepoint = session.begin_nested()
                    self._client.enqueue_many([_job(job)], session=session)
                    savepoint.rollback()
                    continue
                (result,) = self._client.enqueue_many([_job(job)], session=session)
                if isinstance(result, Enqueued) and result.created:
                    session.execute(text("insert into public.promises values (:id)"), {"id": result.id})
                results.append(result)
            if mode == "rollback":
                session.rollback()
                return []
            session.commit()
            return results


def job_options(job: Mapping[str, Any]) -> Any:
    options = dict(job["options"])
    for name in ("process_in", "unique_for"):
        if name in options:
            options[name] = timedelta(seconds=options[name])
    if "deadline_in" in options:
        rows = SideConnection.database.get().run(
            "select clock_timestamp() + make_interval(secs => $1::float8)", str(options.pop("deadline_in"))
        )
        options["deadline"] = rows[0][0]
    return options | {"task_id": job["id"]}


def _job(job: Mapping[str, Any]) -> Job:
    return Job(TASKS[job["type"]], Work(**job["payload"]), **job_options(job))


# --- The fork server -----------------------------------------------------------------------------------------------


class ForkServer(ForkingMixIn, UnixStreamServer):
    max_children = 100
    request_queue_size = 100
    block_on_close = False

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != parent:
            os._exit(0)


class Connected(StreamRequestHandler):
    """The connection to a forked process."""

    def handle(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        process = Process(os.environ["DATABASE_URL"])
        self.wfile.write(f"{os.getpid()}\n".encode())
        for line in self.rfile:
            answer = process.do(json.loads(line))
            self.wfile.write(json.dumps(answer).encode() + b"\n")


parent = os.getppid()


def _warm_up() -> None:
    """Do the first work of a process once, before the forks."""
    for task in ALL_TASKS.values():
        for queue in task.lanes:
            sqs.url(lane_name(PREFIX, queue, task.type))
    database = Database(os.environ["DATABASE_URL"])
    with Session(database.engine) as session:
        session.execute(text("select count(*) from public.effects where task = :task"), {"task": ""})
    database.drop()
    sqs.client.close()
    assert sqs_of_sweep.client


def main() -> None:
    setattr(wake, "GRID_SECONDS", GRID_SECONDS)  # noqa: B010 - in the place of a constant
    setattr(wake, "LEAD_SECONDS", LEAD_SECONDS)  # noqa: B010
    bugs = filter(None, os.environ.get(PLANT, "").split(","))
    with planted(os.environ["DATABASE_URL"], *bugs), ways.switched():
        discover()
        setattr(sweep_handler, "Sqs", lambda: sqs_of_sweep)  # noqa: B010 - so that its sends can fail, too
        _warm_up()
        with ForkServer(sys.argv[1], Connected) as server:
            print("ready", flush=True)
            server.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
