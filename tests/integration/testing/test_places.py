"""Tasks of a place in the kit: one lane, one invocation for a batch, and each message runs its own type."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from joblane import Grants, Lambda, Payload, State, TaskContext, task
from joblane.testing import JobTester
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import write
from tests.pages import ROOT, TYPED, blocks

WEB = Lambda("web", batch_size=10)


class Nothing(Payload):
    pass


@task("web:first", runs_on=WEB, timeout=timedelta(seconds=2), grants=Grants(enqueue=("web:second",)))
def web_first(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, "first")
    ctx.enqueue(web_second, Nothing())


@task("web:second", runs_on=WEB, timeout=timedelta(seconds=50), retry_delay=timedelta(minutes=1))
def web_second(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, f"second, attempt {ctx.attempt}")
    if ctx.attempt == 1:
        raise ValueError("again")


@pytest.mark.parametrize("number", [1, 3])
def test_a_batch_of_both_types_is_one_invocation(jobs: JobTester, effects: Effects, number: int) -> None:
    for _ in range(number):
        jobs.client.enqueue(web_first, Nothing())
        jobs.client.enqueue(web_second, Nothing())
    done = jobs.drain(within=timedelta(seconds=30))
    assert done.invocations == 2  # those, and what they have enqueued
    assert effects().count("first") == number
    jobs.drain(within=timedelta(minutes=2))
    assert effects().count("second, attempt 2") == 2 * number


def test_a_kill_returns_the_messages_of_both_types(jobs: JobTester, effects: Effects) -> None:
    first, second = jobs.client.enqueue(web_first, Nothing()), jobs.client.enqueue(web_second, Nothing())
    with jobs.crash_before_commit(web_first):
        jobs.drain(within=timedelta(seconds=30))
    assert [jobs.task(each.id).state for each in (first, second)] == [State.ACTIVE, State.PENDING]
    jobs.drain(within=timedelta(hours=1))
    assert jobs.task(first.id).state is State.COMPLETED
    assert (jobs.task(second.id).state, jobs.task(second.id).attempts) == (State.COMPLETED, 2)
    assert effects().count("first") == 1


FILES = {
    block.text.split("\n", 1)[0].removeprefix("# "): block.text
    for block in blocks("python", ROOT / "docs" / "how-to" / "places.md")
}
USE = """
import sys
from joblane.names import Queue, lane_name
from joblane.tasks.discovery import discover
from joblane.tasks.places import numbers_of, places_of
from joblane.testing import JobTester
import acme_jobs
from functions.mail_digest.handler import MailDigest, mail_digest
assert lane_name("jobs", Queue.DEFAULT, acme_jobs.mail_remind.type) == "jobs-default-web"
[(web, types)] = places_of(discover().values()).items()
assert web == acme_jobs.WEB
assert {each.type for each in types} == {"mail:send", "mail:digest"}
numbers, alone = numbers_of(web, types), numbers_of(web, [each for each in types if each.type == "mail:send"])
print([number.seconds for number in (numbers.function_timeout, numbers.visibility, alone.visibility)])
with JobTester(sys.argv[1]) as jobs:
    jobs.enqueue(mail_digest, MailDigest())
    print(sorted(task.type for task in jobs.drain().check().tasks))
"""


def test_the_page_declares_a_place_and_the_timeouts_that_it_says(jobs: JobTester, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    where = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{TYPED}"}
    command = [sys.executable, "-W", "error", "-c", USE, jobs.url]
    ran = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    printed = [line for line in ran.stdout.splitlines() if not line.startswith("{")]  # and not logged
    assert printed == ["[310, 321, 121]", "['mail:digest', 'mail:send']"]
