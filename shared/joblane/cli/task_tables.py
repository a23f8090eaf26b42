"""Tables of tasks: a listing, and the details of one task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console, RenderableType
from rich.table import Table

from joblane.cli import terminal
from joblane.cli.terminal import BETWEEN, WIDE, filled, milliseconds, relative, row, short, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.shell import argument
from joblane.inspector.views import Attempt, AuditEntry, Relatives, Step, TaskRow, TaskView
from joblane.record.row.states import WAITING

MAX_PAYLOAD_LINES = 60
"""Lines of a payload or result; ``--json`` shows all."""
MAX_TRACEBACK_LINES = 30
COMMANDS = {"replay_with": "replay --json @payload.json"}
"""Action → its command, if that differs from the action's name."""
MEANINGS = {
    "run": "run it now",
    "retry": "run it again, with new attempts",
    "edit": "change its payload",
    "replay": "enqueue a new task like it",
    "replay_with": "the same with another payload",
    "delete": "clear its content",
}
"""Action → its meaning, if the name of the action does not explain it."""
BAR_WIDTH = 30


def tasks(rows: Sequence[TaskRow], now: datetime, width: int) -> Table:
    """A page of tasks, at least one, with more columns on a wide terminal."""
    wide = width >= WIDE
    tenants = wide and any(task_row.tenant for task_row in rows)
    return with_ids(
        [
            {
                "ID": task_row.id,
                "TYPE": task_row.type,
                "STATE": task_row.state,
                **({"QUEUE": task_row.queue} if wide else {}),
                "AGE": short((now - task_row.created_at).total_seconds()),
                "TRY": tries(task_row),
                **({"TENANT": task_row.tenant} if tenants else {}),
                **({"WHEN": when(task_row, now), "ERROR": terminal.line(last_error(task_row))} if wide else {}),
            }
            for task_row in rows
        ],
        width,
        right=("AGE", "TRY"),
    )


def with_ids(rows: Sequence[Mapping[str, object]], width: int, *, right: Sequence[str] = ()) -> Table:
    """A table of rows (title → cell). If the columns do not fit, an id is folded, as a cut id is of no use.

    A column ERROR gets the rest of the width.
    """
    columns = {title: (title, *(str(each[title] or "") for each in rows)) for title in rows[0] if title != "ERROR"}
    needed = sum(max(map(len, cells)) + BETWEEN for cells in columns.values())
    return filled(rows, right=right, fold=("ID", "ERROR") if needed > width else ("ERROR",))


def tries(task_row: TaskRow) -> str:
    return f"{task_row.attempts}/{task_row.max_retry + 1}"


def when(task_row: TaskRow, now: datetime) -> str:
    """The time at which it is due, or ended."""
    if task_row.finished_at is not None:
        return relative(task_row.finished_at, now)
    return f"due {relative(task_row.due_at, now)}" if task_row.state in WAITING and task_row.due_at > now else ""


def last_error(task_row: TaskRow) -> str:
    """The last error, on a single line."""
    if task_row.error_type is None:
        return (task_row.reason or "").split("\n")[0]
    message = (task_row.error_message or "").split("\n")[0]
    return f"{task_row.error_type}: {message}" if message else task_row.error_type


def task(to: Console, view: TaskView, now: datetime, command: str) -> None:
    """All details of one task. ``command``: `joblane`, with the options for this stage."""
    task_row = view.row
    to.print(word(task_row.id, "bold"), word(task_row.type), word(task_row.state), sep="  ")
    until = view.why.until and stamp(view.why.until)
    to.print(word(view.why.text), *([word(f"({until})", "dim")] if until and until not in view.why.text else []))
    to.print()
    to.print(_facts(view, now))
    if view.progress is not None:
        to.print(_progress(view))
    on_dead = f"if one is archived: {view.on_parent_dead}" if view.on_parent_dead else ""
    for title, relatives, note in (("Parents", view.parents, on_dead), ("Children", view.children, "")):
        if relatives.tasks:
            _section(to, f"{title} ({relatives.number}): {relatives.summary}", note)
            to.print(_relatives(relatives))
    if view.steps:
        _section(to, "Steps", "done, and not done again by a retry")
        to.print(_steps(view.steps, to.width))
    if view.attempts:
        _section(to, "Attempts")
        to.print(_attempts(view, now, to.width))
    _failure(to, view)
    for title, value in (("Payload", view.payload), ("Result", view.result)):
        if value is not None:
            _section(to, title)
            _lines(to, terminal.pretty(value), MAX_PAYLOAD_LINES, "show all: --json")
    if view.audit:
        _section(to, "Audit")
        to.print(audit(view.audit, now, to.width, targets=False))
    _next(to, view, command)


def _section(to: Console, title: str, note: str = "") -> None:
    to.print()
    to.print(word(title, "bold"), *([word(note, "dim")] if note else []))


def _facts(view: TaskView, now: datetime) -> Table:
    made = table("", "", fold=("",))
    made.show_header = False
    for name, value in _named(view, now).items():
        if value:
            row(made, word(name, "dim"), value)
    return made


def _named(view: TaskView, now: datetime) -> dict[str, str | None]:
    task_row = view.row

    def at(moment: datetime | None) -> str | None:
        return None if moment is None else f"{stamp(moment)}  {relative(moment, now)}"

    return {
        "queue": task_row.queue,
        "tenant": task_row.tenant,
        "owner": view.owner,
        "tags": ", ".join(task_row.tags),
        "attempts": f"{task_row.attempts} of {task_row.max_retry + 1}{f', {view.runs} runs' if view.runs > 1 else ''}",
        "redrives": str(view.generation) if view.generation else None,
        "created": at(task_row.created_at),
        "due": at(task_row.due_at) if task_row.state in WAITING else None,
        "leased until": at(view.lease_until),
        "cancel requested": at(view.cancel_requested_at),
        "deadline": at(view.deadline),
        "ended": at(task_row.finished_at),
        "dead letter": at(view.dead_sent_at),
        "kept until": at(view.expire_at),
        "unique key": view.unique_key,
        "options": json.dumps(view.options) if view.options else None,
        "headers": ", ".join(f"{name}={value}" for name, value in view.headers.items()),
        "items done": str(view.items_done) if view.items_done else None,
        "batch": view.batch and (f"{view.batch}, {view.callback} callback" if view.callback else view.batch),
        "enqueued by": view.enqueued_by,
        "replay of": view.replay_of,
        "replayed as": ", ".join(view.replays),
        "payload": "cleared: its retention has passed, or it was deleted" if view.payload is None else None,
    }


def _relatives(relatives: Relatives) -> Table:
    rows = [{"ID": one.id, "TYPE": one.type or "", "STATE": one.state or "removed"} for one in relatives.tasks]
    made = filled(rows, fold=("ID",))
    if relatives.more:
        made.caption, made.caption_justify, made.caption_style = "and more", "left", "dim"
    return made


def _progress(view: TaskView) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    reported = view.progress
    assert reported is not None
    line = Table.grid(padding=(0, 1))
    share = f"{reported.done / reported.total:.0%}" if reported.total else ""
    counts = f"{reported.done:,} of {reported.total:,}" if reported.total else f"{reported.done:,}"
    bar = ProgressBar(total=reported.total, completed=reported.done, width=BAR_WIDTH) if reported.total else word("")
    line.add_row(bar, word(share), word(counts), word(reported.note or "", "dim"))
    return line


def _steps(steps: Sequence[Step], width: int) -> Table:
    """A row for each step that is done."""
    rows = [
        {
            "NAME": step.name,
            "DONE": stamp(step.done_at),
            "BYTES": f"{step.bytes:,}",
            **({"KEY": step.key} if width >= WIDE else {}),
        }
        for step in steps
    ]
    return filled(rows, right=("BYTES",), fold=("NAME",))


def _attempts(view: TaskView, now: datetime, width: int) -> Table:
    """A row for each run. An error that stands above it is not written again."""
    attempts, wide = view.attempts, width >= WIDE
    errors = [_error(attempt) for attempt in attempts]
    rows: list[dict[str, object]] = []
    for attempt, error, before in zip(attempts, errors, ["", *errors], strict=False):
        since = f"{short((now - attempt.started_at).total_seconds())}…"
        memory = attempt.memory_mb and f"{attempt.memory_mb} MB"
        rows.append(
            {
                "RUN": attempt.run,
                "TRY": attempt.attempt,
                "STARTED": stamp(attempt.started_at),
                **({"WAITED": milliseconds(attempt.wait_ms)} if wide else {}),
                "TOOK": milliseconds(attempt.duration_ms) if attempt.finished_at else since,
                "OUTCOME": attempt.outcome or "active",
                **({"MEMORY": memory, "COST*": dollars(attempt.cost_usd)} if wide else {}),
                "ERROR": "as above" if error and (error == before or error in view.why.text) else error,
            }
        )
    made = filled(rows, right=("RUN", "TRY", "WAITED", "TOOK", "MEMORY", "COST*"), fold=("ERROR",))
    if wide and any(attempt.cost_usd is not None for attempt in attempts):
        made.caption, made.caption_justify, made.caption_style = "* an estimate", "left", "dim"
    return made


def _error(attempt: Attempt) -> str:
    """``TimeoutError: the upload did not end``; empty without an error."""
    return f"{attempt.error_type}: {attempt.error_message or ''}".rstrip(": ") if attempt.error_type else ""


def dollars(value: float | None) -> str | None:
    """An estimate in dollars, with at least two significant digits."""
    if value is None:
        return None
    digits = 2 if value >= 1 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"${value:,.{digits}f}"


def _failure(to: Console, view: TaskView) -> None:
    failed = next((attempt for attempt in reversed(view.attempts) if attempt.traceback), None)
    if view.row.reason and view.row.state in ("archived", "cancelled") and view.row.reason not in view.why.text:
        _section(to, "Why it ended")
        to.print(word(view.row.reason))
    if failed is not None and failed.traceback and view.row.state != "completed":
        text, error = failed.traceback.rstrip(), _error(failed)
        is_above = bool(error) and error in view.why.text and text.endswith(error)
        _section(to, f"Traceback of run {failed.run}", "it ends with the error above" if is_above else "")
        frames = text.removesuffix(error).rpartition("\n")[0] if is_above else text
        _lines(to, frames, MAX_TRACEBACK_LINES, "show all: --json", last=True)


def _lines(to: Console, text: str, most: int, more: str, *, last: bool = False) -> None:
    """Print a text, with at most ``most`` lines: its first lines, or, for ``last``, its last."""
    lines = text.split("\n")
    left_out = len(lines) - most
    if left_out > 0:
        remark = f"… {left_out} more lines ({more})"
        lines = [remark, *lines[-most:]] if last else [*lines[:most], remark]
    for line in lines:
        to.print(word(line.expandtabs(), "none"), soft_wrap=True)


def audit(entries: Sequence[AuditEntry], now: datetime, width: int, *, targets: bool = True) -> Table:
    """Actions of operators. ``targets``: with their numbers and targets."""
    rows = [
        {
            **({"NO": entry.number} if targets else {}),
            "WHEN": stamp(entry.at) if width >= WIDE else relative(entry.at, now),
            "WHO": entry.who,
            "ACTION": entry.action,
            **({"TARGET": entry.target} if targets else {}),
            "REASON": entry.reason or "",
        }
        for entry in entries
    ]
    return filled(rows, right=("NO",), fold=("WHO", "TARGET", "REASON"))


def _next(to: Console, view: TaskView, command: str) -> None:
    """Commands for the next steps, to paste."""
    id_ = argument(view.row.id)
    steps = [(f"{command} logs {id_}", "its log lines")] if view.attempts else []
    steps += [(f"{command} {COMMANDS.get(action, action)} {id_}", MEANINGS.get(action, "")) for action in view.actions]
    if view.children.more:
        steps.append((f"{command} ls --parent {id_}", "all its children"))
    if view.row.fingerprint and view.row.state == "archived":
        steps.append((f"{command} dead", "other tasks with the same error"))
    if view.log_link is not None:
        _section(to, "Log on AWS")
        to.print(word(view.log_link), soft_wrap=True)
    if steps:
        _section(to, "Next steps")
        terminal.steps(to, steps)
