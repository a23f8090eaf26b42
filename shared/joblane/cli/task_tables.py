"""Tables of tasks: a listing, and the details of one task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, RenderableType
from rich.table import Table

from joblane.cli import terminal
from joblane.cli.durations import milliseconds, relative, short
from joblane.cli.terminal import BETWEEN, WIDE, row, table, word
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
    """A page of tasks, with more columns on a wide terminal."""
    wide = width >= WIDE
    tenants = wide and any(task_row.tenant for task_row in rows)
    titles = ["ID", "TYPE", "STATE", *(["QUEUE"] if wide else []), "AGE", "TRY", *(["TENANT"] if tenants else [])]
    titles += ["WHEN"] if wide else []
    lines = []
    for task_row in rows:
        age = short((now - task_row.created_at).total_seconds())
        cells = [task_row.id, task_row.type, task_row.state, *([task_row.queue] if wide else []), age, tries(task_row)]
        lines.append([*cells, *([task_row.tenant] if tenants else []), *([when(task_row, now)] if wide else [])])
    last = ("ERROR",) if wide else ()
    made = table(*titles, *last, right=("AGE", "TRY"), fold=(*folded(titles, lines, width), *last))
    for task_row, line in zip(rows, lines, strict=True):
        row(made, *line, *((terminal.line(last_error(task_row)),) if wide else ()))
    return made


def folded(titles: Sequence[str], lines: Sequence[Sequence[str | None]], width: int) -> tuple[str, ...]:
    """The column of ids, if the columns do not fit into the width: an id is folded, as a cut id is of no use."""
    widths = [max(len(cell or "") for cell in column) + BETWEEN for column in zip(titles, *lines, strict=True)]
    return ("ID",) if sum(widths) > width else ()


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
    for name, value in _named(view, now):
        if value:
            row(made, word(name, "dim"), value)
    return made


def _named(view: TaskView, now: datetime) -> Iterator[tuple[str, str | None]]:
    task_row = view.row

    def at(moment: datetime | None) -> str | None:
        return None if moment is None else f"{stamp(moment)}  {relative(moment, now)}"

    yield "queue", task_row.queue
    yield "tenant", task_row.tenant
    yield "owner", view.owner
    yield "tags", ", ".join(task_row.tags)
    yield (
        "attempts",
        f"{task_row.attempts} of {task_row.max_retry + 1}" + (f", {view.runs} runs" if view.runs > 1 else ""),
    )
    yield "redrives", str(view.generation) if view.generation else None
    yield "created", at(task_row.created_at)
    yield "due", at(task_row.due_at) if task_row.state in WAITING else None
    yield "leased until", at(view.lease_until)
    yield "cancel requested", at(view.cancel_requested_at)
    yield "deadline", at(view.deadline)
    yield "ended", at(task_row.finished_at)
    yield "dead letter", at(view.dead_sent_at)
    yield "kept until", at(view.expire_at)
    yield "unique key", view.unique_key
    yield "options", json.dumps(view.options) if view.options else None
    yield "headers", ", ".join(f"{name}={value}" for name, value in view.headers.items())
    yield "items done", str(view.items_done) if view.items_done else None
    yield "batch", view.batch and (f"{view.batch}, {view.callback} callback" if view.callback else view.batch)
    yield "enqueued by", view.enqueued_by
    yield "replay of", view.replay_of
    yield "replayed as", ", ".join(view.replays)
    yield "payload", "cleared: its retention has passed, or it was deleted" if view.payload is None else None


def _relatives(relatives: Relatives) -> Table:
    made = table("ID", "TYPE", "STATE", fold=("ID",))
    for one in relatives.tasks:
        row(made, one.id, one.type or "", one.state or "removed")
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
    wide = width >= WIDE
    made = table("NAME", "DONE", "BYTES", *(("KEY",) if wide else ()), right=("BYTES",), fold=("NAME",))
    for step in steps:
        row(made, step.name, stamp(step.done_at), f"{step.bytes:,}", *((step.key,) if wide else ()))
    return made


def _attempts(view: TaskView, now: datetime, width: int) -> Table:
    """A row for each run. An error that stands above it is not written again."""
    attempts, wide, before = view.attempts, width >= WIDE, ""
    more = (("WAITED",), ("MEMORY", "COST*")) if wide else ((), ())
    titles = ("RUN", "TRY", "STARTED", *more[0], "TOOK", "OUTCOME", *more[1], "ERROR")
    made = table(*titles, right=("RUN", "TRY", "WAITED", "TOOK", "MEMORY", "COST*"), fold=("ERROR",))
    for attempt in attempts:
        took = (
            milliseconds(attempt.duration_ms)
            if attempt.finished_at
            else f"{short((now - attempt.started_at).total_seconds())}…"
        )
        waited = (milliseconds(attempt.wait_ms),) if wide else ()
        used = (attempt.memory_mb and f"{attempt.memory_mb} MB", dollars(attempt.cost_usd)) if wide else ()
        error = _error(attempt)
        before, error = error, "as above" if error and (error == before or error in view.why.text) else error
        outcome, started = attempt.outcome or "active", stamp(attempt.started_at)
        row(made, attempt.run, attempt.attempt, started, *waited, took, outcome, *used, error)
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
    wide = width >= WIDE
    titles = (*(("NO",) if targets else ()), "WHEN", "WHO", "ACTION", *(("TARGET",) if targets else ()), "REASON")
    made = table(*titles, right=("NO",), fold=("WHO", "TARGET", "REASON"))
    for entry in entries:
        at = stamp(entry.at) if wide else relative(entry.at, now)
        before, after = ((entry.number,), (entry.target,)) if targets else ((), ())
        row(made, *before, at, entry.who, entry.action, *after, entry.reason or "")
    return made


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
