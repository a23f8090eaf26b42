"""`joblane move celery`: the handlers that it writes run, and so do the forms of its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from joblane.cli.moving.move import plan
from joblane.local.errors import LocalError
from joblane.project import Project
from tests.celery_programs import PROGRAMS, write
from tests.integration.test_docs_moving import run
from tests.pages import TYPED

CALLS = {
    "post": ("cards/tasks.py", "chain("),
    "post_with_stamp": ("cards/tasks.py", "| stamp.s()"),
    "print_book": ("books/work.py", "bind.s(title"),
    "index_book": ("books/work.py", "index.si("),
    "render_again": ("books/work.py", "apply_async(expires"),
}
"""Function of the rewritten application → the line of the report with its form."""
REWRITTEN = """
from datetime import UTC, datetime, timedelta

from functions.books_bind_all.handler import BooksBindAll, books_bind_all
from functions.cards_send.handler import CardsSend, cards_send
from functions.cards_stamp.handler import CardsStamp, cards_stamp
from functions.cards_write.handler import CardsWrite, cards_write
from functions.work_index.handler import WorkIndex, work_index
from functions.work_render.handler import WorkRender, work_render
from joblane import Job, JobClient

jobs = JobClient()


def post(session, name, minutes):
    {post}


def index_book(session, title, pages, batch_id):
    {index_book}


def render_again(session, pages):
    {render_again}
"""
OWN = """
from joblane import Grants, Payload, TaskContext, task
from rewritten import *


class {name}(Payload):
    {fields}


@task("{type}", {grants})
def {function}(payload: {name}, ctx: TaskContext) -> None:
    {given}
    {form}
"""
TESTS = """
from datetime import timedelta

import books.work
import cards.tasks
import reports.tasks
from functions.books_bind_all.handler import books_bind_all
from functions.cards_post.handler import CardsPost, cards_post
from functions.cards_send.handler import cards_send
from functions.cards_write.handler import CardsWrite, cards_write
from functions.reports_ping.handler import reports_ping
from functions.reports_total.handler import reports_total
from functions.work_index.handler import work_index
from functions.work_print.handler import WorkPrint, work_print
from functions.work_render.handler import WorkRender, work_render
from joblane import Queue, State
from joblane.sqs.message_schema import message_schema
from joblane.tasks.discovery import discover
from rewritten import index_book, post, render_again


def test_all_handlers_are_declared():
    found = {type_: task for type_, task in discover("functions").items() if not type_.startswith("jobs:")}
    assert len([message_schema(task) for task in found.values()]) == 10
    assert work_render.queue is Queue.LOW
    assert cards_send.timeout == timedelta(seconds=30)
    assert (cards_send.retention, cards_send.flow.rate.starts) == (timedelta(0), 100)
    assert (cards_send.max_retry, cards_write.max_retry) == (0, 3)
    waits = [cards_write.retry_delay(9, ValueError()) for _ in range(200)]
    assert all(timedelta(0) <= wait <= timedelta(seconds=60) for wait in waits)
    assert len(set(waits)) > 10


def test_a_chain_waits_for_its_countdown(jobs):
    with jobs.session() as session:
        post(session, "Ann", 5)
    jobs.drain()
    assert cards.tasks.sent == []
    jobs.drain(within=timedelta(minutes=5)).check()
    assert cards.tasks.sent.pop() == ("post", {"by": "train"})


def test_a_chain_passes_results(jobs):
    jobs.enqueue(cards_post, CardsPost(name="Ben"))
    jobs.drain(within=timedelta(minutes=1)).check()
    assert cards.tasks.sent.pop() == ("Dear Ben, Bye [stamp]", {"by": "air"})


def test_only_the_errors_of_autoretry_for_are_retried(jobs):
    refused, retried = (jobs.enqueue(cards_write, CardsWrite(name=name)) for name in ("nobody", "busy"))
    jobs.drain(within=timedelta(hours=1))
    ended = [jobs.task(each.id) for each in (refused, retried)]
    assert [(each.state, each.attempts) for each in ended] == [(State.ARCHIVED, 1), (State.ARCHIVED, 4)]


def test_a_chord_calls_back_with_the_results_and_once_without(jobs):
    jobs.enqueue(work_print, WorkPrint(title="Emma", pages=[1, 2, 3]))
    with jobs.session() as session:
        index_book(session, "Emma", [1, 2], "emma")
        render_again(session, [4])
    with jobs.duplicate(work_render, times=2):
        jobs.drain(within=timedelta(minutes=1))
    assert books.work.bound == [("Emma", [10, 20, 30])]
    assert books.work.indexed == ["Emma"]


def test_beat_runs_and_a_failed_run_is_retried(jobs):
    assert [(each.text, each.timezone, each.name) for each in reports_total.schedules] == [
        ("30 8 * * MON-FRI", "Europe/Berlin", "every-weekday")
    ]
    assert [each.text for each in reports_ping.schedules] == ["*/15 * * * *", "0 * * * *"]
    id_ = jobs.tick(reports_total)
    jobs.drain()
    reports.tasks.answers.append(6)
    jobs.drain(within=timedelta(seconds=30))
    assert (jobs.task(id_).attempts, jobs.task(id_).result) == (2, 42)
"""


def move(folder: Path, *arguments: str, fails: bool = False) -> tuple[str, str]:
    """Run the command. Return its output and its messages."""
    done = subprocess.run(
        [sys.executable, "-m", "joblane.cli", "move", "celery", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": TYPED},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout, done.stderr


def lines(form: str) -> str:
    return form.replace("\n", "\n    ")


def test_three_programs_are_moved_and_run(tmp_path: Path, joblane_server: str) -> None:
    write(tmp_path, PROGRAMS)
    (tmp_path / "functions").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.py")}
    found: dict[str, Any] = json.loads(move(tmp_path, "cards", "--json")[0])
    for program in ("books", "reports"):
        found["findings"] += json.loads(move(tmp_path, program, "--json")[0])["findings"]
    assert {path: path.read_bytes() for path in before} == before
    forms = {
        function: next(
            lines(each["joblane"])
            for each in found["findings"]
            if each["file"] == file and code in each["code"] and each["joblane"]
        )
        for function, (file, code) in CALLS.items()
    }
    own = {
        "cards_post": {
            "type": "cards:post",
            "fields": "name: str",
            "given": "name = payload.name",
            "grants": 'grants=Grants(run=("cards:write", "cards:stamp", "cards:send"))',
            "form": forms["post_with_stamp"],
        },
        "work_print": {
            "type": "work:print",
            "fields": "title: str\n    pages: list[int]",
            "given": "title, pages = payload.title, payload.pages",
            "grants": 'grants=Grants(run=("work:render",), enqueue=("books:bind_all",))',
            "form": forms["print_book"],
        },
    }
    (tmp_path / "rewritten.py").write_text(REWRITTEN.format(**forms))
    for function, words in own.items():
        (tmp_path / "functions" / function).mkdir()
        name = "".join(part.capitalize() for part in function.split("_"))
        text = OWN.format(function=function, name=name, **words)
        (tmp_path / "functions" / function / "handler.py").write_text(text)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_moved.py").write_text(TESTS)
    assert "\n6 passed" in (printed := run(tmp_path, joblane_server)), printed


TASK = "from celery import shared_task\n\n\n@shared_task\ndef {}(): ...\n"
APP = "from celery import Celery\n\napp = Celery()\n"


@pytest.mark.parametrize(
    ("files", "path", "types", "problem"),
    [
        ({}, "gone", {}, "gone does not exist. Give the folder or the file"),
        ({"a.py": "import os"}, ".", {}, "has no Celery: no Python file there imports it"),
        (
            {"a.py": "import celery\n\ndef f(:\n"},
            ".",
            {},
            "a.py, line 3: invalid syntax. Correct it. Nothing was written.",
        ),
        ({"a.py": b"import celery  # \xff"}, ".", {}, "a.py cannot be read: 'utf-8' codec"),
        ({"a.py": APP}, ".", {}, "declares no Celery task that can be read"),
        (
            {"a.py": f"{APP}for name in 'xy':\n    app.task(lambda: 1, name=name)\n"},
            ".",
            {},
            "a.py, line 5: a task is not",
        ),
        ({"a.py": TASK.format("_f")}, ".", {}, "line 5: task type 'a:_f': 'category:action' is required"),
        ({"a.py": TASK.format("Send")}, ".", {}, "Use --type a.Send=category:action"),
        ({"jobs.py": TASK.format("f")}, ".", {}, "task type 'jobs:f': jobs:, system:, django: are the library's own"),
        (
            {"a/b.py": TASK.format("c"), "a_b.py": TASK.format("c"), "a/c/b.py": TASK.format("c")},
            ".",
            {},
            "a/b.py, line 5: another task has this folder: b_c",
        ),
        ({"a.py": TASK.format("f")}, ".", {"a.g": "a:g"}, "--type: there is no Celery task 'a.g'"),
        ({"a.py": TASK.format("f")}, ".", {"a.f": "x"}, "task type 'x': 'category:action' is required"),
        ({"a.py": TASK.format("f"), "functions/a_f/own.txt": ""}, ".", {}, "functions/a_f already exists. Remove it"),
        ({"a.py": TASK.format("f"), "functions": ""}, ".", {}, "There is no folder functions/"),
    ],
)
def test_what_cannot_be_moved_is_refused_before_anything_is_written(
    files: dict[str, str | bytes], path: str, types: dict[str, str], problem: str, tmp_path: Path
) -> None:
    if "functions" not in files:
        (tmp_path / "functions").mkdir()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LocalError) as caught:
        plan(Project.at(tmp_path), tmp_path / path, types)
    assert problem in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


SOURCE = """
import os
from celery import Task, chain, current_task, group, shared_task
from celery.exceptions import Ignore
from celery.result import AsyncResult
from celery.schedules import crontab, solar
from celery.signals import task_failure, worker_ready
from elsewhere import app, tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
CELERY_BEAT_SCHEDULE = {
    "sun": {"task": "shop.count", "schedule": solar("sunset", 1, 2), "args": [1]},
    "made": {"task": "shop.count", "schedule": crontab(minute=os.getpid()), "args": [1]},
    "empty": {"task": "shop.count", "schedule": 60},
    "uneven": {"task": "shop.count", "schedule": 90, "args": [1]},
    "good": {"task": "shop.count", "schedule": 7200, "args": [1], "options": {"expires": 5}},
}
OPTIONS = {"bind": True}


@shared_task(**OPTIONS)
def dynamic(): ...


@app.task
def elsewhere(): ...


class Base(Task): ...


@shared_task(bind=True, base=Base, max_retries=None, autoretry_for=OPTIONS, rate_limit="many", queue="fast")
def mail(self, order: "Order", when=os.getpid()):
    self.update_state(state="SENT")
    count.apply_async(args=[self.request.id], priority=9, link=mail.s(1), link_error=count.s())
    raise Ignore()


@shared_task(time_limit=3600, dont_autoretry_for=(KeyError,), retry_backoff=True)
def count(model_id): ...


@worker_ready.connect
def ready(**options):
    chain(tasks)()
    app.send_task("unknown")
    app.control.revoke(current_task.request.id)
    count.map([1, 2])
    task_failure.connect(ready)
"""
REPORTED = """
11 by hand: a schedule is not moved: there is no solar
12 by hand: a schedule is not moved: it is not written out as literals
13 by hand: a schedule is not moved: it has no value for 'model_id'
14 by hand: a schedule is not moved: an interval of 90 seconds; the shortest is a minute, in whole minutes
15 by hand: options of a schedule
20 not read: a task is not moved: its name or its options are not written out
24 not read: a task is not moved: its Celery app is not assigned from Celery
28 by hand: there are no task classes
31 by hand: base: there are no task classes
31 differs: max_retry is 100 at most
31 differs: queue 'fast': there are critical, default, low
31 not read: autoretry_for is not written out as names
31 not read: rate_limit 'many'
32 by hand: order: Order is no type of JSON
32 differs: an attempt has 890 seconds
32 differs: when: it has no annotation
32 differs: when: its default is not a literal
33 by hand: there are no custom states
34 by hand: the task commits with the data of its caller; priority: there is none inside a queue; choose a queue; link:
35 by hand: Joblane would retry it
38 differs: an attempt has 890 seconds
39 differs: Celery never retries it
39 differs: model_id: it has no annotation
42 by hand: signal worker_ready: no equivalent
44 by hand: its tasks are not written out
45 by hand: no task of this name
46 by hand: control.revoke
46 by hand: the context is the second argument
47 by hand: map: enqueue the members
48 by hand: signal task_failure
"""


def test_the_report_lists_what_has_no_equivalent_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "shop.py").write_text(SOURCE.lstrip())
    made = plan(Project.at(tmp_path), tmp_path / "shop.py", {})
    found = sorted((each.line, each.kind, each.says) for each in made.findings)
    expected = REPORTED.strip().splitlines()
    shown = [f"{line} {kind}: {says}" for line, kind, says in found]
    assert [line[: len(start)] for line, start in zip(shown, expected, strict=True)] == expected
    markdown = made.as_markdown()
    assert "## Not read" in markdown
    assert "  ctx.enqueue(shop_count, ShopCount(model_id_=self.request.id))\n" in markdown
    handler = made.files[tmp_path / "functions" / "shop_count" / "handler.py"]
    assert 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")\ndjango.setup()\n' in handler
    assert "    model_id_: Any\n" in handler
    assert "shop.count(model_id=payload.model_id_)" in handler
    assert "every(hours=2, payload={'model_id_': 1}, name='good')" in handler


def test_a_dry_run_writes_nothing_and_a_name_gets_its_type(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "a.py").write_text(TASK.format("_f"))
    arguments = ("a.py", "--type", "a._f=mail:send")
    printed, said = move(tmp_path, *arguments, "--dry-run")
    assert "| `a._f`, a.py, line 5 | `mail:send` | functions/mail_send/handler.py |  |" in printed
    assert "Nothing was written" in said
    assert not [*(tmp_path / "functions").iterdir()]
    assert "Wrote 1 handler" in move(tmp_path, *arguments)[1]
    assert "functions/mail_send already exists" in move(tmp_path, *arguments, fails=True)[1]
    assert "NAME=TYPE is required" in move(tmp_path, "a.py", "--type", "mail", fails=True)[1]
