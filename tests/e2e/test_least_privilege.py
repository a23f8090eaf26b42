"""The functions' roles, enforced: what each job does is allowed, and what it was not granted is denied.

The emulator takes its root for the one who may assume any role, so the tests can speak with a function's own
permissions. It does not know ``ses:FromAddress`` and the streams of a log group: these are tested on the template.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.exceptions import ClientError

from functions.data_export.handler import DataExport, data_export
from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from shared.db import Database
from shared.jobs import JobClient, Queue
from shared.jobs.discovery import discover
from shared.jobs.inspector import Filter, Inspector
from shared.jobs.inspector.reach import Reach
from shared.jobs.job import Job
from shared.jobs.sqs import Sqs
from tests.e2e.conftest import Deployed, await_true, running
from tests.http_events import claims, http_event

REFUSED = ("AccessDenied", "AccessDeniedException")
OTHER = "jobs-low-tenant-cleanup"
DOORS = [f"jobs-{queue}" for queue in Queue]
LANES = [f"jobs-{queue}-{task.slug}" for task in discover().values() for queue in task.lanes]


@pytest.fixture(scope="module")
def enforced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with running(tmp_path_factory.mktemp("enforced"), permissions=True) as found:
        yield found


@dataclass
class Caller:
    """Whoever holds some credentials, and what it tries on the deployed stack."""

    deployed: Deployed
    session: boto3.Session

    @cached_property
    def sqs(self) -> Any:
        return self.session.client("sqs")

    @cached_property
    def s3(self) -> Any:
        return self.session.client("s3")

    @property
    def bucket(self) -> str:
        return self.deployed.stack.output("ExportBucket")

    def send(self, queue: str) -> None:
        """One message that no consumer knows what to do with."""
        self.sqs.send_message(QueueUrl=self.deployed.url(queue), MessageBody="a probe")

    def find(self, queue: str) -> None:
        self.sqs.get_queue_url(QueueName=queue)

    def look(self, queue: str) -> None:
        self.sqs.get_queue_attributes(QueueUrl=self.deployed.url(queue), AttributeNames=["All"])

    def receive(self, queue: str) -> None:
        self.sqs.receive_message(QueueUrl=self.deployed.url(queue), WaitTimeSeconds=0)

    def delete(self, queue: str) -> None:
        """The permission is looked at first, so that a receipt which is none is no matter."""
        try:
            self.sqs.delete_message(QueueUrl=self.deployed.url(queue), ReceiptHandle="none")
        except self.sqs.exceptions.ReceiptHandleIsInvalid:
            return

    def purge(self, queue: str) -> None:
        self.sqs.purge_queue(QueueUrl=self.deployed.url(queue))

    def write(self, key: str) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"{}")

    def read(self, key: str) -> None:
        """The permission is looked at first, so that a key which is not there is no matter."""
        try:
            self.s3.get_object(Bucket=self.bucket, Key=key)
        except self.s3.exceptions.NoSuchKey:
            return

    def remove(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def list(self, prefix: str) -> None:
        self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)

    def roles(self, _: str) -> None:
        self.session.client("iam").list_roles()

    def invoke(self, function: str) -> None:
        self.session.client("lambda").invoke(FunctionName=function, InvocationType="DryRun")

    def may(self, does: str, what: str) -> bool:
        try:
            getattr(self, does)(what)
        except ClientError as error:
            if error.response["Error"]["Code"] in REFUSED:
                return False
            raise
        return True


@pytest.fixture
def function(enforced: Deployed) -> Callable[[str], Caller]:
    """Whoever has the role of a function."""

    def assume(name: str) -> Caller:
        role = boto3.client("lambda").get_function_configuration(FunctionName=name)["Role"]
        found = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="a-test")["Credentials"]
        return Caller(
            enforced,
            boto3.Session(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]),
        )

    return assume


@pytest.fixture
def producer(enforced: Deployed) -> Iterator[Callable[[str], Caller]]:
    """A service that has one of the policies for senders, and nothing else."""
    iam = boto3.client("iam")

    def create(name: str) -> Caller:
        user, policy = f"sends-{name}-{uuid.uuid4()}", f"jobs-send-{name}-{enforced.stack.region}"
        iam.create_user(UserName=user)
        iam.attach_user_policy(UserName=user, PolicyArn=f"arn:aws:iam::000000000000:policy/{policy}")
        key = iam.create_access_key(UserName=user)["AccessKey"]
        return Caller(enforced, boto3.Session(key["AccessKeyId"], key["SecretAccessKey"]))

    yield create
    iam.close()


# --- What is granted -----------------------------------------------------------------------------------------------


def test_every_job_of_the_platform_runs_with_the_role_of_its_function(enforced: Deployed) -> None:
    payloads = {
        "data:export": enforced.export()["payload"],
        "jobs:sweep": {},
        "report:generate": {},
        "system:health_check": {},
        "system_user:expiry": {},
        "tenant:cleanup": {},
        "tenant:initialize": {"tenant_id": str(enforced.people.globex)},
        "user:invitation": {"invitation_id": str(enforced.people.invitation)},
    }
    tasks = discover()
    assert {*payloads, "jobs:bulk"} == set(tasks)  # which is begun by an operator, see below
    sent = {
        type_: enforced.send(f"jobs-{tasks[type_].queue}-{tasks[type_].slug}", {"type": type_, "payload": payload})
        for type_, payload in payloads.items()
    }
    results = {type_: enforced.await_state(id_, "completed")["result"] for type_, id_ in sent.items()}
    assert results["data:export"]["notified"] is True
    assert results["report:generate"]["tenants"] == 2
    assert results["system:health_check"] | {"checks": 0} == {"healthy": True, "checks": 0, "problems": {}}
    assert results["tenant:initialize"]["outcome"] == "initialized"
    assert results["user:invitation"] == {"skipped": None}


def test_the_sweep_may_send_what_was_never_sent(enforced: Deployed) -> None:
    client = JobClient()
    payload = DataExport.model_validate(enforced.export()["payload"])
    client._insert(client._checked([Job(data_export, payload, task_id="never-sent")]))
    client.close()
    enforced.database.get().run("update tasks set sweep_at = clock_timestamp() where id = 'never-sent'")
    enforced.send("jobs-low-jobs-sweep", {"type": "jobs:sweep", "id": f"test-sweep-{time.time()}"})
    enforced.await_state("never-sent", "completed")


def test_a_function_may_give_up_what_it_was_sent(enforced: Deployed) -> None:
    id_ = enforced.send("jobs-default-data-export", enforced.export(tenant_id=str(enforced.people.nobody)))
    enforced.await_state(id_, "archived")
    enforced.await_dead_letter("jobs-default-data-export-dlq", id_)
    enforced.send("jobs-low", "not json at all")
    enforced.await_dead_letter("jobs-low-dlq", "not json at all")


def test_a_redrive_may_take_dead_letters_and_send_them_back(enforced: Deployed) -> None:
    database = Database(enforced.stack.database_url)
    inspector = Inspector(Reach(database, Sqs(), "jobs", discover(), "op"))
    refused: list[str] = []

    def look() -> bool:
        refused[:] = [one.fingerprint for one in inspector.dead().groups if one.queue == "jobs-critical-dlq"]
        return bool(refused)

    def redrive(filter_: Filter) -> None:
        begun = inspector.redrive(filter_, rate=500)
        enforced.await_state(begun.id, "completed")
        view = inspector.bulk_view(begun.id)
        assert (view.done, view.failed) == (1, 0)

    # a message that a front door refused goes back to it
    enforced.send("jobs-critical", "no json either")
    await_true(look, lambda: f"{inspector.dead()}")
    redrive(Filter(fingerprint=refused[0]))
    # and a task that was given up is revived. It dies only now: the emulator, unlike AWS, wants a permission of its own
    # for a call in batches, so that what is looked at and given back stays hidden for a minute
    id_ = enforced.send("jobs-default-data-export", enforced.export(tenant_id=str(enforced.people.nobody)))
    enforced.await_state(id_, "archived")
    redrive(Filter(ids=(id_,), types=("data:export",)))
    await_true(lambda: (enforced.row(id_) or {})["generation"] == 1, lambda: f"{enforced.row(id_)}")
    database.drop()


def test_the_api_may_send_an_export_and_hand_it_out(enforced: Deployed) -> None:
    client, who = boto3.client("lambda"), claims(str(enforced.people.user), str(enforced.people.acme), "owner")

    def call(method: str, path: str, body: object = None) -> Any:
        event = json.dumps(http_event(method, path, body, who=who))
        answer = json.loads(client.invoke(FunctionName="jobs-api", Payload=event)["Payload"].read())
        assert answer["statusCode"] in (200, 202), answer
        return json.loads(answer["body"])

    accepted = call("POST", "/exports", {"export_type": "partial"})
    enforced.await_state(accepted["task_id"], "completed")
    with urlopen(call("GET", f"/exports/{accepted['task_id']}")["download"]["url"], timeout=10) as answer:
        assert answer.read(2) == b"PK"
    client.close()


# --- What is not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "allowed", "denied"),
    [
        (
            "jobs-data-export",
            ["find jobs-default-data-export", "write exports/a", "send jobs-default-data-export-dlq"],
            [
                *("write reports/a", "write a", "read exports/a", "remove exports/a", "list exports/"),
                *(f"send {OTHER}", f"receive {OTHER}", "send jobs-default", "receive jobs-default-data-export-dlq"),
                *("purge jobs-default-data-export", "invoke jobs-api", "roles all"),
            ],
        ),
        (
            "jobs-report-generate",
            ["write reports/a"],
            ["write exports/a", "read reports/a", "remove reports/a", f"send {OTHER}"],
        ),
        (
            "jobs-tenant-cleanup",
            ["list exports/a", "list reports/", "remove exports/a"],
            ["read exports/a", "write exports/a", "list ", "remove a", "send jobs-default-data-export"],
        ),
        (
            "jobs-system-health-check",
            ["look jobs-critical"],
            ["send jobs-critical", "receive jobs-critical", f"look {OTHER}", "read exports/a"],
        ),
        (
            "jobs-router",
            ["find jobs-default-data-export", "find jobs-default-dlq"],
            [f"send {OTHER}", "send jobs-low-jobs-sweep", "send jobs-default", "receive jobs-default-data-export"],
        ),
        (
            "jobs-api",
            ["find jobs-default-data-export", "read exports/a"],
            ["read reports/a", "write exports/a", "list exports/", "receive jobs-default-data-export", f"send {OTHER}"],
        ),
        (
            "jobs-jobs-sweep",
            [f"find {OTHER}", f"find {OTHER}-dlq"],
            ["send jobs-default", f"receive {OTHER}", f"delete {OTHER}-dlq", f"look {OTHER}", "read exports/a"],
        ),
        (
            "jobs-jobs-bulk",
            [
                *(f"find {OTHER}", f"receive {OTHER}-dlq", f"delete {OTHER}-dlq", f"look {OTHER}-dlq"),
                *("receive jobs-default-dlq", "delete jobs-cron-dlq", "find jobs-default"),
            ],
            ["receive jobs-default", f"receive {OTHER}", f"delete {OTHER}", f"purge {OTHER}-dlq", "read exports/a"],
        ),
        (
            "jobs-user-invitation",
            ["find jobs-default-user-invitation"],
            ["read exports/a", "write exports/a", f"send {OTHER}", "send jobs-default-data-export"],
        ),
    ],
)
def test_a_function_may_do_what_it_was_granted_and_nothing_else(
    name: str, allowed: list[str], denied: list[str], function: Callable[[str], Caller]
) -> None:
    caller = function(name)
    tried = {what: caller.may(*what.split(" ", 1)) for what in (*allowed, *denied)}
    assert tried == {what: what in allowed for what in (*allowed, *denied)}


# --- Services that send jobs ---------------------------------------------------------------------------------------


def test_a_service_sends_the_types_that_it_was_given_and_no_others(producer: Callable[[str], Caller]) -> None:
    for task in discover().values():
        service, own = producer(task.slug), {f"jobs-{queue}-{task.slug}" for queue in task.lanes}
        assert {queue for queue in (*LANES, *DOORS) if service.may("find", queue)} == own
        assert not any(service.may("send", queue) for queue in (*LANES, *DOORS) if queue not in own)
        assert not any(service.may("receive", queue) for queue in own)


def test_a_service_that_was_given_a_front_door_sends_through_it(producer: Callable[[str], Caller]) -> None:
    service = producer("default")
    assert {queue for queue in (*LANES, *DOORS) if service.may("find", queue)} == {"jobs-default"}
    body = json.dumps(service.deployed.export())
    sent = service.sqs.send_message(QueueUrl=service.deployed.url("jobs-default"), MessageBody=body)
    service.deployed.await_state(sent["MessageId"], "completed")


def test_a_client_needs_no_more_than_the_types_policy(
    producer: Callable[[str], Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = producer("data-export")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", service.session)
    client = JobClient()
    given = client.enqueue(data_export, DataExport.model_validate(service.deployed.export()["payload"]))
    assert given.sent
    service.deployed.await_state(given.id, "completed")
    # recorded, as the database took it, and left to the sweep
    assert not client.enqueue(system_user_expiry, SystemUserExpiry()).sent
    client.close()


# --- The guard of all of the above ---------------------------------------------------------------------------------


@pytest.fixture
def powerless(enforced: Deployed) -> Iterator[None]:
    """The role of the reports may do nothing at all for as long as this lasts."""
    iam = boto3.client("iam")
    role = boto3.client("lambda").get_function_configuration(FunctionName="jobs-report-generate")["Role"]
    name = role.rpartition("/")[2]
    policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
    taken = {one: iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in policies}
    for policy in taken:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    yield
    for policy, document in taken.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
    iam.close()


@pytest.mark.usefixtures("powerless")
def test_a_function_whose_permissions_are_taken_away_cannot_do_its_job(enforced: Deployed) -> None:
    # when a job is sent, with an id, so that its function has nothing to send
    enforced.send("jobs-default-report-generate", {"type": "report:generate", "id": "denied"})
    # then the run fails, and says why
    await_true(lambda: (enforced.row("denied") or {}).get("state") == "retry", lambda: f"{enforced.row('denied')}")
    ((error,),) = enforced.database.get().run("select error_message from task_attempts where task_id = 'denied'")
    assert "AccessDenied" in error
