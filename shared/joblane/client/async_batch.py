"""Batches for ``async with``: the statements run in the greenlet of the caller's session, or in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from joblane.tasks.arguments import with_payload
from joblane.tasks.job import Job, JobOptions

if TYPE_CHECKING:
    from types import TracebackType

    from joblane.client.batch import Batch
    from joblane.enqueue.producer import Producer
    from joblane.enqueue.result import Enqueued
    from joblane.errors import JobError
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

P = TypeVar("P", bound="Payload")
T = TypeVar("T")


class AsyncBatch:
    """A batch in a coroutine, see :class:`Batch`. :meth:`JobClient.abatch` makes one.

    ``async with jobs.abatch("import-7", on_end=Job(…), session=session) as batch:`` is one transaction, as ``with`` of
    a :class:`Batch` is. Without ``async with``, call :meth:`seal` after the last member.
    """

    id: str
    """Id of the batch."""

    def __init__(self, batch: Batch, producer: Producer, *, has_session: bool) -> None:
        self.id = batch.id
        self._batch = batch
        self._producer = producer
        self._has_session = has_session
        self._lock = threading.Lock()

    @with_payload
    async def enqueue(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Enqueued:
        """Enqueue a member as :meth:`Batch.enqueue` does."""
        return await self._call(partial(self._batch.enqueue, task, payload, **options))

    async def enqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Enqueue members as :meth:`Batch.enqueue_many` does."""
        return await self._call(partial(self._batch.enqueue_many, [*jobs]))

    async def seal(self) -> None:
        """Seal the batch as :meth:`Batch.seal` does."""
        await self._call(self._batch.seal)

    async def __aenter__(self) -> Self:
        await self._call(self._batch.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._call(partial(self._batch.__exit__, kind, error, at), always=True)

    async def _call(self, call: Callable[[], T], *, always: bool = False) -> T:
        """``always``: a call in a thread runs even if the caller is cancelled, or its transaction would stay open."""
        if not self._has_session:
            return await self._producer.threads.call(partial(self._alone, call), always=always)
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(call)

    def _alone(self, call: Callable[[], T]) -> T:
        """Wait for a call before this one, whose caller was cancelled, and which still uses the session."""
        with self._lock:
            return call()
