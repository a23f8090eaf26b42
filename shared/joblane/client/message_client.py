"""The client of a producer without a database: it only sends messages, and the worker writes the row of each.

A task can be lost between the caller's commit and the send.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from joblane import settings
from joblane.enqueue.check import check
from joblane.enqueue.result import Enqueued, check_each, enqueued
from joblane.errors import EnqueueError, JobError, SendError
from joblane.forking import follow_forks
from joblane.names import check_prefix
from joblane.sqs.client import Sqs
from joblane.tasks.arguments import with_payload
from joblane.tasks.event_kinds import ENQUEUEING
from joblane.tasks.job import NEED_A_ROW, Job, MessageOptions, check_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.enqueue.threads import Threads
    from joblane.record.task.insert import NewTask
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

P = TypeVar("P", bound="Payload")


OF_A_TRANSACTION = ("session", "connection", "after_commit")


class MessageClient:
    """Enqueues tasks without a database: it sends messages, and each worker writes the row when it receives one.

    So a task has no row before it runs, a delay is at most 15 minutes, a message has at most 1 MiB, and the options
    that need a row are refused: ``owner``, ``key``, ``after``, ``debounce``, and unique keys. One client serves any
    number of threads. It keeps its connections to SQS until :meth:`close`, or until the end of
    ``with MessageClient() as sender:``.
    """

    def __init__(self) -> None:
        self._sqs = Sqs()
        follow_forks(self, MessageClient._after_fork)
        if settings.is_on(settings.OTEL):
            from joblane.otel import start

            start()

    @with_payload
    def enqueue(self, task: Task[P, Any], payload: P, **options: Unpack[MessageOptions]) -> Enqueued:
        """Send the message of one task.

        Args:
            task: A function declared by ``@task``.
            payload: An instance of the task's payload class.
            options: The enqueue options that need no row, see :class:`~joblane.tasks.job.Job`.

        Raises:
            EnqueueError: an argument is wrong. Nothing was sent.
            SendError: SQS did not accept the message.
        """
        [result] = self._send([self._checked(_job(task, payload, options))])
        if isinstance(result, JobError):
            raise result
        return result

    def enqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Send the messages of many tasks, in batches.

        Returns a result for each job, in order. A job whose message SQS did not accept has a :class:`SendError` instead
        of a result.

        Args:
            jobs: The jobs. Each can have a ``task_id`` of its own.

        Raises:
            EnqueueError: an argument of a job is wrong. The message has the job's position. Nothing was sent.
        """
        return self._send(check_each(self._checked, jobs))

    @with_payload
    async def aenqueue(self, task: Task[P, Any], payload: P, **options: Unpack[MessageOptions]) -> Enqueued:
        """Send the message of one task as :meth:`enqueue` does, without blocking the event loop."""
        return await self._threads.call(partial(self.enqueue, task, payload, **options))

    async def aenqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Send the messages of many tasks as :meth:`enqueue_many` does, without blocking the event loop."""
        return await self._threads.call(partial(self.enqueue_many, list(jobs)))

    def close(self) -> None:
        """Close the connections to SQS. The client can be used again."""
        self._sqs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._threads.call(self.close, always=True)

    def _checked(self, job: Job) -> NewTask:
        if ENQUEUEING:  # most programs have no hooks, and do not import them
            from joblane.enqueue.hooks import with_hooks

            job = with_hooks(job)
        return check(job, record=False, prefix=self._prefix)

    def _send(self, tasks: Sequence[NewTask]) -> list[Enqueued | JobError]:
        if len(tasks) == 1:  # its error has boto3's as its cause
            try:
                self._sqs.send(tasks[0].entry)
            except SendError as error:
                return [error]
        failed = self._sqs.send_many([task.entry for task in tasks]) if len(tasks) > 1 else {}
        return [
            SendError(f"{task.entry.queue}: {failed[position]}")
            if position in failed
            else enqueued(task, task.entry.delay_seconds, sent=True)
            for position, task in enumerate(tasks)
        ]

    @cached_property
    def _prefix(self) -> str:
        return check_prefix(settings.prefix())

    @cached_property
    def _threads(self) -> Threads:
        """The threads of asynchronous callers."""
        from joblane.enqueue.threads import Threads

        return Threads()

    def _after_fork(self) -> None:
        """Make new threads."""
        self.__dict__.pop("_threads", None)


def _job(task: Task[P, Any], payload: P, options: MessageOptions) -> Job:
    """Return the job of a call. Raises :class:`EnqueueError` for an unknown option."""
    for name in OF_A_TRANSACTION:
        if name in options:
            raise EnqueueError(name, "a MessageClient does not write rows; use JobClient()")
    check_names(options, others=NEED_A_ROW)
    return Job(task, payload, **options)
