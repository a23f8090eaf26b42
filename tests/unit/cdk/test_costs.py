"""The figures of ``docs/explanation/costs.md`` follow from prices, declarations and templates."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from functions.system_health_check import handler as health_check
from infra.health import CHECKS, COSTS
from joblane.cdk import costs
from joblane.cdk.costs import moments, times
from joblane.cdk.templates import COSTS as METADATA
from joblane.names import Queue, set_home
from joblane.prices import MONTH, PRICES, Price
from joblane.tasks.discovery import discover
from joblane.tasks.place import Lambda
from joblane.tasks.schedule import Schedule, parse
from joblane.tasks.schedule_overrides import apply_all, minutes_of, with_sweep
from saas.health import Check
from tests import costs as page


def test_the_page_shows_the_computed_tables() -> None:
    text = page.PAGE.read_text()
    assert text == page.rendered(text), "run `python -m tests.costs` to write them again"


def test_another_price_is_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    line = costs.Line("Polling", 2e6, "SQS request")
    assert line.dollars == pytest.approx(0.8)
    monkeypatch.setattr(costs, "PRICES", {"SQS request": Price(0.8, "million", "")})
    assert line.dollars == pytest.approx(1.6)


def test_every_assumed_amount_has_a_reason() -> None:
    assert all(amount.why and amount.unit for amount in page.ASSUMED.values())


def test_every_price_is_used() -> None:
    shown = re.findall(r"× ([^|]+) \|", page.PAGE.read_text())
    assert {*shown} == set(PRICES)


def test_an_idle_mapping_polls_648_000_times_a_month() -> None:
    assert costs.RECEIVES_PER_MAPPING == 648_000


def test_lanes_and_front_doors_are_counted_from_the_declarations() -> None:
    tasks = discover(times={})
    assert costs.mapped_queues({}) == len(Queue)
    assert costs.mapped_queues(tasks) == len(Queue) + sum(len(task.lanes) for task in tasks.values())


@pytest.mark.parametrize(("cron", "count"), [("*/5 * * * *", 8640), ("0 2 * * *", 30), ("0 8 * * 0", 5)])
def test_ticks_of_a_month(cron: str, count: int) -> None:
    schedule = parse(cron)
    assert isinstance(schedule, Schedule)
    assert len(times(schedule)) == count


def test_a_health_check_writes_as_many_metrics_as_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    # given the checks of a stage without services
    names = [*(f"queue jobs-{queue}" for queue in Queue), "database", "sweep"]
    # when they are measured
    health_check._measure([Check(name, 1, None) for name in names])
    # then each name with its dimension is one metric
    found = set()
    for line in capsys.readouterr().out.splitlines():
        written = json.loads(line)
        for directive in written["_aws"]["CloudWatchMetrics"]:
            found |= {(metric["Name"], written["check"]) for metric in directive["Metrics"]}
    assert len(names) == CHECKS
    assert len(found) == COSTS["system:health_check"].metrics


def test_a_month_is_30_days() -> None:
    assert timedelta(days=30) == MONTH


# --- A stage, by its templates -------------------------------------------------------------------------------------


def template(*resources: tuple[str, dict[str, object]]) -> dict[str, object]:
    found = {f"R{n}": {"Type": kind, "Properties": given} for n, (kind, given) in enumerate(resources)}
    return {"Resources": found, "Metadata": {"Joblane": {"prefix": "jobs"}}}


def dashboard(metrics: int) -> dict[str, object]:
    """A dashboard with this number of metrics, an expression and a value from AWS."""
    shown = [["AWS/SQS", f"m{number}"] for number in range(metrics)] + [[{"expression": "m1 + m2"}]]
    body = json.dumps({"widgets": [{"properties": {"region": "X"}}, {"properties": {"metrics": shown}}]})
    before, after = body.split("X")
    return {"DashboardBody": {"Fn::Join": ["", [before, {"Ref": "AWS::Region"}, after]]}}


def amounts(*resources: tuple[str, dict[str, object]]) -> dict[str, float]:
    return {line.price: line.amount for line in costs.fixed({}, [template(*resources)])}


def test_resources_of_templates_cost_by_the_hour_or_the_month() -> None:
    found = amounts(
        ("AWS::EC2::NatGateway", {}),
        ("AWS::EC2::NatGateway", {}),
        ("AWS::EC2::EIP", {}),
        ("AWS::EC2::VPCEndpoint", {"VpcEndpointType": "Interface", "SubnetIds": ["a", "b"]}),
        ("AWS::EC2::VPCEndpoint", {"VpcEndpointType": "Gateway"}),
        ("AWS::SecretsManager::Secret", {}),
        ("AWS::CloudWatch::Alarm", {}),
        ("AWS::CloudWatch::Alarm", {"Metrics": [{"MetricStat": {}}, {"MetricStat": {}}, {"Expression": "a / b"}]}),
        ("AWS::CloudWatch::Dashboard", dashboard(50)),
        ("AWS::CloudWatch::Dashboard", dashboard(51)),
        ("AWS::Lambda::EventSourceMapping", {}),
        ("AWS::Lambda::Function", {}),
    )
    assert found == {
        "NAT gateway hour": 1440,
        "Public IPv4 hour": 720,
        "Interface endpoint hour": 1440,
        "Secret": 1,
        "Alarm": 3,
        "Dashboard": 1,
        "Dashboard with more than 50 metrics": 1,
        "SQS request": 648_000,
    }


@pytest.mark.parametrize(("least", "instances", "hours"), [(0.5, 1, 360), (1, 1, 720), (1, 2, 1440)])
def test_each_aurora_instance_costs_its_least_capacity(least: float, instances: int, hours: float) -> None:
    cluster: dict[str, object] = {"ServerlessV2ScalingConfiguration": {"MinCapacity": least}}
    found = amounts(("AWS::RDS::DBCluster", cluster), *[("AWS::RDS::DBInstance", {})] * instances)
    assert found == {"Aurora ACU-hour": hours}


@pytest.mark.parametrize("size", ["micro", "small", "medium"])
def test_an_rds_instance_costs_each_hour_and_its_storage(size: str) -> None:
    instance: dict[str, object] = {
        "DBInstanceIdentifier": "jobs-database",
        "DBInstanceClass": f"db.t4g.{size}",
        "AllocatedStorage": "20",
    }
    assert amounts(("AWS::RDS::DBInstance", instance)) == {f"RDS db.t4g.{size} hour": 720, "RDS GB-month": 20}


def test_instances_of_a_cdk_app_have_no_price() -> None:
    launched: dict[str, object] = {"LaunchTemplateData": {"InstanceType": {"Ref": "Type"}}}
    found = amounts(
        ("AWS::RDS::DBInstance", {"DBInstanceClass": "db.m5.large", "AllocatedStorage": {"Ref": "Size"}}),
        ("AWS::RDS::DBInstance", {"DBInstanceIdentifier": "shop", "SourceDBInstanceIdentifier": "other"}),
        ("AWS::EC2::LaunchTemplate", launched),
        ("AWS::EC2::Instance", {"InstanceType": "m5.large"}),
    )
    assert found == {}


def test_a_nat_instance_costs_its_hours_its_disk_and_its_address() -> None:
    disk = {"BlockDeviceMappings": [{"Ebs": {"VolumeSize": 8}}]}
    found = amounts(("AWS::EC2::LaunchTemplate", {"VersionDescription": "jobs-nat", "LaunchTemplateData": disk}))
    assert found == {"NAT instance hour": 720, "EBS GB-month": 8, "Public IPv4 hour": 720}


@pytest.mark.parametrize(
    ("sweep", "pause", "hours"),
    [
        ("6 hours", 300, 20),  # four times a day, ten minutes each
        ("6 hours", 3600, 130),
        ("1 hour", 300, 120),
        ("10 minutes", 300, 720),
        ("5 minutes", 300, 720),
    ],
)
def test_an_aurora_that_may_pause_costs_half_a_unit_while_it_is_awake(sweep: str, pause: int, hours: float) -> None:
    cluster: dict[str, object] = {
        "ServerlessV2ScalingConfiguration": {"MinCapacity": 0, "SecondsUntilAutoPause": pause}
    }
    resources = template(("AWS::RDS::DBCluster", cluster), *[("AWS::RDS::DBInstance", {})] * 2)
    tasks = apply_all({"jobs:sweep": discover(times={})["jobs:sweep"]}, with_sweep({}, minutes_of(sweep)))
    [line] = costs.fixed(tasks, [resources])
    assert line.price == "Aurora ACU-hour"
    assert line.amount == pytest.approx(2 * costs.LEAST_AWAKE * hours)
    assert ("always awake because of jobs:sweep" in line.use) is (hours == 720)


def test_the_smallest_stage_has_a_sweep_after_each_run_of_another_task() -> None:
    def runs(sweep: str) -> float:
        tasks = apply_all(discover(times={}), with_sweep({}, minutes_of(sweep)))
        return next(line.amount for line in costs.periodic(tasks, {}) if line.price == "Lambda request")

    ticks = sum(len([*moments(task)]) for task in discover(times={}).values() if task.type != "jobs:sweep")
    # the ticks of a minute share a sweep, and the health check runs in each quarter of an hour
    assert runs("6 hours") == ticks + 120 + 2880
    assert runs("5 minutes") == ticks + 8640


def test_costs_of_zero_have_no_line() -> None:
    assert costs.fixed({}, [template(("AWS::SQS::Queue", {}))]) == []


def test_the_lines_of_a_stage_come_from_templates_and_tasks_sorted_by_cost() -> None:
    resources = template(("AWS::EC2::NatGateway", {}), ("AWS::Lambda::EventSourceMapping", {}))
    own = {"schedules": {}, "sweep_minutes": 360, "extras": {}, "architecture": "x86_64"}
    lines = costs.of_stage([{**resources, "Metadata": {METADATA: own}}], discover(times={}))
    assert lines[0].what == "NAT gateways"
    assert lines[0].dollars == pytest.approx(32.40)
    assert [line.dollars for line in lines] == sorted((line.dollars for line in lines), reverse=True)
    assert "Lambda GB-second, x86_64" in {line.price for line in lines}


def test_a_tasks_own_metrics_and_requests_are_counted_with_its_runs() -> None:
    tasks, check = discover(times={}), "system:health_check"
    with_own, without = (
        {price: sum(line.amount for line in lines if line.price == price) for price in ("Metric", "SQS request")}
        for lines in (costs.periodic(tasks, COSTS), costs.periodic(tasks, {}))
    )
    runs = len([*moments(tasks[check])])
    assert with_own["SQS request"] - without["SQS request"] == COSTS[check].sqs_requests * runs
    assert with_own["Metric"] - without["Metric"] == pytest.approx(COSTS[check].metrics)  # the check runs in every hour


def test_the_lanes_of_a_place_are_counted_once(request: pytest.FixtureRequest) -> None:
    # given types, each with its function
    sample = discover()["data:export"]
    alone = {type_: replace(sample, type=type_) for type_ in (f"team:job_{number}" for number in range(page.TYPES))}
    request.addfinalizer(lambda: set_home(alone, None))
    assert costs.mapped_queues(alone) == page.TYPES + len(Queue)
    # when they run in places, one of which still receives from the former lane of a type
    places = [Lambda(f"web{number}") for number in range(page.PLACES - 1)] + [Lambda("web4", drains=("team:job_4",))]
    together = {}
    for number, (type_, task) in enumerate(alone.items()):
        place = places[number % page.PLACES]
        together[type_] = replace(task, place=place)
        set_home([type_], place.name)
    # then
    assert costs.mapped_queues(together) == page.PLACES + 1 + len(Queue)
