"""A stage for AWS on this machine: each function from the zips, with its variables of the template, on its first use.

AWS is moto, and the database PostgreSQL. The functions log in as the user that the migration makes for them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from joblane.local.postgres import Postgres
from joblane.names import Queue, dead_letter_name, event_bus_name, front_door_name, lane_name
from joblane.record.driver.database import Database
from joblane.tasks.discovery import discover
from tests.conftest import administer
from tests.infra.conftest import RealStages
from tests.infra.runtime.aws import KEY, Aws, serving
from tests.infra.runtime.folders import Folders, unpacked
from tests.infra.runtime.resolved import Resolved
from tests.infra.runtime.runtime_api import ACCOUNT, REGION
from tests.infra.runtime.sandbox import Function, Sandbox
from tests.unit.saas.servers import served
from tests.unpacked import code, layer

PREFIX = "jobs-dev"
DATABASE = "on_lambda"
ONLY_ON_AWS = ("AWS_USE_DUALSTACK_ENDPOINT",)
"""Variables that botocore refuses together with another endpoint."""


@dataclass
class Stage:
    """``url``: the database, for a test. ``migrated``: the answer of the migration to CloudFormation."""

    resolved: Resolved
    folders: Folders
    aws: Aws
    url: str
    cleanup: ExitStack
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    migrated: Mapping[str, Any] = field(default_factory=dict)

    def function(self, name: str, configured: Resolved | None = None, **variables: str) -> Function:
        """The function ``PREFIX-name`` as the templates configure it, but for the addresses of AWS and the database.

        ``configured``: the templates of another stage, whose function works for this one.
        """
        functions = (configured or self.resolved).functions.values()
        (found,) = (
            function for function in functions if function.variables["JOBLANE_PREFIX"] + f"-{name}" == function.name
        )
        given = {key: value for key, value in found.variables.items() if key not in ONLY_ON_AWS}
        own = {"AWS_ENDPOINT_URL": self.aws.endpoint, "JOBLANE_PREFIX": PREFIX}
        if "DATABASE_URL" in given:
            login = {} if name == "migrate" else {"user": "jobs", "password": "jobs"}
            own["DATABASE_URL"] = _as(self.url, **login)
        return replace(found, variables={**given, **own, **variables}, key=KEY + found.name)

    def of(self, name: str) -> Sandbox:
        """The function's environment, started on first use."""
        if name not in self.sandboxes:
            self.start(name)
        return self.sandboxes[name]

    def start(self, *names: str) -> None:
        """Start environments at once, without waiting for them."""
        for name in names:
            self.sandboxes[name] = self.cleanup.enter_context(Sandbox(self.function(name), self.folders))

    def another(self, name: str, **variables: str) -> Sandbox:
        """A second environment of a function, to use in a ``with`` statement."""
        return Sandbox(self.function(name, None, **variables), self.folders)

    @cached_property
    def database(self) -> Database:
        return Database(self.url)

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        return self.database.get().run(sql, *parameters)

    def row(self, id_: str) -> dict[str, Any]:
        ((row,),) = self.run("select to_jsonb(t) from joblane.tasks t where id = $1", id_)
        return dict(row)

    def received(self, queue: str) -> list[dict[str, Any]]:
        """Take the messages of a queue."""
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        for message in found.get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [dict(message) for message in found.get("Messages", [])]


@pytest.fixture(scope="session")
def folders(uv: str) -> Iterator[Folders]:
    """The file system of every environment."""
    if sys.platform != "linux":
        pytest.skip("Lambda's runtime client has wheels for Linux only")
    with unpacked(code().path, layer().path) as folders:
        yield folders


@pytest.fixture(scope="package")  # while moto answers here, no other test can start with an empty account
def stage(postgres: Postgres, folders: Folders, real_stages: RealStages) -> Iterator[Stage]:
    """The stage `dev`, with an empty account and a database that its own function has migrated."""
    templates = real_stages("dev").templates
    with ExitStack() as cleanup:
        monkeypatch = cleanup.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }.items():
            monkeypatch.setenv(name, value)
        administer(postgres, f"create database {DATABASE}")
        cleanup.callback(administer, postgres, "drop role if exists jobs")
        cleanup.callback(administer, postgres, f"drop database {DATABASE} with (force)")
        aws = cleanup.enter_context(serving())
        stage = Stage(Resolved(templates), folders, aws, postgres.database_url(DATABASE), cleanup)
        cleanup.callback(stage.database.drop)
        stage.start("migrate", *FIRST)
        make_resources(stage)
        with cloudformation() as (url, answers):
            stage.of("migrate").invoke(cloudformation_event("Create", url))
        (stage.migrated,) = answers
        assert stage.migrated["Status"] == "SUCCESS", stage.of("migrate").output
        administer(postgres, "alter role jobs password 'jobs'")
        yield stage


FIRST = ("system-user-expiry", "router", "jobs-sweep", "control", "api")
"""Functions that start together with the migration's."""


def make_resources(stage: Stage) -> None:
    """Make the queues, the bucket and the bus, and the functions whose configuration the doctor reads."""
    sqs = boto3.client("sqs")
    names = [front_door_name(PREFIX, queue) for queue in Queue]
    names += [lane_name(PREFIX, queue, task.type) for task in discover().values() for queue in task.lanes]
    for name in [*names, *map(dead_letter_name, names), dead_letter_name(f"{PREFIX}-cron")]:
        sqs.create_queue(QueueName=name)
    export = stage.resolved.functions[f"{PREFIX}-data-export"]
    boto3.client("s3").create_bucket(
        Bucket=export.variables["EXPORT_BUCKET"], CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    boto3.client("events").create_event_bus(Name=event_bus_name(PREFIX))
    refused = sqs.create_queue(QueueName=dead_letter_name(event_bus_name(PREFIX)))["QueueUrl"]
    sqs.send_message(QueueUrl=refused, MessageBody="{}")
    throttled = {"MetricName": "Throttles", "Value": 1.0}  # of another function of the account
    boto3.client("cloudwatch").put_metric_data(Namespace="AWS/Lambda", MetricData=[throttled])
    role = boto3.client("iam").create_role(RoleName="any", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    for function in (export, stage.resolved.functions[f"{PREFIX}-jobs-sweep"]):
        boto3.client("lambda").create_function(
            FunctionName=function.name, Role=role, Code={"ZipFile": b""}, Environment={"Variables": function.variables}
        )


def cloudformation_event(kind: str, url: str) -> dict[str, Any]:
    """A request to the custom resource. Source: CloudFormation, *Custom resource request objects*."""
    return {
        "RequestType": kind,
        "ResponseURL": url,
        "RequestId": "request-1",
        "StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{PREFIX}-jobs/1",
        "LogicalResourceId": "MigrationRun",
        "ResourceType": "Custom::Migration",
        "ResourceProperties": {"Code": "1", "Database": "d", "Functions": "f", "User": "jobs"},
        **({} if kind == "Create" else {"PhysicalResourceId": "MigrationRun"}),
    }


@contextmanager
def cloudformation() -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Yield a ``ResponseURL``, and the answers that it gets."""
    answers: list[Mapping[str, Any]] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Bucket)
    with served(server):
        yield f"http://127.0.0.1:{server.server_port}/answer?signature=1", answers


def _as(url: str, user: str | None = None, password: str | None = None) -> str:
    """Return the address with another login."""
    if user is None:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{user}:{password}@{parts.hostname}:{parts.port}{parts.path}"
