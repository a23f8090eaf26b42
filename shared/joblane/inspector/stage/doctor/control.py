"""Checks of what operators have set: pauses, and values of limits instead of the declared ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from joblane.inspector.filter import PauseScope
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import plural
from joblane.inspector.sentences.limits import set_line
from joblane.inspector.sentences.pauses import held_pause_line
from joblane.inspector.shell import argument
from joblane.inspector.stage import schedules
from joblane.inspector.stage.glance import Glance
from joblane.inspector.views import Check, Grade, Pause, SchedulePause
from joblane.names import Queue
from joblane.record.pauses import EVERYTHING
from joblane.sweep.lowered_limits import Lowered, lowered

OLD_PAUSE = timedelta(days=1)
MOST_NAMED = 10
"""Limits that have a check each. One more check counts the others."""


def limits(scope: Scope) -> Iterator[Check]:
    """Values of operators below the declared ones, or for limits that no task declares, and limits of 0.

    Bad if tasks wait longer than the target of their type because of it, or if it is 0 and tasks wait.
    """
    yield from checks_of(scope, lowered(scope.connection))


def checks_of(scope: Scope, found: Iterable[Lowered]) -> Iterator[Check]:
    """The checks of lowered limits, bad ones first. One check counts those above :data:`MOST_NAMED`."""
    checks = sorted((_check(scope, each) for each in found), key=lambda check: check.grade is not Grade.BAD)
    yield from checks[:MOST_NAMED]
    if (more := len(checks) - MOST_NAMED) > 0:
        text = f"operators have lowered {plural(more, 'more limit')}"
        yield Check(Grade.WARNING, "limits", text, "`joblane limits` lists them", "/limits")


def _check(scope: Scope, limit: Lowered) -> Check:
    base, _, key = limit.name.partition("/")
    of_key, option = (f", key {key}", f" --key {argument(key)}") if key else ("", "")
    missed = limit.missed(scope.task)
    found = set_line(
        limit.change,
        limit.declared,
        limit.now,
        waiting=limit.number,
        oldest=limit.oldest,
        target=missed,
    )
    name = argument(base)
    if limit.change is None:
        do = f"`joblane limits set {name}{option} …` lets tasks start; or declare another value, and deploy"
    else:
        does = "removes it" if limit.declared is None else "returns to the declared values"
        do = f"`joblane limits reset {name}{option}` {does}"
    where = path("/limits/show", name=base, key=key)
    return Check(Grade.BAD if limit.keeps(missed) else Grade.WARNING, f"limit {base}{of_key}", found, do, where)


def pauses(scope: Glance) -> Iterator[Check]:
    """The pauses of queues, types and tenants with the tasks that wait for their ends, and of schedules of the code.

    A pause is a warning if it has lasted for a day without a set end, or if tasks wait longer than the target
    of their type because of it.
    """
    recorded = scope.recorded
    found: list[tuple[Pause | SchedulePause, Check]] = []
    for (kind, name), pause in recorded.pauses.items():
        waits = recorded.paused_waits.get((kind, name), {})
        is_late = any(scope.is_late(type_, seconds) for type_, seconds in waits.items())
        waiting = recorded.waiting[kind, name] if is_late else 0
        line = held_pause_line(pause, recorded.at, waiting=waiting, oldest=max(waits.values(), default=None))
        do = "" if not (is_late or _is_old(pause, recorded.at)) else _ends(f"resume {kind} {argument(name)}")
        found.append((pause, Check(_grade(do), f"{kind} {name}", line, do, _path(kind, name))))
    for name, of_schedule in schedules.paused_of_code(scope).items():
        do = _ends(f"schedules resume {argument(name)}") if _is_old(of_schedule, recorded.at) else ""
        line, where = held_pause_line(of_schedule, recorded.at), path("/schedules/show", name=name)
        found.append((of_schedule, Check(_grade(do), f"schedule {name}", line, do, where)))
    yield from (check for _, check in sorted(found, key=lambda each: each[0].since))
    endless = {(str(kind), name) for (kind, name), pause in recorded.pauses.items() if pause.until is None}
    if endless >= {("queue", str(queue)) for queue in Queue}:
        resume = ", ".join(f"`joblane resume {kind} {name}`" for kind, name in EVERYTHING if (kind, name) in endless)
        text = "every queue is paused, and no task starts until they are resumed"
        yield Check(Grade.WARNING, "pauses", text, f"check what will run, then {resume}", "/")


def _is_old(pause: Pause | SchedulePause, now: datetime) -> bool:
    return pause.until is None and now - pause.since > OLD_PAUSE


def _ends(resume: str) -> str:
    return f"if no longer needed, `joblane {resume}` ends it"


def _grade(do: str) -> Grade:
    return Grade.WARNING if do else Grade.GOOD


def _path(kind: str, name: str) -> str:
    """The view of the tasks that wait: of a type or a tenant its runs, of a queue its tasks."""
    return path("/tasks", queue=name) if kind == PauseScope.QUEUE else path("/runs", **{kind: name})
