"""`joblane deploy`: its steps in order, what stops it, and what it prints for a failed stack."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from typer.testing import CliRunner, Result

from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.moves import UsedDatabase, moves
from joblane.cli import connect, terminal, watched
from joblane.cli.commands import deploy
from joblane.cli.exits import Exit
from joblane.cli.main import app
from joblane.cli.rollout import Rollout, StackFailure, marks, stack_failures
from joblane.local.errors import LocalError, MisuseError, UnavailableError
from joblane.project import Project

TEMPLATES: dict[str, dict[str, Any]] = {
    "acme-jobs": {"Metadata": {"Joblane": {"stage": "dev", "prefix": "acme"}}, "Resources": {}},
    "acme-control": {"Outputs": {"ControlUrl": {}}, "Resources": {}},
}


ACCOUNT_OF = connect.account_of


class Inspector:
    """An inspector whose first job ends in ``state``."""

    def __init__(self, state: str = "completed") -> None:
        self.calls: list[str] = []
        self._state = state

    def tasks(self, which: Any, *, limit: int) -> None:
        self.calls.append("tasks")

    def enqueue(self, type_: str, payload: Mapping[str, Any], *, reason: str) -> Any:
        self.calls.append(f"enqueue {type_} {payload} {reason}")
        return SimpleNamespace(id="first")

    def task(self, id_: str) -> Any:
        row = SimpleNamespace(state=self._state, type="jobs:sweep", reason="no database")
        return SimpleNamespace(row=row, why=SimpleNamespace(text="paused"), progress=None)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "JOBLANE_")):
            monkeypatch.delenv(name)
    # set, so that they are removed again if a command sets them
    for name, value in {"REGION": "us-east-1", "DEFAULT_REGION": "us-east-1", "PROFILE": ""}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The programs and requests of a deploy, replaced; ``ran`` lists the commands."""
    found = SimpleNamespace(
        ran=[], left=[], moves=[], images=[], findings=[], templates=TEMPLATES, status=0, inspector=Inspector()
    )

    def run(command: list[str], **options: Any) -> Any:
        found.ran.append(command[1:])
        return subprocess.CompletedProcess(command, found.status)

    monkeypatch.setattr("joblane.local.tools.Tools.fetch", lambda self, steps, emulator: None)

    def synthesised(stage: str, image: list[str] | None, move: str | None = None) -> tuple[Path, str]:
        found.moves.append(move)
        found.images.append(image)
        return tmp_path, "alarms: nobody is notified"

    monkeypatch.setattr(deploy, "_synthesised", synthesised)
    monkeypatch.setattr("joblane.cdk.preflight.read.read_templates", lambda folder: found.templates)
    monkeypatch.setattr(
        "joblane.cdk.preflight.read.check_deploy",
        lambda stage, folder, leaves: found.left.append(leaves) or found.findings,
    )
    monkeypatch.setattr("joblane.cli.rollout.subprocess.run", run)
    monkeypatch.setattr("joblane.cli.rollout.marks", lambda client, stacks: {})
    monkeypatch.setattr("joblane.cdk.costs.of_stage", lambda templates, tasks: [])
    monkeypatch.setattr(connect, "account_of", lambda session: "123456789012")
    monkeypatch.setattr(connect, "connect", lambda **target: found.inspector)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["deploy", *arguments], catch_exceptions=False)


def test_the_copy_that_a_deploy_leaves_is_confirmed_by_its_name(steps: SimpleNamespace) -> None:
    assert run("--stage", "dev", "--yes", "--leave", "cluster-COPY").exit_code == Exit.DONE
    assert run("--stage", "dev", "--yes").exit_code == Exit.DONE
    assert steps.left == ["cluster-COPY", None]


def test_the_addresses_of_images_are_those_of_the_command_in_each_synthesis(steps: SimpleNamespace) -> None:
    assert run("--stage", "dev", "--yes", "--image", "web=a@b", "--image", "shop=c", "--leave", "x").exit_code == 0
    assert steps.images == [["web=a@b", "shop=c"]] * 2


def test_the_preflight_of_given_templates_takes_no_image(steps: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["preflight", "--stage", "dev", "--assembly", str(tmp_path), "--image", "web=a@b"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, steps.images) == (Exit.USAGE, [])
    assert "the templates of --assembly have their images" in result.output


def test_each_move_that_a_person_wants_differs_from_a_rollback(steps: SimpleNamespace) -> None:
    # given a move away from a copy, a move to a copy, and a deploy without a move
    run("--stage", "dev", "--yes", "--leave", "cluster-COPY")
    own, copy = UsedDatabase("aurora", None), UsedDatabase("aurora", "cluster-COPY")
    steps.findings = [*moves(copy, own, prefix="acme", leaves=None, live="")]
    run("--stage", "dev", "--yes")
    steps.findings = [*moves(copy, copy, prefix="acme", leaves=None, live="")]
    run("--stage", "dev", "--yes")
    # then the first two are synthesised again, with the time
    first, away, second, there, third = steps.moves
    assert first is second is third is None
    assert datetime.fromisoformat(away) < datetime.fromisoformat(there)


# --- In order ------------------------------------------------------------------------------------------------------


def test_a_deploy_ends_with_a_first_job_and_what_to_look_at(steps: SimpleNamespace, tmp_path: Path) -> None:
    result = run("--stage", "dev", "--yes")
    assert result.exit_code == Exit.DONE, result.output
    (command,) = steps.ran
    assert command == [
        *("deploy", "--all", "--app", str(tmp_path), "--require-approval", "never"),
        *("--no-notices", "--no-version-reporting"),
    ]
    # then the query, which is repeated until the API answers, comes before the enqueue, which is not
    assert steps.inspector.calls == ["tasks", "enqueue jobs:sweep {} first job after a deploy"]
    for text in (
        "nobody is notified",
        "account 123456789012, region",
        "a month",
        "task first",
        "completed",
        "--stage dev doctor",
    ):
        assert text in result.output, text


def test_the_stage_may_also_be_given_before_the_command(steps: SimpleNamespace) -> None:
    result = CliRunner().invoke(app, ["--stage", "prod", "deploy", "--yes"], catch_exceptions=False)
    assert "Stage prod: account" in result.output


@pytest.mark.parametrize(("state", "status"), [("archived", Exit.FAILED), ("cancelled", Exit.FAILED)])
def test_a_first_job_that_fails_gives_the_status(steps: SimpleNamespace, state: str, status: Exit) -> None:
    steps.inspector = Inspector(state)
    result = run("--yes")
    assert result.exit_code == status
    assert f"Task first is {state}: no database" in result.output


def test_a_stage_without_control_has_no_first_job(steps: SimpleNamespace) -> None:
    steps.templates = {"acme-jobs": TEMPLATES["acme-jobs"]}
    result = run("--yes")
    assert result.exit_code == Exit.DONE
    assert "There is no first job: the stage has no control API" in result.output
    assert steps.inspector.calls == []


def test_an_api_that_refuses_the_first_job_is_reported_after_the_deploy(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**target: Any) -> Any:
        raise UnavailableError("no such stack")

    monkeypatch.setattr(connect, "connect", refuse)
    with pytest.raises(UnavailableError, match="no such stack"):
        run("--yes")
    assert steps.ran


# --- With a watch --------------------------------------------------------------------------------------------------


class Watch:
    """A watch that ends with ``status``."""

    def __init__(self, status: Exit) -> None:
        self.is_new, self._status = status is Exit.DONE, status

    def run(self, deploy: Callable[[], bool], first_job: Callable[[], Exit]) -> Exit:
        deploy()
        return first_job() if self.is_new else self._status


@pytest.mark.parametrize("status", [Exit.DONE, Exit.TAKEN_BACK, Exit.ALARM, Exit.INTERRUPTED])
def test_a_watched_deploy_has_the_status_of_its_watch(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, status: Exit
) -> None:
    lengths: list[timedelta] = []

    def start(rollout: Rollout, session: Any, length: timedelta) -> Watch:
        lengths.append(length)
        return Watch(status)

    monkeypatch.setattr(watched, "need_alarms", lambda templates: None)
    monkeypatch.setattr(watched, "start", start)
    result = run("--yes", "--watch", "15m")
    assert (result.exit_code, lengths) == (status, [timedelta(minutes=15)])
    assert len(steps.ran) == 1
    assert ("Look at the stage" in result.output) is (status is Exit.DONE)


def test_a_deploy_with_nothing_to_watch_is_a_plain_deploy(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "need_alarms", lambda templates: None)
    monkeypatch.setattr(watched, "start", lambda rollout, session, length: None)
    result = run("--yes", "--watch", "15m")
    assert result.exit_code == Exit.DONE
    assert "task first" in result.output


def test_a_watch_of_a_stage_without_alarms_is_refused_before_the_preflight(steps: SimpleNamespace) -> None:
    steps.findings = [Finding(FindingKind.REFUSED, "queue jobs-low", "it would be replaced", "keep it")]
    result = run("--yes", "--watch", "15m")
    assert result.exit_code == Exit.USAGE
    assert "--watch: the stage has no alarms" in result.output
    assert steps.left == steps.ran == []


def test_the_local_stack_cannot_be_watched(steps: SimpleNamespace) -> None:
    with pytest.raises(MisuseError, match="the local stack"):
        run("--stage", "local", "--yes", "--watch", "15m")


# --- Before anything is deployed -----------------------------------------------------------------------------------


def test_a_refused_preflight_stops_the_deploy(steps: SimpleNamespace) -> None:
    steps.findings = [Finding(FindingKind.REFUSED, "queue jobs-low", "it would be replaced", "keep it")]
    result = run("--yes")
    assert result.exit_code == Exit.FAILED
    assert "nothing was deployed" in result.output
    assert steps.ran == []


def test_without_a_terminal_yes_is_required(steps: SimpleNamespace) -> None:
    result = run()
    assert result.exit_code == Exit.USAGE
    assert "give --yes to deploy without them" in result.output
    assert steps.ran == []


def test_on_a_terminal_the_cdk_asks_its_questions(steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    assert run().exit_code == Exit.DONE
    assert "--require-approval" not in steps.ran[0]


@pytest.mark.parametrize(("stage", "problem"), [("prd", "no stage 'prd'"), ("local", "the local stack")])
def test_a_stage_that_is_not_on_aws_is_a_usage_error(steps: SimpleNamespace, stage: str, problem: str) -> None:
    with pytest.raises(MisuseError, match=problem):
        run("--stage", stage, "--yes")


def test_expired_credentials_are_reported_before_the_synthesis(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expired(session: Any) -> str:
        client = session.client("sts")
        with Stubber(client) as stub:
            stub.add_client_error("get_caller_identity", "ExpiredToken", "The security token has expired")
            monkeypatch.setattr(session, "client", lambda *_, **__: client)
            return ACCOUNT_OF(session)

    monkeypatch.setattr(connect, "account_of", expired)
    with pytest.raises(UnavailableError, match=r"^The AWS credentials have expired: .*ExpiredToken.*aws sso login"):
        run("--yes")
    assert steps.ran == []


def test_an_unknown_region_is_a_usage_error(steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "account_of", ACCOUNT_OF)
    with pytest.raises(MisuseError, match="not the name of an AWS region"):
        CliRunner().invoke(app, ["--region", "no region", "deploy", "--yes"], catch_exceptions=False)


# --- After a failure -----------------------------------------------------------------------------------------------


def test_a_failed_deploy_names_stack_reason_and_next_command(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.status = 1
    failure = StackFailure(
        "acme-jobs", "UPDATE_ROLLBACK_FAILED", "JobsMigrationRun95D15400", "no route to host", ("a", "part.b")
    )
    monkeypatch.setattr("joblane.cli.rollout.stack_failures", lambda client, stacks, before: [failure])
    with pytest.raises(LocalError) as raised:
        run("--yes")
    text = str(raised.value)
    assert "acme-jobs is UPDATE_ROLLBACK_FAILED: JobsMigrationRun95D15400: no route to host" in text
    assert "continue-update-rollback --stack-name acme-jobs --resources-to-skip a part.b" in text
    assert "aws logs tail /aws/lambda/acme-migrate" in text
    assert steps.inspector.calls == []


@pytest.mark.parametrize("moves_database", [False, True])
def test_a_failed_move_to_another_database_says_to_resume_nothing_yet(
    steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, moves_database: bool
) -> None:
    steps.status, properties = 1, {"Move": "2026-12-01T09:30:00+00:00"} if moves_database else {}
    run_of = {"Type": "Custom::Migration", "Properties": properties}
    steps.templates = {**TEMPLATES, "acme-jobs": {**TEMPLATES["acme-jobs"], "Resources": {"Run": run_of}}}
    failure = StackFailure("acme-api", "UPDATE_ROLLBACK_COMPLETE", "Function", "no such image", ())
    monkeypatch.setattr("joblane.cli.rollout.stack_failures", lambda client, stacks, before: [failure])
    with pytest.raises(LocalError) as raised:
        run("--yes")
    assert ("Resume no queue before all its stacks use the same database" in str(raised.value)) is moves_database


def test_a_deploy_that_left_no_failed_stack_says_so(steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.status = 1
    monkeypatch.setattr("joblane.cli.rollout.stack_failures", lambda client, stacks, before: [])
    with pytest.raises(LocalError, match=r"No stack is in a failed state.*repeat the command"):
        run("--yes")


@pytest.mark.parametrize(
    ("status", "step"),
    [
        ("UPDATE_ROLLBACK_COMPLETE", "the stack is as it was before"),
        ("ROLLBACK_COMPLETE", "If the first deploy fails"),
        ("UPDATE_ROLLBACK_FAILED", "cdk rollback acme-jobs --app cdk.out/dev; if that fails: aws cloudformation cont"),
        ("UPDATE_FAILED", "cdk rollback acme-jobs --app cdk.out/dev"),
        ("DELETE_FAILED", "aws cloudformation delete-stack --stack-name acme-jobs"),
        ("ROLLBACK_IN_PROGRESS", "wait until the rollback has ended"),
        ("UPDATE_ROLLBACK_IN_PROGRESS", "wait until the rollback has ended"),
        ("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", "wait until the rollback has ended"),
    ],
)
def test_the_next_step_depends_on_the_state_of_the_stack(status: str, step: str) -> None:
    assert step in StackFailure("acme-jobs", status).next_step(Path("cdk.out/dev"))


def event(kind: str, name: str, status: str, reason: str = "", *, id_: str = "x", of: str = "root") -> dict[str, Any]:
    return {
        "StackId": f"arn:{of}",
        "EventId": "1",
        "StackName": "acme-jobs" if of == "root" else f"acme-jobs-{of}-1ABC",
        "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "ResourceType": kind,
        "LogicalResourceId": name,
        "PhysicalResourceId": id_,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


STACK = "AWS::CloudFormation::Stack"


def described(status: str) -> dict[str, Any]:
    stack = {"StackName": "acme-jobs", "CreationTime": datetime(2026, 1, 1, tzinfo=UTC), "StackStatus": status}
    return {"Stacks": [stack]}


def test_the_first_resource_that_failed_is_found_also_in_a_nested_stack() -> None:
    client = boto3.client("cloudformation")
    with Stubber(client) as stub:
        stub.add_client_error(
            "describe_stacks", "ValidationError", "does not exist", expected_params={"StackName": "gone"}
        )
        stub.add_response("describe_stacks", described("UPDATE_COMPLETE"), {"StackName": "fine"})
        stub.add_response("describe_stacks", described("UPDATE_ROLLBACK_COMPLETE"), {"StackName": "acme-jobs"})
        events = [
            event(STACK, "acme-jobs", "UPDATE_ROLLBACK_COMPLETE", id_="arn:root"),
            event("AWS::SQS::Queue", "Queue", "UPDATE_FAILED", "Resource update cancelled"),
            event(STACK, "Part3", "UPDATE_FAILED", "Embedded stack was not updated", id_="arn:part3"),
            event("AWS::SQS::Queue", "Other", "UPDATE_FAILED", "Resource update cancelled"),
            event(STACK, "acme-jobs", "UPDATE_IN_PROGRESS", "User Initiated", id_="arn:root"),
            event("AWS::SQS::Queue", "Old", "CREATE_FAILED", "of an earlier deploy"),
        ]
        stub.add_response("describe_stack_events", {"StackEvents": events}, {"StackName": "acme-jobs"})
        nested = [event("AWS::Lambda::Function", "Export", "UPDATE_FAILED", "the zip is too large")]
        stub.add_response("describe_stack_events", {"StackEvents": nested}, {"StackName": "arn:part3"})
        found = list(stack_failures(client, ["gone", "fine", "acme-jobs"], {}))
        stub.assert_no_pending_responses()
    client.close()
    assert found == [StackFailure("acme-jobs", "UPDATE_ROLLBACK_COMPLETE", "Export", "the zip is too large")]


def test_only_resources_whose_rollback_failed_are_to_be_skipped() -> None:
    # given an update that a queue ended, a rollback that failed for another queue and a function of a nested stack,
    # and one that failed for a role, and went well when it was repeated
    own = {"id_": "arn:root"}
    events = [
        event(STACK, "acme-jobs", "UPDATE_ROLLBACK_FAILED", "failed to update", **own),
        event("AWS::SQS::Queue", "Late", "UPDATE_FAILED", "Resource update cancelled"),
        event("AWS::SQS::Queue", "Second", "UPDATE_FAILED", "access denied"),
        event(STACK, "Part3", "UPDATE_FAILED", "Embedded stack was not updated", id_="arn:Part3"),
        event("AWS::IAM::Role", "Role", "UPDATE_COMPLETE"),
        event(STACK, "acme-jobs", "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated", **own),
        event("AWS::IAM::Role", "Role", "UPDATE_FAILED", "throttled"),
        event(STACK, "acme-jobs", "UPDATE_ROLLBACK_IN_PROGRESS", "failed to update", **own),
        event("AWS::SQS::Queue", "First", "UPDATE_FAILED", "no such key"),
        event(STACK, "acme-jobs", "UPDATE_IN_PROGRESS", "User Initiated", **own),
    ]
    nested = [
        event("AWS::Lambda::Function", "Export", "UPDATE_FAILED", "no such image", of="Part3"),
        event(STACK, "x", "UPDATE_ROLLBACK_IN_PROGRESS", of="Part3", id_="arn:Part3"),
        event("AWS::Lambda::Function", "Import", "UPDATE_FAILED", "too large", of="Part3"),
        event(STACK, "x", "UPDATE_IN_PROGRESS", of="Part3", id_="arn:Part3"),
    ]
    client = boto3.client("cloudformation")
    with Stubber(client) as stub:
        stub.add_response("describe_stacks", described("UPDATE_ROLLBACK_FAILED"))
        for _ in range(2):
            stub.add_response("describe_stack_events", {"StackEvents": events}, {"StackName": "acme-jobs"})
        stub.add_response("describe_stack_events", {"StackEvents": nested}, {"StackName": "arn:Part3"})
        (found,) = stack_failures(client, ["acme-jobs"], {})
    client.close()
    # then the cause is that of the update, and the command names what its rollback left
    assert found.text == "acme-jobs is UPDATE_ROLLBACK_FAILED: First: no such key"
    assert found.stuck == ("Second", "acme-jobs-Part3-1ABC.Export")
    assert found.next_step(Path("out")).endswith("--resources-to-skip Second acme-jobs-Part3-1ABC.Export")


@pytest.mark.parametrize(
    ("status", "is_found"), [("UPDATE_ROLLBACK_COMPLETE", False), ("ROLLBACK_COMPLETE", False), ("UPDATE_FAILED", True)]
)
def test_a_rollback_of_an_earlier_deploy_is_no_cause(status: str, is_found: bool) -> None:
    client = boto3.client("cloudformation")
    with Stubber(client) as stub:
        for _ in range(2):
            stub.add_response("describe_stacks", described(status))
        stub.add_response("describe_stack_events", {"StackEvents": []})
        before = marks(client, ["acme-jobs"])
        assert bool(list(stack_failures(client, ["acme-jobs"], before))) is is_found
    client.close()


# --- The control API of an emulator --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566/_aws/execute-api/a1b2/$default"),
        ("https://vpce.example.com", "https://a1b2.execute-api.eu-central-1.amazonaws.com"),
        ("", "https://a1b2.execute-api.eu-central-1.amazonaws.com"),
    ],
)
def test_the_control_api_of_an_emulator_is_called_at_its_endpoint(
    endpoint: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert connect._on_emulator("https://a1b2.execute-api.eu-central-1.amazonaws.com") == expected


def test_a_profile_takes_precedence_over_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    session: Any = SimpleNamespace(region_name="eu-central-1")
    connect.use_for_programs(session, "acme")
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_REGION"]) == ("acme", "eu-central-1")
    assert "AWS_ACCESS_KEY_ID" not in os.environ


def test_a_dashboard_is_linked_if_the_stage_has_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Rollout(Project.here(), "acme", tmp_path, TEMPLATES, "joblane --stage dev")
    board = {"acme-monitoring": {"Resources": {"Dashboard": {"Type": "AWS::CloudWatch::Dashboard"}}}}
    stage.show_next("eu-central-1")
    assert "dashboards" not in capsys.readouterr().err
    replace(stage, templates=TEMPLATES | board).show_next("eu-central-1")
    assert "home?region=eu-central-1#dashboards/dashboard/acme" in capsys.readouterr().err
