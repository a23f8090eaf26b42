"""The stages that differ from ``dev`` most, created and removed by the emulator, which checks references.

``tests/e2e/test_dev_stage.py`` follows the deploy page with ``dev``. Here the functions have no code, and none runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from joblane.cdk.app import Synthesised
from joblane.local.ministack import MiniStack
from joblane.local.tools import environment_of
from tests.e2e.dev_stage import assembly
from tests.e2e.dev_stage.nested import inline
from tests.infra.conftest import Synth
from tests.infra.templates import Template
from tests.patience import await_true

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

REGION: Final = "eu-central-1"
STACKS = ("data", "jobs", "api", "control", "page", "monitoring")
"""In the order of their dependencies."""
STAGES = ("rds", "nat_instance", "restored", "watched", "robust", "apis", "own_keys", "own_keys_of_events")
REFUSED = assembly.REFUSED | {
    "AWS::Budgets::Budget",
    "AWS::Chatbot::SlackChannelConfiguration",
    "AWS::EC2::EIP",
    "AWS::EC2::Instance",
    "AWS::EC2::NatGateway",
    "AWS::Events::ApiDestination",
    "AWS::Events::Connection",
}
"""Types of resources that the emulator does not know."""
WITHOUT_CODE = {"Custom::Migration", "AWS::Lambda::LayerVersion"}
BUCKET = "templates"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudFormationClient]:
    with ExitStack() as cleanup:
        emulator = MiniStack(tmp_path_factory.mktemp("emulator"), None, REGION)
        cleanup.callback(emulator.stop)
        emulator.start()
        access = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        region = {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
        cleanup.enter_context(environment_of({**access, **region, "AWS_ENDPOINT_URL": emulator.endpoint}))
        with closing(boto3.client("s3")) as s3:
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield cleanup.enter_context(closing(boto3.client("cloudformation")))


def is_left_out(resource: Mapping[str, Any]) -> bool:
    return resource["Type"] in REFUSED | WITHOUT_CODE or assembly.is_refused(resource)


def adapted(done: Synthesised, stack: str) -> Template:
    """Return a copy of the template with its nested stacks, as the emulator accepts it."""
    start = f"{stack}/"
    nested = {
        name.removeprefix(start): deepcopy(dict(each))
        for name, each in done.templates.items()
        if name.startswith(start)
    }
    content = deepcopy(dict(done.templates[stack]))
    inline(content, nested)
    template = assembly.Template(Path(stack), content)
    assembly.remove(template, is_left_out)
    for function in template.of_type("AWS::Lambda::Function"):
        function["Properties"] |= {"Code": {"ZipFile": "def handler(event, context): ..."}, "Layers": []}
    return {name: section for name, section in content.items() if name not in ("Parameters", "Rules")}


def status(client: CloudFormationClient, stack: str) -> str | None:
    try:
        return client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
    except ClientError:  # it was deleted
        return None


def ended(client: CloudFormationClient, stack: str) -> str | None:
    """Wait until the stack is not in progress. Return its status; None: it is deleted."""
    await_true(lambda: "PROGRESS" not in str(status(client, stack)), lambda: str(status(client, stack)))
    return status(client, stack)


def reasons(client: CloudFormationClient, stack: str) -> list[str]:
    events = client.describe_stack_events(StackName=stack)["StackEvents"]
    return [f"{each['LogicalResourceId']}: {each.get('ResourceStatusReason')}" for each in events]


def create(client: CloudFormationClient, name: str, template: Template) -> None:
    with closing(boto3.client("s3")) as s3:  # a template in a request has 51,200 bytes at most
        s3.put_object(Bucket=BUCKET, Key=name, Body=json.dumps(template).encode())
        address = f"{s3.meta.endpoint_url}/{BUCKET}/{name}"
    client.create_stack(StackName=name, TemplateURL=address)
    assert ended(client, name) == "CREATE_COMPLETE", reasons(client, name)


@pytest.mark.parametrize("name", STAGES)
def test_the_emulator_creates_and_removes_the_stage(name: str, synth: Synth, emulator: CloudFormationClient) -> None:
    done = synth.app(name)
    stacks = [stack for stack in (f"{done.stage.prefix}-{each}" for each in STACKS) if stack in done.templates]
    for stack in stacks:
        template = adapted(done, stack)
        create(emulator, stack, template)
        pages = emulator.get_paginator("list_stack_resources").paginate(StackName=stack)
        created = Counter(each["ResourceType"] for page in pages for each in page["StackResourceSummaries"])
        assert created == Counter(each["Type"] for each in template["Resources"].values())
    for stack in reversed(stacks):
        emulator.delete_stack(StackName=stack)
        assert ended(emulator, stack) in (None, "DELETE_COMPLETE"), reasons(emulator, stack)


def test_each_type_that_is_left_out_is_in_a_stage_and_refused(synth: Synth, emulator: CloudFormationClient) -> None:
    found = {
        each["Type"]
        for name in STAGES
        for template in synth.app(name).templates.values()
        for each in template["Resources"].values()
    }
    assert found >= REFUSED
    resources = {f"A{n}": {"Type": type_} for n, type_ in enumerate(sorted(REFUSED))}
    with pytest.raises(ClientError) as refusal:
        emulator.validate_template(TemplateBody=json.dumps({"Resources": resources}))
    assert f"Unrecognized resource types: [{', '.join(sorted(REFUSED))}]" in str(refusal.value)
