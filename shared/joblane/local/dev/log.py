"""The stream of all logs: for people, or as the JSON lines that workers write; and a bounded file of them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from joblane.names import SWEEP, function_name, log_group_name

MAX_FILE_BYTES = 5_000_000
"""After this size the file becomes ``dev.log.1``, which replaces the one before."""
LIBRARIES = tuple(f'  File "{folder}{os.sep}' for folder in (Path(__file__).parents[2], Path(asyncio.__file__).parent))
"""The beginnings of frames that are not of the handler."""
OWN = "dev"
"""The source of the command's own lines."""
WIDTH = 18
SHORT = 8
"""Characters of a task's id in the stream: the last ones, as the first ones are its time."""
HIDDEN = (
    "level", "location", "message", "timestamp", "service", "task_id", "task_type", "attempt", "queue", "exception",
    "exception_name", "stack_trace", "traceback", "trace_id", "span_id", "xray_trace_id", "sampling_rate",
    "function_request_id", "traceparent", "fingerprint", "tasks",
)  # fmt: skip
"""Fields that are shown otherwise, or not at all."""
WAITS = {
    "held": "held: waits for other tasks or for a limit",
    "wait": "waits until it is due",
    "paused": "waits for the end of a pause",
    "ended": "has ended; nothing runs",
    "obsolete": "is archived; nothing runs",
    "gone": "was rolled back; nothing runs",
}
"""Verdict of a claim → the words for it."""
CONTROLS: dict[int, str] = dict.fromkeys(
    (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"
)
CONTROLS[0x09] = " "
RED, GREEN, YELLOW, CYAN, DIM = "31", "32", "33", "36", "2"
COLOURS = {"ERROR": RED, "CRITICAL": RED, "WARNING": YELLOW}


class LogStream(io.StringIO):
    """The stream of the log lines of this process, such as the router's."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self._log.add(OWN, line, None, ())
        return len(text)


class Log:
    """``raw``: write each line as its process has written it. ``prefix``: of the stage."""

    def __init__(self, file: Path, prefix: str, *, raw: bool = False, out: TextIO | None = None) -> None:
        self._file = file
        self._prefix = prefix
        self._raw = raw
        self._out = out or sys.stdout
        self._colours = self._out.isatty() and not os.environ.get("NO_COLOR")
        self._file.touch(mode=0o600)
        self._written = self._file.open("a", encoding="utf-8", errors="replace")
        self._size = self._file.stat().st_size
        self._is_lossy = False

    def close(self) -> None:
        with suppress(OSError):  # the disk is full
            self._written.close()

    def say(self, text: str, colour: str = CYAN) -> None:
        """Write a line of the command itself."""
        if self._raw:
            self._print(json.dumps({"level": "INFO", "message": text, "service": OWN}))
            return
        for line in text.splitlines():
            self._print(self._row(OWN, None, line, colour))

    def show_event(self, detail_type: str, detail: Mapping[str, Any]) -> None:
        """Write a line for an event that a task has sent. ``detail_type``: such as ``Task archived``."""
        if self._raw:
            line = {"level": "INFO", "message": f"event: {detail_type}", "service": OWN, "detail": detail}
            self._print(json.dumps(line))
            return
        self._print(
            self._row(plain(str(detail.get("type"))), str(detail.get("task_id")), plain(f"event: {detail_type}"), CYAN)
        )

    def add(self, type_: str, text: str, request_id: str | None, task_ids: Sequence[str]) -> None:
        """Write a line of a process, unless it is empty. ``task_ids``: the tasks of its invocation, if it is in one."""
        if not text:
            return
        self._keep(type_, text, request_id, task_ids)
        if self._raw:
            self._print(text)
            return
        line = _document(text)
        if line is None:
            only = task_ids[0] if len(task_ids) == 1 else None
            self._print(self._row(type_, only, plain(text), None))
        elif type_ != SWEEP or line["level"] in COLOURS:
            for id_, shown, colour in _shown(line):
                first, *others = map(plain, shown.splitlines() or [""])
                self._print(self._row(str(line.get("task_type") or type_), id_, first, colour))
                for other in others:
                    self._print(self._row("", None, other, colour))

    def _row(self, source: str, id_: str | None, text: str, colour: str | None) -> str:
        now = time.time()
        clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03}"
        start = f"{clock if source else '':<12}  {source:<{WIDTH}}  {short(id_) if id_ else '':<{SHORT}}  "
        if not self._colours:
            return (start + text).rstrip()
        return f"\x1b[{DIM}m{start}\x1b[0m" + (f"\x1b[{colour}m{text}\x1b[0m" if colour else text)

    def _print(self, text: str) -> None:
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except UnicodeEncodeError:
            self._out.write(text.encode("ascii", "backslashreplace").decode() + "\n")
        except OSError:  # the terminal, or the reader of the pipe, has gone
            pass

    # --- The file --------------------------------------------------------------------------------------------------

    def _keep(self, type_: str, text: str, request_id: str | None, task_ids: Sequence[str]) -> None:
        group = log_group_name(function_name(self._prefix, type_))
        entry = {"at": int(time.time() * 1000), "group": group, "request": request_id, "tasks": task_ids, "text": text}
        line = json.dumps(entry) + "\n"
        try:
            if self._size + len(line) > MAX_FILE_BYTES:
                self._replace()
            self._written.write(line)
            self._written.flush()
        except OSError as error:  # the disk is full: the processes go on, and their lines are shown
            if not self._is_lossy:
                self.say(f"The lines cannot be kept in {self._file}: {error.strerror}.", RED)
            self._is_lossy = True
        else:
            self._is_lossy = False
            self._size += len(line)

    def _replace(self) -> None:
        """Begin a new file. The last one takes the place of the one before."""
        self.close()
        with suppress(FileNotFoundError):  # the last call has failed in between
            self._file.replace(self._file.with_suffix(".log.1"))
        self._file.touch(mode=0o600)
        self._written, self._size = self._file.open("a", encoding="utf-8", errors="replace"), 0

    def search(self, group: str, start: int, end: int, term: str, limit: int) -> list[dict[str, Any]]:
        """Return the kept lines of a log group with ``term``, as CloudWatch Logs does. Times in ms since 1970."""
        found: list[dict[str, Any]] = []
        for path in (self._file.with_suffix(".log.1"), self._file):
            if not path.exists():
                continue
            with path.open(encoding="utf-8", errors="replace") as file:
                for text in file:
                    if term not in text or group not in text or (line := _entry(text)) is None:
                        continue
                    if line["group"] == group and start <= line["at"] <= end:
                        found.append({"timestamp": line["at"], "message": line["text"], "logStreamName": OWN})
        return found[-limit:]


def plain(text: str) -> str:
    """Return text without control characters: the output of a handler must not control the terminal."""
    return text.translate(CONTROLS)


def short(id_: str) -> str:
    """Return the part of a task's id that is shown. The id of a tick ends with its time."""
    return id_[-SHORT:]


def _entry(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except ValueError:  # half a line, of a command that was killed
        return None
    return entry if isinstance(entry, dict) and {"group", "at", "text"} <= entry.keys() else None


def _document(text: str) -> dict[str, Any] | None:
    """Return a log line of the library as its fields; None for any other output."""
    if not text.startswith("{"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("message"), str) and "level" in line else None


def _shown(line: Mapping[str, Any]) -> Iterator[tuple[str | None, str, str | None]]:
    """Yield the task's id, the text and the colour of each line for people."""
    message, colour = line["message"], COLOURS.get(line["level"])
    id_ = line.get("task_id")
    tasks = line.get("tasks")
    if message == "tasks completed" and isinstance(tasks, list):
        for task in tasks:
            yield task.get("task_id"), f"completed in {task.get('ms')} ms{_attempt(task)}", GREEN
    elif "traceback" in line:
        yield id_, _own_frames(str(line["traceback"])), RED
    elif line.get("printed"):
        yield id_, message, None
    elif line.get("verdict") in WAITS:
        yield id_, f"{WAITS[line['verdict']]}  (joblane show {id_})", colour
    elif message.startswith("task ") and "outcome" in line:
        yield id_, _end(line), colour
    else:
        fields = " ".join(f"{name}={_plain(value)}" for name, value in line.items() if name not in HIDDEN)
        text = f"{message}  {fields}".rstrip()
        if line.get("exception"):
            text += f"\n{line['exception']}"
        yield id_, text, colour


def _end(line: Mapping[str, Any]) -> str:
    """Return the line for the end of a run that did not complete."""
    state = line["message"].removeprefix("task ")
    again = f", again in {line['again_in_seconds']} s" if "again_in_seconds" in line else ""
    ms = f" after {line['ms']} ms" if "ms" in line else ""
    why = line.get("error") or line.get("reason") or line.get("error_type") or ""
    kind = line.get("error_type") or ""
    cause = why if kind in str(why) else f"{kind}: {why}"
    outcome = "" if line["outcome"] == state else f" ({line['outcome']})"
    more = f"  (joblane show {line['task_id']})" if state == "archived" else ""
    return f"{state}{outcome}{ms}{_attempt(line)}{again}{': ' if cause else ''}{cause}{more}"


def _own_frames(traceback: str) -> str:
    """Return a traceback without the frames of the library, which called the handler."""
    kept, is_library = [], False
    for line in traceback.splitlines():
        if line.startswith('  File "'):
            is_library = line.startswith(LIBRARIES)
        elif not line.startswith("    "):
            is_library = False
        if not is_library:
            kept.append(line)
    return "\n".join(kept)


def _attempt(fields: Mapping[str, Any]) -> str:
    attempt = fields.get("attempt")
    return f", attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
