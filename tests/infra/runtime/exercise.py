"""Everything that the functions of the platform, and programs that send jobs, do with AWS, once."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane.client.client import JobClient
from joblane.inspector import wire
from joblane.inspector.filter import Filter
from joblane.names import Queue, dead_letter_name, front_door_name, lane_name
from joblane.tasks.discovery import discover
from saas.demo.services import People
from tests.builders.events import event, record
from tests.builders.http_events import claims, http_event, principal
from tests.infra.runtime.aws import KEY
from tests.infra.runtime.conftest import PREFIX, Stage
from tests.infra.runtime.resolved import Resolved
from tests.infra.runtime.runtime_api import REGION
from tests.infra.runtime.sandbox import Sandbox

Body = str | Mapping[str, Any]
REFUSED = "no JSON"
SENDER = "no-reply@example.com"


class Exercise:
    """The programs. ``mailing``: the templates of a stage that sends mail by SES."""

    def __init__(self, stage: Stage, mailing: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage, self.mailing, self.monkeypatch = stage, mailing, monkeypatch
        self.people, self.tasks = People(), discover()
        monkeypatch.setenv("DATABASE_URL", stage.url)
        monkeypatch.setenv("JOBLANE_PREFIX", PREFIX)
        engine = create_engine(stage.url.replace("postgresql://", "postgresql+pg8000://"))
        with Session(engine) as session:
            self.people.sign_up(session)
            session.commit()
        engine.dispose()

    def run(self) -> None:
        self.mails()
        self.workers()
        self.events()
        self.api()
        self.router()
        self.operator()
        self.producers()

    @property
    def payloads(self) -> Mapping[str, dict[str, Any]]:
        """A payload for each type but `jobs:bulk`, which an operator starts."""
        tenant, user = str(self.people.acme), str(self.people.user)
        return {
            "data:export": {"tenant_id": tenant, "user_id": user, "export_type": "full"},
            "jobs:sweep": {},
            "report:generate": {},
            "system:health_check": {},
            "system_user:expiry": {},
            "tenant:initialize": {"tenant_id": str(self.people.globex)},
            "user:invitation": {"invitation_id": str(self.people.invitation)},
            "tenant:cleanup": {},
        }

    def workers(self) -> None:
        """A message without an id, a refused one, one that comes too early, and a run, of each type."""
        for type_, payload in {"jobs:bulk": {}, **self.payloads}.items():
            task = self.tasks[type_]
            lane, given = lane_name(PREFIX, task.queue, type_), task.payload.model_validate(payload)
            with JobClient() as client:
                early = client.enqueue(task, given, process_in=timedelta(minutes=5)).id
            if type_ == "tenant:cleanup":  # the report and the export of a tenant that was deleted long ago
                self.stage.run("update saas.tenants set deleted_at = now() - interval '1 year'")
            bodies: list[Body] = [
                {"type": type_, "payload": payload},
                REFUSED,
                {"type": type_, "id": early, "rec": True},
            ]
            for body in bodies:
                self.stage.of(task.slug).invoke(event(record(body, lane)))
            self.stage.received(lane)
            if type_ != "jobs:bulk":  # an operator starts it
                self.complete(type_, self.stage.of(task.slug))

    def events(self) -> None:
        """An event that no worker has sent, so that the sweep sends it."""
        self.stage.run(
            "insert into joblane.events (id, detail, created_at)"
            " values ('a:0:archived', '{\"kind\": \"archived\"}', now() - interval '1 hour')"
        )
        self.complete("jobs:sweep", self.stage.of("jobs-sweep"))
        assert self.stage.run("select id from joblane.events") == [], self.stage.of("jobs-sweep").output

    def complete(self, type_: str, sandbox: Sandbox) -> None:
        """Run a task of the type."""
        id_, task = str(uuid4()), self.tasks[type_]
        body = {"type": type_, "id": id_, "payload": self.payloads[type_]}
        sandbox.invoke(event(record(body, lane_name(PREFIX, task.queue, type_))))
        state = "scheduled" if type_ == "user:invitation" else "completed"  # it waits until it is accepted
        assert self.stage.row(id_)["state"] == state, sandbox.output

    def mails(self) -> None:
        """A mail of each function that sends some, as the stage with SES configures it."""
        boto3.client("sesv2").create_email_identity(EmailIdentity=SENDER)
        self.stage.run("update saas.system_users set grace_period_at = now() - interval '1 hour'")
        for type_ in ("data:export", "system_user:expiry", "user:invitation"):
            task = self.tasks[type_]
            with Sandbox(self.stage.function(task.slug, self.mailing), self.stage.folders) as sandbox:
                self.complete(type_, sandbox)

    def api(self) -> None:
        """A tenant, an invitation, a weekly report whose first tick is soon, an export, and the download of it by a
        link that the API has signed."""
        tenant = self._request("POST", "/tenants", {"name": "New Ltd", "slug": "new-ltd"}, who=claims())["tenant_id"]
        owner, role = claims("ann", tenant, "owner"), str(uuid4())
        self.stage.run(
            "insert into saas.roles (id, name, type, tenant_id) values ($1::uuid, 'member', 'tenant', $2::uuid)",
            role,
            tenant,
        )
        invitation = {"email": "bob@example.org", "role_id": role}
        self._request("POST", f"/tenants/{tenant}/invitations", invitation, who=owner)
        soon = datetime.now(UTC) + timedelta(minutes=5)
        report = {"day": f"{soon:%A}".lower(), "time": f"{soon:%H:%M}"}
        self._request("PUT", "/reports/schedules/weekly", report, who=owner)
        asked = self._request("POST", "/exports", {"export_type": "full"}, who=owner)
        lane = f"{PREFIX}-default-data-export"
        for message in self.stage.received(lane):
            self.stage.of("data-export").invoke(event(record(message["Body"], lane)))
        found = self._request("GET", f"/exports/{asked['task_id']}", who=owner)
        with urllib.request.urlopen(found["download"]["url"]) as download:
            assert download.read(2) == b"PK"

    def router(self) -> None:
        """A message of each type that the front doors accept, a refused one, and one of a type that is not deployed."""
        accepted = [(type_, payload) for type_, payload in self.payloads.items() if self.tasks[type_].front_door]
        bodies: list[Body] = [
            REFUSED,
            *({"type": type_, "payload": payload} for type_, payload in [*accepted, ("not:deployed", {})]),
        ]
        for queue in Queue:
            self.stage.of("router").invoke(event(*(record(body, front_door_name(PREFIX, queue)) for body in bodies)))

    def operator(self) -> None:
        """The queries and actions of the control API, and a redrive of every dead letter."""
        for operation in ("overview", "doctor", "schedules"):
            self.control(operation)
        made = self.control("enqueue", type="system_user:expiry", payload={})
        self.control("logs", id=made.id)
        self.control("run_schedule", name="system_user:expiry:0")
        self._put_undelivered_tick()
        dead, lane = {group.queue: group for group in self.control("dead").groups}, f"{PREFIX}-low-jobs-bulk"
        for name in ("cron", "default", "default-data-export"):  # a tick's, a front door's, and a lane's
            group = dead[dead_letter_name(f"{PREFIX}-{name}")]
            begun = self.control("redrive", filter=Filter(fingerprint=group.fingerprint), rate=500)
            for message in self.stage.received(lane):
                self.stage.of("jobs-bulk").invoke(event(record(message["Body"], lane)))
            assert self.control("bulk_view", id=begun.id).done == group.archived

    def _put_undelivered_tick(self) -> None:
        """A tick that EventBridge Scheduler could not send."""
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=dead_letter_name(f"{PREFIX}-cron"))["QueueUrl"]
        tick = {"type": "jobs:sweep", "tick": {"schedule": "0", "at": "2026-11-25T08:00Z"}}
        sqs.send_message(
            QueueUrl=url,
            MessageBody=json.dumps(tick),
            MessageAttributes={"ERROR_CODE": {"DataType": "String", "StringValue": "Throttled"}},
        )

    def producers(self) -> None:
        """A program with the policy of each front door, and one with the policy of each type."""
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", self.stage.aws.endpoint)
        for queue in Queue:
            sqs = self._session(str(queue)).client("sqs")
            url = sqs.get_queue_url(QueueName=front_door_name(PREFIX, queue))["QueueUrl"]
            sqs.send_message(QueueUrl=url, MessageBody=REFUSED)
        for type_, payload in self.payloads.items():
            task = self.tasks[type_]
            self.monkeypatch.setattr(boto3, "DEFAULT_SESSION", self._session(task.slug))
            with JobClient() as client:
                client.enqueue(task, task.payload.model_validate(payload))

    def _session(self, policy: str) -> boto3.Session:
        return boto3.Session(f"{KEY}{PREFIX}-send-{policy}-{REGION}", "secret")

    def control(self, operation: str, **arguments: Any) -> Any:
        permission = wire.operations()[operation]
        body = wire.encode_arguments(operation, (), arguments)
        signer = principal("arn:aws:sts::123456789012:assumed-role/Operator/ann")
        request = http_event("POST", f"/{permission}/{operation}", raw=body.decode(), signer=signer)
        request["routeKey"], request["pathParameters"] = f"POST /{permission}/{{operation}}", {"operation": operation}
        answer = self.stage.of("control").invoke(request)
        assert answer["statusCode"] == 200, answer
        return wire.decode_answer(operation, answer["body"])

    def _request(self, method: str, path: str, body: object = None, *, who: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.stage.of("api").invoke(http_event(method, path, body, who=who))
        assert answer["statusCode"] < 300, answer
        found: dict[str, Any] = json.loads(answer["body"])
        return found
