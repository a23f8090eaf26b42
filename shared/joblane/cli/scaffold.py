"""`joblane new`: the folder of a job that works, and its test."""

from __future__ import annotations

from pathlib import Path

from joblane.declaration import check_type
from joblane.errors import DeclarationError
from joblane.local.errors import LocalError, MisuseError
from joblane.queues import Queue, folder_of
from joblane.schedule import parse

HANDLER = '''\
"""Say in a sentence what {type} does."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from joblane import Payload, Queue, TaskContext, task


class {name}(Payload):
    """What a caller says. Fields without a default are required{periodic}."""

    count: int = 3


class {name}Result(BaseModel):
    done: int


@task(
    "{type}",
    queue=Queue.{queue},
    max_retry=3,
    timeout=timedelta({timeout}),{lines}
)
def {folder}(payload: {name}, ctx: TaskContext) -> {name}Result:
    done = 0
    for number in {loop}:
        ctx.progress(number, payload.count)
        done += 1
    ctx.logger.info("counted", count=done)
    return {name}Result(done=done)
'''

TEST = '''\
"""Tests of {type}, by the pytest fixture `jobs`: see docs/testing.md."""

from __future__ import annotations

from functions.{folder}.handler import {name}, {name}Result, {folder}
from joblane.testing import JobTester


def test_it_counts_what_it_is_told(jobs: JobTester) -> None:
    # given
    payload = {name}(count=5)
    # when
    result = jobs.run({folder}, payload)
    # then
    assert result == {name}Result(done=5)
'''

AGAIN = """

def test_it_is_run_again_after_a_crash_and_completes(jobs: JobTester) -> None:
    # given
    made = jobs.enqueue({folder}, {name}(count=2))
    # when
    with jobs.crash_before_commit({folder}):
        jobs.drain()
        jobs.travel({folder}.timeout * 8)
        jobs.drain()
    # then
    assert jobs.task(made.id).state == "completed"
"""

TICK = """

def test_its_schedule_runs_it(jobs: JobTester) -> None:
    # when
    id_ = jobs.tick({folder})
    jobs.drain()
    # then
    assert jobs.task(id_).state == "completed"
"""


def write(project: Path, type_: str, *, queue: str, schedule: str | None, resumable: bool) -> list[Path]:
    """Write the files, the test last. Raises :class:`LocalError`, before anything is written."""
    try:
        check_type(type_)
        if schedule is not None:
            parse(schedule)
    except DeclarationError as error:
        raise MisuseError(str(error)) from None
    if queue not in list(Queue):
        raise MisuseError(f"--queue: {queue!r} is not one of {', '.join(Queue)}")
    functions, folder = project / "functions", folder_of(type_)
    if not functions.is_dir():
        raise LocalError(f"There is no folder functions/ in {project}: run this in the folder of a project.")
    target, test = functions / folder, _tests(project) / f"test_{folder}.py"
    for path in (target, test):
        if path.exists():
            raise LocalError(f"{path.relative_to(project)} is there already; nothing was written.")
    return _write(target, test, _words(type_, Queue(queue), schedule, resumable=resumable))


def _words(type_: str, queue: Queue, schedule: str | None, *, resumable: bool) -> dict[str, str]:
    folder = folder_of(type_)
    lines = [f'schedule="{schedule}",'] if schedule else []
    lines += ["resumable=True,"] if resumable else []
    return {
        "type": type_,
        "folder": folder,
        "name": "".join(part.capitalize() for part in folder.split("_")),
        "queue": queue.name,
        "timeout": "hours=1" if resumable else "minutes=1",
        "lines": "".join(f"\n    {line}" for line in lines),
        "loop": "ctx.resume(range(1, payload.count + 1))" if resumable else "range(1, payload.count + 1)",
        "periodic": "; a tick gives none" if schedule else "",
    }


def _write(target: Path, test: Path, words: dict[str, str]) -> list[Path]:
    files = {
        target / "__init__.py": "",
        target / "handler.py": HANDLER.format_map(words),
        test: (TEST + AGAIN + (TICK if "schedule=" in words["lines"] else "")).format_map(words),
    }
    target.mkdir()
    test.parent.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def _tests(project: Path) -> Path:
    """Where tests with a database are, or else all of them."""
    own = project / "tests" / "integration"
    return own if own.is_dir() else project / "tests"
