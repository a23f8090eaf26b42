"""The sentences of operators, each written once: what an action did, why something waits, what a number leaves out.

The command line, `joblane watch` and the page print them. Programs and tests compare the fields of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting, milliseconds, stamp
from joblane.inspector.filter import MOST_ERRORS, MOST_FAILED_RUNS

if TYPE_CHECKING:
    from joblane.inspector.views import (
        ActionResult,
        AuditEntry,
        Batching,
        BulkOutcome,
        BulkView,
        Cause,
        Causes,
        Chart,
        Check,
        Count,
        DeadLetters,
        Graph,
        LimitStatus,
        Mark,
        MarkedCauses,
        Node,
        Overview,
        Pause,
        Paused,
        Preview,
        RunCounts,
        SchedulePause,
        ScheduleRow,
        Trouble,
        TypeView,
    )
    from joblane.record.flow.limit_status import LimitChange, LimitValues

UNKNOWN_OPERATOR = "an unknown operator"
PAUSE_EFFECT = "running tasks continue, nothing new starts. Tasks wait without spending attempts"
MISSED_SHOWN = 6
"""Times of missed ticks; ``--json`` shows more."""
MISSED = {"latest": "the latest runs late", "skip": "they do not run"}
"""Policy for missed ticks → its words."""
DELETED = "its payload, result and error are cleared"
SOON = {"scheduled": "runs once it is due", "held": "waits for a limit"}
"""State after an action → when the task runs; in any other state as soon as its lane has capacity."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*(Z|[+-]\d\d:\d\d)$")
STOPPING = "it is cancelled at its next ctx.check(), ctx.progress() or step, or when it returns"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c, …``: the first names of a list. ``most``: their number."""
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


def plural(number: int, noun: str = "task") -> str:
    """``1 task``, ``1,200 tasks``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def waits(number: int, noun: str = "task") -> str:
    """``1 task waits``, ``1,200 tasks wait``."""
    return f"{plural(number, noun)} wait{'s' if number == 1 else ''}"


def counted(count: Count | Preview, noun: str = "task") -> str:
    """``at least 10,000 tasks``."""
    return ("" if count.exact else "at least ") + plural(count.number, noun)


def by(who: str | None) -> str:
    return f" by {who}" if who else ""


def because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def earlier_line(counts: RunCounts) -> str:
    """``A day earlier: 1,200 runs, 3.1 % failed, wait p95 1.4s, duration p95 2.0s.``"""
    if not counts.number:
        return "A day earlier: no run."
    parts = [plural(counts.number, "run"), f"{100 * counts.unsuccessful / counts.number:.1f} % failed"]
    for what, times in (("wait", counts.wait_ms), ("duration", counts.duration_ms)):
        parts += [f"{what} p95 {milliseconds(times.p95)}"] if times else []
    return f"A day earlier: {', '.join(parts)}."


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


# --- Actions on one task -------------------------------------------------------------------------------------------


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


# --- Bulk actions --------------------------------------------------------------------------------------------------


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


# --- Pauses --------------------------------------------------------------------------------------------------------


def pause_line(pause: Pause, without_end: str = "") -> str:
    """``queue low is paused by ann until …: the reason``. ``without_end``: words for a pause without an end."""
    until = f" until {stamp(pause.until)}" if pause.until else without_end and f" {without_end}"
    return f"{pause.scope} {pause.name} is paused{by(pause.by)}{until}{because(pause.reason)}"


def waiting_line(paused: Paused) -> str:
    """The same, with the number of due tasks that wait for its end."""
    return f"{pause_line(paused.pause)} ({waits(paused.waiting, 'due task')})"


def paused_line(paused: Pause) -> str:
    """A new pause: its end, its effect, and the pause that it replaces."""
    end = f"until {stamp(paused.until)}" if paused.until else "until it is resumed"
    line = f"Paused {paused.scope} {paused.name} {end}: {PAUSE_EFFECT}."
    if not paused.replaced:
        return line
    return (
        f"{line} It was already paused{by(paused.replaced_by)}, since {stamp(paused.since)}; "
        "your reason and end replace the earlier ones."
    )


def resumed_line(was: Pause) -> str:
    """A pause that was ended."""
    return f"Resumed {was.scope} {was.name}; it was paused{by(was.by)} since {stamp(was.since)}."


def held_pause_line(
    pause: Pause | SchedulePause, now: datetime, *, waiting: int = 0, oldest: float | None = None
) -> str:
    """A pause with its age, operator and reason, and the due tasks that wait for its end. ``oldest``: in seconds."""
    line = f"paused {lasting(now - pause.since)} ago by {pause.by or UNKNOWN_OPERATOR}{because(pause.reason)}"
    if not waiting or oldest is None:
        return line
    first = lasting(timedelta(seconds=oldest))
    return f"{line.rstrip('.')}. {waits(waiting, 'due task')} for its end, the oldest for {first}"


# --- Schedules -----------------------------------------------------------------------------------------------------


def missed_line(row: ScheduleRow) -> str:
    """The number of missed ticks, and the times of the latest."""
    times = ", ".join(f"{at.astimezone(UTC):%H:%M}Z" for at in row.missing_at[:MISSED_SHOWN])
    more = ", …" if row.missing > MISSED_SHOWN else ""
    return f"{row.name}: {row.missing:,} missed in 24 h: {times}{more}"


def schedule_pause_line(pause: SchedulePause) -> str:
    """``since …, until …, by ann: the reason``."""
    until = f", until {stamp(pause.until)}" if pause.until else ""
    by = f", by {pause.by}" if pause.by else ""
    return f"since {stamp(pause.since)}{until}{by}{because(pause.reason)}"


def paused_schedule_line(row: ScheduleRow) -> str:
    """A new pause of a schedule."""
    until = row.pause and row.pause.until
    return f"Paused {row.name}: it has no ticks until {stamp(until) if until else 'it is resumed'}."


def resumed_schedule_line(row: ScheduleRow) -> str:
    """A pause of a schedule that was ended."""
    at = f": its next tick is at {stamp(row.next_at)}" if row.next_at else ""
    return f"Resumed {row.name}{at}."


def deleted_schedule_line(row: ScheduleRow) -> str:
    """A schedule that was deleted."""
    return f"Deleted {row.name}: it has no ticks any more."


# --- Limits --------------------------------------------------------------------------------------------------------


def limit_name(limit: LimitStatus, kind: str | None = None) -> str:
    """``account:sync, key 7``. ``kind``: if it differs from the kind of the limit itself."""
    of_kind = {"each-key": f"{limit.name}, each key", "key": f"{limit.name}, key {limit.key}"}
    return of_kind.get(kind or limit.kind, limit.name)


def values_line(values: LimitValues) -> str:
    """``10 at a time and 500 a minute``."""
    from joblane.tasks.limit import values_text

    return values_text(values.at_a_time, values.rate)


def in_force_line(limits: Iterable[LimitStatus]) -> str:
    """The values that hold after a change."""
    values = (f"{limit_name(limit)}: {values_line(limit.in_force)}" for limit in limits)
    return f"In force now: {'; '.join(values)}."


def change_lines(limits: Iterable[LimitStatus]) -> list[str]:
    """The values that are set, who set them, until when and why, and the declared values. Each change once."""
    lines = []
    for limit in limits:
        if limit.change is None:
            continue
        change, declared = limit.change, "No task declares this limit any more"
        if limit.is_declared:
            declared = f"Declared: {values_line(limit.declared)}"
        until = f"until {stamp(change.until)}" if change.until else "until it is reset"
        values = values_line(change.values)
        which = limit_name(limit, change.kind)
        lines.append(f"{which}: {values} set{by(change.by)} {until}{because(change.reason)}. {declared}.")
    return list(dict.fromkeys(lines))


def set_line(
    change: LimitChange | None,
    declared: LimitValues | None,
    now: datetime,
    *,
    waiting: int,
    oldest: float | None,
    target: timedelta | None,
) -> str:
    """A value that an operator has set, or a declared 0, with the tasks that wait because of it.

    ``change`` None: only the declared value holds. ``declared`` None: no task declares the limit any more.
    ``oldest``: seconds since the first of the tasks was due. ``target``: the missed target; None: no target is missed.
    """
    if change is None:
        line = "the declared value is 0 at a time, so no task starts"
    else:
        until = f", until {stamp(change.until)}" if change.until else ""
        by = f"by {change.by or UNKNOWN_OPERATOR}{until}{because(change.reason)}"
        line = f"{values_line(change.values)} was set {lasting(now - change.since)} ago {by}".rstrip(".")
        line += ". No task declares this limit any more" if declared is None else f". Declared: {values_line(declared)}"
    if not waiting or oldest is None:
        return line
    missed = f"; the target is {lasting(target)}" if target is not None else ""
    return f"{line}. {waits(waiting)}, the oldest for {lasting(timedelta(seconds=oldest))}{missed}"


def allowed_line(limit: LimitStatus) -> str:
    """A limit with the tasks that run and wait."""
    name = limit.name if limit.key is None else f"{limit.name}, key {limit.key}"
    each = " for each key" if limit.kind == "each-key" else ""
    allowed = values_line(limit.in_force)
    return f"Limit {name}: {allowed}{each}. {limit.running:,} run, and {limit.held:,} wait."


# --- Dead letters --------------------------------------------------------------------------------------------------


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


# --- Batches of messages -------------------------------------------------------------------------------------------

NO_BATCH = {
    "place": "it belongs to the place of the type, and the messages of other types are in the same batches",
    "full": "its batches have the largest size",
    "resumable": "a resumable task has its function for itself",
    "limited": "jobs that wait in a batch would keep the slots of its limits",
    "lost": "some of its runs were lost, and a lost run loses its whole batch",
    "timeout": "the timeout of a larger batch would be too long",
    "waits": "the last job of a batch would wait longer than target_wait",
    "alone": "few of its messages wait at the same time, so a batch would hardly have more than one",
}
"""Obstacle of a larger batch → its words."""


def saving_line(found: Batching) -> str:
    """The saving of a larger batch, and the messages that it is expected to have."""
    seconds = f"{found.database_seconds_per_million:,.0f} s"
    return (
        f"batch_size={found.advised} would save about ${found.usd_a_month:,.2f} a month: "
        f"${found.usd_per_million:,.2f} and up to {seconds} of PostgreSQL's processor per million jobs, "
        f"{found.share:.0%} of the cost of their runs. From the waits of the last 7 days, an invocation would "
        f"have {found.messages:.1f} messages"
    )


def later_line(found: Batching) -> str:
    """The change of the waits by a larger batch."""
    later, latest = milliseconds(found.later_ms), milliseconds(found.latest_ms)
    return f"a job would start {later} later on average, and the last job of a full batch up to {latest} later"


def batching_line(found: Batching) -> str:
    """The saving of a larger batch with its change of the waits, or why none is advised."""
    if found.obstacle is None:
        return f"{saving_line(found)}; {later_line(found)}."
    little = f"a larger batch would save only {found.share:.1%} of the cost of its runs"
    return f"batch_size={found.batch_size} stays: {NO_BATCH.get(found.obstacle, little)}."


# --- Now -----------------------------------------------------------------------------------------------------------


def trouble_line(trouble: Trouble) -> str:
    """The first line of an overview: all is well, or the number of things that need an operator."""
    if not trouble.number:
        return "All is well: nothing needs you now."
    number = "1 thing needs you" if trouble.number == 1 else f"{trouble.number:,} things need you"
    bad = sum(check.grade == "bad" for check in trouble.needs)
    urgent = f"{bad:,} {'is' if bad == 1 else 'are'} urgent"
    return f"{number}, and {urgent}." if 0 < bad < trouble.number else f"{number}."


def need_line(check: Check) -> str:
    """A finding with its subject as one line."""
    return f"{check.what}: {check.found}"


def late_line(due: int, waited: str, target: str, tenant: str | None, its: tuple[int, int]) -> str:
    """Due tasks that wait too long, and a tenant with many of them. ``due`` 0: they have just started. ``its``: its
    number among the oldest, and the number of these."""
    if not due:
        return f"a task has been due for {waited}; the target is {target}"
    number = f"{plural(due)} {'is' if due == 1 else 'are'} due, the oldest for {waited}; the target is {target}"
    if tenant is None:
        return number
    return f"{number}. Tenant {tenant} has {its[0]:,} of {'them' if its[1] == due else f'the first {its[1]:,}'}"


def new_line(error: str, runs: int, version: str | None, age: timedelta, others: int) -> str:
    """A new error: ``new for 12 min, first in 3f2a1c0: 7 runs failed: KeyError: …``. ``others``: further new ones."""
    first = f", first in {version}" if version else ""
    more = f", and {plural(others, 'more new error')}" if others else ""
    return f"new for {lasting(age)}{first}: {plural(runs, 'run')} failed: {error}{more}"


def held_line(number: int, waited: str, target: str) -> str:
    """Tasks that wait for a declared limit for too long."""
    return f"{waits(number)} for a limit, the oldest for {waited}; the target is {target}"


# --- The stage -----------------------------------------------------------------------------------------------------


def live_line(overview: Overview) -> str | None:
    """The live tasks that are counted; None if all are."""
    half = overview.live.number // 2
    counts = f"Of the live tasks only the oldest {half:,} and the newest {half:,} are counted."
    return None if overview.live.exact else counts


def unknown_lines(overview: Overview) -> list[str]:
    """Name what the counts leave out: live tasks, queues that do not exist, queues that did not answer."""
    from joblane.inspector.views.stage import messages

    missing = [name for queue in overview.queues for name in (*queue.front_door.missing, *queue.depth.missing)]
    silent = [
        queue.queue
        for queue in overview.queues
        if None in (queue.depth.dead, queue.front_door.dead, messages(queue.front_door))
        and not (queue.depth.missing or queue.front_door.missing)
    ]
    lines = [line] if (line := live_line(overview)) else []
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        lines.append(f"SQS has no queue {names}: deploy with `joblane up` on this machine, `cdk deploy` on AWS.")
    if silent:
        lines.append(f"SQS did not answer for {', '.join(silent)}: the counts of its messages are incomplete.")
    return lines


def target_line(declared: TypeView) -> str:
    """The tasks of a type that may run at a time, and the time within which they should start."""
    most = declared.max_concurrency and declared.max_concurrency * declared.batch_size
    start = f"Its tasks should start within {lasting(timedelta(seconds=declared.target_wait_seconds))}"
    if declared.place is not None:
        together = f": up to {most:,} tasks of all of them run at a time in each lane" if most else ""
        return f"{start}. It runs on {runs_on(declared.place, declared.others)}{together}."
    return f"{start}, and up to {most:,} run at a time in each lane." if most else f"{start}."


def runs_on(place: str, others: int) -> str:
    """A place, and the number of other types there."""
    return f"{place}, with {others:,} other type{'' if others == 1 else 's'}" if others else f"{place}, alone"


# --- Errors --------------------------------------------------------------------------------------------------------


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


def mark_line(mark: Mark) -> str:
    """A mark of a chart, with its operator and its reason."""
    return f"{stamp(mark.at)} {mark.text}{by(mark.who)}{because(mark.reason)}"


def searched_line(number: int, back_to: datetime) -> str:
    """How far a search has read payloads."""
    return f"Searched the payloads of {plural(number)}, back to {stamp(back_to)}."


# --- Charts ----------------------------------------------------------------------------------------------------------


def chart_lines(chart: Chart) -> list[str]:
    """The time that a chart covers and compares with, and what it leaves out."""
    if chart.until is None:
        return ["The sweep has not counted runs yet."]
    lines = [f"The sweep has counted the runs up to {stamp(chart.until)}."]
    left_out = chart.groups - len(chart.lines)
    if left_out > 0 and chart.others is not None:
        lines.append(f"One line has {plural(left_out, 'smaller group')} together.")
    elif left_out > 0:
        lines.append(f"Not shown: {plural(left_out, 'group')} with a shorter mean.")
    if chart.before is not None:
        lines.append(f"Before: all runs of the time {lasting(timedelta(seconds=chart.before_seconds))} earlier.")
    return lines


# --- Graphs of workflows ----------------------------------------------------------------------------------------------

WAITS_FOR = {"parents": "tasks", "limit": "a limit", "signal": "a signal", "time": "a time"}
"""Kind of a wait → its words."""


def node_words(node: Node) -> str:
    """The state of a node of a graph, and what it waits for."""
    if node.is_batch:
        return "batch"
    return f"{node.state or 'removed'}{f', waits for {WAITS_FOR[node.waits]}' if node.waits in WAITS_FOR else ''}"


def node_name(node: Node) -> str:
    """``3 × data:export``, ``batch import-7``, ``data:export 01a2…``."""
    if node.is_batch:
        return f"batch {node.id}"
    if node.number > 1:
        return f"{'' if node.exact else 'at least '}{node.number:,} × {node.type or 'removed task'}"
    return f"{node.type or 'removed task'} {node.id}"


def graph_line(graph: Graph) -> str | None:
    """The sentence about nodes that are left out; None if there are none."""
    return None if graph.exact else f"The workflow is larger. Shown: {plural(len(graph.nodes), 'node')} near the task."
