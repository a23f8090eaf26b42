"""The sentences on actions: on one task, on many, and in the audit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from joblane.inspector.durations import stamp
from joblane.inspector.sentences.counts import plural

if TYPE_CHECKING:
    from joblane.inspector.views import ActionResult, AuditEntry, BulkOutcome, BulkView

DELETED = "its payload, result and error are cleared"
SOON = {"scheduled": "runs once it is due", "held": "waits for a limit"}
"""State after an action → when the task runs; in any other state as soon as its lane has capacity."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*(Z|[+-]\d\d:\d\d)$")
STOPPING = "it is cancelled at its next ctx.check(), ctx.progress() or step, or when it returns"


def details_of(entry: AuditEntry) -> list[tuple[str, str]]:
    """The details of an entry of the audit as pairs of words; without those that say nothing.

    The rows before the action, which an undo restores, are not shown.
    """
    shown = {name: value for name, value in entry.details.items() if name != "before" or not isinstance(value, list)}
    pairs = [(name.replace("_", " "), _words(value)) for name, value in shown.items() if (name, value) != ("canary", 0)]
    return [
        (name, f"{words} a second" if name == "rate" and words.isdigit() else words) for name, words in pairs if words
    ]


def _words(value: object) -> str:
    """A value of JSON in words; empty for null, false, and a collection without anything in it."""
    if value is None or value is False:
        return ""
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, Mapping):
        pairs = [(str(name).replace("_", " "), _words(each)) for name, each in value.items()]
        return ", ".join(
            f"{words} {name}" if name == "at a time" else f"{name} {words}" for name, words in pairs if words
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_words, value)))
    if isinstance(value, str) and TIME.match(value):
        with suppress(ValueError):
            return stamp(datetime.fromisoformat(value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def result_of(acted: ActionResult) -> str:
    """The result of an action, to follow the id of the task."""
    if acted.action == "cancel" and acted.after == "active":
        return f"is asked to stop: {STOPPING}"
    if acted.action == "delete":
        return f"is {acted.after}; {DELETED}"
    if acted.before == acted.after or acted.before is None:
        return f"is {acted.after}"
    return f"was {acted.before}, is {acted.after}"


def soon(after: str) -> str:
    """When a task in this state runs, to follow its name."""
    return SOON.get(after, "runs as soon as its lane has capacity")


def effect_of(acted: ActionResult) -> str:
    """The consequences of an action for its task, and its note, as sentences; empty if its result says all."""
    when = "" if acted.note else soon(acted.after)
    effects = {
        "run": when and f"It {when}.",
        "retry": f"It has new attempts{when and f', and {when}'}.",
        "delete": "Its id is kept.",
        "skip": when and f"It {when}.",
        "signal": when and f"It {when}.",
        "edit": "It has the new payload.",
        "replay_with": "It has the new payload.",
    }
    return f"{effects.get(acted.action.replace('-', '_'), '')} {note_of(acted)}".strip()


def note_of(acted: ActionResult) -> str:
    """The note of a result as a sentence; empty without one."""
    return f"{acted.note[:1].upper()}{acted.note[1:].rstrip('.')}." if acted.note else ""


def report(view: BulkView) -> str:
    """The state of a bulk action, as sentences."""
    all_of_it = view.done == view.total > 1
    number = f"all {plural(view.total)}" if all_of_it else f"{view.done:,} of {plural(view.total)}"
    parts = [f"{number} {view.result}"]
    parts += [f"{view.skipped:,} skipped ({view.why_skipped})"] if view.skipped else []
    parts += [f"{view.failed:,} failed{' again' if view.action == 'redrive' else ''}"] if view.failed else []
    text = f"{view.action.capitalize()}: {', '.join(parts)}."
    if view.outcome is not None and view.done:
        text += f" {outcome_line(view.outcome)}"
    how = "Stopping" if view.shown_state == "stopping" else "Stopped"
    return f"{text} {how}: {view.stopped}" if view.stopped else text


def outcome_line(outcome: BulkOutcome) -> str:
    """``Now 2,101 completed, 286 wait, 0 archived again``: the states of the tasks that were sent."""
    numbers = [f"{outcome.completed:,} completed", f"{outcome.waiting:,} wait"]
    numbers += [f"{outcome.active:,} run"] if outcome.active else []
    numbers.append(f"{outcome.archived:,} archived again")
    numbers += [f"{outcome.cancelled:,} cancelled"] if outcome.cancelled else []
    return f"Now {', '.join(numbers)}{'' if outcome.exact else ', of the first 20,000'}."
