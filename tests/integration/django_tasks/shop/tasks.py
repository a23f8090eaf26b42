"""The tasks of the shop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.tasks import task

from joblane.django import current_run
from tests.integration.django_tasks.shop.models import Note

hooks: dict[str, Callable[[], object]] = {}
"""Functions of a test that run inside a task."""


class RefusedError(Exception):
    """An error of the shop."""


@task
def nothing(*args: Any, **kwargs: Any) -> None:
    return None


@task
async def nothing_async(*args: Any, **kwargs: Any) -> None:
    return None


@task
def meaning() -> int:
    return 42


@task
def echo(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


@task
def fail(text: str = "refused") -> None:
    raise RefusedError(text)


@task(queue_name="mail")
def fail_once() -> None:
    raise ValueError("the mail server said no")


@task(queue_name="mail")
def leave() -> None:
    raise SystemExit("leaves")


@task(queue_name="mail")
def fail_complex() -> None:
    raise ValueError(ValueError("inside"))


@task(queue_name="mail")
def return_complex() -> Any:
    return {"function": return_complex}


@task(takes_context=True)
def own_id(context: Any) -> list[str]:
    return [type(context).__name__, context.task_result.id]


@task(takes_context=True)
def attempt_of(context: Any, fails: int = 0) -> int:
    if context.attempt <= fails:
        raise RefusedError("again")
    return int(context.attempt)


@task
def write(text: str) -> str:
    Note.objects.create(text=text)
    for hook in list(hooks.values()):
        hook()
    return text


@task
async def write_async(text: str) -> str:
    await Note.objects.acreate(text=text)
    return text


@task
async def write_in_a_group(text: str) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(Note.objects.acreate(text=text))


@task
def nul() -> str:
    return "\0"


@task
def write_and_fail(text: str) -> None:
    Note.objects.create(text=text)
    raise RefusedError("after the write")


@task
def swallow(text: str) -> None:
    Note.objects.create(text=text)
    try:
        Note.objects.create(text=text)
    except IntegrityError:
        return


@task
def savepoint(text: str) -> None:
    Note.objects.create(text=text)
    try:
        with transaction.atomic():
            Note.objects.create(text=text)
    except IntegrityError:
        Note.objects.create(text=f"{text} again")


@task
def chain(text: str) -> str:
    Note.objects.create(text=text)
    return str(write.enqueue(f"{text}, second").id)


@task
def endless() -> None:
    endless.enqueue()


@task(queue_name="mail")
def sleep_in_query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("select 'an answer of another task', pg_sleep(30)")


@task(queue_name="loose")
def hide_timeout() -> None:
    try:
        sleep_in_query.func()
    except BaseException:
        raise RefusedError("hidden") from None


@task(queue_name="mail")
async def sleep_async() -> None:
    await asyncio.sleep(30)


@task
def report(steps: int) -> str | None:
    run = current_run()
    for step in range(steps if run else 0):
        run.progress(step + 1, steps)  # type: ignore[union-attr]
    return run.task_id if run else None


@task
def send_mail() -> str:
    return str(answer.using(queue_name="mail").enqueue().id)


@task
def leave_open() -> None:
    transaction.set_autocommit(False)
    Note.objects.create(text="open")


@task
def leave_atomic() -> None:
    transaction.atomic().__enter__()
    Note.objects.create(text="open")


@task
def break_at_commit() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "create temporary table owners (id int primary key); create temporary table things (owner int references"
            " owners deferrable initially deferred); insert into things values (987654321)"
        )


@task
def answer() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select 7")
        return int(cursor.fetchone()[0])


@task(queue_name="loose")
def write_loosely(text: str) -> None:
    Note.objects.create(text=text)
    for hook in list(hooks.values()):
        hook()
