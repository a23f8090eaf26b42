"""The worker handles a delivery in five steps: read, claim, run, finish, respond.

A worker serves one task type in one process. Its response lists the messages that stay in the queue. A message leaves
the queue only after its task has run and is committed, or waits in its row, or after its dead letter was sent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from joblane import telemetry
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import wake, wake_after_commit
from joblane.errors import UNDEFINED_FUNCTION, EnqueueError, TaskCancelled, sqlstate, text_of
from joblane.names import SWEEP, lane_name
from joblane.quotas import EARLY_RECEIVES, FINISH_MARGIN, LEASE_MARGIN, MAX_DELAY_SECONDS
from joblane.record.driver.connection import (
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    NO_SCHEMA,
    ROLLED_BACK,
    TIMED_OUT,
    is_of_row,
)
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.flow.free_slots import delay, serve
from joblane.record.flow.release import Release
from joblane.record.row.states import State
from joblane.record.task.claim import Claim, Verdict, arrival, claim
from joblane.record.task.dead_letters import mark_dead_sent, successor_entry
from joblane.record.task.finish import Finish, cancel_requested, finish
from joblane.record.task.run_session import CANCELLED
from joblane.sqs.client import Entry
from joblane.sqs.dead_letter import NO_ROOM, archived_dead_letter, fits, refused_dead_letter, with_id
from joblane.sqs.message import TICK_ID_PATTERN, Message
from joblane.sqs.received import Received
from joblane.sqs.tick import is_early, tick_id
from joblane.worker import outcome
from joblane.worker.alarm import Alarm
from joblane.worker.batch_response import BatchResponse, growing_seconds
from joblane.worker.events import Ends
from joblane.worker.run import KILL_MARGIN_SECONDS, Run, Runner
from joblane.worker.run_log import RunLog, fields_of
from joblane.worker.turns import send_turns

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.tasks.task import Task
    from joblane.worker.printed import Printed

ADVICE = {
    UNDEFINED_FUNCTION: "run `joblane migrate`; ",
    LOCK_NOT_AVAILABLE: "a table is locked (pg_blocking_pids() finds the holder); ",
    NO_SCHEMA: "run `joblane migrate`; ",
    INSUFFICIENT_PRIVILEGE: "run `joblane migrate`, which grants the rights; ",
}
"""SQLSTATE → what an operator can do."""
EARLY_TICK = "MessageError: tick: it is for a time after the message was sent, and only the scheduler sends ticks"
MOST_SLOW_CLAIMS = 2
"""Claims of an invocation that may exceed the time limit: that of the batch, and one of a row that is too large."""
LOCKED_SECONDS = 5
"""The first visibility timeout of a message whose row is locked. Another run's finish or an operator's edit holds a
lock for a short time, but a transaction that enqueues may hold it for minutes."""


class Options(TypedDict, total=False):
    """The optional arguments of a :class:`Worker`."""

    printed: Printed | None
    log: RunLog | None
    bus: EventBus | None


class Worker:
    """Serves one task type."""

    def __init__(
        self,
        task: Task[Any, Any],
        database: Database,
        sqs: Sqs,
        prefix: str,
        *,
        printed: Printed | None = None,
        log: RunLog | None = None,
        bus: EventBus | None = None,
    ) -> None:
        """``printed``: logs what handlers print. None: it stays on the standard output. ``log``: the report of its
        invocations; None: a new one. ``bus``: gets the events of ended tasks; None: the worker sends none."""
        self._task = task
        self._database = database
        self._sqs = sqs
        self._prefix = prefix
        self._logger = telemetry.logger()
        self._log = log or RunLog(task)
        self._wake: Callable[[], None] = partial(wake_after_commit, sqs, prefix)
        if task.type == SWEEP:
            self._wake = lambda: None  # it plans its next run itself, and would wake itself for ever
        producer = Producer.within(database, sqs, prefix, task)
        if task.is_async:
            import joblane.worker.async_call  # noqa: F401 - not in the time of its first run
        self._runner = Runner(task, database, database.another(), Alarm(), producer, self._log, printed, self._wake)
        self._ends = Ends(task, database, bus, self._runner.alarm, printed)
        self._lanes = {lane_name(prefix, queue, type_): queue for type_ in task.types for queue in task.lanes}

    def handle(self, event: Mapping[str, Any], lambda_context: Any) -> dict[str, list[dict[str, str]]]:
        """Lambda's entry: an SQS event in, a partial batch response out."""
        response = BatchResponse()
        deliveries = [Received.read(record) for record in event["Records"]]
        self._runner.producer.keeps_chain = len(deliveries) == 1
        to_claim_alone = self._run_batch(self._claimable(deliveries, response), response, lambda_context)
        for id_, delivery in to_claim_alone.items():  # a lost run then counts for its own task and for no other
            if response.slow_claims and self._has_no_time(response, lambda_context):
                response.keep(delivery, growing_seconds(delivery.receives))
                continue
            for undecided in self._run_batch({id_: delivery}, response, lambda_context).values():
                response.keep(undecided, 0)
        if response.visibility:
            self._sqs.set_visibility(deliveries[0].queue, response.visibility)
        self._log.write(self._lanes[deliveries[0].queue])
        self._ends.follow(lambda_context)
        return {"batchItemFailures": response.failures}

    def _has_no_time(self, response: BatchResponse, lambda_context: Any) -> bool:
        """True if the database is slow, not a row, or if slow claims have left too little time for a run."""
        needed = min(self._task.timeout, self._task.numbers.function_timeout - FINISH_MARGIN).total_seconds()
        left = lambda_context.get_remaining_time_in_millis() / 1000 - KILL_MARGIN_SECONDS
        return response.slow_claims > MOST_SLOW_CLAIMS or left < needed

    def _run_batch(  # noqa: PLR0912 - a row for each verdict
        self, deliveries: Mapping[str, Received], response: BatchResponse, lambda_context: Any
    ) -> Mapping[str, Received]:
        """Claim, run and finish messages by id. Return the messages to claim alone, fewest attempts first."""
        started = time.perf_counter()
        claimed = self._claim(deliveries, response, lambda_context)
        if claimed is None:
            return deliveries
        to_claim_alone: list[Run] = []
        runs: list[Run] = []
        archived: list[Run] = []
        for run in claimed:
            verdict, wait = run.claim.verdict, run.claim.wait_seconds
            match verdict:
                case Verdict.RUN:
                    runs.append(run)
                case Verdict.CLAIM_ALONE:
                    to_claim_alone.append(run)
                case Verdict.WAIT if wait <= MAX_DELAY_SECONDS:
                    self._keep_early(run, response)
                case Verdict.LEASED:
                    response.keep(run.received, wait + 1)
                case Verdict.LOCKED:
                    if run.received.receives > 1:  # the first time it may be another run's claim or finish
                        what = "the task's row is locked by another transaction; SQS will deliver the message again"
                        self._logger.warning(what, extra=self._log_fields(run.claim))
                    response.keep(run.received, growing_seconds(run.received.receives, LOCKED_SECONDS))
                case Verdict.ARCHIVED:
                    self._note_archived(run.claim)
                    archived.append(run)
                case Verdict.SEND_DEAD_LETTER:
                    archived.append(run)
                case Verdict.TAKEN:  # another task holds the unique key: the message stays a dead letter of this task
                    reason = run.claim.reason or "DuplicateTask: its unique key is held by another task"
                    self._send([run.received], [self._dead_letter(run, reason)], response)
                case Verdict.CONFLICT:
                    reason = f"IdConflict: {run.claim.id!r} is the id of another task, or of another payload"
                    self._send([run.received], [refused_dead_letter(run.received, reason)], response)
                case Verdict.REFUSED:
                    reason = f"the database cannot store this message: {run.claim.reason}"
                    self._send([run.received], [refused_dead_letter(run.received, reason)], response)
                case Verdict.WAIT | Verdict.HELD | Verdict.PAUSED | Verdict.ENDED | Verdict.OBSOLETE | Verdict.GONE:
                    fields = self._log_fields(run.claim) | {"verdict": verdict}
                    self._logger.info("message acknowledged", extra=fields)
        self._serve([run.claim for run in claimed if run.claim.serve])
        self._release_claimed([run.claim for run in claimed if run.claim.release])
        self._log.begin(len(runs), round((time.perf_counter() - started) * 1000))
        for run in runs:
            run.execute(self._runner, self._lanes[run.received.queue], lambda_context)
            if run.claim.limits is not None:  # its slots are not kept until the last run of the batch has ended
                archived += self._finish([run], response)
                self._delay(run)
                self._serve([run.claim])
        archived += self._finish([run for run in runs if run.claim.limits is None], response)
        if archived:
            self._send_dead_letters(archived, response)
        return {run.claim.id: run.received for run in sorted(to_claim_alone, key=lambda run: run.claim.attempt)}

    def _note_archived(self, claimed: Claim) -> None:
        """Note the end of a task that the claim has archived."""
        self._log.add_archived(claimed)
        self._ends.add(claimed, State.ARCHIVED)

    def _claimable(self, deliveries: Sequence[Received], response: BatchResponse) -> dict[str, Received]:
        """Return the messages that can be claimed, by id. Refuse the others, or send a copy with an id."""
        claimable: dict[str, Received] = {}
        forwarded: list[Received] = []
        entries: list[Entry] = []
        for delivery in deliveries:
            message, entry = delivery.message, None
            id_ = message.id if message is not None else None
            if message is None:
                entry = refused_dead_letter(delivery, f"MessageError: {delivery.refusal}")
            elif (refusal := self._refusal(message, delivery.group)) is not None:
                entry = refused_dead_letter(delivery, refusal)
            elif message.tick is not None and is_early(message.tick, delivery.sent_at):
                entry = refused_dead_letter(delivery, EARLY_TICK)
            elif message.tick is not None:
                id_ = tick_id(self._task, message.tick, delivery.sent_at)
            elif id_ is None:
                copy = with_id(delivery, delivery.queue)
                entry = copy if fits(copy) else refused_dead_letter(delivery, NO_ROOM)
            if entry is not None or id_ is None:
                forwarded.append(delivery)
                entries += [entry] if entry else []
            elif id_ in claimable:
                response.keep(delivery, 0)  # the other copy in this batch is handled first
            else:
                claimable[id_] = delivery
        if forwarded:
            self._send(forwarded, entries, response)
        return claimable

    def _refusal(self, message: Message, group: str | None) -> str | None:
        """Return the reason why a message cannot be claimed here, or None."""
        if message.type not in self._task.types:
            return f"MessageError: type: this is a lane of {self._task.type!r}, not of {message.type!r}"
        if message.rec:
            return None if message.id else "MessageError: id: a message that says rec has the id of its row"
        if TICK_ID_PATTERN.fullmatch(message.id or ""):
            return "MessageError: id: has the form of a tick's id, which only the scheduler gives"
        if self._task.flow is not None and self._task.flow.key:
            try:
                self._task.flow.row(self._task.type, self._task.as_written(message.payload or {}), group)
            except EnqueueError as error:
                return f"MessageError: {error}"
        return None

    def _claim(
        self, deliveries: Mapping[str, Received], response: BatchResponse, lambda_context: Any
    ) -> list[Run] | None:
        """Claim all messages in one statement, in order. None: one is refused or too large, so claim each alone."""
        if not deliveries:
            return []
        arrivals = [
            arrival(
                self._task,
                delivery.message,
                id_,
                self._lanes[delivery.queue],
                tenant=delivery.group,
                dead_generation=delivery.dead_generation,
            )
            for id_, delivery in deliveries.items()
            if delivery.message is not None
        ]
        lease = timedelta(milliseconds=lambda_context.get_remaining_time_in_millis()) + LEASE_MARGIN
        try:
            token = str(uuid.uuid4())
            self._wake()
            claims = self._database.call_again(claim, arrivals, lease, lambda_context.aws_request_id, token)
        except DATABASE_ERRORS as error:
            timed_out = sqlstate(error) == TIMED_OUT
            response.slow_claims += timed_out
            if len(deliveries) > 1 and (timed_out or (is_of_row(error) and sqlstate(error) not in ADVICE)):
                return None
            self._keep_unclaimed(deliveries, error, response)
            return []
        return [Run(delivery, claims[id_]) for id_, delivery in deliveries.items()]

    def _keep_unclaimed(self, deliveries: Mapping[str, Received], error: Exception, response: BatchResponse) -> None:
        """Keep messages whose claim failed. They have used no attempt."""
        advice = ADVICE.get(sqlstate(error) or "", "")
        self._logger.error(
            f"the claim failed in the database; {advice}SQS will deliver the messages again",
            extra={"error": text_of(error), "messages": len(deliveries), "task_ids": list(deliveries)},
        )
        for delivery in deliveries.values():
            response.keep(delivery, growing_seconds(delivery.receives))

    def _finish(self, runs: Sequence[Run], response: BatchResponse) -> list[Run]:
        """Record the ends that are not recorded yet, in one statement. Return the runs whose task is archived."""
        self._record([run for run in runs if run.end is not None and not run.recorded], response)
        archived: list[Run] = []
        for run in runs:
            end = run.end
            if end is None:
                response.keep(run.received)
            elif run.recorded:
                self._log.add(run.claim, end, run.received.group)
                self._ends.add(run.claim, end.state)
                if end.state is State.ARCHIVED:
                    archived.append(run)
                elif end.state in (State.RETRY, State.PENDING) and not end.waits_long:
                    if end.outcome == "rate_limited":  # a new message, so that waits do not use up its receives
                        self._send_again(run, end.visibility_seconds, response)
                    else:
                        response.keep(run.received, end.visibility_seconds)
        self._release_finished([run.end for run in runs if run.end is not None and run.recorded])
        return archived

    def _record(self, runs: Sequence[Run], response: BatchResponse) -> None:
        """Record the ends of runs: first those whose rows are free, then, after one wait, the others."""
        left = self._record_some(runs, response, waits=False)
        left = self._record_some(left, response, waits=True)
        cancelled = [run for run in left if self._is_cancelled(run, response)]
        for run in self._record_some(cancelled, response, waits=False):
            self._lose(run, "another transaction has locked the task's row", response)

    def _record_some(
        self, runs: Sequence[Run], response: BatchResponse, *, waits: bool, again: bool = True
    ) -> list[Run]:
        """Record ends and return the runs that are not recorded and not lost.

        ``again``: run by run, without a wait, if the database refuses one, or has to roll one back.
        """
        if not runs:
            return []
        ends = [run.end for run in runs if run.end is not None]
        try:
            self._wake()
            finished_ids = self._database.call(finish, ends, waits=waits)
        except DATABASE_ERRORS as error:
            if again and is_of_row(error) and (len(runs) > 1 or (sqlstate(error) or "").startswith(ROLLED_BACK)):
                return [left for run in runs for left in self._record_some([run], response, waits=False, again=False)]
            for run in runs:
                self._lose(run, text_of(error), response)
            return []
        for run, end in zip(runs, ends, strict=True):
            run.recorded = end.id in finished_ids
        return [run for run in runs if not run.recorded]

    def _is_cancelled(self, run: Run, response: BatchResponse) -> bool:
        """Give the run the end of a cancelled task if it has a cancel request. Otherwise its end cannot be recorded."""
        assert run.end is not None
        try:
            requested = self._database.call(cancel_requested, run.end.id, run.end.token)
        except DATABASE_ERRORS as error:
            self._lose(run, text_of(error), response)
            return False
        if requested and run.end.state is not State.CANCELLED:
            run.end = outcome.failed(self._task, run.claim, TaskCancelled(CANCELLED), run.end.duration_ms)
            self._log.price(run.claim, run.end)
            return True
        if requested is None:
            self._logger.warning(
                "lease lost: the task was taken over by another run, or ended or deleted by an operator",
                extra=self._log_fields(run.claim),
            )
            response.keep(run.received)
        else:
            self._lose(run, "another transaction has locked the task's row", response)
        return False

    def _lose(self, run: Run, why: str, response: BatchResponse) -> None:
        """Keep the message of a run whose end is not recorded."""
        self._logger.error(
            "the end of a run could not be recorded; the run counts as lost, and the task runs again",
            extra=self._log_fields(run.claim) | {"error": why},
        )
        response.keep(run.received, growing_seconds(run.received.receives))

    def _delay(self, run: Run) -> None:
        """Delay the widest limit of a task whose handler has raised RateLimited."""
        if run.end is None or run.end.outcome != "rate_limited" or run.claim.limits is None:
            return
        try:
            self._wake()
            self._database.call(delay, run.claim.limits, run.end.delay_seconds)
        except DATABASE_ERRORS as error:
            self._logger.warning(
                "a limit could not be delayed, so that its other tasks may be refused as well",
                extra={"error": text_of(error), "limits": [name for name in run.claim.limits if name]},
            )

    def _serve(self, claims: Sequence[Claim]) -> None:
        """Give the slots that claims have freed to the tasks that wait for them, and send these tasks' messages."""
        freed = [claim.limits for claim in claims if claim.limits is not None]
        if not freed:
            return
        try:
            self._wake()
            turns = self._database.call(serve, freed)
        except DATABASE_ERRORS as error:
            self._logger.warning(
                "slots of limits are free, and the tasks that wait for them could not be started; the next run with "
                "these limits, or the sweep, starts them",
                extra={"error": text_of(error), "limits": sorted({name for names in freed for name in names if name})},
            )
        else:
            send_turns(self._sqs, self._prefix, turns)

    def _release_claimed(self, claims: Sequence[Claim]) -> None:
        """Release the children of tasks that the claim has ended. Look once more for the parents of those it holds."""
        held = {claim.id for claim in claims if claim.verdict is Verdict.HELD}
        self._release([claim.id for claim in claims if claim.id not in held], held)

    def _release_finished(self, ends: Sequence[Finish]) -> None:
        self._release([end.id for end in ends if end.look], [child for end in ends for child in end.released])

    def _release(self, ended: Collection[str], children: Collection[str]) -> None:
        """Start the tasks whose parents have ended, and send their messages, for a limited time."""
        if not ended and not children:  # most messages
            return
        release = Release(ended, children)
        try:
            self._wake()
            for turns in release.steps(self._database.call):
                send_turns(self._sqs, self._prefix, turns)
        except DATABASE_ERRORS as error:
            self._logger.warning(
                "tasks whose parents have ended could not be started; the sweep starts them",
                extra={"error": text_of(error), "parents": list(ended), "task_ids": list(children)[:100]},
            )
        if not release.is_done:
            wake(self._sqs, self._prefix)

    def _send_dead_letters(self, runs: Sequence[Run], response: BatchResponse) -> None:
        """Send the dead letters of archived tasks, mark them as sent, and send the successors' messages."""
        dead_letters = [self._dead_letter(run, (run.end or run.claim).reason or "archived") for run in runs]
        failed = self._send([run.received for run in runs], dead_letters, response)
        sent = [(run.claim.id, run.claim.generation) for n, run in enumerate(runs) if n not in failed]
        try:
            self._wake()
            successors = self._database.call(mark_dead_sent, sent)
        except DATABASE_ERRORS as error:
            self._logger.warning(
                "a dead letter was sent but not marked; the sweep sends it once more, with the same id and generation",
                extra={"error": text_of(error), "task_ids": [id_ for id_, _ in sent]},
            )
        else:  # the sweep sends the messages that SQS does not accept here
            self._sqs.send_many([successor_entry(self._prefix, successor) for successor in successors])

    def _dead_letter(self, run: Run, reason: str) -> Entry:
        message = self._message(run, run.claim.payload)
        return archived_dead_letter(run.received.queue, message, reason, run.claim.generation, run.received.group)

    def _message(self, run: Run, payload: Any) -> Message:
        claimed, received = run.claim, run.received.message
        type_ = received.type if received else self._task.type  # the message may have an older name
        return Message(type_, claimed.id, payload, rec=True, schema=claimed.schema, headers=claimed.headers)

    def _keep_early(self, run: Run, response: BatchResponse) -> None:
        """Keep a message that is early until its task is due. If it was received often, a copy takes its place."""
        if run.received.receives > EARLY_RECEIVES:
            self._send_again(run, run.claim.wait_seconds, response)
        else:
            response.keep(run.received, run.claim.wait_seconds)

    def _send_again(self, run: Run, seconds: int, response: BatchResponse) -> None:
        """Send a copy of a message, whose receives are counted anew, and acknowledge the message."""
        entry = Entry(run.received.queue, self._message(run, None).encode(), seconds, run.received.group)
        self._send([run.received], [entry], response)

    def _send(self, deliveries: Sequence[Received], entries: Sequence[Entry], response: BatchResponse) -> Iterable[int]:
        """Send one entry per message before the message is acknowledged. If SQS refuses the entry, keep the message.

        Returns the positions of the refused entries.
        """
        failed = self._sqs.send_many(entries)
        for position, why in failed.items():
            fields = {"queue": entries[position].queue, "error": why}
            self._logger.error("a message could not be forwarded", extra=fields)
            response.keep(deliveries[position], growing_seconds(deliveries[position].receives))
        return failed.keys()

    def _log_fields(self, claimed: Claim) -> dict[str, Any]:
        return fields_of(claimed) | {"task_type": self._task.type}
