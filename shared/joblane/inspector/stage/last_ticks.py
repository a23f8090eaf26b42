"""The ticks that were due in the last day, and those of them that did not arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from joblane.inspector.scope import Scope
from joblane.sqs.tick import id_of
from joblane.sweep.missed_ticks import LONGEST_LOOK_BACK, PATIENCE, key_of
from joblane.tasks.schedule import Schedule

KNOWN_SCHEDULES = "select type, name, since from joblane.declared_schedules"
SEEN = """
select x.id from jsonb_array_elements_text($1::jsonb) as x(id)
 where exists (select from joblane.tasks t where t.id = x.id)
"""


@dataclass(frozen=True, slots=True)
class LastTicks:
    """``due``: the number of ticks that were due. ``missed``: the times of those that did not arrive, newest first."""

    due: int
    missed: tuple[datetime, ...]


def last_ticks(scope: Scope) -> dict[tuple[str, str], LastTicks]:
    """The ticks of the last day by type and name of the schedule.

    A schedule is checked from the first sweep that knew it, as it may be new, or from an earlier tick that did arrive.
    """
    known = {(type_, name): since for type_, name, since in scope.connection.run(KNOWN_SCHEDULES)}
    until = datetime.now(UTC) - PATIENCE
    times = {
        (task.type, schedule): tuple(_times(schedule, until))
        for task in scope.tasks.values()
        for schedule in task.schedules
    }
    ids = [id_of(type_, schedule.name, at) for (type_, schedule), found in times.items() for at in found]
    seen = {id_ for (id_,) in scope.connection.run(SEEN, json.dumps(ids))} if ids else set()
    return {
        (type_, str(schedule.name)): _checked(
            found,
            [at for at in found if id_of(type_, schedule.name, at) in seen],
            known.get((type_, key_of(schedule)), until),
        )
        for (type_, schedule), found in times.items()
    }


def _times(schedule: Schedule, until: datetime) -> Iterator[datetime]:
    moment = until - LONGEST_LOOK_BACK
    while (moment := schedule.next_after(moment)) <= until:
        yield moment


def _checked(times: Sequence[datetime], arrived: Sequence[datetime], known_since: datetime) -> LastTicks:
    since = min([known_since, *arrived[:1]])
    due = [at for at in times if at >= since]
    return LastTicks(len(due), tuple(sorted(set(due) - set(arrived), reverse=True)))
