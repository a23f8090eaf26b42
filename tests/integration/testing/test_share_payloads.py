"""A producer imports the package of payloads alone, and the handlers run its tasks, as on the page about producers."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from joblane import ArchivedTask, EnqueueError, MessageClient, Payload, Queue, TaskContext, declare, handles, task
from joblane.errors import DeclarationError
from joblane.testing import JobTester
from tests.pages import ROOT, TYPED, blocks

FILES = {
    block.text.split("\n", 1)[0].removeprefix("# "): block.text
    for block in blocks("python", ROOT / "docs" / "how-to" / "produce-without-the-client.md")
}
PRODUCER = """
import importlib.util, sys
from joblane import DuplicateTaskError, JobClient, EnqueueError
from joblane.testing import JobTester
import acme_jobs, web
assert importlib.util.find_spec("functions") is None
with JobTester(sys.argv[1]) as kit:
    id_ = web.print_invoice(7)
    try:
        web.print_invoice(7)
    except DuplicateTaskError as error:
        assert error.task_id == id_
    found = kit.assert_enqueued(acme_jobs.invoice_print, acme_jobs.InvoicePrint(invoice_id=7))
    assert [one.queue for one in found] == ["default"]
    for wrong, field in ((dict(max_retry=4), "max_retry"), (dict(queue="low"), "queue")):
        try:
            web.jobs.enqueue(acme_jobs.invoice_print, acme_jobs.InvoicePrint(invoice_id=8), **wrong)
        except EnqueueError as error:
            assert error.field == field, error
    web.jobs.close()
assert not {name for name in sys.modules if name.startswith("functions")}
print(id_)
"""


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """Write the files of the page: the producer's with the package, and the handlers' apart."""
    for name, text in FILES.items():
        path = tmp_path / ("handlers" if name.startswith("functions/") else "producer") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_producer_enqueues_without_the_handlers_and_they_run_its_task(
    jobs: JobTester, repositories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # when the producer has the package alone
    where = os.environ | {"PYTHONPATH": f"{repositories / 'producer'}{os.pathsep}{TYPED}"}
    command = [sys.executable, "-W", "error", "-c", PRODUCER, jobs.url]
    ran = subprocess.run(command, cwd=repositories, env=where, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    # then a row with what was declared waits for the handlers
    row = jobs.task(ran.stdout.strip())
    assert (row.type, row.state) == ("invoice:print", "pending")
    # and the handlers' repository runs the task, also if the shared declaration is enqueued there
    monkeypatch.syspath_prepend(str(repositories / "producer"))
    handler: dict[str, Any] = {"__name__": "handlers"}
    exec(FILES["functions/invoice_print/handler.py"], handler)
    jobs.register(handler["invoice_print"])
    acme_jobs = handler["acme_jobs"]
    assert jobs.drain(within=timedelta(minutes=10)).only.result == 7
    assert jobs.run(acme_jobs.invoice_print, acme_jobs.InvoicePrint(invoice_id=8)) == 8
    sys.modules.pop("acme_jobs")


class Bill(Payload):
    number: int


class Other(Payload):
    pass


bill_alert = declare("bill:alert", ArchivedTask)
bill_send = declare("bill:send", Bill, max_retry=2, also=[Queue.LOW], on_archived=bill_alert)


def test_without_a_record_a_declared_task_is_sent(jobs: JobTester) -> None:
    bare = MessageClient()
    sent = bare.enqueue(bill_send, Bill(number=1), queue=Queue.LOW)
    assert (sent.queue, sent.sent) == ("low", True)
    with pytest.raises(EnqueueError, match="takes Bill, not Other"):
        bare.enqueue(bill_send, Other())  # type: ignore[misc]


def test_what_has_no_function_cannot_run(jobs: JobTester) -> None:
    with pytest.raises(DeclarationError, match=r"'bill:send' is declared without a function here; .* @handles"):
        jobs.run(bill_send, Bill(number=1))


@task("bill:made")
def bill_made(payload: Bill, ctx: TaskContext) -> int:
    return payload.number


def bill_send_of(payload: Bill, ctx: TaskContext) -> int:
    return payload.number


def takes_another(payload: ArchivedTask, ctx: TaskContext) -> int:
    return 1


NO_CLASS: Any = 7
takes_another.__name__ = "bill_send"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: declare("bill:x", NO_CLASS), "payload: a subclass of Payload is required, not 7"),
        (lambda: declare("bill", Bill), "'category:action' is required"),
        (lambda: declare("bill:x", Bill, max_retry=1000), "max_retry: an integer from 0 to 100"),
        (lambda: declare("bill:x", Bill, on_archived="ops:alert"), "on_archived: give a task, not the name"),
        (lambda: handles(bill_send)(bill_send_of), "called .bill_send_of., not .bill_send."),
        (lambda: handles(bill_send)(takes_another), "takes ArchivedTask, and is declared"),  # type: ignore[arg-type]
        (lambda: handles("bill:send"), "a task made by declare"),  # type: ignore[arg-type]
        (lambda: handles(bill_made), "not task 'bill:made', which has a function"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused(made: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        made()
