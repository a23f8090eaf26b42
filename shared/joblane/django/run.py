"""The run of a Django task in a worker: setup, transaction, signals, and the errors that its result shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction
from traceback import format_exception
from typing import Any

from asgiref.sync import async_to_sync
from django.db import reset_queries
from django.tasks import TaskContext as DjangoContext
from django.tasks import TaskResultStatus, task_backends
from django.tasks.base import TaskError
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from joblane.django.backend import JoblaneBackend
from joblane.django.failures import describe, hide_rows, path_of
from joblane.django.payload import RUN, DjangoTask
from joblane.django.transaction import (
    DjangoTransaction,
    discard_connections,
    discard_open_connections,
    refresh_connections,
)
from joblane.errors import (
    HookError,
    JobError,
    LeaseLostError,
    RateLimited,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskCancelled,
    TaskTimeout,
)
from joblane.handler.context import TaskContext, session_of
from joblane.record.task.stop import WaitsOfRun
from joblane.worker.outcome import storable_result
from joblane.worker.run import TIMED_OUT

PATIENCE, DELAY = timedelta(hours=1), timedelta(minutes=3)
"""A task whose function is not registered waits this long for a deploy of its code, and is looked up again at this
interval."""
NO_WAITS = (
    "a Django task does not wait, because each run would repeat its work; wait in a task that is declared with @task, "
    "and send its signal from Django by jobs.signal(…, connection=django.db.connection)"
)
CANCEL_MARGIN_SECONDS = 1.0
"""A coroutine is cancelled this long before the alarm of the timeout, or a tenth of its time if that is shorter."""


def run_task(queue_name: str, payload: DjangoTask, ctx: TaskContext, *, atomic: bool) -> Any:
    """Run the registered task that the payload names, and return its return value as JSON."""
    token = RUN.set(ctx)
    try:
        backend, task = _find(queue_name, payload, ctx)
        return _run(backend, task, ctx, atomic=atomic)
    except BaseException as error:
        describe(error)
        raise
    finally:
        RUN.reset(token)


def _run(backend: JoblaneBackend, task: Any, ctx: TaskContext, *, atomic: bool) -> Any:

    session_of(ctx).waits = WaitsOfRun(NO_WAITS)
    refresh_connections()
    reset_queries()
    result = _result(backend, ctx)
    task_started.send(sender=type(backend), task_result=result)

    def fail(error: BaseException) -> None:
        if _is_last(error, ctx):
            _send_finished(backend, result, "FAILED", error=error)

    transaction = DjangoTransaction(backend.database, fail) if atomic else None
    try:
        if transaction is not None:
            transaction.begin()
            session_of(ctx).join(transaction)
        value = storable_result(normalize_json(_within_hooks(ctx, lambda: _call(task, result, ctx))))
        if transaction is not None:
            transaction.check()
        elif discard_open_connections():
            raise JobError("the task has left a transaction open: it is rolled back")
    except BaseException as error:
        interrupted = isinstance(error, TaskTimeout)
        if transaction is not None:
            transaction.roll_back(interrupted=interrupted)
        elif interrupted:
            discard_connections()
        else:
            discard_open_connections()
        fail(error)
        raise
    if transaction is None:
        _send_finished(backend, result, "SUCCESSFUL", value=value)
    else:
        transaction.after_commit(lambda: _send_finished(backend, result, "SUCCESSFUL", value=value))
    return value


def _find(queue_name: str, payload: DjangoTask, ctx: TaskContext) -> tuple[JoblaneBackend, Any]:
    """Return the backend and the task of a payload. A task that is not registered waits for a deploy of its code."""

    try:
        backend = task_backends[payload.backend] if payload.backend in list(task_backends) else None
        if not isinstance(backend, JoblaneBackend):
            raise InvalidTask(f"backend: TASKS has no {JoblaneBackend.__name__} named {payload.backend!r}")
        return backend, backend.task_of(payload.task, queue_name)
    except InvalidTask as error:
        [[enqueued_at]] = (
            session_of(ctx).database.get().run("select created_at from joblane.tasks where id = $1", ctx.task_id)
        )
        if datetime.now(UTC) - enqueued_at < PATIENCE:
            reason = f"it waits for a deploy: {error}"
            ctx.logger.warning(reason)
            raise Snooze(DELAY, reason) from None
        raise SkipRetry(str(error)) from None


def _result(backend: JoblaneBackend, ctx: TaskContext) -> Any:
    """Return the result of the running task. Raises :class:`JobError` if Django's database does not have the task."""

    try:
        return backend.get_result(ctx.task_id)
    except TaskResultDoesNotExist:
        raise JobError(
            f"DATABASES[{backend.database!r}] does not have this task: Django's database and DATABASE_URL have to name "
            "the same database, or OPTIONS['database'] of TASKS the alias of that database"
        ) from None


def _within_hooks(ctx: TaskContext, function: Callable[[], Any]) -> Any:
    """Call a function with the hooks of the run around it, inside of Django's transaction."""
    hooks = session_of(ctx).hooks
    return function() if hooks is None else hooks.call(function)


def _call(task: Any, result: Any, ctx: TaskContext) -> Any:

    arguments = [DjangoContext(task_result=result), *result.args] if task.takes_context else result.args
    if not iscoroutinefunction(task.func):
        return task.func(*arguments, **result.kwargs)

    return async_to_sync(_limited)(task.func, arguments, result.kwargs, ctx.remaining().total_seconds())


async def _limited(function: Any, args: list[Any], kwargs: dict[str, Any], seconds: float) -> Any:
    """Cancel the coroutine at its timeout. The alarm would interrupt only the thread that waits for it."""
    limit = asyncio.timeout(seconds - min(CANCEL_MARGIN_SECONDS, seconds / 10))
    try:
        async with limit:
            return await function(*args, **kwargs)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TaskTimeout(TIMED_OUT) from error


def _is_last(error: BaseException, ctx: TaskContext) -> bool:
    """True if no attempt follows this error."""
    match error:
        case TaskCancelled() | RevokeTask() | SkipRetry():
            return True
        case KeyboardInterrupt() | LeaseLostError() | Snooze() | RateLimited() | HookError(is_early=True):
            return False
        case _:
            return ctx.attempt > ctx.max_retry


def _send_finished(
    backend: JoblaneBackend, result: Any, status: str, *, value: Any = None, error: BaseException | None = None
) -> None:

    if error is not None:
        hide_rows(error)  # Django's receiver of the signal logs it
        result.errors.append(
            TaskError(exception_class_path=path_of(type(error)), traceback="".join(format_exception(error)))
        )
    object.__setattr__(result, "status", TaskResultStatus[status])
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "_return_value", value)
    task_finished.send_robust(type(backend), task_result=result)  # an error of a receiver does not replace the task's
