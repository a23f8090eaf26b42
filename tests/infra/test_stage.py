"""Settings of a stage: where they are read, and refusals with the setting's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.settings import PlatformStage
from joblane import settings
from joblane.cdk.app import context_of_file
from joblane.cdk.errors import StageError
from joblane.cdk.settings.database import Aurora
from joblane.cdk.settings.load import (
    host_architecture,
    load_stage,
    placeholders,
    refuse_placeholders,
    with_schedules_of,
)
from joblane.cdk.settings.network import NewNetwork
from joblane.cdk.settings.section import SecretReference
from joblane.project import Project
from joblane.tasks.discovery import discover
from tests.infra.conftest import RDS_HOST

AURORA = {"kind": "aurora"}
RDS = {"kind": "rds"}
COPY = {"host": "jobs-copy.cluster-c1.eu-central-1.rds.amazonaws.com", "resource_id": "cluster-COPY"}
COPY_OF_INSTANCE = {"host": "jobs-copy.c1.eu-central-1.rds.amazonaws.com", "resource_id": "db-COPY"}
NEW = {"kind": "new"}
EXISTING = {
    "kind": "existing",
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-1", "subnet-2"],
    "availability_zones": ["eu-central-1a", "eu-central-1b"],
}
SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/dev-AbCdEf"
DATABASE = {"kind": "existing", "host": "db.internal", "name": "jobs", "secret": SECRET}
IAM = {"kind": "existing", "host": RDS_HOST, "name": "jobs", "user": "jobs", "resource_id": "cluster-A"}
ZONES = ["eu-central-1a", "eu-central-1b"]
KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ELSEWHERE = KEY.replace("eu-central-1", "eu-west-1")
DECLARED = ["EMAIL_PROVIDER", "SMTP_PASSWORD", "TENANT_INIT_SERVICES"]


def load(name: str = "dev", environ: dict[str, str] | None = None, **settings: Any) -> Any:
    given = {"database": DATABASE, **settings}
    others = {"other": {"prefix": "other"}}
    return load_stage(name, {name: given, **others}, kind=PlatformStage, declared=DECLARED, environ=environ or {})


def test_a_stage_with_only_a_database_has_defaults_for_a_new_account() -> None:
    stage = load()
    assert (stage.prefix, stage.concurrency_budget, stage.architecture, stage.local) == ("jobs", 20, "arm64", False)
    assert stage.removal == "retain"
    assert (stage.sweep, stage.sweep_minutes) == ("6 hours", settings.DEFAULT_SWEEP_MINUTES)


def test_an_unknown_stage_is_an_error_that_lists_the_stages() -> None:
    with pytest.raises(StageError, match=r"no stage 'prd' in cdk.json; there are dev, other"):
        load_stage("prd", {"dev": {}, "other": {}}, kind=PlatformStage, declared=(), environ={})


@pytest.mark.parametrize("stages", [None, {}, [], "dev"])
def test_stages_that_are_no_object_are_refused(stages: object) -> None:
    with pytest.raises(StageError, match="one entry per stage is required"):
        load_stage("dev", stages, kind=PlatformStage, declared=(), environ={})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prefix": "Jobs_1"}, "prefix: .*lower-case letters"),
        ({"prefix": "a" * 21}, "prefix: .*20 characters at most"),
        ({"concurrency_budget": 1}, "concurrency_budget: .*greater than or equal to 2"),
        ({"concurrency_budget": "20"}, "concurrency_budget: .*valid integer"),
        ({"account_concurrency": 0}, "account_concurrency: "),
        ({"log_retention_days": 8}, "log_retention_days: "),
        ({"log_level": "LOUD"}, "log_level: "),
        ({"removal": "keep"}, "removal: "),
        ({"architecture": "riscv"}, "architecture: "),
        ({"export_bucket": "No Bucket"}, "export_bucket: "),
        ({"concurency_budget": 20}, "concurency_budget: there is no such setting here"),
        ({"database": {**DATABASE, "password": "x"}}, "database.password: there is no such setting here"),
        (
            {"settings": {"EMAIL_PROVIDR": "ses"}},
            "settings: no task declares EMAIL_PROVIDR .*declared are EMAIL_PROVIDER",
        ),
        ({"settings": {"EMAIL_PROVIDER": 1}}, "settings.EMAIL_PROVIDER"),
        ({"schedules": {"order:ship": 5}}, "schedules.order:ship: .*valid string"),
        ({"schedules": {"jobs:sweep": "@hourly"}}, "schedules.jobs:sweep: the setting sweep has its interval; write"),
        ({"schedules": {"jobs:sweep:0": "off"}}, "schedules.jobs:sweep:0: the setting sweep has its interval"),
        ({"sweep": "7 minutes"}, 'sweep: a string such as "6 hours" or "5 minutes" is required: 1, 2, '),
        ({"sweep": 5}, 'sweep: a string such as "6 hours"'),
        ({"sweep": "off"}, "sweep: a string such as"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        load(**settings)


@pytest.mark.parametrize(
    ("schedules", "problem"),
    [
        ({"jobs:swep": "@hourly"}, "jobs:swep: no task with a schedule; there are .*jobs:sweep"),
        ({"report:generate:nightly": "off"}, "report:generate:nightly: .*there are report:generate:0"),
        ({"report:generate": "hourly"}, "report:generate: schedule 'hourly': "),
    ],
)
def test_times_of_unknown_schedules_and_wrong_times_are_refused(schedules: dict[str, str], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': schedules: {problem}"):
        with_schedules_of(load(schedules=schedules), discover(times={}))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        # the network
        ({"network": {**NEW, "egress": "nat", "nat_gateways": 3}}, "network: .*nat_gateways: 1 or 2 is required"),
        ({"network": {**NEW, "egress": "nat", "nat_gateways": 0}}, "network: .*set egress to ipv6, endpoints or"),
        ({"network": {**NEW, "nat_gateways": 1}}, "network: .*nat_gateways: there is none with egress ipv6"),
        ({"network": {**NEW, "egress": "natt"}}, "network.egress: .*'ipv6', 'nat_instance', 'nat', 'endpoints' or"),
        (
            {"network": {**NEW, "egress": "nat_instance", "nat_gateways": 1}},
            "network: .*there is none with egress nat_i",
        ),
        (
            {"network": {**NEW, "nat_instance_version": "2"}},
            "network: .*nat_instance_version: there is no instance with egress ipv6; leave it out, or set egress to",
        ),
        (
            {"network": {**NEW, "egress": "nat_instance", "nat_instance_version": "a b"}},
            "network.nat_instance_version: .*match pattern",
        ),
        ({"network": {**NEW, "reaches": ["sqs"]}}, "network: .*reaches: it lists your own ways out; leave it out"),
        ({"network": {**EXISTING, "egress": "endpoints"}}, "network.egress: .*'nat', 'ipv6' or 'none'"),
        ({"network": {**EXISTING, "egress": "nat_instance"}}, "network.egress: .*'nat', 'ipv6' or 'none'"),
        ({"network": {**NEW, "availability_zones": ["eu-central-1a"]}}, "network.availability_zones: .*2 at least"),
        (
            {"network": {**NEW, "availability_zones": ["eu-central-1a", "eu-central-1a"]}},
            "network: .*availability_zones: two different zones are required",
        ),
        (
            {"network": {**NEW, "availability_zones": ["eu-central-1", "eu-central-1b"]}},
            "network.availability_zones.0: .*'eu-central-1' is not the name of an availability zone; eu-central-1a",
        ),
        ({"network": {**NEW, "cidr": "10.60.3.0/16"}}, "network.cidr: .*has host bits set; 10.60.0.0/16"),
        ({"network": {**NEW, "cidr": "10.300.0.0/16"}}, "network.cidr: .*10.60.0.0/16, for example, is right"),
        ({"network": {**NEW, "cidr": "10.60.0.0/25"}}, "network.cidr: "),
        *(
            (
                {"network": {**NEW, "cidr": cidr}},
                f"network.cidr: .*{cidr} is not private; a network in 10.0.0.0/8, .*100.64.0.0/10 is required",
            )
            for cidr in ("127.0.0.0/24", "172.32.0.0/16", "203.0.113.0/24", "169.254.0.0/16", "0.0.0.0/16")
        ),
        *(
            (
                {"network": {**network, "availability_zones": ["eu-central-1a", "us-east-1q"]}},
                "network.availability_zones: .*eu-central-1a and us-east-1q are in different reg",
            )
            for network in (NEW, EXISTING)
        ),
        ({"network": {**NEW, "egress_ports": [0]}}, "network.egress_ports.0: .*greater than or equal to 1"),
        ({"network": {**NEW, "vpc_id": "vpc-1"}}, "network.vpc_id: there is no such setting here"),
        ({"network": {"kind": "shared"}}, "network: .*'new', 'existing'"),
        ({"network": {**EXISTING, "subnet_ids": ["subnet-1"]}}, "network.subnet_ids: .*2 at least are required"),
        (
            {"network": {**EXISTING, "availability_zones": ["eu-west-1a", "eu-west-1b", "eu-west-1c"]}},
            "network: .*availability_zones: the zone of each of subnet_ids",
        ),
        (
            {"network": {**EXISTING, "availability_zones": ["eu-west-1a", "eu-west-1a"]}},
            "network: .*availability_zones: a zone is named twice",
        ),
        # the database
        ({"database": AURORA}, 'network: {"kind": "new"} or an existing network is required for database.kind aurora'),
        (
            {"network": NEW, "database": {**AURORA, "min_capacity": 4, "max_capacity": 2}},
            "database: .*max_capacity: at least min_capacity, 4, is required",
        ),
        (
            {"network": NEW, "database": {**AURORA, "max_capacity": 2.2}},
            "database.max_capacity: .*multiple of 0.5",
        ),
        ({"network": NEW, "database": {**AURORA, "pause_after_minutes": 4}}, "database.pause_after_minutes: "),
        ({"network": NEW, "database": {**AURORA, "backup_days": 0}}, "database.backup_days: "),
        ({"network": NEW, "database": {**AURORA, "user": "postgres"}}, "database: .*user: 'postgres' is the"),
        ({"network": NEW, "database": {**AURORA, "user": "rds_iam"}}, "database: .*user: 'rds_iam' is reserved"),
        ({"network": NEW, "database": {**AURORA, "name": "rdsadmin"}}, "database: .*name: 'rdsadmin' is reserv"),
        ({"network": NEW, "database": {**AURORA, "name": "_jobs"}}, "database: .*name: '_jobs' is reserved"),
        ({"database": RDS}, 'network: {"kind": "new"} or an existing network is required for database.kind rds'),
        *(
            ({"network": NEW, "database": {**RDS, field: wrong}}, f"database.{field}: .*{right}")
            for field, wrong, right in (
                ("instance_class", "db.m7g.large", "'db.t4g.micro', 'db.t4g.small' or 'db.t4g.medium'"),
                ("storage_gb", 10, "greater than or equal to 20"),
                ("backup_days", 0, "greater than or equal to 1"),
                ("standby", True, "there is no such setting here"),
            )
        ),
        ({"network": NEW, "database": {**RDS, "user": "postgres"}}, "database: .*user: 'postgres' is the master"),
        *(
            (
                {"network": network, "database": kind, "monitoring": {"database_storage_percent": 5}},
                "monitoring.database_storage_percent: there is no such alarm with database.kind",
            )
            for network, kind in ((NEW, AURORA), (EXISTING, DATABASE))
        ),
        (
            {"network": NEW, "database": RDS, "monitoring": {"database_capacity_percent": 90}},
            "monitoring.database_capacity_percent: there is no such alarm with database.kind rds; leave it out",
        ),
        # a restored copy
        *(
            ({"network": NEW, "database": {**kind, "restored": {**copy, **wrong}}}, problem)
            for kind, copy in ((AURORA, COPY), (RDS, COPY_OF_INSTANCE))
            for wrong, problem in (
                ({"host": "x.cluster-c1.rds.amazonaws.com"}, "database.restored: .*host: the endpoint of the copy"),
                ({"host": "db.internal"}, "database.restored: .*host: the endpoint of the copy is required, NAME.ID."),
                ({"resource_id": "prx-1"}, "database.restored.resource_id: "),
                ({"host": copy["host"].replace("jobs-copy", "other-copy")}, "database.*other-copy is not a copy of t"),
                (
                    {"host": copy["host"].replace("copy", "database")},
                    "database.restored.host: jobs-database is not a copy of this stage's database: .*as jobs-restored",
                ),
            )
        ),
        *(
            (
                {"network": NEW, "database": {**AURORA, "restored": {field: COPY[field]}}},
                f"database.restored.{other}: it is required",
            )
            for field, other in (("host", "resource_id"), ("resource_id", "host"))
        ),
        *(
            ({"network": NEW, "database": {**AURORA, "restored": wrong}}, "database: .*restored: the endpoint of a cl")
            for wrong in (COPY_OF_INSTANCE, {**COPY, "host": COPY["host"].replace("cluster-", "cluster-ro-")})
        ),
        ({"network": NEW, "database": {**RDS, "restored": COPY}}, "database: .*restored: the endpoint of an instance"),
        (
            {
                "network": {**NEW, "availability_zones": ["us-east-1a", "us-east-1b"]},
                "database": {**AURORA, "restored": COPY},
            },
            "database.restored.host: it is in eu-central-1, and the network of the stage is in us-east-1; restore",
        ),
        (
            {"database": {**DATABASE, "resource_id": "cluster-A"}},
            "database: .*secret: give either secret, .* or resource_id",
        ),
        (
            {"database": {"kind": "existing", "host": "db", "name": "jobs", "resource_id": "cluster-A"}},
            "database: .*user: with resource_id, the database role for the login by IAM is required",
        ),
        (
            {"database": {**IAM, "host": "db.internal"}},
            "database: .*host: with resource_id, the endpoint of RDS is required",
        ),
        ({"database": {**DATABASE, "host": "localhost"}}, "database.host: .*localhost would be the function"),
        ({"database": {**DATABASE, "host": "127.0.0.1"}}, "database.host: .*127.0.0.1 would be the function"),
        *(
            ({"database": {**DATABASE, field: wrong}}, f"database.{field}: .*the whole ARN of a secret is req")
            for field in ("secret", "migration_secret")
            for wrong in ("", "acme/dev", SECRET[:-7], SECRET.replace("111122223333", ""), f"{SECRET}:password::")
        ),
        (
            {"database": {**DATABASE, "user": "jobs"}},
            "database: .*user: with secret, the secret's username ap",
        ),
        *(
            (
                {"database": {**other, "migration_user": "owner"}},
                "database: .*migration_user: with resource_id only, and not with migration_secret",
            )
            for other in (DATABASE, {**IAM, "migration_secret": SECRET})
        ),
        (
            {"database": {**IAM, "migration_user": IAM["user"]}},
            "database: .*migration_user: the functions log in as this role",
        ),
        ({"database": {"kind": "local", "url": "postgresql://"}}, "database: kind aurora, rds or existing is req"),
        # both
        (
            {"database": {**DATABASE, "security_group_id": "sg-01234567"}},
            "database.security_group_id: network is required with it",
        ),
        (
            {"network": NEW, "database": {**DATABASE, "security_group_id": "sg-01234567"}},
            "database.security_group_id: the group is in another VPC .* new one; .*with kind existing",
        ),
        (
            {"network": NEW, "database": DATABASE},
            "network.egress: ipv6 does not reach database.kind existing, which is outside the new VPC; set egress to n",
        ),
        (
            {"network": {**NEW, "egress": "endpoints"}, "database": DATABASE},
            "network.egress: endpoints does not reach database.kind existing",
        ),
        # mails
        (
            {"settings": {"EMAIL_PROVIDER": "console"}},
            "settings.EMAIL_PROVIDER: ses, smtp or log is required; console is for a local stage",
        ),
        ({"settings": {"EMAIL_PROVIDER": ""}}, "settings.EMAIL_PROVIDER: ses, smtp or log is required"),
        ({"settings": {"EMAIL_PROVIDER": {"secret": "mail"}}}, "settings.EMAIL_PROVIDER: ses, smtp or log is required"),
        (
            {
                "network": {**NEW, "egress": "endpoints"},
                "database": AURORA,
                "settings": {"EMAIL_PROVIDER": "smtp"},
            },
            "settings.EMAIL_PROVIDER: network.egress endpoints reaches no server for smtp; use ses or another",
        ),
        (
            {"network": NEW, "database": AURORA, "settings": {"EMAIL_PROVIDER": "smtp"}},
            'settings.SMTP_PORT: the functions may not connect to port 587; write "egress_ports": .587. into network',
        ),
        # addresses that tasks call
        *(
            (
                {"network": network, "database": AURORA, "settings": {"TENANT_INIT_SERVICES": "https://a.example.org"}},
                f"settings.TENANT_INIT_SERVICES: network.egress {network['egress']} reaches AWS services only; leave",
            )
            for network in ({**NEW, "egress": "endpoints"}, {**NEW, "egress": "none"}, {**EXISTING, "egress": "none"})
        ),
        # connections
        (
            {"network": NEW, "database": {**AURORA, "max_capacity": 1}, "database_connections": 200},
            r"database_connections: 200 are more than the 189 .*: leave it out, or raise .*max_capacity \(1\) to 1.5",
        ),
        (
            {"network": NEW, "database": {**AURORA, "max_capacity": 64}, "database_connections": 6000},
            "database_connections: 6000 are more than the 2000 connections of Aurora at max_capacity 64: leave it out$",
        ),
        ({"reserved_connections": 3}, "reserved_connections: .*greater than or equal to 4"),
        # tags
        ({"tags": {"aws:team": "billing"}}, "tags.aws:team: .*starts with neither aws: nor joblane:"),
        ({"tags": {"joblane:stage": "prod"}}, "tags.joblane:stage: .*starts with neither aws: nor joblane:"),
        ({"tags": {"team": "a?b"}}, "tags.team: letters, digits, spaces and any of "),
        ({"tags": {"team": "a" * 257}}, "tags.team: .*256 at most in a value"),
        ({"tags": {f"tag{number}": "" for number in range(41)}}, "tags: 41 are too many; 40 at most"),
    ],
)
def test_contradicting_settings_are_refused_with_the_right_setting(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        load(**settings)


@pytest.mark.parametrize(
    "database",
    [
        DATABASE,
        {**DATABASE, "secret": "arn:aws-cn:secretsmanager:cn-north-1:111122223333:secret:rds!cluster-0a1b-2c3d-AbCdEf"},
        {**DATABASE, "user": "jobs", "migration_secret": SECRET},
        IAM,
        {**IAM, "migration_user": "owner"},
        {**IAM, "host": "Acme.cluster-c1.rds.cn-north-1.amazonaws.com.cn"},
    ],
)
def test_an_existing_database_is_reached_by_a_secrets_arn_or_by_its_endpoint(database: dict[str, Any]) -> None:
    assert load(database=database).database.host == database["host"]


def test_a_network_of_a_local_stage_is_refused() -> None:
    with pytest.raises(StageError, match="network: a local stage has no network; leave it out"):
        load(environ={"DATABASE_URL": "postgresql://a:b@127.0.0.1/c"}, local=True, network=NEW)


def test_monitoring_of_a_local_stage_is_refused() -> None:
    with pytest.raises(StageError, match="monitoring: a local stage has no metrics; leave it out"):
        load(environ={"DATABASE_URL": "postgresql://a:b@127.0.0.1/c"}, local=True, monitoring={})


@pytest.mark.parametrize(
    ("monitoring", "problem"),
    [
        ({"email": "nobody"}, 'monitoring.email: one address such as on-call@example.com, or "off", is required'),
        ({"email": "a@b.c, d@e.f"}, 'monitoring.email: one address such as on-call@example.com, or "off", is required'),
        ({"email": "off", "later_email": ""}, "monitoring.later_email: one address "),
        ({"slack": {"workspace_id": "T01", "channel_id": "#ops"}}, "channel_id: the id of a channel such as C0456EFGH"),
        ({"slack": {"workspace_id": "ops", "channel_id": "C01"}}, "workspace_id: the id of a workspace such as T0123"),
        ({"email": "off", "runbook_url": "https://w/#a"}, "monitoring.runbook_url: an address without # is required"),
        ({}, 'monitoring.email: an address is required, because the removal of this stage is "retain"; or set slack'),
        ({"email": "off", "detail": "all"}, r"monitoring\.detail: "),
        (
            {"email": "off", "detail": "stage", "failing_percent": 30},
            'failing_percent: there is no such alarm with detail "stage"; leave it out, or use "lanes"',
        ),
        ({"archived": 0}, r"monitoring\.archived: .* or "),
        ({"failing_percent": 101}, r"monitoring\.failing_percent: "),
        ({"silence": 1}, r"monitoring\.silence: "),
        ({"threshold": 1}, "monitoring.threshold: "),
        (
            {"budget": 0},
            "monitoring.budget: more than 0 and less than a billion dollars a month are required, for example 20",
        ),
        ({"budget": -1.5}, "monitoring.budget: more than 0 and"),
        ({"budget": float("nan")}, "monitoring.budget: more than 0 and"),
        ({"budget": "20"}, "monitoring.budget: "),
        (
            {"email": "off", "database_memory_percent": 3},
            "database_memory_percent: there is no such alarm with database.kind existing; leave it out",
        ),
    ],
)
def test_a_wrong_threshold_is_refused_by_its_name(monitoring: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=problem):
        load(monitoring=monitoring)


@pytest.mark.parametrize("version", ["", "v 1", "v1\n", "x" * 65])
def test_a_wrong_version_is_refused(version: str) -> None:
    with pytest.raises(StageError, match="version: 1 to 64 ASCII characters without spaces are required"):
        load(version=version)


def test_a_stage_that_can_be_deleted_needs_no_address_for_its_alarms() -> None:
    given: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"email": "off"}, False),
        ({"email": "a@b.example"}, False),
        ({"slack": {"workspace_id": "T0123ABCD", "channel_id": "C0456EFGH"}}, False),
        ({"later_email": "team@acme.io"}, True),
    ]
    for monitoring, unheard in given:
        assert load(removal="destroy", monitoring=monitoring).alarms_of_nobody is unheard


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("jobs", {"prod": {"prefix": "jobs"}}),
        ("jobs", {"prod": {}}),
        ("jobs", {"prod": {"prefix": "jobs-prod"}}),
        ("jobs-dev-eu", {"prod": {"prefix": "jobs-dev"}}),
    ],
)
def test_a_prefix_that_is_the_start_of_another_stages_prefix_is_refused(prefix: str, others: dict[str, Any]) -> None:
    stages = {"dev": {"database": DATABASE, "prefix": prefix}, **others}
    with pytest.raises(StageError, match=r"stage 'dev': prefix: .* of stage 'prod' overlap.*jobs-dev, for example"):
        load_stage("dev", stages, kind=PlatformStage, declared=(), environ={})


@pytest.mark.parametrize(
    "others",
    [
        {"prod": {"prefix": "jobs-prod"}},
        {"prod": {"prefix": "jobs-developers"}},
        {"local": {"local": True, "prefix": "jobs-dev"}},
        {"broken": None},
    ],
)
def test_a_prefix_of_its_own_is_fine_and_a_local_stage_is_in_no_account(others: dict[str, Any]) -> None:
    stages = {"dev": {"database": DATABASE, "prefix": "jobs-dev"}, **others}
    assert load_stage("dev", stages, kind=PlatformStage, declared=(), environ={}).prefix == "jobs-dev"


def test_connections_follow_from_auroras_capacity_or_postgresqls_default() -> None:
    assert load().connections == 100
    assert load(network=NEW, database={**AURORA, "max_capacity": 8}).connections == 1669
    assert load(network=NEW, database={**AURORA, "max_capacity": 8}, database_connections=300).connections == 300


def test_connections_of_an_rds_instance_follow_from_the_memory_of_its_class() -> None:
    # Source: RDS, Maximum number of database connections: LEAST({DBInstanceClassMemory/9531392}, 5000)
    expected = {"db.t4g.micro": 112, "db.t4g.small": 225, "db.t4g.medium": 450}
    for name, connections in expected.items():
        assert load(network=NEW, database={**RDS, "instance_class": name}).connections == connections
    assert load(network=NEW, database=RDS).database.backup_days == 1  # AWS's Free plan accepts no more


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [(113, "raise database.instance_class (db.t4g.micro) to db.t4g.small"), (450, "to db.t4g.medium"), (451, None)],
)
def test_the_advised_class_is_the_smallest_with_enough_connections(wanted: int, advice: str | None) -> None:
    with pytest.raises(StageError) as refused:
        load(network=NEW, database=RDS, database_connections=wanted)
    text = f"database_connections: {wanted} are more than the 112 connections of db.t4g.micro: leave it out"
    assert text in str(refused.value)
    assert str(refused.value).endswith("leave it out" if advice is None else advice)


def test_a_restored_copy_of_another_region_is_refused_if_the_region_is_known() -> None:
    database = {**AURORA, "restored": COPY}
    with pytest.raises(
        StageError, match=r"database\.restored\.host: it is in eu-central-1, and us-east-1 is the region"
    ):
        load(network=NEW, database=database, environ={"CDK_DEFAULT_REGION": "us-east-1"})
    load(network=NEW, database=database, environ={"CDK_DEFAULT_REGION": "eu-central-1"})
    assert load(network=NEW, database={**RDS, "restored": COPY_OF_INSTANCE}).database.restored is not None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kms_key": "alias/jobs"}, r"kms_key: an alias is refused, .*aws kms describe-key --key-id alias/NAME"),
        ({"kms_key": KEY.replace("key/", "alias/")}, "kms_key: an alias is refused"),
        ({"kms_key": "1234abcd-12ab-34cd-56ef-1234567890ab"}, "kms_key: the ARN of a KMS key is required; arn:aws:kms"),
        ({"kms_key": SECRET}, "kms_key: the ARN of a KMS key is required"),
        ({"kms_key": f"{KEY}0"}, "kms_key: the ARN of a KMS key is required"),
        ({"kms_key": "${Token[TOKEN.7]}"}, "kms_key: the ARN of a KMS key is required"),
        ({"kms_key": KEY.replace("arn:aws:", "arn:aws-cn:")}, "kms_key: the partition in the ARN does not have its"),
        ({"kms_key": KEY.replace("eu-central-1", "us-gov-west-1")}, "kms_key: the partition in the ARN does not have"),
        ({"other_kms_keys": [KEY, "alias/jobs"]}, "other_kms_keys.1: an alias is refused"),
        ({"kms_key": KEY, "other_kms_keys": [KEY]}, "other_kms_keys: it has kms_key, .*leave it out there"),
        ({"other_kms_keys": [KEY, KEY]}, "other_kms_keys.1: it is the key of other_kms_keys.0; leave one of them out"),
        (
            {"other_kms_keys": [f"{KEY[:-1]}{place}" for place in range(5)]},
            "other_kms_keys: 4 keys at most are allowed: the next kms_key, and former ones; leave out a key with",
        ),
        (
            {"kms_key": KEY, "other_kms_keys": [ELSEWHERE]},
            "other_kms_keys.0: the key is in eu-west-1, and the stage in",
        ),
        (
            {"database": {**AURORA, "kms_key": ELSEWHERE}, "network": {**NEW, "availability_zones": ZONES}},
            "database.kms_key: the key is in eu-west-1, and the stage in eu-central-1; a key of eu-central-1 is req",
        ),
        ({"database": {**DATABASE, "kms_key": KEY}}, "database.kms_key: there is no such setting here"),
        (
            {"kms_key": KEY, "monitoring": {"email": "off", "topic_key": False}},
            "monitoring.topic_key: kms_key encrypts the topics; leave topic_key out",
        ),
        ({"local": True, "kms_key": KEY}, "kms_key: an emulator has no keys; leave it out"),
        ({"local": True, "other_kms_keys": [KEY]}, "other_kms_keys: an emulator has no keys; leave it out"),
    ],
)
def test_a_key_that_aws_would_not_accept_or_nothing_would_use_is_refused(
    settings: dict[str, Any], problem: str
) -> None:
    environ = {"DATABASE_URL": "postgresql://jobs@127.0.0.1/jobs"}
    with pytest.raises(StageError, match=problem):
        load(environ=environ, **settings)


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        KEY.replace("1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1234abcd12ab34cd56ef1234567890ab"),
        KEY.replace("aws:kms:eu-central-1", "aws-cn:kms:cn-north-1"),
        KEY.replace("aws:kms:eu-central-1", "aws-us-gov:kms:us-gov-west-1"),
    ],
)
def test_a_key_and_a_multi_region_key_of_each_partition_are_accepted(key: str) -> None:
    assert load(kms_key=key).keys == {"kms_key": key}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kms_key": KEY}, "kms_key"),
        ({"other_kms_keys": [KEY]}, "other_kms_keys.0"),
        ({"database": {**RDS, "kms_key": KEY}, "network": NEW}, "database.kms_key"),
    ],
)
def test_a_key_of_another_region_is_refused_if_the_region_is_known(settings: dict[str, Any], name: str) -> None:
    load(environ={"CDK_DEFAULT_REGION": "eu-central-1"}, **settings)
    with pytest.raises(StageError, match=f"{name}: the key is in eu-central-1, and the stage in eu-west-1; a key of"):
        load(environ={"CDK_DEFAULT_REGION": "eu-west-1"}, **settings)


def test_the_database_is_required() -> None:
    with pytest.raises(StageError, match="database: it is required"):
        load_stage("dev", {"dev": {}}, kind=PlatformStage, declared=(), environ={})


@pytest.mark.parametrize("name", ["SMTP_PASSWORD", "JOBLANE_SIGNAL_KEYS"])
def test_a_password_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(StageError, match=rf"settings\.{name} is a secret") as caught:
        load(settings={name: "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "network"),
    [
        ("ses", {**NEW, "egress": "endpoints"}),
        ("smtp", {**NEW, "egress_ports": [587]}),
        ("smtp", {**EXISTING, "egress_ports": [587]}),
        ("smtp", None),
        ("log", {**NEW, "egress": "endpoints"}),
    ],
)
def test_mail_goes_by_ses_smtp_or_the_log_if_the_network_reaches_them(
    provider: str, network: dict[str, Any] | None
) -> None:
    database = DATABASE if network is None else AURORA
    stage = load(network=network, database=database, settings={"EMAIL_PROVIDER": provider})
    assert stage.mails_by == provider


def test_a_secret_is_taken_by_reference() -> None:
    stage = load(settings={"SMTP_PASSWORD": {"secret": "acme/smtp", "field": "password"}})
    assert stage.settings["SMTP_PASSWORD"] == SecretReference(secret="acme/smtp", field="password")


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ({"secret": "acme smtp"}, "the name or the whole ARN of a secret is required"),
        ({"secret": ""}, "the name or the whole ARN of a secret is required"),
        ({"secret": SECRET[:-7]}, "the whole ARN of a secret is required, with the six characters at its end"),
        ({"secret": "acme/smtp", "field": ""}, "at least 1 character"),
    ],
)
def test_a_reference_that_no_permission_can_name_is_refused(reference: dict[str, str], problem: str) -> None:
    with pytest.raises(StageError, match=rf"settings\.SMTP_PASSWORD.*{problem}"):
        load(settings={"SMTP_PASSWORD": reference})


def test_a_local_stage_takes_address_settings_and_architecture_from_this_machine() -> None:
    environ = {"DATABASE_URL": "postgresql://a:b@127.0.0.1/c", "EMAIL_PROVIDER": "smtp", "HOME": "/root"}
    stage = load(environ=environ, local=True, settings={"EMAIL_PROVIDER": "console", "SMTP_PASSWORD": "local"})
    assert stage.database.url == "postgresql://a:b@127.0.0.1/c"
    assert stage.settings == {"EMAIL_PROVIDER": "smtp", "SMTP_PASSWORD": "local"}
    assert stage.architecture == host_architecture()


def test_a_local_stage_without_an_address_names_the_variable() -> None:
    with pytest.raises(StageError, match="stage 'dev': DATABASE_URL is not set in the environment"):
        load(local=True)


def test_production_is_robust_and_development_is_as_cheap_as_possible() -> None:
    stages = context_of_file(Project.here())["stages"]
    dev, prod = (
        load_stage(name, stages, kind=PlatformStage, declared=stages[name]["settings"], environ={})
        for name in ("dev", "prod")
    )
    assert isinstance(dev.database, Aurora)
    assert isinstance(prod.database, Aurora)
    assert (dev.database.min_capacity, dev.database.standby, dev.database.deletion_protection) == (0, False, False)
    assert prod.database.min_capacity >= 0.5
    assert (prod.database.standby, prod.database.deletion_protection) == (True, True)
    assert isinstance(dev.network, NewNetwork)
    assert isinstance(prod.network, NewNetwork)
    assert (dev.network.egress, prod.network.egress, prod.network.nat_gateways) == ("ipv6", "nat", 2)


def stage_of_this_checkout(name: str) -> PlatformStage:
    stages = context_of_file(Project.here())["stages"]
    return load_stage(name, stages, kind=PlatformStage, declared=stages[name]["settings"], environ={})


def test_development_deploys_unchanged_and_production_needs_names_of_its_own() -> None:
    assert placeholders(stage_of_this_checkout("dev")) == []
    assert set(placeholders(stage_of_this_checkout("prod"))) == {
        "api.authorizer.issuer",
        "api.cors_origins.0",
        "monitoring.email",
        "settings.EMAIL_FROM_ADDRESS",
        "settings.INVITATION_BASE_URL",
    }


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"mail_from": "Joe@mail.EXAMPLE.com"}, ["mail_from"]),
        ({"mail_from": "joe@counterexample.com"}, []),
        ({"mail_from": "joe@example.com.mx"}, []),
        ({"settings": {"EMAIL_PROVIDER": "ses", "EMAIL_FROM_ADDRESS": "Ada <ada@shop.example>"}}, ["settings.EMAIL"]),
        ({"database": {**DATABASE, "host": "db.example.net"}}, ["database.host"]),
        ({"monitoring": {"email": "on-call@team.invalid"}}, ["monitoring.email"]),
        ({"tags": {"owner": "ada@example.com"}}, []),
        ({"settings": {"EMAIL_FROM_ADDRESS": {"secret": "joblane/example.com/x"}}}, []),
    ],
)
def test_names_of_the_examples_are_refused_with_the_setting(settings: dict[str, Any], found: list[str]) -> None:
    declared = ["EMAIL_PROVIDER", "EMAIL_FROM_ADDRESS"]
    stages = {"dev": {"database": DATABASE, **settings}}
    stage = load_stage("dev", stages, kind=PlatformStage, declared=declared, environ={})
    if not found:
        refuse_placeholders(stage)
        return
    with pytest.raises(StageError, match=f"stage 'dev': {found[0]}.*: it still has a name of the examples, under"):
        refuse_placeholders(stage)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"settings": {"EMAIL_PROVIDER": {"secret": "arn:aws:x"}}}, "settings.EMAIL_PROVIDER.secret: the whole ARN "),
        ({"settings": {"EMAIL_PROVIDER": {"secret": 5}}}, "settings.EMAIL_PROVIDER.secret: it must be a valid string"),
        ({"settings": {"EMAIL_PROVIDER": 5}}, "settings.EMAIL_PROVIDER: it must be a valid string"),
        ({"network": {**NEW, "egress": "ipv6", "nat_gateways": 2}}, "network: nat_gateways: "),
        ({"network": {**NEW, "availability_zones": ["a", "eu-central-1b"]}}, "network.availability_zones.0: 'a' is "),
        ({"network": {}}, "network: kind: it is required"),
        ({"network": "new"}, "network: an object is required"),
    ],
)
def test_an_error_has_the_path_of_cdk_json_and_one_reason(settings: dict[str, Any], problem: str) -> None:
    stages = {"dev": {"database": DATABASE, **settings}}
    with pytest.raises(StageError) as refused:
        load_stage("dev", stages, kind=PlatformStage, declared=["EMAIL_PROVIDER"], environ={})
    text = str(refused.value)
    assert text.startswith(f"cdk.json: stage 'dev': {problem}")
    assert "Value error" not in text
    assert text.count("; settings.") == text.count("; network.") == 0


def test_zones_of_another_region_are_refused_if_the_region_is_known() -> None:
    network = {**NEW, "availability_zones": ["eu-central-1a", "eu-central-1b"]}
    for given in (network, EXISTING):
        region = {"CDK_DEFAULT_REGION": "us-east-1"}
        with pytest.raises(StageError, match=r"availability_zones: eu-central-1a is not in us-east-1, .* us-east-1a,"):
            load(network=given, database=AURORA, environ=region)
        load(network=given, database=AURORA, environ={"CDK_DEFAULT_REGION": "eu-central-1"})
        load(network=given, database=AURORA)


def test_a_budget_is_refused_where_cloudformation_has_none() -> None:
    budget = {"email": "off", "budget": 20}
    with pytest.raises(
        StageError, match=r"monitoring.budget: CloudFormation has no budgets in eu-north-1; leave it out"
    ):
        load(monitoring=budget, environ={"CDK_DEFAULT_REGION": "eu-north-1"})
    with pytest.raises(
        StageError, match=r"monitoring.budget: it is in US dollars, .* partition aws-cn can have another"
    ):
        load(monitoring=budget, environ={"CDK_DEFAULT_REGION": "cn-north-1"})
    load(monitoring=budget, environ={"CDK_DEFAULT_REGION": "eu-west-1"})
    load(monitoring={"email": "off"}, environ={"CDK_DEFAULT_REGION": "eu-north-1"})


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "172.31.0.0/16", "192.168.255.0/24", "100.127.0.0/16"])
def test_a_private_range_is_accepted(cidr: str) -> None:
    assert load(network={**NEW, "cidr": cidr}, database=AURORA).network.cidr == cidr


@pytest.mark.parametrize(
    ("egress", "services"), [("ipv6", "https://a.example.org"), ("nat", "https://a.example.org"), ("endpoints", "")]
)
def test_services_of_tenants_are_called_by_a_way_out_of_aws(egress: str, services: str) -> None:
    stage = load(network={**NEW, "egress": egress}, database=AURORA, settings={"TENANT_INIT_SERVICES": services})
    assert stage.settings["TENANT_INIT_SERVICES"] == services


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1", "eusc-de-east-1"])
def test_ipv6_is_refused_where_the_dual_stack_hosts_are_not_known(region: str) -> None:
    existing = {**EXISTING, "egress": "ipv6", "availability_zones": [f"{region}a", f"{region}b"]}
    for network in (NEW, {**NEW, "egress": "nat_instance"}, existing):
        with pytest.raises(
            StageError, match=rf"network.egress: .* endpoints of {region}, .* aws-.*; set egress to nat"
        ):
            load(network=network, database=AURORA, environ={"CDK_DEFAULT_REGION": region})
        load(network={**network, "egress": "nat"}, database=AURORA, environ={"CDK_DEFAULT_REGION": region})
    for known in ("eu-central-1", "us-east-1", "nowhere"):
        load(network=NEW, database=AURORA, environ={"CDK_DEFAULT_REGION": known})


def test_production_retains_resources_and_a_local_stage_does_not() -> None:
    stages = context_of_file(Project.here())["stages"]
    assert {name: stages[name]["removal"] for name in ("prod", "local")} == {"prod": "retain", "local": "destroy"}


def test_the_stages_of_this_checkout_fit_its_tasks() -> None:
    declared = [name for task in discover().values() for name in task.environment]
    stages = context_of_file(Project.here())["stages"]
    for name in stages:
        environ = {"DATABASE_URL": "postgresql://jobs@127.0.0.1/jobs"}
        stage = load_stage(name, stages, kind=PlatformStage, declared=declared, environ=environ)
        assert with_schedules_of(stage, discover(times={})).keys() == discover().keys()
    assert "password" not in json.dumps(stages).lower()
