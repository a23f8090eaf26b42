"""Networks with other settings than those of the golden files, and what their kinds have in common."""

from __future__ import annotations

import ipaddress
import json
import re
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
from tests.infra.conftest import AURORA, ENDPOINTS, NAT, NONE, STAGES, TASKS, Synth
from tests.infra.templates import Template
from tests.pages import ROOT, blocks

NetworkStage = Callable[..., Synthesised]


@pytest.fixture
def made(synth: Synth) -> NetworkStage:
    """A stage with Aurora and a network of these settings."""
    return lambda **network: synth("dev", network=network, database=AURORA)


def data(done: Synthesised) -> Template:
    return done.templates["acme-data"]


def subnets(template: Template) -> dict[str, Any]:
    return templates.of_type(template, "AWS::EC2::Subnet")


def endpoints(template: Template) -> set[str]:
    """Return the last words of the names of the services that have an endpoint."""
    found = templates.of_type(template, "AWS::EC2::VPCEndpoint").values()
    return {templates.target(template, endpoint["ServiceName"]).rpartition(".")[2] for endpoint in found}


def test_all_subnets_are_in_the_zones_that_a_stage_names(made: NetworkStage) -> None:
    zones = ["eu-central-1c", "eu-central-1a"]
    found = subnets(data(made(**NAT, availability_zones=zones))).items()
    for kind in ("functions", "database", "public"):
        assert [subnet["AvailabilityZone"] for name, subnet in found if f"NetworkVpc{kind}" in name] == zones


def test_another_way_out_changes_no_vpc_subnet_or_import_of_the_functions(synth: Synth) -> None:
    def kept(app: str) -> tuple[dict[str, Any], set[str]]:
        template = data(synth.app(app))
        return {
            logical_id: resource
            for logical_id, resource in template["Resources"].items()
            if resource["Type"] in ("AWS::EC2::VPC", "AWS::EC2::VPCCidrBlock", "AWS::EC2::Subnet")
            and not logical_id.startswith("NetworkVpcpublic")
        }, {name for name in template["Outputs"] if name.startswith("Exports")}

    resources, outputs = kept("ipv6")
    # EC2 takes no IPv6 addresses from a subnet with functions, so every network has them
    assert sum("Ipv6CidrBlock" in resource["Properties"] for resource in resources.values()) == 4
    assert all(kept(app) == (resources, outputs) for app in ("asleep", "nat_instance", "endpoints", "none"))


@pytest.mark.parametrize("app", ["endpoints", "none"])
def test_with_endpoints_or_none_no_subnet_has_a_way_to_the_internet(app: str, synth: Synth) -> None:
    kinds = {resource["Type"] for resource in data(synth.app(app))["Resources"].values()}
    assert not {kind for kind in kinds if re.search("EC2::.*Gateway|EC2::Route$", kind)}


def test_without_a_task_that_sends_mail_there_is_no_endpoint_for_it(synth: Synth) -> None:
    done = synth("dev", package="tests.infra.renamed", settings={}, network=ENDPOINTS, database=AURORA)
    assert endpoints(data(done)) == {"s3", "sqs"}


def test_the_subnets_of_a_small_network_fit_it_and_ec2s_limits(made: NetworkStage) -> None:
    network = ipaddress.ip_network("192.168.7.0/24")
    template = data(made(**NAT, cidr=str(network)))
    found = [ipaddress.ip_network(subnet["CidrBlock"]) for subnet in subnets(template).values()]
    assert len(found) == 6
    assert all(block.subnet_of(network) and block.prefixlen <= 28 for block in found)  # type: ignore[arg-type]
    assert not any(block.overlaps(other) for block in found for other in found if block is not other)


def test_an_app_adds_its_own_ways_as_the_page_does(no_packages: Packages, tmp_path: Path) -> None:
    declared, added = [block.text for block in blocks("python", ROOT / "docs" / "how-to" / "network.md")]
    page: dict[str, Any] = {"__name__": "page"}
    exec(declared, page)
    exec(added, page)
    assert page["order_ship"].grants.services == ("dynamodb",)
    stage = {**STAGES["dev"], "network": NONE, "database": AURORA}
    app = replace(APP, functions=TASKS, buckets=lambda *to: {**add_exports(*to), **page["add_endpoints"](*to)})
    done = app.synthesise(
        {"stages": {"dev": stage}}, output=tmp_path, environ={}, build=lambda *_: no_packages, findings=False
    )
    assert endpoints(data(done)) == {"s3", "sqs"}


def test_a_role_that_removes_interfaces_is_deleted_after_the_security_group(synth: Synth) -> None:
    done = synth.app("ipv6")
    template = done.templates["acme-jobs"]
    (group,) = [name for name in templates.of_type(template, "AWS::EC2::SecurityGroup") if "Functions" in name]
    first = {logical_id: template["Resources"][logical_id] for logical_id in template["Resources"][group]["DependsOn"]}
    (role,) = [logical_id for logical_id, item in first.items() if item["Type"] == "AWS::IAM::Role"]
    (policy,) = [logical_id for logical_id, item in first.items() if item["Type"] == "AWS::IAM::ManagedPolicy"]
    assert {"Ref": policy} in template["Resources"][role]["Properties"]["ManagedPolicyArns"]
    nested = templates.of_type(template, "AWS::CloudFormation::Stack").values()
    assert all(group in json.dumps(stack["Parameters"]) for stack in nested)  # and so they are deleted before it
    assert "acme-jobs" not in json.dumps(data(done))  # and so the data stack is deleted last
