"""The log lines of one task, and of a type: lines that name the task, and Lambda's own lines about the invocations.

CloudWatch Logs is searched around each attempt, or back from now, for a term that is safe to quote. This module then
selects the lines that belong to the task or the type.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from joblane.errors import UnknownTaskError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import LOG_LEVELS, MAX_LOG_LINES, MAX_LOG_TEXT, MOST_LOGGED_RUNS
from joblane.inspector.scope import Scope
from joblane.inspector.stage.aws import client
from joblane.inspector.tasks.filter_sql import check_number, check_types
from joblane.inspector.tasks.row import check_id
from joblane.inspector.views import LogLine

PAGES = 10
"""Pages of one search; a page may be empty if much was searched. Source: FilterLogEvents."""
SECONDS = 20
"""Time for all searches together: a remote caller gets a response within half a minute or not at all."""
BEFORE, AFTER = timedelta(seconds=5), timedelta(seconds=30)
"""Margins around an attempt: clocks differ, and Lambda's report arrives after the end."""
BACK = tuple(timedelta(seconds=seconds) for seconds in (-5, 15, 120, 900))
"""The newest lines of a type are searched in these steps back from now: a busy type has enough of them in the first
one. The first step begins in the future, because clocks differ."""
MOMENT = timedelta(milliseconds=1)
"""CloudWatch includes the end of the time that it searches."""
SAFE = re.compile(r"[A-Za-z0-9_.:/@-]+")
"""Text without a special meaning inside a quoted term. Source: CloudWatch Logs, *Filter pattern syntax*."""
PLATFORM = "PLATFORM"
"""Level of lines that the library did not write: lines of Lambda, and the output of a handler."""
ROUTINE = ("START ", "END ", "REPORT ", "INIT_START ", "EXTENSION\t", "LOGS\t", "XRAY ")
"""Beginnings of Lambda's lines about an invocation without a problem: they have no level above INFO."""
TAKEN = ("level", "message", "timestamp", "task_id", "attempt", "task_type", "tasks", "location", "service")

TASK = """
select type, created_at, coalesce(finished_at, clock_timestamp()) from joblane.tasks where id = $1
"""
RUNS = """
select attempt, request_id, started_at, coalesce(finished_at, clock_timestamp())
  from joblane.runs where task_id = $1 order by run desc limit $2::int
"""


Window = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The time of one attempt, and Lambda's request id, None if it is not known."""

    attempt: int
    request_id: str | None
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """The lines that a caller wants. ``level``: the lowest one. ``text``: a part of the line, upper and lower case
    differ. None: any."""

    level: str | None
    text: str | None

    @classmethod
    def checked(cls, level: str | None, text: str | None) -> Wanted:
        """Raises :class:`SelectionError`."""
        if level is not None and level not in LOG_LEVELS:
            raise SelectionError("level", f"{', '.join(LOG_LEVELS)} are valid, not {level!r}")
        if text is not None and not (isinstance(text, str) and 1 <= len(text) <= MAX_LOG_TEXT):
            raise SelectionError("text", f"1 to {MAX_LOG_TEXT} characters are required")
        return cls(level, text)

    def has(self, line: LogLine) -> bool:
        """True if the caller wants this line."""
        shown = (line.message, line.task_id, line.request_id, *line.fields.values())
        if self.text is not None and not any(self.text in str(each) for each in shown):
            return False
        if self.level is None:
            return True
        if line.level == PLATFORM:
            return LOG_LEVELS.index(self.level) <= LOG_LEVELS.index("INFO") or not line.message.startswith(ROUTINE)
        return line.level not in LOG_LEVELS or LOG_LEVELS.index(line.level) >= LOG_LEVELS.index(self.level)


def of_task(
    scope: Scope, id_: str, *, level: str | None, text: str | None, runs: int, limit: int
) -> tuple[LogLine, ...]:
    """The lines of the last ``runs`` attempts, oldest first; without an attempt, of the task's whole lifetime.

    Empty if the log no longer exists.
    """
    check_number("limit", limit, MAX_LOG_LINES)
    check_number("runs", runs, MOST_LOGGED_RUNS)
    wanted = Wanted.checked(level, text)
    found = scope.connection.run(TASK, check_id(id_))
    if not found:
        raise UnknownTaskError(id_)
    ((type_, created_at, ended_at),) = found
    logged = [LoggedRun(*row) for row in scope.connection.run(RUNS, id_, str(runs))]
    windows = merged((run.start, run.end) for run in logged) if logged else merged([(created_at, ended_at)])
    lines: list[LogLine] = []
    with client("logs", scope.region) as logs:
        search = Search(logs, scope.log_group(type_), limit, time.monotonic() + SECONDS)

        for window in windows:
            own = (of_json(event, id_) for event in search.events(_term(id_), window))
            lines += [line for line in own if line is not None and wanted.has(line)]
        for run in logged:
            if run.request_id and SAFE.fullmatch(run.request_id):
                events = search.events(run.request_id, (run.start - BEFORE, run.end + AFTER))
                platform = (of_platform(event, run) for event in events)
                lines += [line for line in platform if line is not None and wanted.has(line)]
    return tuple(sorted(lines, key=lambda line: line.at)[:limit])


def of_type(scope: Scope, type_: str, *, level: str | None, text: str | None, limit: int) -> tuple[LogLine, ...]:
    """The newest lines of a type within 15 minutes, oldest first. Raises :class:`SelectionError`."""
    check_number("limit", limit, MAX_LOG_LINES)
    wanted = Wanted.checked(level, text)
    check_types(scope, [type_])
    names, now = names_of(scope, type_), datetime.now(UTC)
    found: list[LogLine] = []
    with client("logs", scope.region) as logs:
        search = Search(logs, scope.log_group(type_), MOST_OF_TYPE, time.monotonic() + SECONDS)
        for later, earlier in pairwise(BACK):
            newest: deque[LogLine] = deque(maxlen=limit - len(found))
            for event in search.events(_term(text or ""), (now - earlier, now - later - MOMENT)):
                newest.extend(line for line in of_any(event, names) if wanted.has(line))
            found = sorted([*newest, *found], key=lambda line: line.at)
            if len(found) >= limit:
                break
    return tuple(found)


def names_of(scope: Scope, type_: str) -> frozenset[str]:
    """The names of a declared type, its former ones included; the name itself if no code declares it."""
    task = scope.task(type_)
    return frozenset(task.types if task else (type_,))


def merged(windows: Iterable[Window]) -> list[Window]:
    """The windows with their margins, oldest first; windows that overlap become a single window."""
    found: list[Window] = []
    for start, end in sorted((start - BEFORE, end + AFTER) for start, end in windows):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _term(text: str) -> str:
    """The longest part of a string that is safe to quote in a search; empty if there is none."""
    return max(SAFE.findall(text), key=len, default="")


MOST_OF_TYPE = 10_000
"""Events that one search of a type's lines reads, of each step."""


@dataclass(frozen=True, slots=True)
class Search:
    """Searches of one function's log. ``limit``: events of each search. ``ends``: by the monotonic clock."""

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
    line = _parsed(event)
    if line is None:
        return None
    return next((_line(event, line, own) for own in _tasks(line) if own.get("task_id") == id_), None)


def of_any(event: dict[str, Any], names: frozenset[str]) -> Iterator[LogLine]:
    """The lines of an event of a type: one for each task that it names. None of another type of the same place."""
    line = _parsed(event)
    if line is None:
        text = event["message"].strip()
        if not text.startswith(("START ", "END ")):
            yield LogLine(_at(event), PLATFORM, text, None, None, {})
    elif line.get("task_type", line.get("type")) in (None, *names):
        for own in _tasks(line):
            yield _line(event, line, own)


def _parsed(event: dict[str, Any]) -> dict[str, Any] | None:
    """A line of the library; None for any other."""
    try:
        line = json.loads(event["message"])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _tasks(line: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The line for each of the tasks that it names; the line itself if it names one or none."""
    tasks: object = line.get("tasks")
    found = [line | task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    return found or [line]


def _line(event: dict[str, Any], line: dict[str, Any], own: dict[str, Any]) -> LogLine:
    attempt, task_id = own.get("attempt"), own.get("task_id")
    return LogLine(
        at=_at(event),
        level=str(line.get("level", "INFO")),
        message=str(line.get("message", "")),
        attempt=attempt if isinstance(attempt, int) else None,
        request_id=own.get("function_request_id"),
        fields={name: value for name, value in own.items() if name not in TAKEN},
        task_id=task_id if isinstance(task_id, str) else None,
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
