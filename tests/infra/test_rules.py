"""Rules for each resource of all templates for AWS. ``test_least_privilege.py`` has those on permissions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from functions.api.access import PUBLIC
from joblane.cdk.app import Synthesised
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_MESSAGE_BYTES, QUEUE_RETENTION
from joblane.settings import SIGNAL_KEYS
from tests.infra import templates
from tests.infra.templates import Properties, Template

RETAINED = {"AWS::SQS::Queue", "AWS::Logs::LogGroup", "AWS::S3::Bucket"}
ONLY_TLS = {"Bool": {"aws:SecureTransport": "false"}}
ANYONES_PAGE = {"GET /", "GET /{path+}", "POST /{path+}"}
"""Routes of the page that a team shares, which signs its users in itself."""
BY_THE_SENDER = ("path", "authorizer", "useragent", "domain", "querystring", "accesskey", "caller", "user")
"""In variables of API Gateway that hold a path, a query, a header, a claim or a sender's words."""


def resources(done: Synthesised, *kinds: str) -> Iterator[tuple[Template, str, Properties]]:
    """Yield the whole stack, the name and the properties of each resource of these types."""
    for stack in done.templates:
        if "/" not in stack:
            template = done.whole(stack)
            for kind in kinds:
                yield from ((template, *item) for item in templates.of_type(template, kind).items())


def is_denied_without_tls(statement: Mapping[str, Any], actions: str) -> bool:
    return (statement["Effect"], statement["Principal"], statement["Action"], statement["Condition"]) == (
        "Deny",
        {"AWS": "*"},
        actions,
        ONLY_TLS,
    )


# --- Queues and mappings -------------------------------------------------------------------------------------------


def test_queues_are_encrypted_take_the_largest_message_and_have_a_dlq(every: Synthesised) -> None:
    for template, name, queue in resources(every, "AWS::SQS::Queue"):
        keys = [queue.get(name) for name in ("SqsManagedSseEnabled", "KmsMasterKeyId")]
        assert keys == ([None, every.stage.kms_key] if every.stage.kms_key else [True, None])
        # a queue without the property has SQS's default, which was lower in the past
        assert queue["MaximumMessageSize"] == MAX_MESSAGE_BYTES
        is_dlq = name.endswith("-dlq")
        assert queue["MessageRetentionPeriod"] == (DEAD_LETTER_RETENTION if is_dlq else QUEUE_RETENTION).total_seconds()
        redriven = queue.get("RedrivePolicy", {}).get("deadLetterTargetArn", "")
        assert templates.target(template, redriven) == ("" if is_dlq else f"{name}-dlq")


def test_every_queue_refuses_plain_http(every: Synthesised) -> None:
    guarded = set()
    for template, _, policy in resources(every, "AWS::SQS::QueuePolicy"):
        statements = policy["PolicyDocument"]["Statement"]
        assert is_denied_without_tls(statements[0], "sqs:*")
        assert {statement["Resource"] for statement in statements} == {"*"}  # in a queue's policy: the queue
        opened = [statement["Principal"] for statement in statements if statement["Effect"] == "Allow"]
        assert opened in ([], [{"Service": "events.amazonaws.com"}])
        guarded |= {templates.target(template, queue) for queue in policy["Queues"]}
    assert guarded == {name for _, name, _ in resources(every, "AWS::SQS::Queue")}


def test_each_queue_has_one_consumer_with_item_failures_a_limit_and_no_filter(every: Synthesised) -> None:
    consumed = []
    for template, _, mapping in resources(every, "AWS::Lambda::EventSourceMapping"):
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2
        assert not {"FilterCriteria", "MaximumBatchingWindowInSeconds"} & mapping.keys()
        consumed.append(templates.target(template, mapping["EventSourceArn"]))
    queues = {name for _, name, _ in resources(every, "AWS::SQS::Queue") if not name.endswith("-dlq")}
    assert sorted(consumed) == sorted(queues)


# --- Functions and logs --------------------------------------------------------------------------------------------


def test_every_log_expires_and_every_function_writes_to_its_own(every: Synthesised) -> None:
    logs = {name: group["RetentionInDays"] for _, name, group in resources(every, "AWS::Logs::LogGroup")}
    assert set(logs.values()) == {every.stage.log_retention_days}
    functions = set()
    for template, name, function in resources(every, "AWS::Lambda::Function"):
        assert templates.target(template, function["LoggingConfig"]["LogGroup"]) == f"/aws/lambda/{name}"
        assert function["Architectures"] == [every.stage.architecture]
        assert ("ImageConfig" in function) is not (function.get("Runtime") == "python3.13")
        functions.add(f"/aws/lambda/{name}")
    assert functions == {name for name in logs if name.startswith("/aws/lambda/")}


def test_functions_share_code_and_layer_and_with_a_login_wait_for_the_migration(every: Synthesised) -> None:
    template = every.whole(f"{every.stage.prefix}-jobs")
    functions = [item for item in template["Resources"].values() if item["Type"] == "AWS::Lambda::Function"]
    zipped = [item["Properties"] for item in functions if "ImageConfig" not in item["Properties"]]
    assert len({json.dumps([properties[key] for key in ("Code", "Layers")]) for properties in zipped}) == 1
    [(run, properties)] = templates.of_type(template, "Custom::Migration").items()
    migration = templates.target(template, properties["ServiceToken"])
    for item in functions:
        name = item["Properties"]["FunctionName"]
        has_login = "DATABASE_URL" in item["Properties"]["Environment"]["Variables"]
        network = every.stage.network if has_login else None
        assert ("VpcConfig" in item["Properties"]) == (network is not None), name
        if network is not None:
            assert item["Properties"]["VpcConfig"].get("Ipv6AllowedForDualStack", False) == network.ipv6
        if has_login and name != migration:
            assert run in item["DependsOn"], name


def test_the_migration_is_not_retried_and_has_a_service_timeout(every: Synthesised) -> None:
    template = every.whole(f"{every.stage.prefix}-jobs")
    ((config_id, config),) = templates.of_type(template, "AWS::Lambda::EventInvokeConfig").items()
    (run,) = (item for item in template["Resources"].values() if item["Type"] == "Custom::Migration")
    migration = templates.target(template, run["Properties"]["ServiceToken"])
    assert (templates.target(template, config["FunctionName"]), config["MaximumRetryAttempts"]) == (migration, 0)
    assert config_id in run["DependsOn"]  # or the first migration could still be retried
    timeout = templates.functions(template)[migration]["Timeout"]
    assert int(run["Properties"]["ServiceTimeout"]) == timeout + 60


# --- Data and network ----------------------------------------------------------------------------------------------


def test_buckets_are_private_encrypted_and_refuse_plain_http(every: Synthesised) -> None:
    buckets = [item for _, _, item in resources(every, "AWS::S3::Bucket")]
    for bucket in buckets:
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        algorithm = "aws:kms" if every.stage.kms_key else "AES256"
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == algorithm
    policies = [item["PolicyDocument"]["Statement"] for _, _, item in resources(every, "AWS::S3::BucketPolicy")]
    assert len(policies) == len(buckets)
    assert all(is_denied_without_tls(statement, "s3:*") for (statement,) in policies)


def test_databases_are_encrypted_and_private_and_log_in_by_iam_over_tls(every: Synthesised) -> None:
    for template, _, cluster in resources(every, "AWS::RDS::DBCluster"):
        assert cluster["StorageEncrypted"] is cluster["EnableIAMDatabaseAuthentication"] is True
        assert cluster["MasterUserAuthenticationType"] == "iam-db-auth"
        assert "MasterUserPassword" not in json.dumps(template)  # also as ManageMasterUserPassword
        (group,) = (item for _, _, item in resources(every, "AWS::RDS::DBClusterParameterGroup"))
        assert group["Parameters"]["rds.force_ssl"] == "1"
    for template, _, instance in resources(every, "AWS::RDS::DBInstance"):
        assert instance["PubliclyAccessible"] is False
        if instance["Engine"] == "postgres":
            assert instance["StorageEncrypted"] is instance["EnableIAMDatabaseAuthentication"] is True
            assert instance["MasterUserAuthenticationType"] == "iam-db-auth"
            assert "MasterUserPassword" not in json.dumps(template)
            (group,) = (item for _, _, item in resources(every, "AWS::RDS::DBParameterGroup"))
            assert group["Parameters"]["rds.force_ssl"] == "1"


def test_nothing_comes_in_from_outside_and_only_declared_ports_lead_out(every: Synthesised) -> None:
    kinds = [f"AWS::EC2::SecurityGroup{kind}" for kind in ("", "Ingress", "Egress")]
    for template, name, item in resources(every, *kinds):
        inward = [*item.get("SecurityGroupIngress", []), *([item] if "SourceSecurityGroupId" in item else [])]
        assert not [rule for rule in inward if rule.get("CidrIp") == "0.0.0.0/0" or "CidrIpv6" in rule], name
        outward = [rule["FromPort"] for rule in item.get("SecurityGroupEgress", []) if "/0" in json.dumps(rule)]
        port = getattr(every.stage.database, "port", 5432)
        assert set(outward) <= {443, port, *every.stage.network.egress_ports}, name  # type: ignore[union-attr]
        assert not templates.of_type(template, "AWS::EC2::InternetGateway") or "nat" in every.stage.network.egress  # type: ignore[union-attr]
    assert not [name for _, name, item in resources(every, "AWS::EC2::Subnet") if item.get("MapPublicIpOnLaunch")]


def test_removal_decides_what_a_deleted_stack_keeps(every: Synthesised) -> None:
    keeps = every.stage.removal == "retain"
    kept = ("RetainExceptOnCreate", "Retain") if keeps else ("Delete", "Delete")
    for template in every.templates.values():
        for resource in template["Resources"].values():
            found = resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")
            if resource["Type"] in RETAINED:
                assert found == kept
            if resource["Type"] == "AWS::RDS::DBCluster" or "DBName" in resource.get("Properties", {}):
                assert found == (("Snapshot",) * 2 if keeps else kept)
    manifest = json.loads((every.directory / "manifest.json").read_text())
    assert "missing" not in manifest  # a lookup in an account
    if data := manifest["artifacts"].get(f"{every.stage.prefix}-data"):
        assert data["properties"].get("terminationProtection", False) is keeps
    kinds = {item["Type"] for item in every.whole(f"{every.stage.prefix}-jobs")["Resources"].values()}
    assert not [kind for kind in kinds if kind.startswith(("AWS::RDS::", "AWS::S3::"))]  # they must outlive this stack


# --- Schedules, topics and APIs ------------------------------------------------------------------------------------


def test_a_tick_is_retried_for_an_hour_and_then_sent_to_the_dlq(every: Synthesised) -> None:
    prefix = every.stage.prefix
    for template, _, schedule in resources(every, "AWS::Scheduler::Schedule"):
        to = schedule["Target"]
        assert (schedule["State"], schedule["GroupName"]) == ("ENABLED", f"{prefix}-cron")
        assert to["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 10}
        assert templates.target(template, to["DeadLetterConfig"]["Arn"]) == f"{prefix}-cron-dlq"
        lane = templates.target(template, to["Arn"])
        uses = {use: {*every.stage.usable_keys} for use in ("kms:Decrypt", "kms:GenerateDataKey")}
        sends = {"sqs:SendMessage": {lane, f"{prefix}-cron-dlq"}}
        assert templates.allowed_to_role(template, to["RoleArn"]) == sends | (uses if every.stage.kms_key else {})
        (trust,) = template["Resources"][to["RoleArn"]["Fn::GetAtt"][0]]["Properties"]["AssumeRolePolicyDocument"][
            "Statement"
        ]
        conditions = trust["Condition"]["StringEquals"]
        assert conditions["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}
        assert templates.target(template, conditions["aws:SourceArn"]).endswith(f":schedule-group/{prefix}-cron")


def test_only_alarms_of_the_stage_publish_to_its_topics_and_only_over_tls(every: Synthesised) -> None:
    for template, _, policy in resources(every, "AWS::SNS::TopicPolicy"):
        deny, *allows = policy["PolicyDocument"]["Statement"]
        assert (deny["Effect"], deny["Condition"]) == ("Deny", ONLY_TLS)
        (topic,) = policy["Topics"]
        sources = {}
        for allow in allows:
            assert (allow["Action"], allow["Resource"], deny["Resource"]) == ("sns:Publish", topic, topic)
            assert allow["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
            source = templates.target(template, allow["Condition"]["ArnLike"]["aws:SourceArn"])
            sources[allow["Principal"]["Service"].partition(".")[0]] = source
        assert sources.pop("cloudwatch").endswith(f":alarm:{every.stage.prefix}-*")
        # a budget notifies one topic
        monitoring = every.stage.monitoring
        has_budget = monitoring is not None and monitoring.budget and "Later" in topic["Ref"]
        budgets = "arn:${AWS::Partition}:budgets::${AWS::AccountId}:*"
        assert sources == ({"budgets": budgets} if has_budget else {})
    topics = [item for _, _, item in resources(every, "AWS::SNS::Topic")]
    assert len([*resources(every, "AWS::SNS::TopicPolicy")]) == len(topics)


def test_every_route_has_an_authorizer_a_limit_and_a_function_of_its_api(every: Synthesised) -> None:
    routes = [item for _, _, item in resources(every, "AWS::ApiGatewayV2::Route")]
    opened = {route["RouteKey"] for route in routes if route.get("AuthorizationType", "NONE") == "NONE"}
    signals = set(PUBLIC) if SIGNAL_KEYS in every.stage.settings else set()
    assert opened == (ANYONES_PAGE if every.stage.page else set()) | signals
    assert not [route["RouteKey"] for route in routes if route["RouteKey"].startswith(("OPTIONS ", "ANY ", "$"))]
    for _, _, stage in resources(every, "AWS::ApiGatewayV2::Stage"):
        limits = stage["DefaultRouteSettings"]
        assert min(limits["ThrottlingRateLimit"], limits["ThrottlingBurstLimit"]) > 0
        line = json.loads(stage["AccessLogSettings"]["Format"])
        assert all(re.fullmatch(r"\$context\.[A-Za-z.]+", value) for value in line.values())  # a variable whole
        assert not [value for value in line.values() if any(word in value.lower() for word in BY_THE_SENDER)]
    for template, _, permission in resources(every, "AWS::Lambda::Permission"):
        source = templates.target(template, permission["SourceArn"])
        apis = "|".join(templates.of_type(template, "AWS::ApiGatewayV2::Api"))
        assert permission["Principal"] == "apigateway.amazonaws.com"
        assert re.search(rf":execute-api:.*:({apis})/\*/\*/\*$", source)


# --- Tags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", ["robust"], indirect=True)
def test_every_resource_that_takes_tags_has_those_of_its_stage(every: Synthesised) -> None:
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER  # imported here: only this test needs it

    tagged = 0
    for template in every.templates.values():
        for logical_id, item in template["Resources"].items():
            schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-central-1", item["Type"]).schema
            if schema.get("tagging", {}).get("taggable", "Tags" in schema["properties"]):
                tags = {tag["Key"]: tag["Value"] for tag in item["Properties"]["Tags"]}
                assert tags.items() >= {"joblane:stage": "dev", "team": "billing"}.items(), logical_id
                tagged += 1
    assert tagged > 50
    artifacts = json.loads((every.directory / "manifest.json").read_text())["artifacts"]
    for stack in ("acme-data", "acme-jobs"):
        assert artifacts[stack]["properties"]["tags"] == {"joblane:stage": "dev", "team": "billing"}
