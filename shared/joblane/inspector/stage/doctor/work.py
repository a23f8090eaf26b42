"""The checks of the work that the doctor and the start page share: bulk actions whose tasks are archived again, types
that fail with their errors, new errors, and types whose tasks wait for too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from joblane.inspector.bulk import start
from joblane.inspector.durations import lasting
from joblane.inspector.filter import BULK_TYPE, PauseScope
from joblane.inspector.paths import path
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.actions import report
from joblane.inspector.sentences.counts import because
from joblane.inspector.sentences.trouble import late_line, new_line
from joblane.inspector.shell import argument
from joblane.inspector.stage.glance import MINUTES, Glance
from joblane.inspector.tasks.filter_sql import NOW, reading
from joblane.inspector.views import Check, Grade
from joblane.inspector.views.now import BAD_SHARE, LEAST_RUNS, WARNING_SHARE
from joblane.record.causes import shown
from joblane.record.row.states import LIVE
from joblane.sweep.causes import VERSION

MOST_BULKS = 20
"""Bulk actions that are read: the latest."""
MOST_RUNS, MOST_ERRORS = 20_000, 200
"""Failed runs of the last hour that are read, from the latest on, and errors, from the most frequent on."""
MOST_BATCHES = 5
"""Batches that are named."""
MOST_DEAD = 2_000
"""Archived tasks that are read, from the newest on."""
MOST_LATE = 5_000
"""Live tasks among which the tenants of late types are counted: the oldest."""
LEAST_FLOOD = 20
"""A tenant with fewer due tasks floods nothing."""
FLOOD_SHARE = 1 / 3
"""Share of the due tasks of a type that a tenant has at least, and twice its fair share, if it floods the type."""

DUE_TENANTS = f"""
select type, coalesce(tenant, ''), count(*)
  from (select type, tenant, state, due_at from joblane.tasks where finished_at is null
         order by created_at, id limit {MOST_LATE}) as oldest
 where type = any($1::text[]) and state in ('pending', 'retry', 'scheduled') and due_at <= clock_timestamp()
 group by 1, 2 order by 3 desc limit 1000
"""
CALLBACKS = f"""
select b.id, count(*)
  from (select batch, state, cleared from joblane.tasks
         where dead_sent_at is not null or dead_letter_unsent order by created_at desc, id desc limit {MOST_DEAD}) as d
       join joblane.batches b on b.id = d.batch join joblane.tasks c on c.id = b.on_success
 where d.state = 'archived' and not d.cleared and c.state = 'held' group by b.id order by b.id
"""
ERRORS = f"""
with ran as (
  select fingerprint, type, count(*) as runs, min(started_at) as first_at, max(started_at) as last_at,
         max(task_id) as id
    from (select fingerprint, type, started_at, task_id from joblane.task_attempts
           where fingerprint is not null and type is not null and started_at >= now() - interval '1 hour'
           order by started_at desc limit {MOST_RUNS}) as latest
   group by 1, 2
),
marked as (
  select r.type, r.fingerprint, r.runs, r.id, r.last_at, coalesce(c.since, r.first_at) as since, c.first_version,
         c.error_type, c.message, c.mark, coalesce(c.mark = 'resolved' and r.last_at > c.marked_at, false) as is_back
    from ran r left join joblane.causes c using (fingerprint, type)
   order by r.runs desc, r.last_at desc limit {MOST_ERRORS}
)
select m.type, m.runs, case when m.is_back then m.last_at else m.since end,
       coalesce(m.first_version, {VERSION.format(at="m.since")}), coalesce(m.error_type, a.error_type),
       coalesce(m.message, a.error_message), m.mark, m.is_back or m.since >= now() - interval '1 hour',
       m.mark is not null and not m.is_back
  from marked m left join lateral (
    select error_type, left(error_message, 3000) as error_message from joblane.task_attempts a
     where m.error_type is null and a.task_id = m.id and a.fingerprint = m.fingerprint order by a.run desc limit 1
  ) as a on true
 order by m.runs desc, m.last_at desc
"""
"""The errors of the failed runs of the last hour, most runs first. An error that the sweep has not seen has no row of
its own, and one that failed again after it was resolved is new."""


@dataclass(frozen=True, slots=True)
class _Error:
    """A row of :data:`ERRORS`."""

    type: str
    runs: int
    since: datetime
    version: str | None
    error_type: str | None
    message: str | None
    mark: str | None
    is_new: bool
    is_quiet: bool

    @property
    def text(self) -> str:
        """Class and first line of the error, without ids and numbers."""
        message = shown(self.message or "")
        return f"{self.error_type}: {message}" if message else self.error_type or "an unknown error"


def bulks(scope: Glance) -> Iterator[Check]:
    """Bulk actions that still send tasks, many of which are archived again."""
    if not any(type_ == BULK_TYPE for _, type_ in scope.recorded.tasks):
        return
    for each in start.bulks(scope, MOST_BULKS):
        if each.state not in LIVE or each.stopped is not None:
            continue
        view = start.view(scope, each.id)
        if view.outcome is not None and view.outcome.archived > view.outcome.completed * WARNING_SHARE:
            found = f"started by {view.who}{because(view.reason)}. {report(view).rstrip('.')}"
            do = f"`joblane bulk abort {view.id}` stops it"
            yield Check(Grade.BAD, f"bulk action {view.id}", found, do, path("/bulk/show", id=view.id))


def _shares(scope: Glance) -> Iterator[Check]:
    """The share of failed runs of each type in the last 15 minutes."""
    rows = [(each.failed / each.ended, each.type, each.ended, each.failed) for each in scope.latest if each.ended]
    for share, type_, number, failed in sorted(rows, key=lambda row: (-row[0], row[1])):
        if number >= LEAST_RUNS and share >= WARNING_SHARE:
            found = f"{failed:,} of {number:,} runs in the last {MINUTES} minutes failed ({share:.0%})"
            do = f"`joblane errors --within 1h --type {type_}` shows its errors; `joblane pause type {type_}` stops it"
            grade = Grade.BAD if share >= BAD_SHARE else Grade.WARNING
            yield Check(grade, f"runs of {type_}", found, do, path("/errors", within="1h", type=type_))
    runs = sum(number for _, _, number, _ in rows)
    yield Check(Grade.GOOD, "runs", f"few or none of {runs:,} runs in the last {MINUTES} minutes failed")


def failures(scope: Glance) -> Iterator[Check]:
    """Failing types with their most frequent error, and the errors of other types that are new within an hour."""
    with reading(scope.connection) as connection:
        now, found = connection.run(NOW)[0][0], [_Error(*row) for row in connection.run(ERRORS)]
    failing = set[str]()
    for check in _shares(scope):
        type_ = check.what.removeprefix("runs of ")
        failing.add(type_)
        first = next((error for error in found if error.type == type_), None)
        yield check if first is None or check.grade is Grade.GOOD else _with_error(check, first)
    new: dict[str, list[_Error]] = {}
    for error in found:
        if error.is_new and not error.is_quiet and error.type not in failing:
            new.setdefault(error.type, []).append(error)
    for type_, (first, *others) in new.items():
        grade = Grade.BAD if first.runs >= LEAST_RUNS else Grade.WARNING
        line = new_line(first.text, first.runs, first.version, now - first.since, len(others))
        do = f"`joblane errors --within 1h --type {type_}` shows {'them' if others else 'it'}"
        yield Check(grade, f"error of {type_}", line, do, path("/errors", within="1h", type=type_))


def _with_error(check: Check, error: _Error) -> Check:
    """A failing type with its error. An error that operators know is a warning."""
    grade = Grade.WARNING if error.is_quiet else check.grade
    mark = f"[{error.mark}] " if error.is_quiet else "[new] " if error.is_new else ""
    return replace(check, grade=grade, found=f"{check.found}: {mark}{error.text}")


def callbacks(scope: Scope) -> Iterator[Check]:
    """The batches whose callback waits for archived members. No check if there are none."""
    with reading(scope.connection) as connection:
        rows = connection.run(CALLBACKS)
    for id_, number in rows[:MOST_BATCHES]:
        members = "1 archived member holds" if number == 1 else f"{number:,} archived members hold"
        do = f"`joblane batch retry {argument(id_)}` runs them again, once the cause is fixed"
        yield Check(
            Grade.WARNING, f"batch {id_}", f"{members} its callback on_success", do, path("/batches/show", id=id_)
        )


def waits(scope: Glance) -> Iterator[Check]:
    """The types with tasks that wait longer than the target, with the tenant that has many of the due tasks."""
    late: dict[str, tuple[float, float, list[str]]] = {}
    for (queue, type_), seconds in scope.recorded.waits.items():
        if scope.is_late(type_, seconds) and (task := scope.task(type_)) is not None:
            before, _, queues = late.get(task.type, (0.0, 0.0, []))
            late[task.type] = (max(before, seconds), task.target_wait.total_seconds(), [*queues, queue])
    if not late:
        yield Check(Grade.GOOD, "waits", "no due task waits longer than the target of its type")
        return
    names = [name for type_ in late for name in scope.tasks[type_].types]
    tenants: dict[str, Counter[str]] = {}
    with reading(scope.connection) as connection:
        rows = connection.run(DUE_TENANTS, names)
    for name, tenant, number in rows:
        if (task := scope.task(name)) is not None:
            tenants.setdefault(task.type, Counter())[tenant] += number
    ranked = sorted(late.items(), key=lambda item: ("critical" not in item[1][2], -item[1][0] / (item[1][1] or 1.0)))
    for type_, (seconds, target, _) in ranked:
        due = tenants.get(type_, Counter())
        tenant = flooding(due)
        number = sum(each for (_, name), each in scope.recorded.due.items() if name in scope.tasks[type_].types)
        times = lasting(timedelta(seconds=seconds)), lasting(timedelta(seconds=target))
        found = late_line(number, *times, tenant, (due[tenant], due.total()) if tenant else (0, 0))
        do = f"`joblane why {type_}` says why"
        if tenant and (PauseScope.TENANT, tenant) not in scope.recorded.pauses:
            do = f"`joblane pause tenant {argument(tenant)} --for 1h` lets the others run; {do}"
        yield Check(Grade.BAD, f"waits of {type_}", found, do, path("/runs/why", type=type_))


def flooding(due: Counter[str]) -> str | None:
    """The tenant with so many of the due tasks of a type that the others wait for it; None: there is none."""
    return crowding(due) or None


def crowding(due: Counter[str]) -> str | None:
    """As :func:`flooding`; empty for the tasks without a tenant, which no pause of a tenant stops."""
    tenant, number = next(iter(due.most_common(1)), ("", 0))
    least = max(FLOOD_SHARE, 2 / len(due)) if len(due) > 2 else 0.5
    return tenant if len(due) > 1 and number >= max(LEAST_FLOOD, due.total() * least) else None
