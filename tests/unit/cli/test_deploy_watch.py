"""`joblane deploy --watch`: each branch of the decision, its message, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from rich.console import Console

from joblane.cli import watched
from joblane.cli.exits import Exit
from joblane.cli.rollout import Rollout
from joblane.cli.usage import UsageError
from joblane.cli.watched import length_of, need_alarms, start
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.project import Project
from tests.builders.assembly import BEFORE, changed, write_assembly

STACKS = ("acme-data", "acme-jobs", "acme-monitoring")
AFTER = changed("acme-jobs", "Resources", "Run", "Properties", "Version", to="v2")
DROPPED = changed("acme-jobs/Part3", "Resources", "Lane", to=None)
MINUTES = 60.0


@dataclass
class Aws:
    """CloudFormation, CloudWatch, the CDK and the clock of a stage.

    ``states``: of the alarm by the time in seconds since the deploy. ``at``: actions by that time. ``deployed``: the
    stacks that exist. ``ran``: the folders that `cdk deploy` was run with. ``fails``: what AWS answers to a service.
    """

    states: Callable[[float], str] = lambda seconds: "OK"
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    deployed: dict[str, dict[str, Any]] = field(default_factory=lambda: deepcopy(BEFORE))
    updated: dict[str, int] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    fails: dict[str, Callable[[], Exception | None]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    during: Callable[[str], int] = lambda folder: 0
    seconds: float = 0.0
    before: bool = True
    name = "acme-errors"

    # --- the clients of a session

    def client(self, service: str) -> Aws:
        self._service = service
        return self

    def close(self) -> None: ...

    def _answer(self, service: str) -> None:
        if (fail := self.fails.get(service)) and (error := fail()) is not None:
            raise error

    def describe_stacks(self, *, StackName: str) -> Any:  # noqa: N803
        self._answer("cloudformation")
        if StackName not in self.deployed:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "does not exist"}}, "DescribeStacks")
        updated = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=self.updated.get(StackName, 0))
        status = self.status.get(StackName, "UPDATE_COMPLETE")
        return {"Stacks": [{"StackId": StackName, "StackStatus": status, "CreationTime": updated, "Tags": []}]}

    def get_template(self, *, StackName: str, TemplateStage: str) -> Any:  # noqa: N803
        return {"TemplateBody": self.deployed[StackName]}

    def get_paginator(self, operation: str) -> Any:
        self._operation = operation
        return self

    def paginate(self, **given: Any) -> Any:
        if self._operation == "describe_stack_events":
            return [{"StackEvents": []}]
        if self._operation == "list_stack_resources":
            stack = given["StackName"]
            names = {name: f"{stack}/{name}" for name in ("Part3",) if f"{stack}/{name}" in self.deployed}
            found = [("AWS::CloudFormation::Stack", name, path) for name, path in names.items()]
            if stack == "acme-monitoring":
                found.append(("AWS::CloudWatch::Alarm", "Errors", self.name))
            keys = ("ResourceType", "LogicalResourceId", "PhysicalResourceId")
            listed = [{**dict(zip(keys, each, strict=True)), "ResourceStatus": "CREATE_COMPLETE"} for each in found]
            return [{"StackResourceSummaries": listed}]
        self._answer("cloudwatch")
        state = {"AlarmName": self.name, "StateValue": self.states(-1 if self.before else self.seconds)}
        alarms = [{**state, "StateReason": "5 > 1"}] if self.name in given["AlarmNames"] else []
        return [{"MetricAlarms": alarms, "CompositeAlarms": []}]

    # --- the CDK and the clock

    def run(self, command: list[str], **_: Any) -> Any:
        folder = Path(command[command.index("--app") + 1]).name
        self.ran.append(folder)
        status = self.during(folder)
        self.before = False
        if status == 0:
            self.updated["acme-jobs"] = len(self.ran)
        return subprocess.CompletedProcess(command, status)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for moment in sorted(self.at):
            if moment <= self.seconds:
                self.at.pop(moment)()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    found = Aws()
    monkeypatch.setattr("joblane.cli.rollout.subprocess.run", found.run)
    monkeypatch.setattr("joblane.cli.rollout.cdk_command", lambda project, *words: ["cdk", *words])
    monkeypatch.setattr(watched, "deployer", lambda root: "eva")
    return found


@dataclass
class Ran:
    status: Exit
    text: str
    folder: Path
    is_new: bool = True

    def taken_back(self) -> dict[str, str]:
        """Return what the earlier templates give to the audit."""
        template = json.loads((self.folder / "acme-jobs.template.json").read_text())
        properties = template["Resources"]["Run"]["Properties"]
        return {"by": properties["By"], **json.loads(properties["TakenBack"])}


@pytest.fixture
def deploy(aws: Aws, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Deploy ``after`` with --watch 15m; ``first``: the status of the first job, or its error."""

    def run(after: Mapping[str, Any] = AFTER, first: Exit | Exception = Exit.DONE) -> Ran:
        if not (tmp_path / "dev").exists():
            write_assembly(tmp_path / "dev")
        rollout = Rollout(Project.here(), "acme", tmp_path / "dev", after, "joblane --stage dev")
        session: Any = aws
        watch = start(rollout, session, timedelta(minutes=15))
        if watch is None:
            return Ran(Exit.DONE, capsys.readouterr().err, tmp_path / "none")
        watch.now, watch.sleep = (lambda: aws.seconds), aws.sleep

        def first_job() -> Exit:
            if isinstance(first, Exception):
                raise first
            return first

        status = watch.run(lambda: rollout.deploy(session, approved=True), first_job)
        return Ran(status, capsys.readouterr().err, tmp_path / "dev.before", watch.is_new)

    return run


def fires_from(minutes: float, until: float = 1e9) -> Callable[[float], str]:
    return lambda seconds: "ALARM" if minutes * MINUTES <= seconds < until * MINUTES else "OK"


# --- An alarm fires ------------------------------------------------------------------------------------------------


def test_a_deploy_is_taken_back_if_an_alarm_fires(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(4)
    ran = deploy()
    assert (ran.status, ran.is_new) == (Exit.TAKEN_BACK, False)
    assert aws.ran == ["dev", "dev.before"]
    assert aws.seconds == 5 * MINUTES
    for text in (
        "Watch: 1 alarm counts, for 15m after the deploy.",
        "Alarm acme-errors fired 5m after the deploy: 5 > 1",
        f"The deploy of v2 is taken back, with the earlier templates in {ran.folder}.",
        "The deploy of v2 was taken back: the stage has its earlier templates. The database keeps its schema.",
    ):
        assert text in ran.text
    assert ran.taken_back() == {"by": "eva", "from": "v2", "why": "acme-errors fired 5m after the deploy"}


def test_an_alarm_that_fires_during_the_deploy_counts(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(0)
    assert deploy().status is Exit.TAKEN_BACK
    assert aws.seconds == MINUTES


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (DROPPED, "it dropped a task type or a lane (acme-low-data-export)"),
        (changed("acme-data", "Resources", "DB", "Properties", "Engine", to="x"), "it changed the database"),
        (changed("acme-jobs", "Metadata", "Joblane", "schema", "revision", to="0002"), "it migrated the schema"),
        ({**AFTER, "acme-api": {"Resources": {}}}, "the stack acme-api is new"),
    ],
)
def test_a_deploy_that_is_not_safe_to_take_back_stays(
    aws: Aws, deploy: Callable[..., Ran], after: Mapping[str, Any], reason: str
) -> None:
    aws.states = fires_from(4)
    ran = deploy(after)
    assert ran.status is Exit.ALARM
    assert aws.ran == ["dev"]
    assert f"Watch: this deploy will not be taken back: {reason}" in ran.text.partition("Alarm acme-errors")[0]
    assert f"The deploy was not taken back:\n  {reason}" in ran.text
    assert "Pause the types that fail, and fix the code, or see docs/how-to/change-safely.md" in ran.text


def test_a_deploy_by_another_process_in_the_meantime_is_not_taken_back(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(4)
    aws.at = {2 * MINUTES: lambda: aws.updated.update({"acme-data": 9})}
    ran = deploy()
    assert ran.status is Exit.ALARM
    assert aws.ran == ["dev"]
    assert "another deploy has changed the stage since then" in ran.text


def test_a_way_back_that_fails_says_which_stacks_have_which_template(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def during(folder: str) -> int:
        if folder == "dev":
            return 0
        aws.updated["acme-monitoring"] = 7
        aws.updated["acme-jobs"] = 7
        aws.status["acme-jobs"] = "UPDATE_ROLLBACK_COMPLETE"
        return 1

    aws.states, aws.during = fires_from(0), during
    ran = deploy()
    assert ran.status is Exit.ALARM
    for text in (
        "`cdk deploy` failed (exit status 1).",
        "acme-data: UPDATE_COMPLETE, new template",
        "acme-jobs: UPDATE_ROLLBACK_COMPLETE, new template",
        "acme-monitoring: UPDATE_COMPLETE, earlier template",
        f"cdk deploy --all --app {ran.folder}",
    ):
        assert text in ran.text


# --- No alarm fires ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "minutes"),
    [
        (lambda seconds: "OK", 15),
        (fires_from(4, until=4.9), 15),
        (fires_from(14.9, until=15.5), 15.5),
        (lambda seconds: "OK" if seconds < 60 else "INSUFFICIENT_DATA", 15),
    ],
)
def test_a_deploy_stays_if_no_alarm_fires_for_a_minute(
    aws: Aws, deploy: Callable[..., Ran], states: Callable[[float], str], minutes: float
) -> None:
    aws.states = states
    ran = deploy()
    assert (ran.status, aws.seconds, aws.ran, ran.is_new) == (Exit.DONE, minutes * MINUTES, ["dev"], True)
    assert "Watch: no alarm fired within 15m." in ran.text
    assert ("without data at the end: acme-errors" in ran.text) is (states(900) == "INSUFFICIENT_DATA")


def test_the_watch_does_not_end_while_an_alarm_fires_unconfirmed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(14.9)
    assert deploy().status is Exit.TAKEN_BACK
    assert aws.seconds == 16 * MINUTES


@pytest.mark.parametrize("state", ["ALARM", "INSUFFICIENT_DATA"])
def test_an_alarm_that_was_not_ok_before_is_not_watched(aws: Aws, deploy: Callable[..., Ran], state: str) -> None:
    aws.states = lambda seconds: state
    ran = deploy()
    assert f"no alarm counts, so none is watched: acme-errors was {state} when the deploy began." in ran.text
    assert aws.ran == []  # the command deploys without a watch


def test_a_first_deploy_is_not_watched(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.deployed = {}
    assert "the stage is not deployed yet, so no alarm is watched" in deploy().text


def test_a_deploy_without_changes_is_not_watched(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.updated = {"acme-jobs": 1}  # the same as after the run
    ran = deploy()
    assert (ran.status, aws.seconds) == (Exit.DONE, 0)
    assert "no stack changed, so nothing is watched" in ran.text


def test_a_deploy_that_fails_is_not_watched(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.during = lambda folder: 1
    with pytest.raises(LocalError, match="`cdk deploy` failed"):
        deploy()
    assert (aws.seconds, aws.ran) == (0, ["dev"])


def test_the_first_job_decides_the_status_only_if_no_alarm_fires(aws: Aws, deploy: Callable[..., Ran]) -> None:
    assert deploy(first=Exit.FAILED).status is Exit.FAILED
    assert aws.seconds == 15 * MINUTES
    ran = deploy(first=UnavailableError("no such API"))
    assert ran.status is Exit.UNAVAILABLE
    assert "joblane: no such API\nWatch: 15m left" in ran.text
    aws.before, aws.states = True, fires_from(31)
    ran = deploy(first=UnavailableError("no such API"))
    assert ran.status is Exit.TAKEN_BACK
    assert "no such API" in ran.text
    aws.before, aws.states, aws.fails = True, (lambda _: "OK"), {"cloudwatch": lambda: None if aws.before else denied()}
    with pytest.raises(UnavailableError, match="could not be read"):
        deploy(first=UnavailableError("no such API"))


# --- Progress ------------------------------------------------------------------------------------------------------


def test_without_a_terminal_a_line_every_five_minutes_says_how_it_is(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(9.9, until=10.4)
    aws.fails = {"cloudwatch": lambda: unreachable() if 299 < aws.seconds < 320 else None}
    lines = [line for line in deploy().text.splitlines() if " left; " in line]
    assert lines == [
        "Watch: 15m left; 1 of 1 OK",
        "Watch: 10m left; the alarms cannot be read now",
        "Watch: 5m left; acme-errors fires, which must last for 1m",
    ]


def test_on_a_terminal_a_single_line_changes(
    aws: Aws, deploy: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    console = Console(file=StringIO(), force_terminal=True)
    monkeypatch.setattr("joblane.cli.terminal.messages", lambda: console)
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: shown.append(text))
    ran = deploy()
    assert shown[:2] == ["Watch: 15m left; 1 of 1 OK", "Watch: 15m left; 1 of 1 OK"]
    assert len(shown) == 15 * 4
    assert " left; " not in ran.text


# --- Stopped in between --------------------------------------------------------------------------------------------


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [stopped, interrupted])
def test_a_stopped_watch_says_what_is_deployed(
    aws: Aws, deploy: Callable[..., Ran], stop: Callable[[], object]
) -> None:
    aws.at = {3 * MINUTES: stop}
    before = signal.getsignal(signal.SIGTERM)
    ran = deploy()
    assert ran.status is Exit.INTERRUPTED
    assert aws.ran == ["dev"]
    for stack in STACKS:
        assert f"  {stack}: UPDATE_COMPLETE, new template" in ran.text
    assert f"The way back by hand, when no stack is in progress: cdk deploy --all --app {ran.folder}" in ran.text
    assert ran.taken_back() == {"by": "eva", "from": "v2", "why": "by hand"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_deploy_says_which_stacks_have_changed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def during(folder: str) -> int:
        aws.updated = {"acme-data": 1, "acme-jobs": 1}
        aws.status["acme-jobs"] = "UPDATE_IN_PROGRESS"
        raise KeyboardInterrupt

    aws.during = during
    ran = deploy({**AFTER, "acme-api": {"Resources": {}}})
    assert ran.status is Exit.INTERRUPTED
    for text in (
        "acme-data: UPDATE_COMPLETE, new template",
        "acme-jobs: UPDATE_IN_PROGRESS: CloudFormation continues",
        "acme-monitoring: UPDATE_COMPLETE, earlier template",
        "acme-api: not deployed",
        "The way back is not safe: the stack acme-api is new",
    ):
        assert text in ran.text


def test_a_stopped_way_back_says_which_stacks_have_changed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def during(folder: str) -> int:
        if folder == "dev":
            return 0
        aws.updated["acme-monitoring"] = 7
        raise KeyboardInterrupt

    aws.states, aws.during = fires_from(0), during
    ran = deploy()
    assert ran.status is Exit.INTERRUPTED
    assert "acme-monitoring: UPDATE_COMPLETE, earlier template" in ran.text
    assert "acme-jobs: UPDATE_COMPLETE, new template" in ran.text


def test_a_first_job_that_is_interrupted_ends_the_watch(aws: Aws, deploy: Callable[..., Ran]) -> None:
    ran = deploy(first=Exit.INTERRUPTED)
    assert (ran.status, aws.seconds) == (Exit.INTERRUPTED, 0)
    assert "The way back by hand" in ran.text


# --- AWS does not answer -------------------------------------------------------------------------------------------


def denied() -> Exception:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "X")


def unreachable() -> Exception:
    return EndpointConnectionError(endpoint_url="https://monitoring")


@pytest.mark.parametrize(
    ("service", "permission"),
    [("cloudformation", "cloudformation:GetTemplate"), ("cloudwatch", "cloudwatch:DescribeAlarms")],
)
def test_a_missing_permission_is_named_before_the_deploy(
    aws: Aws, deploy: Callable[..., Ran], service: str, permission: str
) -> None:
    aws.fails = {service: denied}
    with pytest.raises(
        ForbiddenError, match=rf"^--watch: .*AccessDenied.* Allow .*{permission}.* Nothing was deployed"
    ):
        deploy()
    aws.fails = {service: unreachable}
    with pytest.raises(UnavailableError, match=r"^--watch: Could not connect.* Nothing was deployed"):
        deploy()
    assert aws.ran == []


def test_alarms_that_cannot_be_read_for_a_while_are_read_again(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.fails = {"cloudwatch": lambda: unreachable() if 60 <= aws.seconds < 300 else None}
    aws.states = fires_from(2)
    assert deploy().status is Exit.TAKEN_BACK
    assert aws.seconds == 6 * MINUTES


def test_alarms_that_cannot_be_read_at_the_end_are_an_error(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.fails = {"cloudwatch": lambda: denied() if aws.seconds > 60 else None}
    with pytest.raises(
        UnavailableError, match=r"is deployed, but its alarms could not be read.*cdk deploy --all --app"
    ):
        deploy()
    assert aws.seconds == 15 * MINUTES


# --- The option ----------------------------------------------------------------------------------------------------


def test_the_length_of_a_watch_has_a_range() -> None:
    assert [length_of(text) for text in ("15m", "90s", "3h", None)] == [
        timedelta(minutes=15),
        timedelta(seconds=90),
        timedelta(hours=3),
        None,
    ]
    for text, problem in (("10", "is not a duration"), ("59s", "is not between 1m and 3h"), ("3h1m", "is not between")):
        with pytest.raises(UsageError, match=rf"^--watch: '{text}' {problem}"):
            length_of(text)


def test_a_stage_without_alarms_cannot_be_watched() -> None:
    need_alarms(BEFORE)
    with pytest.raises(UsageError, match=r"^--watch: the stage has no alarms: add `monitoring` to it in cdk\.json"):
        need_alarms({"acme-jobs": BEFORE["acme-jobs"]})
