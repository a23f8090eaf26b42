"""The actions of `joblane watch`: what each does, in words for its confirmation, and the operation that it calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joblane.cli.terminal import relative
from joblane.cli.watch.dialogs import Field, required
from joblane.cli.watch.lists import RowTarget
from joblane.inspector.durations import duration, stamp
from joblane.inspector.filter import DEFAULT_CANARY, DEFAULT_RATE, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.actions import note_of, report, result_of
from joblane.inspector.sentences.blocks import block_line, canary_stopped_line
from joblane.inspector.sentences.counts import plural
from joblane.inspector.sentences.failures import MARKED, marked_line
from joblane.inspector.sentences.pauses import (
    PAUSE_EFFECT,
    pause_line,
    paused_line,
    paused_schedule_line,
    resumed_line,
    resumed_schedule_line,
    schedule_pause_line,
)
from joblane.inspector.views import (
    ActionResult,
    BulkView,
    Cause,
    CauseState,
    Pause,
    Preview,
    ScheduleRow,
    TaskRow,
    TaskView,
)
from joblane.record.row.states import ENDED, WAITING, State

REASON = Field("reason", "Reason, for the audit (optional)")
REQUIRED_REASON = Field("reason", "Reason, for other operators", required)


def _optional_duration(text: str) -> None:
    if text.strip():
        duration(text.strip())


def _optional_json(text: str) -> None:
    try:
        json.loads(text or "null")
    except (ValueError, RecursionError):
        raise ValueError("JSON is required: a string is in quotes.") from None


VALUE = Field("value", "Value as JSON (empty: null)", _optional_json)
LENGTH = Field("for", "For how long (90s, 2h, 3d; empty: until it is resumed)", _optional_duration)


@dataclass(frozen=True)
class Plan:
    """An action. ``text``: what will happen. ``confirm``: the meaning of Enter. ``call`` takes the fields' values.

    ``result``: its answer, in sentences.
    """

    title: str
    text: str
    fields: Sequence[Field]
    confirm: str
    call: Callable[[Inspector, dict[str, str]], Any]
    result: Callable[[Any], str]


def pauses(target: RowTarget) -> Callable[[Sequence[Pause]], list[Plan]]:
    """Return a function that returns a plan for each thing that can be paused, from the current pauses."""

    def plans(current: Sequence[Pause]) -> list[Plan]:
        found = {(pause.scope, pause.name): pause for pause in current}
        of_schedule = [] if target.schedule is None else [_of_schedule(target.schedule)]
        return of_schedule + [
            _resume(found[scope, name]) if (scope, name) in found else _pause(scope, name)
            for scope, name in target.scopes
        ]

    return plans


def _pause(scope: PauseScope, name: str) -> Plan:
    def call(inspector: Inspector, given: dict[str, str]) -> Pause:
        return inspector.pause(scope, name, reason=given["reason"], until=_end(given))

    title, text = f"Pause {scope} {name}", f"{PAUSE_EFFECT[0].upper()}{PAUSE_EFFECT[1:]}."
    return Plan(title, text, (REQUIRED_REASON, LENGTH), "next, then pause", call, paused_line)


def _end(given: dict[str, str]) -> datetime | None:
    return datetime.now(UTC) + duration(given["for"]) if given["for"] else None


def _of_schedule(row: ScheduleRow) -> Plan:
    """The plan that pauses or resumes a schedule."""
    if row.pause is None:
        return Plan(
            f"Pause schedule {row.name}",
            "It has no ticks.",
            (REQUIRED_REASON, LENGTH),
            "next, then pause",
            lambda inspector, given: inspector.pause_schedule(row.name, reason=given["reason"], until=_end(given)),
            lambda view: paused_schedule_line(view.row),
        )
    return Plan(
        f"Resume schedule {row.name}",
        f"It is paused {schedule_pause_line(row.pause)}.",
        (REASON,),
        "resume",
        lambda inspector, given: inspector.resume_schedule(row.name, reason=given["reason"] or None),
        lambda view: resumed_schedule_line(view.row),
    )


def _resume(pause: Pause) -> Plan:
    def call(inspector: Inspector, given: dict[str, str]) -> Pause:
        return inspector.resume(pause.scope, pause.name, reason=given["reason"] or None)

    line = pause_line(pause)
    text = f"{line[0].upper()}{line[1:]}. What waits because of it runs again."
    return Plan(f"Resume {pause.scope} {pause.name}", text, (REASON,), "resume", call, resumed_line)


def again(target: RowTarget | None, now: datetime) -> Plan | str:
    """The plan that runs a task again, or a sentence that says why there is none."""
    row = None if target is None else target.task
    if row is None:
        return "r works on a task or a cause. Enter lists the tasks of this row."
    if row.state in (State.ARCHIVED, State.CANCELLED):
        return _of_task("retry", row, f"after {row.tries} attempts. It runs again, with new attempts.")
    if row.state in WAITING:
        due = f", due {relative(row.due_at, now)}" if row.due_at > now else ""
        return _of_task("run", row, f"waiting{due}. It runs now instead, and its attempts stay as they are.")
    return f"This task is {row.state}: only archived, cancelled and waiting tasks can run again."


def _of_task(action: str, row: TaskRow, text: str) -> Plan:
    def call(inspector: Inspector, given: dict[str, str]) -> Any:
        return getattr(inspector, action)(row.id, reason=given["reason"] or None)

    error = f"\n{row.last_error}" if row.error_type else ""
    return Plan(
        f"{action.capitalize()} {row.id}",
        f"{row.type}, {row.state}, {text}{error}",
        (REASON,),
        action,
        call,
        _acted,
    )


def of_wait(view: TaskView) -> list[Plan]:
    """The plans that continue a task that waits; none if it does not wait for a time or a signal."""
    id_ = view.row.id
    wait = next((each for each in view.waits if each.state == "open"), None)
    if wait is None or wait.until is None:
        return []

    def end(inspector: Inspector, given: dict[str, str]) -> Any:
        return inspector.skip(id_, reason=given["reason"] or None)

    def send(inspector: Inspector, given: dict[str, str]) -> Any:
        assert wait.signal is not None
        return inspector.signal(id_, wait.signal, json.loads(given["value"] or "null"), reason=given["reason"] or None)

    until = f"It waits until {stamp(wait.until)}."
    plans = [Plan(f"End the wait of {id_}", until, (REASON,), "end the wait", end, _acted)]
    if wait.signal is not None:
        plans.append(Plan(f"Send {wait.signal} to {id_}", until, (VALUE, REASON), "next, then send", send, _acted))
    return plans


def _acted(acted: ActionResult) -> str:
    return f"{acted.id} {result_of(acted)}. {note_of(acted)}".rstrip()


def preview(inspector: Inspector, cause: Cause) -> Preview:
    """The preview of a redrive of a cause."""
    chosen, canary = _redriven(cause)
    return inspector.preview("redrive", chosen, canary=canary)


def _redriven(cause: Cause) -> tuple[Filter, int]:
    """The tasks of a cause, and the canary of their redrive."""
    canary = DEFAULT_CANARY if cause.archived > DEFAULT_CANARY else 0
    return Filter(fingerprint=cause.fingerprint, types=(cause.type,)), canary


def redrive(cause: Cause, found: Preview) -> Plan:
    """The plan that runs the tasks of a cause again. ``found``: what will keep them from starting."""
    chosen, canary = _redriven(cause)

    def call(inspector: Inspector, given: dict[str, str]) -> Any:
        return inspector.redrive(chosen, canary=canary, rate=DEFAULT_RATE, reason=given["reason"] or None)

    what = plural(cause.archived)
    first = f"The first {canary} run as a canary, and the rest only if all of them complete. " if canary else ""
    text = f"{cause.described}\n\n{first}At most {DEFAULT_RATE} a second are sent again, each with new attempts."
    text += "".join(f"\n{block_line(block)}" for block in found.blocks)
    if found.canary_stopped:
        text += f"\nIt will be refused. The canary: {canary_stopped_line(found.canary_stopped)}."
    return Plan(f"Redrive {what} of {cause.type}", text, (REASON,), f"redrive {what}", call, report)


def marks(cause: Cause) -> list[Plan]:
    """The plans that mark a cause as known, resolved, ignored or open."""

    def plan(state: CauseState, meaning: str) -> Plan:
        def call(inspector: Inspector, given: dict[str, str]) -> Any:
            return inspector.mark_errors((cause.fingerprint,), state, reason=given["reason"] or None)

        reason = REASON if state is CauseState.OPEN else REQUIRED_REASON
        title = f"Mark {cause.error_type} of {cause.type} as {state}"
        return Plan(title, f"{cause.described}\n\n{meaning}", (reason,), f"mark it as {state}", call, marked_line)

    wanted = [state for state in MARKED if state != cause.state and (state != "open" or cause.note)]
    return [plan(CauseState(state), f"It is then {MARKED[state]}.") for state in wanted]


def is_over(bulk: BulkView) -> bool:
    """True if a redrive has ended, and none of the tasks that it has sent waits or runs."""
    return bulk.state in ENDED and not (bulk.outcome and (bulk.outcome.waiting or bulk.outcome.active))


def first_sentence(text: str) -> str:
    """The first sentence of an error, without its full stop."""
    return text.partition("\n")[0].partition(". ")[0].rstrip(".")
