"""`joblane dev` as a process: it runs tasks, reloads on save, and leaves nothing running. The tests use it in order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from joblane.local import env_file
from joblane.local.daemon import await_end
from joblane.local.ports import free_port
from joblane.local.postgres import Postgres
from joblane.local.tools import environment_of
from joblane.otel.check import ENDPOINT
from joblane.record.driver.database import Database
from tests import celery_programs, long_chains
from tests.collector import Collector
from tests.pages import ROOT, blocks
from tests.patience import PATIENCE_SECONDS, await_true

NOT_INHERITED = ("AWS_", "DATABASE_URL", "PYTHONDONTWRITEBYTECODE")
HANDLER = """
import os, time
from datetime import timedelta

from joblane import Payload, TaskContext, task


class {name}(Payload):
    text: str = ""
    seconds: float = 0


@task("{type}", {options})
def {function}(payload: {name}, ctx: TaskContext) -> str:
    print("says", payload.text)
    {body}
    return "{result}"
"""
TYPES = {
    "hello:world": ("", 'ctx.logger.info("greeting")'),
    "mail:welcome": ("", "time.sleep(payload.seconds)"),
    "invoice:remind": (
        'max_retry=1, retry_delay=timedelta(seconds=1), environment=("GREETING", "UNSET_SETTING")',
        'if ctx.attempt == 1: raise ValueError("the first time")\n    ctx.logger.info(ctx.settings["GREETING"])',
    ),
    "fail:always": ('max_retry=0, events=("archived",)', 'raise ValueError("always")'),
    "one:only": ("max_total=1", "began = time.time(); time.sleep(payload.seconds); return f'{began} {time.time()}'"),
    "die:once": ("max_retry=1", "print('process', os.getpid()); time.sleep(payload.seconds * (ctx.attempt == 1))"),
}
PRODUCER = """
import json, sys
from joblane import JobClient
from functions.mail_welcome.handler import MailWelcome, mail_welcome
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
import os
jobs = JobClient()
with Session(create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+pg8000:"))) as session:
    kept = jobs.enqueue(mail_welcome, MailWelcome(text="committed"), session=session)
    session.commit()
print(kept.id)
"""

DJANGO_SETTINGS = """
from joblane.django import database
SECRET_KEY = "for tests"
INSTALLED_APPS = ["joblane.django"]
DATABASES = {"default": database()}
TASKS = {"default": {
    "BACKEND": "joblane.django.JoblaneBackend", "QUEUES": ["mail"], "OPTIONS": {"modules": ["shop_tasks"]}
}}
"""
DJANGO_TASKS = """
from django.tasks import task


@task(queue_name="mail")
def greet(name):
    return name
"""
DJANGO_HANDLER = """
import os
from joblane.django import django_tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_settings")

django_mail = django_tasks("mail")
"""
RESOURCE = """

from joblane import resource


@resource
def client():
    yield "open"
    print("the client is closed")
"""


def source(type_: str, result: str = "1", *, body: str | None = None) -> str:
    options, own = TYPES.get(type_, ("", ""))
    function = type_.replace(":", "_")
    names = {"name": function.title().replace("_", ""), "type": type_, "function": function}
    return HANDLER.format(**names, options=options, body=body or own or "pass", result=result)


class Dev:
    """A project, and `joblane dev` in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "stream.log"
        self.local = root / ".joblane"
        (root / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "0"\n')
        (root / "functions").mkdir()
        (root / "functions" / "__init__.py").touch()
        for type_ in TYPES:
            self.save(type_)
        self.save("chain:link", long_chains.HANDLER)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)},
            "JOBLANE_AWS_PORT": str(free_port()),
            "JOBLANE_POSTGRES_PORT": str(free_port()),
            "JOBLANE_PAGE_PORT": str(free_port()),
            "GREETING": "good morning",
        }

    def start(self) -> None:
        self.log.touch()
        before = len(self.lines())
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "joblane.cli", "dev"],
                cwd=self.root,
                env=self._environment,
                stdout=out,
                stderr=out,
            )
        self.await_line("Ready.", after=before)
        self.variables = {**env_file_of(self.local), "NO_PROXY": "127.0.0.1"}

    def save(self, type_: str, text: str | None = None) -> None:
        folder = self.root / "functions" / type_.replace(":", "_")
        folder.mkdir(exist_ok=True)
        new = folder / "handler.py.new"  # as many editors do
        new.write_text(source(type_) if text is None else text)
        new.rename(folder / "handler.py")

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def await_line(self, *parts: str, after: int = 0) -> str:
        def found() -> list[str]:
            return [line for line in self.lines()[after:] if all(part in line for part in parts)]

        await_true(lambda: bool(found()), lambda: f"no line with {parts} in\n" + "\n".join(self.lines()[after:]))
        return found()[0]

    def send(self, type_: str, **payload: Any) -> str:
        """Send by boto3 to a front door. Return the task's id."""
        url = self.sqs.get_queue_url(QueueName="jobs-default")["QueueUrl"]
        sent = self.sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"type": type_, "payload": payload}))
        return str(sent["MessageId"])

    @cached_property
    def sqs(self) -> Any:
        with environment_of(self.variables):
            return boto3.client("sqs")

    @cached_property
    def database(self) -> Database:
        return Database(self.variables["DATABASE_URL"])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line, or Python, in the project."""
        return self.run_with(self._environment, *arguments)

    def run_with(self, environment: Mapping[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def row(self, id_: str) -> dict[str, Any]:
        query = "select to_jsonb(t) from joblane.tasks t where id = $1"
        rows = self.database.call_again(lambda connection: connection.run(query, id_))  # a test kills the server
        return dict(rows[0][0]) if rows else {}

    def await_state(self, id_: str, state: str) -> dict[str, Any]:
        await_true(
            lambda: self.row(id_).get("state") == state, lambda: f"{self.row(id_)}\n" + "\n".join(self.lines()[-30:])
        )
        return self.row(id_)

    def processes(self) -> list[psutil.Process]:
        server = Postgres(self.local / "postgres").pid
        assert server is not None
        return [psutil.Process(server), *psutil.Process(self.process.pid).children(recursive=True)]


def env_file_of(local: Path) -> dict[str, str]:
    text = (local / "env").read_text()
    pairs = (line.split("=", 1) for line in text.splitlines())
    return {name: value.strip("'") for name, value in pairs if name in env_file.VARIABLES}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    dev = Dev(tmp_path_factory.mktemp("project"))
    dev.start()
    yield dev
    dev.database.drop()
    dev.sqs.close()
    if dev.process.poll() is None:
        started = dev.processes()
        dev.process.terminate()
        dev.process.wait(PATIENCE_SECONDS)
        assert await_end(started, PATIENCE_SECONDS)


def test_a_program_enqueues_with_the_variables_and_its_printed_lines_are_shown(dev: Dev) -> None:
    program = dev.root / "producer.py"
    program.write_text(PRODUCER)
    done = dev.run_with({**os.environ, **dev.variables, "PYTHONPATH": str(dev.root)}, program)
    id_ = done.stdout.strip()
    assert dev.await_state(id_, "completed")["result"] == "1", done.stderr
    dev.await_state(dev.send("hello:world"), "completed")
    dev.await_line("mail:welcome", id_[-8:], "says committed")
    dev.await_line("mail:welcome", id_[-8:], "completed in")
    dev.await_line("Settings without a value: UNSET_SETTING.")
    shown = dev.run("-m", "joblane.cli", "logs", id_)
    assert "tasks completed" in shown.stdout, shown.stderr
    assert "GREETING" in (dev.local / "env").read_text()


def test_chains_of_messages_end_as_on_aws(dev: Dev) -> None:
    program = dev.root / "chains.py"
    program.write_text(long_chains.PROGRAM)
    done = dev.run_with({**os.environ, **dev.variables}, program, "jobs-default-chain-link")
    assert done.returncode == 0, done.stdout + done.stderr
    dev.await_line(long_chains.REFUSAL, "16 times in one chain of messages")
    long_chains.assert_stopped(dev.variables["DATABASE_URL"])


def test_a_retry_a_setting_and_an_archived_task_show_what_happened(dev: Dev) -> None:
    retried, archived = dev.send("invoice:remind"), dev.send("fail:always")
    assert dev.await_state(retried, "completed")["attempts"] == 2
    dev.await_line("invoice:remind", retried[-8:], "retry", "ValueError: the first time")
    dev.await_line("invoice:remind", retried[-8:], "good morning")
    dev.await_state(archived, "archived")
    dev.await_line("archived", f"joblane show {archived}")
    dev.await_line("fail:always", archived[-8:], "event: Task archived")
    assert any("in fail_always" in line for line in dev.lines()), "no traceback"


def test_an_archived_task_is_retried_with_the_code_of_the_last_save(dev: Dev) -> None:
    archived = dev.send("fail:always")
    dev.await_state(archived, "archived")
    dev.save("fail:always", source("fail:always", "repaired", body="pass"))
    dev.await_line("fail_always/handler.py saved")
    done = dev.run("-m", "joblane.cli", "retry", archived)
    assert done.returncode == 0, done.stderr
    assert dev.await_state(archived, "completed")["result"] == "repaired"


def test_a_save_reloads_also_twice_in_a_second_with_the_same_size(dev: Dev) -> None:
    for result in ("2", "3", "4"):
        before = len(dev.lines())
        dev.save("mail:welcome", source("mail:welcome", result))
        dev.await_line("mail_welcome/handler.py saved", after=before)
        assert dev.await_state(dev.send("mail:welcome"), "completed")["result"] == result


def test_a_process_closes_its_resources_when_a_save_ends_it(dev: Dev) -> None:
    text = source("hello:world", body="return client()") + RESOURCE
    dev.save("hello:world", text)
    dev.await_line("hello_world/handler.py saved")
    assert dev.await_state(dev.send("hello:world"), "completed")["result"] == "open"
    assert not any("the client is closed" in line for line in dev.lines())
    dev.save("hello:world", text + "\n")
    dev.await_line("hello:world", "the client is closed")


def test_a_run_has_spans_if_the_setting_is_on(dev: Dev) -> None:
    with Collector() as collector:
        # only for the process of this type
        setting = f'import os; os.environ |= {{"JOBLANE_OTEL": "1", "{ENDPOINT}": "{collector.url}"}}\n'
        dev.save("traced:one", setting + source("traced:one"))
        dev.await_state(dev.send("traced:one"), "completed")
        await_true(lambda: any(b"run traced:one" in body for _, body in collector.posts), lambda: "no span has come")
        dev.save("traced:one", setting + source("traced:one") + "\n")  # its end exports the metrics
        await_true(lambda: any(b"joblane.runs" in body for _, body in collector.posts), lambda: "no metric has come")


def test_a_broken_handler_is_named_once_and_its_messages_wait_for_the_next_save(dev: Dev) -> None:
    before = len(dev.lines())
    dev.save("mail:welcome", source("mail:welcome", "x") + "\nundefined_name\n")
    dev.await_line("mail_welcome/handler.py, line", "NameError: name 'undefined_name'", after=before)
    (dev.root / "functions" / "mail_welcome" / "notes.txt").touch()  # a reload of the same code
    dev.await_line("notes.txt saved", after=before)
    waiting, other = dev.send("mail:welcome"), dev.send("one:only")
    dev.await_state(other, "completed")
    assert dev.row(waiting) == {}
    assert not any("of no declared type" in line for line in dev.lines()[before:])
    dev.save("mail:welcome", source("mail:welcome", "repaired"))
    assert dev.await_state(waiting, "completed")["result"] == "repaired"
    assert sum("NameError" in line for line in dev.lines()[before:]) == 1


def test_a_django_queue_waits_while_its_tasks_cannot_be_imported(dev: Dev) -> None:
    # given a queue whose module with tasks has a mistake
    (dev.root / "shop_settings.py").write_text(DJANGO_SETTINGS)
    (dev.root / "shop_tasks.py").write_text("import nothing_here\n" + DJANGO_TASKS)
    dev.save("django:mail", DJANGO_HANDLER)
    dev.await_line("django:mail is new")
    # when a task is enqueued
    call = json.dumps({"task": "shop_tasks.greet", "args": ["Ada"]})
    id_ = dev.run("-m", "joblane.cli", "enqueue", "django:mail", "--json", call).stdout.split()[0]
    # then the log names the line, its advice shows the traceback, and the task runs once it is fixed
    dev.await_line("shop_tasks.py, line 1: ModuleNotFoundError")
    shown = dev.run_with({**os.environ, **dev.variables}, "-m", "functions.django_mail.handler")
    assert "import nothing_here" in shown.stderr
    (dev.root / "shop_tasks.py").write_text(DJANGO_TASKS)
    dev.save("django:mail", DJANGO_HANDLER + "\n")
    row = dev.await_state(id_, "completed")
    assert (row["result"], row["attempts"]) == ("Ada", 1)


def test_a_place_has_a_broken_handler_and_then_a_type_that_moves_to_it(dev: Dev) -> None:
    def placed(type_: str) -> str:
        return "from functions.places import WEB\n" + source(type_).replace(f'"{type_}", ', f'"{type_}", runs_on=WEB, ')

    (dev.root / "functions" / "places.py").write_text(
        'from joblane import Lambda\nWEB = Lambda("web", drains=("card:send",))\n'
    )
    dev.save("card:send", placed("card:send"))
    dev.save("card:list", placed("card:list").replace("pass", "time.sleep(payload.seconds)"))
    dev.await_line("web is new")
    # one of its handlers breaks: its message waits in the lane of the place, and the other runs
    before = len(dev.lines())
    dev.save("card:send", placed("card:send") + "\nundefined_name\n")
    dev.await_line("card_send/handler.py, line", "NameError", after=before)
    waiting, other = dev.send("card:send"), dev.send("card:list")
    dev.await_state(other, "completed")
    dev.await_line("card:send", "cannot be imported", after=before)
    assert not any("forwarded" in line or "drains" in line for line in dev.lines()[before:])
    dev.save("card:send", placed("card:send"))
    dev.await_state(waiting, "completed")
    # a type moves to it while its messages wait, so that a process starts before the move is known
    for _ in range(3):
        dev.send("card:list", seconds=0.7)
    before = len(dev.lines())
    dev.save("die:once", placed("die:once"))
    dev.await_line("die:once runs on web now", after=before)
    dev.await_state(dev.send("die:once"), "completed")
    dev.save("die:once")
    dev.await_line("die:once is new", after=before)


def test_a_new_type_runs_after_its_first_save_and_a_removed_one_keeps_its_messages(dev: Dev) -> None:
    unknown = dev.send("new:type")
    dev.await_line("of no declared type", "jobs-default")
    forged = urllib.request.Request(dev.variables["AWS_ENDPOINT_URL"], b"{}", {"Origin": "https://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(forged)
    celery_programs.write(
        dev.root, {"new/tasks.py": "from celery import shared_task\n\n\n@shared_task\ndef type(): ...\n"}
    )
    moved = dev.run("-m", "joblane.cli", "move", "celery", "new")
    assert moved.returncode == 0, moved.stderr
    dev.await_state(unknown, "completed")
    (dev.root / "functions" / "new_type" / "handler.py").unlink()
    dev.await_line("new:type is not declared any more")


def test_tasks_of_a_limit_run_one_after_another(dev: Dev) -> None:
    ids = [dev.send("one:only", seconds=0.3) for _ in range(3)]
    # The claim notes the start before it waits for the place of a task that ends, so the handlers say when they ran.
    runs = sorted([*map(float, dev.await_state(id_, "completed")["result"].split())] for id_ in ids)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(runs))


def test_a_task_whose_worker_is_killed_runs_again_at_once(dev: Dev) -> None:
    id_ = dev.send("die:once", seconds=30)
    os.kill(int(dev.await_line("die:once", id_[-8:], "process").rpartition(" ")[2]), signal.SIGKILL)
    row = dev.await_state(id_, "completed")
    assert row["attempts"] == 2
    dev.await_line("die:once", "killed by signal 9", id_[-8:])


def test_a_process_that_is_killed_while_it_ran_no_task_costs_no_attempt(dev: Dev) -> None:
    before = dev.send("die:once")
    pid = int(dev.await_line("die:once", before[-8:], "process").rpartition(" ")[2])
    dev.await_state(before, "completed")
    os.kill(pid, signal.SIGKILL)
    id_ = dev.send("die:once")
    assert dev.await_state(id_, "completed")["attempts"] == 1
    dev.await_line(f"die:once: process {pid} was killed by signal 9. The message is delivered again.")


def test_postgres_starts_again_when_it_is_killed_and_tasks_run(dev: Dev) -> None:
    server = int((dev.local / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    before = len(dev.lines())
    os.kill(server, signal.SIGKILL)
    dev.await_line("PostgreSQL was killed, and starts again", after=before)
    dev.await_line("PostgreSQL runs again", after=before)
    id_ = dev.send("mail:welcome")
    assert dev.await_state(id_, "completed")


def test_the_page_answers_with_its_token_and_again_after_a_save(dev: Dev) -> None:
    address = dev.await_line("Page:").rpartition(" ")[2]
    for _ in range(2):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        with opener.open(address, timeout=PATIENCE_SECONDS) as answer:
            assert "mail:welcome" in answer.read().decode() or answer.status == 200
        before = len(dev.lines())
        dev.save("mail:welcome")
        dev.await_line("saved: reloaded", after=before)


def test_the_lines_of_the_documentation_are_those_of_the_stream(dev: Dev) -> None:
    for block in blocks("text", ROOT / "docs" / "how-to" / "dev.md"):
        for line in block.text.splitlines():
            clock, source, rest = line[:12], line[14:34].rstrip(), line[34:]
            rest = rest if source == "dev" else rest[8:]  # without the id of a task
            pattern = ".*" + re.escape(rest.strip()).replace("…", ".*")
            assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", clock)
            assert any(re.fullmatch(pattern, found) for found in dev.lines() if source in found), line


def test_a_second_start_the_stack_and_a_port_in_use_are_refused(dev: Dev) -> None:
    for command in ("dev", "up", "down"):
        refused = dev.run("-m", "joblane.cli", command)
        assert (refused.returncode, "stop it with Ctrl-C first" in refused.stderr) == (1, True), refused.stderr
    busy = dev.run("-m", "joblane.cli", "dev", "--folder", str(dev.root / "other"))
    assert "The queues of `joblane dev` cannot listen" in busy.stderr
    assert "JOBLANE_AWS_PORT" in busy.stderr
    assert "joblane dev" in dev.run("-m", "joblane.cli", "status").stdout


def test_after_a_kill_nothing_runs_and_the_next_start_continues_all_tasks(dev: Dev) -> None:
    interrupted = dev.send("die:once", seconds=30)
    delayed = dev.run("-m", "joblane.cli", "enqueue", "mail:welcome", "--in", "10m").stdout.strip()
    dev.await_state(interrupted, "active")
    assert dev.row(delayed)["state"] == "scheduled"
    started = dev.processes()
    dev.process.kill()
    dev.process.wait()
    assert await_end(started, PATIENCE_SECONDS)
    assert not (dev.local / "env").exists()

    postgres = Postgres(dev.local / "postgres", durable=True)
    postgres.start()
    with ExitStack() as at_end, Database(postgres.url) as database:  # time passes
        at_end.callback(postgres.stop)
        database.get().run(
            "update joblane.tasks set due_at = due_at - $1::interval, sweep_at = sweep_at - $1::interval where id = $2",
            "9 min 58 s",
            delayed,
        )
    dev.save("mail:welcome", source("mail:welcome", "next", body="pass"))
    dev.start()
    assert dev.await_state(interrupted, "completed")["attempts"] == 2
    assert dev.await_state(delayed, "completed")["result"] == "next"
    dev.await_line("Tasks of the last time whose messages are sent again: 2.")


def test_ctrl_c_ends_a_running_task_and_everything_else(dev: Dev) -> None:
    id_ = dev.send("one:only", seconds=30)
    dev.await_state(id_, "active")
    dev.await_state(dev.send("hello:world"), "completed")  # its process has an open resource
    started, before = dev.processes(), len(dev.lines())
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(PATIENCE_SECONDS) == 0
    assert await_end(started, PATIENCE_SECONDS)
    assert not (dev.local / "env").exists()
    dev.await_line("started again by the next `joblane dev`", id_[-8:])
    dev.await_line("hello:world", "the client is closed", after=before)
    assert "Traceback (most recent call last):\n  File" not in dev.log.read_text().rpartition("Stopping.")[2]
