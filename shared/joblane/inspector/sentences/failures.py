"""The sentences on errors: causes, their marks, dead letters, and the numbers that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from joblane.inspector.durations import stamp
from joblane.inspector.filter import MOST_ERRORS, MOST_FAILED_RUNS
from joblane.inspector.sentences.counts import plural

if TYPE_CHECKING:
    from joblane.inspector.views import Cause, Causes, DeadLetters, MarkedCauses


def obsolete_line(obsolete: Mapping[str, int]) -> str:
    """The number of obsolete dead letters, and why they are."""
    number = sum(obsolete.values())
    are = "is obsolete: its task was" if number == 1 else "are obsolete: their tasks were"
    return f"{plural(number, 'dead letter')} {are} retried or deleted."


def unread_line(found: DeadLetters) -> str:
    """The number of dead letters that were not read, and why."""
    were = "was" if found.unread == 1 else "were"
    return (
        f"{plural(found.unread, 'more dead letter')} of any type or tenant {were} not read: "
        "only a part of each queue is read, and SQS's counts are approximate."
    )


def cause_line(cause: Cause) -> str:
    """A cause with its numbers: ``804 runs failed, 166 tasks in retry, 6 archived: ConnectionError: …``."""
    parts = [f"{plural(cause.runs, 'run')} failed"] if cause.runs else []
    parts += [f"{plural(cause.retry)} in retry"] if cause.retry else []
    parts += [f"{cause.archived:,} archived"] if cause.archived else []
    return f"{', '.join(parts)}: {cause.described}"


def error_lines(found: Causes) -> list[str]:
    """The first errors of a type or a tenant."""
    more = found.number - len(found.causes[:MOST_ERRORS])
    lines = list(map(cause_line, found.causes[:MOST_ERRORS]))
    return [*lines, *([f"{plural(more, 'more error')}: joblane errors"] if more else [])]


MARKED = {
    "known": "known: listed below the others until resolved or opened",
    "resolved": "resolved: new again once a run that starts later fails",
    "ignored": "ignored: listed only with archived tasks, until opened",
    "open": "open",
}
"""State of a cause that an operator has set → its words."""


def marked_line(marked: MarkedCauses) -> str:
    """The causes that an operator has marked, and what follows."""
    number = len(marked.before)
    return f"{plural(number, 'error')} {'is' if number == 1 else 'are'} now {MARKED[marked.state]}."


def left_out_lines(found: Causes) -> list[str]:
    """The causes that a list of errors leaves out, and the failed runs that it does not count."""
    lines = []
    if found.number > len(found.causes):
        lines.append(f"The first {len(found.causes):,} of {plural(found.number, 'error')} are listed.")
    if found.ignored:
        are = "is" if found.ignored == 1 else "are"
        lines.append(f"{plural(found.ignored, 'ignored error')} {are} not listed.")
    if found.runs >= MOST_FAILED_RUNS:
        lines.append(f"Only the latest {plural(found.runs, 'failed run')} are counted.")
    return lines


def searched_line(number: int, back_to: datetime) -> str:
    """How far a search has read payloads."""
    return f"Searched the payloads of {plural(number)}, back to {stamp(back_to)}."
