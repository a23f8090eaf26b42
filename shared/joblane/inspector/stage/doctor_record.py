"""What the record tells of a deployment: its schema, its clock, and whether that what should come does come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting
from joblane.inspector.shell import argument
from joblane.inspector.views import Examined, Grade
from joblane.maintenance.missed_ticks import LONGEST_LOOK_BACK, PATIENCE
from joblane.maintenance.sweep import TYPE as SWEEP
from joblane.record import migrations
from joblane.sqs.tick import id_of

if TYPE_CHECKING:
    from joblane.inspector.scope import Reach

CLOCK_SECONDS = 5.0
"""Apart, ticks and messages that are due get a time of their own."""
BROKEN_CLOCK_SECONDS = 240.0
"""A signature is refused five minutes away from AWS's time. Source: IAM, *Signature Version 4*."""
MIGRATE = "run `joblane migrate`; on AWS a deploy runs them"
OLD_PAUSE = timedelta(days=1)

SWEPT = """
select max(finished_at), clock_timestamp()
  from (select finished_at from joblane.tasks
         where type = $1 and state = 'completed' order by created_at desc, id desc limit 20) as last
"""
UNDECLARED = """
select type, count(*) from joblane.tasks
 where state in ('scheduled', 'pending', 'active', 'retry')
   and type not in (select x.type from jsonb_array_elements_text($1::jsonb) as x(type))
 group by type order by type
"""
SEEN = """
select x.id from jsonb_array_elements_text($1::jsonb) as x(id) join joblane.tasks t on t.id = x.id order by x.id
"""
PAUSES = """
select scope, name, reason, paused_by, clock_timestamp() - since, until is null from joblane.pauses
 where until is null or until > clock_timestamp() order by since
"""


def schema(reach: Reach) -> Iterator[Examined]:
    there, ours = migrations.applied(reach.connection), migrations.newest()
    if there is None:
        yield Examined(Grade.BAD, "migrations", "the database is empty: the migrations are missing", MIGRATE)
    elif there < ours:
        lacks = f"migrations are missing: the database is at revision {there} and this code works with {ours}"
        yield Examined(Grade.BAD, "migrations", lacks, MIGRATE)
    elif there > ours:
        ahead = f"the database is at revision {there}, ahead of this code's {ours}"
        yield Examined(Grade.WARNING, "migrations", ahead, "use the version that is deployed")
    else:
        yield Examined(Grade.GOOD, "migrations", f"the database is at revision {there}")


def clock(reach: Reach) -> Iterator[Examined]:
    """Of this machine against the database's, give or take half of a round trip."""
    before = datetime.now(UTC)
    ((theirs,),) = reach.connection.run("select clock_timestamp()")
    after = datetime.now(UTC)
    apart = max((theirs - after).total_seconds(), (before - theirs).total_seconds(), 0.0)
    found = f"this machine's clock and the database's are {apart:.1f} s apart"
    if apart <= CLOCK_SECONDS:
        yield Examined(Grade.GOOD, "clock", found)
    else:
        grade = Grade.BAD if apart > BROKEN_CLOCK_SECONDS else Grade.WARNING
        yield Examined(grade, "clock", found, "let both follow a time server")


def sweep(reach: Reach) -> Iterator[Examined]:
    """The one task that all others rely on."""
    task = reach.tasks.get(SWEEP)
    if task is None:
        return
    if not task.schedules:
        found = "it has no times in this stage: what was not sent at once is never sent"
        yield Examined(Grade.BAD, SWEEP, found, f"give it times: `schedules` of the stage, {SWEEP!r}")
        return
    ((last, now),) = reach.connection.run(SWEPT, SWEEP)
    next_at = min(schedule.next_after(now) for schedule in task.schedules)
    do = f"look into the log of its function, its schedule and its lane; `joblane tick {SWEEP}` runs it now"
    if last is None:
        found = f"it has not run to its end yet; its next time is in {lasting(next_at - now)}"
        yield Examined(Grade.WARNING, SWEEP, found, do)
        return
    due = min(schedule.next_after(last) for schedule in task.schedules)
    late = now - due
    ran = f"it last ended {lasting(now - last)} ago"
    if late > PATIENCE:
        yield Examined(Grade.BAD, SWEEP, f"{ran}, and was due {lasting(late)} ago", do)
    else:
        yield Examined(Grade.GOOD, SWEEP, ran)


def ticks(reach: Reach) -> Iterator[Examined]:
    """Those of the last day that should have been seen; of a schedule, from its first one on, or it may be new."""
    wrong, until = False, datetime.now(UTC) - PATIENCE
    for task in reach.tasks.values():
        for schedule in task.schedules:
            times = _times(schedule.next_after, until - LONGEST_LOOK_BACK)
            expected = [
                id_of(task.type, schedule.name, moment) for moment in takewhile(lambda moment: moment <= until, times)
            ]
            seen = {id_ for (id_,) in reach.connection.run(SEEN, json.dumps(expected))}
            since_first = expected[next((at for at, id_ in enumerate(expected) if id_ in seen), len(expected)) :]
            missed = [id_ for id_ in since_first if id_ not in seen]
            if missed:
                wrong = True
                found = (
                    f"{len(missed)} of its last {len(since_first)} ticks did not come, the last of them {missed[-1]}"
                )
                do = f"was the stage down, or its lane behind? `joblane tick {task.type}` sends one now"
                yield Examined(Grade.WARNING, f"ticks of {task.type}", found, do)
    if not wrong:
        yield Examined(Grade.GOOD, "ticks", "all that were due in the last day came")


def undeclared(reach: Reach) -> Iterator[Examined]:
    declared = [type_ for task in reach.tasks.values() for type_ in task.types]
    rows = reach.connection.run(UNDECLARED, json.dumps(declared))
    for type_, count in rows:
        found = f"{count} task{'s' * (count != 1)} of it wait or run, and no code declares it"
        do = f"deploy it again, name it in another type's aliases=, or `joblane archive --type {type_}`"
        yield Examined(Grade.BAD, f"type {type_}", found, do)
    if not rows:
        yield Examined(Grade.GOOD, "types", "every task that waits has a type that is declared")


def pauses(reach: Reach) -> Iterator[Examined]:
    rows = reach.connection.run(PAUSES)
    for scope, name, reason, who, since, endless in rows:
        found = f"paused {lasting(since)} ago by {who or 'nobody that is known'}" + (f": {reason}" if reason else "")
        if endless and since > OLD_PAUSE:
            yield Examined(
                Grade.WARNING, f"{scope} {name}", found, f"still wanted? `joblane resume {scope} {argument(name)}`"
            )
        else:
            yield Examined(Grade.GOOD, f"{scope} {name}", found)


def _times(next_after: Callable[[datetime], datetime], moment: datetime) -> Iterator[datetime]:
    while True:
        yield (moment := next_after(moment))


PARTS: tuple[tuple[str, Callable[[Reach], Iterator[Examined]]], ...] = (
    ("migrations", schema),
    ("clock", clock),
    (SWEEP, sweep),
    ("ticks", ticks),
    ("types", undeclared),
    ("pauses", pauses),
)
"""In this order: on an empty database there is nothing else to look at."""
