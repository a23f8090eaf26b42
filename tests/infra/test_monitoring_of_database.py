"""The alarms of a stage's own database, and the budget of a stage, read from templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import cfnlint
import pytest

from joblane.cdk.app import concurrency
from joblane.cdk.constructs.budget import NOTIFICATIONS
from joblane.cdk.services import BUDGET_REGIONS
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.database import Aurora
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import Topic, in_use
from joblane.cdk.watching.database import alarms_of_database
from tests.infra import templates
from tests.infra.conftest import RealStages, Synth
from tests.infra.templates import Template
from tests.infra.test_monitoring_stack import OF_DATABASE, alarms_of, dimensions, metrics_of, rds_stage, stack_of

GIB = 1024**3
NAMES = ("capacity", "connections", "memory")
COPY = {"host": "acme-copy.c1.eu-central-1.rds.amazonaws.com", "resource_id": "db-COPY"}
COPY_OF_CLUSTER = {"host": "acme-copy.cluster-c1.eu-central-1.rds.amazonaws.com", "resource_id": "cluster-COPY"}
BIGGER = {"instance_class": "db.t4g.medium", "storage_gb": 100}
SCHEMAS = Path(cfnlint.__file__).parent / "data" / "schemas" / "providers"


def aurora_stage(**database: Any) -> Stage:
    given = {"kind": "aurora", "max_capacity": 2, **database}
    return Stage.model_validate({"name": "dev", "prefix": "acme", "network": {"kind": "new"}, "database": given})


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_the_alarms_read_the_cluster_of_the_stage(stage: str, real_stages: RealStages) -> None:
    done = real_stages(stage)
    (cluster,) = templates.of_type(stack_of(done, "data"), "AWS::RDS::DBCluster").values()
    found = alarms_of(stack_of(done, "monitoring"))
    metrics = [metric for name in OF_DATABASE for metric in metrics_of(found[f"{done.stage.prefix}-{name}"])]
    assert {metric["Namespace"] for metric in metrics} == {"AWS/RDS"}
    assert {dimensions(metric)["DBClusterIdentifier"] for metric in metrics} == {cluster["DBClusterIdentifier"]}
    assert {metric["MetricName"] for metric in metrics} >= {"ACUUtilization", "DatabaseConnections", "FreeableMemory"}


def test_the_alarms_fire_near_the_limits_of_the_settings(real_stages: RealStages) -> None:
    done = real_stages("prod")
    found = alarms_of(stack_of(done, "monitoring"))
    capacity, connections, memory = (found[f"{done.stage.prefix}-database-{name}"] for name in NAMES)
    assert isinstance(done.stage.database, Aurora)
    # 95 % of the capacity, in each of 15 minutes
    assert (capacity["Threshold"], capacity["DatapointsToAlarm"], capacity["EvaluationPeriods"]) == (95, 15, 15)
    assert metrics_of(capacity)[0]["Period"] == 60
    # 80 % of the connections, and 5 % of the 16 GiB of 8 ACU
    assert connections["Threshold"] == 0.8 * done.stage.connections == 0.8 * done.stage.database.max_connections
    assert memory["Threshold"] == pytest.approx(0.05 * 16 * GIB)
    assert memory["ComparisonOperator"] == "LessThanThreshold"
    assert dimensions(metrics_of(memory)[0])["Role"] == "WRITER"


@pytest.mark.parametrize(
    ("capacity", "free", "fires"), [(0, 0, False), (2, 0, True), (2, 0.19 * GIB, True), (2, 0.21 * GIB, False)]
)
def test_a_database_that_sleeps_has_no_alarm(capacity: float, free: float, fires: bool) -> None:
    *others, alarm = alarms_of_database(Monitoring(), aurora_stage())
    value = eval(
        alarm.expression, {"IF": lambda is_true, yes, no: yes if is_true else no, "capacity": capacity, "free": free}
    )
    assert isinstance(alarm.threshold, float)
    assert (value < alarm.threshold) is fires
    # the others look for values above 0
    assert all(not each.below and float(each.threshold) > 0 for each in others)


@pytest.mark.parametrize(
    ("stage", "dimension", "name"),
    [
        (aurora_stage(), "DBClusterIdentifier", "acme-database"),
        (aurora_stage(restored=COPY_OF_CLUSTER), "DBClusterIdentifier", "acme-copy"),
        (rds_stage(), "DBInstanceIdentifier", "acme-database"),
        (rds_stage(restored=COPY), "DBInstanceIdentifier", "acme-copy"),
    ],
)
def test_the_alarms_read_the_database_in_use(stage: Stage, dimension: str, name: str) -> None:
    read = [cast(Any, metric) for alarm in alarms_of_database(Monitoring(), stage) for metric in alarm.metrics.values()]
    assert {metric.metric_name for metric in read} >= {"DatabaseConnections", "FreeableMemory"}
    assert [metric.dimensions[dimension] for metric in read] == [name] * len(read)


@pytest.mark.parametrize(("given", "instance_gib", "storage"), [({}, 1, 20), (BIGGER, 4, 100)])
def test_the_alarms_of_an_instance_fire_near_its_limits(given: dict[str, Any], instance_gib: int, storage: int) -> None:
    stage = rds_stage(**given)
    full, connections, memory = alarms_of_database(Monitoring(database_storage_percent=20), stage)
    assert (full.threshold, full.below, full.topic) == (0.2 * storage * GIB, True, Topic.URGENT)
    assert connections.threshold == pytest.approx(0.8 * stage.connections)
    assert memory.threshold == pytest.approx(0.05 * instance_gib * GIB)
    assert memory.below
    assert not any(alarm.expression for alarm in (full, connections, memory))  # an instance does not sleep


@pytest.mark.parametrize(
    ("stage", "name"),
    [*((aurora_stage(), name) for name in NAMES), *((rds_stage(), name) for name in ("storage", *NAMES[1:]))],
)
def test_each_alarm_of_the_database_can_be_off(stage: Stage, name: str) -> None:
    off: Any = {f"database_{name}_percent": "off"}
    names = {alarm.name for alarm in alarms_of_database(Monitoring(), stage)}
    assert {alarm.name for alarm in in_use(alarms_of_database(Monitoring(**off), stage))} == names - {
        f"database-{name}"
    }


def test_an_existing_database_has_no_alarms(synth: Synth) -> None:
    names = {name.removeprefix("acme-") for name in alarms_of(stack_of(synth.app("watched"), "monitoring"))}
    assert "sweep" in names
    assert not names & OF_DATABASE


# --- The budget ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(synth: Synth) -> Template:
    return stack_of(synth.app("watched"), "monitoring")


def test_a_budget_counts_the_resources_of_the_stage_before_credits(watched: Template) -> None:
    (found,) = templates.of_type(watched, "AWS::Budgets::Budget").values()
    budget = found["Budget"]
    assert budget["BudgetLimit"] == {"Amount": 12.5, "Unit": "USD"}
    assert budget["CostFilters"] == {"TagKeyValue": ["user:joblane:stage$dev"]}
    assert (budget["BudgetType"], budget["TimeUnit"]) == ("COST", "MONTHLY")
    assert budget["CostTypes"] == {"IncludeCredit": False, "IncludeRefund": False}


def test_other_notifications_are_a_budget_of_another_name(watched: Template) -> None:
    (found,) = templates.of_type(watched, "AWS::Budgets::Budget").values()
    notified = [each["Notification"] for each in found["NotificationsWithSubscribers"]]
    assert [(each["NotificationType"], each["Threshold"]) for each in notified] == [*NOTIFICATIONS]
    name = json.dumps(found["Budget"]["BudgetName"])
    assert "AWS::Region" in name  # a stage in another region has another budget
    assert all(f"{kind.lower()}-{percent}" in name for kind, percent in NOTIFICATIONS)


def test_the_budget_reaches_the_topic_and_its_key_from_this_account_only(watched: Template) -> None:
    (topic,) = (
        name for name, found in templates.of_type(watched, "AWS::SNS::Topic").items() if "later" in found["TopicName"]
    )
    (budget,) = templates.of_type(watched, "AWS::Budgets::Budget").values()
    (subscriber,) = {json.dumps(each["Subscribers"]) for each in budget["NotificationsWithSubscribers"]}
    assert json.loads(subscriber) == [{"Address": {"Ref": topic}, "SubscriptionType": "SNS"}]
    policies = [
        found["PolicyDocument"]
        for found in templates.of_type(watched, "AWS::SNS::TopicPolicy").values()
        if found["Topics"] == [{"Ref": topic}]
    ] + [found["KeyPolicy"] for found in templates.of_type(watched, "AWS::KMS::Key").values()]
    allowed = [
        entry
        for policy in policies
        for entry in policy["Statement"]
        if entry["Principal"] == {"Service": "budgets.amazonaws.com"}
    ]
    assert [entry["Action"] for entry in allowed] == ["sns:Publish", ["kms:Decrypt", "kms:GenerateDataKey"]]
    for entry in allowed:
        assert entry["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        assert ":budgets::" in json.dumps(entry["Condition"]["ArnLike"]["aws:SourceArn"])


def test_a_synth_says_that_the_tag_of_a_budget_has_to_be_active(synth: Synth) -> None:
    line = "  budget: it counts nothing until the tag is active for costs, a day later: aws ce update-cost-allocation-"
    assert line in concurrency(synth.app("watched").jobs)
    assert "  budget: " not in concurrency(synth.app("dev").jobs)


def test_the_regions_with_budgets_are_those_of_cloudformations_schemas() -> None:
    known = {file.stem for file in SCHEMAS.glob("*.json") if "AWS::Budgets::Budget" in json.loads(file.read_text())}
    assert known == BUDGET_REGIONS
