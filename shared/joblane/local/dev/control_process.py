"""The process that knows the declarations: it migrates the database, registers the types, and sends the ticks."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joblane import settings
from joblane.errors import JobError, text_of
from joblane.local.dev.channel import Channel
from joblane.local.dev.recovery import Collected, end_leases, recover
from joblane.local.dev.slow_import import named_if_slow
from joblane.local.git import deployer, version_of
from joblane.local.ticker import Ticker
from joblane.names import SWEEP, Queue, lane_name
from joblane.project import Project
from joblane.record import schedules, task_types
from joblane.record.driver.database import Database
from joblane.record.migrate import is_migrated, migrate, upgrade_project
from joblane.sqs.client import Entry
from joblane.tasks import discovery
from joblane.tasks.task import Task
from joblane.worker.routes import routes_of

Tasks = Mapping[str, Task[Any, Any]]
CHUNK = 500
"""Messages in one line to the command."""


def serve(channel: Channel, _files: list[int], *, since: str | None, stamp: str) -> None:
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
    channel.send({"kind": "declared", **_declared(tasks), "broken": [[each.folder, each.text] for each in broken]})
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
    for message in _messages(entries):
        channel.send(message)
    sweeps = lane_name(settings.prefix(), Queue.LOW, SWEEP)
    channel.send({"kind": "ready", "tasks": sum(entry.queue != sweeps for entry in entries)})
    _tick(channel, database, tasks, datetime.fromisoformat(since) if since else datetime.now(UTC))


def _tick(channel: Channel, database: Database, tasks: Tasks, since: datetime) -> None:
    collected = Collected()
    ticker = Ticker(tasks.values(), settings.prefix(), collected, since)
    while True:
        now = datetime.now(UTC)
        seconds = ticker.tick(now)
        entries, collected.entries = collected.entries, []
        for message in _messages(entries):
            channel.send(message)
        channel.send({"kind": "ticked", "until": now.isoformat()})
        request = channel.receive(seconds)
        if request is not None:  # the process of an invocation has ended
            lost = database.call(end_leases, request["request_id"])
            channel.send({"kind": "lost", "request_id": request["request_id"], "task_ids": lost})


def _declared(tasks: Tasks) -> dict[str, Any]:
    prefix = settings.prefix()
    names = {name for task in tasks.values() for name in task.environment}
    given = settings.Settings(names)
    return {
        "types": {type_: _type(prefix, task) for type_, task in tasks.items()},
        "routes": routes_of(tasks),
        "settings": dict(given),
        "missing": sorted(names - given.keys()),
    }


def _type(prefix: str, task: Task[Any, Any]) -> dict[str, Any]:
    return {
        "lanes": [lane_name(prefix, queue, type_) for queue in task.lanes for type_ in task.types],
        "batch_size": task.batch_size,
        "max_concurrency": task.max_concurrency,
        "visibility_seconds": task.numbers.visibility.total_seconds(),
        "max_receive_count": task.numbers.max_receive_count,
        "function_seconds": task.numbers.function_timeout.total_seconds(),
        "allows_loops": task.allows_loops,
    }


def _messages(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(entries), CHUNK):
        chunk = entries[start : start + CHUNK]
        yield {
            "kind": "send",
            "entries": [
                [each.queue, each.body, each.delay_seconds, each.group, dict(each.attributes)] for each in chunk
            ],
        }


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
