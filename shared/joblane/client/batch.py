"""Batches: tasks whose common end starts a callback."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from joblane.enqueue.insert import insert_tasks
from joblane.enqueue.result import not_a_job
from joblane.enqueue.session import SessionTransaction, translated
from joblane.errors import BatchIdConflictError, EnqueueError, JobError
from joblane.record.flow.batches import CREATE, IS_OPEN, SEAL
from joblane.sqs.message import ID_PATTERN
from joblane.tasks.arguments import MANY, advised, with_payload
from joblane.tasks.job import Job, JobOptions, check_names
from joblane.tasks.unique import OnConflict

if TYPE_CHECKING:
    from types import TracebackType

    from joblane.enqueue.producer import Producer
    from joblane.enqueue.result import Enqueued
    from joblane.enqueue.session import AnySession
    from joblane.record.task.insert import NewTask
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

MAX_BATCH_ID = 90
"""A tag has at most 100 characters, and ``batch:`` is before the id."""
P = TypeVar("P", bound="Payload")


class Batch:
    """A batch of tasks, its *members*. :meth:`JobClient.batch` and :meth:`TaskContext.new_batch` make one.

    In ``with jobs.batch("import-7", on_end=Job(…), session=session) as batch:`` all members are enqueued in one
    transaction, and the end of the block seals the batch. If the block ends with an exception, neither the batch nor a
    member exists. Without ``with``, add members in any number of transactions, and call :meth:`seal` after the last.

    A callback runs when the batch is sealed and its members have ended. Its id is the batch's id with ``:on_end`` or
    ``:on_success``, so it exists once. A member that is redriven after ``on_end`` does not start it again. An empty
    batch starts both callbacks at its seal.
    """

    id: str
    """Id of the batch."""

    def __init__(
        self,
        producer: Producer,
        id: str,  # noqa: A002
        session: AnySession | None,
        *,
        on_end: Job | None = None,
        on_success: Job | None = None,
        links: Mapping[str, Any] | None = None,
        of_member: bool = False,
    ) -> None:
        """``links``: the relations of its tasks to the run that makes the batch, or whose task is a member of it. None:
        no run does. ``of_member``: a running member, which holds the batch open, has this object to add members."""
        if not isinstance(id, str) or not ID_PATTERN.fullmatch(id) or len(id) > MAX_BATCH_ID:
            raise EnqueueError("id", f"1 to {MAX_BATCH_ID} printable ASCII characters without spaces are required")
        self.id = id
        self._producer = producer
        self._given_session = session
        self._open: SessionTransaction | None = None
        """The transaction of the ``with`` block, inside of it."""
        self._of_member = self._exists = of_member
        self._run_links = links or {}
        self._callbacks = [
            _callback(producer, id, name, job, self._run_links)
            for name, job in (("on_end", on_end), ("on_success", on_success))
            if job is not None
        ]

    @with_payload
    def enqueue(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Enqueued:
        """Enqueue a member. Arguments and errors are those of :meth:`JobClient.enqueue`.

        If ``on_conflict="return"`` returns an existing task, this task does not become a member.

        Raises:
            EnqueueError: the batch is sealed, or an argument is wrong. Nothing was written or sent.
        """
        check_names(options)
        with self._adding() as transaction:
            return self._producer.enqueue_one(_member(Job(task, payload, **options)), transaction, self._links)

    @advised(MANY, EnqueueError)
    def enqueue_many(self, jobs: Iterable[Job]) -> list[Enqueued | JobError]:
        """Enqueue members. See :meth:`JobClient.enqueue_many`, and :meth:`enqueue`."""
        members = [_member(job, f"job {position}") for position, job in enumerate(jobs)]
        with self._adding() as transaction:
            return self._producer.enqueue_all(members, transaction, self._links)

    def seal(self) -> None:
        """Seal the batch: from now on only running members add members, by :attr:`TaskContext.batch`.

        It waits for open transactions of others that add members.

        Raises:
            EnqueueError: the batch is sealed already.
        """
        if self._of_member:
            raise EnqueueError("batch", f"{self.id!r} is sealed by its creator, not by a member")
        with self._adding() as transaction:
            now = datetime.now(UTC)
            transaction.run(SEAL, self._given())
            transaction.send_later([replace(task, delay=None, at=now) for task in self._callbacks])

    def __enter__(self) -> Self:
        if self._exists:
            raise EnqueueError("batch", f"{self.id!r} has members already; begin the block before the first one")
        self._block = self._one_transaction()
        self._block.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._block.__exit__(kind, error, at)

    if not TYPE_CHECKING:  # a type checker refuses it

        async def __aenter__(self) -> None:
            raise EnqueueError("batch", "use async with jobs.abatch(…)")

        async def __aexit__(self, *_: object) -> None:
            pass

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        """The ``with`` block. It is a savepoint of the caller's session, or a transaction of its own."""
        try:
            with self._joined() as self._open, self._open.session.begin_nested() as self._savepoint:
                with self._translated():
                    self._create(self._open)
                yield
                self.seal()
        finally:
            self._open = None
        self._exists = True

    @contextmanager
    def _joined(self) -> Iterator[SessionTransaction]:
        """Return the transaction of the caller's session, or one that commits at the end of the block."""
        if self._given_session is not None:
            transaction = SessionTransaction(self._given_session)
            self._producer.join(transaction)
            yield transaction
        else:
            with self._producer.own_session() as transaction:
                yield transaction

    @contextmanager
    def _adding(self) -> Iterator[SessionTransaction]:
        """Return the transaction in which members are added. The batch is open until it ends."""
        if self._open is not None:
            if not self._savepoint.is_active:
                raise EnqueueError("session", "commit or roll back after the block of the batch, not inside of it")
            with self._translated():
                yield self._open
            return
        with self._joined() as transaction, self._translated():
            if self._exists:
                if not self._of_member:
                    self._check_open(transaction)
                yield transaction
            else:
                with transaction.session.begin_nested():
                    self._create(transaction)
                    yield transaction
        self._exists = True

    def _translated(self) -> AbstractContextManager[None]:
        return nullcontext() if self._given_session is not None else translated()

    def _check_open(self, transaction: SessionTransaction) -> None:
        rows = transaction.run(IS_OPEN, self._given())
        if not rows:
            raise EnqueueError("batch", f"{self.id!r} does not exist: its transaction was rolled back")
        if not rows[0][0]:
            raise EnqueueError("batch", f"{self.id!r} is sealed; only a running member adds members, with ctx.batch")

    def _create(self, transaction: SessionTransaction) -> None:
        callbacks = {task.id.removeprefix(f"{self.id}:"): task.id for task in self._callbacks}
        if not transaction.run(CREATE, self._given(**callbacks)):
            raise BatchIdConflictError(self.id)
        if self._callbacks:  # the seal has their messages sent
            for result in insert_tasks(transaction.run, self._callbacks, room=len(self._callbacks)):
                if isinstance(result, JobError):
                    raise result

    @property
    def _links(self) -> dict[str, Any]:
        return {"batch": self.id, **self._run_links}

    def _given(self, **more: str) -> str:
        return json.dumps({"id": self.id, **more})


def _member(job: Job, name: str = "job") -> Job:
    if not isinstance(job, Job):
        raise not_a_job(name, job)
    if job.on_conflict == OnConflict.REPLACE:
        raise EnqueueError("on_conflict", "a member of a batch cannot replace another task; use 'return' or 'raise'")
    if job.debounce is not None:
        raise EnqueueError("debounce", "a task that is pushed would not become a member; enqueue it without the batch")
    return job


def _callback(producer: Producer, batch: str, name: str, job: object, links: Mapping[str, Any]) -> NewTask:
    """Check a callback. Raises :class:`EnqueueError`."""
    if not isinstance(job, Job):
        raise not_a_job(name, job)
    if job.task_id is not None or job.after:
        raise EnqueueError(name, "a callback has no task_id and no after of its own")
    if job.debounce is not None or job.on_conflict != OnConflict.RAISE:
        raise EnqueueError(name, "a callback is a task of its own: it has no debounce, and no on_conflict")
    try:
        task = producer.checked(replace(job, task_id=f"{batch}:{name}"))
    except EnqueueError as error:
        error.args = (f"{name}: {error}",)
        raise
    return producer.linked(task, {"callback_of": batch, **links})
