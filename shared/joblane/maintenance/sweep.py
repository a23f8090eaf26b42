"""What the sweep does: everything that a message should have done and has not.

``tasks.sweep_at`` says when a row wants to be looked at, whatever its state:

- waiting: its message was never sent, is due within 15 minutes, or should have been claimed a while ago: send it;
- active: the lease ran out: send the message, whose claim finds the run lost;
- archived: the dead letter was never marked as sent: send it and mark it.

Taking rows moves their ``sweep_at`` on, so two sweeps at once share the work, and one that dies leaves its rows to the
next. A send too many does no harm: the id is the identity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from joblane.limits import MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES
from joblane.maintenance.expiry import BATCH, expire, tidy
from joblane.queues import lane_name
from joblane.record.claim import PAUSED
from joblane.record.connection import Connection
from joblane.record.dead_letters import mark_dead_sent, successor_entry
from joblane.record.states import LIVE, State, in_sql
from joblane.sqs.client import NO_SUCH_QUEUE, Entry, Sqs
from joblane.sqs.dead_letter import archived_dead_letter
from joblane.sqs.message import Message

LONGEST_INTERVAL_SECONDS = 6 * 3600
"""The interval between sends of a row that nobody claims doubles up to this."""

STUCK_AFTER_MINUTES = 10
"""A run that was lost is found 15 s after its lease's end at the earliest, by the next sweep but one at the latest."""

# The new sweep_at holds until the message is sent: a sweep that dies is made good a minute later. Paused rows move on
# without being sent. A payload may be far larger than a message, and the row's own wins anyway: only a dead letter
# carries it. The index cannot be searched by clock_timestamp(), which may change while it is read, hence now().
TAKE = f"""
with taken as (
  select id from joblane.tasks
   where sweep_at <= now() and state in {in_sql(LIVE | {State.ARCHIVED})}
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

# Only rows whose sweep_at is still the one they were taken with: a claim or a finish in between has set its own. The
# locks are taken in the order of ids, as by every other statement.
SENT = f"""
update joblane.tasks t
   set sent_at = case when same.sent then clock_timestamp() else t.sent_at end, sends = t.sends + 1,
       sweep_at = greatest(t.due_at, clock_timestamp())
                + least(interval '1 minute' * power(2, least(t.sends, 20)), interval '{LONGEST_INTERVAL_SECONDS} s')
  from (select r.id, x.sent
          from joblane.tasks r join jsonb_to_recordset($1::jsonb) as x(id text, taken timestamptz, sent boolean) using
           (id)
         where r.sweep_at = x.taken
         order by r.id for no key update of r) as same
 where t.id = same.id
"""


@dataclass
class Swept:
    """What one sweep did. ``unsent``: messages that SQS did not take; they are tried again in a minute.

    What it found, and no part of two being equal: ``overdue``, tasks that were due already, not started and not paused;
    ``waits``, type → seconds that its longest waiting one of these has waited. One that nobody starts is found about 1,
    3, 7, 15, … minutes after it was due, so not by each sweep.
    """

    sent: int = 0
    dead_letters: int = 0
    paused: int = 0
    unsent: int = 0
    cleared: int = 0
    removed: int = 0
    overdue: int = field(default=0, compare=False)
    waits: dict[str, int] = field(default_factory=dict, compare=False)

    def found_waiting(self, type_: str, seconds: float) -> None:
        self.overdue += 1
        self.waits[type_] = max(self.waits.get(type_, 0), int(seconds))


def sweep(connection: Connection, sqs: Sqs, prefix: str, *, goes_on: Any = lambda: True) -> Swept:
    """Sweep in bounded batches until nothing is due, or ``goes_on()`` is false. Each batch is its own transaction."""
    swept = Swept()
    while tidy(connection) == BATCH and goes_on():
        continue
    while goes_on():
        rows = connection.run(TAKE)
        if not _send(connection, sqs, prefix, rows, swept) or len(rows) < BATCH:
            break
    while goes_on():
        cleared, removed = expire(connection)
        swept.cleared += cleared
        swept.removed += removed
        if cleared + removed < BATCH:
            break
    return swept


def _send(connection: Connection, sqs: Sqs, prefix: str, rows: Sequence[list[Any]], swept: Swept) -> bool:
    """Send what is due, and mark what was. False where SQS took nothing, as it does while it is away.

    Rows whose lane is gone, as after a type was dropped, come again ever more rarely and hold up no others.
    """
    entries: list[Entry] = []
    owners: list[tuple[str, str, int, str]] = []
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
                swept.found_waiting(type_, -due)
            delay = round(min(max(0.0, due), MAX_DELAY_SECONDS))
            entries.append(Entry(lane, message.encode(), delay, tenant))
        owners.append((id_, state, generation, taken))
    failed = sqs.send_many(entries) if entries else {}
    sent = [owner for position, owner in enumerate(owners) if position not in failed]
    letters = [(id_, generation) for id_, state, generation, _ in sent if state == "archived"]
    gone = [owners[position] for position, why in failed.items() if any(name in why for name in NO_SUCH_QUEUE)]
    messages = [
        {"id": id_, "taken": taken, "sent": known}
        for known, some in ((True, sent), (False, gone))
        for id_, state, _, taken in some
        if state != "archived" or not known
    ]
    successors = mark_dead_sent(connection, letters)
    if successors:
        sqs.send_many([successor_entry(prefix, one) for one in successors])
    if messages:
        connection.run(SENT, json.dumps(messages))
    swept.sent += len(sent) - len(letters)
    swept.dead_letters += len(letters)
    swept.unsent += len(failed)
    return bool(sent or gone) or not failed


STUCK = f"""
select count(*) from joblane.tasks t
 where t.state = 'active' and t.lease_until < now() - interval '{STUCK_AFTER_MINUTES} minutes'
   and not {PAUSED.format(row="t")}
"""
"""A paused task whose run was lost is left as it is until it goes on."""


def stuck_leases(connection: Connection) -> int:
    """Runs whose lease ended :data:`STUCK_AFTER_MINUTES` ago and that nobody has found lost."""
    return int(connection.run(STUCK)[0][0])
