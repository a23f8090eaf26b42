"""The way back from a deploy: what is read before it, the rules that keep it, the alarms that count, and the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from joblane.cdk.templates import read_assembly
from joblane.cdk.way_back.alarms import AlarmState, Counted, Firing, has_alarms, read_states
from joblane.cdk.way_back.deployed import Deployed, read_deployed
from joblane.cdk.way_back.folder import PROPERTY, regions_of, write_folder
from joblane.cdk.way_back.judgement import reasons_to_stay
from joblane.functions.migrate import handler
from joblane.names import encode_places
from tests.builders.assembly import BEFORE, QUEUE, changed, write_assembly

# --- The rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        changed("acme-jobs", "Resources", "Run", "Properties", "Code", to="2"),
        changed("acme-jobs", "Resources", "Run", "Properties", "Version", to="v2"),
        changed("acme-jobs", "Resources", "Run", "Properties", "Schedules", to='{"jobs:sweep": 5}'),
        changed("acme-jobs/Part3", "Resources", "Lane", "Properties", "VisibilityTimeout", to=90),
        changed("acme-monitoring", "Resources", "Errors", "Properties", "Threshold", to=5),
        changed("acme-jobs", "Resources", "Role", to={"Type": "AWS::IAM::Role", "Properties": {}}),
        changed("acme-jobs", "Resources", "Part4", to={"Type": "AWS::CloudFormation::Stack", "Properties": {}}),
    ],
)
def test_code_times_and_settings_can_be_taken_back(after: Mapping[str, Any]) -> None:
    assert reasons_to_stay(Deployed(BEFORE), after) == []


def with_places(**types: list[list[str]]) -> Mapping[str, Any]:
    """The templates with a function that knows these places."""
    variables = {"Environment": {"Variables": {"JOBLANE_PLACES": encode_places(types)}}}
    return changed("acme-jobs", "Resources", "F", to={"Type": "AWS::Lambda::Function", "Properties": variables})


def test_a_type_that_a_place_gains_or_loses_is_one_that_the_stage_gains_or_loses() -> None:
    one, two = with_places(web=[["a:b"]]), with_places(web=[["a:b"], ["a:c", "a:d"]])
    lost = "it added a task type or a lane (a:c, a:d), whose tasks the earlier code would lose"
    assert reasons_to_stay(Deployed(one), two) == [lost]
    (gone,) = reasons_to_stay(Deployed(two), one)
    assert gone.startswith("it dropped a task type or a lane (a:c, a:d)")
    # a type with a lane of its own is not one more
    own = with_places(web=[["a:b"], ["data:export"]])
    assert reasons_to_stay(Deployed(one), own) == reasons_to_stay(Deployed(own), one) == []
    # between two places the earlier code parks the tasks, and sends them back
    moved = with_places(web=[["a:b"]], other=[["a:c", "a:d"]])
    assert reasons_to_stay(Deployed(two), moved) == []


BUCKET = {"Type": "AWS::S3::Bucket", "Properties": {}}
DIFFER = "it added, removed or changed resources that may not come back as they were"
SO = "so that it cannot create them"
OTHER_QUEUE = {**QUEUE, "Properties": {"QueueName": "acme-low-data-move"}}


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (
            changed("acme-jobs/Part3", "Resources", "Lane", to=None),
            "it dropped a task type or a lane (acme-low-data-export): CloudFormation cannot give its tasks back",
        ),
        (
            changed("acme-jobs/Part3", "Resources", "Other", to=OTHER_QUEUE),
            "it added a task type or a lane (acme-low-data-move), whose tasks the earlier code would lose",
        ),
        (
            changed("acme-jobs", "Metadata", "Joblane", "schema", "revision", to="0002"),
            "it migrated the schema from 0001 to 0002",
        ),
        (
            changed("acme-jobs", "Metadata", "Joblane", "schema", "own", to="def"),
            "it changed the project's own migrations",
        ),
        (
            changed("acme-jobs", "Metadata", "Joblane", "limits", to={}),
            "it changed the names or the key of limits (data:export): the earlier code would count other tasks",
        ),
        (
            changed("acme-jobs", "Metadata", "Joblane", "keys", to={"kms_key": "arn:new"}),
            "it added a KMS key (kms_key): the earlier functions cannot read what it encrypted",
        ),
        (
            changed("acme-data", "Resources", "DB", "Properties", "Engine", to="other"),
            "it changed the database (acme-data/DB)",
        ),
        (changed("acme-data", "Resources", "DB", to=None), "it changed the database (acme-data/DB)"),
        (
            changed("acme-data", "Resources", "Reader", to={"Type": "AWS::RDS::DBInstance"}),
            "it changed the database (acme-data/Reader)",
        ),
        *(
            (
                changed("acme-jobs", "Resources", "Run", "Properties", name, to="other"),
                f"it changed the settings of the database ({name} of the migration)",
            )
            for name in ("Database", "Functions", "User", "Restored")
        ),
        (
            changed("acme-data", "Resources", "Files", to=BUCKET),
            f"{DIFFER} (acme-data/Files)",
        ),
        (
            changed("acme-data", "Resources", "Files", to={**BUCKET, "DeletionPolicy": "Retain"}),
            f"it added or removed resources that CloudFormation keeps, {SO} (acme-data/Files)",
        ),
        *(
            (
                changed("acme-jobs", "Resources", "Log", to={"Type": "AWS::Logs::LogGroup", "DeletionPolicy": policy}),
                f"it added or removed resources that CloudFormation keeps, {SO} (acme-jobs/Log)",
            )
            for policy in ("Retain", "RetainExceptOnCreate")
        ),
    ],
)
def test_a_deploy_stays_for_each_reason(after: Mapping[str, Any], reason: str) -> None:
    assert reasons_to_stay(Deployed(BEFORE), after) == [reason]


def with_resource(kind: str, **properties: Any) -> dict[str, Any]:
    return changed("acme-data", "Resources", "It", to={"Type": kind, "Properties": properties})


@pytest.mark.parametrize(
    "kind",
    [
        "AWS::ApiGateway::ApiKey",
        "AWS::Cognito::UserPool",
        "AWS::DynamoDB::Table",
        "AWS::EC2::Volume",
        "AWS::ElastiCache::ReplicationGroup",
        "AWS::Events::Connection",
        "AWS::Kinesis::Stream",
        "AWS::Logs::LogGroup",
        "AWS::OpenSearchService::Domain",
        "AWS::S3::Bucket",
        "AWS::S3Tables::TableBucket",
        "AWS::SNS::Subscription",
        "AWS::SecretsManager::Secret",
        "Custom::Own",
    ],
)
def test_a_deploy_stays_if_a_resource_that_may_hold_data_differs(kind: str) -> None:
    old, new = with_resource(kind, Name="a"), with_resource(kind, Name="b")
    for before, after in ((BEFORE, new), (old, BEFORE), (old, new)):
        assert reasons_to_stay(Deployed(before), after) == [f"{DIFFER} (acme-data/It)"]


LANE_PROPERTIES = {
    "QueueName": "acme-low-x",
    "MessageRetentionPeriod": 1_209_600,
    "VisibilityTimeout": 60,
    "RedrivePolicy": {"deadLetterTargetArn": "arn:dlq", "maxReceiveCount": 5},
}


@pytest.mark.parametrize(
    ("kind", "old", "new", "stays"),
    [
        ("AWS::SQS::Queue", LANE_PROPERTIES, {"VisibilityTimeout": 90, "Tags": [{"Key": "a", "Value": "b"}]}, False),
        ("AWS::SQS::Queue", LANE_PROPERTIES, {"RedrivePolicy": {"deadLetterTargetArn": "arn:dlq"}}, False),
        ("AWS::SQS::Queue", LANE_PROPERTIES, {"RedrivePolicy": {"deadLetterTargetArn": "arn:other"}}, True),
        ("AWS::SQS::Queue", LANE_PROPERTIES, {"MessageRetentionPeriod": 60}, True),
        ("AWS::SQS::Queue", LANE_PROPERTIES, {"FifoQueue": True}, True),
        ("AWS::Logs::LogGroup", {"LogGroupName": "a"}, {"RetentionInDays": 7}, False),
        ("AWS::Logs::LogGroup", {"LogGroupName": "a"}, {"LogGroupName": "b"}, True),
        ("AWS::ApiGatewayV2::Api", {"Name": "a"}, {"CorsConfiguration": {"MaxAge": 1}}, False),
        ("AWS::ApiGatewayV2::Api", {"ProtocolType": "HTTP"}, {"ProtocolType": "WEBSOCKET"}, True),
        ("AWS::EC2::SecurityGroup", {"VpcId": "a"}, {"SecurityGroupEgress": [{"FromPort": 443}]}, False),
        ("AWS::EC2::SecurityGroup", {"VpcId": "a"}, {"VpcId": "b"}, True),
        ("AWS::CloudFormation::Stack", {"TemplateURL": "a"}, {"TemplateURL": "b", "Parameters": {"B": 1}}, False),
        ("AWS::CloudFormation::Stack", {"Parameters": {"A": 1}}, {"Parameters": {"A": 2}}, True),
    ],
)
def test_some_properties_of_a_resource_can_be_taken_back(
    kind: str, old: dict[str, Any], new: dict[str, Any], *, stays: bool
) -> None:
    found = reasons_to_stay(Deployed(with_resource(kind, **old)), with_resource(kind, **{**old, **new}))
    assert found == [f"{DIFFER} (acme-data/It)"] * stays


def test_a_deploy_stays_if_the_state_before_it_was_not_known() -> None:
    (reason,) = reasons_to_stay(Deployed(BEFORE, statuses={"acme-jobs": "UPDATE_ROLLBACK_COMPLETE"}), BEFORE)
    assert reason.startswith("the stack acme-jobs is UPDATE_ROLLBACK_COMPLETE: others may have templates of")
    assert reasons_to_stay(Deployed(BEFORE, statuses={"acme-jobs": "IMPORT_COMPLETE"}), BEFORE) == []
    (reason,) = reasons_to_stay(Deployed(BEFORE, elsewhere={"acme-edge": "us-east-1"}), BEFORE)
    assert reason == "the stack acme-edge is in us-east-1, which --watch does not read"


def test_a_deploy_stays_for_each_reason_that_lies_in_what_was_deployed() -> None:
    old = changed("acme-jobs", "Metadata", "Joblane", "schema", to=None)
    (reason,) = reasons_to_stay(Deployed(old), BEFORE)
    assert reason.startswith("the earlier templates do not name the schema")
    (reason,) = reasons_to_stay(Deployed(BEFORE, missing=("acme-new", "acme-jobs/Part9")), BEFORE)
    assert reason == "the stack acme-new is new: there is no earlier template"
    (reason,) = reasons_to_stay(Deployed(BEFORE, unreadable=tuple("abcde")), BEFORE)
    assert "(a, b, c and 2 more)" in reason
    (reason,) = reasons_to_stay(Deployed(BEFORE, unreadable=tuple("abc")), BEFORE)
    assert "(a, b, c)" in reason


# --- Alarms --------------------------------------------------------------------------------------------------------

OK = {"acme-errors": AlarmState("acme-errors", "OK")}
PLACES = {("acme-monitoring", "Errors"): "acme-errors"}


def counted(after: Mapping[str, Any] = BEFORE, states: Mapping[str, AlarmState] = OK) -> Counted:
    return Counted.of(Deployed(BEFORE, alarms=PLACES), states, after)


def test_an_alarm_counts_if_it_was_ok_and_keeps_its_definition() -> None:
    assert counted() == Counted(frozenset({"acme-errors"}), {})
    for name in ("AlarmDescription", "AlarmActions", "OKActions"):
        after = changed("acme-monitoring", "Resources", "Errors", "Properties", name, to="other")
        assert counted(after).names == {"acme-errors"}


@pytest.mark.parametrize("state", ["ALARM", "INSUFFICIENT_DATA"])
def test_an_alarm_that_was_not_ok_does_not_count(state: str) -> None:
    found = counted(states={"acme-errors": AlarmState("acme-errors", state)})
    assert found == Counted(frozenset(), {"acme-errors": f"was {state} when the deploy began"})


def test_alarms_that_the_deploy_changes_do_not_count() -> None:
    new = {"Type": "AWS::CloudWatch::Alarm", "Properties": {"AlarmName": "acme-new"}}
    after = changed("acme-monitoring", "Resources", "Errors", "Properties", "Threshold", to=2)
    after["acme-monitoring"]["Resources"] |= {"New": new, "Nameless": {**new, "Properties": {}}}
    assert counted(after).left_out == {
        "acme-errors": "gets another definition in this deploy",
        "acme-monitoring/Nameless": "is new in this deploy",
        "acme-new": "is new in this deploy",
    }
    removed = counted(changed("acme-monitoring", "Resources", "Errors", to=None))
    assert removed.left_out == {"acme-errors": "is removed by this deploy"}
    assert counted(states={}).left_out == {"acme-errors": "does not exist"}
    assert [has_alarms(each) for each in (BEFORE, {"acme-jobs": BEFORE["acme-jobs"]})] == [True, False]


def test_an_alarm_that_repairs_an_instance_does_not_count() -> None:
    arn = {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":automate:eu-central-1:ec2:reboot"]]}
    repairs = changed("acme-monitoring", "Resources", "Errors", "Properties", "AlarmActions", to=[arn])
    found = Counted.of(Deployed(repairs, alarms=PLACES), OK, repairs)
    assert found == Counted(frozenset(), {"acme-errors": "repairs an instance"})
    assert not has_alarms(repairs)


def test_an_alarm_must_fire_for_a_minute_in_total() -> None:
    firing, fires, ok = Firing(), AlarmState("a", "ALARM", "errors"), AlarmState("a", "OK")
    assert firing.confirmed([fires], 0) == []
    assert firing.names == ["a"]
    assert firing.confirmed([fires], 59) == []
    assert firing.confirmed([ok], 60) == []
    assert firing.names == []
    assert firing.confirmed([fires], 70) == []
    assert firing.confirmed([AlarmState("a", "INSUFFICIENT_DATA")], 131) == []
    assert firing.seconds == {"a": 59}
    assert firing.confirmed([fires], 140) == []
    assert firing.confirmed([fires], 141) == [fires]
    assert firing.confirmed([ok], 150) == []


# --- Reading -------------------------------------------------------------------------------------------------------

ACCESS: Any = {"region_name": "eu-central-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture
def cloudformation() -> Iterator[tuple[Any, Stubber]]:
    with closing(boto3.client("cloudformation", **ACCESS)) as client, Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def answer(stub: Stubber, called: str, body: object, *resources: tuple[str, str, str], status: str = "OK") -> None:
    described = {
        "StackName": "x",
        "CreationTime": "2026-01-01",
        "StackStatus": "UPDATE_COMPLETE" if status == "OK" else status,
        "Tags": [{"Key": "stage", "Value": "dev"}],
    }
    stub.add_response("describe_stacks", {"Stacks": [described]}, {"StackName": called})
    if status != "OK":
        return
    text = body if isinstance(body, str) else json.dumps(body)
    expected = {"StackName": called, "TemplateStage": "Original"}
    stub.add_response("get_template", {"TemplateBody": text}, expected)
    listed = [
        {
            "ResourceType": kind,
            "LogicalResourceId": logical_id,
            "PhysicalResourceId": name,
            "ResourceStatus": "CREATE_COMPLETE",
            "LastUpdatedTimestamp": "2026-01-01T00:00:00Z",
        }
        for kind, logical_id, name in resources
    ]
    if body != "no JSON":
        stub.add_response("list_stack_resources", {"StackResourceSummaries": listed}, {"StackName": called})


def test_the_deployed_stacks_are_read_with_nested_stacks_and_names(cloudformation: tuple[Any, Stubber]) -> None:
    client, stub = cloudformation
    nested = ("AWS::CloudFormation::Stack", "Part3", "arn:part3")
    answer(stub, "acme-jobs", {"Resources": {"A": 1}}, nested)
    answer(stub, "acme-monitoring", {"Resources": {}}, ("AWS::CloudWatch::Alarm", "Errors", "acme-errors"))
    stub.add_client_error("describe_stacks", "ValidationError", "Stack with id acme-api does not exist")
    answer(stub, "acme-new", {}, status="REVIEW_IN_PROGRESS")
    answer(stub, "acme-yaml", "no JSON")
    answer(stub, "arn:part3", {"Resources": {"B": 2}})
    wanted: Any = {
        name: {"Resources": {}} for name in ("acme-jobs", "acme-monitoring", "acme-api", "acme-new", "acme-yaml")
    }
    found = read_deployed(client, wanted)
    assert found.templates["acme-jobs"] == {"Resources": {"A": 1}}
    assert found.templates["acme-jobs/Part3"] == {"Resources": {"B": 2}}
    assert found.tags == {name: {"stage": "dev"} for name in ("acme-jobs", "acme-monitoring")}
    assert found.alarms == PLACES
    assert found.missing == ("acme-api", "acme-new")
    assert found.unreadable == ("acme-yaml: its template is not JSON",)
    assert found.statuses == dict.fromkeys(("acme-jobs", "acme-monitoring", "acme-yaml"), "UPDATE_COMPLETE")


def test_characters_that_cloudformation_loses_are_taken_from_the_checkout(cloudformation: tuple[Any, Stubber]) -> None:
    """GetTemplate returns ``?`` for each character that is not ASCII."""
    client, stub = cloudformation
    body = {
        "Description": "? changed",
        "Resources": {"A": {"SAME": ["f?r", "a?b"], "OTHER": "Z?rich", "URL": "https://x?y", "By": "J?rg"}},
    }
    wanted = {
        "Description": "",
        "Resources": {"A": {"SAME": ["für", "a?b"], "OTHER": "Genève", "URL": "https://x?y", "By": "Eva"}},
    }
    answer(stub, "acme-jobs", body)
    found = read_deployed(client, {"acme-jobs": wanted})
    assert found.templates["acme-jobs"]["Resources"]["A"]["SAME"] == ["für", "a?b"]
    assert found.unreadable == ("acme-jobs: Resources/A/OTHER",)


def test_states_are_read_by_a_hundred_names_at_a_time() -> None:
    names = [f"a{number:03}" for number in range(101)]
    with closing(boto3.client("cloudwatch", **ACCESS)) as client, Stubber(client) as stub:
        for some in (names[:100], names[100:]):
            expected = {"AlarmNames": some, "AlarmTypes": ["MetricAlarm", "CompositeAlarm"]}
            alarm = {"AlarmName": some[0], "StateValue": "ALARM", "StateReason": "1 > 0"}
            kinds = ("MetricAlarms", "CompositeAlarms")[:: 1 if len(some) > 1 else -1]
            stub.add_response("describe_alarms", dict(zip(kinds, ([alarm], []), strict=True)), expected)
        found = read_states(client, reversed(names))
        stub.assert_no_pending_responses()
    assert found == {name: AlarmState(name, "ALARM", "1 > 0") for name in ("a000", "a100")}


# --- The folder ----------------------------------------------------------------------------------------------------


def test_the_folder_deploys_the_earlier_templates_those_that_use_exports_first(tmp_path: Path) -> None:
    write_assembly(assembly := tmp_path / "prod")
    deployed = Deployed(BEFORE, {"acme-jobs": {"stage": "old"}})
    (old := tmp_path / "prod.before").mkdir()
    (old / "left").touch()
    folder = write_folder(deployed, assembly, by="eva", version="v2", why="acme-errors fired")
    assert folder == old
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        *(f"acme-{stack}.{kind}.json" for stack in ("data", "jobs") for kind in ("template", "assets")),
    }
    # then the templates are those of before, with what the migration writes into the audit
    found = read_assembly(folder)
    run = found["acme-jobs"]["Resources"]["Run"]["Properties"]
    assert json.loads(run.pop(PROPERTY)) == {"from": "v2", "why": "acme-errors fired"}
    assert run.pop("By") == "eva"
    assert found == {name: BEFORE[name] for name in ("acme-data", "acme-jobs")} | {
        "acme-jobs": changed("acme-jobs", "Resources", "Run", "Properties", to=run)["acme-jobs"]
    }
    # and each is uploaded under the digest of its file, and deployed with the role and the tags of before
    artifacts = json.loads((folder / "manifest.json").read_text())["artifacts"]
    for stack in ("acme-data", "acme-jobs"):
        digest = hashlib.sha256((folder / f"{stack}.template.json").read_bytes()).hexdigest()
        assets = json.loads((folder / f"{stack}.assets.json").read_text())["files"]
        assert assets[digest]["destinations"]["here"]["objectKey"] == f"{digest}.json"
        assert [*assets] == [digest]
        assert artifacts[stack]["properties"]["stackTemplateAssetObjectUrl"] == f"s3://assets/{digest}.json"
        assert artifacts[stack]["properties"]["cloudFormationExecutionRoleArn"] == "arn:exec"
        assert "additionalMetadataFile" not in artifacts[stack]
    assert [artifacts[stack]["properties"]["tags"] for stack in ("acme-data", "acme-jobs")] == [{}, {"stage": "old"}]
    assert artifacts["acme-data"]["dependencies"] == ["acme-jobs", "acme-data.assets"]
    assert artifacts["acme-jobs"]["dependencies"] == ["acme-jobs.assets"]


def test_a_stack_without_an_earlier_template_is_not_in_the_folder(tmp_path: Path) -> None:
    write_assembly(assembly := tmp_path / "prod")
    folder = write_folder(Deployed({"acme-data": BEFORE["acme-data"]}), assembly, by="eva", version="v2", why="x")
    assert [*read_assembly(folder)] == ["acme-data"]


def test_a_stack_is_in_the_region_that_the_assembly_names(tmp_path: Path) -> None:
    write_assembly(assembly := tmp_path / "prod")
    manifest = json.loads((assembly / "manifest.json").read_text())
    manifest["artifacts"]["acme-data"]["environment"] = "aws://unknown-account/unknown-region"
    (assembly / "manifest.json").write_text(json.dumps(manifest))
    assert regions_of(assembly) == {"acme-jobs": "eu-central-1"}


def test_the_migration_knows_the_property_of_the_folder() -> None:
    assert handler.TAKEN_BACK == PROPERTY
    assert PROPERTY in handler.NO_PROPERTIES
