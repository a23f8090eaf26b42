"""The tasks that wait for a limit which has a slot for them, because the process that freed it died too early.

Turns that nobody claims are taken back: a lane that stands still must not keep the slots of a limit that others share.
"""

from __future__ import annotations

from collections.abc import Iterator

from joblane.maintenance.next_sweep import UNCLAIMED_MINUTES
from joblane.maintenance.sends import Sends
from joblane.record.conditions import BEFORE_IT, PAUSED
from joblane.record.functions import VERSION
from joblane.record.limit_changes import end_changes
from joblane.record.serve import Limits, Turn, serve
from joblane.record.transitions import LEFT_LIMITS, LET_GO, assignments

BATCH = 50
"""The most limits that one statement serves."""
PAGE = 10_000
"""The most tasks that one statement moves."""
MOST_LIMITS = 1_000_000
"""The most limits that one sweep looks at."""

UNSERVED = f"""
select t.key_limit, t.total_limit, t.shared_limit, n.name
  from joblane.waiting_limits_{VERSION}('', null, {MOST_LIMITS}) as n(name),
       lateral (select w.key_limit, w.total_limit, w.shared_limit, w.ordered, w.first_due_at, w.seq
                  from joblane.tasks w where w.waits_for = n.name and w.state = 'held'
                 order by w.waits_for, w.place, w.seq limit 1) as t,
       lateral joblane.limit_of_{VERSION}(n.name) as l
 where joblane.has_room_{VERSION}(
         n.name, case n.name when t.key_limit then 1 when t.total_limit then 2 else 3 end, l.slots)
   and not (n.name = t.key_limit and t.ordered is true and {BEFORE_IT})
"""
# The order of each statement is that of the index of limits. In the order of ids it would read the whole table, as the
# sweep's settings avoid a sort.

# A task that may start, and a lost run. The other tasks of its lane that wait go behind all others, because they would
# get the same slots one after the other.
TAKE_BACK = f"""
update joblane.tasks t set {assignments(LEFT_LIMITS)}
 where t.id in (select r.id from joblane.tasks r
                 where r.shared_limit is not null and r.passed >= 5
                   and case r.state when 'pending' then r.due_at when 'active' then r.lease_until end
                       < clock_timestamp() - interval '{UNCLAIMED_MINUTES} minutes'
                   and exists (select from joblane.tasks w where w.waits_for = r.shared_limit)
                 order by r.shared_limit for no key update skip locked)
returning t.key_limit, t.total_limit, t.shared_limit, t.type, t.queue
"""
GO_BEHIND = f"""
update joblane.tasks t
   set place = (select w.place + 1 from joblane.tasks w where w.waits_for = $1 order by w.place desc limit 1)
 where t.id in (select w.id from joblane.tasks w
                 where w.waits_for = $1 and w.state = 'held' and w.type = $2 and w.queue = $3
                 order by w.place, w.seq limit {PAGE} for no key update skip locked)
"""
# What is paused leaves its limits. No claim does it, as the sweep sends no message for it.
LEAVE = f"""
update joblane.tasks t set {assignments(LET_GO)}
 where t.id in (select r.id from joblane.tasks r
                 where r.passed >= 1
                   and (r.state in ('pending', 'held') or (r.state = 'active' and r.lease_until < clock_timestamp()))
                   and {PAUSED.format(row="r")}
                 order by r.key_limit, r.passed limit {PAGE} for no key update skip locked)
returning t.key_limit, t.total_limit, t.shared_limit
"""


class Held:
    """Serves limits. ``served``: the tasks that may start now."""

    def __init__(self, prefix: str, sends: Sends) -> None:
        self.served = 0
        self._prefix, self._sends = prefix, sends

    def end_changes(self) -> None:
        """End changes of limits whose time is over."""
        end_changes(self._sends.connection, self._send)

    def steps(self) -> Iterator[None]:
        """Serve in batches. It may be stopped after each step."""
        connection = self._sends.connection
        wanted: list[Limits] = []
        if connection.run("select from joblane.pauses limit 1"):
            wanted += connection.run(LEAVE)
        for *limits, type_, queue in connection.run(TAKE_BACK):
            connection.run(GO_BEHIND, limits[2], type_, queue)
            wanted.append(limits)
        wanted += [row[:3] for row in connection.run(UNSERVED)]
        if wanted:  # tasks that others have locked, or that no slot was left for
            self._sends.following.is_due = True
        for start in range(0, len(wanted), BATCH):
            yield
            self._send(serve(connection, wanted[start : start + BATCH]))

    def _send(self, turns: list[Turn]) -> None:
        self.served += len(turns)
        self._sends.start(self._prefix, turns)
