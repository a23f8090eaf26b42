"""The messages of due tasks: chosen per lane, taken in batches, and sent.

The number of messages in a lane is compared with the number of tasks that should have one there, of all types that
share the lane. Only as many tasks get another message as messages are missing, so a backlog is not sent again while it
waits. The tasks with the earliest ``sweep_at`` come first. A message moves the ``sweep_at`` of its task, so the next
sweep begins with other tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import takewhile

from joblane.names import SWEEP, lane_name
from joblane.quotas import MAX_BATCH, MAX_DELAY_SECONDS
from joblane.record.driver.connection import Row
from joblane.record.row.states import LIVE_SQL
from joblane.record.task.row_by_row import LOCKED, run_rows
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.sweep.duties import Duties
from joblane.sweep.expiry import BATCH
from joblane.sweep.sends import Sends, Taken, body_of, group_of
from joblane.sweep.walk import Lane, Walk

DUE_MESSAGES = "messages of due tasks"
LONGEST_INTERVAL_SECONDS = 6 * 3600
"""The longest interval between two sends of a row that no worker claims. It doubles up to this."""
PATIENCE = timedelta(hours=1)
"""After this time each sweep sends ten of a lane's tasks again, even if the lane seems to hold their messages: the
number of messages includes those without a task."""

# Rows that another sweep, a claim or a finish has changed since the walk are left out.
TAKE = f"""
with due as materialized (
  {
    LOCKED.format(
        columns="t.id, t.sweep_at", condition=f"t.finished_at is null and t.sweep_at <= now() and t.state in {LIVE_SQL}"
    )
}
)
update joblane.tasks t
   set sends = least(t.sends, 1000000) + 1,
       sweep_at = greatest(t.due_at, clock_timestamp())
                + least(interval '1 minute' * pg_catalog.power(2, least(t.sends, 20)), interval '{
    LONGEST_INTERVAL_SECONDS
} s')
  from due where t.id = due.id
returning t.id, t.type, t.queue, t.tenant, t.schema, t.headers,
          (extract(epoch from t.due_at) - extract(epoch from clock_timestamp()))::float8,
          t.sweep_at::text, due.sweep_at::text,
          extract(epoch from t.sweep_at)::float8
"""


class Messages:
    """Sends the messages of the tasks that a walk finds due. ``sent``: their number.

    ``on_page``: the duties that follow each page of the walk, by their names.
    """

    def __init__(
        self, prefix: str, walk: Walk, sends: Sends, duties: Duties, on_page: Mapping[str, Callable[[], None]]
    ) -> None:
        self.sent = 0
        self._prefix, self._walk, self._sends = prefix, walk, sends
        self._duties, self._on_page = duties, on_page
        self._depths: dict[str, int | None] = {}
        self._expected: defaultdict[str, int] = defaultdict(int)

    def steps(self) -> Iterator[None]:
        """Walk, and send in batches. It may be stopped after each step."""
        while not self._walk.is_over and not self._sends.silent:
            self._walk.read()
            for name, step in self._on_page.items():
                if not self._duties.failed[name]:  # a statement that times out on each page would take all the time
                    self._duties.run(name, step, None)
            yield
            if self._walk.is_full:
                yield from self._send_all(self._walk.take())

    def _send_all(self, lanes: Sequence[Lane]) -> Iterator[None]:
        due = [(lane.name, id_) for lane in lanes for id_ in self._chosen(lane)]
        batches = (due[start : start + BATCH] for start in range(0, len(due), BATCH))
        yield from self._duties.run_batches(
            DUE_MESSAGES, self._send, takewhile(lambda _: not self._sends.silent, batches)
        )

    def _chosen(self, lane: Lane) -> list[str]:
        """Return the ids of the tasks that get a message: those without one, and as many more as messages are missing.

        If the number of messages in the lane cannot be read, all due tasks get one.
        """
        name = lane.name
        expected = self._expected[name] + lane.covered + len(lane.unclaimed)
        missing = len(lane.unclaimed)
        if lane.unclaimed and (held := self._held(name)) is not None:
            missing = max(0, min(missing, expected - held))
        oldest = sorted(lane.unclaimed, reverse=True)
        if missing < MAX_BATCH:
            missing += sum(age > PATIENCE.total_seconds() for age, _ in oldest[missing:MAX_BATCH])
        if missing < len(lane.unclaimed) and not lane.is_sweeps:
            self._sends.following.is_due = True  # the next sweep counts again
        self._expected[name] = expected - missing
        return lane.unsent + [id_ for _, id_ in oldest[:missing]]

    def _held(self, name: str) -> int | None:
        """Return the number of messages that the lane held before this sweep sent any; None if it cannot be read."""
        if name not in self._depths and not self._sends.silent:
            self._depths[name] = self._sends.depth(name)
        return self._depths.get(name)

    def _send(self, due: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Send the messages of tasks, each after the name of its lane, in one step."""
        ids = [id_ for name, id_ in due if name not in self._sends.refused]
        rows = run_rows(self._sends.connection, TAKE, ids)
        if len(rows) < len(ids):  # another transaction has locked some of them
            self._sends.following.is_due = True
        self._sends.following.add(min((row[-1] for row in rows if row[1] != SWEEP), default=None))
        self.sent += len(self._sends.send([taken for row in rows if (taken := self._taken(row)) is not None]))
        yield

    def _taken(self, row: Row) -> Taken | None:
        """Return the task with its message, or None if its row does not make a message."""
        id_, type_, queue, tenant, schema, headers, due_seconds, taken, before, _ = row
        body = body_of(self._sends.connection, Message.of_row(type_, id_, schema, headers))
        if body is None:
            return None
        delay = round(min(max(0.0, due_seconds), MAX_DELAY_SECONDS))
        return Taken(id_, Entry(lane_name(self._prefix, queue, type_), body, delay, group_of(tenant)), taken, before)
