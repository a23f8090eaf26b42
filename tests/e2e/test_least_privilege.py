"""The deployed roles of the functions: each job may do its work, and actions without a grant are denied.

The emulator lets its root assume any role, so the tests can call AWS with a function's permissions. It does not support
``ses:FromAddress``, the policies of queues and the streams of a log group: the template's tests cover these.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from functions.data_export.handler import DataExport, data_export
from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from joblane import JobClient, Queue
from joblane.tasks.discovery import discover
from tests.e2e.conftest import Deployed
from tests.patience import await_true

REFUSED = ("AccessDenied", "AccessDeniedException")
PERMITTED = ("ReceiptHandleIsInvalid", "NoSuchKey")
"""Errors after the check of the permission: the receipt is invalid, and the object does not exist."""
OTHER = "other-low-tenant-cleanup"
FRONT_DOORS = [f"other-{queue}" for queue in Queue]
LANES = [f"other-{queue}-{task.slug}" for task in discover().values() for queue in task.lanes]


@dataclass
class Caller:
    """A caller with its credentials, and its attempts on the deployed stack."""

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

    def may(self, does: str, what: str) -> bool:
        try:
            CALLS[does](self, what)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in (*REFUSED, *PERMITTED):
                raise
            return code in PERMITTED
        return True


CALLS: dict[str, Callable[[Caller, str], object]] = {
    "send": lambda caller, queue: caller.sqs.send_message(QueueUrl=caller.deployed.url(queue), MessageBody="a probe"),
    "find": lambda caller, queue: caller.sqs.get_queue_url(QueueName=queue),
    "inspect": lambda caller, queue: caller.sqs.get_queue_attributes(
        QueueUrl=caller.deployed.url(queue), AttributeNames=["All"]
    ),
    "receive": lambda caller, queue: caller.sqs.receive_message(QueueUrl=caller.deployed.url(queue), WaitTimeSeconds=0),
    "delete": lambda caller, queue: caller.sqs.delete_message(
        QueueUrl=caller.deployed.url(queue), ReceiptHandle="none"
    ),
    "purge": lambda caller, queue: caller.sqs.purge_queue(QueueUrl=caller.deployed.url(queue)),
    "write": lambda caller, key: caller.s3.put_object(Bucket=caller.bucket, Key=key, Body=b"{}"),
    "read": lambda caller, key: caller.s3.get_object(Bucket=caller.bucket, Key=key),
    "remove": lambda caller, key: caller.s3.delete_object(Bucket=caller.bucket, Key=key),
    "list": lambda caller, prefix: caller.s3.list_objects_v2(Bucket=caller.bucket, Prefix=prefix),
    "roles": lambda caller, _: caller.session.client("iam").list_roles(),
    "emit": lambda caller, bus: caller.session.client("events").put_events(
        Entries=[{"Source": "test", "DetailType": "test", "Detail": "{}", "EventBusName": bus}]
    ),
    "invoke": lambda caller, function: caller.session.client("lambda").invoke(
        FunctionName=function, InvocationType="DryRun"
    ),
}
"""Action → its call. Every consumer refuses a message that is sent."""


@pytest.fixture
def function(deployed: Deployed) -> Callable[[str], Caller]:
    """A caller with the role of a function."""

    def assume(name: str) -> Caller:
        role = boto3.client("lambda").get_function_configuration(FunctionName=name)["Role"]
        found = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="a-test")["Credentials"]
        return Caller(
            deployed,
            boto3.Session(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]),
        )

    return assume


@pytest.fixture
def producer(deployed: Deployed) -> Iterator[Callable[[str], Caller]]:
    """A service with one of the producer policies, and no other permission."""
    iam = boto3.client("iam")

    def create(name: str) -> Caller:
        user, policy = f"sends-{name}-{uuid.uuid4()}", f"other-send-{name}-{deployed.stack.region}"
        iam.create_user(UserName=user)
        iam.attach_user_policy(UserName=user, PolicyArn=f"arn:aws:iam::000000000000:policy/{policy}")
        key = iam.create_access_key(UserName=user)["AccessKey"]
        return Caller(deployed, boto3.Session(key["AccessKeyId"], key["SecretAccessKey"]))

    yield create
    iam.close()


# --- Granted actions -----------------------------------------------------------------------------------------------


def test_every_job_of_the_platform_runs_with_the_role_of_its_function(deployed: Deployed) -> None:
    payloads = {
        "data:export": deployed.export()["payload"],
        "jobs:sweep": {},
        "report:generate": {},
        "system:health_check": {},
        "system_user:expiry": {},
        "tenant:cleanup": {},
        "tenant:initialize": {"tenant_id": str(deployed.people.globex)},
        "user:invitation": {"invitation_id": str(deployed.people.invitation)},
    }
    tasks = discover()
    assert {*payloads, "jobs:bulk"} == set(tasks)  # an operator starts it, see below
    sent = {
        type_: deployed.send(f"other-{tasks[type_].queue}-{tasks[type_].slug}", {"type": type_, "payload": payload})
        for type_, payload in payloads.items()
    }
    deployed.await_state(sent.pop("user:invitation"), "scheduled")  # mailed, it waits until it is accepted
    results = {type_: deployed.await_state(id_, "completed")["result"] for type_, id_ in sent.items()}
    assert results["data:export"]["notified"] is True
    assert results["report:generate"]["tenants"] >= 2
    assert results["system:health_check"] | {"checks": 0} == {"healthy": True, "checks": 0, "problems": {}}
    assert results["tenant:initialize"]["outcome"] == "initialized"


# --- Denied actions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "allowed", "denied"),
    [
        (
            "other-data-export",
            ["find other-default-data-export", "write exports/a", "send other-default-data-export-dlq"],
            [
                *("write reports/a", "write a", "read exports/a", "remove exports/a", "list exports/"),
                *(f"send {OTHER}", f"receive {OTHER}", "send other-default", "receive other-default-data-export-dlq"),
                *("purge other-default-data-export", "invoke other-api", "roles all", "emit other-events"),
            ],
        ),
        (
            "other-tenant-initialize",
            ["find other-critical-tenant-initialize", "emit other-events"],
            ["emit default", "emit other", f"send {OTHER}"],
        ),
        (
            "other-report-generate",
            ["write reports/a"],
            ["write exports/a", "read reports/a", "remove reports/a", f"send {OTHER}"],
        ),
        (
            "other-tenant-cleanup",
            ["list exports/a", "list reports/", "remove exports/a", "find other-default-user-invitation"],
            ["read exports/a", "write exports/a", "list ", "remove a", "send other-default-data-export"],
        ),
        (
            "other-system-health-check",
            ["inspect other-critical"],
            ["send other-critical", "receive other-critical", f"inspect {OTHER}", "read exports/a"],
        ),
        (
            "other-router",
            ["find other-default-data-export", "find other-default-dlq"],
            ["send other-default-data-export-dlq", "send other-default", "receive other-default-data-export"],
        ),
        (
            "other-api",
            ["find other-default-data-export", "read exports/a"],
            [
                "read reports/a",
                "write exports/a",
                "list exports/",
                "receive other-default-data-export",
                f"send {OTHER}",
            ],
        ),
        (
            "other-jobs-sweep",
            [f"find {OTHER}", f"find {OTHER}-dlq", f"inspect {OTHER}", "emit other-events"],
            ["emit default", "send other-default", f"receive {OTHER}", f"delete {OTHER}-dlq", "read exports/a"],
        ),
        (
            "other-jobs-bulk",
            [
                *(f"find {OTHER}", f"receive {OTHER}-dlq", f"delete {OTHER}-dlq", f"inspect {OTHER}-dlq"),
                *("receive other-default-dlq", "delete other-cron-dlq", "find other-default"),
            ],
            ["receive other-default", f"receive {OTHER}", f"delete {OTHER}", f"purge {OTHER}-dlq", "read exports/a"],
        ),
        (
            "other-user-invitation",
            ["find other-default-user-invitation"],
            ["read exports/a", "write exports/a", f"send {OTHER}", "send other-default-data-export"],
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


def test_a_service_sends_only_the_types_of_its_policies(producer: Callable[[str], Caller]) -> None:
    for task in discover().values():
        service, lanes = producer(task.slug), {f"other-{queue}-{task.slug}" for queue in task.lanes}
        own = {*lanes, "other-low-jobs-sweep"}  # it wakes the sweep
        assert {queue for queue in (*LANES, *FRONT_DOORS) if service.may("find", queue)} == own
        assert not any(service.may("send", queue) for queue in (*LANES, *FRONT_DOORS) if queue not in own)
        assert not any(service.may("receive", queue) for queue in own)


def test_a_service_with_the_policy_of_a_front_door_sends_through_it(producer: Callable[[str], Caller]) -> None:
    service = producer("default")
    assert {queue for queue in (*LANES, *FRONT_DOORS) if service.may("find", queue)} == {"other-default"}
    body = json.dumps(service.deployed.export())
    sent = service.sqs.send_message(QueueUrl=service.deployed.url("other-default"), MessageBody=body)
    service.deployed.await_state(sent["MessageId"], "completed")


def test_a_client_needs_only_the_policy_of_its_type(
    producer: Callable[[str], Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = producer("data-export")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", service.session)
    client = JobClient()
    given = client.enqueue(data_export, DataExport.model_validate(service.deployed.export()["payload"]))
    assert given.sent
    service.deployed.await_state(given.id, "completed")
    # recorded in the database, and sent by the sweep
    assert not client.enqueue(system_user_expiry, SystemUserExpiry()).sent
    client.close()


# --- A check of these tests ----------------------------------------------------------------------------------------


@pytest.fixture
def powerless(deployed: Deployed) -> Iterator[None]:
    """Remove all permissions of the role of `report:generate` during the test."""
    iam = boto3.client("iam")
    role = boto3.client("lambda").get_function_configuration(FunctionName="other-report-generate")["Role"]
    name = role.rpartition("/")[2]
    policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
    documents = {policy: iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"] for policy in policies}
    for policy in documents:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    yield
    for policy, document in documents.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
    iam.close()


@pytest.mark.usefixtures("powerless")
def test_a_function_whose_permissions_are_taken_away_cannot_do_its_job(deployed: Deployed) -> None:
    # when a job is sent with an id, so that its function sends no message
    deployed.send("other-default-report-generate", {"type": "report:generate", "id": "denied"})
    # then the run fails with the reason
    await_true(lambda: (deployed.row("denied") or {}).get("state") == "retry", lambda: f"{deployed.row('denied')}")
    ((error,),) = deployed.database.get().run("select error_message from joblane.runs where task_id = 'denied'")
    assert "AccessDenied" in error
