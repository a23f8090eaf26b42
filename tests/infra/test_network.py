"""Each kind of network, read from the template of the data stack."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.app import APP
from infra.exports import add_exports
from joblane.cdk.app import Synthesised
from joblane.cdk.packaging import Packages
from tests.infra import templates
from tests.infra.conftest import AURORA, EXISTING_NETWORK, STAGES, TASKS, Synth
from tests.infra.templates import Template
from tests.pages import ROOT, blocks

NetworkStage = Callable[..., Synthesised]


@pytest.fixture(scope="module")
def made(synth: Synth) -> NetworkStage:
    """A stage with Aurora and a network of these settings, synthesised once."""
    known: dict[str, Synthesised] = {}

    def make(*, package: str = TASKS, **network: Any) -> Synthesised:
        key = package + json.dumps(network, sort_keys=True)
        if key not in known:
            given: dict[str, Any] = {"network": {"kind": "new", **network}, "database": AURORA}
            if package != TASKS:
                given["settings"] = {}
            known[key] = synth("dev", package=package, **given)
        return known[key]

    return make


def data(done: Synthesised) -> Template:
    return done.templates["acme-data"]


def subnets(template: Template) -> dict[str, dict[str, Any]]:
    """Return logical ids and properties, by kind of subnet: functions, database or public."""
    found: dict[str, dict[str, Any]] = {"functions": {}, "database": {}, "public": {}}
    for logical_id, subnet in templates.of_type(template, "AWS::EC2::Subnet").items():
        (kind,) = [name for name in found if logical_id.startswith(f"NetworkVpc{name}")]
        found[kind][logical_id] = subnet
    return found


def default_routes(template: Template, kind: str) -> set[tuple[str, str]]:
    """Return destination and target of the routes of these subnets. ``kind``: functions, database or public."""
    tables = {
        association["RouteTableId"]["Ref"]
        for association in templates.of_type(template, "AWS::EC2::SubnetRouteTableAssociation").values()
        if association["SubnetId"]["Ref"] in subnets(template)[kind]
    }
    assert len(tables) == 2
    found = set()
    for route in templates.of_type(template, "AWS::EC2::Route").values():
        if route["RouteTableId"]["Ref"] in tables:
            to = route.get("DestinationCidrBlock") or route["DestinationIpv6CidrBlock"]
            keys = ("NatGatewayId", "GatewayId", "EgressOnlyInternetGatewayId")
            found |= {(to, route[key]["Ref"]) for key in keys if key in route}
    return found


def endpoints(template: Template) -> dict[str, dict[str, Any]]:
    """Return the endpoints by the last word of the service's name."""
    found = {}
    for endpoint in templates.of_type(template, "AWS::EC2::VPCEndpoint").values():
        name = templates.target(template, endpoint["ServiceName"])
        found[name.rpartition(".")[2]] = dict(endpoint)
    return found


def rules(template: Template, group: str, direction: str) -> list[dict[str, Any]]:
    """Return the rules of a security group. ``group``: its logical id; ``direction``: ``Ingress`` or ``Egress``."""
    inline = templates.of_type(template, "AWS::EC2::SecurityGroup")[group].get(f"SecurityGroup{direction}", [])
    apart = [
        rule
        for rule in templates.of_type(template, f"AWS::EC2::SecurityGroup{direction}").values()
        if templates.target(template, rule["GroupId"]) == group
    ]
    return [*inline, *apart]


def group_of_the_functions(template: Template) -> str:
    (group,) = [name for name in templates.of_type(template, "AWS::EC2::SecurityGroup") if "Functions" in name]
    return group


# --- The stage's own VPC -------------------------------------------------------------------------------------------


IPV6: dict[str, Any] = {}
NAT: dict[str, Any] = {"egress": "nat"}
TWO_GATEWAYS: dict[str, Any] = {"egress": "nat", "nat_gateways": 2}
ENDPOINTS: dict[str, Any] = {"egress": "endpoints"}
NONE: dict[str, Any] = {"egress": "none", "reaches": ["sqs", "secretsmanager", "sesv2"]}
WAYS = [IPV6, NAT, TWO_GATEWAYS, ENDPOINTS, NONE]


@pytest.mark.parametrize("way", WAYS)
def test_functions_and_database_have_separate_private_subnets_in_two_zones(
    made: NetworkStage, way: dict[str, Any]
) -> None:
    found = subnets(data(made(**way)))
    for kind in ("functions", "database"):
        assert {json.dumps(subnet["AvailabilityZone"]) for subnet in found[kind].values()} == {
            json.dumps({"Fn::Select": [zone, {"Fn::GetAZs": ""}]}) for zone in (0, 1)
        }
    assert len(found["public"]) == (2 if way in (NAT, TWO_GATEWAYS) else 0)
    assert not any(subnet.get("MapPublicIpOnLaunch") for kind in found.values() for subnet in kind.values())


def test_all_subnets_are_in_the_zones_that_a_stage_names(made: NetworkStage) -> None:
    template = data(made(egress="nat", availability_zones=["eu-central-1c", "eu-central-1a"]))
    for kind in subnets(template).values():
        assert [subnet["AvailabilityZone"] for subnet in kind.values()] == ["eu-central-1c", "eu-central-1a"]


def test_functions_leave_by_ipv6_through_a_free_gateway_and_nothing_comes_in(made: NetworkStage) -> None:
    template = data(made(**IPV6))
    (gateway,) = templates.of_type(template, "AWS::EC2::EgressOnlyInternetGateway")
    assert default_routes(template, "functions") == {("::/0", gateway)}
    assert default_routes(template, "database") == set()
    costly_or_open = ("NatGateway", "EIP", "InternetGateway", "VPCGatewayAttachment")
    for kind in costly_or_open:
        assert not templates.of_type(template, f"AWS::EC2::{kind}"), kind
    rules_of_functions = made(**IPV6).templates["acme-jobs"]
    found = rules(rules_of_functions, group_of_the_functions(rules_of_functions), "Egress")
    assert [rule["FromPort"] for rule in found if rule.get("CidrIpv6") == "::/0"] == [443]


@pytest.mark.parametrize(("way", "gateways"), [(NAT, 1), (TWO_GATEWAYS, 2)])
def test_with_nat_functions_use_the_set_number_of_gateways(
    made: NetworkStage, way: dict[str, Any], gateways: int
) -> None:
    template = data(made(**way))
    existing = set(templates.of_type(template, "AWS::EC2::NatGateway"))
    assert len(existing) == gateways
    assert default_routes(template, "functions") == {("0.0.0.0/0", gateway) for gateway in existing}
    assert default_routes(template, "database") == set()
    assert len(templates.of_type(template, "AWS::EC2::InternetGateway")) == 1


@pytest.mark.parametrize("way", [ENDPOINTS, NONE])
def test_with_endpoints_or_none_no_subnet_has_a_way_to_the_internet(made: NetworkStage, way: dict[str, Any]) -> None:
    template = data(made(**way))
    assert default_routes(template, "functions") == default_routes(template, "database") == set()
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert not {kind for kind in kinds if kind.startswith("AWS::EC2::") and "Gateway" in kind}


def test_another_way_out_changes_no_vpc_subnet_or_import_of_the_functions(made: NetworkStage) -> None:
    def kept(way: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
        template = data(made(**way))
        public = subnets(template)["public"]
        return {
            logical_id: resource
            for logical_id, resource in template["Resources"].items()
            if resource["Type"] in ("AWS::EC2::VPC", "AWS::EC2::VPCCidrBlock", "AWS::EC2::Subnet")
            and logical_id not in public
        }, {name for name in template["Outputs"] if name.startswith("Exports")}

    resources, _ = kept(IPV6)
    # EC2 takes no IPv6 addresses from a subnet with functions, so every network has them
    assert sum("Ipv6CidrBlock" in resource["Properties"] for resource in resources.values()) == 4
    assert all(kept(way) == kept(IPV6) for way in WAYS)


@pytest.mark.parametrize("way", [NAT, TWO_GATEWAYS, ENDPOINTS, NONE])
def test_only_functions_with_egress_ipv6_leave_by_ipv6(made: NetworkStage, way: dict[str, Any]) -> None:
    template, of_functions = data(made(**way)), made(**way).templates["acme-jobs"]
    assert not templates.of_type(template, "AWS::EC2::EgressOnlyInternetGateway")
    assert "::/0" not in {to for kind in ("functions", "database") for to, _ in default_routes(template, kind)}
    assert "::/0" not in json.dumps(rules(of_functions, group_of_the_functions(of_functions), "Egress"))


@pytest.mark.parametrize("way", WAYS)
def test_s3_is_reached_by_a_free_gateway_endpoint(made: NetworkStage, way: dict[str, Any]) -> None:
    template = data(made(**way))
    s3 = endpoints(template)["s3"]
    assert s3["VpcEndpointType"] == "Gateway"
    tables = {
        association["RouteTableId"]["Ref"]
        for association in templates.of_type(template, "AWS::EC2::SubnetRouteTableAssociation").values()
        if association["SubnetId"]["Ref"] in subnets(template)["functions"]
    }
    assert {table["Ref"] for table in s3["RouteTableIds"]} == tables


def test_endpoints_are_only_for_the_services_that_functions_call(made: NetworkStage) -> None:
    template = data(made(**ENDPOINTS))
    found = endpoints(template)
    assert set(found) == {"s3", "sqs", "secretsmanager", "email"}
    for name in ("sqs", "secretsmanager", "email"):
        assert found[name]["VpcEndpointType"] == "Interface"
        assert found[name]["PrivateDnsEnabled"] is True
        assert {subnet["Ref"] for subnet in found[name]["SubnetIds"]} == set(subnets(template)["functions"])
        (group,) = (templates.target(template, group) for group in found[name]["SecurityGroupIds"])
        (rule,) = rules(template, group, "Ingress")
        assert (rule["CidrIp"], rule["FromPort"], rule["ToPort"]) == ("10.60.0.0/16", 443, 443)


def test_without_a_task_that_sends_mail_there_is_no_endpoint_for_it(made: NetworkStage) -> None:
    done = made(package="tests.infra.renamed", **ENDPOINTS)
    assert not any(task.grants.mail for task in done.jobs.tasks.values())
    assert "email" not in endpoints(data(done))


@pytest.mark.parametrize("way", [IPV6, NAT, NONE])
def test_with_another_way_out_there_is_only_the_free_endpoint(made: NetworkStage, way: dict[str, Any]) -> None:
    assert set(endpoints(data(made(**way)))) == {"s3"}


def test_a_function_accepts_no_traffic_and_reaches_only_https_and_its_database(made: NetworkStage) -> None:
    template = made(**NAT).templates["acme-jobs"]
    group = group_of_the_functions(template)
    assert rules(template, group, "Ingress") == []
    to_the_world = [rule for rule in rules(template, group, "Egress") if "DestinationSecurityGroupId" not in rule]
    assert [(rule["CidrIp"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in to_the_world] == [
        ("0.0.0.0/0", "tcp", 443, 443)
    ]
    (to_a_group,) = [rule for rule in rules(template, group, "Egress") if "DestinationSecurityGroupId" in rule]
    assert (to_a_group["FromPort"], to_a_group["ToPort"]) == (5432, 5432)


def test_egress_ports_are_open_also_by_ipv6(made: NetworkStage) -> None:
    template = made(egress_ports=[587, 8443]).templates["acme-jobs"]
    found = rules(template, group_of_the_functions(template), "Egress")
    for key, every in (("CidrIp", "0.0.0.0/0"), ("CidrIpv6", "::/0")):
        assert {rule["FromPort"] for rule in found if rule.get(key) == every} == {443, 587, 8443}


@pytest.mark.parametrize("cidr", ["10.60.0.0/16", "192.168.7.0/24"])
def test_the_subnets_fit_the_network_and_ec2s_limits(made: NetworkStage, cidr: str) -> None:
    found = subnets(data(made(**NAT, **({} if cidr == "10.60.0.0/16" else {"cidr": cidr}))))
    blocks = [ipaddress.ip_network(subnet["CidrBlock"]) for kind in found.values() for subnet in kind.values()]
    network = ipaddress.ip_network(cidr)
    assert len(blocks) == 6
    assert all(block.subnet_of(network) and block.prefixlen <= 28 for block in blocks)  # type: ignore[arg-type]
    assert not any(block.overlaps(other) for block in blocks for other in blocks if block is not other)


def test_traffic_that_security_groups_reject_is_logged(made: NetworkStage) -> None:
    template = data(made(**NAT))
    (log,) = templates.of_type(template, "AWS::EC2::FlowLog").values()
    assert (log["TrafficType"], log["ResourceType"]) == ("REJECT", "VPC")
    assert templates.target(template, log["LogGroupName"]) == "/joblane/acme/network"
    assert templates.of_type(template, "AWS::Logs::LogGroup")["/joblane/acme/network"]["RetentionInDays"] == 30


def test_an_app_adds_its_own_ways_as_the_page_does(no_packages: Packages, tmp_path: Path) -> None:
    declared, added = [block.text for block in blocks("python", ROOT / "docs" / "how-to" / "network.md")]
    page: dict[str, Any] = {"__name__": "page"}
    exec(declared, page)
    exec(added, page)
    assert page["order_ship"].grants.services == ("dynamodb",)
    stage = {**STAGES["dev"], "network": {"kind": "new", **NONE}, "database": AURORA}
    app = replace(APP, functions=TASKS, buckets=lambda *to: {**add_exports(*to), **page["add_endpoints"](*to)})
    done = app.synthesise(
        {"stages": {"dev": stage}}, output=tmp_path, environ={}, build=lambda *_: no_packages, findings=False
    )
    assert set(endpoints(data(done))) == {"s3", "sqs"}


# --- An existing VPC -----------------------------------------------------------------------------------------------


def test_an_existing_network_gets_only_security_groups(made: NetworkStage) -> None:
    done = made(**EXISTING_NETWORK)
    kinds = {resource["Type"] for resource in data(done)["Resources"].values()}
    assert {kind for kind in kinds if kind.startswith("AWS::EC2::")} == {"AWS::EC2::SecurityGroup"}
    groups = templates.of_type(data(done), "AWS::EC2::SecurityGroup")
    assert {group["VpcId"] for group in groups.values()} == {"vpc-0a1b2c3d"}
    (cluster_subnets,) = templates.of_type(data(done), "AWS::RDS::DBSubnetGroup").values()
    assert cluster_subnets["SubnetIds"] == ["subnet-01", "subnet-02"]
    function = templates.functions(done.whole("acme-jobs"))["acme-order-ship"]
    assert function["VpcConfig"]["SubnetIds"] == ["subnet-01", "subnet-02"]


def test_an_existing_network_can_have_further_egress_ports(made: NetworkStage) -> None:
    template = made(**EXISTING_NETWORK, egress_ports=[587]).templates["acme-jobs"]
    found = rules(template, group_of_the_functions(template), "Egress")
    assert {rule["FromPort"] for rule in found if "CidrIp" in rule} == {443, 587}


# --- Every kind ----------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [IPV6, NAT, EXISTING_NETWORK]


@pytest.mark.parametrize("network", KINDS)
def test_functions_with_a_database_login_are_in_the_network(made: NetworkStage, network: dict[str, Any]) -> None:
    template = made(**network).whole("acme-jobs")
    placed = {name for name, function in templates.functions(template).items() if "VpcConfig" in function}
    assert placed == {
        name for name in templates.functions(template) if "DATABASE_URL" in templates.variables(template, name)
    }
    assert "acme-router" not in placed
    groups = {json.dumps(templates.functions(template)[name]["VpcConfig"]["SecurityGroupIds"]) for name in placed}
    assert len(groups) == 1
    assert "NetworkFunctions" in groups.pop()


IPV6_WAYS: list[dict[str, Any]] = [IPV6, {**EXISTING_NETWORK, "egress": "ipv6"}]


@pytest.mark.parametrize("network", [*IPV6_WAYS, NAT, ENDPOINTS, NONE, EXISTING_NETWORK])
def test_only_functions_with_egress_ipv6_use_ipv6(made: NetworkStage, network: dict[str, Any]) -> None:
    template = made(**network).whole("acme-jobs")
    for name, function in templates.functions(template).items():
        dual_stack = network in IPV6_WAYS and "VpcConfig" in function
        assert function.get("VpcConfig", {}).get("Ipv6AllowedForDualStack", False) == dual_stack
        variable = templates.variables(template, name).get("AWS_USE_DUALSTACK_ENDPOINT")
        assert variable == ("true" if dual_stack else None)


@pytest.mark.parametrize("network", KINDS)
def test_a_role_that_removes_interfaces_is_deleted_after_the_security_group(
    made: NetworkStage, network: dict[str, Any]
) -> None:
    done = made(**network)
    template = done.templates["acme-jobs"]
    group = group_of_the_functions(template)
    first = {logical_id: template["Resources"][logical_id] for logical_id in template["Resources"][group]["DependsOn"]}
    (role,) = [logical_id for logical_id, item in first.items() if item["Type"] == "AWS::IAM::Role"]
    (policy,) = [logical_id for logical_id, item in first.items() if item["Type"] == "AWS::IAM::ManagedPolicy"]
    assert {"Ref": policy} in template["Resources"][role]["Properties"]["ManagedPolicyArns"]
    nested = templates.of_type(template, "AWS::CloudFormation::Stack").values()
    assert all(group in json.dumps(stack["Parameters"]) for stack in nested)  # and so they are deleted before it
    assert "acme-jobs" not in json.dumps(data(done))  # and so the data stack is deleted last


@pytest.mark.parametrize("network", KINDS)
def test_the_migration_waits_for_the_rules_that_let_it_to_the_database(
    made: NetworkStage, network: dict[str, Any]
) -> None:
    template = made(**network).templates["acme-jobs"]
    (run,) = [item for item in template["Resources"].values() if item["Type"] == "Custom::Migration"]
    between = {
        logical_id
        for logical_id, item in template["Resources"].items()
        if item["Type"] in ("AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress")
    }
    assert len(between) == 2
    assert between <= set(run["DependsOn"])


@pytest.mark.parametrize("network", KINDS)
def test_lambda_may_create_network_interfaces_and_the_functions_code_may_not(
    made: NetworkStage, network: dict[str, Any]
) -> None:
    done = made(**network)
    (policy,) = [
        policy
        for name, policy in templates.of_type(done.templates["acme-jobs"], "AWS::IAM::ManagedPolicy").items()
        if "Interfaces" in name
    ]
    *allowed, denied = policy["PolicyDocument"]["Statement"]
    # Source: Lambda, Giving Lambda functions access to resources in an Amazon VPC
    needed = {
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
    }
    assert {action for statement in allowed for action in statement["Action"]} == needed
    for statement in allowed:
        if not all(action.startswith("ec2:Describe") for action in statement["Action"]):
            assert templates.target({"Resources": {}}, statement["Resource"]) == (
                "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:*/*"
            )
    assert denied["Effect"] == "Deny"
    assert set(denied["Action"]) == needed
    (own,) = denied["Condition"]["ArnLike"].values()
    assert templates.target({"Resources": {}}, own).endswith(":function:acme-*")

    template = done.whole("acme-jobs")
    for function in templates.functions(template).values():
        role = template["Resources"][function["Role"]["Fn::GetAtt"][0]]["Properties"]
        given = json.dumps(role.get("ManagedPolicyArns", []))
        assert ("NetworkInterfaces" in given) == ("VpcConfig" in function)


@pytest.mark.parametrize("network", KINDS)
def test_the_synth_needs_no_lookup_and_no_custom_resource_for_the_network(
    made: NetworkStage, network: dict[str, Any]
) -> None:
    done = made(**network)
    assert not json.loads((done.directory / "manifest.json").read_text()).get("missing")
    kinds = {resource["Type"] for resource in data(done)["Resources"].values()}
    assert not [kind for kind in kinds if kind.startswith(("AWS::Lambda::", "Custom::", "AWS::CloudFormation::"))]


def test_without_a_network_functions_are_outside_a_vpc(dev: Synthesised) -> None:
    assert not [r for r in data(dev)["Resources"].values() if r["Type"].startswith("AWS::EC2::")]
    assert not any("VpcConfig" in function for function in templates.functions(dev.whole("acme-jobs")).values())


def test_a_local_stage_has_no_resource_that_an_emulator_refuses(local: Synthesised) -> None:
    kinds = {resource["Type"] for resource in local.templates["jobs-data"]["Resources"].values()}
    assert kinds == {"AWS::S3::Bucket"}
