"""The log lines of one task: lines that name the task, and Lambda's own lines about the invocations that ran it.

CloudWatch Logs is searched around each attempt, for a term that is safe to quote. This module then selects the lines
that belong to the task.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.errors import UnknownTaskError
from joblane.inspector.filter import MAX_LOG_LINES
from joblane.inspector.scope import Scope
from joblane.inspector.stage.aws import client
from joblane.inspector.tasks.filter_sql import check_number
from joblane.inspector.tasks.row import check_id
from joblane.inspector.views import LogLine

ATTEMPTS = 20
"""Only the last attempts are searched."""
PAGES = 10
"""Pages of one search; a page may be empty if much was searched. Source: FilterLogEvents."""
SECONDS = 20
"""Time for all searches together: a remote caller gets a response within half a minute or not at all."""
BEFORE, AFTER = timedelta(seconds=5), timedelta(seconds=30)
"""Margins around an attempt: clocks differ, and Lambda's report arrives after the end."""
SAFE = re.compile(r"[A-Za-z0-9_.:/@-]+")
"""Text without a special meaning inside a quoted term. Source: CloudWatch Logs, *Filter pattern syntax*."""
PLATFORM = "PLATFORM"
"""Level of lines that the library did not write: lines of Lambda, and the output of a handler."""
TAKEN = ("level", "message", "timestamp", "task_id", "attempt", "task_type", "tasks", "location", "service")

TASK = """
select type, created_at, coalesce(finished_at, clock_timestamp()) from joblane.tasks where id = $1
"""
RUNS = f"""
select attempt, request_id, started_at, coalesce(finished_at, clock_timestamp())
  from joblane.runs where task_id = $1 order by run desc limit {ATTEMPTS}
"""


Window = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The time of one attempt, and Lambda's request id, None if it is not known."""

    attempt: int
    request_id: str | None
    start: datetime
    end: datetime


def of_task(scope: Scope, id_: str, limit: int) -> tuple[LogLine, ...]:
    """The lines of the last attempts, oldest first; without an attempt, of the task's whole lifetime.

    Empty if the log no longer exists.
    """
    check_number("limit", limit, MAX_LOG_LINES)
    found = scope.connection.run(TASK, check_id(id_))
    if not found:
        raise UnknownTaskError(id_)
    ((type_, created_at, ended_at),) = found
    runs = [LoggedRun(*row) for row in scope.connection.run(RUNS, id_)]
    windows = merged((run.start, run.end) for run in runs) if runs else merged([(created_at, ended_at)])
    with client("logs", scope.region) as logs:
        term = max(SAFE.findall(id_), key=len, default="")
        search = Search(logs, scope.log_group(type_), limit, time.monotonic() + SECONDS)
        own = [of_json(event, id_) for window in windows for event in search.events(term, window)]
        platform = [
            of_platform(event, run)
            for run in runs
            if run.request_id and SAFE.fullmatch(run.request_id)
            for event in search.events(run.request_id, (run.start - BEFORE, run.end + AFTER))
        ]
    lines = [line for line in (*own, *platform) if line is not None]
    return tuple(sorted(lines, key=lambda line: line.at)[:limit])


def merged(windows: Iterable[Window]) -> list[Window]:
    """The windows with their margins, oldest first; windows that overlap become a single window."""
    found: list[Window] = []
    for start, end in sorted((start - BEFORE, end + AFTER) for start, end in windows):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


@dataclass(frozen=True, slots=True)
class Search:
    """Searches of one function's log. ``limit``: lines of each result. ``ends``: by the monotonic clock."""

    logs: Any
    group: str
    limit: int
    ends: float

    def events(self, term: str, window: Window) -> Iterator[dict[str, Any]]:
        """The events with ``term`` in them; all events if it is empty."""
        from botocore.exceptions import ClientError

        request: dict[str, Any] = {
            "logGroupName": self.group,
            "startTime": _ms(window[0]),
            "endTime": _ms(window[1]),
            **({"filterPattern": f'"{term}"'} if term else {}),
        }
        left, pages = self.limit, 0
        while left > 0 and pages < PAGES and time.monotonic() < self.ends:
            try:
                page = self.logs.filter_log_events(**request)
            except ClientError as error:
                if (
                    error.response["Error"]["Code"] == "ResourceNotFoundException"
                ):  # the function never ran, or the log group was deleted
                    return
                raise
            yield from page["events"]
            if not page.get("nextToken"):
                return
            left, pages = left - len(page["events"]), pages + 1
            request["nextToken"] = page["nextToken"]


# --- One line ------------------------------------------------------------------------------------------------------


def of_json(event: dict[str, Any], id_: str) -> LogLine | None:
    """A line of the library that names this task, alone or in a list of tasks; None for any other line."""
    try:
        line = json.loads(event["message"])
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    if line.get("task_id") == id_:
        own = line
    else:
        tasks: Sequence[Any] = line.get("tasks") if isinstance(line.get("tasks"), list) else ()  # type: ignore[assignment]
        mine = next((task for task in tasks if isinstance(task, dict) and task.get("task_id") == id_), None)
        if mine is None:
            return None
        own = line | mine
    attempt = own.get("attempt")
    return LogLine(
        at=_at(event),
        level=str(line.get("level", "INFO")),
        message=str(line.get("message", "")),
        attempt=attempt if isinstance(attempt, int) else None,
        request_id=own.get("function_request_id"),
        fields={name: value for name, value in own.items() if name not in TAKEN},
    )


def of_platform(event: dict[str, Any], run: LoggedRun) -> LogLine | None:
    """A line about the invocation of this run that the library did not write: a kill, a traceback, the report.

    None for Lambda's START and END lines.
    """
    text = event["message"].strip()
    if text.startswith(("{", "START ", "END ")):
        return None
    return LogLine(_at(event), PLATFORM, text, run.attempt, run.request_id, {})


def _at(event: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(event["timestamp"] / 1000, UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
