"""The sweep finds the rows for which a message is missing, and sends it.

``tasks.sweep_at`` is the time at which a row needs a message or a dead letter, in each state:

- waiting: the message was never sent, or is due within 15 minutes, or should have been claimed by now. Send it.
- active: the lease has ended. Send the message; its claim finds that the run was lost.
- archived: the dead letter is not marked as sent. Send it and mark it.

A sweep moves the ``sweep_at`` of the rows that it takes, so that two sweeps at once share the work, and a later sweep
takes the rows of a sweep that was killed. An extra message does no harm, because both have the same task id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from joblane.limits import MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES
from joblane.maintenance.expiry import BATCH, expire, tidy
from joblane.queues import lane_name
from joblane.record.conditions import PAUSED
from joblane.record.connection import Connection
from joblane.record.dead_letters import mark_dead_sent, successor_entry
from joblane.record.states import LIVE, State, in_sql
from joblane.sqs.client import NO_SUCH_QUEUE, Entry, Sqs
from joblane.sqs.dead_letter import archived_dead_letter
from joblane.sqs.message import Message

LONGEST_INTERVAL_SECONDS = 6 * 3600
"""The longest interval between two sends of a row that no worker claims. It doubles up to this."""

STUCK_AFTER_MINUTES = 10
"""The sweep finds a lost run 15 s after the lease's end at the earliest, and by the second sweep after it at the
latest."""

# The new sweep_at counts until the message is sent: if the sweep is killed, another sweep takes the row a minute later.
# Paused rows get a new sweep_at and no message. Only a dead letter has the payload, which may be larger than a message;
# for other messages the row's payload counts. It compares with now(), because PostgreSQL cannot search an index by the
# volatile clock_timestamp().
TAKE = f"""
with taken as (
  select id from joblane.tasks
   where (finished_at is null or dead_letter_unsent) and sweep_at <= now()
     and state in {in_sql(LIVE | {State.ARCHIVED})}
   order by sweep_at limit {BATCH} for update skip locked
)
update joblane.tasks t
   set sweep_at = clock_timestamp() + interval '1 minute'
  from taken where t.id = taken.id
returning t.id, t.type, t.queue, t.tenant, t.state,
          case when t.state = 'archived' and octet_length(t.payload::text) < {MAX_MESSAGE_BYTES} then t.payload end,
          t.schema, t.headers, t.generation, t.reason,
          extract(epoch from t.due_at - clock_timestamp())::float8,
          {PAUSED.format(row="t")},
          t.sweep_at::text
"""

# Only rows with an unchanged sweep_at: a claim or a finish in between has set another one. Rows are locked in the order
# of their ids, as in every other statement.
MARK_SWEPT = f"""
update joblane.tasks t
   set sent_at = case when unchanged.sent then clock_timestamp() else t.sent_at end, sends = t.sends + 1,
       sweep_at = greatest(t.due_at, clock_timestamp())
                + least(interval '1 minute' * power(2, least(t.sends, 20)), interval '{LONGEST_INTERVAL_SECONDS} s')
  from (select r.id, x.sent
          from joblane.tasks r
          join jsonb_to_recordset($1::jsonb) as x(id text, taken timestamptz, sent boolean) using (id)
         where r.sweep_at = x.taken
         order by r.id for no key update of r) as unchanged
 where t.id = unchanged.id
"""


@dataclass
class Swept:
    """The result of one sweep. ``unsent``: messages that SQS did not accept; a sweep sends them again in a minute.

    ``overdue``: the number of tasks that were due, not started and not paused. ``waits``: type → the longest wait of
    these tasks in seconds. A task that no worker starts is found about 1, 3, 7, 15, … minutes after it was due, so not
    by every sweep. Both are ignored when two results are compared.
    """

    sent: int = 0
    dead_letters: int = 0
    paused: int = 0
    unsent: int = 0
    cleared: int = 0
    removed: int = 0
    overdue: int = field(default=0, compare=False)
    waits: dict[str, int] = field(default_factory=dict, compare=False)

    def add_overdue(self, type_: str, seconds: float) -> None:
        self.overdue += 1
        self.waits[type_] = max(self.waits.get(type_, 0), int(seconds))


def sweep(connection: Connection, sqs: Sqs, prefix: str, *, may_continue: Any = lambda: True) -> Swept:
    """Sweep in batches, each in its own transaction, until no row is due or ``may_continue()`` is false."""
    swept = Swept()
    while tidy(connection) == BATCH and may_continue():
        continue
    while may_continue():
        rows = connection.run(TAKE)
        if not _send(connection, sqs, prefix, rows, swept) or len(rows) < BATCH:
            break
    while may_continue():
        cleared, removed = expire(connection)
        swept.cleared += cleared
        swept.removed += removed
        if cleared + removed < BATCH:
            break
    return swept


def _send(connection: Connection, sqs: Sqs, prefix: str, rows: Sequence[list[Any]], swept: Swept) -> bool:
    """Send messages and dead letters, and mark them. Return False if SQS accepted nothing, as in an outage.

    Rows whose lane does not exist, for example after their type was removed, count as handled: they return at growing
    intervals and do not stop the sweep.
    """
    entries: list[Entry] = []
    senders: list[tuple[str, str, int, str]] = []
    for id_, type_, queue, tenant, state, payload, schema, headers, generation, reason, due, paused, taken in rows:
        lane = lane_name(prefix, queue, type_)
        message = Message(type_, id_, payload, rec=True, schema=schema, headers=headers)
        if state == "archived":
            entries.append(archived_dead_letter(lane, message, reason or "archived", generation, tenant))
        elif paused:
            swept.paused += 1
            continue
        else:
            if state != "active" and due <= 0:
                swept.add_overdue(type_, -due)
            delay = round(min(max(0.0, due), MAX_DELAY_SECONDS))
            entries.append(Entry(lane, message.encode(), delay, tenant))
        senders.append((id_, state, generation, taken))
    failed = sqs.send_many(entries) if entries else {}
    sent = [sender for position, sender in enumerate(senders) if position not in failed]
    dead_letters = [(id_, generation) for id_, state, generation, _ in sent if state == "archived"]
    laneless = [senders[position] for position, why in failed.items() if any(name in why for name in NO_SUCH_QUEUE)]
    marks = [
        {"id": id_, "taken": taken, "sent": was_sent}
        for was_sent, group in ((True, sent), (False, laneless))
        for id_, state, _, taken in group
        if state != "archived" or not was_sent
    ]
    successors = mark_dead_sent(connection, dead_letters)
    if successors:
        sqs.send_many([successor_entry(prefix, successor) for successor in successors])
    if marks:
        connection.run(MARK_SWEPT, json.dumps(marks))
    swept.sent += len(sent) - len(dead_letters)
    swept.dead_letters += len(dead_letters)
    swept.unsent += len(failed)
    return bool(sent or laneless) or not failed


STUCK = f"""
select count(*) from joblane.tasks t
 where t.finished_at is null and t.state = 'active' and t.lease_until < now() - interval '{STUCK_AFTER_MINUTES} minutes'
   and not {PAUSED.format(row="t")}
"""
"""Paused tasks do not count: a paused task with a lost run stays unchanged until it is resumed."""


def stuck_leases(connection: Connection) -> int:
    """Return the number of runs whose lease ended :data:`STUCK_AFTER_MINUTES` ago and that no claim has found lost."""
    return int(connection.run(STUCK)[0][0])
