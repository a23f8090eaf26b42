"""The worker of a place: it gives each message to the worker of its type.

The handler of a type is imported with its first message, so that a process holds only the code of the types that it
runs. A handler that cannot be imported keeps its own messages in the queue, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import TaskTimeout, UnknownTypeError, text_of
from joblane.names import OWN_TYPES, SYSTEM_TYPES, aliases_in, types_at
from joblane.quotas import FINISH_MARGIN
from joblane.worker.invocation import BatchResponse, growing_seconds
from joblane.worker.router import Router
from joblane.worker.run import KILL_MARGIN_SECONDS, Alarm
from joblane.worker.run_log import RunLog
from joblane.worker.worker import Worker, has_time

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.sqs.message import Received
    from joblane.tasks.task import Task
    from joblane.worker.invocation import Invocation
    from joblane.worker.printed import Printed

NOT_IMPORTED = "the handler cannot be imported; its messages stay in the queue, and the other types still run"
NOT_ENDED = "its import has not ended before the function's timeout"
SPARE_SECONDS = FINISH_MARGIN.total_seconds() - KILL_MARGIN_SECONDS
"""An invocation that has taken less time still has all the time for the runs of a full batch."""


class Group:
    """Serves the task types of a place.

    ``types``: each type and alias that runs here → its type. ``aliases``: each alias of the project → its type.
    ``load``: imports the handler of a type and returns its task. ``worker``: makes the worker of a task, of the given
    class.
    """

    def __init__(
        self,
        types: Mapping[str, str],
        sqs: Sqs,
        prefix: str,
        *,
        aliases: Mapping[str, str],
        load: Callable[[str], Task[Any, Any]],
        worker: Callable[[type[Worker], Task[Any, Any]], Worker],
    ) -> None:
        self._types, self._sqs, self._load, self._worker = types, sqs, load, worker
        self._names = {**aliases, **types}
        self._strangers = Router({}, sqs, prefix, unknown="is declared")
        self._workers: dict[str | None, Worker] = {}
        self._alarm = Alarm()

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Handle the messages of an invocation, which are in one lane. See :meth:`Worker.handle`."""
        by_type: dict[str | None, list[Received]] = {}
        for delivery in deliveries:
            name = None if delivery.message is None else delivery.message.type
            type_ = self._names.get(name, name) if name else None
            by_type.setdefault(type_, []).append(delivery)
        invocation.is_shared = len(by_type) > 1
        response, time_at_start = BatchResponse(), _left(invocation)
        # The order is another one each time: if a run kills the process, the messages of its batch come back together.
        types = list(by_type)[:: 1 if deliveries[0].receives % 2 else -1]
        for type_ in sorted(types, key=lambda type_: type_ not in self._workers):  # an import may take all the time
            those = by_type[type_]
            worker = self._worker_of(type_, those, response, invocation)
            if worker is None:
                continue
            if (
                time_at_start - _left(invocation) > SPARE_SECONDS
                and isinstance(worker, Worker)
                and not worker.parks
                and not has_time(worker.task, invocation, len(those))
            ):
                _keep_for_next(response, those)  # imports, other runs or the database have taken the time of a run
                continue
            response.kept += worker.handle(those, invocation).kept
        if response.visibility:
            self._sqs.set_visibility(deliveries[0].queue, response.visibility)
        return response

    def _worker_of(
        self, type_: str | None, deliveries: Sequence[Received], response: BatchResponse, invocation: Invocation
    ) -> Worker | Router | None:
        """Return the worker of a type. None: it cannot be imported now, and ``response`` keeps its messages."""
        if type_ is None or type_.startswith((OWN_TYPES, SYSTEM_TYPES)):  # they never run on a place
            return self._strangers
        if (worker := self._workers.get(type_)) is not None:
            return worker
        seconds = _left(invocation) - KILL_MARGIN_SECONDS
        if seconds <= 0:
            _keep_for_next(response, deliveries)
            return None
        try:
            with self._alarm.set(seconds, 0):
                task = self._load(type_)
            made = self._worker(self._kind(type_), task)
        except (Exception, SystemExit, TaskTimeout) as error:  # whatever the module of a handler raises
            self._alarm.silence()
            if isinstance(error, UnknownTypeError) and type_ not in self._types.values():
                return self._strangers  # a container image can lack the handler of a type that runs here
            why = NOT_ENDED if isinstance(error, TaskTimeout) else text_of(error)
            telemetry.logger().error(
                NOT_IMPORTED, extra={"task_type": type_, "error": why, "messages": len(deliveries)}
            )
            for delivery in deliveries:
                response.keep(delivery, growing_seconds(delivery.receives))
            return None
        self._workers[type_] = made
        return made

    def _kind(self, type_: str) -> type[Worker]:
        if type_ in self._types.values():
            return Worker
        from joblane.worker.parking import ParkingWorker

        return ParkingWorker


def _keep_for_next(response: BatchResponse, deliveries: Sequence[Received]) -> None:
    """Leave messages to the next invocation. In an outage of the database their receives must last for a day."""
    for delivery in deliveries:
        response.keep(delivery, growing_seconds(delivery.receives, 1))


def _left(invocation: Invocation) -> float:
    return invocation.ends - time.monotonic()


def group_of(
    place: str,
    text: str,
    database: Database,
    sqs: Sqs,
    prefix: str,
    *,
    printed: Printed,
    bus: EventBus | None,
    log: Callable[[Task[Any, Any]], RunLog] = RunLog,
) -> Group:
    """Return the worker of a place, see :class:`Group`. The workers of its types share two connections.

    ``text``: the value of :data:`~joblane.names.PLACES`. ``log``: makes the report of each type.
    """
    from joblane.tasks.discovery import load

    side = database.another()

    def worker(kind: type[Worker], task: Task[Any, Any]) -> Worker:
        return kind(task, database, sqs, prefix, printed=printed, log=log(task), bus=bus, side=side)

    return Group(types_at(place, text), sqs, prefix, aliases=aliases_in(text), load=load, worker=worker)
