"""The times that rates have given: they are given anew if they are wrong, and forgotten after an hour without starts.

An operator, a deploy or the end of a change gives another rate; a cancellation or a pause leaves times unused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from joblane.record.flow.limit_changes import BATCH as PLANNED
from joblane.record.flow.limit_changes import plan_anew
from joblane.record.flow.wrong_times import wrong_times
from joblane.sweep.duties import Duties

TIMES_OF_RATES = "times of rates"
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

    def __init__(self, duties: Duties) -> None:
        self._connection, self._duties = duties.connection, duties

    def steps(self) -> Iterator[None]:
        """Give new times, then forget, in batches. It may be stopped after each step.

        The first step comes before the walk, which then reads the new times. Before a later step it may have read
        old ones.
        """
        for page, names in enumerate(wrong_times(self._connection)):
            self._duties.following.is_due |= page > 0 and len(names) > 0
            parts = (names[start : start + PLANNED] for start in range(0, len(names), PLANNED))
            for _ in self._duties.run_batches(TIMES_OF_RATES, self._plan, parts):
                pass
            yield
        for _ in range(MOST_BATCHES):
            if len(self._connection.run(FORGET)) < BATCH:
                return
            yield

    def _plan(self, names: Sequence[str]) -> Iterator[None]:
        plan_anew(self._connection, names)
        yield
