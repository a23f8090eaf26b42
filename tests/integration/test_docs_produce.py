"""The producers of `produce*.md` and `fastapi.md` run over moto and PostgreSQL, and a worker runs what they send."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from joblane.errors import JobError
from joblane.local.postgres import program
from joblane.local.tools import Tools
from joblane.project import Project
from joblane.record.task_types import register
from joblane.testing import JobTester
from joblane.worker.router import Router
from tests.builders.events import invoke, record
from tests.django_database import django_database
from tests.pages import ROOT, blocks
from tests.world import PREFIX, World

HOW_TO = ROOT / "docs" / "how-to"
PAGES = [*sorted(HOW_TO.glob("produce*.md")), HOW_TO / "fastapi.md"]
HANDLER = "functions.invoice_remind.handler"


def file(name: str, language: str = "python") -> str:
    """The block of the pages that is this file."""
    [found] = [block for block in blocks(language, *PAGES) if block.text.split("\n", 1)[0].endswith(f" {name}")]
    return "\n" * found.line + found.text


def run_as_module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a file of the pages."""
    module = ModuleType(name.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file(name), name, "exec", dont_inherit=True), module.__dict__)
    return module


Load = Callable[[str], ModuleType]


@pytest.fixture
def load(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return a function that imports a file of the pages. The tables and queues that the files need exist."""

    def load(name: str) -> ModuleType:
        loaded.append(run_as_module(name, monkeypatch))
        return loaded[-1]

    loaded: list[ModuleType] = []
    task = load("functions/invoice_remind/handler.py").invoice_remind
    world.deploy([task])
    register(world.database.get(), {task.type: task})
    world.run("create table invoices (id serial primary key, customer text not null)")
    yield load
    for module in loaded:
        match getattr(module, "engine", None):
            case Engine() as engine:
                engine.dispose()
            case AsyncEngine() as engine:
                asyncio.run(engine.dispose())
        if hasattr(module, "jobs"):
            module.jobs.close()


def ran(world: World, task_id: str) -> Any:
    """Deliver what is in the task's lane; return the result of the task."""
    task = sys.modules[HANDLER].invoice_remind
    for message in world.take(task):
        world.deliver(task, message["Body"], message_id=message["MessageId"])
    row = world.row(task_id)
    assert row["state"] == "completed", row
    return row["result"]


def test_sqlalchemy(world: World, load: Load) -> None:
    assert ran(world, load("billing.py").bill_acme()) == 1


def test_flask(world: World, load: Load) -> None:
    load("billing.py")
    answer = load("flask_app.py").app.test_client().post("/invoices", data={"customer": "acme"})
    assert ran(world, answer.json["task"]) == 1


def test_fastapi_in_threads(world: World, load: Load) -> None:
    load("billing.py")
    with TestClient(load("fastapi_threads.py").app) as client:
        answer = client.post("/invoices", params={"customer": "acme"})
    assert ran(world, answer.json()["task"]) == 1


def test_fastapi(world: World, load: Load) -> None:
    app = load("fastapi_app.py").app
    world.run("alter table invoices add unique (customer) deferrable initially deferred")
    with TestClient(app) as client:
        task = client.post("/invoices", params={"customer": "acme"}).json()["task"]
        assert client.get(f"/tasks/{task}").json() == {"state": "pending"}
        assert ran(world, task) == 1
        assert client.get(f"/tasks/{task}").json() == {"state": "completed"}
        assert client.get("/tasks/unknown").status_code == 404
        # a commit that fails is an error of the request, and leaves no task
        with pytest.raises(IntegrityError):
            client.post("/invoices", params={"customer": "acme"})
    assert world.run("select count(*) from joblane.tasks") == [[1]]
    assert world.take(sys.modules[HANDLER].invoice_remind) == []


@pytest.fixture
def fastapi_test(monkeypatch: pytest.MonkeyPatch) -> Callable[[JobTester, str], None]:
    """The test of the page, after its migration. The application is imported before a test has a database."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    schema = run_as_module("shop/schema.py", monkeypatch)
    for name in ("functions/invoice_remind/handler.py", "fastapi_app.py", "tests/test_fastapi_app.py"):
        module = run_as_module(name, monkeypatch)

    def run(jobs: JobTester, url: str) -> None:
        schema.create(url)
        module.test_an_invoice_sends_its_reminder(jobs)

    return run


def test_a_test_of_a_fastapi_application(
    fastapi_test: Callable[[JobTester, str], None], jobs: JobTester, joblane_database: str
) -> None:
    fastapi_test(jobs, joblane_database)


def test_an_application_without_joblanes_lifespan_says_so(load: Load) -> None:
    app = load("fastapi_app.py").app
    with pytest.raises(JobError, match=r"this application has no client: use FastAPI\(lifespan="):
        TestClient(app).get("/tasks/unknown")


def test_async_session(world: World, load: Load) -> None:
    module = load("async_billing.py")

    async def main() -> str:
        try:
            return str(await module.bill("acme"))
        finally:
            await module.engine.dispose()

    assert ran(world, asyncio.run(main())) == 1


def test_a_batch_in_an_async_session(world: World, load: Load) -> None:
    engine, remind = load("async_billing.py").engine, load("async_batch.py").remind

    async def main() -> None:
        await remind([7, 8])
        await engine.dispose()

    asyncio.run(main())
    assert len(world.take(sys.modules[HANDLER].invoice_remind)) == 2


def test_psycopg(world: World, load: Load) -> None:
    assert ran(world, load("psycopg_billing.py").bill("acme")) == 1


def test_asyncpg(world: World, load: Load) -> None:
    assert ran(world, asyncio.run(load("asyncpg_billing.py").bill("acme"))) == 1


def test_django(world: World, load: Load) -> None:
    with django_database(world.url):
        module = load("django_jobs.py")
        assert ran(world, module.bill("acme")) == 1
        with module.transaction.atomic():
            undone = module.bill("acme")
            module.transaction.set_rollback(True)
        assert world.run("select id from joblane.tasks where id = $1", undone) == []
        assert world.take(module.invoice_remind) == []


def run_in_psql(world: World, part: str) -> None:
    """Run the only block of SQL on the pages that has this part."""
    [script] = [block.text for block in blocks("sql", *PAGES) if part in block.text]
    command = [str(program("psql")), world.url, "-v", "ON_ERROR_STOP=1", "-q", "-c", script]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.usefixtures("load")
def test_the_sql_runs_in_psql(world: World) -> None:
    run_in_psql(world, "remind-7")
    row = world.row("remind-7")
    assert (row["state"], row["tenant"], row["payload"]) == ("scheduled", "acme", {"invoice_id": 7})
    world.later("remind-7")
    assert world.sweep().sent == 1
    assert ran(world, "remind-7") == 7


@pytest.mark.usefixtures("load")
@pytest.mark.parametrize("payload", ["{}", '{"invoice_id": 8}'], ids=["dead parent", "parent"])
def test_a_child_of_sql_runs_after_its_parent(world: World, payload: str) -> None:
    run_in_psql(world, "remind-9")
    world.run("update joblane.tasks set payload = $1::jsonb where id = 'remind-8'", payload)
    task = sys.modules[HANDLER].invoice_remind
    assert world.sweep().sent == 2
    messages = sorted(world.take(task), key=lambda message: "remind-9" not in message["Body"])
    for message in messages:  # the child's comes first
        world.deliver(task, message["Body"])
        assert world.row("remind-9")["state"] == ("held" if message is messages[0] else "pending")
    assert world.row("remind-8")["state"] == ("completed" if "8" in payload else "archived")
    assert ran(world, "remind-9") == 9


def test_the_sql_function_refuses_a_payload_that_does_not_fit_as_the_page_shows(world: World, load: Load) -> None:
    [shown] = [block.text for block in blocks("text", *PAGES) if block.text.startswith("ERROR:")]
    with pytest.raises(DatabaseError) as refusal:
        world.run("""select * from joblane.enqueue('invoice:remind', '{"invoice_id": "seven"}')""")
    said = refusal.value.args[0]
    assert shown.splitlines() == [f"ERROR:  {said['M']}", f"HINT:  {said['H']}"]


def through_the_front_door(world: World, body: str, message_id: str) -> Any:
    """Hand a message to the router, and what it forwards to a worker."""
    task = sys.modules[HANDLER].invoice_remind
    router = Router({task.type: ["default"]}, world.sqs, PREFIX)
    assert invoke(router.handle, record(body, "jobs-default", message_id=message_id)) == []
    return ran(world, message_id)


def test_boto3(world: World, load: Load) -> None:
    task_id = load("plain_boto3.py").remind(7, "acme")
    [message] = world.received("jobs-default")
    assert (message["MessageId"], message["Attributes"]["MessageGroupId"]) == (task_id, "acme")
    assert through_the_front_door(world, message["Body"], task_id) == 7
    assert world.row(task_id)["max_attempts"] == 2


def test_another_repository(world: World, load: Load) -> None:
    engine = create_engine(world.url.replace("postgresql://", "postgresql+psycopg://"))
    remind = load("other_repository.py").remind
    with Session(engine) as session, session.begin():
        assert remind(session, 7) == remind(session, 7) == "remind-7"
    engine.dispose()
    assert world.row("remind-7")["payload"] == {"invoice_id": 7}


SDK = """
export class SQSClient {
  async send(command) { return command.answer; }
}
export class GetQueueUrlCommand {
  constructor({ QueueName }) { this.answer = { QueueUrl: `https://sqs/${QueueName}` }; }
}
export class SendMessageCommand {
  constructor(input) { console.log(JSON.stringify(input)); this.answer = { MessageId: "m-1" }; }
}
"""


@pytest.mark.usefixtures("load")
def test_node(tmp_path: Path, world: World) -> None:
    # given the page's file, and a stand-in for the SDK
    sdk = tmp_path / "node_modules" / "@aws-sdk" / "client-sqs"
    sdk.mkdir(parents=True)
    (sdk / "package.json").write_text('{"name": "@aws-sdk/client-sqs", "type": "module", "main": "index.js"}')
    (sdk / "index.js").write_text(SDK)
    (tmp_path / "remind.mjs").write_text(file("remind.mjs", "js"))
    (tmp_path / "main.mjs").write_text('import { remind } from "./remind.mjs"; console.log(await remind(7, "acme"));')
    # when
    node = Tools(Project(ROOT)).node
    done = subprocess.run([node, "main.mjs"], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # then its message runs
    sent, id_ = done.stdout.splitlines()
    message = json.loads(sent)
    assert (id_, message["QueueUrl"], message["MessageGroupId"]) == ("m-1", "https://sqs/jobs-default", "acme")
    assert through_the_front_door(world, message["MessageBody"], "m-1") == 7
