"""The bucket and each kind of database, read from the template of the data stack."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.settings.database import Aurora
from tests.infra import templates
from tests.infra.conftest import AURORA, DATABASE_SECRET, EXISTING_NETWORK, RDS_HOST, Synth
from tests.infra.templates import Properties, Template

NEW_NETWORK = {"kind": "new", "egress": "nat"}
IAM_DATABASE = {
    "kind": "existing",
    "host": RDS_HOST,
    "port": 5433,
    "name": "acme",
    "user": "worker",
    "resource_id": "cluster-ABC",
    "migration_secret": DATABASE_SECRET,
}


@pytest.fixture(scope="module")
def asleep(synth: Synth) -> Synthesised:
    """The smallest cluster, deleted with its stack."""
    database = {**AURORA, "min_capacity": 0, "pause_after_minutes": 10, "deletion_protection": False, "backup_days": 1}
    return synth("dev", removal="destroy", network=NEW_NETWORK, database=database)


@pytest.fixture(scope="module")
def robust(synth: Synth) -> Synthesised:
    """A cluster with the settings of production."""
    database = {**AURORA, "min_capacity": 1, "max_capacity": 8, "standby": True, "backup_days": 14}
    return synth("dev", removal="retain", network=NEW_NETWORK, database=database, tags={"team": "billing"})


def data(done: Synthesised) -> Template:
    return done.templates["acme-data"]


def only(template: Template, kind: str) -> Properties:
    (found,) = templates.of_type(template, kind).values()
    return found


def artifact(done: Synthesised, stack: str) -> dict[str, Any]:
    manifest = json.loads((done.directory / "manifest.json").read_text())
    found: dict[str, Any] = manifest["artifacts"][stack]["properties"]
    return found


def rules_into_groups(template: Template) -> list[Properties]:
    inline = [
        rule
        for group in templates.of_type(template, "AWS::EC2::SecurityGroup").values()
        for rule in group.get("SecurityGroupIngress", [])
    ]
    return [*inline, *templates.of_type(template, "AWS::EC2::SecurityGroupIngress").values()]


def url(done: Synthesised, function: str) -> str:
    """Return the function's DATABASE_URL, with ``${…}`` for values of CloudFormation."""
    found = templates.variables(done.whole("acme-jobs"), function)["DATABASE_URL"]
    return templates.target({"Resources": {}}, found)


# --- The bucket ----------------------------------------------------------------------------------------------------


def test_the_bucket_is_private_and_encrypted_and_objects_expire(dev: Synthesised) -> None:
    bucket = only(data(dev), "AWS::S3::Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    kept = {rule.get("Prefix"): rule.get("ExpirationInDays") for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert kept == {"exports/": 7, "reports/": 365, None: None}
    policy = only(data(dev), "AWS::S3::BucketPolicy")
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# --- Aurora --------------------------------------------------------------------------------------------------------


def test_the_cluster_is_encrypted_backed_up_protected_and_logs_in_by_iam_over_tls(robust: Synthesised) -> None:
    cluster = only(data(robust), "AWS::RDS::DBCluster")
    assert cluster["Engine"] == "aurora-postgresql"
    major, minor = map(int, cluster["EngineVersion"].split("."))
    assert major == 16
    assert minor >= 3  # the first minor version of 16 that pauses
    assert cluster["StorageEncrypted"] is True
    assert cluster["EnableIAMDatabaseAuthentication"] is True
    assert cluster["BackupRetentionPeriod"] == 14
    assert cluster["CopyTagsToSnapshot"] is True
    assert cluster["DeletionProtection"] is True
    parameters = only(data(robust), "AWS::RDS::DBClusterParameterGroup")
    assert parameters["Family"] == "aurora-postgresql16"
    assert parameters["Parameters"] == {"rds.force_ssl": "1"}
    (parameter_group,) = templates.of_type(data(robust), "AWS::RDS::DBClusterParameterGroup")
    assert cluster["DBClusterParameterGroupName"] == {"Ref": parameter_group}


def test_the_clusters_capacity_is_as_set_and_it_pauses_only_at_zero(asleep: Synthesised, robust: Synthesised) -> None:
    assert only(data(asleep), "AWS::RDS::DBCluster")["ServerlessV2ScalingConfiguration"] == {
        "MinCapacity": 0,
        "MaxCapacity": 2,
        "SecondsUntilAutoPause": 600,
    }
    assert only(data(robust), "AWS::RDS::DBCluster")["ServerlessV2ScalingConfiguration"] == {
        "MinCapacity": 1,
        "MaxCapacity": 8,
    }
    parameters = only(data(asleep), "AWS::RDS::DBClusterParameterGroup")["Parameters"]
    assert parameters == {
        "rds.force_ssl": "1",
        "idle_session_timeout": "60000",
    }  # a waiting function would keep the cluster running


def test_there_is_one_instance_and_if_set_a_standby_of_the_same_size(asleep: Synthesised, robust: Synthesised) -> None:
    def tiers(done: Synthesised) -> list[int]:
        instances = templates.of_type(data(done), "AWS::RDS::DBInstance").values()
        for instance in instances:
            assert (instance["DBInstanceClass"], instance["PubliclyAccessible"]) == ("db.serverless", False)
        return sorted(instance["PromotionTier"] for instance in instances)

    assert tiers(asleep) == [0]
    assert tiers(robust) == [0, 1]  # tier 1 scales with the writer


def test_the_cluster_has_no_password_because_its_master_user_logs_in_by_iam(robust: Synthesised) -> None:
    cluster = only(data(robust), "AWS::RDS::DBCluster")
    assert (cluster["MasterUsername"], cluster["MasterUserAuthenticationType"]) == ("postgres", "iam-db-auth")
    assert "resolve:secretsmanager" not in json.dumps(data(robust))
    for stack, template in robust.templates.items():
        assert not templates.of_type(template, "AWS::SecretsManager::Secret"), stack
        for never in ("MasterUserPassword", "MasterUserSecret"):  # the first also as ManageMasterUserPassword
            assert never not in json.dumps(template), stack


def test_only_functions_reach_the_cluster_and_only_at_its_port(robust: Synthesised) -> None:
    template = data(robust)
    cluster = only(template, "AWS::RDS::DBCluster")
    (group,) = (templates.target(template, group) for group in cluster["VpcSecurityGroupIds"])
    assert rules_into_groups(template) == []
    (rule,) = rules_into_groups(robust.templates["acme-jobs"])
    assert group in rule["GroupId"]["Fn::ImportValue"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 5432, 5432)
    assert "Functions" in templates.target(robust.templates["acme-jobs"], rule["SourceSecurityGroupId"])
    outward = templates.of_type(template, "AWS::EC2::SecurityGroup")[group]["SecurityGroupEgress"]
    assert [rule["CidrIp"] for rule in outward] == ["255.255.255.255/32"]  # how the CDK writes "none"


def test_the_clusters_subnets_have_no_route_to_the_internet(robust: Synthesised) -> None:
    subnets = only(data(robust), "AWS::RDS::DBSubnetGroup")["SubnetIds"]
    assert len(subnets) == 2
    assert all(subnet["Ref"].startswith("NetworkVpcdatabaseSubnet") for subnet in subnets)


def test_the_clusters_log_group_is_created_before_it_and_has_a_retention(robust: Synthesised) -> None:
    template = data(robust)
    name = "/aws/rds/cluster/acme-database/postgresql"
    assert templates.of_type(template, "AWS::Logs::LogGroup")[name]["RetentionInDays"] == 30
    (cluster,) = [item for item in template["Resources"].values() if item["Type"] == "AWS::RDS::DBCluster"]
    assert cluster["Properties"]["DBClusterIdentifier"] == "acme-database"
    assert cluster["Properties"]["EnableCloudwatchLogsExports"] == ["postgresql"]
    assert name in [template["Resources"][each]["Properties"].get("LogGroupName") for each in cluster["DependsOn"]]


def test_functions_log_in_by_iam_as_the_stages_user_without_its_secret(robust: Synthesised) -> None:
    template = robust.whole("acme-jobs")
    for function in ("acme-order-ship", "acme-report-build", "acme-jobs-sweep"):
        assert url(robust, function).startswith("postgresql://worker@")
        assert url(robust, function).endswith(":5432/acme?auth=iam")
        allowed = templates.allowed(template, function)
        (user,) = allowed["rds-db:connect"]
        assert user.startswith("arn:${AWS::Partition}:rds-db:${AWS::Region}:${AWS::AccountId}:dbuser:")
        assert user.endswith("/worker")
        assert "DBClusterResourceId" in user
        assert DATABASE_SECRET not in allowed.get("secretsmanager:GetSecretValue", set())
    assert "rds-db:connect" not in templates.allowed(template, "acme-router")


def test_the_migration_logs_in_by_iam_as_the_master_user_and_as_no_other(robust: Synthesised) -> None:
    assert url(robust, "acme-migrate").startswith("postgresql://postgres@")
    assert url(robust, "acme-migrate").endswith(":5432/acme?auth=iam")
    allowed = templates.allowed(robust.whole("acme-jobs"), "acme-migrate")
    (user,) = allowed["rds-db:connect"]
    assert user.endswith("/postgres")
    assert "DBClusterResourceId" in user
    assert not [action for action in allowed if action.startswith("secretsmanager:")]
    assert {*data(robust)["Outputs"]} >= {"DatabaseHost"}
    assert "DatabaseSecret" not in data(robust)["Outputs"]


def test_the_owner_of_an_existing_database_can_log_in_by_iam(synth: Synth) -> None:
    database = {**IAM_DATABASE, "migration_user": "owner"}
    del database["migration_secret"]
    done = synth("dev", database=database)
    assert url(done, "acme-migrate") == f"postgresql://owner@{RDS_HOST}:5433/acme?auth=iam"
    (user,) = templates.allowed(done.whole("acme-jobs"), "acme-migrate")["rds-db:connect"]
    assert user.endswith(":dbuser:cluster-ABC/owner")
    assert url(done, "acme-order-ship") == f"postgresql://worker@{RDS_HOST}:5433/acme?auth=iam"


# --- An existing database ------------------------------------------------------------------------------------------


def test_the_security_group_of_an_existing_database_admits_the_functions(synth: Synth) -> None:
    done = synth(
        "dev", network=EXISTING_NETWORK, database={**IAM_DATABASE, "security_group_id": "sg-0123456789abcdef0"}
    )
    template = done.templates["acme-jobs"]
    (rule,) = rules_into_groups(template)
    assert (rule["GroupId"], rule["FromPort"], rule["ToPort"]) == ("sg-0123456789abcdef0", 5433, 5433)
    assert "Functions" in templates.target(template, rule["SourceSecurityGroupId"])
    (egress,) = templates.of_type(template, "AWS::EC2::SecurityGroupEgress").values()
    assert (egress["DestinationSecurityGroupId"], egress["FromPort"], egress["ToPort"]) == (
        "sg-0123456789abcdef0",
        5433,
        5433,
    )
    assert url(done, "acme-order-ship") == f"postgresql://worker@{RDS_HOST}:5433/acme?auth=iam"
    assert not [
        each for each in data(done)["Resources"].values() if each["Type"].startswith(("AWS::RDS::", "AWS::EC2:"))
    ]


@pytest.mark.parametrize("network", [EXISTING_NETWORK, NEW_NETWORK])
def test_an_existing_database_without_a_known_group_is_reached_by_its_port(
    network: dict[str, Any], synth: Synth
) -> None:
    template = synth("dev", network=network, database=IAM_DATABASE).templates["acme-jobs"]
    (group,) = templates.of_type(template, "AWS::EC2::SecurityGroup").values()
    assert {(rule["CidrIp"], rule["FromPort"]) for rule in group["SecurityGroupEgress"]} == {
        ("0.0.0.0/0", 443),
        ("0.0.0.0/0", 5433),
    }
    assert not rules_into_groups(template)


def test_an_existing_database_without_a_network_adds_no_resource(dev: Synthesised) -> None:
    assert {item["Type"] for item in data(dev)["Resources"].values()} == {"AWS::S3::Bucket", "AWS::S3::BucketPolicy"}
    assert url(dev, "acme-order-ship") == f"postgresql://db.internal:5432/acme?secret={DATABASE_SECRET}"
    allowed = templates.allowed(dev.whole("acme-jobs"), "acme-order-ship")
    assert allowed["secretsmanager:GetSecretValue"] == {DATABASE_SECRET}


# --- Removal -------------------------------------------------------------------------------------------------------


def policies(template: Template, kind: str) -> set[tuple[str | None, str | None]]:
    return {
        (item.get("DeletionPolicy"), item.get("UpdateReplacePolicy"))
        for item in template["Resources"].values()
        if item["Type"] == kind
    }


def test_with_removal_retain_the_stack_is_protected_and_data_is_kept(robust: Synthesised) -> None:
    assert artifact(robust, "acme-data")["terminationProtection"] is True
    assert policies(data(robust), "AWS::RDS::DBCluster") == {("Snapshot", "Snapshot")}
    assert policies(data(robust), "AWS::S3::Bucket") == {("RetainExceptOnCreate", "Retain")}
    assert policies(data(robust), "AWS::Logs::LogGroup") == {("RetainExceptOnCreate", "Retain")}


def test_with_removal_destroy_the_stack_is_deleted_with_its_data(asleep: Synthesised) -> None:
    assert not artifact(asleep, "acme-data").get("terminationProtection")
    assert only(data(asleep), "AWS::RDS::DBCluster")["DeletionProtection"] is False
    for kind in ("AWS::RDS::DBCluster", "AWS::S3::Bucket", "AWS::Logs::LogGroup"):
        assert policies(data(asleep), kind) == {("Delete", "Delete")}


def test_a_local_stack_is_not_protected(local: Synthesised) -> None:
    assert not artifact(local, "jobs-data").get("terminationProtection")


def test_settings_of_functions_do_not_change_the_data_stack(synth: Synth, robust: Synthesised) -> None:
    database = {**AURORA, "min_capacity": 1, "max_capacity": 8, "standby": True, "backup_days": 14}
    changed = synth(
        "dev",
        removal="retain",
        network=NEW_NETWORK,
        database=database,
        tags={"team": "billing"},
        concurrency_budget=40,
        log_level="DEBUG",
        settings={"EMAIL_FROM_ADDRESS": "other@example.com"},
    )
    assert data(changed) == data(robust)
    assert changed.whole("acme-jobs") != robust.whole("acme-jobs")


def test_the_jobs_stack_has_no_resource_that_must_outlive_it(robust: Synthesised) -> None:
    kinds = {item["Type"] for item in robust.whole("acme-jobs")["Resources"].values()}
    assert not [kind for kind in kinds if kind.startswith(("AWS::RDS::", "AWS::S3::"))]
    assert {kind for kind in kinds if kind.startswith("AWS::EC2::")} == {
        "AWS::EC2::SecurityGroup",
        "AWS::EC2::SecurityGroupEgress",
        "AWS::EC2::SecurityGroupIngress",
    }


# --- Tags ----------------------------------------------------------------------------------------------------------


def test_every_resource_that_takes_tags_has_those_of_its_stage(robust: Synthesised) -> None:
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER  # imported here: only this test needs it

    tagged = 0
    for template in robust.templates.values():
        for logical_id, item in template["Resources"].items():
            schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-central-1", item["Type"]).schema
            if not schema.get("tagging", {}).get("taggable", "Tags" in schema["properties"]):
                continue
            tags = {tag["Key"]: tag["Value"] for tag in item["Properties"]["Tags"]}
            assert tags.get("joblane:stage") == "dev", logical_id
            assert tags.get("team") == "billing", logical_id
            tagged += 1
    assert tagged > 50
    for stack in ("acme-data", "acme-jobs"):
        assert artifact(robust, stack)["tags"] == {"joblane:stage": "dev", "team": "billing"}


# --- Connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        # Source: Aurora, Maximum connections for Aurora Serverless v2, and AWS re:Post, Working of max_connections
        # for Amazon Aurora PostgreSQL Serverless
        (0.5, 1, 189),
        (1, 4, 823),
        (0, 8, 1669),
        (1, 16, 3360),
        (0.5, 16, 2000),
        (1, 32, 5000),
        (1, 256, 5000),
        (0, 2, 400),
        (0, 1.5, 294),
    ],
)
def test_auroras_connections_follow_from_its_largest_capacity(least: float, most: float, expected: int) -> None:
    settings = Aurora.model_validate({"kind": "aurora", "min_capacity": least, "max_capacity": most})
    assert settings.max_connections == expected


@pytest.mark.parametrize(
    ("least", "most", "wanted", "advice"),
    [
        (0, 1, 190, "raise database.max_capacity (1) to 1.5"),
        (0, 8, 2001, "raise database.min_capacity (0) to 1 and database.max_capacity (8) to 10"),
        (0.5, 16, 2001, "raise database.min_capacity (0.5) to 1"),
        (4, 8, 3000, "raise database.max_capacity (8) to 14.5"),
        (0, 8, 5001, None),
    ],
)
def test_the_advised_capacity_is_the_least_with_enough_connections(
    least: float, most: float, wanted: int, advice: str | None
) -> None:
    settings = Aurora.model_validate({"kind": "aurora", "min_capacity": least, "max_capacity": most})
    assert settings.enough_for(wanted) == advice
