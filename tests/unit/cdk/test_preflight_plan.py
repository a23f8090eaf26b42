"""The preflight's rule on the plan of the account, and its reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from joblane.cdk.preflight import plan
from joblane.cdk.preflight.findings import Finding, FindingKind, blocks_deploy
from joblane.cdk.preflight.plan import Wanted

ACCESS: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
NANO = {"LaunchTemplateData": {"InstanceType": "t4g.nano"}}
STATE = {"accountPlanStatus": "ACTIVE"}
AURORA = Wanted({"an Aurora cluster (database.kind aurora)": plan.SMALL_DATABASE})


def template(**resources: dict[str, Any]) -> dict[str, Any]:
    given = {
        f"AWS::{'EC2' if kind == 'LaunchTemplate' else 'RDS'}::{kind}": properties
        for kind, properties in resources.items()
    }
    found = {kind[-8:]: {"Type": kind, "Properties": each} for kind, each in given.items()}
    return {"data": {"Resources": found}, "jobs": {"Metadata": {"Joblane": {"prefix": "jobs"}}}}


@pytest.mark.parametrize(
    ("templates", "refused"),
    [
        ({"jobs": {"Resources": {}}}, []),
        (template(DBInstance={"DBInstanceClass": "db.t4g.micro", "BackupRetentionPeriod": 1}), []),
        (template(DBInstance={"DBInstanceClass": "db.t4g.micro"}), []),  # RDS keeps backups for one day
        (
            template(DBInstance={"DBInstanceClass": "db.t4g.small", "BackupRetentionPeriod": 7}),
            [
                "backups for 7 days (database.backup_days above 1)",
                "the class db.t4g.small (database.instance_class oth",
            ],
        ),
        (
            template(
                DBCluster={"BackupRetentionPeriod": 1},
                DBInstance={"DBInstanceClass": "db.serverless", "DBClusterIdentifier": {"Ref": "DBCluster"}},
            ),
            ["an Aurora cluster (database.kind aurora)"],
        ),
        (
            template(DBCluster={"BackupRetentionPeriod": 14}),
            ["an Aurora cluster (database.kind aurora)", "backups for 14 days (database.backup_days above 1)"],
        ),
        (
            template(LaunchTemplate={"VersionDescription": "jobs-nat", **NANO}),
            ["an EC2 instance of type t4g.nano (network.egress nat_instance)"],
        ),
        # references of a CDK app, and its own launch templates
        (template(LaunchTemplate=NANO), []),
        (template(LaunchTemplate={"LaunchTemplateData": {}}), []),
        (template(DBInstance={"DBInstanceClass": {"Ref": "Class"}, "BackupRetentionPeriod": {"Ref": "Days"}}), []),
    ],
)
def test_what_a_free_plan_refuses_is_read_from_the_templates(templates: dict[str, Any], refused: list[str]) -> None:
    found = Wanted.of(templates).refused
    assert [each.startswith(start) for each, start in zip(found, refused, strict=True)] == [True] * len(refused)


@contextmanager
def answered(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | str | Exception) -> Iterator[Any]:
    """A session in Frankfurt, whose calls of the API have the answer, the error of this code, or the exception."""
    session, make = boto3.session.Session(region_name="eu-central-1", **ACCESS), boto3.session.Session.client
    stubs: list[Stubber] = []

    def client(self: Any, service: str, **options: Any) -> Any:
        assert (service, options["region_name"]) == ("freetier", "us-east-1")
        made = make(self, "freetier", **options)
        if isinstance(answer, Exception):
            monkeypatch.setattr(made, "get_account_plan_state", lambda: (_ for _ in ()).throw(answer))
            return made
        stub = Stubber(made)
        if isinstance(answer, str):
            stub.add_client_error("get_account_plan_state", answer)
        else:
            stub.add_response("get_account_plan_state", {"accountId": "111122223333", **STATE, **answer}, {})
        stub.activate()
        stubs.append(stub)
        return made

    monkeypatch.setattr(boto3.session.Session, "client", client)
    yield session
    for stub in stubs:
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("status", ["NOT_STARTED", "ACTIVE", "EXPIRED"])
def test_a_free_plan_refuses_the_deploy_with_the_command_that_upgrades(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    with answered(monkeypatch, {"accountPlanType": "FREE", "accountPlanStatus": status}) as session:
        (found,) = plan.findings_on_plan(session, AURORA)
    assert blocks_deploy([found])
    assert found.why == "it is AWS's Free plan, which refuses an Aurora cluster (database.kind aurora)"
    assert "aws freetier upgrade-account-plan --account-plan-type PAID --region us-east-1" in found.do
    assert '"database": {"kind": "rds"}' in found.do
    assert "egress" not in found.do


def test_each_setting_that_a_free_plan_accepts_is_named_once() -> None:
    given: dict[str, Any] = {
        "DBCluster": {"BackupRetentionPeriod": 14},
        "LaunchTemplate": {"VersionDescription": "jobs-nat", **NANO},
    }
    (found,) = plan.plan(Wanted.of(template(**given)), plan.FREE)
    assert found.do.endswith(f"before the first deploy of the stage, set {plan.SMALL_DATABASE} and {plan.OTHER_EGRESS}")


@pytest.mark.parametrize("answer", [{"accountPlanType": "PAID"}, "ResourceNotFoundException"])
def test_a_paid_plan_and_an_older_account_are_no_finding(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | str
) -> None:
    with answered(monkeypatch, answer) as session:
        assert list(plan.findings_on_plan(session, AURORA)) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("AccessDeniedException", "AWS answers AccessDeniedException"),
        ("ThrottlingException", "AWS answers ThrottlingException"),
        (EndpointConnectionError(endpoint_url="https://freetier.us-east-1.api.aws"), "Could not connect"),
    ],
)
def test_a_plan_that_cannot_be_read_is_a_note(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, why: str
) -> None:
    with answered(monkeypatch, answer) as session:
        (found,) = plan.findings_on_plan(session, AURORA)
    assert found.kind is FindingKind.NOTE
    assert not blocks_deploy([found], strict=True)
    assert found.why.startswith(f"it could not be read: {why}")
    assert "AWS refuses an Aurora cluster" in found.why
    assert "allow freetier:GetAccountPlanState" in found.do


def test_the_plan_is_not_read_where_it_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "read_plan", lambda session: pytest.fail("it was read"))
    found: list[Finding] = []
    for region, wanted in (("eu-central-1", Wanted({})), ("cn-north-1", AURORA), ("us-gov-west-1", AURORA)):
        found += plan.findings_on_plan(boto3.session.Session(region_name=region), wanted)
    assert found == []


def test_the_api_has_the_names_that_the_rule_reads() -> None:
    with closing(boto3.client("freetier", region_name="us-east-1", **ACCESS)) as client:
        model = client.meta.service_model
    read = model.operation_model("GetAccountPlanState")
    assert set(read.output_shape.members["accountPlanType"].enum) == {plan.FREE, "PAID"}
    assert {"ResourceNotFoundException", "AccessDeniedException"} <= {shape.name for shape in read.error_shapes}
    assert "accountPlanType" in model.operation_model("UpgradeAccountPlan").input_shape.members
