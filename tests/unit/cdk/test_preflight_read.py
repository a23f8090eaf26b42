"""The preflight's reading from AWS, and its findings and errors for denied and failed requests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws
from typer.testing import CliRunner

from joblane.cdk.preflight import keys, moves
from joblane.cdk.preflight import read as preflight
from joblane.cdk.preflight.concurrency import Account
from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cli.main import app
from joblane.local.errors import LocalError, UnavailableError

JOBS, DATA = "jobs-jobs", "jobs-data"
ARN = "arn:aws:{}:eu-central-1:111122223333:{}"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "JOBLANE_", "DATABASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def stubbed() -> Iterator[Callable[[Any], tuple[Any, Stubber]]]:
    """A client with answers of the test. The code must request each of them, in this order."""
    clients = []

    def make(service: Any) -> tuple[Any, Stubber]:
        client = boto3.client(service)
        stub = Stubber(client)
        stub.activate()
        clients.append((client, stub))
        return client, stub

    yield make
    for client, stub in clients:
        stub.assert_no_pending_responses()
        client.close()


def resource(kind: str, logical_id: str, physical_id: str, status: str = "UPDATE_COMPLETE") -> dict[str, Any]:
    return {
        "ResourceType": kind,
        "LogicalResourceId": logical_id,
        "PhysicalResourceId": physical_id,
        "ResourceStatus": status,
        "LastUpdatedTimestamp": "2026-01-01T00:00:00Z",
    }


# --- Stacks --------------------------------------------------------------------------------------------------------


def test_queues_and_functions_of_existing_stacks_are_found(stubbed: Any) -> None:
    client, stub = stubbed("cloudformation")
    stub.add_client_error(
        "list_stack_resources",
        "ValidationError",
        f"Stack with id {DATA} does not exist",
        expected_params={"StackName": DATA},
    )
    queues = [
        resource("AWS::SQS::Queue", "Low", "https://sqs.eu-central-1.amazonaws.com/111122223333/jobs-low"),
        resource("AWS::SQS::Queue", "Old", "https://sqs.eu-central-1.amazonaws.com/1/jobs-old", "DELETE_COMPLETE"),
        resource("AWS::Logs::LogGroup", "Logs", "/aws/lambda/jobs-router"),
    ]
    stub.add_response(
        "list_stack_resources", {"StackResourceSummaries": queues, "NextToken": "more"}, {"StackName": JOBS}
    )
    part = "arn:aws:cloudformation:eu-central-1:111122223333:stack/jobs-jobs-Part07-1A2B/1"
    others = [
        resource("AWS::Lambda::Function", "Router", "jobs-router"),
        resource("AWS::CloudFormation::Stack", "Part07", part),
        resource("AWS::CloudFormation::Stack", "Part08", ""),  # its creation has just begun
    ]
    stub.add_response(
        "list_stack_resources", {"StackResourceSummaries": others}, {"StackName": JOBS, "NextToken": "more"}
    )
    lanes = [
        resource("AWS::SQS::Queue", "Lane", "https://sqs.eu-central-1.amazonaws.com/1/jobs-low-data-export"),
        resource("AWS::Lambda::Function", "Function", "jobs-data-export"),
    ]
    stub.add_response("list_stack_resources", {"StackResourceSummaries": lanes}, {"StackName": part})
    found, functions = preflight.deployed(client, [DATA, JOBS, f"{JOBS}/Part07"])
    assert found == {(JOBS, "Low"): "jobs-low", (f"{JOBS}/Part07", "Lane"): "jobs-low-data-export"}
    assert functions == {"jobs-router", "jobs-data-export"}


def test_only_a_missing_stack_counts_as_a_first_deploy(stubbed: Any) -> None:
    client, stub = stubbed("cloudformation")
    stub.add_client_error("list_stack_resources", "AccessDenied", "no")
    with pytest.raises(ClientError):
        preflight.deployed(client, [JOBS])


# --- Queues --------------------------------------------------------------------------------------------------------


@mock_aws
def test_waiting_delayed_and_in_flight_messages_of_the_stages_queues_are_counted() -> None:
    client = boto3.client("sqs")
    names = (
        "jobs-low",
        "jobs-low-data-export",
        "jobs-low-data-export-dlq",
        "jobs-cron-dlq",
        "jobs-events-dlq",
        "jobs-prod-low",
        "jobs-mine",
    )
    urls = {name: client.create_queue(QueueName=name)["QueueUrl"] for name in names}
    for delay in (0, 0, 60):
        client.send_message(QueueUrl=urls["jobs-low-data-export"], MessageBody="x", DelaySeconds=delay)
    client.receive_message(QueueUrl=urls["jobs-low-data-export"])
    client.send_message(QueueUrl=urls["jobs-prod-low"], MessageBody="x")
    assert preflight.messages_in_queues(client, "jobs") == {
        "jobs-cron-dlq": 0,
        "jobs-events-dlq": 0,
        "jobs-low": 0,
        "jobs-low-data-export": 3,
        "jobs-low-data-export-dlq": 0,
    }
    assert preflight.messages_in_queues(client, "jobs-prod") == {"jobs-prod-low": 1}
    client.close()


@mock_aws
@pytest.mark.parametrize("prefix", ["my-low-app", "app-default", "jobs-critical"])
def test_a_prefix_may_contain_the_name_of_a_queue(prefix: str) -> None:
    client = boto3.client("sqs")
    names = [f"{prefix}-{rest}" for rest in ("low", "low-dlq", "default-data-export", "cron-dlq")]
    for name in names:
        url = client.create_queue(QueueName=name)["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody="x")
    client.create_queue(QueueName=f"{prefix}-mine")
    assert preflight.messages_in_queues(client, prefix) == dict.fromkeys(names, 1)
    client.close()


# --- Lambda --------------------------------------------------------------------------------------------------------


def settings(limit: int, unreserved: int) -> dict[str, Any]:
    return {"AccountLimit": {"ConcurrentExecutions": limit, "UnreservedConcurrentExecutions": unreserved}}


def mapping(queue: str, function: str, most: int | None) -> dict[str, Any]:
    scaling = {} if most is None else {"ScalingConfig": {"MaximumConcurrency": most}}
    where = {"EventSourceArn": ARN.format("sqs", queue), "FunctionArn": ARN.format("lambda", f"function:{function}")}
    return {**where, **scaling}


def test_other_stages_are_recognised_by_name_and_other_functions_not_counted(stubbed: Any) -> None:
    client, stub = stubbed("lambda")
    stub.add_response("get_account_settings", settings(1000, 1000))
    first = [
        mapping("jobs-default-data-export", "jobs-data-export", 10),
        mapping("jobs-prod-default-data-export", "jobs-prod-data-export", 30),
        mapping("their-orders", "their-orders", 500),
        mapping("their-low-orders", "orders", 500),
    ]
    stub.add_response("list_event_source_mappings", {"EventSourceMappings": first, "NextMarker": "more"}, {})
    second = [mapping("jobs-prod-low", "jobs-prod-router", 2), mapping("test-low", "test-router", None)]
    stub.add_response("list_event_source_mappings", {"EventSourceMappings": second}, {"Marker": "more"})
    assert preflight.account(client, "jobs", {"jobs-data-export"}) == Account(1000, 0, {"jobs-prod": 32, "test": 0})


def test_other_stages_are_recognised_if_a_prefix_or_type_contains_a_queues_name(stubbed: Any) -> None:
    client, stub = stubbed("lambda")
    stub.add_response("get_account_settings", settings(1000, 1000))
    mappings = [
        mapping("my-low-app-critical-data-export", "my-low-app-data-export", 4),
        mapping("my-low-app-default-data-copy", "my-low-app-data-move", 3),  # a renamed type
        mapping("my-low-app-low", "my-low-app-router", 2),
        mapping("app-default-low-stock-default-set", "app-default-stock-default-set", 5),
        mapping("test-default-low-stock", "test-low-stock", 6),
        mapping("jobs-critical-low-data-export", "jobs-critical-data-export", 50),
        mapping("jobs-critical-low-low-stock", "jobs-critical-low-stock", 50),  # not of a stage jobs-critical-low
    ]
    stub.add_response("list_event_source_mappings", {"EventSourceMappings": mappings}, {})
    own = {"jobs-critical-data-export", "jobs-critical-low-stock"}
    assert preflight.account(client, "jobs-critical", own) == Account(
        1000, 0, {"my-low-app": 9, "app-default": 5, "test": 6}
    )


def test_the_stages_own_reservations_are_not_counted_as_those_of_others(stubbed: Any) -> None:
    client, stub = stubbed("lambda")
    stub.add_response("get_account_settings", settings(1000, 850))
    stub.add_response("get_function_concurrency", {"ReservedConcurrentExecutions": 50}, {"FunctionName": "jobs-api"})
    stub.add_response("list_event_source_mappings", {"EventSourceMappings": []}, {})
    assert preflight.account(client, "jobs", {"jobs-api"}) == Account(1000, 100, {})


# --- Denied and failed requests ------------------------------------------------------------------------------------


def refused(code: str) -> Callable[[Any], Any]:
    def reader(client: Any) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "ListQueues")

    return reader


def test_a_denied_request_is_unchecked_and_names_the_missing_permission() -> None:
    answer = preflight._read(boto3.session.Session(), "sqs", "the queues", "sqs:ListQueues", refused("AccessDenied"))
    assert answer == Finding(FindingKind.UNCHECKED, "the queues", "AWS answers AccessDenied", "allow sqs:ListQueues")


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "Throttling"])
def test_another_aws_error_ends_the_check(code: str) -> None:
    with pytest.raises(LocalError, match=f"the queues cannot be read from AWS: .*{code}"):
        preflight._read(boto3.session.Session(), "sqs", "the queues", "sqs:ListQueues", refused(code))


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_expired_credentials_end_the_check_with_the_next_step(code: str) -> None:
    with pytest.raises(UnavailableError, match=f"credentials have expired: .*{code}.*`aws sso login`, or get new keys"):
        preflight._read(boto3.session.Session(), "sqs", "the queues", "sqs:ListQueues", refused(code))


def assembly(folder: Path, **changes: Any) -> Path:
    settings_of_stage = {
        "stage": "dev",
        "prefix": "jobs",
        "concurrency_budget": 20,
        "account_concurrency": 50,
        "database_connections": 100,
        "reserved_connections": 10,
    }
    template = {
        "Metadata": {"Joblane": {**settings_of_stage, **changes}},
        "Resources": {"Run": {"Type": "Custom::Migration"}},
        "Outputs": {"MigrationResource": {"Value": "Run"}},
    }
    (folder / f"{JOBS}.template.json").write_text(json.dumps(template))
    (folder / "left-from-before.template.json").write_text("{}")
    stack = {"type": "aws:cloudformation:stack", "properties": {"templateFile": f"{JOBS}.template.json"}}
    artifacts = {JOBS: stack, "Tree": {"type": "cdk:tree", "properties": {"file": "tree.json"}}}
    (folder / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    return folder


@mock_aws
def test_unread_parts_hide_no_other_findings_and_the_worst_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given stacks that may not be listed, no database, a small account, and a message of an unknown task
    monkeypatch.setattr(preflight, "deployed", lambda client, stacks: refused("AccessDenied")(client))
    monkeypatch.setattr(preflight, "account", lambda client, prefix, functions: Account(10, 20, {}))
    monkeypatch.setattr(moves, "read_deployed", lambda client, prefix: moves.UsedDatabase("existing", None))
    monkeypatch.setattr(keys, "read_deployed", lambda client, stack, migration: keys.UsedKeys("arn:one"))
    client = boto3.client("sqs")
    client.send_message(QueueUrl=client.create_queue(QueueName="jobs-low-long-gone")["QueueUrl"], MessageBody="x")
    client.close()
    # when
    found = preflight.check_deploy("dev", assembly(tmp_path, account_concurrency=11, database="aurora"))
    # then
    assert [(finding.kind, finding.what) for finding in found] == [
        (FindingKind.REFUSED, "queue jobs-low-long-gone"),
        (FindingKind.REFUSED, "kms_key"),
        (FindingKind.REFUSED, "database.kind"),
        (FindingKind.UNCHECKED, "the stacks"),
        (FindingKind.UNCHECKED, "DATABASE_URL"),
        (FindingKind.NOTE, "Lambda concurrency"),
        (FindingKind.NOTE, "account_concurrency"),
    ]


def test_without_credentials_the_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LocalError, match=r"the stacks cannot be read from AWS: .*credentials\. Set AWS_PROFILE, or"):
        preflight.check_deploy("dev", assembly(tmp_path))


def test_missing_templates_and_templates_of_another_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="has no templates; leave --assembly out"):
        preflight.check_deploy("dev", tmp_path)
    with pytest.raises(LocalError, match="its templates are of stage 'dev', not 'prod'"):
        preflight.check_deploy("prod", assembly(tmp_path))


def test_a_stage_that_cannot_be_synthesised_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"stage 'prd' cannot be synthesised: no stage 'prd' in cdk.json"):
        preflight.synthesise("prd", tmp_path)


# --- The command ---------------------------------------------------------------------------------------------------

FINDINGS = [
    Finding(FindingKind.REFUSED, "task type data:gone", "no task declares it", "keep it"),
    Finding(FindingKind.UNCHECKED, "DATABASE_URL", "it is not set", "set it"),
    Finding(FindingKind.NOTE, "migration 0005", "a column", "the deploy runs it"),
]


@pytest.mark.parametrize(
    ("findings", "options", "status"),
    [
        (FINDINGS, [], 1),
        (FINDINGS[1:], [], 0),
        (FINDINGS[1:], ["--strict"], 1),
        (FINDINGS[2:], ["--strict"], 0),
        ([], ["--strict"], 0),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_shows_each_finding_and_its_status_says_whether_to_deploy(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], options: list[str], status: int, as_json: bool
) -> None:
    monkeypatch.setattr(preflight, "check_deploy", lambda stage, folder, leaves: findings)
    monkeypatch.setenv("COLUMNS", "200")
    command = ["preflight", "--assembly", ".", *options, *(["--json"] if as_json else [])]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == status
    if as_json:
        output = json.loads(result.output)
        assert (output["stage"], output["ok"]) == ("dev", status == 0)
        assert output["findings"] == [vars(finding) for finding in findings]
    else:
        assert all(
            text in result.output for found in findings for text in (found.kind, found.what, found.why, found.do)
        )
        assert ("ready to deploy" in result.output) is (findings == [])


def test_the_role_of_the_page_on_ci_has_every_permission_of_the_preflight() -> None:
    root = Path(__file__).parents[3]
    permission = r"\b[a-z0-9]+:(?:BatchGet|Describe|Get|List)[A-Za-z]+\b"
    code = (file.read_text() for file in (root / "shared/joblane/cdk/preflight").glob("*.py"))
    wanted = {found for text in code for found in re.findall(permission, text)}
    page = (root / "docs/how-to/deploy-from-ci.md").read_text()
    assert "rds:DescribeDBClusters" in wanted
    assert wanted <= set(re.findall(rf'"({permission})"', page))
