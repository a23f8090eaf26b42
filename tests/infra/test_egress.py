"""A sentence for each AWS service that the functions of a stage call and its network does not reach."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import Grants, Payload, TaskContext, task
from joblane.cdk.constructs.code import Workload
from joblane.cdk.egress import check_egress, check_services, needs_of
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.packaging import Packages
from joblane.cdk.settings.stage import Stage
from joblane.project import Project
from joblane.tasks.function import Function
from joblane.tasks.task import Task

NETWORKS: dict[str, Any] = {
    "ipv6": {"kind": "new"},
    "nat": {"kind": "new", "egress": "nat"},
    "nat_instance": {"kind": "new", "egress": "nat_instance"},
    "endpoints": {"kind": "new", "egress": "endpoints"},
    "none": {"kind": "new", "egress": "none", "reaches": ["sqs", "sesv2"]},
    "subnets": {
        "kind": "existing",
        "egress": "none",
        "reaches": ["sqs"],
        "vpc_id": "vpc-1",
        "subnet_ids": ["subnet-1", "subnet-2"],
        "availability_zones": ["eu-central-1a", "eu-central-1b"],
    },
}


class Order(Payload):
    number: int


def ship(*, environment: tuple[str, ...] = (), **grants: Any) -> Task[Any, Any]:
    @task("order:ship", environment=environment, grants=Grants(**grants))
    def order_ship(payload: Order, ctx: TaskContext) -> None: ...

    return order_ship


def workload(packages: Packages, *tasks: Task[Any, Any], functions: Any = None, **settings: Any) -> Workload:
    given = {"name": "dev", "network": {"kind": "new"}, "database": {"kind": "aurora"}, "mail_from": "a@b.io"}
    stage = Stage.model_validate({**given, **settings})
    return Workload(stage, Project.here(), {each.type: each for each in tasks}, functions or {}, packages)


def check(network: str, work: Workload) -> None:
    stage = work.stage.model_copy(
        update={"network": Stage.model_validate({**BASE, "network": NETWORKS[network]}).network}
    )
    assert stage.network is not None
    check_egress("cdk.json: stage 'dev'", stage.network, needs_of(work, secret_login=False))


BASE: dict[str, Any] = {"name": "dev", "database": {"kind": "aurora"}}


@pytest.mark.parametrize(
    ("network", "grants", "problem"),
    [
        ("ipv6", {"mail": True, "services": ("dynamodb", "s3", "secretsmanager")}, None),
        (
            "ipv6",
            {"services": ("comprehendmedical",)},
            (
                "network.egress: ipv6 does not reach comprehendmedical (task 'order:ship' calls it): "
                "AWS lists no dual-stack endpoint of it; set egress to nat or endpoints"
            ),
        ),
        (
            "ipv6",
            {"services": ("workmail",)},
            (
                "network.egress: ipv6 does not reach workmail (task 'order:ship' calls it): "
                "Joblane knows no dual-stack endpoint of it; set egress to nat"
            ),
        ),
        ("nat", {"mail": True, "services": ("comprehendmedical", "workmail")}, None),
        ("nat_instance", {"mail": True, "services": ("dynamodb", "s3")}, None),
        (
            "nat_instance",
            {"services": ("workmail",)},
            (
                "network.egress: nat_instance does not reach workmail (task 'order:ship' calls it): "
                "Joblane knows no dual-stack endpoint of it; set egress to nat"
            ),
        ),
        ("endpoints", {"mail": True, "services": ("comprehendmedical", "dynamodb")}, None),
        (
            "endpoints",
            {"services": ("workmail",)},
            (
                "network.egress: endpoints does not reach workmail (task 'order:ship' calls it): Joblane knows no VPC "
                "endpoint of it; set egress to nat, or to none and add the endpoint yourself"
            ),
        ),
        ("none", {"mail": True}, None),
        (
            "none",
            {"services": ("dynamodb",)},
            (
                "network.egress: none does not reach dynamodb (task 'order:ship' calls it): add a VPC endpoint or a "
                "route for it and write it into network.reaches, or choose another egress"
            ),
        ),
        (
            "subnets",
            {"mail": True},
            (
                "network.egress: none does not reach sesv2 (task 'order:ship' sends mail): add a VPC "
                "endpoint or a route for it and write it into network.reaches, or choose another egress"
            ),
        ),
    ],
)
def test_a_service_that_the_network_does_not_reach_is_refused(
    network: str, grants: dict[str, Any], problem: str | None, no_packages: Packages
) -> None:
    work = workload(no_packages, ship(**grants))
    if problem is None:
        check(network, work)
        return
    with pytest.raises(StageError) as refused:
        check(network, work)
    assert str(refused.value) == f"cdk.json: stage 'dev': {problem}"


def test_each_service_that_is_not_reached_has_a_sentence(no_packages: Packages) -> None:
    with pytest.raises(StageError, match=r"reach workmail .*; network\.egress: ipv6 does not reach comprehendmedical"):
        check("ipv6", workload(no_packages, ship(services=("workmail", "comprehendmedical"))))


def test_the_librarys_own_calls_are_needed_and_a_secret_only_by_who_reads_it(no_packages: Packages) -> None:
    key: dict[str, Any] = {"settings": {"API_KEY": {"secret": "acme/key"}}}
    assert set(needs_of(workload(no_packages, ship()), secret_login=False)) == {"sqs"}
    assert set(needs_of(workload(no_packages, ship(), control={}), secret_login=False)) == {
        "sqs",
        "lambda",
        "logs",
        "scheduler",
    }
    assert "secretsmanager" in needs_of(workload(no_packages, ship()), secret_login=True)
    assert "secretsmanager" not in needs_of(workload(no_packages, ship(), **key), secret_login=False)
    reader = ship(environment=("API_KEY",))
    assert (
        needs_of(workload(no_packages, reader, **key), secret_login=False)["secretsmanager"]
        == "task 'order:ship' reads a secret"
    )
    api = Function("Answers", reader.timeout, 512, environment=("API_KEY",))
    found = needs_of(workload(no_packages, functions={"api": api}, **key), secret_login=False)
    assert found["secretsmanager"] == "function 'api' reads a secret"


def test_tasks_that_send_events_need_eventbridge(no_packages: Packages) -> None:
    @task("order:pay", events=("archived",))
    def order_pay(payload: Order, ctx: TaskContext) -> None: ...

    work = workload(no_packages, ship(), order_pay)
    assert needs_of(work, secret_login=False)["events"] == "task 'order:pay' sends events"
    check("ipv6", work)
    check("endpoints", work)
    with pytest.raises(StageError, match=r"none does not reach events \(task 'order:pay' sends events\): add a VPC"):
        check("none", work)


def test_a_declared_service_that_boto3_does_not_have_is_refused(no_packages: Packages) -> None:
    with pytest.raises(SynthError, match=r"task 'order:ship': grants.services: boto3 has no service 'dynamo-db'; did"):
        check_services(workload(no_packages, ship(services=("dynamo-db",))))
