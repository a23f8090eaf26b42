"""The run of a Django task: its work commits with its completion, whatever happens to the process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.tasks import task_backends
from django.test import override_settings
from pydantic import ValidationError

from joblane import Payload, TaskContext, cron
from joblane import task as declare_task
from joblane.django import DjangoTask, current_run, declare, django_tasks
from joblane.errors import JobError
from joblane.tasks.discovery import load
from joblane.tasks.task import Task
from joblane.testing import JobTester
from joblane.worker import worker
from tests import django_database
from tests.integration.django_tasks.conftest import TASKS, backend
from tests.integration.django_tasks.functions.places import OFFICE

Run = Callable[..., Any]
Notes = Callable[[], list[str]]
HERE = "tests.integration.django_tasks"


def declared(queue_name: str) -> Task[DjangoTask, Any]:
    return load(f"django:{queue_name}", TASKS["OPTIONS"]["functions"])


def default_task_backend() -> Any:
    return task_backends["default"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def drain_and_die(jobs: JobTester) -> None:
    """Run what is due in a process that is killed."""
    django_database.close()
    child = os.fork()
    if child == 0:
        try:
            jobs.drain()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("name", ["write", "write_async"])
def test_what_a_task_writes_commits_with_its_end(name: str, shop: Any, run: Run, notes: Notes) -> None:
    result = run(getattr(shop, name), "hello")
    assert (result.return_value, notes()) == ("hello", ["hello"])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    ("point", "attempts"), [("after the write", 2), ("before the commit", 2), ("after the commit", 1)]
)
def test_a_killed_process_writes_once(
    point: str, attempts: int, shop: Any, django_jobs: JobTester, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = BaseDatabaseWrapper.commit

    def dying(connection: Any) -> None:
        if point == "after the commit":
            commit(connection)
        die()

    # given a process that is killed
    result = shop.write.enqueue("once")
    with monkeypatch.context() as patch:
        if point == "after the write":
            patch.setitem(shop.hooks, "die", die)
        else:
            patch.setattr(BaseDatabaseWrapper, "commit", dying)
        drain_and_die(django_jobs)
    assert notes() == (["once"] if attempts == 1 else [])
    # when another one gets the message
    django_jobs.drain(within=timedelta(hours=1))
    # then the work is done once
    result.refresh()
    assert (result.status, result.attempts, notes()) == ("SUCCESSFUL", attempts, ["once"])


@pytest.mark.parametrize(("crash", "attempts"), [("crash_before_commit", 2), ("crash_after_commit", 1)])
def test_the_kits_crashes_are_those_of_djangos_commit(
    crash: str, attempts: int, shop: Any, django_jobs: JobTester, notes: Notes
) -> None:
    with getattr(django_jobs, crash)(declared("default")):
        result = shop.write.enqueue("once")
        assert django_jobs.drain().killed == 1
    assert notes() == (["once"] if attempts == 1 else [])
    django_jobs.drain(within=timedelta(hours=1))
    result.refresh()
    assert (result.status, result.attempts, notes()) == ("SUCCESSFUL", attempts, ["once"])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_without_atomic_a_killed_process_leaves_its_commits(
    shop: Any, django_jobs: JobTester, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shop.write_loosely.enqueue("loose")
    with monkeypatch.context() as patch:
        patch.setitem(shop.hooks, "die", die)
        drain_and_die(django_jobs)
    assert notes() == ["loose"]
    django_jobs.drain(within=timedelta(hours=1))
    result.refresh()
    assert result.errors[-1].exception_class.__name__ == "IntegrityError"


def test_a_run_that_has_lost_its_lease_writes_nothing(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    take_over = "update joblane.tasks set lease_token = gen_random_uuid()"
    result = shop.write.enqueue("late")
    shop.hooks["lose"] = lambda: django_jobs._database.get().run(take_over)
    django_jobs.drain()
    assert (notes(), shop.write.get_result(result.id).status) == ([], "RUNNING")


@pytest.mark.parametrize("while_running", [False, True], ids=["later", "while running"])
def test_a_duplicate_message_writes_once(while_running: bool, shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    with django_jobs.duplicate(declared("default"), while_running=while_running):
        result = shop.write.enqueue("once")
        django_jobs.drain(within=timedelta(minutes=30))
    result.refresh()
    assert (result.status, notes()) == ("SUCCESSFUL", ["once"])


def test_a_cancel_while_it_runs_rolls_back(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    result = shop.write.enqueue("cancelled")
    shop.hooks["cancel"] = lambda: django_jobs.client.cancel(result.id)
    django_jobs.drain()
    result.refresh()
    assert (result.status, notes()) == ("FAILED", [])
    assert result.errors[-1].exception_class.__name__ == "TaskCancelled"


def test_a_wake_up_precedes_the_commit_of_a_run(
    shop: Any, django_jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, states = shop.write.enqueue("hello").id, list[str]()

    def noting(*_: object) -> None:
        status = django_jobs.client.get(id_)
        assert status is not None
        states.append(status.state)

    monkeypatch.setattr(worker, "wake_after_commit", noting)
    django_jobs.drain()
    assert states == ["pending", "active"]


def test_a_keyboard_interrupt_ends_the_process_and_the_task_runs_again(
    shop: Any, django_jobs: JobTester, notes: Notes, finished: list[Any]
) -> None:
    shop.hooks["interrupt"] = interrupt
    result = shop.write.enqueue("interrupted")
    with pytest.raises(KeyboardInterrupt):
        django_jobs.drain()
    result.refresh()
    assert (result.status, result.errors, notes(), finished) == ("RUNNING", [], [], [])
    del shop.hooks["interrupt"]
    django_jobs.drain(within=timedelta(minutes=30))
    result.refresh()
    assert (result.status, result.attempts, notes()) == ("SUCCESSFUL", 2, ["interrupted"])


def test_an_error_rolls_back(shop: Any, run: Run, notes: Notes) -> None:
    assert (run(shop.write_and_fail, "undone").status, notes()) == ("FAILED", [])


def test_a_swallowed_database_error_fails_the_task(shop: Any, run: Run, notes: Notes) -> None:
    result = run(shop.swallow, "twice")
    assert (result.status, notes()) == ("FAILED", [])
    assert "put the statement that may fail into its own `with transaction.atomic():`" in result.errors[-1].traceback
    assert (run(shop.savepoint, "twice").status, notes()) == ("SUCCESSFUL", ["twice", "twice again"])


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def raises(kind: type[Exception], function: Callable[..., Any], *arguments: object) -> None:
    with pytest.raises(kind):
        function(*arguments)


@pytest.mark.parametrize("statement", ["rollback", "commit", "begin", "select 1; commit; begin"])
def test_sql_that_ends_the_transaction_is_refused_and_fails_the_task(
    statement: str, shop: Any, run: Run, notes: Notes
) -> None:
    shop.hooks["end"] = lambda: execute(statement)
    result = run(shop.write, "undone")
    assert (result.status, notes()) == ("FAILED", [])
    assert "as SQL is refused: the transaction of the task commits" in result.errors[-1].traceback
    # and a task that catches the error loses nothing
    shop.hooks["end"] = partial(raises, JobError, execute, statement)
    assert (run(shop.write, "kept").status, notes()) == ("SUCCESSFUL", ["kept"])


def test_a_task_that_has_committed_early_says_so_and_is_not_repeated(shop: Any, run: Run, notes: Notes) -> None:
    shop.hooks["end"] = lambda: execute(r"select E'\''; commit; select ''")
    result = run(shop.write, "durable")
    assert (result.status, result.attempts, notes()) == ("FAILED", 1, ["durable"])
    assert "a statement has ended the transaction of the task" in result.errors[-1].traceback


@pytest.mark.parametrize("more", [False, True])
def test_a_task_whose_work_the_driver_has_rolled_back_is_not_completed(
    more: bool, shop: Any, run: Run, notes: Notes
) -> None:
    def roll_back() -> None:
        connection.connection.rollback()
        if more:
            shop.Note.objects.create(text="more")

    shop.hooks["end"] = roll_back
    assert (run(shop.write, "lost").status, notes()) == ("FAILED", [])
    del shop.hooks["end"]
    assert (run(shop.savepoint, "kept").status, notes()) == ("SUCCESSFUL", ["kept", "kept again"])


def test_no_value_of_a_row_is_in_an_error_the_log_or_a_signal(
    shop: Any, run: Run, django_jobs: JobTester, finished: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(shop.write, "a secret value")
    finished.clear()
    with caplog.at_level(logging.DEBUG):
        result = run(shop.write, "a secret value")
    [[_, error]] = [ended.errors for ended in finished]
    [[stored]] = django_jobs._database.get().run(
        "select string_agg(concat_ws(' ', reason, error_message, a.traceback), ' ') from joblane.tasks"
        " join (select task_id, traceback from joblane.runs) a on task_id = id where id = $1",
        result.id,
    )
    grouped = run(shop.write_in_a_group, "a secret value").errors[-1].traceback
    for text in (stored, error.traceback, caplog.text, grouped):
        assert "duplicate key value violates unique constraint" in text
        assert "a secret value" not in text
    assert "23505" in stored
    assert [error.exception_class.__module__ for error in result.errors] == ["django.db.utils"] * 2


def test_a_task_that_enqueues_another_does_both_or_neither(
    shop: Any, run: Run, django_jobs: JobTester, notes: Notes
) -> None:
    result = run(shop.chain, "first")
    assert notes() == ["first", "first, second"]
    assert shop.write.get_result(result.return_value).status == "SUCCESSFUL"
    shop.write.enqueue("first, third")
    run(shop.chain, "first")  # fails, as the first note exists
    assert notes() == ["first", "first, second", "first, third"]


def test_a_task_enqueues_what_its_queue_grants(shop: Any, run: Run, django_jobs: JobTester) -> None:
    # given a queue that grants nothing
    result = run(shop.send_mail)
    traceback = result.errors[0].traceback
    assert "'django:default' does not declare that it enqueues 'django:mail'" in traceback
    assert "add grants=Grants(enqueue=('django:mail',)) in its handler.py" in traceback
    # and its own type, which needs no grant
    result = run(shop.chain, "own")
    assert django_jobs.task(result.return_value).state == "completed"
    [[parent]] = django_jobs._database.get().run(
        "select enqueued_by from joblane.tasks where id = $1", result.return_value
    )
    assert parent == result.id


def test_a_task_that_enqueues_itself_without_end_is_stopped(shop: Any, run: Run, django_jobs: JobTester) -> None:
    run(shop.endless)
    [dead_letter] = django_jobs.dead_letters(declared("default"))
    assert (
        "'django:default' at depth 15 has enqueued 'django:default', which declares max_depth=15" in dead_letter.reason
    )


def test_a_task_reports_its_progress(shop: Any, run: Run, django_jobs: JobTester) -> None:
    result = run(shop.report, 2)
    status = django_jobs.client.get(result.return_value)
    assert status is not None
    assert status.progress is not None
    assert (status.progress.done, status.progress.total) == (2, 2)
    assert shop.report.func(2) is None


def test_a_function_of_on_commit_that_fails_changes_nothing(
    shop: Any, run: Run, notes: Notes, finished: list[Any]
) -> None:
    def fail() -> None:
        raise ValueError

    shop.hooks["on commit"] = lambda: transaction.on_commit(fail)
    assert (run(shop.write, "kept").status, notes()) == ("SUCCESSFUL", ["kept"])
    assert [(str(sent.status), sent.return_value) for sent in finished] == [("SUCCESSFUL", "kept")]


@pytest.mark.parametrize("name", ["sleep_in_query", "sleep_async"])
def test_after_a_timeout_the_next_task_sees_its_own_rows(
    name: str, shop: Any, run: Run, django_jobs: JobTester
) -> None:
    # when a task is interrupted
    result = run(getattr(shop, name))
    # then it has failed, and no transaction is open
    assert (result.status, result.errors[0].exception_class.__name__) == ("FAILED", "TaskTimeout")
    [[open_]] = django_jobs._database.get().run(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and (state <> 'idle' or xact_start is not null)"
    )
    assert open_ == 0
    # and the next task gets its own answer
    assert run(shop.answer).return_value == 7


def test_after_a_timeout_that_a_task_hides_the_next_one_sees_its_own_rows(
    shop: Any, run: Run, django_jobs: JobTester
) -> None:
    call = DjangoTask(task=shop.hide_timeout.module_path)
    id_ = django_jobs.enqueue(declared("loose"), call, timeout=timedelta(seconds=1), max_retry=0).id
    django_jobs.drain()
    assert shop.hide_timeout.get_result(id_).errors[0].exception_class.__name__ == "TaskTimeout"
    assert run(shop.answer.using(queue_name="loose")).return_value == 7


def test_a_task_runs_in_the_queue_of_using(shop: Any, run: Run, django_jobs: JobTester) -> None:
    result = run(shop.meaning.using(queue_name="loose"))
    assert (result.return_value, django_jobs.task(result.id).type) == (42, "django:loose")
    assert shop.meaning.get_result(result.id).task.queue_name == "loose"


def test_the_queues_of_a_place_run_in_one_function(shop: Any, django_jobs: JobTester, notes: Notes) -> None:
    # given two queues and an ordinary task on one place
    @declare_task("office:note", runs_on=OFFICE, front_door=False)
    def office_note(payload: Payload, ctx: TaskContext) -> str:
        return ctx.type

    results = [
        shop.write.using(queue_name="invoices").enqueue("first"),
        shop.write_async.using(queue_name="receipts").enqueue("second"),
        shop.write_and_fail.using(queue_name="invoices").enqueue("undone"),
        shop.meaning.using(queue_name="receipts").enqueue(),
    ]
    note = django_jobs.enqueue(office_note, Payload())
    # when they run
    done = django_jobs.drain()
    # then it is one invocation, and the second one of the task that failed
    assert done.invocations == 2
    for result in results:
        result.refresh()
    assert [result.status for result in results] == ["SUCCESSFUL", "SUCCESSFUL", "FAILED", "SUCCESSFUL"]
    assert [django_jobs.task(result.id).attempts for result in results] == [1, 1, 2, 1]
    assert notes() == ["first", "second"]
    assert django_jobs.task(note.id).result == "office:note"


HOUR = timedelta(hours=1)


@pytest.mark.parametrize("queue_name", ["default", "loose"])
def test_a_django_task_does_not_wait(queue_name: str, shop: Any, run: Run, django_jobs: JobTester) -> None:
    waits: list[Callable[[Any], object]] = [
        lambda own: own.sleep("a while", HOUR),
        lambda own: own.wait("approval", timeout=HOUR),
        lambda own: own.poll("film", lambda: None, every=HOUR, timeout=HOUR),
    ]
    for number, wait in enumerate(waits):
        shop.hooks["wait"] = lambda wait=wait: wait(current_run())
        result = run(shop.write.using(queue_name=queue_name), f"{number}")
        task = django_jobs.task(result.id)
        assert (result.status, task.outcomes, task.error_type) == ("FAILED", ("archived",), "StepError")
        assert "a Django task does not wait, because each run would repeat its work; wait in a task" in str(task.reason)


def test_a_django_task_signals_a_task_of_its_place_in_its_transaction(
    shop: Any, django_jobs: JobTester, notes: Notes
) -> None:
    # given a task that waits, in the function of Django's queues
    @declare_task("office:wait", runs_on=OFFICE, front_door=False)
    def office_wait(payload: Payload, ctx: TaskContext) -> Any:
        return ctx.wait("approval", timeout=HOUR)

    def signal_it() -> None:
        value = 2 if answers else 1
        answers.append(django_jobs.client.signal(waiting, "approval", value, connection=connection))
        if len(answers) == 1:
            raise shop.RefusedError

    answers: list[bool] = []
    waiting = django_jobs.enqueue(office_wait, Payload()).id
    django_jobs.drain()
    # when a task of Django signals it, in an attempt that is rolled back and in another one
    shop.hooks["signal"] = signal_it
    shop.write.using(queue_name="invoices").enqueue("signalled")
    django_jobs.drain()
    # then the second signal counts
    assert (django_jobs.task(waiting).result, answers, notes()) == (2, [True, True], ["signalled"])


@pytest.mark.parametrize(
    ("variables", "prepared"),
    [
        ({"JOBLANE_PLACE": "office"}, 1),
        ({"JOBLANE_PLACE": "other"}, 0),
        ({"JOBLANE_TASK": "jobs:sweep"}, 0),
        ({}, 0),
    ],
)
def test_django_is_set_up_when_the_function_of_a_place_imports_the_queue(
    variables: dict[str, str], prepared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that sets it up would spend an attempt if that fails, and its time limit."""
    calls: list[None] = []
    monkeypatch.setattr(declare, "prepare", lambda: calls.append(None))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    django_tasks("invoices", runs_on=OFFICE)
    assert len(calls) == prepared


def test_a_path_that_is_not_registered_never_runs(
    shop: Any, django_jobs: JobTester, caplog: pytest.LogCaptureFixture
) -> None:
    # given messages of another program
    task = declared("default")
    paths = ["os.system", f"{HERE}.never.imported", f"{HERE}.shop.tasks.RefusedError", f"{HERE}.shop.tasks.nowhere"]
    ids = [django_jobs.enqueue(task, DjangoTask(task=path, args=["true"])).id for path in paths]
    # then they wait for a deploy, and the log has the reason
    django_jobs.drain()
    for path in paths:
        assert f"it waits for a deploy: {path} is not the path of a registered Django task: define it by" in caplog.text
    assert [django_jobs.task(id_).state for id_ in ids] == ["pending"] * 4
    # and end after an hour, with the reason, and no module was imported
    django_jobs.drain(within=timedelta(hours=2))
    reasons = sorted(dead_letter.reason for dead_letter in django_jobs.dead_letters(task))
    assert len(reasons) == 4
    for path, reason in zip(sorted(paths), reasons, strict=True):
        assert f"{path} is not the path of a registered Django task: define it by @task" in reason
    assert f"{HERE}.never" not in sys.modules


def test_a_backend_that_is_not_joblanes_never_runs(shop: Any, django_jobs: JobTester) -> None:
    immediate = {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}
    task, path = declared("default"), shop.meaning.module_path
    with override_settings(TASKS={"default": backend(), "now": immediate}):
        for name in ("now", "unknown"):
            django_jobs.enqueue(task, DjangoTask(task=path, backend=name))
        django_jobs.drain(within=timedelta(hours=2))
    reasons = sorted(dead_letter.reason for dead_letter in django_jobs.dead_letters(task))
    assert len(reasons) == 2
    assert "TASKS has no JoblaneBackend named 'now'" in reasons[0]
    assert "TASKS has no JoblaneBackend named 'unknown'" in reasons[1]


def test_a_tick_runs_the_task_that_its_schedule_names(
    shop: Any, django_jobs: JobTester, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a queue with a schedule
    nightly = cron("0 2 * * *", payload={"task": shop.write.module_path, "args": ["nightly"]})
    task = django_tasks("nightly", schedule=nightly)
    monkeypatch.setattr(default_task_backend(), "queues", {"nightly"})
    django_jobs.register(task)
    # when its tick comes
    id_ = django_jobs.tick(task)
    django_jobs.drain(within=timedelta(days=1))
    # then the task has run, and its result can be read
    assert notes() == ["nightly"]
    assert shop.write.get_result(id_).return_value == "nightly"


@pytest.mark.parametrize("name", ["leave_open", "leave_atomic"])
def test_without_atomic_an_open_transaction_fails_the_task(name: str, shop: Any, run: Run, notes: Notes) -> None:
    result = run(getattr(shop, name).using(queue_name="loose"))
    assert "the task has left a transaction open" in result.errors[0].traceback
    assert notes() == []
    assert run(shop.answer).return_value == 7


def test_an_open_block_of_atomic_fails_the_task_and_no_other(shop: Any, run: Run, notes: Notes) -> None:
    result = run(shop.leave_atomic)
    assert (result.status, notes()) == ("FAILED", [])
    assert "left a block of transaction.atomic() open" in result.errors[0].traceback
    assert run(shop.answer).return_value == 7


def test_a_constraint_that_fails_at_the_commit_fails_the_task(shop: Any, run: Run, finished: list[Any]) -> None:
    result = run(shop.break_at_commit)
    assert [str(sent.status) for sent in finished] == ["FAILED"]
    assert (result.status, result.errors[0].exception_class.__module__) == ("FAILED", "django.db.utils")
    assert "violates foreign key constraint" in result.errors[0].traceback
    assert "987654321" not in result.errors[0].traceback


@pytest.mark.parametrize("queue_name", ["default", "loose"])
def test_a_return_value_that_no_row_can_have_fails_the_task(
    queue_name: str, shop: Any, run: Run, finished: list[Any]
) -> None:
    result = run(shop.nul.using(queue_name=queue_name))
    assert (result.status, [str(sent.status) for sent in finished]) == ("FAILED", ["FAILED"])
    assert "the handler's result cannot be stored" in result.errors[-1].traceback


def test_a_message_that_is_no_call_is_refused(shop: Any, django_jobs: JobTester) -> None:
    for path in ("", "system", "os.system; x", "../os.system"):
        with pytest.raises(ValidationError):
            DjangoTask(task=path)


def test_a_run_needs_djangos_own_transaction(shop: Any, django_jobs: JobTester) -> None:
    result = shop.meaning.enqueue()
    with transaction.atomic():
        django_jobs.drain()
    result.refresh()
    assert "use TransactionTestCase instead of TestCase" in result.errors[0].traceback
