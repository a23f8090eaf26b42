"""The times that rates have given: they are given anew if they are wrong, and forgotten after an hour without starts.

An operator, a deploy or the end of a change gives another rate; a cancellation or a pause leaves times unused.
"""

from __future__ import annotations

from collections.abc import Iterator

from joblane.maintenance.next_sweep import NextSweep
from joblane.record.connection import Connection
from joblane.record.limit_changes import plan_anew

BATCH = 1000
MOST_BATCHES = 10

# A row whose time is over means the same as none.
FORGET = f"""
delete from joblane.rates where name = any(array(
  select r.name from joblane.rates r
   where r.next_at < clock_timestamp() - interval '1 hour'
     and (r.delayed_until is null or r.delayed_until < clock_timestamp())
   limit {BATCH} for update skip locked))
returning name
"""


class Rates:
    """Gives new times, and forgets idle rates."""

    def __init__(self, connection: Connection, following: NextSweep) -> None:
        self._connection, self._following = connection, following

    def steps(self) -> Iterator[None]:
        """Give new times, then forget, in batches. It may be stopped after each step.

        The first step comes before the walk, which then reads the new times. Before a later step it may have read
        old ones.
        """
        for page, planned in enumerate(plan_anew(self._connection)):
            self._following.is_due |= page > 0 and planned > 0
            yield
        for _ in range(MOST_BATCHES):
            if len(self._connection.run(FORGET)) < BATCH:
                return
            yield
