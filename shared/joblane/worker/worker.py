"""The worker handles a delivery in five steps: read, claim, run, finish, respond.

A worker serves one task type in one process. Its response lists the messages that stay in the queue. A message leaves
the queue only after its task has run and is committed, or waits in its row, or after its dead letter was sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane import telemetry
from joblane.client import JobClient
from joblane.errors import UNDEFINED_FUNCTION, TaskCancelled, WrongStageError, sqlstate, text_of
from joblane.limits import LEASE_MARGIN, MAX_DELAY_SECONDS
from joblane.queues import lane_name
from joblane.record.claim import Claim, Verdict, arrival, claim
from joblane.record.connection import LOCK_NOT_AVAILABLE, is_unavailable
from joblane.record.dead_letters import mark_dead_sent, successor_entry
from joblane.record.finish import Finish, cancel_requested, finish
from joblane.record.run_session import CANCELLED
from joblane.record.states import State
from joblane.sqs.dead_letter import NO_ROOM, archived_dead_letter, fits, refused_dead_letter, with_id
from joblane.sqs.message import TICK_ID_PATTERN, Message
from joblane.sqs.received import Received
from joblane.sqs.tick import is_early, tick_id
from joblane.worker import outcome
from joblane.worker.batch_response import BatchResponse, growing_seconds
from joblane.worker.run import Alarm, Run, Runner
from joblane.worker.run_log import RunLog, fields_of

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.record.database import Database
    from joblane.sqs.client import Entry, Sqs

DATABASE_ERRORS = (PostgresError, OSError, WrongStageError)
EARLY_TICK = "MessageError: tick: its time is later than the message, which only the scheduler sends, at that time"
LOCKED_SECONDS = 5
"""The first visibility timeout of a message whose row is locked. Another run's finish or an operator's edit holds a
lock for a short time, but a transaction that enqueues may hold it for minutes."""


class Worker:
    """Serves one task type."""

    def __init__(self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str) -> None:
        self._task = task
        self._database = database
        self._sqs = sqs
        self._prefix = prefix
        self._logger = telemetry.logger()
        self._log = RunLog(task)
        client = JobClient.within(database, sqs, prefix)
        self._runner = Runner(task, database, database.another(), Alarm(), client, self._log)
        self._lanes = {lane_name(prefix, queue, type_): queue for type_ in task.types for queue in task.lanes}

    def handle(self, event: Mapping[str, Any], lambda_context: Any) -> dict[str, list[dict[str, str]]]:
        """Lambda's entry: an SQS event in, a partial batch response out."""
        response = BatchResponse()
        deliveries = [Received.read(record) for record in event["Records"]]
        to_claim_alone = self._run_batch(self._claimable(deliveries, response), response, lambda_context)
        for id_, delivery in to_claim_alone.items():  # a lost run then counts for its own task and for no other
            for undecided in self._run_batch({id_: delivery}, response, lambda_context).values():
                response.keep(undecided, 0)
        if response.visibility:
            self._sqs.set_visibility(deliveries[0].queue, response.visibility)
        self._log.write(self._lanes[deliveries[0].queue])
        return {"batchItemFailures": response.failures}

    def _run_batch(  # noqa: PLR0912 - a row for each verdict
        self, deliveries: Mapping[str, Received], response: BatchResponse, lambda_context: Any
    ) -> Mapping[str, Received]:
        """Claim, run and finish messages by id. Return the messages to claim alone, fewest attempts first."""
        started = time.perf_counter()
        claimed = self._claim(deliveries, response, lambda_context)
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
                    response.keep(run.received, wait)
                case Verdict.LEASED:
                    response.keep(run.received, wait + 1)
                case Verdict.LOCKED:
                    response.keep(run.received, growing_seconds(run.received.receives, LOCKED_SECONDS))
                case Verdict.ARCHIVED:
                    self._log.add_archived(run.claim)
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
                case Verdict.WAIT | Verdict.PAUSED | Verdict.ENDED | Verdict.OBSOLETE | Verdict.GONE:
                    fields = self._log_fields(run.claim) | {"verdict": verdict}
                    self._logger.info("message acknowledged", extra=fields)
        self._log.begin(len(runs), round((time.perf_counter() - started) * 1000))
        for run in runs:
            run.execute(self._runner, self._lanes[run.received.queue], lambda_context)
        archived += self._finish(runs, response)
        if archived:
            self._send_dead_letters(archived, response)
        return {run.claim.id: run.received for run in sorted(to_claim_alone, key=lambda run: run.claim.attempt)}

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
            elif (refusal := self._refusal(message)) is not None:
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

    def _refusal(self, message: Message) -> str | None:
        """Return the reason why a message cannot be claimed here, or None."""
        if message.type not in self._task.types:
            return f"MessageError: type: this is a lane of {self._task.type!r}, not of {message.type!r}"
        if message.rec:
            return None if message.id else "MessageError: id: a message that says rec has the id of its row"
        if TICK_ID_PATTERN.fullmatch(message.id or ""):
            return "MessageError: id: has the form of a tick's id, which only the scheduler gives"
        return None

    def _claim(self, deliveries: Mapping[str, Received], response: BatchResponse, lambda_context: Any) -> list[Run]:
        """Claim all messages in one statement, in order."""
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
            claims = self._database.call_again(claim, arrivals, lease, lambda_context.aws_request_id)
        except DATABASE_ERRORS as error:
            self._keep_unclaimed(list(deliveries.values()), error, response)
            return []
        return [Run(delivery, claims[id_]) for id_, delivery in deliveries.items()]

    def _keep_unclaimed(self, deliveries: Sequence[Received], error: Exception, response: BatchResponse) -> None:
        """Keep messages whose claim failed. They have used no attempt."""
        if sqlstate(error) == UNDEFINED_FUNCTION:
            advice = "run `joblane migrate`"
        elif sqlstate(error) == LOCK_NOT_AVAILABLE:
            advice = "a table is locked (pg_blocking_pids() finds the holder); SQS will deliver the messages again"
        elif is_unavailable(error) or isinstance(error, WrongStageError):
            advice = "SQS will deliver the messages again"
        else:
            advice = "are the migrations applied (joblane migrate)?"
        self._logger.error(
            "the claim failed in the database; " + advice,
            extra={"error": text_of(error), "messages": len(deliveries)},
        )
        for delivery in deliveries:
            response.keep(delivery, growing_seconds(delivery.receives))

    def _finish(self, runs: Sequence[Run], response: BatchResponse) -> list[Run]:
        """Record the ends that are not recorded yet, in one statement. Return the runs whose task is archived."""
        self._record([run for run in runs if run.end is not None and not run.recorded], response)
        archived: list[Run] = []
        for run in runs:
            if run.end is None:
                response.keep(run.received)
            elif run.recorded:
                self._log.add(run.claim, run.end)
                if run.end.state is State.ARCHIVED:
                    archived.append(run)
                elif run.end.state in (State.RETRY, State.PENDING) and not run.end.waits_long:
                    response.keep(run.received, run.end.visibility_seconds)
        return archived

    def _record(self, runs: Sequence[Run], response: BatchResponse) -> None:
        if not runs:
            return
        ends = [run.end for run in runs if run.end is not None]
        try:
            finished_ids = self._database.call(finish, ends)
        except DATABASE_ERRORS as error:
            if len(runs) > 1 and isinstance(error, PostgresError) and not is_unavailable(error):
                for run in runs:
                    self._record([run], response)
                return
            message = "the end of a run could not be recorded; the run counts as lost"
            self._logger.error(message, extra={"error": text_of(error)})
            for run in runs:
                response.keep(run.received, growing_seconds(run.received.receives))
            return
        for run, end in zip(runs, ends, strict=True):
            run.recorded = end.id in finished_ids
            if not run.recorded:
                self._record_cancelled(run, end, response)

    def _record_cancelled(self, run: Run, end: Finish, response: BatchResponse) -> None:
        """Record the run as cancelled if its task has a cancel request. Otherwise the run has lost its lease."""
        if end.state is not State.CANCELLED and self._cancel_requested(end):
            run.end = outcome.failed(self._task, run.claim, TaskCancelled(CANCELLED), end.duration_ms)
            self._log.price(run.claim, run.end)
            self._record([run], response)
        else:
            self._logger.warning("lease lost: another run holds the task", extra=self._log_fields(run.claim))
            response.keep(run.received)

    def _cancel_requested(self, end: Finish) -> bool:
        try:
            return self._database.call(cancel_requested, end.id, end.token)
        except DATABASE_ERRORS:  # unknown: the message stays in the queue, and its next delivery asks again
            return False

    def _send_dead_letters(self, runs: Sequence[Run], response: BatchResponse) -> None:
        """Send the dead letters of archived tasks, mark them as sent, and send the successors' messages."""
        dead_letters = [self._dead_letter(run, (run.end or run.claim).reason or "archived") for run in runs]
        failed = self._send([run.received for run in runs], dead_letters, response)
        sent = [(run.claim.id, run.claim.generation) for n, run in enumerate(runs) if n not in failed]
        try:
            successors = self._database.call(mark_dead_sent, sent)
        except DATABASE_ERRORS as error:  # the sweep sends it once more, with the same id and generation
            self._logger.warning("a dead letter was sent but not marked", extra={"error": text_of(error)})
        else:  # the sweep sends the messages that SQS does not accept here
            self._sqs.send_many([successor_entry(self._prefix, successor) for successor in successors])

    def _dead_letter(self, run: Run, reason: str) -> Entry:
        claimed, received = run.claim, run.received
        type_ = received.message.type if received.message else self._task.type  # the message may have an older name
        message = Message(type_, claimed.id, claimed.payload, rec=True, schema=claimed.schema, headers=claimed.headers)
        return archived_dead_letter(received.queue, message, reason, claimed.generation, received.group)

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
