"""The run of a bulk action, step by step: the changes of a step commit with its counts and with the task's cursor.

A redrive has three parts: it retries archived rows, sends back dead letters without a row, and deletes dead letters
that are obsolete. Its canary is the first of the tasks; the run waits for it without an open transaction, and an
invocation may end during the wait.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.enqueue.wake import wake, wake_after_commit
from joblane.errors import SkipRetry
from joblane.handler.context import TaskContext
from joblane.inspector.actions.changes import Changed, change, entry_of, send, serve_freed
from joblane.inspector.bulk import dead_letters
from joblane.inspector.bulk.blocks import stopping
from joblane.inspector.bulk.dead_letters import HIDDEN_SECONDS, DeadLetter, send_back
from joblane.inspector.bulk.start import FILTER, REDRIVE
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.sentences.blocks import blocks_text
from joblane.inspector.tasks import listing
from joblane.inspector.views import Block
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.record.row.states import LIVE_SQL, State
from joblane.sqs.client import Sqs
from joblane.sqs.depth import queue_depth_if_exists
from joblane.tasks.task import Task

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef
    from sqlalchemy.orm import Session

CHUNK = 100
"""Tasks of one commit; at most as many as the rate allows in a second."""
POLL_SECONDS = 1.0
PATIENCE = timedelta(minutes=10)
"""The time that the canary may take."""
MAX_RECEIVES = 2_000
"""Receives from one dead-letter queue, or parts of a receive of large messages; another redrive continues with the
rest."""

ORDER = """
select action, filter, who, rate, canary, cardinality(canary_ids), total, done, skipped, failed, stopped
  from joblane.bulks where id = $1
"""
# Starts a step's transaction, by way of SQLAlchemy, so that its session takes part in it.
LOCK = "select id from joblane.bulks where id = :id for update"
COUNT = """
update joblane.bulks set done = done + $2::int, skipped = skipped + $3::int, failed = failed + $4::int,
       canary_ids = canary_ids || $5::text[]
 where id = $1
"""
STOP = "update joblane.bulks set stopped = $2, failed = failed + $3::int, done = done - $3::int where id = $1"
AUDIT = """
insert into joblane.audit (who, action, target, reason, bulk)
select b.who, b.action, x.id, b.reason, b.id
  from joblane.bulks b, jsonb_array_elements_text(cast($2 as jsonb)) as x(id) where b.id = $1
"""
"""An entry for each task, so that the task's page shows who changed it."""
CLOSE = "update joblane.bulks set skipped = greatest(skipped, total - done - failed) where id = $1"
"""Count tasks as skipped that matched at the start, and no longer when the run reached them."""
SET_CANARY_END = """
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

LIVE_CANARY = f"""
select coalesce(array_agg(t.id), '{{}}') from joblane.bulks b join joblane.tasks t on t.id = any(b.canary_ids)
 where b.id = $1 and t.state in {LIVE_SQL}
"""


@dataclass(frozen=True, slots=True)
class Order:
    """The row of a bulk action: the request, and its counts. ``canaries``: tasks of the canary so far."""

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
    """The task's cursor. ``after``: position of the walk over rows. ``queue``: index of the dead-letter queue.

    ``passed``: the canary has completed.
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
    """A step: ``do`` runs in a transaction, which commits together with the cursor ``then``."""

    then: Position
    do: Callable[[], None]


class BulkRun:
    """A run of a task of type ``jobs:bulk``."""

    def __init__(self, ctx: TaskContext, sqs: Sqs, prefix: str, tasks: Mapping[str, Task[Any, Any]]) -> None:
        self._ctx, self._sqs, self._prefix, self._tasks = ctx, sqs, prefix, tasks
        self._order = self._read_order()
        redrives = self._order.action == REDRIVE
        self._action = BulkAction.RETRY if redrives else BulkAction(self._order.action)
        self._queues = dead_letters.queues_of(prefix, tasks, self._order.filter.types) if redrives else []
        self._pending: list[Changed] = []
        self._connection = ctx.connection()
        self._held: dict[str, str] = {}
        self._received: deque[MessageTypeDef] = deque()  # held, and not decoded yet
        self._queue = ""
        self._free_at = 0.0

    def run(self) -> Mapping[str, Any]:
        """Run to the end, or until the action is stopped. Returns the report."""
        from sqlalchemy import event, text

        event.listen(self._ctx.session, "after_commit", self._send_pending)
        try:
            for step in self._ctx.resume(self._steps, cursor=lambda step: asdict(step.then), chunk=1):
                self._pending = []
                wake_after_commit(self._sqs, self._prefix)
                self._ctx.session.execute(text(LOCK), {"id": self._ctx.task_id})
                step.do()
        finally:
            self._release()
        order = self._order
        return {name: getattr(order, name) for name in ("total", "done", "skipped", "failed", "stopped")}

    # --- Choice of the next step ----------------------------------------------------------------------------------

    def _steps(self, cursor: Any) -> list[Step]:
        """The next step; none at the end. No transaction is open here."""
        order = self._order = self._read_order()
        done = order.done + order.skipped + order.failed
        self._ctx.progress(done, max(order.total, done), order.stopped)
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        position = Position(**cursor) if cursor else Position()
        if order.stopped:
            return []
        waits, missing = order.canary > 0 and not position.passed, order.canary - order.canaries
        choices = [self._walk_rows, self._read_dead_letters]
        if waits and missing <= 0:
            choices.insert(0, self._await_canary)
        elif waits and order.canaries:  # if nothing more is found, these are the whole canary
            choices.append(self._await_canary)
        for choose in choices:
            step, position = choose(position, missing if waits and missing > 0 else CHUNK)
            if step is not None:
                return [step]
        return [] if position.closed else [Step(replace(position, closed=True), partial(self._run, CLOSE))]

    def _walk_rows(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """Change the next rows, in the order of their creation."""
        if position.walked:
            return None, position
        limit = min(room, CHUNK, self._order.rate)
        ids, after = listing.ids(self._ctx.connection(), self._order.filter, position.after, limit)
        then = replace(position, after=after, walked=after is None)
        if not ids and then.walked:
            return None, then
        if self._order.canary and not position.passed and (stopped := self._stopping(ids)):
            reason = f"the canary was not sent: {blocks_text(stopped)}; no task was sent"
            reason = reason.replace("no task", "no other task") if self._order.canaries else reason
            return Step(position, lambda: self._run(STOP, reason, "0")), position
        self._pace(len(ids))
        return Step(then, partial(self._change, ids) if ids else lambda: None), position

    def _read_dead_letters(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """Send back the next dead letters. A queue is finished if it has no new messages, visible or in flight.

        Messages may be in flight with an earlier run of this task, which was killed after it received them.
        """
        while position.queue < len(self._queues):
            queue = self._queues[position.queue]
            then = replace(position, receives=position.receives + 1)
            if position.receives < MAX_RECEIVES:
                found, elsewhere = self._receive(queue)
                if found:
                    return Step(then, partial(self._send_back, found, room)), position
                if elsewhere and position.waits * POLL_SECONDS < HIDDEN_SECONDS:
                    time.sleep(POLL_SECONDS)
                    return Step(replace(then, waits=position.waits + 1), lambda: None), position
            self._release()
            position = replace(position, queue=position.queue + 1, receives=0, waits=0)
        return None, position

    def _receive(self, queue: str) -> tuple[list[DeadLetter], bool]:
        """New dead letters, a few at a time, and True if the queue has messages that this run does not hold.

        Those of one receive could take 300 MB if they were decoded together.

        SQS counts them as waiting or in flight: a receive may find nothing of what was counted just before, because
        another consumer was faster or the response to an earlier try was lost.
        """
        more = False
        if not self._received:
            depth = queue_depth_if_exists(self._sqs, queue)
            if depth is None:
                return [], False
            # a short poll asks only some of SQS's servers; a long poll of an empty queue costs its whole wait
            messages = self._sqs.receive_many(queue, HIDDEN_SECONDS, wait_seconds=1 if depth.waiting else 0)
            self._received.extend(message for message in messages if message["MessageId"] not in self._held)
            self._queue = queue
            self._held |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
            more = depth.waiting + depth.in_flight > len(self._held)
        few: list[MessageTypeDef] = []
        size = 0
        while self._received and (not few or size + len(self._received[0]["Body"]) <= MAX_MESSAGE_BYTES):
            few.append(self._received.popleft())
            size += len(few[-1]["Body"])
        return dead_letters.read(self._ctx.connection(), self._tasks, few, self._queue) if few else [], more

    def _await_canary(self, position: Position, room: int) -> tuple[Step | None, Position]:
        """Check the canary; no step if all of it has completed."""
        self._release()
        [[number, completed, failed, error, late]] = self._ctx.connection().run(CANARY, self._ctx.task_id)
        if completed == number:
            return None, replace(position, passed=True)
        then = replace(position, polls=position.polls + 1)
        if failed or late:
            live = number - completed - failed
            parts = [f"{failed} of {number} failed again, the last with {error}"] if failed else []
            parts += [f"{live} of {number} had not ended" + ("" if failed else " in time")] if live else []
            if live and (stopped := self._stopping(self._ctx.connection().run(LIVE_CANARY, self._ctx.task_id)[0][0])):
                parts[-1] += f", as {blocks_text(stopped)}"
            reason = f"the canary failed: {'; '.join(parts)}; no other task was sent"
            return Step(then, lambda: self._run(STOP, reason, str(failed))), position
        if position.polls:
            time.sleep(POLL_SECONDS)
        return Step(then, lambda: self._run(SET_CANARY_END, str(PATIENCE.total_seconds()))), position

    # --- The actions of steps, in their transactions ---------------------------------------------------------------

    def _change(self, ids: list[str]) -> None:
        changed = change(self._ctx.connection(), self._action, ids, who=self._order.who, bulk=self._ctx.task_id)
        self._pending, self._connection = changed, self._ctx.connection()
        self._count([row.id for row in changed], skipped=len(ids) - len(changed))

    def _send_back(self, found: list[DeadLetter], room: int) -> None:
        sent = send_back(self._sqs, self._prefix, self._tasks, self._order.filter, found, room=room)
        for dead_letter in found:
            if dead_letter.delivery.receipt not in sent.kept:
                del self._held[dead_letter.delivery.message_id]
        self._pace(len(sent.ids))
        self._count(sent.ids, failed=sent.failed)

    def _stopping(self, ids: Sequence[str]) -> tuple[Block, ...]:
        return stopping(self._ctx.connection(), dead_letters.declared(self._tasks), ids)

    def _count(self, done: Sequence[str | None], *, skipped: int = 0, failed: int = 0) -> None:
        """``done``: ids, None for a message without an id."""
        ids = [id_ for id_ in done if id_ is not None]
        canaries = ids if self._order.canaries < self._order.canary else []
        self._run(COUNT, str(len(done)), str(skipped), str(failed), canaries)
        if ids:
            self._run(AUDIT, json.dumps(ids))

    def _run(self, sql: str, *parameters: Any) -> None:
        self._ctx.connection().run(sql, self._ctx.task_id, *parameters)

    # --- Outside of transactions -----------------------------------------------------------------------------------

    def _send_pending(self, session: Session) -> None:
        """After a commit, send the messages of its pending rows. If this process dies first, the sweep sends them.

        At this moment the session cannot run statements, but its connection can.
        """
        if session.in_nested_transaction():
            return
        pending, self._pending = self._pending, []
        entries = {row.id: entry_of(self._prefix, row) for row in pending if row.after is State.PENDING}
        send(self._sqs, entries)
        serve_freed(self._connection, self._sqs, self._prefix, pending)
        if any(row.after is State.ARCHIVED for row in pending):
            wake(self._sqs, self._prefix)  # the sweep sends their dead letters

    def _release(self) -> None:
        """Make the dead letters of this queue visible again that were received and not sent back."""
        held, self._held = self._held, {}
        self._received.clear()
        if held:
            self._sqs.set_visibility(self._queue, dict.fromkeys(held.values(), 0))

    def _pace(self, number: int) -> None:
        self._free_at = time.monotonic() + number / self._order.rate

    def _read_order(self) -> Order:
        rows = self._ctx.connection().run(ORDER, self._ctx.task_id)
        if not rows:
            raise SkipRetry("no bulk action has this id; an operator starts one with a bulk action or a redrive")
        action, filter_, *rest = rows[0]
        return Order(action, FILTER.validate_python(filter_), *rest)
