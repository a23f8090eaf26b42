"""A platform with its data for a test. The kit runs its jobs, or they run with queues of moto."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from joblane import Payload, Task
from joblane.record.driver.database import Database
from joblane.testing import JobTester, TaskReport
from saas import health, mail, uploads
from tests.unit.saas.servers import HttpServer
from tests.world import World, mocked_aws

BUCKET = "exports"


@dataclass
class Tables:
    """The platform's rows, and the written mails."""

    database: Database
    mail_folder: Path

    def sql(self, sql: str, *parameters: Any) -> list[list[Any]]:
        return self.database.get().run(sql, *parameters)

    def add(self, table: str, **values: Any) -> str:
        """Insert a row and return its id."""
        columns = ", ".join(values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        rows = self.sql(f"insert into saas.{table} ({columns}) values ({places}) returning id::text", *values.values())
        return str(rows[0][0])

    def tenant(self, name: str = "Acme", slug: str = "acme", status: str = "active", **more: Any) -> str:
        return self.add("tenants", name=name, slug=slug, status=status, created_by="founder", **more)

    def role(self, tenant: str | None, name: str = "Editor") -> str:
        return self.add("roles", name=name, type="tenant", tenant_id=tenant, is_system=tenant is None)

    def member(self, tenant: str, role: str, user: str = "ann", status: str = "active") -> str:
        return self.add("tenant_members", tenant_id=tenant, user_id=user, role_id=role, status=status)

    def invitation(
        self, tenant: str, role: str, email: str = "ann@example.org", status: str = "pending", ends: str = "1 day"
    ) -> str:
        rows = self.sql(
            "insert into saas.user_invitations (tenant_id, email, invited_by, role_id, token, status, expires_at) "
            "values ($1, $2, 'founder', $3, $4, $5, now() + $6::text::interval) returning id::text",
            *(tenant, email, role, f"t0ken-{uuid.uuid4()}", status, ends),
        )
        return str(rows[0][0])

    def status(self, invitation: str) -> str:
        return str(self.value("select status from saas.user_invitations where id = $1", invitation))

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.sql(sql, *parameters)[0][0]

    @property
    def mails(self) -> list[EmailMessage]:
        files = sorted(self.mail_folder.glob("*.eml"))
        return [message_from_bytes(file.read_bytes(), policy=default) for file in files]


@dataclass
class App(Tables):
    """A platform with the kit."""

    jobs: JobTester

    def do(self, task: Task[Any, Any], payload: Payload) -> TaskReport:
        """Enqueue, run due tasks once, and return the task's report."""
        self.jobs.enqueue(task, payload)
        return self.jobs.drain().only


@dataclass
class Platform(Tables):
    """A platform with queues of moto, for tests of messages."""

    world: World

    def enqueue(self, task: Task[Any, Any], payload: Payload) -> str:
        self.world.lane(task)
        return self.world.client.enqueue(task, payload).id

    def run(self, task: Task[Any, Any], id_: str) -> dict[str, Any]:
        """Make the task due, run its function once, and return the task's row."""
        self.world.later(id_)
        seconds = task.numbers.function_timeout.total_seconds()
        self.world.deliver(task, {"v": 1, "type": task.type, "id": id_, "rec": True}, seconds=seconds)
        return self.world.row(id_)

    def do(self, task: Task[Any, Any], payload: Payload) -> dict[str, Any]:
        """Enqueue and run a task, and return its row."""
        return self.run(task, self.enqueue(task, payload))


@pytest.fixture
def app(joblane_database: str, jobs: JobTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    database = Database(joblane_database)
    with mocked_aws(monkeypatch), settings(tmp_path, monkeypatch):
        yield App(database, tmp_path / "mails", jobs)
    database.drop()


@pytest.fixture
def platform(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Platform]:
    with settings(tmp_path, monkeypatch):
        yield Platform(world._observer, tmp_path / "mails", world)


@contextmanager
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The platform's settings and its bucket, with new clients."""

    for name, value in {
        "EMAIL_PROVIDER": "console",
        "EMAIL_FROM_ADDRESS": "no-reply@example.com",
        "EMAIL_CONSOLE_DIR": str(folder / "mails"),
        "INVITATION_BASE_URL": "https://app.example.com/join",
        "EXPORT_BUCKET": BUCKET,
        "JOBLANE_STAGE": "local",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("TENANT_INIT_SERVICES", "TENANT_INIT_SECRET", "TENANT_GRACE_DAYS"):
        monkeypatch.delenv(name, raising=False)
    clients = (uploads.s3, mail._ses, health.sqs)
    for client in clients:
        client.cache_clear()
    uploads.s3().create_bucket(Bucket=BUCKET)
    yield
    for client in clients:
        client.cache_clear()


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HttpServer]]:
    """Three services that initialise tenants."""
    first, second, third = HttpServer(), HttpServer(), HttpServer()
    with first.running(), second.running(), third.running():
        servers = [first, second, third]
        monkeypatch.setenv("TENANT_INIT_SERVICES", ",".join(server.url for server in servers))
        yield servers


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]
