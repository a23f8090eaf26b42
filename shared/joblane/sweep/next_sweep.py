"""The next run of the sweep: the earliest time at which a sweep will have work, and the message that starts it then.

Such a message, a *planned sweep*, has its time in its id. SQS delays a message by at most 15 minutes, so the sweep's
function sends it again until its time has come, without the database, see :mod:`joblane.worker.sweep_worker`. After
that, at most one sweep starts within 15 seconds, whatever started it.

All that a sweep reads is committed. A transaction that is still open may commit rows that no sweep has seen, so a sweep
follows as long as there is such a transaction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from joblane import settings
from joblane.enqueue.wake import AT_ONCE_SECONDS, GRID_SECONDS, planned_entry
from joblane.errors import SendError
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_changes import SHARED_NAME
from joblane.record.row.states import LEVELS
from joblane.sqs.client import Sqs

SOON_SECONDS = 60
"""A sweep leaves something for at least this long, and for at most 5 minutes."""
UNCLAIMED_MINUTES = 7
"""The time after which the slots of a task that nobody claims are taken back, for a lane of a shared limit may stand
still."""
TICK_MINUTES = 5
"""The sweep that makes the task of a tick of a schedule at run time is planned for this time before the tick."""
TRIES = 3
"""Other transactions are usually short, so that a second look finds none open."""

# The snapshot is older than this transaction's id. So the least id that is open in it is this transaction's id if no
# other transaction has an id: prepared ones and those of other databases have one, and those that only read have none.
# `pg_snapshot_xmax` would not do: it does not see a transaction that is younger than the last one that has ended.
IS_ALONE = "select pg_snapshot_xmin(pg_current_snapshot()) = pg_current_xact_id(), extract(epoch from now())::float8"
# The limits that types share, and for which a task waits. Only their slots are of use to others. An index finds them.
SHARED_WITH_WAITING = f"""
select n.name from (select name from joblane.limits union select name from joblane.limit_changes) as n
 where n.{SHARED_NAME} and (select true from joblane.tasks w
                            where w.wait_kind = 'limit' and w.waits_for = n.name limit 1)
"""
MOST_DEAD_LETTERS = 1000
"""With so many unsent dead letters another sweep follows in a few minutes, so that no statement reads more."""
# Each line is the time of one thing that nothing but a sweep notices, in seconds since 1970 by the database's clock.
# Each is read by an index or in a small table. $1: the start of this sweep.
TIMES = f"""
select (select extract(epoch from min(c.until)) from joblane.limit_changes c)::float8,
       (select extract(epoch from min(p.until)) from joblane.pauses p where p.until > to_timestamp($1::float8))::float8,
       (select extract(epoch from min(case r.state when 'pending' then r.due_at when 'active' then r.lease_until end)
                                  + interval '{UNCLAIMED_MINUTES} minutes')
          from ({SHARED_WITH_WAITING}) as waited, joblane.tasks r
         where r.shared_limit = waited.name and r.passed {LEVELS[3].has_slot})::float8,
       (select extract(epoch from case when count(*) < {MOST_DEAD_LETTERS} then min(d.sweep_at) else now() end)
          from (select u.sweep_at from joblane.tasks u where u.dead_letter_unsent
                 order by u.finished_at, u.id limit {MOST_DEAD_LETTERS}) as d)::float8,
       (select extract(epoch from min(s.next_at) - interval '{TICK_MINUTES} minutes')
          from joblane.schedules s
         where s.origin = 'run_time' and (s.paused_at is null or s.paused_until is not null))::float8
"""
# The clocks of the database and of the functions may differ, so a time is compared by its distance from now.
PLANNED = """
select (select extract(epoch from planned_sweep_at) from joblane.stage)::float8,
       extract(epoch from clock_timestamp())::float8
"""
WRITE = "update joblane.stage set planned_sweep_at = to_timestamp($1::float8)"
EQUAL_SECONDS = 5
"""Times of planned sweeps are equal if they differ by less."""


@dataclass
class NextSweep:
    """Collects the times of one sweep's duties, in seconds since 1970 by the database's clock.

    Call :meth:`begin` before the first duty, and :meth:`collect` after the last.

    ``is_due``: this sweep has left something, or may have missed it. ``is_late``: it has run out of time.
    """

    is_due: bool = False
    is_late: bool = False
    _at: float = math.inf
    _began: float = 0.0

    def begin(self, connection: Connection) -> None:
        """Note the start. Transactions that are open now may commit rows that this sweep does not see."""
        for _ in range(TRIES):
            ((is_alone, self._began),) = connection.run(IS_ALONE)
            if is_alone:
                return
        self.is_due = True

    def add(self, at: float | None) -> None:
        """Add the time of something that will need a sweep; None: there is nothing."""
        if at is not None:
            self._at = min(self._at, at)

    def collect(self, connection: Connection, *, has_paused: bool) -> None:
        """Read the times that no duty has collected. ``has_paused``: tasks are due, and wait for the end of a pause."""
        ((limit_change, pause, turn, dead_letter, tick),) = connection.run(TIMES, self._began)
        for at in (limit_change, turn, dead_letter, tick):
            self.add(at)
        if has_paused:
            self.add(pause)

    @property
    def at(self) -> float:
        """The time of the next thing that needs a sweep. 0: now. Infinite: nothing does."""
        return 0.0 if self.is_due or self.is_late else self._at


def plan(connection: Connection, sqs: Sqs, prefix: str, found: NextSweep, *, anew: bool = False) -> int | None:
    """Send the message of the next sweep, unless one is in its lane. Return its time, or None: nothing needs one.

    The scheduled sweeps are enough for what is due after the next of them, and in a stage where they are frequent.
    ``anew``: send one even if the database says that one is in the lane, which may have been purged.

    Raises :class:`SendError`.
    """
    if found.at == math.inf or not settings.sweep_plans():
        return None
    # The process may stand still anywhere. The sweep is then early, and the time in the database is before its message.
    before = sqs.now()
    ((planned_at, read_at),) = connection.run(PLANNED)
    after = sqs.now()
    wanted = found.at - read_at
    if wanted > settings.sweep_minutes() * 60:
        return None
    if found.is_late:
        target = (math.floor(before / AT_ONCE_SECONDS) + 1) * AT_ONCE_SECONDS
    else:
        target = math.ceil((before + max(wanted, SOON_SECONDS)) / GRID_SECONDS) * GRID_SECONDS
    # A sweep that is planned for the next moments may be this one, or one that starts no sweep because this one has
    # just started.
    is_ahead = planned_at is not None and planned_at > read_at + SOON_SECONDS
    planned = after + planned_at - read_at if is_ahead else math.inf
    if planned < target + EQUAL_SECONDS and not anew:
        return round(planned)
    entry = planned_entry(prefix, target, sqs.now())
    for why in sqs.send_many([entry]).values():
        raise SendError(f"{entry.queue}: the message of the next sweep: {why}")
    # A kill before this statement costs one more sweep. A sweep in the next minutes does not replace a later one,
    # whose message stays in the lane.
    if anew or planned == math.inf or (planned > target and target - after > MAX_DELAY_SECONDS):
        connection.run(WRITE, read_at + target - after)
    return target
