"""The details of one task."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from rich.console import Console, RenderableType
from rich.text import Text

from joblane.cli import terminal
from joblane.cli.tables import listed
from joblane.cli.terminal import relative, word
from joblane.inspector.durations import stamp
from joblane.inspector.sentences.graph import node_name, node_words
from joblane.inspector.sentences.stage import runs_on
from joblane.inspector.shell import argument
from joblane.inspector.views import Attempt, Graph, TaskView
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
    "signal": "send a signal for which it waits",
    "skip": "end its wait now",
}
"""Action → its meaning, if the name of the action does not explain it."""
BAR_WIDTH = 30


def task(to: Console, view: TaskView, now: datetime, command: str) -> None:
    """All details of one task. ``command``: `joblane`, with the options for this stage."""
    task_row = view.row
    to.print(word(task_row.id, "bold"), word(task_row.type), word(task_row.state), sep="  ")
    until = view.why.until and stamp(view.why.until)
    to.print(word(view.why.text), *([word(f"({until})", "dim")] if until and until not in view.why.text else []))
    to.print()
    to.print(terminal.facts(_named(view, now).items()))
    if view.progress is not None:
        to.print(_progress(view))
    on_dead = f"if one is archived: {view.on_parent_dead}" if view.on_parent_dead else ""
    for title, relatives, note in (("Parents", view.parents, on_dead), ("Children", view.children, "")):
        if relatives.tasks:
            _section(to, f"{title} ({relatives.number}): {relatives.summary}", note)
            to.print(listed(relatives.tasks, to.width))
            if relatives.more:
                to.print(word("and more", "dim"))
    if view.steps:
        _section(to, "Steps", "done, and not done again by a retry")
        to.print(listed(view.steps, to.width))
    for title, rows in (("Waits", view.waits), ("Signals", view.signals)):
        if rows:
            _section(to, title)
            to.print(listed(rows, to.width))
    if view.attempts:
        _section(to, "Attempts")
        to.print(listed(_attempts(view), to.width))
    _failure(to, view)
    for title, value in (("Payload", view.payload), ("Result", view.result)):
        if value is not None:
            _section(to, title)
            _lines(to, terminal.pretty(value), MAX_PAYLOAD_LINES, "show all: --json")
    if view.audit:
        _section(to, "Audit")
        to.print(listed(view.audit, to.width, without=("No", "Target")))
    _next(to, view, command)


def _section(to: Console, title: str, note: str = "") -> None:
    to.print()
    to.print(word(title, "bold"), *([word(note, "dim")] if note else []))


def _named(view: TaskView, now: datetime) -> dict[str, RenderableType | None]:
    """Name → value. A name without a value is left out."""
    task_row = view.row

    def at(moment: datetime | None) -> str | None:
        return None if moment is None else f"{stamp(moment)}  {relative(moment, now)}"

    return {
        "queue": task_row.queue,
        "runs on": view.place and runs_on(view.place, view.others),
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


def _attempts(view: TaskView) -> list[Attempt]:
    """The runs. An error that stands above is not written again."""
    shown, before = [], ""
    for attempt in view.attempts:
        is_above = attempt.error and (attempt.error == before or attempt.error in view.why.text)
        shown.append(replace(attempt, error_type="as above", error_message=None) if is_above else attempt)
        before = attempt.error
    return shown


def _failure(to: Console, view: TaskView) -> None:
    failed = next((attempt for attempt in reversed(view.attempts) if attempt.traceback), None)
    if view.row.reason and view.row.state in ("archived", "cancelled") and view.row.reason not in view.why.text:
        _section(to, "Why it ended")
        to.print(word(view.row.reason))
    if failed is not None and failed.traceback and view.row.state != "completed":
        text, error = failed.traceback.rstrip(), failed.error
        is_above = bool(error) and error in view.why.text and text.endswith(error)
        _section(to, f"Traceback of run {failed.run}", "it ends with the error above" if is_above else "")
        frames = text.removesuffix(error).rpartition("\n")[0] if is_above else text
        if failed.raised_at is not None:
            to.print(word(failed.raised_at, "bold"), soft_wrap=True)
        _lines(to, frames, MAX_TRACEBACK_LINES, "show all: --json", last=True)


def _lines(to: Console, text: str, most: int, more: str, *, last: bool = False) -> None:
    """Print lines, with at most ``most`` lines: its first lines, or, for ``last``, its last."""
    lines = text.split("\n")
    left_out = len(lines) - most
    if left_out > 0:
        remark = f"… {left_out} more lines ({more})"
        lines = [remark, *lines[-most:]] if last else [*lines[:most], remark]
    for line in lines:
        to.print(word(line.expandtabs(), "none"), soft_wrap=True)


def _next(to: Console, view: TaskView, command: str) -> None:
    """Commands for the next steps, to paste."""
    id_ = argument(view.row.id)
    steps = [(f"{command} logs {id_}", "its log lines")] if view.attempts else []
    signal = next((argument(wait.signal) for wait in reversed(view.waits) if wait.signal is not None), "")
    after = {"signal": f" {signal} VALUE" + (" --replace" if view.row.state == "archived" else "")}
    steps += [
        (f"{command} {COMMANDS.get(action, action)} {id_}{after.get(action, '')}", MEANINGS.get(action, ""))
        for action in view.actions
    ]
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


def tree(graph: Graph) -> Text:
    """The workflow of a task, a line for each node, indented under the nodes before it."""
    lines = []
    for depth, node, again in graph.tree():
        line = Text("  " * depth).append(node_name(node), "bold" if node.key == graph.key else "")
        line = line.append("  ").append_text(word(node_words(node), "dim"))
        lines.append(line.append("  see above", "dim") if again else line)
    return Text("\n").join(lines)
