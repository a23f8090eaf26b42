"""The preflight's rules on a deploy that would move a stage to another database, and their reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from joblane.cdk.preflight.concurrency import Account
from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.moves import UsedDatabase, moves, read_deployed
from joblane.cdk.preflight.read import _live, check_deploy
from tests.unit.cdk.test_preflight_read import assembly
from tests.world import mocked_aws

KINDS = ("aurora", "rds", "existing")
OWN, COPY, OTHER = (UsedDatabase("aurora", restored) for restored in (None, "cluster-COPY", "cluster-OTHER"))
LIVE = ". db:5432/jobs, of DATABASE_URL, has 7 live tasks"


def found(wanted: UsedDatabase, deployed: UsedDatabase | None, leaves: str | None = None) -> list[Finding]:
    return list(moves(wanted, deployed, prefix="jobs", leaves=leaves, live=LIVE))


@pytest.mark.parametrize(("before", "after"), [*permutations(KINDS, 2)])
def test_another_kind_of_database_is_refused_in_each_direction(before: str, after: str) -> None:
    (finding,) = found(UsedDatabase(after, None), UsedDatabase(before, None))
    assert (finding.kind, finding.what) == (FindingKind.REFUSED, "database.kind")
    compared = f"it is {before} in the deployed stage, by the resources of jobs-data, and {after} in cdk.json"
    assert finding.why.startswith(compared)
    assert f'write "kind": "{before}" again' in finding.do
    assert list(found(UsedDatabase(after, None), UsedDatabase(before, None), "cluster-X"))  # nothing confirms it


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_database_and_a_first_deploy_are_no_finding(kind: str) -> None:
    same = UsedDatabase(kind, None)
    assert found(same, same) == found(same, None) == []
    assert found(COPY, COPY) == found(COPY, None) == []


@pytest.mark.parametrize("kind", ["given", "local"])
def test_a_database_of_a_cdk_app_or_of_this_machine_is_compared_with_an_own_one_only(kind: str) -> None:
    wanted = UsedDatabase(kind, None)
    assert found(wanted, UsedDatabase("existing", None)) == []
    (finding,) = found(wanted, OWN)
    assert "CloudFormation would delete the aurora database with its tasks" in finding.why


def test_a_first_restored_copy_is_a_note_that_says_that_the_deploy_pauses_it() -> None:
    (finding,) = found(COPY, OWN)
    assert finding.kind is FindingKind.NOTE
    assert finding.why.startswith(
        "the stage uses its own database jobs-database, and would use the restored copy cluster-COPY."
    )
    assert "pauses every queue" in finding.do


@pytest.mark.parametrize(
    ("wanted", "after"), [(OWN, "its own database jobs-database"), (OTHER, "the restored copy cluster-OTHER")]
)
def test_leaving_a_copy_needs_a_confirmation_that_names_it(wanted: UsedDatabase, after: str) -> None:
    for leaves in (None, "cluster-OTHER", "jobs-database"):
        (finding,) = found(wanted, COPY, leaves)
        assert finding.kind is FindingKind.REFUSED
        assert finding.why == (
            f"the stage uses the restored copy cluster-COPY, and would use {after}. Tasks that were enqueued or ended "
            f"in the restored copy cluster-COPY since the two parted are there only: in {after} they are missing, or "
            f"run again{LIVE}"
        )
        assert "--leave cluster-COPY (with make: LEAVE=cluster-COPY)" in finding.do
    (finding,) = found(wanted, COPY, "cluster-COPY")
    assert finding.kind is FindingKind.NOTE
    assert after in finding.why


OF_RDS, ONE, TWO = (UsedDatabase("aurora", None, key) for key in (None, "arn:one", "arn:two"))


@pytest.mark.parametrize(
    ("deployed", "wanted", "compared", "do"),
    [
        (
            OF_RDS,
            ONE,
            "has the key of RDS, by the outputs of jobs-data, and arn:one is in cdk.json",
            "leave kms_key of",
        ),
        (
            ONE,
            TWO,
            "has arn:one, by the outputs of jobs-data, and arn:two is in cdk.json",
            'write "kms_key": "arn:one"',
        ),
        (
            ONE,
            OF_RDS,
            "has arn:one, by the outputs of jobs-data, and no key is in cdk.json",
            'write "kms_key": "arn:one"',
        ),
    ],
    ids=["added", "changed", "removed"],
)
def test_another_key_of_a_deployed_database_is_refused(
    deployed: UsedDatabase, wanted: UsedDatabase, compared: str, do: str
) -> None:
    (finding,) = found(wanted, deployed, "cluster-X")  # nothing confirms it
    assert (finding.kind, finding.what) == (FindingKind.REFUSED, "database.kms_key")
    assert compared in finding.why
    assert finding.why.endswith("CloudFormation would replace the aurora database by an empty one")
    assert finding.do.startswith(do)
    assert found(wanted, None) == found(wanted, wanted) == []


def test_the_database_that_is_left_is_described_by_its_live_tasks() -> None:
    def described(*types: str) -> str:
        live = {("mail:send", "low"): 1200, ("mail:send", "default"): 34, **{(type_, "low"): 1 for type_ in types}}
        database: Any = SimpleNamespace(address="db:5432/jobs", live=live)
        return _live(database)

    start = ". db:5432/jobs, of DATABASE_URL, has"
    assert _live(None) == ""
    assert described() == f"{start} 1,234 live tasks: 1,234 of mail:send"
    assert described(*"abcde") == f"{start} 1,239 live tasks: 1,234 of mail:send, 1 of a, 1 of b, 1 of c, 1 of d, …"


# --- Reading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cloudformation() -> Iterator[tuple[Any, Stubber]]:
    access: Any = {"region_name": "eu-central-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    with closing(boto3.client("cloudformation", **access)) as client, Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def answer(
    stub: Stubber, jobs: dict[str, Any] | None, data: list[tuple[str, str, str]] | None, key: str | None = None
) -> None:
    """``jobs``: outputs of the jobs stack; ``data``: resources of the data stack; None: there is no stack. ``key``: of
    the database."""
    missing = ("ValidationError", "Stack with id X does not exist")
    if jobs is None:
        stub.add_client_error("describe_stacks", *missing, expected_params={"StackName": "jobs-jobs"})
    else:
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in jobs.items()]
        stack = {"StackName": "jobs-jobs", "CreationTime": "2026-01-01", "StackStatus": "UPDATE_COMPLETE"}
        stub.add_response("describe_stacks", {"Stacks": [{**stack, "Outputs": outputs}]}, {"StackName": "jobs-jobs"})
    if data is None:
        stub.add_client_error("list_stack_resources", *missing, expected_params={"StackName": "jobs-data"})
        return
    resources = [
        {
            "ResourceType": type_,
            "LogicalResourceId": id_,
            "ResourceStatus": status,
            "LastUpdatedTimestamp": "2026-01-01T00:00:00Z",
        }
        for type_, id_, status in data
    ]
    stub.add_response("list_stack_resources", {"StackResourceSummaries": resources}, {"StackName": "jobs-data"})
    if any(each in (CLUSTER, INSTANCE) for each in data):
        stack = {"StackName": "jobs-data", "CreationTime": "2026-01-01", "StackStatus": "UPDATE_COMPLETE"}
        outputs = [{"OutputKey": "DatabaseKmsKey", "OutputValue": key}] if key else []
        stub.add_response("describe_stacks", {"Stacks": [{**stack, "Outputs": outputs}]}, {"StackName": "jobs-data"})


CLUSTER = ("AWS::RDS::DBCluster", "DatabaseCluster5B53A178", "UPDATE_COMPLETE")
WRITER = ("AWS::RDS::DBInstance", "DatabaseClusterWriterD43085C6", "UPDATE_COMPLETE")
INSTANCE = ("AWS::RDS::DBInstance", "DatabaseInstanceAA8A5FDE", "UPDATE_COMPLETE")
APPLICATION = ("AWS::RDS::DBInstance", "ReportsInstance1234", "UPDATE_COMPLETE")


@pytest.mark.parametrize(
    ("jobs", "data", "expected"),
    [
        (None, None, None),
        ({}, None, UsedDatabase("existing", None)),
        ({}, [APPLICATION], UsedDatabase("existing", None)),
        ({}, [CLUSTER, WRITER], UsedDatabase("aurora", None)),
        ({}, [APPLICATION, INSTANCE], UsedDatabase("rds", None)),
        ({"RestoredDatabase": "db-COPY"}, [INSTANCE], UsedDatabase("rds", "db-COPY")),
        (None, [CLUSTER, WRITER], UsedDatabase("aurora", None)),  # the first deploy failed after its data stack
        (None, [(*CLUSTER[:2], "DELETE_COMPLETE")], None),  # and was rolled back
    ],
)
def test_the_deployed_database_is_known_by_the_resources_of_the_data_stack(
    cloudformation: tuple[Any, Stubber],
    jobs: dict[str, Any] | None,
    data: list[tuple[str, str, str]] | None,
    expected: UsedDatabase | None,
) -> None:
    client, stub = cloudformation
    answer(stub, jobs, data)
    assert read_deployed(client, "jobs") == expected


def test_the_key_of_the_deployed_database_is_known_by_the_output_of_the_data_stack(
    cloudformation: tuple[Any, Stubber],
) -> None:
    client, stub = cloudformation
    answer(stub, {}, [CLUSTER, WRITER], "arn:one")
    assert read_deployed(client, "jobs") == UsedDatabase("aurora", None, "arn:one")


@pytest.mark.parametrize("operation", ["describe_stacks", "list_stack_resources"])
def test_only_a_missing_stack_counts_as_one_that_is_not_deployed(
    cloudformation: tuple[Any, Stubber], operation: str
) -> None:
    client, stub = cloudformation
    if operation == "list_stack_resources":
        stub.add_client_error("describe_stacks", "ValidationError", "Stack with id X does not exist")
    stub.add_client_error(operation, "AccessDenied", "no")
    with pytest.raises(ClientError, match="AccessDenied"):
        read_deployed(client, "jobs")


# --- A whole check -------------------------------------------------------------------------------------------------

HOST = "jobs-restored.cluster-c1.eu-central-1.rds.amazonaws.com"


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str | None], None]]:
    """Deploys a stage with the kind of database and the copy. An account in moto, and a shell without a database."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def deploy(kind: str, copy: str | None) -> None:
        monkeypatch.setattr(
            "joblane.cdk.preflight.moves.read_deployed", lambda client, prefix: UsedDatabase(kind, copy)
        )

    monkeypatch.setattr("joblane.cdk.preflight.read.deployed", lambda client, stacks: ({}, set()))
    monkeypatch.setattr("joblane.cdk.preflight.keys.read_deployed", lambda client, stack, migration: None)
    monkeypatch.setattr("joblane.cdk.preflight.read.account", lambda client, *_: Account(1000, 0, {}))
    with mocked_aws(monkeypatch, "eu-central-1"):
        yield deploy


def checked(folder: Path, kind: str, copy: str | None, leaves: str | None = None) -> list[str]:
    """Return what the check of a checkout refuses about its database."""
    (folder / "jobs-data.template.json").write_text(
        json.dumps({"Resources": {}, "Outputs": {"DatabaseHost": {"Value": HOST}}})
    )
    assembly(folder, database=kind, restored=copy)
    manifest = json.loads((folder / "manifest.json").read_text())
    stack = {"type": "aws:cloudformation:stack", "properties": {"templateFile": "jobs-data.template.json"}}
    manifest["artifacts"]["jobs-data"] = stack
    (folder / "manifest.json").write_text(json.dumps(manifest))
    findings = check_deploy("dev", folder, leaves=leaves)
    return [each.why for each in findings if each.kind is FindingKind.REFUSED and each.what.startswith("database.")]


@pytest.mark.parametrize(("before", "after"), [*permutations(KINDS, 2)])
def test_a_whole_check_refuses_another_kind_in_each_direction(
    tmp_path: Path, deployed: Callable[[str, str | None], None], before: str, after: str
) -> None:
    deployed(before, None)
    (why,) = checked(tmp_path, after, None)
    assert why.startswith(f"it is {before} in the deployed stage")
    assert checked(tmp_path, before, None) == []


def test_a_whole_check_of_a_copy_that_is_left_or_unknown(
    tmp_path: Path, deployed: Callable[[str, str | None], None]
) -> None:
    deployed("aurora", "cluster-COPY")
    unknown = "the account has no cluster with the resource id {} in this region"
    # the copy of the deployed stage was deleted
    assert checked(tmp_path, "aurora", "cluster-COPY") == [unknown.format("cluster-COPY")]
    # restored is removed
    (why,) = checked(tmp_path, "aurora", None)
    assert why.startswith("the stage uses the restored copy cluster-COPY, and would use its own database jobs-database")
    (why,) = checked(tmp_path, "aurora", None, "cluster-OTHER")
    assert checked(tmp_path, "aurora", None, "cluster-COPY") == []
    # restored is changed
    copy, why = sorted(checked(tmp_path, "aurora", "cluster-OTHER"))
    assert copy == unknown.format("cluster-OTHER")
    assert "cluster-COPY, and would use the restored copy cluster-OTHER" in why
    assert checked(tmp_path, "aurora", "cluster-OTHER", "cluster-COPY") == [unknown.format("cluster-OTHER")]
