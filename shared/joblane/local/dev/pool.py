"""The processes of one task type, and what Lambda does for them: receive, invoke, delete what was handled.

A type has one process at first. If it is busy and more messages wait, up to :data:`MOST` run at once, and no more than
its ``max_concurrency``. A save ends idle processes at once. A busy one may finish its tasks for :data:`GRACE_SECONDS`,
while new messages run the new code.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from joblane.errors import MessageError
from joblane.local.chains import REFUSED, invocation_header
from joblane.local.dev.log import RED, YELLOW, Log, short
from joblane.local.dev.processes import CLOSE_SECONDS, Process
from joblane.sqs.message import decode

if TYPE_CHECKING:
    from joblane.local.dev.queues import DevQueues
    from joblane.local.memory_queues import QueuedMessage

MOST = 3
"""Processes of one type."""
BUSY_SECONDS = 0.25
"""After this time of a run another process is started for the messages that wait."""
GRACE_SECONDS = 5.0
IDLE_SECONDS = 300.0
LONGEST_PAUSE_SECONDS = 10
"""The longest pause before a message whose process has ended is received again."""
REQUEST = "dev-"
"""The beginning of the ids of invocations."""

EndLeases = Callable[[str], Awaitable[Sequence[str]]]
"""Request id → the ids of the tasks that its process had claimed and not ended."""


class Worker:
    """A process and what it does. ``generation``: the code that it runs, by the number of saves."""

    run: asyncio.Task[None]
    process: Process | None = None
    given: asyncio.Future[tuple[Sequence[QueuedMessage], str]] | None = None
    """The messages for which it waits, with the trace header of their invocation."""
    request_id: str | None = None
    """Id of the invocation. None: it starts, or is idle."""
    batch: Sequence[QueuedMessage] = ()
    """The messages of the invocation."""
    task_ids: Sequence[str] = ()
    since = 0.0
    """The loop's time of the begin of the invocation."""

    def __init__(self, generation: int) -> None:
        self.generation = generation

    @property
    def is_free(self) -> bool:
        return self.given is not None and not self.given.done()


class Pool:
    """``start``: starts a process of the type, with a function for its lines of output. ``broken``: the handler cannot
    be imported, so that its messages stay in the queue."""

    def __init__(
        self,
        type_: str,
        declared: Mapping[str, Any],
        *,
        queues: DevQueues,
        log: Log,
        start: Callable[[str, Callable[[str], None]], Awaitable[Process]],
        end_leases: EndLeases,
        report_broken: Callable[[str, str], None],
    ) -> None:
        self.type = type_
        self.declared = declared
        self.broken = False
        self._queues, self._log = queues, log
        self._start, self._end_leases, self._report_broken = start, end_leases, report_broken
        self._generation = 0
        self._workers: list[Worker] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    # --- Messages to processes -------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Give the messages that are visible to free processes; start a process if that is needed."""
        if self.broken or self._closing:
            return
        while lane := self._lane():
            current = [worker for worker in self._workers if worker.generation == self._generation]
            worker = next((worker for worker in current if worker.is_free), None)
            if worker is None:
                self._grow(current)
                return
            if batch := self._queues.receive_some(lane, self.declared["batch_size"]):
                self._give(worker, batch)
        self._serve_at(self._next_visible_at())

    def _lane(self) -> str | None:
        now, times = (
            self._queues.seconds(),
            {lane: self._queues.next_visible_at(lane) for lane in self.declared["lanes"]},
        )
        return next((lane for lane, at in times.items() if at is not None and at <= now), None)

    def _next_visible_at(self) -> float | None:
        times = (self._queues.next_visible_at(lane) for lane in self.declared["lanes"])
        return min((at for at in times if at is not None), default=None)

    def _serve_at(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            seconds = max(0.001, at - self._queues.seconds())
            self._timer = asyncio.get_running_loop().call_later(seconds, self.serve)

    def _grow(self, current: Sequence[Worker]) -> None:
        if any(worker.request_id is None for worker in current):
            return  # it serves when it is ready
        if len(current) >= min(MOST, self.declared["max_concurrency"] or MOST):
            return  # it serves when a process is free
        loop = asyncio.get_running_loop()
        busy_for = min((loop.time() - worker.since for worker in current), default=BUSY_SECONDS)
        if busy_for < BUSY_SECONDS:
            self._serve_at(self._queues.seconds() + BUSY_SECONDS - busy_for)
            return
        worker = Worker(self._generation)
        self._workers.append(worker)
        worker.run = loop.create_task(self._follow(worker))

    # --- One process -----------------------------------------------------------------------------------------------

    def _give(self, worker: Worker, batch: Sequence[QueuedMessage]) -> None:
        traces = [message.trace for message in batch]
        trace = invocation_header(self.type, traces, allows_loops=self.declared["allows_loops"])
        if trace is None:
            self._log.say(f"{REFUSED.format(function=self.type)}.", RED)
            return
        assert worker.given is not None
        worker.given.set_result((batch, trace))
        worker.request_id = f"{REQUEST}{uuid.uuid4()}"
        worker.batch, worker.task_ids = batch, [_id(message) for message in batch]
        worker.since = asyncio.get_running_loop().time()

    async def _follow(self, worker: Worker) -> None:
        """Start a process, and invoke it until it ends, has the code before a save, or is idle for long."""
        process: Process | None = None
        try:
            process = worker.process = await self._start(
                self.type, lambda line: self._log.add(self.type, line, worker.request_id, worker.task_ids)
            )
            await self._import(process, worker.generation)
            while process.code is None and worker.generation == self._generation and not self._closing:
                worker.given = asyncio.get_running_loop().create_future()
                self.serve()
                try:
                    batch, trace = await asyncio.wait_for(worker.given, IDLE_SECONDS)
                except TimeoutError:
                    break
                await self._invoke(process, str(worker.request_id), batch, trace)
                worker.request_id, worker.batch, worker.task_ids = None, (), ()
        finally:
            self._workers.remove(worker)
            if process is not None:
                if worker.given is not None and worker.request_id is None:
                    await process.end_idle()
                process.kill()
                await process.close()
            self.serve()

    async def _import(self, process: Process, generation: int) -> None:
        """Wait until the process has imported its handler."""
        message = await process.receive()
        if message is not None and message["kind"] == "ready":
            return
        await process.close()
        if generation != self._generation or self._closing:
            return
        self.broken = True
        if message is not None:
            self._report_broken(message["folder"], message["text"])
        else:
            text = f"{self.type}: the process {process.end} while it imported the handler."
            self._report_broken(self.type, text)

    async def _invoke(self, process: Process, request_id: str, batch: Sequence[QueuedMessage], trace: str) -> None:
        seconds = self.declared["function_seconds"]
        messages = [message.parts() for message in batch]
        process.send({"request_id": request_id, "trace": trace, "seconds": seconds, "messages": messages})
        answer: Mapping[str, Any] | None = None
        try:
            answer = await asyncio.wait_for(process.receive(), seconds)
        except TimeoutError:
            why = f"the function's timeout of {seconds:.0f} s is over, as Lambda does"
            self._log.say(f"{self.type}: process {process.pid} is killed: {why}.", RED)
            process.kill()
        if answer is not None:
            self._queues.delete_handled(batch, answer["kept"])
            return
        await process.close()
        if self._closing:
            return
        # Its leases end, so that its tasks can run again at once.
        lost = await self._end_leases(request_id)
        text = f"{self.type}: process {process.pid} {process.end}"
        if lost:
            text += f" while it ran {', '.join(map(short, lost))}. The attempt counts, as on AWS"
        self._log.say(f"{text}. The message is delivered again.", YELLOW)
        self._queues.give_back(batch, min(max(message.receives for message in batch) - 1, LONGEST_PAUSE_SECONDS))

    # --- Reload and end --------------------------------------------------------------------------------------------

    def reload(self) -> list[str]:
        """End the processes with the old code. Return the ids of the tasks that they may still finish."""
        self._generation += 1
        self.broken = False
        running: list[str] = []
        for worker in self._workers:
            if worker.request_id is not None:
                running += worker.task_ids
                loop, request_id = asyncio.get_running_loop(), worker.request_id
                loop.call_later(GRACE_SECONDS, self._end_late, worker, request_id)
            elif worker.process is not None:
                worker.run.cancel()  # it kills its process
        if ":" not in self.type:  # a place hides the messages of a broken handler longer each time
            handled = [message for worker in self._workers for message in worker.batch]
            for lane in self.declared["lanes"]:
                waiting = [each for each in self._queues.queues[lane].values() if each.receives]
                self._queues.give_back([each for each in waiting if each not in handled], 0)
        asyncio.get_running_loop().call_soon(self.serve)
        return running

    def _end_late(self, worker: Worker, request_id: str) -> None:
        if worker.request_id == request_id and worker.process is not None and worker.process.code is None:
            self._log.say(
                f"{self.type}: {', '.join(map(short, worker.task_ids))} did not finish within {GRACE_SECONDS:.0f} s "
                "of the save; its process with the old code is ended.",
                YELLOW,
            )
            worker.process.kill()

    async def close(self, seconds: float) -> list[str]:
        """Stop receiving; give running tasks ``seconds`` to end. Return the ids of the tasks that did not."""
        self._closing = True
        self._serve_at(None)
        if busy := [worker.run for worker in self._workers if worker.request_id is not None]:
            await asyncio.wait(busy, timeout=seconds)
        left = [id_ for worker in self._workers for id_ in worker.task_ids]
        ending = [worker.run for worker in self._workers]
        for run in ending:
            run.cancel()
        if ending:
            await asyncio.wait(ending, timeout=CLOSE_SECONDS)
        return left


def _id(message: QueuedMessage) -> str:
    """Return the task's id of a message, as far as the message has it."""
    try:
        return decode(message.entry.body).id or message.message_id
    except MessageError:
        return message.message_id
