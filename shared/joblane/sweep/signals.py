"""The tasks with a signal that is not heard: the process that sent it, or the run that stopped, died too early.

A signal may also have been sent with SQL. The signals of a task that runs stay unheard until its run has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from joblane.enqueue.follow_up import FollowUp
from joblane.record.task.waits import MAX_WAKES
from joblane.sweep.duties import Duties
from joblane.sweep.sends import Sends

UNHEARD = "unheard signals"
PAGE = f"""
select g.task_id, g.name, g.created_at::text from joblane.task_signals g
 where not g.heard and (g.created_at, g.task_id) > ($1::timestamptz, $2)
 order by g.created_at, g.task_id limit {MAX_WAKES}
"""


class Signals:
    """Continues the tasks that wait for a signal that is there. ``woken``: their number."""

    def __init__(self, prefix: str, sends: Sends, duties: Duties) -> None:
        self.woken = 0
        self._prefix, self._sends, self._duties = prefix, sends, duties

    def steps(self) -> Iterator[None]:
        """Continue tasks in batches. It may be stopped after each step."""
        yield from self._duties.run_batches(UNHEARD, self._wake, self._pages())

    def _pages(self) -> Iterator[Sequence[str]]:
        position = ("-infinity", "")
        while rows := self._sends.connection.run(PAGE, *position):
            position = (rows[-1][2], rows[-1][0])
            self._sends.following.is_due = True  # its task may run, or be locked
            yield list(dict.fromkeys(id_ for id_, *_ in rows))

    def _wake(self, ids: Sequence[str]) -> Iterator[None]:
        for number in self._sends.follow(self._prefix, FollowUp(signalled=list(ids))):
            self.woken += number
            yield
