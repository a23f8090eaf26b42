"""The backend: it enqueues Django's tasks in the transaction of Django's connection, and reads their results."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from django.apps import apps
from django.core.checks import Error
from django.db import connections
from django.tasks import Task as DjangoTaskFunction
from django.tasks import TaskResult, TaskResultStatus, task_backends
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import DEFAULT_TASK_PRIORITY
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist
from django.utils.module_loading import module_has_submodule
from pydantic import ValidationError

from joblane import settings
from joblane.client.client import JobClient
from joblane.django.payload import CATEGORY, DjangoTask, current_run, enqueue_in_run, type_of
from joblane.django.results import read_row, result_of, run_after
from joblane.enqueue.check import new_id
from joblane.errors import DeclarationError, UnknownTypeError
from joblane.installation import install
from joblane.names import folder_of
from joblane.tasks.discovery import load
from joblane.tasks.job import JobOptions
from joblane.tasks.task import Task

OPTIONS = ("database", "functions", "modules")


class JoblaneBackend(BaseTaskBackend):  # type: ignore[misc]
    """A backend of Django's ``TASKS``. All tasks of one ``queue_name`` run in one Lambda function.

    ``OPTIONS``:

    - ``database``: alias in ``DATABASES`` of the database with Joblane's tables. Default: ``"default"``.
    - ``modules``: further modules with tasks. By default tasks are found in the module ``tasks`` of each installed
      application.
    - ``functions``: package of the handlers. Default: ``"functions"``.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        for name in self.options:
            if name not in OPTIONS:
                raise InvalidTaskBackend(
                    f"TASKS[{alias!r}]: OPTIONS: unknown option {name!r}; the options are {', '.join(OPTIONS)}"
                )
        modules = self.options.get("modules", ())
        if isinstance(modules, str):
            raise InvalidTaskBackend(f"TASKS[{alias!r}]: OPTIONS: modules: a list of module names is required")
        self.database: str = self.options.get("database", "default")
        self.functions: str | None = self.options.get("functions")
        self._modules: Sequence[str] = tuple(modules)

    def validate_task(self, task: Any) -> None:
        """Refuse a task that cannot run here. Raises Django's ``InvalidTask``."""
        if task.priority != DEFAULT_TASK_PRIORITY:
            raise InvalidTask(
                "Backend does not support setting priority of tasks. Declare their queue_name with "
                "queue=Queue.CRITICAL or queue=Queue.LOW instead."
            )
        super().validate_task(task)
        try:
            type_of(task.queue_name)
        except DeclarationError as error:
            raise InvalidTask(str(error)) from None

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Enqueue a task in the open transaction of Django's connection, or in a transaction of its own.

        Raises:
            InvalidTask: the task cannot run here. The message says what to change.
            TypeError, ValueError: an argument cannot be written as JSON. Joblane's ``EnqueueError`` is a ValueError.
            DatabaseUnavailableError: the database is unavailable.
        """
        self.validate_task(task)
        declared = self.declared(task.queue_name)
        if task.module_path not in self.registered:
            raise InvalidTask(not_registered(task.module_path))
        result = TaskResult(
            task=task,
            id=new_id(),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        payload = DjangoTask(task=task.module_path, args=result.args, kwargs=result.kwargs, backend=self.alias)
        at = task.run_after
        if at is not None and timezone.is_naive(at):  # Django allows it without USE_TZ
            at = timezone.make_aware(at)
        connection, options = connections[self.database], JobOptions(task_id=result.id, process_at=at)
        if (run := current_run()) is None:
            _client().enqueue(declared, payload, connection=connection, **options)
        else:
            enqueue_in_run(run, declared, payload, connection, options)
        object.__setattr__(result, "enqueued_at", timezone.now())
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task. It is read on Django's connection.

        Raises ``TaskResultDoesNotExist`` if the id is unknown, or belongs to another backend, or if the ``retention``
        of the queue is over.
        """
        row = read_row(self.database, result_id)
        if not row or not row["payload"] or not row["type"].startswith(f"{CATEGORY}:"):
            raise TaskResultDoesNotExist(result_id)
        try:
            payload = DjangoTask.model_validate(row["payload"])
            task = self.task_of(payload.task, row["type"].removeprefix(f"{CATEGORY}:"), run_after=run_after(row))
        except (ValidationError, InvalidTask) as error:  # no call of a task, or the code has changed since
            raise TaskResultDoesNotExist(f"{result_id}: {error}") from None
        if payload.backend != self.alias:
            raise TaskResultDoesNotExist(result_id)
        return result_of(row, payload, task, result_id)

    def check(self, **kwargs: Any) -> list[Any]:
        """Return the problems for Django's system checks."""
        return [
            Error(f"TASKS[{self.alias!r}]: {problem}", id=f"joblane.{number}", obj=self.alias)
            for number, problem in _problems(self)
        ]

    def declared(self, queue_name: str) -> Task[Any, Any]:
        """Return the declaration of a queue. Raises ``InvalidTask`` if it has no handler."""
        type_ = type_of(queue_name)
        try:
            declared = load(type_, self.functions)
        except UnknownTypeError:
            raise InvalidTask(no_handler(queue_name)) from None
        if declared.payload is not DjangoTask:
            raise InvalidTask(no_handler(queue_name))
        return declared

    @cached_property
    def registered(self) -> Mapping[str, Any]:
        """The Django tasks that may run: module path → ``Task``.

        A module is imported because an application or the settings name it, and never because a message names it.
        """
        names = [
            f"{config.name}.tasks"
            for config in apps.get_app_configs()
            if config.module is not None and module_has_submodule(config.module, "tasks")
        ]
        found: dict[str, Any] = {}
        for name in (*names, *self._modules):
            for item in vars(importlib.import_module(name)).values():
                if isinstance(item, DjangoTaskFunction):
                    found.setdefault(item.module_path, item)
        return found

    def task_of(self, path: str, queue_name: str, **changes: Any) -> Any:
        """Return the registered task of a path, in a queue. Raises ``InvalidTask``."""
        task = self.registered.get(path)
        if task is None:
            raise InvalidTask(not_registered(path))
        return task.using(backend=self.alias, queue_name=queue_name, **changes)


def not_registered(path: str) -> str:
    """Return the reason why a path does not run."""
    return (
        f"{path} is not the path of a registered Django task: define it by @task in the module `tasks` of an installed "
        "application, or name its module in OPTIONS['modules'] of TASKS"
    )


def no_handler(queue_name: str) -> str:
    """Return the reason why a queue does not run."""
    folder = folder_of(type_of(queue_name))
    return (
        f"Queue {queue_name!r} has no handler: write functions/{folder}/handler.py with the line "
        f"`{folder} = django_tasks({queue_name!r})`, or run `manage.py joblane new {type_of(queue_name)}`"
    )


def joblane_backends() -> list[JoblaneBackend]:
    """Return the backends of ``TASKS`` that are Joblane's."""
    return [backend for backend in task_backends.all() if isinstance(backend, JoblaneBackend)]


@cache
def _client() -> JobClient:
    return JobClient()


def _problems(backend: JoblaneBackend) -> Iterator[tuple[str, str]]:
    """Find the problems of a backend: a number, and a sentence with the change that solves it."""
    where = f"DATABASES[{backend.database!r}]"
    try:
        connection = connections[backend.database]
        if connection.vendor != "postgresql" or connection.Database.__name__ != "psycopg":
            yield "E001", f"{where}: PostgreSQL and psycopg 3 are required: {install('django')}"
    except ConnectionDoesNotExist:
        yield "E001", f"OPTIONS['database']: there is no {where}"
    try:
        _ = backend.registered  # as a worker imports them at its start
    except ImportError as error:
        yield "E002", f"a module with tasks cannot be imported: {error}"
    try:
        importlib.import_module(backend.functions or settings.functions())
        has_handlers = True
    except ImportError:  # their package is not here
        has_handlers = False
    for queue_name in sorted(backend.queues):
        try:
            type_of(queue_name)
            if has_handlers:
                backend.declared(queue_name)
        except (DeclarationError, InvalidTask) as error:
            yield "E003", f"QUEUES: {error}"
