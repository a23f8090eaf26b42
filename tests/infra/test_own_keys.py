"""A stage with KMS keys of its own: what the keys encrypt, and that each role that sends or receives may use them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

from infra.app import APP
from infra.settings import PlatformStage
from joblane.cdk import costs
from joblane.cdk.app import Synthesised
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.constructs.stage_key import use_statement, with_keys
from joblane.cdk.key_policy import BY_TYPE, Place, services_of, statements
from joblane.cdk.packaging import Packages
from joblane.cdk.templates import stacks_of
from joblane.tasks.discovery import discover
from tests.infra import templates
from tests.infra.conftest import DATABASE_KEY, DATABASE_SECRET, NEXT_KEY, STAGE_KEY, STAGES, TASKS, Synth
from tests.infra.lint import lint
from tests.infra.templates import Properties, Template

READ, WRITE = {"kms:Decrypt"}, {"kms:Decrypt", "kms:GenerateDataKey"}
NEEDS: Mapping[str, tuple[str, set[str]]] = {
    "sqs:SendMessage": ("sqs", WRITE),
    "sqs:ReceiveMessage": ("sqs", READ),
    "s3:PutObject": ("s3", WRITE),
    "s3:GetObject": ("s3", READ),
    "sns:Publish": ("sns", WRITE),
}
"""Action → the service that calls KMS for it, and what it calls."""
PAGE = Path(__file__).parents[2] / "docs/how-to/own-keys.md"
EXISTING = {"kind": "existing", "host": "db.internal", "name": "acme", "secret": DATABASE_SECRET}
IAM_API = {"authorizer": {"kind": "iam"}}
APPS = ("own_keys", "own_keys_of_events")


@pytest.fixture(params=APPS)
def encrypted(request: pytest.FixtureRequest, synth: Synth) -> Synthesised:
    return synth.app(request.param)


def documents(template: Template) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield the statements of each principal or managed policy, by logical id. Policies of resources have no grants."""
    attached: dict[str, list[Mapping[str, Any]]] = {}
    for logical_id, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        for policy in properties.get("Policies", ()):
            attached.setdefault(logical_id, []).extend(policy["PolicyDocument"]["Statement"])
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            attached.setdefault(logical_id, []).extend(properties["PolicyDocument"]["Statement"])
        if resource["Type"] == "AWS::IAM::Policy":
            for principal in properties.get("Roles", []) + properties.get("Users", []):
                attached.setdefault(principal["Ref"], []).extend(properties["PolicyDocument"]["Statement"])
    yield from attached.items()


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def lacking(template: Template, keys: set[str]) -> Iterator[str]:
    """Yield each principal that may send, receive, read or write, and may not use all ``keys`` for it."""
    for logical_id, allowances in documents(template):
        allowed = [each for each in allowances if each["Effect"] == "Allow"]
        needed: dict[str, set[str]] = {}
        for action in (action for each in allowed for action in many(each["Action"])):
            if action in NEEDS:
                service, uses = NEEDS[action]
                needed.setdefault(service, set()).update(uses)
        for service, uses in needed.items():
            for arn in sorted(keys):
                found = {
                    action
                    for each in allowed
                    if arn in many(each["Resource"]) and f"{service}.eu-central-1.amazonaws.com" in via(each)
                    for action in many(each["Action"])
                }
                if uses - found:
                    yield f"{logical_id} lacks {', '.join(sorted(uses - found))} by {service} with {arn}"


def via(statement: Mapping[str, Any]) -> list[str]:
    hosts = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", ())
    return [str(templates.target({"Resources": {}}, host)).replace("${AWS::Region}", "eu-central-1") for host in hosts]


def wholes(done: Synthesised) -> Iterator[Template]:
    return (done.whole(stack) for stack in done.templates if "/" not in stack)


def test_every_role_that_sends_or_receives_may_use_all_keys_of_the_stage(encrypted: Synthesised) -> None:
    keys = set(encrypted.stage.usable_keys)
    assert [problem for template in wholes(encrypted) for problem in lacking(template, keys)] == []


def test_each_removed_grant_is_found(encrypted: Synthesised) -> None:
    keys, planted = set(encrypted.stage.usable_keys), 0
    for template in wholes(encrypted):
        for logical_id, statement, action in grants(template):
            # given a template without one of its grants
            broken = json.loads(json.dumps(template))
            remove(broken["Resources"], statement, action)
            # then the rule of the test above names its principal and the grant
            found = [*lacking(broken, keys)]
            assert any(problem.startswith(f"{logical_id} lacks {action} by ") for problem in found)
            planted += 1
    assert planted > len(NEEDS)


def grants(template: Template) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield principal, statement and action of each use of a key. The last test has that of the page's secret."""
    for logical_id, allowances in documents(template):
        for statement in allowances:
            for action in many(statement["Action"]):
                if action.startswith("kms:") and "secretsmanager" not in via(statement)[0]:
                    yield logical_id, statement, action


def remove(value: Any, statement: Mapping[str, Any], action: str) -> None:
    if value == statement:
        value["Action"] = [each for each in many(value["Action"]) if each != action]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        remove(inner, statement, action)


def of_type(done: Synthesised, kind: str) -> list[Properties]:
    return [item for template in wholes(done) for item in templates.of_type(template, kind).values()]


def test_the_key_encrypts_queues_logs_topics_bucket_and_the_key_of_sessions(synth: Synth) -> None:
    done = synth.app("own_keys")
    for queue in of_type(done, "AWS::SQS::Queue"):
        assert (queue["KmsMasterKeyId"], queue["KmsDataKeyReusePeriodSeconds"]) == (STAGE_KEY, 3600)
        assert "SqsManagedSseEnabled" not in queue
    assert {each["KmsKeyId"] for each in of_type(done, "AWS::Logs::LogGroup")} == {STAGE_KEY}
    assert [each["KmsMasterKeyId"] for each in of_type(done, "AWS::SNS::Topic")] == [STAGE_KEY] * 2
    assert [each["KmsKeyId"] for each in of_type(done, "AWS::SecretsManager::Secret")] == [STAGE_KEY]
    (bucket,) = of_type(done, "AWS::S3::Bucket")
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {
        "BucketKeyEnabled": True,
        "ServerSideEncryptionByDefault": {"KMSMasterKeyID": STAGE_KEY, "SSEAlgorithm": "aws:kms"},
    }
    assert of_type(done, "AWS::KMS::Key") == []  # nor a second one for the topics


@pytest.mark.parametrize("kind", ["aurora", "rds"])
def test_the_database_has_a_key_of_its_own(kind: str, synth: Synth) -> None:
    done = synth(network={"kind": "new"}, database={"kind": kind, "name": "acme", "kms_key": DATABASE_KEY})
    resource = {"aurora": "AWS::RDS::DBCluster", "rds": "AWS::RDS::DBInstance"}[kind]
    found = next(each for each in of_type(done, resource) if "StorageEncrypted" in each)
    assert found["KmsKeyId"] == DATABASE_KEY
    assert done.templates["acme-data"]["Outputs"]["DatabaseKmsKey"]["Value"] == DATABASE_KEY
    assert STAGE_KEY not in json.dumps(done.templates)
    assert "SqsManagedSseEnabled" in of_type(done, "AWS::SQS::Queue")[0]


def test_the_page_may_decrypt_the_key_of_its_sessions(synth: Synth) -> None:
    template = synth.app("own_keys").whole("acme-control")
    (role,) = (each for each in templates.of_type(template, "AWS::IAM::Role").values() if "page" in str(each))
    (use,) = (each for each in role["Policies"][0]["PolicyDocument"]["Statement"] if each["Action"] == "kms:Decrypt")
    assert (via(use), use["Resource"]) == (["secretsmanager.eu-central-1.amazonaws.com"], [STAGE_KEY, NEXT_KEY])


def test_objects_of_a_former_key_stay_readable_without_a_key_of_the_stage(synth: Synth) -> None:
    done = synth(package="functions", api=IAM_API, account_concurrency=1000, other_kms_keys=[STAGE_KEY])
    problems = [*lacking(done.whole("acme-jobs"), {STAGE_KEY})]
    assert problems == []
    assert done.templates["acme-jobs"]["Outputs"]["KmsKeys"]["Value"] == f"none {STAGE_KEY}"


def test_a_producer_of_the_application_may_use_the_key_too(no_packages: Packages, tmp_path: Path) -> None:
    def add(app: App, jobs: Jobs, stage: PlatformStage) -> None:
        stack = Stack(app, "acme-shop")
        role = iam.Role(stack, "Shop", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
        jobs.grant_enqueue(role, "report:build")

    settings = {**STAGES["dev"], "kms_key": STAGE_KEY}
    done = replace(APP, functions=TASKS, stacks=[add]).synthesise(
        {"stage": "dev", "stages": {"dev": settings}}, output=tmp_path, environ={}, build=lambda *_: no_packages
    )
    template = done.templates["acme-shop"]
    assert [statement["Action"] for _, each in documents(template) for statement in each if "Condition" in statement]
    assert [*lacking(template, {STAGE_KEY})] == []


@pytest.mark.parametrize("bucket", ["created", "imported"])
def test_a_task_may_use_the_key_of_a_bucket_of_the_application(
    bucket: str, no_packages: Packages, tmp_path: Path
) -> None:
    # given an application whose bucket has a key of its own, on a stage without keys
    def add(data: Stack, stage: PlatformStage) -> Mapping[str, GrantedBucket]:
        if bucket == "created":
            made = s3.Bucket(data, "Files", encryption_key=kms.Key(data, "Key"))
            return dict.fromkeys(("exports", "reports"), GrantedBucket(made, "FILES"))
        key = kms.Key.from_key_arn(data, "Key", NEXT_KEY)
        known = s3.Bucket.from_bucket_attributes(data, "Files", bucket_name="files", encryption_key=key)
        return dict.fromkeys(("exports", "reports"), GrantedBucket(known, "FILES"))

    done = replace(APP, functions=TASKS, buckets=add).synthesise(
        {"stage": "dev", "stages": {"dev": STAGES["dev"]}},
        output=tmp_path,
        environ={},
        build=lambda *_: no_packages,
        findings=False,
    )
    # then each role that writes objects may encrypt them with this key, through S3
    writes = [each for _, each in documents(done.whole("acme-jobs")) if "s3:PutObject" in json.dumps(each)]
    assert writes
    for statements_ in writes:
        (use,) = (each for each in statements_ if "kms:GenerateDataKey" in many(each["Action"]))
        assert set(use["Action"]) == WRITE
        assert (use["Resource"] == NEXT_KEY) is (bucket == "imported")
        assert via(use) == ["s3.eu-central-1.amazonaws.com", "s3.eu-central-1.${AWS::URLSuffix}"]


def test_a_stage_in_china_accepts_both_forms_of_a_services_host() -> None:
    statement = use_statement("sqs", ["kms:Decrypt"], ["a", "a"], region="cn-north-1")
    assert statement.resources == ["a"]
    assert statement.conditions["StringEquals"]["kms:ViaService"] == [
        "sqs.cn-north-1.amazonaws.com",
        "sqs.cn-north-1.amazonaws.com.cn",
    ]


def test_cfn_lint_finds_nothing_in_the_templates(encrypted: Synthesised) -> None:
    """The parts of the types have the same kinds of resources: one of them is checked."""
    stacks = [encrypted.directory / f"{stack}.template.json" for stack in stacks_of(encrypted.templates)]
    part = min(encrypted.directory.glob("*JobsTypesPart*.template.json"))
    found = lint([*stacks, part], regions=("eu-central-1", "us-east-1"))  # not all regions have budgets
    assert found == {file.name: [] for file in (*stacks, part)}


def test_keys_and_their_calls_have_a_price(synth: Synth) -> None:
    done = synth.app("own_keys")
    found = {line.price: line for line in costs.of_stage(done.templates.values(), discover("functions", times={}))}
    queues = [queue for queue in of_type(done, "AWS::SQS::Queue") if "RedrivePolicy" in queue]
    assert (found["Key"].amount, found["Key"].dollars) == (3, 3.0)
    # three calls an hour for each lane and front door, in a month of 30 days
    assert found["KMS call"].amount == len(queues) * 3 * 720
    assert 0.01 < found["KMS call"].dollars < 0.10
    without = costs.of_stage(synth.app("apis").templates.values(), discover("functions", times={}))
    assert not [line for line in without if line.price == "KMS call" or "own KMS" in line.what]


def test_a_role_that_only_receives_may_only_decrypt() -> None:
    stage = PlatformStage.model_validate({"name": "dev", "database": EXISTING, "kms_key": STAGE_KEY})
    given = [
        (iam.Effect.ALLOW, ["sqs:ReceiveMessage", "sqs:DeleteMessage"], ["kms:Decrypt"]),
        (iam.Effect.ALLOW, ["sqs:SendMessage"], ["kms:Decrypt", "kms:GenerateDataKey"]),
        (iam.Effect.ALLOW, ["sqs:GetQueueAttributes"], None),
        (iam.Effect.DENY, ["sqs:SendMessage"], None),
    ]
    for effect, actions, uses in given:
        statement = iam.PolicyStatement(effect=effect, actions=actions, resources=["arn:q"])
        first, *more = with_keys(stage, statement)
        assert first is statement
        assert [each.actions for each in more] == ([uses] if uses else [])


# --- The policy of the key -----------------------------------------------------------------------------------------


def test_the_policy_covers_each_service_that_uses_the_key_without_a_role(synth: Synth) -> None:
    found = [services_of(synth.app(name).templates.values()) for name in APPS]
    assert found == [["budgets", "cloudwatch", "logs"], ["events", "logs"]]


def test_the_page_has_the_whole_policy() -> None:
    place, services = Place("aws", "eu-central-1", "111122223333", "jobs-prod"), BY_TYPE.values()
    found = json.loads(PAGE.read_text().split("```json\n")[1].split("```")[0])
    assert sorted(found["Statement"], key=str) == sorted(statements(place, services), key=str)


def test_the_policy_names_every_log_group_of_a_stage(encrypted: Synthesised) -> None:
    place = Place("aws", "eu-central-1", "111122223333", "acme")
    logs = next(each for each in statements(place, ["logs"]) if each["Sid"] == "Logs")
    patterns = logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    names = [name for template in wholes(encrypted) for name in templates.of_type(template, "AWS::Logs::LogGroup")]
    assert names
    for name in names:
        assert any(fnmatchcase(place.arn("logs", f"log-group:{name}"), pattern) for pattern in patterns), name
