"""The processes with the project's code, which the zygote forks: the control process, and the workers.

The control process knows the declarations: it migrates the database, registers the types, and sends the ticks. A worker
runs the tasks of one type, as a Lambda function does. Queues in memory are lost with the command, and a run with its
process: messages are sent again, and leases end here, because a task would wait until the function's timeout.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane import settings
from joblane.enqueue.event_bus import bus_of_environment
from joblane.errors import JobError, text_of
from joblane.forking import end_process
from joblane.local.dev.channel import Channel, named_if_slow
from joblane.local.git import deployer, version_of
from joblane.local.ticker import Ticker
from joblane.names import (
    PLACE,
    PLACES,
    SWEEP,
    Queue,
    decode_places,
    encode_places,
    folder_of,
    function_name,
    lane_name,
    types_at,
)
from joblane.project import Project
from joblane.record import schedules, task_types
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import WORKER
from joblane.record.migrate import is_migrated, migrate, upgrade_project
from joblane.record.row.transitions import UNSENT_SWEEP
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Received
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.sweep.sweep import sweep
from joblane.tasks import discovery
from joblane.tasks.places import lanes_of, numbers_of, places_of, places_text
from joblane.tasks.task import Task
from joblane.telemetry import TRACE_VARIABLE
from joblane.worker.group import group_of
from joblane.worker.invocation import Handle, Invocation
from joblane.worker.of_type import worker_of
from joblane.worker.printed import Printed
from joblane.worker.routes import routes_of
from joblane.worker.run_log import Ended, RunLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.names import Queue
    from joblane.quotas import Numbers
    from joblane.record.task.claim import Claim


Tasks = Mapping[str, Task[Any, Any]]


def serve_control(channel: Channel, _files: Sequence[int], *, since: str | None, stamp: str) -> None:
    """Send the declarations, prepare the database, then send ticks until the command ends this process.

    ``since``: the time after which no tick was sent yet. None: the command has just started, so the queues are empty.
    ``stamp``: the file with the digest of the project's migrations that have run.
    """
    project = Project.here()
    project.activate()
    broken = discovery.leave_out_broken()
    try:
        with named_if_slow(project.root):
            tasks = discovery.discover()
    except JobError as error:
        channel.send({"kind": "failed", "text": str(error)})
        return
    problems = {each.folder: each.text for each in broken}
    channel.send({"kind": "declared", **_declared(tasks, problems), "broken": problems})
    if (given := channel.receive()) is None:
        return
    try:
        database = Database(given["database"], prefix=settings.prefix())
        _migrate(database, given["database"], tasks, Path(stamp), complete=not broken)
        entries = recover(database.get(), settings.prefix()) if since is None else []
    except Exception as error:  # the migrations of the project may raise anything
        text = f"The database could not be brought up to date: {type(error).__name__}: {text_of(error)}"
        channel.send({"kind": "failed", "text": text})
        return
    _send(channel, entries)
    sweeps = lane_name(settings.prefix(), Queue.LOW, SWEEP)
    channel.send({"kind": "ready", "tasks": sum(entry.queue != sweeps for entry in entries)})
    _tick(channel, tasks, datetime.fromisoformat(since) if since else datetime.now(UTC))


def _tick(channel: Channel, tasks: Tasks, since: datetime) -> None:
    collected = Collected()
    ticker = Ticker(tasks.values(), settings.prefix(), collected, since)
    while True:
        now = datetime.now(UTC)
        seconds = ticker.tick(now)
        _send(channel, collected.entries)
        collected.entries.clear()
        channel.send({"kind": "ticked", "until": now.isoformat()})
        channel.receive(seconds)  # nothing comes; it ends with the command


def _declared(tasks: Tasks, broken: Collection[str]) -> dict[str, Any]:
    """``broken``: the folders of the handlers that are left out. Their types stay on the places where they were."""
    prefix = settings.prefix()
    names = {name for task in tasks.values() for name in task.environment}
    given = settings.Settings(names)
    places, members = places_of(tasks.values()), decode_places(places_text(tasks.values()) or "")
    for place, types in decode_places(os.environ.get(PLACES, "")).items():
        members.setdefault(place, []).extend(each for each in types if folder_of(each[0]) in broken)
    return {
        "functions": {
            **{task.type: _function(prefix, [task], task.numbers) for task in tasks.values() if task.place is None},
            **{place.name: _function(prefix, those, numbers_of(place, those)) for place, those in places.items()},
        },
        "places": encode_places(members) if any(members.values()) else "",
        "routes": routes_of(tasks),
        "settings": dict(given),
        "missing": sorted(names - given.keys()),
    }


def _function(prefix: str, tasks: Sequence[Task[Any, Any]], numbers: Numbers) -> dict[str, Any]:
    """``tasks``: those that the function runs, with the same place."""
    return {
        "types": [task.type for task in tasks],
        "lanes": list(dict.fromkeys(lane for task in tasks for lane in lanes_of(prefix, task))),
        "batch_size": tasks[0].batch_size,
        "max_concurrency": tasks[0].max_concurrency,
        "visibility_seconds": numbers.visibility.total_seconds(),
        "max_receive_count": numbers.max_receive_count,
        "function_seconds": numbers.function_timeout.total_seconds(),
        "allows_loops": any(task.allows_loops for task in tasks),
    }


def _send(channel: Channel, entries: Sequence[Entry]) -> None:
    for each in entries:
        entry = [each.queue, each.body, each.delay_seconds, each.group, dict(each.attributes)]
        channel.send({"kind": "send", "entry": entry})


# --- The database --------------------------------------------------------------------------------------------------


def _migrate(database: Database, url: str, tasks: Tasks, stamp: Path, *, complete: bool) -> None:
    """Bring the database up to date. The project's migrations run if one of their files has changed since.

    ``complete``: no task is left out. Otherwise the registered types and schedules stay as they are.
    """
    digest = _digest(settings.migrations())
    known = stamp.read_text(encoding="ascii") if stamp.exists() else None
    if not is_migrated(database.get()):
        root = Project.here().root
        migrate(url, version=version_of(root), by=deployer(root))
    else:
        if complete:
            task_types.register(database.get(), tasks)
            schedules.register(database.get(), tasks)
        if digest != known:
            upgrade_project(url, settings.migrations())
    if digest != known:
        stamp.write_text(digest, encoding="ascii")


def _digest(name: str | None) -> str:
    """Return a digest of the files next to the module of the project's migrations, ``module:function``."""
    found = hashlib.sha256((name or "").encode())
    spec = importlib.util.find_spec(name.partition(":")[0]) if name else None
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                status = path.stat()
                found.update(f"{path}:{status.st_mtime_ns}:{status.st_size}\n".encode())
    return found.hexdigest()


# --- What a local process leaves in the database -------------------------------------------------------------------


INVOKED = "jobs invoke"
"""``request_id`` of a run by `joblane invoke`, which is a process of its own."""

NO_PLAN = "update joblane.stage set planned_sweep_at = null"
LOST_MESSAGES = f"""
update joblane.tasks t set sweep_at = {UNSENT_SWEEP.format(due="t.due_at")}
 where t.finished_at is null and t.state in ('scheduled', 'pending', 'retry') and t.sweep_at >= t.due_at
"""
LEASES = f"""
update joblane.tasks t set lease_until = clock_timestamp(), sweep_at = clock_timestamp()
  from joblane.runs a
 where t.finished_at is null and t.state = 'active' and t.lease_until > clock_timestamp()
   and a.task_id = t.id and a.run = t.runs
   and case when $1::text is null then a.request_id <> '{INVOKED}' else a.request_id = $1 end
returning t.id
"""


class Collected(Sqs):
    """Accepts all messages, for the command to send."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []

    def send(self, entry: Entry) -> str:
        self.entries.append(entry)
        return "collected"

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.entries += entries
        return {}

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[str, str]:
        """Every queue is empty."""
        return dict.fromkeys(names, "0")


def recover(connection: Connection, prefix: str) -> list[Entry]:
    """Return the messages of all tasks that are due within 15 minutes, and of the next sweep: no queue has one, and no
    task runs."""
    connection.run(NO_PLAN)
    connection.run(LOST_MESSAGES)
    end_leases(connection)
    collected, following = Collected(), NextSweep()
    sweep(connection, collected, prefix, following=following)
    plan(connection, collected, prefix, following)
    return collected.entries


def end_leases(connection: Connection, request_id: str | None = None) -> list[str]:
    """End the leases of an invocation whose process has ended. Return the ids of its tasks that had not ended.

    ``request_id`` None: of all invocations. A process of `joblane invoke` may still run.
    """
    return [id_ for (id_,) in connection.run(LEASES, request_id)]


# --- A worker -------------------------------------------------------------------------------------------------------


class TracedRunLog(RunLog):
    """Also writes the tracebacks of failed runs, which on AWS are in the row alone."""

    def write(self, queue: Queue, runs: Sequence[Ended], archived: Sequence[Claim]) -> None:
        """Write the log lines and metrics of an invocation."""
        for claim, end, _ in runs:
            if end.traceback:
                line = {"level": "ERROR", "message": "traceback", "task_id": claim.id, "traceback": end.traceback}
                print(json.dumps(line))  # noqa: T201
        super().write(queue, runs, archived)


def serve_worker(channel: Channel, _files: Sequence[int], *, function: str) -> None:
    """Serve invocations until the command ends this process. Import errors of the handler are sent to the command.

    ``function``: a type, or the name of a place.
    """
    project = Project.here()
    project.activate()
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = function_name(settings.prefix(), function)
    discovery.leave_out_broken()  # the sweep and bulk actions discover all tasks
    database = Database(settings.database_url(), prefix=settings.prefix(), limits=WORKER)
    sqs, prefix, printed, bus = Sqs(), settings.prefix(), Printed(), bus_of_environment(brief=True)
    handle: Handle
    if types_at(function, places := os.environ[PLACES]):
        os.environ[PLACE] = function  # as in its Lambda function
        handle = group_of(function, places, database, sqs, prefix, printed=printed, bus=bus, log=TracedRunLog).handle
    else:
        os.environ["JOBLANE_TASK"] = function  # as in its Lambda function: a queue of Django imports its tasks
        try:
            with named_if_slow(project.root):
                task = discovery.load_for_person(function)
            worker = worker_of(task, database, sqs, prefix, printed=printed, bus=bus, log=TracedRunLog(task))
        except JobError as error:
            channel.send({"kind": "broken", "folder": folder_of(function), "text": str(error)})
            return
        handle = worker.handle
    channel.send({"kind": "ready"})
    try:
        for given in channel:
            os.environ[TRACE_VARIABLE] = given["trace"]
            deliveries = [Received.of(**parts) for parts in given["messages"]]
            response = handle(deliveries, Invocation(given["request_id"], given["seconds"]))
            channel.send({"kind": "done", "kept": response.kept})
    finally:
        end_process()
