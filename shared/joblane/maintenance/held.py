"""The tasks that wait for a limit which has a slot for them, because the process that freed it died too early.

Turns that nobody claims are taken back: a lane that stands still must not keep the slots of a limit that others share.
"""

from __future__ import annotations

from collections.abc import Iterator

from joblane.maintenance.sends import Sends
from joblane.record.conditions import BEFORE_IT
from joblane.record.functions import VERSION
from joblane.record.limit_changes import end_changes
from joblane.record.serve import Limits, Turn, serve
from joblane.record.transitions import LEFT_LIMITS, assignments

SENDS = 3
"""Messages of the sweep after which a turn is taken back: seven minutes after its time."""
BATCH = 50
"""The most limits that one statement serves."""

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
TAKE_BACK = f"""
update joblane.tasks t set {assignments(LEFT_LIMITS)}
 where t.id in (select r.id from joblane.tasks r
                 where r.shared_limit is not null and r.passed >= 5 and r.state = 'pending' and r.sends >= {SENDS}
                   and exists (select from joblane.tasks w where w.waits_for = r.shared_limit)
                 order by r.id for no key update skip locked)
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
        wanted: list[Limits] = [*connection.run(TAKE_BACK), *(row[:3] for row in connection.run(UNSERVED))]
        for start in range(0, len(wanted), BATCH):
            yield
            self._send(serve(connection, wanted[start : start + BATCH]))

    def _send(self, turns: list[Turn]) -> None:
        self.served += len(turns)
        if turns and not self._sends.silent:  # a later sweep sends the messages that SQS does not accept
            self._sends.sqs.send_many([turn.entry(self._prefix) for turn in turns])
