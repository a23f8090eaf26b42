"""The run of a bulk action, step by step: what a step does commits with its counts and with the task's cursor.

A redrive goes in three parts: rows that were given up are retried, letters that no row stands for are sent back, and
letters whose rows have moved on are deleted. Its canary is those that come first; it is waited for without a
transaction, and so that an invocation may end meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.context import TaskContext
from joblane.declaration import Task
from joblane.enqueue.wake import wake
from joblane.errors import SkipRetry
from joblane.inspector.actions.changes import Changed, change, entry_of, send
from joblane.inspector.bulk import dead_letters
from joblane.inspector.bulk.dead_letters import DeadLetter
from joblane.inspector.bulk.redrive import HIDDEN_SECONDS, treat
from joblane.inspector.bulk.start import FILTER, REDRIVE
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.tasks import listing
from joblane.record.states import State
from joblane.sqs.client import Sqs
from joblane.sqs.depth import queue_depth_if_exists

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

CHUNK = 100
"""Tasks of one commit, and a second's worth of them at the most."""
POLL_SECONDS = 1.0
PATIENCE = timedelta(minutes=10)
"""How long the canary may take."""
MAX_RECEIVES = 2_000
"""Of one dead-letter queue: what is beyond is left to another redrive."""

ORDER = """
select action, filter, who, rate, canary, cardinality(canary_ids), total, done, skipped, failed, stopped
  from joblane.bulks where id = $1
"""
# Begins a step's transaction: by SQLAlchemy, whose session then knows of it.
LOCK = "select id from joblane.bulks where id = :id for update"
COUNT = """
update joblane.bulks set done = done + $2::int, skipped = skipped + $3::int, failed = failed + $4::int,
       canary_ids = canary_ids || $5::text[]
 where id = $1
"""
STOP = "update joblane.bulks set stopped = $2, failed = failed + $3::int, done = done - $3::int where id = $1"
AUDIT = """
insert into joblane.audit (who, action, target, reason, details)
select b.who, b.action, x.id, b.reason, jsonb_build_object('bulk', b.id)
  from joblane.bulks b, jsonb_array_elements_text(cast($2 as jsonb)) as x(id) where b.id = $1
"""
"""Each task's own entry, so that whoever looks at one sees who did it."""
CLOSE = "update joblane.bulks set skipped = greatest(skipped, total - done - failed) where id = $1"
"""What matched when it was begun, and did not when its turn came."""
BE_PATIENT = """
update joblane.bulks set canary_until = coalesce(canary_until, clock_timestamp() + make_interval(secs => $2::float8))
 where id = $1
"""
CANARY = """
select cardinality(b.canary_ids), count(*) filter (where t.state = 'completed'),
       count(*) filter (where t.state in ('archived', 'cancelled')),
       (array_agg(coalesce(t.error_type, t.state) order by t.finished_at desc)
                  filter (where t.state in ('archived', 'cancelled')))[1],
       coalesce(b.canary_until <= clock_timestamp(), false)
  from joblane.bulks b left join joblane.tasks t on t.id = any(b.canary_ids)
 where b.id = $1 group by b.id
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, and how far it is. ``canaries``: how many of the first are under way or have ended."""

    action: str
    filter: Filter
    who: str
    rate: int
    canary: int
    canaries: int
    total: int
    done: int
    skipped: int
    failed: int
    stopped: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """What the task's cursor holds. ``after``: of the walk over rows. ``queue``: which one of the dead-letter queues.

    ``passed``: the canary did well.
    """

    after: str | None = None
    walked: bool = False
    queue: int = 0
    receives: int = 0
    waits: int = 0
    passed: bool = False
    polls: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """``do`` runs in a transaction, which commits with ``then``."""

    then: Position
    do: Callable[[], None]


class BulkRun:
    """One run of a task ``jobs:bulk``."""

    def __init__(self, ctx: TaskContext, sqs: Sqs, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> None:
        self._ctx, self._sqs, self._prefix, self._tasks = ctx, sqs, prefix, tasks
        self._order = self._read_order()
        redrives = self._order.action == REDRIVE
        self._action = BulkAction.RETRY if redrives else BulkAction(self._order.action)
        self._queues = dead_letters.queues_of(prefix, tasks, self._order.filter.types) if redrives else []
        self._pending: list[Changed] = []
        self._connection = ctx.connection()
        self._held: dict[str, str] = {}
        self._queue = ""
        self._free_at = 0.0

    def run(self) -> Mapping[str, Any]:
        """To the end, or until it stops. Returns the report."""
        from sqlalchemy import event, text

        event.listen(self._ctx.session, "after_commit", self._send_pending)
        try:
            for step in self._ctx.resume(self._steps, cursor=lambda step: asdict(step.then), chunk=1):
                self._pending = []
                self._ctx.session.execute(text(LOCK), {"id": self._ctx.task_id})
                step.do()
        finally:
            self._give_back()
        order = self._order
        return {name: getattr(order, name) for name in ("total", "done", "skipped", "failed", "stopped")}

    # --- What comes next -------------------------------------------------------------------------------------------

    def _steps(self, cursor: Any) -> list[Step]:
        """The next step, or none at the end. No transaction is open here."""
        order = self._order = self._read_order()
        done = order.done + order.skipped + order.failed
        self._ctx.progress(done, max(order.total, done), order.stopped)
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        position = Position(**cursor) if cursor else Position()
        if order.stopped:
            return []
        waits, missing = order.canary > 0 and not position.passed, order.canary - order.canaries
        choices = [self._walk, self._look]
        if waits and missing <= 0:
            choices.insert(0, self._watch)
        elif waits and order.canaries:  # where nothing else is found, these are all there are
            choices.append(self._watch)
        for choose in choices:
            step, position = choose(position, missing if waits and missing > 0 else CHUNK)
            if step is not None:
                return [step]
        return [] if position.closed else [Step(replace(position, closed=True), partial(self._run, CLOSE))]

    def _walk(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """Through the rows, in the order of their creation."""
        if position.walked:
            return None, position
        limit = min(room, CHUNK, self._order.rate)
        page = listing.ids(self._ctx.connection(), self._order.filter, position.after, limit)
        if not page:
            return None, replace(position, walked=True)
        ids = [id_ for _, id_ in page]
        self._pace(len(ids))
        return Step(replace(position, after=page[-1][0]), partial(self._change, ids)), position

    def _look(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """Through the dead-letter queues. One ends where nothing new is to be seen in it, nor held by somebody else.

        The other may be this task's last run, which was killed with letters in hand.
        """
        while position.queue < len(self._queues):
            queue = self._queues[position.queue]
            then = replace(position, receives=position.receives + 1)
            if position.receives < MAX_RECEIVES:
                found, elsewhere = self._receive(queue)
                if found:
                    return Step(then, partial(self._treat, found, room)), position
                if elsewhere and position.waits * POLL_SECONDS < HIDDEN_SECONDS:
                    time.sleep(POLL_SECONDS)
                    return Step(replace(then, waits=position.waits + 1), lambda: None), position
            self._give_back()
            position = replace(position, queue=position.queue + 1, receives=0, waits=0)
        return None, position

    def _receive(self, queue: str) -> tuple[list[DeadLetter], bool]:
        """Letters that are not in hand, and whether there are some in other hands."""
        there = queue_depth_if_exists(self._sqs, queue)
        if there is None:
            return [], False
        # a short poll asks some of SQS's servers only; a long one of an empty queue takes its time
        messages = self._sqs.receive_many(queue, HIDDEN_SECONDS, wait_seconds=1 if there.waiting else 0)
        new = [message for message in messages if message["MessageId"] not in self._held]
        self._queue = queue
        self._held |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
        found = dead_letters.read(self._ctx.connection(), self._tasks, new, queue) if new else []
        return found, there.in_flight > len(self._held)

    def _watch(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """After the canary: no step where all of it has ended well."""
        self._give_back()
        [[number, well, badly, error, late]] = self._ctx.connection().run(CANARY, self._ctx.task_id)
        if well == number:
            return None, replace(position, passed=True)
        then = replace(position, polls=position.polls + 1)
        if badly or late:
            under_way = number - well - badly
            parts = [f"{badly} of {number} failed again, the last with {error}"] if badly else []
            parts += [f"{under_way} of {number} had not ended" + ("" if badly else " in time")] if under_way else []
            reason = f"the canary: {'; '.join(parts)}; nothing else was touched"
            return Step(then, lambda: self._run(STOP, reason, str(badly))), position
        if position.polls:
            time.sleep(POLL_SECONDS)
        return Step(then, lambda: self._run(BE_PATIENT, str(PATIENCE.total_seconds()))), position

    # --- What a step does, in its transaction ----------------------------------------------------------------------

    def _change(self, ids: list[str]) -> None:
        changed = change(self._ctx.connection(), self._action, ids, who=self._order.who)
        self._pending, self._connection = changed, self._ctx.connection()
        self._count([one.id for one in changed], skipped=len(ids) - len(changed))

    def _treat(self, found: list[DeadLetter], room: int) -> None:
        treated = treat(self._sqs, self._prefix, self._tasks, self._order.filter, found, room=room)
        for one in found:
            if one.delivery.receipt not in treated.left:
                del self._held[one.delivery.message_id]
        self._pace(len(treated.sent))
        self._count(treated.sent, failed=treated.failed)

    def _count(self, done: Sequence[str | None], *, skipped: int = 0, failed: int = 0) -> None:
        """``done``: ids, None for what has none."""
        ids = [id_ for id_ in done if id_ is not None]
        canaries = ids if self._order.canaries < self._order.canary else []
        self._run(COUNT, str(len(done)), str(skipped), str(failed), canaries)
        if ids:
            self._run(AUDIT, json.dumps(ids))

    def _run(self, sql: str, *parameters: Any) -> None:
        self._ctx.connection().run(sql, self._ctx.task_id, *parameters)

    # --- Beside the transactions -----------------------------------------------------------------------------------

    def _send_pending(self, session: Session) -> None:
        """After a commit: what it promised goes out at once. The sweep sends what this does not get to.

        The session can run nothing here, and its connection can.
        """
        if session.in_nested_transaction():
            return
        pending, self._pending = self._pending, []
        entries = {one.id: entry_of(self._prefix, one) for one in pending if one.after is State.PENDING}
        send(self._connection, self._sqs, entries)
        if any(one.after is State.ARCHIVED for one in pending):
            wake(self._sqs, self._prefix)  # which sends their dead letters

    def _give_back(self) -> None:
        """Let others see the letters of this queue that were looked at and left."""
        held, self._held = self._held, {}
        if held:
            self._sqs.set_visibility(self._queue, dict.fromkeys(held.values(), 0))

    def _pace(self, number: int) -> None:
        self._free_at = time.monotonic() + number / self._order.rate

    def _read_order(self) -> Order:
        rows = self._ctx.connection().run(ORDER, self._ctx.task_id)
        if not rows:
            raise SkipRetry("no bulk action has this id: they are begun by an operator's bulk or redrive")
        action, filter_, *rest = rows[0]
        return Order(action, FILTER.validate_python(filter_), *rest)
