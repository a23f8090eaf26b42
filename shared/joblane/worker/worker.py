"""The worker handles a delivery in five steps: read, claim, run, finish, respond.

A worker serves one task type in one process. Its response lists the messages that stay in the queue. A message leaves
the queue only after its task has run and is committed, or waits in its row, or after its dead letter was sent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack

from joblane import telemetry
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import wake_after_commit
from joblane.errors import TaskCancelled, sqlstate, text_of
from joblane.names import SWEEP, queue_of
from joblane.quotas import FINISH_MARGIN, LEASE_MARGIN
from joblane.record.driver.connection import ADVICE, ROLLED_BACK, TIMED_OUT, is_of_row
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.row.states import State
from joblane.record.task.claim import Claim, Verdict, arrival, claim, refusal
from joblane.record.task.finish import LATER, cancel_requested, finish
from joblane.record.task.run_session import CANCELLED
from joblane.settings import SENTRY, is_on
from joblane.sqs.client import Entry
from joblane.sqs.dead_letter import NO_ROOM, fits, refused_dead_letter, with_id
from joblane.sqs.tick import tick_id
from joblane.tasks.event_kinds import LISTENERS, OBSERVERS
from joblane.worker import outcome
from joblane.worker.call import call_of
from joblane.worker.events import Ends
from joblane.worker.invocation import BatchResponse, Invocation, growing_seconds
from joblane.worker.run import KILL_MARGIN_SECONDS, Alarm, Run, Runner
from joblane.worker.run_log import Ended, RunLog, fields_of
from joblane.worker.verdict import decide

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.names import Queue
    from joblane.record.driver.connection import Connection
    from joblane.record.driver.database import Database
    from joblane.record.flow.free_slots import LimitNames
    from joblane.record.task.finish import Finish
    from joblane.sqs.client import Sqs
    from joblane.sqs.message import Received
    from joblane.tasks.task import Task
    from joblane.worker.printed import Printed

P = ParamSpec("P")
T = TypeVar("T")
MOST_SLOW_CLAIMS = 2
"""Claims of an invocation that may exceed the time limit: that of the batch, and one of a row that is too large."""


class WorkerOptions(TypedDict, total=False):
    """The optional arguments of a :class:`Worker`."""

    printed: Printed | None
    """Logs what handlers print. None: it stays on the standard output."""
    log: RunLog | None
    """The report of the invocations. None: a new one."""
    bus: EventBus | None
    """Gets the events of ended tasks. None: the worker sends none."""
    side: Database | None
    """The second connection to the database, if several workers of a process share it. None: one of its own."""


class Worker:
    """Serves one task type."""

    parks: ClassVar[bool] = False
    """True: it starts no run, see :func:`claim`."""

    def __init__(
        self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str, **options: Unpack[WorkerOptions]
    ) -> None:
        self.task, self.database, self.sqs, self.prefix = task, database, sqs, prefix
        self.logger = telemetry.logger()
        self.log = options.get("log") or RunLog(task)
        if is_on(SENTRY):
            from joblane.sentry import start

            start()
        self._queues: dict[str, Queue] = {}
        self._wakes = task.type != SWEEP  # it plans its next run itself, and would wake itself for ever
        producer, printed = Producer.within(database, sqs, prefix, task), options.get("printed")
        side, alarm = options.get("side") or database.another(), Alarm()
        self.runner = Runner(task, database, side, alarm, producer, self.log, printed, self.wake, call_of(task))
        self.ends = Ends(task, database, options.get("bus"), alarm, printed)

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Handle the messages of an invocation, which are in one lane."""
        if not deliveries:
            return BatchResponse()
        self.runner.producer.keeps_chain = len(deliveries) == 1 and not invocation.is_shared
        batch = (observed_batch() if OBSERVERS else Batch)(self, invocation, deliveries[0].queue)
        batch.handle(deliveries)
        return batch.respond()

    def queue_of(self, lane: str) -> Queue:
        """Return the queue of the lane if the type has a lane in it, else the type's home queue."""
        if (queue := self._queues.get(lane)) is None:
            queue = queue_of(self.prefix, lane)
            queue = self._queues[lane] = queue if queue in self.task.lanes else self.task.queue
        return queue

    def wake(self) -> None:
        """Make sure that a sweep follows a write."""
        if self._wakes and not self.sqs.covers(self.prefix):
            wake_after_commit(self.sqs, self.prefix)

    def write(self, statement: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a statement that writes and commits by itself. Raises :data:`DATABASE_ERRORS`."""
        self.wake()
        return self.database.call(statement, *args, **kwargs)


def has_time(task: Task[Any, Any], invocation: Invocation, runs: int = 1) -> bool:
    """True if runs of ``task`` that start now end before the invocation does, even if each takes all its timeout."""
    needed = runs * min(task.timeout, task.numbers.function_timeout - FINISH_MARGIN).total_seconds()
    return invocation.ends - time.monotonic() - KILL_MARGIN_SECONDS >= needed


@cache
def observed_batch() -> type[Batch]:
    """Return the variant of a batch whose runs are observed."""
    from joblane.worker.observed import ObservedRun, Observing

    return type("ObservedBatch", (Observing, Batch), {"run_type": ObservedRun})


class Batch:
    """The messages of one invocation: it reads, claims, runs and finishes them, and responds."""

    run_type: ClassVar[type[Run]] = Run

    def __init__(self, worker: Worker, invocation: Invocation, lane: str) -> None:
        self._worker, self._task, self._invocation = worker, worker.task, invocation
        self._lane, self._queue = lane, worker.queue_of(lane)
        self._response = BatchResponse()
        self._slow_claims = 0
        """Claims that have exceeded the time limit of a statement."""
        self._recorded: list[Ended] = []
        """The runs whose ends are recorded, for the log."""
        self._archived: list[Claim] = []
        """The tasks that a claim has archived, for the log."""
        self._ends: list[tuple[Claim, State]] = []
        """The ends that events or listeners may be for."""
        self._dead: list[Run] = []
        """Archived tasks whose dead letters are not sent yet."""
        self._follow_up: FollowUp | None = None
        """The work that follows the commits so far. None: there is none, as after most commits."""

    def handle(self, deliveries: Sequence[Received]) -> None:
        """Handle all messages in one claim, or some of them alone."""
        to_claim_alone = self._run(self._claimable(deliveries))
        for id_, delivery in to_claim_alone.items():  # a lost run then counts for its own task and for no other
            if self._slow_claims and self._has_no_time():
                self._response.keep(delivery, growing_seconds(delivery.receives))
                continue
            for undecided in self._run({id_: delivery}).values():
                self._response.keep(undecided, 0)

    def respond(self) -> BatchResponse:
        """Report the ends, and return the response."""
        worker, response = self._worker, self._response
        if response.visibility:
            worker.sqs.set_visibility(self._lane, response.visibility)
        worker.log.write(self._queue, self._recorded, self._archived)
        if self._ends:
            worker.ends.follow(self._ends, self._invocation)
        return response

    def _has_no_time(self) -> bool:
        """True if the database is slow, not a row, or if slow claims have left too little time for a run."""
        return self._slow_claims > MOST_SLOW_CLAIMS or not has_time(self._task, self._invocation)

    # --- Read ------------------------------------------------------------------------------------------------------

    def _claimable(self, deliveries: Sequence[Received]) -> dict[str, Received]:
        """Return the messages that can be claimed, by id. Refuse the others, or send a copy with an id."""
        claimable: dict[str, Received] = {}
        forwarded: list[Received] = []
        entries: list[Entry] = []
        for delivery in deliveries:
            message, entry, id_ = delivery.message, None, ""
            if message is None:
                entry = refused_dead_letter(delivery, f"MessageError: {delivery.refusal}")
            elif (why := refusal(self._task, message, delivery.group, delivery.sent_at)) is not None:
                entry = refused_dead_letter(delivery, why)
            elif message.tick is not None:
                id_ = tick_id(self._task, message.type, message.tick, delivery.sent_at)
            elif message.id is None:
                copy = with_id(delivery, delivery.queue)
                entry = copy if fits(copy) else refused_dead_letter(delivery, NO_ROOM)
            else:
                id_ = message.id
            if entry is not None:
                forwarded.append(delivery)
                entries.append(entry)
            elif id_ in claimable:
                self._response.keep(delivery, 0)  # the other copy in this batch is handled first
            else:
                claimable[id_] = delivery
        if forwarded:
            self._send(forwarded, entries)
        return claimable

    # --- Claim, run, finish ----------------------------------------------------------------------------------------

    def _run(self, deliveries: Mapping[str, Received]) -> Mapping[str, Received]:
        """Claim, run and finish messages by id. Return the messages to claim alone, fewest attempts first."""
        worker, started = self._worker, time.perf_counter()
        claimed = self._claim(deliveries)
        if claimed is None:
            return deliveries
        for run in claimed:
            if run.claim.verdict is not Verdict.RUN:
                self._decide(run)
            if run.claim.serve or run.claim.release:
                self._note_claim(run.claim)
        self._follow()  # before the runs, which may take long
        runs = [run for run in claimed if run.claim.verdict is Verdict.RUN]
        worker.log.begin(len(runs), round((time.perf_counter() - started) * 1000))
        for run in runs:
            run.execute(worker.runner, self._queue, self._invocation)
            if run.claim.limits is not None:  # its slots are not kept until the last run of the batch has ended
                self._finish([run])
                self._free(run, run.claim.limits)
                self._follow()
        if without_limits := [run for run in runs if run.claim.limits is None]:
            self._finish(without_limits)
        if self._dead:
            self._send_dead_letters()
        self._follow()
        to_claim_alone = [run for run in claimed if run.claim.verdict is Verdict.CLAIM_ALONE]
        return {run.claim.id: run.received for run in sorted(to_claim_alone, key=lambda run: run.claim.attempt)}

    def _decide(self, run: Run) -> None:
        """Decide on a message whose task does not run now."""
        if run.claim.verdict is Verdict.ARCHIVED:
            self._archived.append(run.claim)
            self._note_end(run.claim, State.ARCHIVED)
        if run.claim.verdict in (Verdict.ARCHIVED, Verdict.SEND_DEAD_LETTER):
            self._dead.append(run)
        elif isinstance(decided := decide(run, self._log_fields(run.claim)), Entry):
            self._send([run.received], [decided])
        elif decided is not None:
            self._response.keep(run.received, decided)

    def _claim(self, deliveries: Mapping[str, Received]) -> list[Run] | None:
        """Claim all messages in one statement, in order. None: one is refused or too large, so claim each alone."""
        if not deliveries:
            return []
        task, queue = self._task, self._queue
        arrivals = [
            arrival(task, each.message, id_, queue, tenant=each.group, dead_generation=each.dead_generation)
            for id_, each in deliveries.items()
            if each.message is not None
        ]
        left = timedelta(seconds=self._invocation.ends - time.monotonic())
        lease = None if self._worker.parks else left + LEASE_MARGIN
        try:
            token = str(uuid.uuid4())
            self._worker.wake()
            claims = self._worker.database.call_again(claim, arrivals, lease, self._invocation.id, token)
        except DATABASE_ERRORS as error:
            timed_out = sqlstate(error) == TIMED_OUT
            self._slow_claims += timed_out
            if len(deliveries) > 1 and (timed_out or (is_of_row(error) and sqlstate(error) not in ADVICE)):
                return None
            self._keep_unclaimed(deliveries, error)
            return []
        return [self.run_type(delivery, claims[id_]) for id_, delivery in deliveries.items()]

    def _keep_unclaimed(self, deliveries: Mapping[str, Received], error: Exception) -> None:
        """Keep messages whose claim failed. They have used no attempt."""
        advice = ADVICE.get(sqlstate(error) or "", "")
        self._worker.logger.error(
            f"the claim failed in the database; {advice}SQS will deliver the messages again",
            extra={
                "task_type": self._task.type,
                "error": text_of(error),
                "messages": len(deliveries),
                "task_ids": list(deliveries),
            },
        )
        for delivery in deliveries.values():
            self._response.keep(delivery, growing_seconds(delivery.receives))

    def _finish(self, runs: Sequence[Run]) -> None:
        """Record the ends that are not recorded yet, in one statement, and decide on the messages."""
        if unrecorded := [run for run in runs if run.end is not None and not run.recorded]:
            self._record_all(unrecorded) if len(unrecorded) > 1 else self._record(unrecorded)
        for run in runs:
            end = run.end
            if end is None:
                self._response.keep(run.received)
            elif run.recorded:
                self._recorded.append((run.claim, end, run.received.group))
                self._note_end(run.claim, end.state)
                if end.look or end.released:
                    self._note_finish(end)
                if end.wakes:
                    self._to_follow().signalled.append(end.id)
                if end.state is State.ARCHIVED:
                    self._dead.append(run)
                elif end.state in LATER and not end.waits_long:
                    # A new message, which begins a chain, so that waits do not use up its receives or its chain.
                    if end.outcome == "rate_limited" or end.stop is not None:
                        self._send([run.received], [run.again(end.visibility_seconds)])
                    else:
                        self._response.keep(run.received, end.visibility_seconds)

    def _record_all(self, runs: Sequence[Run]) -> None:
        """Record the ends of runs, a stop at a wait in a statement of its own."""
        stopped = [run for run in runs if run.end is not None and run.end.stop is not None]
        for run in stopped:
            self._record([run])
        if ended := [run for run in runs if run not in stopped] if stopped else runs:
            self._record(ended)

    def _record(self, runs: Sequence[Run]) -> None:
        """Record the ends of runs: first those whose rows are free, then, after one wait, the others."""
        left = self._record_some(runs, waits=False)
        if not left:  # as for most
            return
        left = self._record_some(left, waits=True)
        cancelled = [run for run in left if self._is_cancelled(run)]
        for run in self._record_some(cancelled, waits=False):
            self._lose(run, "another transaction has locked the task's row")

    def _record_some(self, runs: Sequence[Run], *, waits: bool, again: bool = True) -> list[Run]:
        """Record ends and return the runs that are not recorded and not lost.

        ``again``: run by run, without a wait, if the database refuses one, or has to roll one back.
        """
        if not runs:
            return []
        ends = [run.end for run in runs if run.end is not None]
        try:
            finished_ids = self._worker.write(finish, ends, waits=waits)
        except DATABASE_ERRORS as error:
            if again and is_of_row(error) and (len(runs) > 1 or (sqlstate(error) or "").startswith(ROLLED_BACK)):
                return [left for run in runs for left in self._record_some([run], waits=False, again=False)]
            for run in runs:
                self._lose(run, text_of(error))
            return []
        for run, end in zip(runs, ends, strict=True):
            run.recorded = end.id in finished_ids
        return [run for run in runs if not run.recorded]

    def _is_cancelled(self, run: Run) -> bool:
        """Give the run the end of a cancelled task if it has a cancel request. Otherwise its end cannot be recorded."""
        assert run.end is not None
        try:
            requested = self._worker.database.call(cancel_requested, run.end.id, run.end.token)
        except DATABASE_ERRORS as error:
            self._lose(run, text_of(error))
            return False
        if requested and run.end.state is not State.CANCELLED:
            run.end = outcome.failed(self._task, run.claim, TaskCancelled(CANCELLED), run.end.duration_ms)
            self._worker.log.price(run.claim, run.end)
            return True
        if requested is None:
            self._worker.logger.warning(
                "lease lost: the task was taken over by another run, or ended or deleted by an operator",
                extra=self._log_fields(run.claim),
            )
            self._response.keep(run.received)
        else:
            self._lose(run, "another transaction has locked the task's row")
        return False

    def _lose(self, run: Run, why: str) -> None:
        """Keep the message of a run whose end is not recorded."""
        self._worker.logger.error(
            "the end of a run could not be recorded; the run counts as lost, and the task runs again",
            extra=self._log_fields(run.claim) | {"error": why},
        )
        self._response.keep(run.received, growing_seconds(run.received.receives))

    # --- What follows the commits ----------------------------------------------------------------------------------

    def _note_end(self, claim: Claim, state: State) -> None:
        if LISTENERS or claim.events:  # most tasks have neither
            self._ends.append((claim, state))

    def _to_follow(self) -> FollowUp:
        if self._follow_up is None:
            self._follow_up = FollowUp()
        return self._follow_up

    def _note_claim(self, claim: Claim) -> None:
        """Note what follows a claim. The parents of a task that it has held may have ended since."""
        following = self._to_follow()
        if claim.serve and claim.limits is not None:
            following.freed.append(claim.limits)
        if claim.release:
            (following.children if claim.verdict is Verdict.HELD else following.ended).append(claim.id)

    def _note_finish(self, end: Finish) -> None:
        """Note the children that follow a finish."""
        following = self._to_follow()
        following.children += end.released
        if end.look:
            following.ended.append(end.id)

    def _free(self, run: Run, limits: LimitNames) -> None:
        """Note that a run does not use its slots any more."""
        following = self._to_follow()
        following.freed.append(limits)
        if run.end is not None and run.end.outcome == "rate_limited":
            following.delays.append((limits, run.end.delay_seconds))

    def _follow(self) -> None:
        """Do what follows the commits since the last call."""
        if self._follow_up is not None:
            following, self._follow_up = self._follow_up, None
            following.act(self._worker.sqs, self._worker.prefix, self._worker.write)

    # --- Send ------------------------------------------------------------------------------------------------------

    def _send_dead_letters(self) -> None:
        """Send the dead letters of archived tasks. Their marks follow."""
        runs, self._dead = self._dead, []
        dead_letters = [run.dead_letter((run.end or run.claim).reason or "archived") for run in runs]
        failed = self._send([run.received for run in runs], dead_letters)
        sent = [(run.claim.id, run.claim.generation) for n, run in enumerate(runs) if n not in failed]
        self._to_follow().dead += sent

    def _send(self, deliveries: Sequence[Received], entries: Sequence[Entry]) -> Iterable[int]:
        """Send one entry per message before the message is acknowledged. If SQS refuses the entry, keep the message.

        Returns the positions of the refused entries.
        """
        failed = self._worker.sqs.send_many(entries)
        for position, why in failed.items():
            fields = {"queue": entries[position].queue, "error": why}
            self._worker.logger.error("a message could not be forwarded", extra=fields)
            self._response.keep(deliveries[position], growing_seconds(deliveries[position].receives))
        return failed.keys()

    def _log_fields(self, claimed: Claim) -> dict[str, Any]:
        return fields_of(claimed) | {"task_type": self._task.type}
