"""The tasks of an evening on call, as an operator does them: the commands, their number, and what each must tell.

A step is a command. None of the tasks takes more than four, and the drill of an outage takes six.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from joblane import TaskContext
from joblane.inspector.actions.changes import send
from joblane.inspector.bulk import run as bulk_run
from joblane.sqs.client import Entry, Sqs
from tests.builders import alarm_mail
from tests.builders.rows import In, archived, put
from tests.integration.cli.conftest import Jobs
from tests.samples import Sample, behaviour, sample_one, sample_tick
from tests.world import World, handle

LANE = "jobs-default-sample-one"
PROVIDER = {
    "fingerprint": "00000000deadbeef",
    "error_type": "ConnectionRefusedError",
    "error_message": "smtp.example.org refused the connection",
    "reason": "attempt 4 of 4 failed: ConnectionRefusedError: smtp.example.org refused the connection",
}
SENT = {"do": "operating_mail", "number": 0}
FLOOD, OUTAGE = 400, 3_000
COPIES = """
insert into joblane.tasks
select (jsonb_populate_record(t, jsonb_build_object('id', $1 || '-' || n))).*
  from joblane.tasks t, generate_series(1, $2::int) n where t.id = $1
"""
RUNS = """
insert into joblane.task_attempts
  (task_id, run, attempt, generation, type, tenant, started_at, finished_at, outcome, wait_ms, duration_ms, cost_usd)
select $1 || n, 1, 1, 1, $1, '', now() - interval '5 min', now() - interval '4 min', 'completed', 40,
       $2::int, $3::float8
  from generate_series(1, 20) n
"""


@behaviour
def operating_mail(payload: Sample, ctx: TaskContext) -> None: ...


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no text is broken."""
    monkeypatch.setenv("COLUMNS", "240")


class Steps:
    """Runs commands, and counts them."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.number = 0

    def __call__(self, line: str, *said: str, code: int = 0) -> str:
        """Run a command, and return its output and messages, which must contain ``said``."""
        self.number += 1
        ran = self._jobs(*shlex.split(line))
        text = ran.out + ran.err
        assert ran.code == code, text
        for each in said:
            assert each in text
        return text


def put_many(world: World, task: Any, id_: str, number: int, **columns: Any) -> None:
    put(world, task, id_, **columns)
    world.run(COPIES, id_, str(number - 1))


def fingerprint_in(text: str) -> str:
    return str(re.findall(r"\b[0-9a-f]{16}\b", text)[0])


@pytest.fixture
def evening(deployed: World) -> World:
    """A stage with a lost export, dead mails, a tenant that floods, an old pause, and types of different costs."""
    missing = {"error_type": "FileNotFoundError", "error_message": "orders.csv does not exist", "fingerprint": "0" * 16}
    put(deployed, sample_one, "export", SENT, tenant="initech", **archived(**missing, reason="orders.csv is missing"))
    put_many(deployed, sample_one, "mail", 60, payload=SENT, **archived(**PROVIDER))
    due: dict[str, Any] = {"due_at": In(-1_200), "created_at": In(-1_200), "sweep_at": In(600)}
    put_many(deployed, sample_one, "flood", FLOOD, tenant="megacorp", **due)
    put_many(deployed, sample_one, "calm", 3, tenant="globex", **due)
    put(deployed, sample_tick, "former", **due)
    deployed.run("update joblane.tasks set type = 'sample:former' where id = 'former'")
    for type_, ms, cost in (("sample:batch", 4_000, 0.002), ("sample:one", 40, 0.00002)):
        deployed.run(RUNS, type_, str(ms), str(cost))
    return deployed


def a_missing_export(step: Steps, world: World) -> None:
    listed = step("ls --tenant initech --type sample:one --newer 2h", "archived")
    assert "export" in listed.splitlines()[1]
    step("show export", "orders.csv is missing", "retry export")
    step("retry export --reason 'the file is there now'", "export was archived, is pending")
    assert world.row("export")["state"] == "pending"


def many_died(step: Steps, world: World) -> None:
    shown = step("dead", "ConnectionRefusedError: smtp.example.org refused the connection", "60")
    fingerprint = fingerprint_in(shown)
    step(f"redrive {fingerprint} --dry-run", "60 tasks would be redriven")
    step(
        f"redrive {fingerprint} --canary 5 --rate 500 --reason 'the provider is back' --yes",
        "Redrive: all 60 tasks sent again. Now 5 completed, 55 wait, 0 archived again.",
    )


def a_tenant_floods(step: Steps, world: World) -> None:
    first = step("queues --by tenant", "pause tenant megacorp --for 1h").splitlines()[1]
    assert first.split()[:2] == ["megacorp", str(FLOOD)]
    step("pause tenant megacorp --for 1h --reason 'it floods'", "Paused tenant megacorp until")
    after = step("queues", "tenant megacorp: paused", "by op: it floods. 400 due tasks wait for its end")
    assert "pause tenant megacorp" not in after


def a_slow_queue(step: Steps, world: World) -> None:
    step("why sample:one", "megacorp", "pause tenant megacorp", code=1)


def a_bad_deploy(step: Steps, world: World) -> None:
    step("pause type sample:batch --reason 'release 41 is bad'", "nothing new starts", "resume type sample:batch")
    step("resume type sample:batch --reason 'rolled back'", "it was paused by op since")


def the_dearest_type(step: Steps, world: World) -> None:
    shown = step("runs --cost", "estimates")
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["sample:batch", "sample:one"]


def who_paused(step: Steps, world: World) -> None:
    step("audit --action pause", "op", "type:sample:batch", "release 41 is bad")


def an_alarm_mail(step: Steps, world: World) -> None:
    shown = step(alarm_mail.command(alarm_mail.ARCHIVED), "smtp.example.org refused the connection")
    example = re.findall(r"show (mail\S*)", shown)[0]
    step(f"show {example}", "attempt 4 of 4 failed: ConnectionRefusedError")


def a_renamed_type(step: Steps, world: World) -> None:
    step("ls --type sample:former", "former", "pending")
    world.run("update joblane.tasks set type = 'sample:tick' where id = 'former'")
    step("ls --type sample:former", "there is no task type 'sample:former'", code=3)


TASKS: dict[str, tuple[Callable[[Steps, World], None], int]] = {
    "d": (a_slow_queue, 1),
    "c": (a_tenant_floods, 3),
    "a": (a_missing_export, 3),
    "f": (the_dearest_type, 1),
    "e": (a_bad_deploy, 2),
    "g": (who_paused, 1),
    "h": (an_alarm_mail, 2),
    "b": (many_died, 3),
    "i": (a_renamed_type, 2),
}
"""Task → its steps, in the order of the evening: a tenant that is paused slows no queue any more."""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, deployed: World) -> Callable[[int], None]:
    """Run the next tasks of the lane whenever a redrive waits; return a function that sets how many it may run."""
    left = [0]

    def work(_seconds: float) -> None:
        while left[0] > 0 and (records := deployed.receive(LANE)):
            left[0] -= len(records)
            deployed.acknowledge(LANE, records, handle(deployed.worker(sample_one), *records))

    monkeypatch.setattr(bulk_run, "time", SimpleNamespace(sleep=work, monotonic=time.monotonic))
    return lambda number: left.__setitem__(0, number)


def test_the_nine_tasks_of_an_evening_take_four_steps_at_most(
    evening: World, jobs: Jobs, provider: Callable[[int], None], subtests: pytest.Subtests
) -> None:
    provider(5)
    for name, (task, number) in TASKS.items():
        with subtests.test(f"{name}: {task.__name__}"):
            steps = Steps(jobs)
            task(steps, evening)
            assert steps.number == number <= 4


def test_an_outage_of_three_thousand_tasks_takes_six_commands(
    deployed: World, jobs: Jobs, provider: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an outage of the provider, and its alarm
    put_many(deployed, sample_one, "mail", OUTAGE, payload=SENT, **archived(**PROVIDER))
    step = Steps(jobs)
    # when the operator looks for the cause, and stops the harm
    shown = step(alarm_mail.command(alarm_mail.ARCHIVED), "ConnectionRefusedError", "3,000", "[new]")
    example = re.findall(r"show (mail\S*)", shown)[0]
    step(f"show {example}", "smtp.example.org refused the connection")
    step("pause type sample:one --reason 'the provider is down, INC-12'", "nothing new starts")
    # and once the provider is back
    step("resume type sample:one --reason 'the provider is back, INC-12'")
    provider(5)
    messages: list[str] = []

    def send_canary(sqs: Sqs, entries: Mapping[str, Entry]) -> None:
        """Send the first messages, and only count the others: they run in no time below."""
        if not messages:
            send(sqs, entries)
        messages.extend(entries)

    monkeypatch.setattr(bulk_run, "send", send_canary)
    sent = step(
        f"redrive {fingerprint_in(shown)} --canary 5 --rate 500 --reason INC-12 --yes",
        "all 3,000 tasks sent again. Now 5 completed, 2,995 wait, 0 archived again",
    )
    assert len(messages) == OUTAGE
    deployed.run(
        "update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() + interval '1 day',"
        " sweep_at = null where state = 'pending' and id like 'mail%'"
    )
    # then the last command says how all of them ended
    bulk = re.findall(r"Started bulk action (\S+)\.", sent)[0]
    step(f"bulk show {bulk}", "Now 3,000 completed, 0 wait, 0 archived again. It is completed")
    assert step.number <= 6
