"""The cases of Django's immediate backend, for tasks that a worker runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.tasks import default_task_backend, task, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.test import override_settings
from django.utils import timezone

from joblane.django import JoblaneBackend
from joblane.testing import JobTester
from tests.integration.django_tasks.conftest import backend

Run = Callable[..., Any]


def test_the_backend_of_the_settings_is_joblanes(shop: Any) -> None:
    assert default_task_backend == task_backends["default"]
    assert isinstance(task_backends["default"], JoblaneBackend)
    flags = ("supports_defer", "supports_async_task", "supports_get_result", "supports_priority")
    assert [getattr(default_task_backend, flag) for flag in flags] == [True, True, True, False]
    assert (default_task_backend.alias, default_task_backend.options) == ("default", backend()["OPTIONS"])


@pytest.mark.parametrize("name", ["nothing", "nothing_async"])
def test_a_task_runs_and_its_result_shows_when(name: str, shop: Any, run: Run) -> None:
    task = getattr(shop, name)
    result = run(task, 1, two=3)
    assert (result.status, result.is_finished, result.return_value) == ("SUCCESSFUL", True, None)
    assert result.enqueued_at <= result.started_at <= result.last_attempted_at <= result.finished_at
    assert (result.task, result.args, result.kwargs, result.attempts) == (task, [1], {"two": 3}, 1)
    assert result.backend == "default"


def test_a_new_task_is_ready(shop: Any, django_jobs: JobTester) -> None:
    result = shop.meaning.enqueue()
    for shown in (result, shop.meaning.get_result(result.id)):
        assert (shown.status, shown.is_finished, shown.attempts) == ("READY", False, 0)
        assert (shown.started_at, shown.last_attempted_at, shown.finished_at) == (None, None, None)
        with pytest.raises(ValueError, match="not finished"):
            _ = shown.return_value
    assert result.enqueued_at is not None


@pytest.mark.parametrize("name", ["nothing", "nothing_async"])
def test_a_task_is_enqueued_and_read_asynchronously(name: str, shop: Any, django_jobs: JobTester) -> None:
    task = getattr(shop, name)
    result = async_to_sync(task.aenqueue)(1, two=3)
    django_jobs.drain()
    async_to_sync(result.arefresh)()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", None, 1)
    assert (result.task, result.args, result.kwargs) == (task, [1], {"two": 3})
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert async_to_sync(task.aget_result)(result.id) == result


def test_the_backend_enqueues_a_task_that_it_is_given(shop: Any, django_jobs: JobTester) -> None:
    results = [
        default_task_backend.enqueue(shop.meaning, (), {}),
        async_to_sync(default_task_backend.aenqueue)(shop.meaning, [], {}),
    ]
    django_jobs.drain()
    assert [default_task_backend.get_result(result.id).return_value for result in results] == [42, 42]


@pytest.mark.parametrize(
    ("name", "exception", "text"),
    [
        ("fail_once", ValueError, "ValueError: the mail server said no\n"),
        ("leave", SystemExit, "SystemExit: leaves\n"),
        ("fail_complex", ValueError, "ValueError: inside\n"),
    ],
)
def test_an_error_is_in_the_result(
    name: str, exception: type[BaseException], text: str, shop: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "django.tasks"):
        result = run(getattr(shop, name))
    assert (result.status, result.is_finished, result.attempts) == ("FAILED", True, 1)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert result.started_at <= result.last_attempted_at <= result.finished_at
    assert (result.task, result.args, result.kwargs, result._return_value) == (getattr(shop, name), [], {}, None)
    [error] = result.errors
    assert error.exception_class is exception
    assert error.traceback.endswith(text)
    [logged] = caplog.records
    assert logged.exc_info is not None
    assert text in caplog.text


def test_each_failed_attempt_is_an_error_of_its_own(shop: Any, run: Run) -> None:
    result = run(shop.fail)
    assert (result.status, result.attempts) == ("FAILED", 2)
    assert [error.exception_class for error in result.errors] == [shop.RefusedError] * 2
    assert result.started_at < result.last_attempted_at


def test_a_task_that_succeeds_later_keeps_its_errors(shop: Any, run: Run) -> None:
    result = run(shop.attempt_of, 1)
    assert (result.return_value, result.attempts, len(result.errors)) == (2, 2, 1)


def test_a_return_value_that_is_not_json_fails_the_task(shop: Any, run: Run) -> None:
    result = run(shop.return_complex)
    assert (result.status, result.errors[0].exception_class) == ("FAILED", TypeError)
    assert (result.started_at <= result.last_attempted_at <= result.finished_at, result._return_value) == (True, None)
    assert "Unsupported type" in result.errors[0].traceback


def test_a_context_has_the_id_and_the_attempt(shop: Any, run: Run) -> None:
    result = run(shop.own_id)
    assert result.return_value == ["TaskContext", result.id]
    assert run(shop.attempt_of).return_value == 1


def test_arguments_arrive_as_json(shop: Any, run: Run) -> None:
    result = run(shop.echo, 1, "ü", None, (2, 3), context=True, when={"a": [1.5, {"b": b"c"}]})
    assert result.return_value == [[1, "ü", None, [2, 3]], {"context": True, "when": {"a": [1.5, {"b": "c"}]}}]


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        (datetime(2026, 1, 1), "Unsupported type"),  # noqa: DTZ001
        (object(), "Unsupported type"),
        (b"\xff", "Unsupported value"),
        (float("nan"), "args"),
        ("\0", "args"),
    ],
    ids=["datetime", "object", "bytes", "nan", "nul"],
)
def test_an_argument_that_is_not_json_is_refused(argument: Any, error: str, shop: Any, django_jobs: JobTester) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        shop.echo.enqueue(argument)
    assert django_jobs.enqueued() == []


def test_a_task_with_run_after_waits(shop: Any, django_jobs: JobTester) -> None:
    at = timezone.now() + timedelta(hours=3)
    result = shop.meaning.using(run_after=at).enqueue()
    django_jobs.drain()
    shown = shop.meaning.get_result(result.id)
    assert (shown.status, shown.task.run_after) == ("READY", at)
    django_jobs.drain(within=timedelta(hours=4))
    result.refresh()
    assert result.return_value == 42


def test_a_task_that_cannot_run_is_refused_when_it_is_made(shop: Any) -> None:
    for changes, text in (
        ({"priority": 10}, "does not support setting priority of tasks. Declare .* queue=Queue.CRITICAL"),
        ({"run_after": datetime(2026, 1, 1)}, "run_after must be an aware datetime"),  # noqa: DTZ001
        ({"queue_name": "unknown"}, "Queue 'unknown' is not valid"),
    ):
        with pytest.raises(InvalidTask, match=text):
            shop.meaning.using(**changes)


def test_a_task_is_checked_again_when_it_is_enqueued(shop: Any, django_jobs: JobTester) -> None:
    task = shop.meaning.using(queue_name="loose")
    with override_settings(TASKS={"default": {**backend(), "QUEUES": ["default"]}}):
        with pytest.raises(InvalidTask, match="Queue 'loose' is not valid"):
            task.enqueue()
        with pytest.raises(InvalidTask, match="Queue 'loose' is not valid"):
            asyncio.run(task.aenqueue())


def test_a_queue_that_no_type_can_have_is_refused(shop: Any) -> None:
    with override_settings(TASKS={"default": {**backend(), "QUEUES": []}}):
        for name in ("night-shift", "Mail", "a" * 60):
            with pytest.raises(InvalidTask, match="lower-case letters, digits and single underscores"):
                shop.meaning.using(queue_name=name)
        with pytest.raises(InvalidTask, match=r"no handler: write functions/django_other/handler.py"):
            shop.meaning.using(queue_name="other").enqueue()


def test_a_task_outside_of_the_registered_modules_is_refused(shop: Any) -> None:
    made = task(elsewhere)
    with pytest.raises(InvalidTask, match=r"elsewhere is not the path of a registered Django task: .*'modules'"):
        made.enqueue()
    with override_settings(TASKS={"default": backend(modules=[__name__])}):
        globals()["elsewhere_task"] = made
        try:
            assert made.get_backend().registered[made.module_path] is made
        finally:
            del globals()["elsewhere_task"]


def elsewhere() -> None:
    """A function of this module."""


def test_signals_are_sent_by_the_producer_and_the_worker(shop: Any, django_jobs: JobTester) -> None:
    seen: list[tuple[str, str, int]] = []

    def listen(name: str) -> Callable[..., None]:
        def receive(*, sender: Any, task_result: Any, **_: Any) -> None:
            assert sender.__name__ == "JoblaneBackend"
            seen.append((name, str(task_result.status), task_result.attempts))

        return receive

    signals = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    receivers = {name: listen(name) for name in signals}
    for name, signal in signals.items():
        signal.connect(receivers[name])
    try:
        shop.attempt_of.enqueue(1)
        assert seen == [("enqueued", "READY", 0)]
        django_jobs.drain()
        assert seen[1:] == [("started", "RUNNING", 1), ("started", "RUNNING", 2), ("finished", "SUCCESSFUL", 2)]
        seen.clear()
        shop.fail.enqueue()
        django_jobs.drain()
        assert seen[-2:] == [("started", "RUNNING", 2), ("finished", "FAILED", 2)]
    finally:
        for name, signal in signals.items():
            signal.disconnect(receivers[name])


@pytest.mark.parametrize(("name", "end"), [("nothing", "SUCCESSFUL"), ("fail_once", "FAILED")])
def test_a_task_is_logged_by_its_id_and_state(
    name: str, end: str, shop: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "django.tasks"):
        result = run(getattr(shop, name))
    enqueued, *states = [record.getMessage() for record in caplog.records if record.name == "django.tasks"]
    path = getattr(shop, name).module_path
    assert enqueued == f"Task id={result.id} path={path} enqueued backend=default"
    assert states == [f"Task id={result.id} path={path} state={state}" for state in ("RUNNING", end)]
    assert "NoneType" not in caplog.text


def test_a_result_of_another_task_or_of_none_is_refused(shop: Any, django_jobs: JobTester) -> None:
    result = shop.meaning.enqueue()
    with pytest.raises(TaskResultMismatch):
        shop.nothing.get_result(result.id)
    for unknown in ("unknown", "", "a b", None, 123):
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(unknown)
    with pytest.raises(TaskResultDoesNotExist):
        asyncio.run(shop.meaning.aget_result("unknown"))


def test_a_result_whose_task_no_longer_exists_is_refused(
    shop: Any, django_jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shop.meaning.enqueue()
    monkeypatch.delitem(default_task_backend.registered, shop.meaning.module_path)
    with pytest.raises(TaskResultDoesNotExist, match="not the path of a registered Django task"):
        default_task_backend.get_result(result.id)
