"""Schedules, for programs: ``JobClient.schedules``."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from joblane.enqueue.check_schedule import checked_name, checked_row
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.producer import transaction_of
from joblane.enqueue.schedule_changes import Cancelled, ScheduleChanges
from joblane.errors import ScheduleError
from joblane.record.schedules import PutSchedule, StoredSchedule, listing
from joblane.tasks.job import Job
from joblane.tasks.schedule import Missed, Schedule

if TYPE_CHECKING:
    from joblane.enqueue.insert import Execute
    from joblane.enqueue.producer import Producer
    from joblane.enqueue.result import Enqueued
    from joblane.enqueue.session import AnyAsyncSession, AnySession
    from joblane.enqueue.transaction import AfterCommit, AsyncAfterCommit
    from joblane.record.task.insert import NewTask
    from joblane.tasks.job import TickOptions
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

P = TypeVar("P", bound="Payload")
End = Callable[..., tuple[tuple[bool, Cancelled], list["NewTask"]]]
"""A change that ends the ticks of a schedule: a pause or a delete."""
MOST_LISTED = 1_000


class Schedules:
    """Schedules that a program makes at run time, for example one for each customer.

    A schedule is a row in the database, so there can be one for each customer. The sweep creates the tasks of its ticks
    up to 15 minutes ahead, and each runs at its time, to the second. A change is part of the caller's transaction with
    ``session`` or ``connection``, as an enqueue is; without them it commits at once.

    The tasks of ticks have ids of the form ``@name:2026-12-01T06:00Z:5``, and ``schedule`` in their options. The
    declaration holds for them as for every task: its limits, attempts, retention and redacted fields. If it has
    ``overlap="skip"`` or ``unique_for``, a tick is cancelled while the schedule's last task, or the holder of the
    unique key, is still live.

    :meth:`pause`, :meth:`resume`, :meth:`run_now` and :meth:`get` take a schedule of the code as well, by its full
    name: ``"mail:digest:0"``. The other methods take only schedules made at run time.

    Each method has an asynchronous form: ``aput``, ``aget``, ``alist``, ``apause``, ``aresume``, ``adelete`` and
    ``arun_now``, which take the sessions and connections of :meth:`JobClient.aenqueue`.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    # --- Changes -------------------------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        task: Task[P, Any],
        payload: P,
        schedule: Schedule | str,
        *,
        tenant: str | None = None,
        missed: Missed | str = Missed.LATEST,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
        **options: Unpack[TickOptions],
    ) -> PutSchedule:
        """Create a schedule, or replace the schedule of this name.

        The same call again changes nothing, unless the schedule has a problem: then its next ticks create tasks again.
        A change takes effect at the next tick: tasks that were created ahead and have not started are cancelled and
        created again. A retry does not bring cancelled tasks back. If neither the times nor the time zone change, no
        tick is lost, not even a late one. A paused schedule stays paused.

        Args:
            name: Name, unique in the stage: 1 to 128 printable ASCII characters without spaces. If customers choose
                names, put the customer into it, for example ``"acme:weekly"``.
            task: A function declared by ``@task``.
            payload: An instance of the task's payload class, the same for each tick.
            schedule: ``cron("0 6 * * *", timezone="Europe/Berlin")``, ``every(hours=1)``, or a cron expression in UTC.
                The shortest interval is a minute.
            tenant: Tenant of the tasks, as for an enqueue. It cannot be changed: delete the schedule first.
            missed: What happens to ticks that have no task 6 minutes after their time, for example because no sweep
                ran. ``"latest"``: the newest of them runs. ``"skip"``: none runs.
            session: As for :meth:`JobClient.enqueue`. The schedule exists once the session commits.
            connection: As for :meth:`JobClient.enqueue`.
            after_commit: As for :meth:`JobClient.enqueue`.
            options: The enqueue options of the tasks, see :class:`~joblane.tasks.job.Job`. A schedule refuses some.

        Raises:
            ScheduleError: the name, the times, ``missed`` or the tenant is wrong, or an option is not for schedules, or
                another transaction has changed the schedule and not ended within 5 seconds. Nothing was changed.
            EnqueueError: the task, the payload or another argument is wrong. Nothing was changed.
            DatabaseUnavailableError: the database is unavailable.
            WrongStageError: the database belongs to another stage.
        """
        where = transaction_of(session, connection, after_commit)
        row, times = self._row(name, Job(task, payload, tenant=tenant), schedule, missed, options)
        return self._producer.change(where, partial(self._changes.put, row=row, task=task, times=times))

    async def aput(
        self,
        name: str,
        task: Task[P, Any],
        payload: P,
        schedule: Schedule | str,
        *,
        tenant: str | None = None,
        missed: Missed | str = Missed.LATEST,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
        **options: Unpack[TickOptions],
    ) -> PutSchedule:
        """Create or replace a schedule as :meth:`put` does, without blocking the event loop."""
        where = transaction_of(session, connection, after_commit, is_async=True)
        row, times = self._row(name, Job(task, payload, tenant=tenant), schedule, missed, options)
        return await self._producer.achange(where, partial(self._changes.put, row=row, task=task, times=times))

    def pause(self, name: str, *, session: AnySession | None = None, connection: object = None) -> bool:
        """Pause a schedule. Its tasks that have not started are cancelled for good.

        Returns False if it was paused already. A task that was due more than a day ago is not cancelled.

        Args:
            name: Name of the schedule.
            session: As for :meth:`JobClient.enqueue`. After a rollback the schedule continues as before.
            connection: As for :meth:`JobClient.enqueue`. ``after_commit`` is not needed.

        Raises:
            UnknownScheduleError: no schedule has this name.
            ScheduleError: another transaction has changed the schedule or one of its tasks, and not ended within 5
                seconds. Nothing was changed.
            DatabaseUnavailableError: the database is unavailable.
        """
        return self._end(self._changes.pause, name, session, connection)

    async def apause(self, name: str, *, session: AnyAsyncSession | None = None, connection: object = None) -> bool:
        """Pause a schedule as :meth:`pause` does, without blocking the event loop."""
        return await self._aend(self._changes.pause, name, session, connection)

    def delete(self, name: str, *, session: AnySession | None = None, connection: object = None) -> bool:
        """Delete a schedule. Its tasks that have not started are cancelled for good.

        Returns False if no schedule has this name. Arguments and errors are those of :meth:`pause`.
        """
        return self._end(self._changes.delete, name, session, connection)

    async def adelete(self, name: str, *, session: AnyAsyncSession | None = None, connection: object = None) -> bool:
        """Delete a schedule as :meth:`delete` does, without blocking the event loop."""
        return await self._aend(self._changes.delete, name, session, connection)

    def resume(
        self,
        name: str,
        *,
        task: Task[Any, Any] | None = None,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
    ) -> bool:
        """Resume a paused schedule. It fires at its next time; ticks during the pause never run.

        Returns False if it was not paused.

        Args:
            name: Name of the schedule.
            task: The task of the schedule. None: the task of this project that has its type. If there is none here, a
                tick within the next 5 minutes may run up to 5 minutes late.
            session: As for :meth:`JobClient.enqueue`.
            connection: As for :meth:`JobClient.enqueue`.
            after_commit: As for :meth:`JobClient.enqueue`.

        Raises:
            UnknownScheduleError: no schedule has this name.
            ScheduleError: ``task`` is not of the schedule's type, or as for :meth:`pause`. Nothing was changed.
            DatabaseUnavailableError: the database is unavailable.
        """
        where = transaction_of(session, connection, after_commit)
        return self._producer.change(where, partial(self._changes.resume, name=checked_name(name), task=task))

    async def aresume(
        self,
        name: str,
        *,
        task: Task[Any, Any] | None = None,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
    ) -> bool:
        """Resume a paused schedule as :meth:`resume` does, without blocking the event loop."""
        where = transaction_of(session, connection, after_commit, is_async=True)
        return await self._producer.achange(where, partial(self._changes.resume, name=checked_name(name), task=task))

    def run_now(
        self,
        name: str,
        *,
        task: Task[Any, Any] | None = None,
        session: AnySession | None = None,
        connection: object = None,
        after_commit: AfterCommit | None = None,
    ) -> Enqueued:
        """Enqueue a task of a schedule now, even if the schedule is paused. Its ticks do not change.

        The task has a new id. It takes the unique key that a tick takes, so it is refused while a tick with
        ``overlap="skip"`` runs.

        Args:
            name: Name of the schedule.
            task: The task of the schedule. None: the task of this project that has its type.
            session: As for :meth:`JobClient.enqueue`.
            connection: As for :meth:`JobClient.enqueue`.
            after_commit: As for :meth:`JobClient.enqueue`.

        Raises:
            UnknownScheduleError: no schedule has this name.
            ScheduleError: ``task`` is not of the schedule's type, or is None and this project has no such task.
            UnreadablePayloadError: the stored payload does not fit the task's payload class any more.
            DuplicateTaskError: a live task holds the unique key.
            EnqueueError: a stored option does not fit the declaration any more.
            DatabaseUnavailableError: the database is unavailable.
        """
        where = transaction_of(session, connection, after_commit)
        job, links = self._producer.change(where, partial(self._changes.job_now, name=checked_name(name), task=task))
        return self._producer.enqueue_one(job, where, links)

    async def arun_now(
        self,
        name: str,
        *,
        task: Task[Any, Any] | None = None,
        session: AnyAsyncSession | None = None,
        connection: object = None,
        after_commit: AsyncAfterCommit | None = None,
    ) -> Enqueued:
        """Enqueue a task of a schedule now as :meth:`run_now` does, without blocking the event loop."""
        where = transaction_of(session, connection, after_commit, is_async=True)
        job, links = await self._producer.achange(
            where, partial(self._changes.job_now, name=checked_name(name), task=task)
        )
        return await self._producer.awaited(where, partial(self._producer.enqueue_one, job, where, links))

    # --- Reading -------------------------------------------------------------------------------------------------

    def get(self, name: str, *, session: AnySession | None = None, connection: object = None) -> StoredSchedule | None:
        """Return a schedule, or None if no schedule has this name.

        Args:
            name: Name of the schedule.
            session: A session of SQLAlchemy, in whose transaction it is read. None: the client's own.
            connection: A connection of psycopg or of Django, instead of ``session``.

        Raises:
            DatabaseUnavailableError: the database is unavailable.
        """
        return self._producer.change(
            _placed(session, connection), partial(self._changes.get, name=checked_name(name)), writes=False
        )

    async def aget(
        self, name: str, *, session: AnyAsyncSession | None = None, connection: object = None
    ) -> StoredSchedule | None:
        """Return a schedule as :meth:`get` does, without blocking the event loop."""
        where = _placed(session, connection, is_async=True)
        return await self._producer.achange(where, partial(self._changes.get, name=checked_name(name)), writes=False)

    def list(
        self,
        *,
        tenant: str | None = None,
        type: str | None = None,  # noqa: A002 - as the column
        after: str | None = None,
        limit: int = 100,
        session: AnySession | None = None,
        connection: object = None,
    ) -> Sequence[StoredSchedule]:
        """Return schedules in the order of their names.

        Args:
            tenant: Only schedules of this tenant. None: all schedules.
            type: Only schedules of this task type. None: all types.
            after: Only schedules whose names come after this name, the last of the previous page. None: from the first.
            limit: Maximum number of schedules. Range: 1 to 1000.
            session: As for :meth:`get`.
            connection: As for :meth:`get`.

        Raises:
            ScheduleError: an argument is wrong.
            DatabaseUnavailableError: the database is unavailable.
        """
        return self._producer.change(
            _placed(session, connection), self._listing(tenant, type, after, limit), writes=False
        )

    async def alist(
        self,
        *,
        tenant: str | None = None,
        type: str | None = None,  # noqa: A002 - as the column
        after: str | None = None,
        limit: int = 100,
        session: AnyAsyncSession | None = None,
        connection: object = None,
    ) -> Sequence[StoredSchedule]:
        """Return schedules as :meth:`list` does, without blocking the event loop."""
        where = _placed(session, connection, is_async=True)
        return await self._producer.achange(where, self._listing(tenant, type, after, limit), writes=False)

    # --- Checks ----------------------------------------------------------------------------------------------------

    @property
    def _changes(self) -> ScheduleChanges:
        return ScheduleChanges(self._producer.prefix)

    def _row(
        self, name: str, job: Job, schedule: Schedule | str, missed: Missed | str, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Schedule]:
        """Check the arguments of a put. Return the given columns of its row, and its times."""
        check = partial(self._producer.checked, is_enqueue=False)
        return checked_row(name, job, schedule, missed, options, check=check)

    def _listing(
        self, tenant: str | None, type_: str | None, after: str | None, limit: int
    ) -> Callable[[Execute], tuple[Sequence[StoredSchedule], builtins.list[NewTask]]]:
        if builtins.type(limit) is not int or not 1 <= limit <= MOST_LISTED:
            raise ScheduleError("limit", f"1 to {MOST_LISTED} is required, not {limit!r}")
        given = {"tenant": tenant, "type": type_, "after": after}
        for field, value in given.items():
            if value is not None and (not isinstance(value, str) or "\0" in value):
                raise ScheduleError(field, f"a text is required, not {builtins.type(value).__name__}")
        document = json.dumps(given | {"after": after or "", "number": limit})
        statement = listing(by_tenant=tenant is not None, by_type=type_ is not None)
        return partial(self._changes.found, statement=statement, document=document)

    def _end(self, end: End, name: str, session: AnySession | None, connection: object) -> bool:
        """Pause or delete a schedule. In the caller's transaction the sweep does what follows the commit."""
        where = _placed(session, connection)
        has_changed, cancelled = self._producer.change(where, partial(end, name=checked_name(name)))
        if where is None:
            self._serve(cancelled)
        return has_changed

    async def _aend(self, end: End, name: str, session: AnyAsyncSession | None, connection: object) -> bool:
        where = _placed(session, connection, is_async=True)
        has_changed, cancelled = await self._producer.achange(where, partial(end, name=checked_name(name)))
        if where is None:
            await self._producer.threads.call(partial(self._serve, cancelled))
        return has_changed

    def _serve(self, cancelled: Cancelled) -> None:
        """Start the tasks that wait for what cancelled tasks have given back, after the commit. Else the sweep does."""
        if cancelled.limits or cancelled.parents:
            self._producer.follow(FollowUp(freed=[*cancelled.limits], ended=[*cancelled.parents]))


def _placed(session: Any, connection: object, *, is_async: bool = False) -> Any:
    """Return the caller's transaction, for a call that sends nothing after the commit."""
    return transaction_of(session, connection, None if connection is None else _ignored, is_async=is_async)


def _ignored(_: object) -> None:
    pass
