"""The tasks that wait for a limit which has a slot for them, because the process that freed it died too early.

Turns that nobody claims are taken back: a lane that stands still must not keep the slots of a limit that others share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from joblane.enqueue.follow_up import FollowUp
from joblane.names import home_of, types_with_lanes_of
from joblane.record.driver.connection import Connection
from joblane.record.flow.free_slots import LimitNames
from joblane.record.flow.limit_changes import end_change, ended_changes
from joblane.record.row.conditions import BEFORE_IT, HAS_IDLE_SLOT, PAUSED
from joblane.record.row.states import LEVELS
from joblane.record.row.transitions import LEFT_LIMITS, LET_GO, assignments
from joblane.record.sql_functions import VERSION
from joblane.record.task.row_by_row import LOCKED, run_rows
from joblane.sweep.duties import Duties, within_share
from joblane.sweep.next_sweep import SHARED_WITH_WAITING, UNCLAIMED_MINUTES
from joblane.sweep.sends import Sends

HELD_TASKS = "held tasks"
CHANGES = "changes of limits"
PAUSED_SLOTS = "slots of paused tasks"
UNCLAIMED = "unclaimed turns"
BATCH = 50
"""The most limits that one statement serves."""
PAGE = 10_000
"""The most tasks that one statement moves."""
LIMITS = 5_000
"""The number of limits that one statement reads, in about 50 µs each."""
LEAVING = 500
"""The maximum number of paused tasks that one statement changes."""

# The limits after a name, and the names of the limits of the first task of each that has a slot for it.
UNSERVED = f"""
with page as materialized (
  select n.name, n.number
    from joblane.waiting_limits_{VERSION}($1, null, {LIMITS}) with ordinality as n(name, number)
)
select (select pg_catalog.json_agg(pg_catalog.json_build_array(t.key_limit, t.total_limit, t.shared_limit, n.name))
          from page n,
               lateral (select w.key_limit, w.total_limit, w.shared_limit, w.ordered, w.first_due_at, w.seq
                          from joblane.tasks w
                         where w.wait_kind = 'limit' and w.waits_for = n.name and w.state = 'held'
                         order by w.waits_for, w.place, w.seq limit 1) as t,
               lateral joblane.limit_of_{VERSION}(n.name) as l
         where joblane.has_room_{VERSION}(
                 n.name, case n.name when t.key_limit then 1 when t.total_limit then 2 else 3 end, l.slots)
           and not (n.name = t.key_limit and t.ordered is true and {BEFORE_IT})),
       (select name from page order by number desc limit 1),
       (select count(*) from page)
"""
# The order of each statement is that of the index of limits. In the order of ids it would read the whole table, as the
# sweep's settings avoid a sort.

# A task that may start, and a lost run. The other tasks of its lane that wait go behind all others, because they would
# get the same slots one after the other. The types of a place share a lane.
TAKE_BACK = f"""
with waited as materialized ({SHARED_WITH_WAITING})
update joblane.tasks t set {assignments(LEFT_LIMITS)}
 where t.id in (select r.id from waited,
                       lateral (select s.id from joblane.tasks s
                                 where s.shared_limit = waited.name and s.passed {LEVELS[3].has_slot}
                                   and case s.state when 'pending' then s.due_at when 'active' then s.lease_until end
                                       < clock_timestamp() - interval '{UNCLAIMED_MINUTES} minutes'
                                 order by s.shared_limit limit {PAGE} for no key update skip locked) as r)
returning t.key_limit, t.total_limit, t.shared_limit, t.type, t.queue
"""
GO_BEHIND = f"""
update joblane.tasks t
   set place = (select w.place + 1 from joblane.tasks w
                 where w.wait_kind = 'limit' and w.waits_for = $1 order by w.place desc limit 1)
 where t.id in (select w.id from joblane.tasks w
                 where w.wait_kind = 'limit' and w.waits_for = $1 and w.state = 'held'
                   and w.type = any($2::text[]) and w.queue = $3
                 order by w.place, w.seq limit {PAGE} for no key update skip locked)
"""
IS_IDLE = f"t.passed is not null and {HAS_IDLE_SLOT} and {PAUSED.format(row='t')}"
# What is paused leaves its limits. No claim does it, as the sweep sends no message for it.
LEAVE = f"""
update joblane.tasks t set {assignments(LET_GO)}
  from ({LOCKED.format(columns="t.id", condition=IS_IDLE)})
    as paused
 where t.id = paused.id
returning t.key_limit, t.total_limit, t.shared_limit
"""


class Held:
    """Serves limits. ``served``: the tasks that may start now."""

    def __init__(self, prefix: str, sends: Sends, duties: Duties) -> None:
        self.served = 0
        self._prefix, self._sends, self._duties = prefix, sends, duties

    def end_changes(self) -> None:
        """End expired changes of limits. Later duties give new times, and serve the limits."""
        has_time = within_share(lambda: True)
        for name in ended_changes(self._sends.connection):
            if has_time():  # the next sweep ends the other changes
                self._duties.run(CHANGES, partial(end_change, self._sends.connection, name), None)

    def leave(self, ids: Sequence[str]) -> None:
        """Let paused tasks leave their limits, and serve these."""
        for start in range(0, len(ids), LEAVING):
            left = run_rows(self._sends.connection, LEAVE, ids[start : start + LEAVING])
            for _ in self._serve(PAUSED_SLOTS, left):
                pass

    def take_back(self) -> Iterator[None]:
        """Take back shared slots that no task uses. It may be stopped after each step."""
        connection = self._sends.connection
        taken_back = connection.run(TAKE_BACK)
        lanes = {(shared, queue, home_of(type_)): type_ for _, _, shared, type_, queue in taken_back}
        for (shared, queue, _), type_ in lanes.items():
            connection.run(GO_BEHIND, shared, types_with_lanes_of(type_), queue)
            yield
        yield from self._serve(UNCLAIMED, [row[:3] for row in taken_back])

    def steps(self) -> Iterator[None]:
        """Serve the limits with room, in batches. It may be stopped after each step."""
        for found in unserved(self._sends.connection):
            yield from self._serve(HELD_TASKS, [row[:3] for row in found])
            yield

    def _serve(self, name: str, wanted: Sequence[LimitNames]) -> Iterator[None]:
        if wanted:  # tasks that others have locked, or that no slot was left for
            self._sends.following.is_due = True
        batches = (wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH))
        yield from self._duties.run_batches(name, self._served, batches)

    def _served(self, wanted: Sequence[LimitNames]) -> Iterator[None]:
        for number in self._sends.follow(self._prefix, FollowUp(freed=list(wanted))):
            self.served += number
            yield


def unserved(connection: Connection) -> Iterator[list[list[str | None]]]:
    """Yield the limits that have a slot for a waiting task, in pages: the names of the task's limits, and that one."""
    position, number = "", LIMITS
    while number == LIMITS:
        ((found, last, number),) = connection.run(UNSERVED, position)
        yield found or []
        position = last
