"""The way out by a NAT instance: what goes through it, who repairs it, what it costs, and what replaces it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from joblane.cdk import costs
from joblane.cdk.app import Synthesised
from joblane.cdk.constructs.nat_instance import DISK_GB, SAYS
from joblane.prices import PRICES
from joblane.settings import NO_IPV4
from tests import costs as page
from tests.infra import templates
from tests.infra.conftest import AURORA, DATABASE_SECRET, NAT_INSTANCE, RUNBOOK, TASKS, Synth
from tests.infra.lint import lint
from tests.infra.templates import Template
from tests.infra.test_monitoring_stack import PAGE, alarms_of, problems_of
from tests.pages import anchors

Made = Callable[..., Template]


@pytest.fixture(scope="module")
def done(synth: Synth) -> Synthesised:
    return synth.app("nat_instance")


@pytest.fixture
def made(synth: Synth) -> Made:
    """The stack of a stage with a NAT instance and other settings."""
    return lambda network=None, **given: synth(
        "dev", network={**NAT_INSTANCE, **(network or {})}, **{"database": AURORA, **given}
    ).templates["acme-data"]


def of_type(template: Template, kind: str) -> dict[str, Any]:
    return templates.of_type(template, f"AWS::{kind}")


def routes(template: Template, target: str) -> set[tuple[str, str]]:
    """The subnets and destinations of the routes to a kind of target."""
    return {
        (name.split("Subnet")[0].removeprefix("NetworkVpc"), route.get("DestinationCidrBlock", "::/0"))
        for name, route in of_type(template, "EC2::Route").items()
        if target in route
    }


def test_only_ipv4_goes_through_the_instance(done: Synthesised) -> None:
    data = done.templates["acme-data"]
    assert routes(data, "InstanceId") == {("functions", "0.0.0.0/0")}
    assert routes(data, "EgressOnlyInternetGatewayId") == {("functions", "::/0")}
    assert routes(data, "GatewayId") == {("public", "0.0.0.0/0"), ("public", "::/0")}
    assert not of_type(data, "EC2::NatGateway")


@pytest.mark.parametrize(("app", "is_explained"), [("ipv6", True), ("subnets", True), ("nat_instance", False)])
def test_functions_use_ipv6_for_aws_and_explain_timeouts_only_without_ipv4(
    app: str, is_explained: bool, synth: Synth
) -> None:
    template = synth.app(app).whole("acme-jobs")
    inside = [each for each in templates.functions(template).values() if "VpcConfig" in each]
    assert inside
    for function in inside:
        variables = function["Environment"]["Variables"]
        assert function["VpcConfig"]["Ipv6AllowedForDualStack"]
        assert variables["AWS_USE_DUALSTACK_ENDPOINT"] == "true"
        assert (variables.get(NO_IPV4) == "true") is is_explained


def test_it_forwards_the_ports_of_the_functions_from_the_stage_only(made: Made) -> None:
    existing = {"kind": "existing", "host": "db.acme.io", "port": 5433, "name": "acme", "secret": DATABASE_SECRET}
    template = made({"egress_ports": [587, 443], "cidr": "10.1.0.0/20"}, database=existing)
    (group,) = (each for name, each in of_type(template, "EC2::SecurityGroup").items() if "Nat" in name)
    rules = {
        key: {(rule["CidrIp"], rule["FromPort"], rule["IpProtocol"]) for rule in group[key]}
        for key in group
        if "SecurityGroup" in key
    }
    assert rules == {
        "SecurityGroupIngress": {("10.1.0.0/20", port, "tcp") for port in (443, 587, 5433)},
        "SecurityGroupEgress": {("0.0.0.0/0", port, "tcp") for port in (443, 587, 5433)},
    }


def test_nobody_can_log_in_to_it_and_it_may_do_nothing(done: Synthesised) -> None:
    data = done.templates["acme-data"]
    (launch,) = of_type(data, "EC2::LaunchTemplate").values()
    (instance,) = of_type(data, "EC2::Instance").values()
    both = {**launch["LaunchTemplateData"], **instance}
    assert not both.keys() & {"KeyName", "IamInstanceProfile", "SecurityGroups", "Tenancy"}
    assert both["MetadataOptions"]["HttpTokens"] == "required"
    assert all(disk["Ebs"]["Encrypted"] for disk in both["BlockDeviceMappings"])
    assert both["SourceDestCheck"] is False


def test_a_deploy_replaces_it_for_another_version_only(made: Made, synth: Synth) -> None:
    def launched(template: Template) -> dict[str, Any]:
        return {kind: of_type(template, f"EC2::{kind}") for kind in ("LaunchTemplate", "Instance", "SecurityGroup")}

    first = launched(made())
    renamed = synth("dev", package="tests.infra.renamed", settings={}, network=NAT_INSTANCE, database=AURORA)
    assert launched(renamed.templates["acme-data"]) == first
    # the image is chosen when the instance starts, and not at each deploy
    (launch,), (instance,) = first["LaunchTemplate"].values(), first["Instance"].values()
    assert launch["LaunchTemplateData"]["ImageId"].startswith("resolve:ssm:/aws/service/")
    assert "ImageId" not in instance
    renewed = launched(made({"nat_instance_version": "2027-01"}))
    assert "# version 2027-01" in json.dumps(renewed["LaunchTemplate"])
    assert renewed["LaunchTemplate"] != first["LaunchTemplate"]
    (instance,) = renewed["Instance"].values()
    (template_id,) = renewed["LaunchTemplate"]
    assert instance["LaunchTemplate"]["Version"] == {"Fn::GetAtt": [template_id, "LatestVersionNumber"]}


@pytest.mark.parametrize("monitored", [False, True])
def test_a_failed_check_repairs_it_and_notifies_if_the_stage_is_monitored(monitored: bool, made: Made) -> None:
    template = made(**({"monitoring": {"email": "a@acme.io"}} if monitored else {}))
    (instance,) = of_type(template, "EC2::Instance")
    alarms = alarms_of(template)
    assert {alarm["Dimensions"][0]["Value"]["Ref"] for alarm in alarms.values()} == {instance}
    actions = {
        name: [json.dumps(each).rpartition(":")[2].strip('"]}') for each in alarm["AlarmActions"]]
        for name, alarm in alarms.items()
    }
    repairs = {"acme-nat-recover": ["recover"], "acme-nat-reboot": ["reboot"]}
    assert actions == {**repairs, **({"acme-nat-instance": ["acme-urgent"]} if monitored else {})}
    # CloudWatch recovers an instance by this metric only, and a reboot must not come first
    assert alarms["acme-nat-recover"]["MetricName"] == "StatusCheckFailed_System"
    assert alarms["acme-nat-recover"]["EvaluationPeriods"] < alarms["acme-nat-reboot"]["EvaluationPeriods"]


def test_its_alarm_is_like_those_of_the_stage_and_its_topic_exists(synth: Synth) -> None:
    monitoring = {"email": "a@acme.io", "runbook_url": RUNBOOK}
    done = synth("dev", package=TASKS, network=NAT_INSTANCE, database=AURORA, monitoring=monitoring)
    alarm = alarms_of(done.templates["acme-data"])["acme-nat-instance"]
    topics = of_type(done.templates["acme-monitoring"], "SNS::Topic").values()
    assert "acme-urgent" in {topic["TopicName"] for topic in topics}
    assert alarm["AlarmActions"] == alarm["OKActions"] == alarm["InsufficientDataActions"]
    text = alarm["AlarmDescription"]
    assert text.startswith(SAYS)
    assert f"Runbook: {RUNBOOK}#the-nat-instance-fails" in text
    given = {**alarm, "AlarmActions": [{"Ref": "t"}], "OKActions": [{"Ref": "t"}]}
    assert list(problems_of("waiting-critical", given, {"t": "urgent"}, anchors(PAGE))) == []


def test_the_pages_have_its_price(done: Synthesised) -> None:
    lines = {line.what: line for line in costs.fixed({}, done.templates.values())}
    shown = [lines[name].dollars for name in ("NAT instance", "Its disk", "Public addresses")]
    assert page.DISK_GB == DISK_GB
    assert [round(each, 2) for each in shown] == [3.02, 0.64, 3.60]
    text = (PAGE.parent / "network.md").read_text()
    alarms = [name for name in alarms_of(done.templates["acme-data"]) if "-nat-" in name]
    price = sum(shown) + len(alarms) * PRICES["Alarm"].each
    assert f"| ${price:.2f} with its alarms |" in text
    assert "$3.02 for the instance, $3.60 for its address, $0.64 for its disk of 8 GB" in text


def test_cfn_lint_finds_nothing_in_its_template_in_six_regions(done: Synthesised) -> None:
    assert lint([done.directory / "acme-data.template.json"]) == {"acme-data.template.json": []}
