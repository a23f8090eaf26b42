"""A delivery, straight down: read, claim, call, decide, finish, and say what becomes of the message.

One worker serves one task type in one process. It answers Lambda with the messages that stay in the queue; a message
leaves it only once what it stands for is safe: run and committed, waiting in its row, or sent on as a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane import telemetry
from joblane.client import JobClient
from joblane.context import TaskContext
from joblane.errors import (
    OUTCOMES,
    Continued,
    Interrupt,
    JobError,
    LeaseLostError,
    TaskCancelled,
    TaskTimeout,
    WrongStageError,
    sqlstate,
    text_of,
)
from joblane.limits import LEASE_MARGIN, MAX_DELAY_SECONDS
from joblane.options import NONE
from joblane.queues import lane_name
from joblane.record.claim import Claim, Incoming, Verdict, claim
from joblane.record.connection import REFUSED_CLASSES, is_unavailable
from joblane.record.database import Database
from joblane.record.dead_letters import mark_dead_sent, successor_entry
from joblane.record.finish import Finish, cancel_requested, finish
from joblane.record.states import State
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.dead_letter import NO_ROOM, archived_dead_letter, fits, refused_dead_letter, with_id
from joblane.sqs.message import TICK_ID_PATTERN, Message
from joblane.sqs.received import Received
from joblane.sqs.tick import tick_id
from joblane.sqs.traceparent import log_fields
from joblane.worker import outcome
from joblane.worker.batch_response import Settled, growing_seconds
from joblane.worker.cost import RunCosts
from joblane.worker.run_log import Report
from joblane.worker.timeout import OUTLIVED, Alarm

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.payload import Payload
    from joblane.record.connection import Connection

KILL_MARGIN_SECONDS = 3.0
"""The alarm fires this long before Lambda's own kill at the latest."""
LOCKED_SECONDS = 5
"""A row that stayed locked is somebody's finish or operator's edit: soon over."""
LOCK_NOT_AVAILABLE = "55P03"
UNIQUE_VIOLATION = "23505"
"""Another task took the unique key at the same moment; asked again, the claim sees it."""


class OneByOneError(JobError):
    """The batch cannot be claimed in one statement."""


class Worker:
    """Serves one task type."""

    def __init__(self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str) -> None:
        self._task = task
        self._database = database
        self._sqs = sqs
        self._alarm = Alarm()
        self._logger = telemetry.logger()
        self._report = Report(task.type)
        self._costs = RunCosts(task)
        self._beside = database.beside()
        self._client = JobClient.within(database, sqs, prefix)
        self._prefix = prefix
        self._lanes = {lane_name(prefix, queue, type_): queue for type_ in task.types for queue in task.lanes}

    # --- Down the path of a delivery -------------------------------------------------------------------------------

    def handle(self, event: Mapping[str, Any], lambda_context: Any) -> dict[str, list[dict[str, str]]]:
        """Lambda's entry: an SQS event in, a partial batch response out."""
        settled = Settled()
        deliveries = [Received.read(record) for record in event["Records"]]
        ready = self._readable(deliveries, settled)
        suspects = self._run_together(ready, settled, lambda_context)
        for delivery in suspects:  # each on its own: a loss then counts, and costs its neighbours nothing
            for undecided in self._run_together([delivery], settled, lambda_context):
                settled.keep(undecided, 0)
        if settled.visibility:
            self._sqs.set_visibility(deliveries[0].queue, settled.visibility)
        self._report.write(self._lanes[deliveries[0].queue])
        return settled.answer()

    def _readable(self, deliveries: Sequence[Received], settled: Settled) -> list[Received]:
        """Those that can be claimed. The others are sent on: to the dead letters, or once more with an id."""
        ready: list[Received] = []
        onward: list[tuple[Received, Entry]] = []
        seen: set[str] = set()
        for delivery in deliveries:
            if (refusal := self._refusal(delivery)) is not None:
                onward.append((delivery, self._refused(delivery, refusal)))
            elif _is_anonymous(delivery):
                onward.append((delivery, with_id(delivery, delivery.queue)))
            elif self._id(delivery) in seen:
                settled.keep(delivery, 0)  # the other copy of this batch decides first
            else:
                seen.add(self._id(delivery))
                ready.append(delivery)
        self._send_on(onward, settled)
        return ready

    def _run_together(self, deliveries: Sequence[Received], settled: Settled, lambda_context: Any) -> list[Received]:
        """Claim, run and finish. Returns those that must be claimed alone."""
        began = time.perf_counter()
        try:
            claims = self._claim(deliveries, settled, lambda_context)
        except OneByOneError:
            return list(deliveries)
        suspects: list[tuple[int, Received]] = []
        runs: list[tuple[Received, Claim]] = []
        letters: list[tuple[Received, Claim, str]] = []
        for delivery, claimed in claims:
            match claimed.verdict:
                case Verdict.RUN:
                    runs.append((delivery, claimed))
                case Verdict.ALONE:
                    suspects.append((claimed.attempt, delivery))
                case Verdict.WAIT if claimed.wait_seconds <= MAX_DELAY_SECONDS:
                    settled.keep(delivery, claimed.wait_seconds)
                case Verdict.LEASED:
                    settled.keep(delivery, claimed.wait_seconds + 1)
                case Verdict.GIVE_UP:
                    self._report.given_up(claimed)
                    letters.append((delivery, claimed, claimed.reason or "archived"))
                case Verdict.BURY:
                    letters.append((delivery, claimed, claimed.reason or "archived"))
                case Verdict.TAKEN:  # its unique key is another's now: a dead letter still, and still this one's
                    reason = claimed.reason or "DuplicateTask: its unique key is held by another task"
                    self._send_on([(delivery, self._letter(delivery, claimed, reason))], settled)
                case Verdict.CONFLICT:
                    reason = f"IdConflict: {claimed.id!r} is the id of another task, or of another payload"
                    self._send_on([(delivery, self._refused(delivery, reason))], settled)
                case Verdict.WAIT | Verdict.PAUSED | Verdict.DONE | Verdict.LEFTOVER | Verdict.GONE:
                    self._logger.info(
                        "message acknowledged",
                        extra=self._log_fields(claimed) | {"verdict": claimed.verdict},
                    )
        self._costs.share(len(runs), _ms_since(began))
        together = [(d, c, end) for d, c in runs if (end := self._run(d, c, settled, lambda_context)) is not None]
        letters += self._finish_together(together, settled)
        self._bury(letters, settled)
        return [delivery for _, delivery in sorted(suspects, key=lambda item: item[0])]

    # --- Claim -----------------------------------------------------------------------------------------------------

    def _claim(
        self, deliveries: Sequence[Received], settled: Settled, lambda_context: Any
    ) -> list[tuple[Received, Claim]]:
        """A claim per delivery, in order.

        Raises :class:`OneByOneError` where the statement failed for one row's sake: then each is claimed, run and
        finished before the next, or a loss would count against neighbours that were claimed beside it.
        """
        if not deliveries:
            return []
        incoming = [self._incoming(delivery) for delivery in deliveries]
        lease = timedelta(milliseconds=lambda_context.get_remaining_time_in_millis()) + LEASE_MARGIN
        try:
            claims = self._ask(incoming, lease, lambda_context.aws_request_id)
        except (PostgresError, OSError, WrongStageError) as error:
            self._forget_broken(error)
            if len(deliveries) > 1 and isinstance(error, PostgresError) and not is_unavailable(error):
                raise OneByOneError from error
            self._unclaimed(deliveries, error, settled)
            return []
        return [(delivery, claims[item.id]) for delivery, item in zip(deliveries, incoming, strict=True)]

    def _ask(self, incoming: Sequence[Incoming], lease: timedelta, request_id: str) -> dict[str, Claim]:
        """Claim; once more on a new connection where the old one has died since the last invocation.

        A claim whose answer was lost is safe to repeat: what it took has a lease, and is left alone.
        """
        was_open = self._database.usable
        try:
            return claim(self._idle_connection(), self._task, incoming, lease, request_id)
        except (PostgresError, OSError) as error:
            if not was_open or not is_unavailable(error):
                raise
            self._database.drop()
            return claim(self._database.get(), self._task, incoming, lease, request_id)

    def _unclaimed(self, deliveries: Sequence[Received], error: Exception, settled: Settled) -> None:
        """Nothing is spent by what could not be claimed."""
        code = sqlstate(error) or ""
        if code in (LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION):
            for delivery in deliveries:
                settled.keep(delivery, LOCKED_SECONDS)
        elif code.startswith(REFUSED_CLASSES):
            reason = f"the database cannot hold this message: {text_of(error)}"
            self._send_on([(delivery, self._refused(delivery, reason)) for delivery in deliveries], settled)
        else:
            migrated = is_unavailable(error) or isinstance(error, WrongStageError)
            advice = "it will be tried again" if migrated else "are the migrations applied (joblane migrate)?"
            self._logger.error(
                "the database did not take the claim; " + advice,
                extra=_error(error) | {"messages": len(deliveries)},
            )
            for delivery in deliveries:
                settled.keep(delivery, growing_seconds(delivery.receives))

    # --- Run -------------------------------------------------------------------------------------------------------

    def _run(self, delivery: Received, claimed: Claim, settled: Settled, lambda_context: Any) -> Finish | None:
        """Call the handler. Returns the finish that is still to be written, or None where nothing is."""
        left = lambda_context.get_remaining_time_in_millis() / 1000 - KILL_MARGIN_SECONDS
        own = self._own_seconds(claimed)
        limit = min(own, left)
        context = TaskContext(
            self._task,
            claimed,
            self._lanes[delivery.queue],
            seconds=limit,
            database=self._database,
            beside=self._beside,
            held=self._alarm.held,
            client=self._client,
            continues=self._task.resumable and left < own,
        )
        alarm = self._alarm.set(limit)
        started = time.perf_counter()
        error: BaseException | None = None
        written = False
        payload: Payload | None = None
        try:
            payload = self._task.read(claimed.payload, claimed.schema)
            with alarm:
                result = self._task.function(payload, context)
                context.flush()  # may wait for a lock, as any statement of the handler's
            end = outcome.completed(claimed, result, _ms_since(started))
            self._costs.note(end, claimed)
            written = self._complete(context, end)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # the one place where every end of a handler is decided
            self._alarm.silence()
            error = self._what_ended_it(raised)
            self._undo(context)
            if isinstance(error, TaskTimeout) and context.goes_on:
                error = Continued()
            end = outcome.failed(self._task, claimed, error, _ms_since(started), payload)
            self._costs.note(end, claimed)
        context.close()
        self._clean(context)
        if isinstance(error, LeaseLostError):
            self._logger.warning("lease lost: the work is rolled back, the message left", extra=context.log_fields)
            settled.keep(delivery)
            return None
        if written:
            self._report.add(claimed, end)
            return None
        return end

    def _what_ended_it(self, raised: BaseException) -> BaseException:
        """The timeout, for an error that it has left behind: a clean-up that failed, or a library that the alarm met in
        the middle of a change of its state. What a handler raises *from* it is the handler's word."""
        chosen = isinstance(raised, (*OUTCOMES, LeaseLostError, Interrupt)) or isinstance(raised.__cause__, TaskTimeout)
        if chosen or not self._alarm.fired:
            return raised
        timeout = TaskTimeout(OUTLIVED).with_traceback(raised.__traceback__)
        timeout.__cause__ = raised
        return timeout

    def _own_seconds(self, claimed: Claim) -> float:
        """What the attempt may still take: the sooner of timeout and deadline."""
        timeout = float(claimed.options.get("timeout") or self._task.timeout.total_seconds())
        own = timeout - claimed.used_ms / 1000
        return own if claimed.deadline is None else min(own, claimed.deadline - time.monotonic())

    def _complete(self, context: TaskContext, end: Finish) -> bool:
        """Commit the completion together with what the handler wrote.

        False where the handler wrote nothing: then the completion goes with those of the batch.
        Raises :class:`LeaseLostError`, :class:`TaskCancelled`, and whatever the commit meets.
        """
        if not context.touched:
            if self._database.usable and not self._database.get().idle:
                raise JobError(
                    "the handler left a transaction open on ctx.connection(); what shall commit goes by ctx.session"
                )
            return False
        with context.commits():
            if context.connection().idle:
                context.session.close()
                return False
            context.finish(end)
            context.session.commit()
        context.session.close()
        return True

    def _undo(self, context: TaskContext) -> None:
        """Roll back what the handler wrote. A connection that may be in the middle of something is thrown away."""
        if not context.touched:
            return
        from sqlalchemy.exc import SQLAlchemyError

        sound = self._database.usable and not self._alarm.fired
        if sound:
            try:
                context.session.close()  # rolls back
            except (SQLAlchemyError, PostgresError, OSError):
                sound = False
        if not sound:
            with suppress(SQLAlchemyError, AssertionError):  # interrupted in a change of its state, it is unable to
                context.session.invalidate()
            self._database.drop()

    def _clean(self, context: TaskContext) -> None:
        """Leave nothing of a handler's session for the next task: settings, role, locks, temporary tables."""
        if not context.used or not self._database.usable:
            return
        try:
            self._database.get().reset()
        except (PostgresError, OSError):
            self._database.drop()

    # --- Finish ----------------------------------------------------------------------------------------------------

    def _finish_together(
        self, ends: Sequence[tuple[Received, Claim, Finish]], settled: Settled
    ) -> list[tuple[Received, Claim, str]]:
        """Write the ends of a batch in one statement. Returns those that are owed a dead letter, with the reason."""
        if not ends:
            return []
        try:
            held = finish(self._idle_connection(), [end for _, _, end in ends])
        except (PostgresError, OSError) as error:
            self._forget_broken(error)
            if len(ends) > 1 and not is_unavailable(error):
                return [letter for one in ends for letter in self._finish_together([one], settled)]
            self._logger.error("the end of a run could not be recorded: it counts as lost", extra=_error(error))
            for delivery, _, _ in ends:
                settled.keep(delivery, growing_seconds(delivery.receives))
            return []
        letters: list[tuple[Received, Claim, str]] = []
        for delivery, claimed, end in ends:
            if end.id not in held:
                letters += self._not_held(delivery, claimed, end, settled)
                continue
            self._report.add(claimed, end)
            if end.state is State.ARCHIVED:
                letters.append((delivery, claimed, end.reason or "archived"))
            elif end.state in (State.RETRY, State.PENDING) and not end.waits_long:
                settled.keep(delivery, end.visibility_seconds)
        return letters

    def _not_held(
        self, delivery: Received, claimed: Claim, end: Finish, settled: Settled
    ) -> list[tuple[Received, Claim, str]]:
        """The run was asked to stop, or it is not the one that holds the task any more."""
        if end.state is not State.CANCELLED and self._cancel_requested(end):
            cancelled = TaskCancelled("the task was cancelled while it ran")
            stopped = outcome.failed(self._task, claimed, cancelled, end.duration_ms)
            self._costs.note(stopped, claimed)
            return self._finish_together([(delivery, claimed, stopped)], settled)
        self._logger.warning("lease lost: another run holds the task", extra=self._log_fields(claimed))
        settled.keep(delivery)
        return []

    def _cancel_requested(self, end: Finish) -> bool:
        try:
            return cancel_requested(self._idle_connection(), end.id, end.token)
        except (PostgresError, OSError) as error:  # not known: the message stays, and the next delivery finds out
            self._forget_broken(error)
            return False

    # --- Messages sent on: always before the one they came from is acknowledged --------------------------------------

    def _bury(self, letters: Iterable[tuple[Received, Claim, str]], settled: Settled) -> None:
        """Send the dead letters of archived tasks, mark them, and let their messages go."""
        if not (owed := list(letters)):
            return
        failed = self._send_on([(delivery, self._letter(delivery, c, why)) for delivery, c, why in owed], settled)
        sent = [(claimed.id, claimed.generation) for n, (_, claimed, _) in enumerate(owed) if n not in failed]
        try:
            successors = mark_dead_sent(self._database.get(), sent)
        except (PostgresError, OSError) as error:  # the sweep sends it once more, under the same id and generation
            self._forget_broken(error)
            self._logger.warning("a dead letter was sent but not marked", extra=_error(error))
        else:
            self._sqs.send_many([successor_entry(self._prefix, one) for one in successors])  # or the sweep does

    def _letter(self, delivery: Received, claimed: Claim, reason: str) -> Entry:
        assert delivery.message is not None
        message = Message(  # its own type: it may have come under an older name
            delivery.message.type, claimed.id, claimed.payload, rec=True, schema=claimed.schema, headers=claimed.headers
        )
        return archived_dead_letter(delivery.queue, message, reason, claimed.generation, delivery.group)

    def _refused(self, delivery: Received, reason: str) -> Entry:
        self._logger.warning(
            "message refused, sent to the dead letters",
            extra={"reason": reason, "message_id": delivery.message_id, "queue": delivery.queue},
        )
        return refused_dead_letter(delivery, reason)

    def _send_on(self, onward: Sequence[tuple[Received, Entry]], settled: Settled) -> set[int]:
        """Send; what SQS does not take keeps its message in the queue. Returns the positions of those."""
        failed = self._sqs.send_many([entry for _, entry in onward]) if onward else {}
        for position, why in failed.items():
            delivery = onward[position][0]
            self._logger.error(
                "a message could not be sent on", extra={"queue": onward[position][1].queue, "error": why}
            )
            settled.keep(delivery, growing_seconds(delivery.receives))
        return set(failed)

    # --- Small things ----------------------------------------------------------------------------------------------

    def _refusal(self, delivery: Received) -> str | None:
        """Why a message cannot be claimed here; None for a good one."""
        if delivery.message is None:
            return f"MessageError: {delivery.refusal}"
        if delivery.message.type not in self._task.types:
            return f"MessageError: type: this is a lane of {self._task.type!r}, not of {delivery.message.type!r}"
        if delivery.message.rec and delivery.message.id is None:
            return "MessageError: id: a message that says rec has the id of its row"
        if TICK_ID_PATTERN.fullmatch(delivery.message.id or "") and not delivery.message.rec:
            return "MessageError: id: has the form of a tick's id, which only the scheduler gives"
        if _is_anonymous(delivery) and not fits(with_id(delivery, delivery.queue)):
            return NO_ROOM
        return None

    def _incoming(self, delivery: Received) -> Incoming:
        message = delivery.message
        assert message is not None
        queue = self._lanes[delivery.queue]
        if message.rec:
            return Incoming(message, self._id(delivery), queue, delivery.group, delivery.dead)
        return Incoming(
            message,
            self._id(delivery),
            queue,
            delivery.group,
            delivery.dead,
            message.options.within(self._task) if message.options else NONE,
            self._task.key_of_message(queue, message.payload or {}, message.tick["schedule"] if message.tick else None),
        )

    def _id(self, delivery: Received) -> str:
        message = delivery.message
        assert message is not None
        if message.tick is not None:
            return tick_id(self._task, message.tick, delivery.sent_at)
        return message.id or delivery.message_id

    def _idle_connection(self) -> Connection:
        """The connection, for a statement that commits by itself; whatever was left open on it is thrown away."""
        connection = self._database.get()
        if connection.idle:
            return connection
        self._database.drop()
        return self._database.get()

    def _forget_broken(self, error: Exception) -> None:
        """A server's error leaves the connection usable; after anything else it is thrown away."""
        if is_unavailable(error) or not self._database.usable:
            self._database.drop()

    def _log_fields(self, claimed: Claim) -> dict[str, Any]:
        fields = {"task_id": claimed.id, "task_type": self._task.type, "attempt": claimed.attempt}
        return fields | log_fields(claimed.headers, claimed.id, claimed.run)


def _is_anonymous(delivery: Received) -> bool:
    """A foreign sender's message that has no id yet."""
    return delivery.message is not None and delivery.message.id is None and delivery.message.tick is None


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def _error(error: BaseException) -> dict[str, str]:
    return {"error": text_of(error)}
