"""The dead letters of archived tasks that nobody has sent: fetched a few MB at a time, just before they are sent.

No statement writes more than a batch as JSON: a million bytes of numbers take PostgreSQL 30 ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from joblane.enqueue.follow_up import FollowUp
from joblane.names import dead_letter_name, lane_name
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.record.driver.connection import Row
from joblane.record.driver.values import read_json
from joblane.record.task.row_by_row import LOCKED, leaving_a_slow_row, run_rows
from joblane.sqs.dead_letter import archived_dead_letter
from joblane.sqs.message import Message
from joblane.sweep.duties import MOST_FAILURES, Duties
from joblane.sweep.messages import LONGEST_INTERVAL_SECONDS
from joblane.sweep.sends import Sends, Taken, body_of, group_of

PAGE = 100
FETCHED_BYTES = 4_000_000
"""The payloads in memory at once, in bytes as JSON. A larger one is fetched alone."""
EXPANSION = 100
"""The bytes of JSON of a byte on disk. PostgreSQL compresses 90-fold at most. Source: PostgreSQL, ``pg_lzcompress.c``.
Only huge powers of ten are longer."""
LARGEST_STORED_BYTES = 4 * MAX_MESSAGE_BYTES
"""A payload with more bytes on disk is larger than a message. A number of one digit takes the most: 12 bytes for 3 of
JSON. Source: PostgreSQL, ``jsonb.h`` and ``numeric.c``."""
UNSENT = "unsent dead letters"

FIND = f"""
select id, type, queue, finished_at::text,
       case when pg_catalog.pg_column_size(payload) <= {LARGEST_STORED_BYTES}
            then pg_catalog.pg_column_size(payload) * {EXPANSION} else 0 end
  from joblane.tasks
 where dead_letter_unsent and (finished_at, id) > ($1::timestamptz, $2)
   and sweep_at <= now() and queue || ' ' || type <> all(array(select jsonb_array_elements_text($3::jsonb)))
 order by finished_at, id limit {PAGE}
"""
# A payload that is larger than a message stays in the row only.
TAKE = f"""
with due as materialized (
  {
    LOCKED.format(
        columns="t.id, t.sweep_at", condition="t.dead_letter_unsent and t.state = 'archived' and t.sweep_at <= now()"
    )
}
)
update joblane.tasks t
   set sends = least(t.sends, 1000000) + 1,
       sweep_at = clock_timestamp()
                + least(interval '1 minute' * pg_catalog.power(2, least(t.sends, 20)), interval '{
    LONGEST_INTERVAL_SECONDS
} s')
  from due where t.id = due.id
returning t.id, t.type, t.queue, t.tenant, t.schema, t.headers, t.generation, t.reason,
          case when pg_catalog.pg_column_size(t.payload) <= {LARGEST_STORED_BYTES} then (
            select p.text from (select t.payload::text as text offset 0) as p
             where octet_length(p.text) < {MAX_MESSAGE_BYTES}) end,
          t.sweep_at::text, due.sweep_at::text
"""


class UnsentDeadLetters:
    """Sends dead letters and marks them as sent. ``sent``: their number."""

    def __init__(self, prefix: str, sends: Sends, duties: Duties) -> None:
        self.sent = 0
        self._prefix, self._sends, self._duties = prefix, sends, duties

    def steps(self) -> Iterator[None]:
        """Send in batches, oldest end first. It may be stopped after each step."""
        position, refused = ("-infinity", ""), set[str]()
        while not self._sends.silent:
            found = self._sends.connection.run(FIND, *position, json.dumps(sorted(refused)))
            yield from self._duties.run_batches(UNSENT, self._send, self._batches(found, refused))
            if len(found) < PAGE or self._duties.failed[UNSENT] >= MOST_FAILURES:
                return
            position = (found[-1][3], found[-1][0])

    def _batches(self, found: Sequence[Row], refused: set[str]) -> Iterator[list[str]]:
        """Yield the ids in batches of limited size, without those whose dead-letter queue refuses them."""
        batch, size = list[str](), 0
        for id_, type_, queue, _, payload_bytes in found:
            if dead_letter_name(lane_name(self._prefix, queue, type_)) in self._sends.refused:
                refused.add(f"{queue} {type_}")
                continue
            if batch and size + payload_bytes > FETCHED_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(id_)
            size += payload_bytes
        if batch and not self._sends.silent:
            yield batch

    def _send(self, ids: Sequence[str]) -> Iterator[None]:
        """Send, in one step."""
        connection, sends = self._sends.connection, self._sends
        generations: dict[str, int] = {}
        taken = []
        with leaving_a_slow_row(connection, ids):
            rows = run_rows(connection, TAKE, ids)
        for row in rows:
            generations[row[0]] = row[6]
            if (one := self._taken(row)) is not None:
                taken.append(one)
        sent = sends.send(taken)
        self.sent += len(sent)
        marked = FollowUp(dead=[(one.id, generations[one.id]) for one in sent])
        for _ in sends.follow(self._prefix, marked):
            pass
        yield

    def _taken(self, row: Row) -> Taken | None:
        id_, type_, queue, tenant, schema, headers, generation, reason, payload, taken, before = row
        message = Message.of_row(type_, id_, schema, headers)
        if body_of(self._sends.connection, message) is None:
            return None
        message.payload = None if payload is None else read_json(payload)
        lane = lane_name(self._prefix, queue, type_)
        entry = archived_dead_letter(lane, message, reason or "archived", generation, group_of(tenant))
        return Taken(id_, entry, taken, before)
