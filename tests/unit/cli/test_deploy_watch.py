"""`joblane deploy --watch`: each branch of the decision, its message, and its exit status."""

from __future__ import annotations

import json
import os
import shutil
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
    stacks that exist; ``after``: those of the checkout. ``changes``: the stacks that a deploy changes. ``updated``: the
    number of operations on a stack. ``ran``: the folders that `cdk deploy` was run with; ``given``: the jobs templates
    there. ``fails``: what AWS answers to a service. ``after_start``: an action before the CDK runs.
    """

    states: Callable[[float], str] = lambda seconds: "OK"
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    deployed: dict[str, dict[str, Any]] = field(default_factory=lambda: deepcopy(BEFORE))
    updated: dict[str, int] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    fails: dict[str, Callable[[], Exception | None]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)
    after: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ("acme-jobs",)
    during: Callable[[str], int] = lambda folder: 0
    after_start: Callable[[], object] = lambda: None
    seconds: float = 0.0
    before: bool = True
    name = "acme-errors"
    region_name = "eu-central-1"

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

    def describe_stack_events(self, *, StackName: str) -> Any:  # noqa: N803
        self._answer("cloudformation")
        start = {"StackId": StackName, "PhysicalResourceId": StackName, "ResourceStatus": "UPDATE_IN_PROGRESS"}
        numbers = range(self.updated.get(StackName, 0), -1, -1)
        return {"StackEvents": [{**start, "EventId": str(number)} for number in numbers]}

    def get_paginator(self, operation: str) -> Any:
        self._operation = operation
        return self

    def paginate(self, **given: Any) -> Any:
        if self._operation == "describe_stack_events":
            return [self.describe_stack_events(**given)]
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
        if folder == "dev.before":
            template = json.loads((Path(command[command.index("--app") + 1]) / "acme-jobs.template.json").read_text())
            self.given.append(template["Resources"]["Run"]["Properties"])
        status = self.during(folder)
        self.before = False
        if status == 0:
            self.deployed = deepcopy(dict(BEFORE if folder == "dev.before" else self.after))
            for stack in self.changes:
                self.operate(stack)
        return subprocess.CompletedProcess(command, status)

    def operate(self, stack: str, status: str = "UPDATE_COMPLETE") -> None:
        self.updated[stack] = self.updated.get(stack, 0) + 1
        self.status[stack] = status

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


def recorded(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return what the migration of the earlier templates gives to the audit."""
    return {"by": properties["By"], **json.loads(properties["TakenBack"])}


def in_folder(ran: Ran) -> dict[str, str]:
    template = json.loads((ran.folder / "acme-jobs.template.json").read_text())
    return recorded(template["Resources"]["Run"]["Properties"])


@pytest.fixture
def deploy(aws: Aws, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Deploy ``after`` with --watch 15m; ``first``: the status of the first job, or its error."""

    def run(after: Mapping[str, Any] = AFTER, first: Exit | Exception = Exit.DONE) -> Ran:
        if not (tmp_path / "dev").exists():
            write_assembly(tmp_path / "dev")
        rollout = Rollout(Project.here(), "acme", tmp_path / "dev", after, "joblane --stage dev")
        session: Any = aws
        aws.after = after
        watch = start(rollout, session, timedelta(minutes=15))
        if watch is None:
            return Ran(Exit.DONE, capsys.readouterr().err, tmp_path / "none")
        watch.now, watch.sleep = (lambda: aws.seconds), aws.sleep
        aws.after_start()

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
        f"The deploy of v2 will be reverted to the earlier templates in {ran.folder}.",
        "The deploy of v2 was reverted: the stage has its earlier templates. The database keeps its schema.",
    ):
        assert text in ran.text
    assert recorded(*aws.given) == {"by": "eva", "from": "v2", "why": "acme-errors fired 5m after the deploy"}
    assert not ran.folder.exists()


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
    assert f"Watch: this deploy will not be reverted: {reason}" in ran.text.partition("Alarm acme-errors")[0]
    assert f"The deploy was not reverted:\n  {reason}" in ran.text
    assert "Pause the types that fail, and fix the code, or see docs/how-to/change-safely.md" in ran.text


def test_a_deploy_by_another_process_in_the_meantime_is_not_taken_back(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = fires_from(4)
    aws.at = {2 * MINUTES: lambda: aws.updated.update({"acme-data": 9})}
    ran = deploy()
    assert ran.status is Exit.ALARM
    assert aws.ran == ["dev"]
    assert "another deploy has changed the stage since then" in ran.text


def by_another_process(aws: Aws, *stacks: str) -> Callable[[str], int]:
    """Return an action for ``aws.during`` in which another process deploys the stacks, with templates of its own."""

    def during(folder: str) -> int:
        for stack in stacks:
            aws.operate(stack)
        return 0

    return during


@pytest.mark.parametrize("stack", ["acme-data", "acme-jobs"])
def test_a_deploy_by_another_process_while_the_cdk_runs_is_not_taken_back(
    aws: Aws, deploy: Callable[..., Ran], stack: str
) -> None:
    aws.states, aws.during = fires_from(4), by_another_process(aws, stack)
    aws.changes = ("acme-data", "acme-jobs")
    ran = deploy()
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev"])
    said = f"Watch: this deploy will not be reverted: another deploy has changed the stage meanwhile ({stack})."
    assert said in ran.text.partition("Alarm acme-errors")[0]
    assert not ran.folder.exists()


def test_a_stack_with_the_template_of_another_process_is_not_taken_back(aws: Aws, deploy: Callable[..., Ran]) -> None:
    """A stack that the CDK did not change, and that another process changed."""
    aws.states, aws.during, other = fires_from(4), by_another_process(aws, "acme-data"), deepcopy(AFTER)
    read = aws.get_template

    def get_template(*, StackName: str, TemplateStage: str) -> Any:  # noqa: N803
        is_other = StackName == "acme-data" and aws.ran
        return {"TemplateBody": other["acme-data"]} if is_other else read(StackName=StackName, TemplateStage="")

    other["acme-data"]["Resources"]["DB"]["Properties"]["Engine"] = "other"
    aws.get_template = get_template  # type: ignore[method-assign]
    ran = deploy()
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev"])
    assert "another deploy has changed the stage meanwhile (acme-data)" in ran.text


def test_a_deploy_by_another_process_that_runs_when_the_cdk_ends_is_seen(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def during(folder: str) -> int:
        aws.operate("acme-data", "UPDATE_IN_PROGRESS")
        return 0

    aws.states, aws.during = fires_from(4), during
    ran = deploy()
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev"])
    assert "another deploy has changed the stage meanwhile (acme-data)" in ran.text


def test_stacks_that_cannot_be_read_after_the_deploy_are_not_taken_back(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states, aws.fails = fires_from(4), {"cloudformation": lambda: throttled() if aws.ran else None}
    ran = deploy()
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev"])
    assert "it is not known whether another deploy has changed the stage meanwhile: " in ran.text


def test_a_stage_that_changes_before_the_cdk_runs_is_not_deployed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.after_start = lambda: aws.operate("acme-data")
    with pytest.raises(LocalError, match=r"another deploy has changed the stage since .* Nothing was deployed: repeat"):
        deploy()
    assert aws.ran == []
    aws.after_start = lambda: None
    assert deploy().status is Exit.DONE  # the refused deploy has left no folder


@pytest.mark.parametrize(
    "status", ["UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED", "UPDATE_FAILED"]
)
def test_a_stack_between_two_states_cannot_be_watched(aws: Aws, deploy: Callable[..., Ran], status: str) -> None:
    aws.status = {"acme-jobs": status}
    with pytest.raises(LocalError, match=rf"^--watch: the stack acme-jobs is {status}, .* Nothing was deployed\.$"):
        deploy()
    assert aws.ran == []
    aws.status = {}
    assert deploy().status is Exit.DONE


def test_a_stack_in_another_region_is_named_and_never_read(
    aws: Aws, deploy: Callable[..., Ran], tmp_path: Path
) -> None:
    write_assembly(tmp_path / "dev")
    manifest = json.loads((tmp_path / "dev/manifest.json").read_text())
    edge = {"type": "aws:cloudformation:stack", "environment": "aws://1/us-east-1", "properties": {}}
    manifest["artifacts"]["acme-edge"] = edge
    (tmp_path / "dev/manifest.json").write_text(json.dumps(manifest))
    aws.states, own_alarm = fires_from(4), deepcopy(BEFORE["acme-monitoring"])
    ran = deploy({**AFTER, "acme-edge": own_alarm, "acme-edge/Part": {"Resources": {}}})
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev"])
    assert (
        "The deploy was not reverted:\n  the stack acme-edge is in us-east-1, which --watch does not read" in ran.text
    )
    assert "is new" not in ran.text


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
    ("states", "minutes", "said"),
    [
        (lambda seconds: "OK", 15, "no alarm fired within 15m."),
        (fires_from(4, until=4.9), 15, "acme-errors fired, for 45s in total: less than 1m, so the deploy stays."),
        (fires_from(14.9, until=15.5), 15.5, "acme-errors fired, for 15s in total: less than 1m, so the deploy stays."),
        (lambda seconds: "OK" if seconds < 60 else "INSUFFICIENT_DATA", 15, "no alarm fired within 15m."),
    ],
)
def test_a_deploy_stays_if_no_alarm_fires_for_a_minute(
    aws: Aws, deploy: Callable[..., Ran], states: Callable[[float], str], minutes: float, said: str
) -> None:
    aws.states = states
    ran = deploy()
    assert (ran.status, aws.seconds, aws.ran, ran.is_new) == (Exit.DONE, minutes * MINUTES, ["dev"], True)
    assert [line for line in ran.text.splitlines() if "fired" in line] == [f"Watch: {said}"]
    assert ("without data at the end: acme-errors" in ran.text) is (states(900) == "INSUFFICIENT_DATA")
    assert not ran.folder.exists()


def test_an_alarm_that_fires_again_and_again_counts(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.states = lambda seconds: "ALARM" if seconds >= 0 and seconds // 60 % 2 else "OK"
    ran = deploy()
    assert ran.status is Exit.TAKEN_BACK
    assert "Alarm acme-errors fired 3m after the deploy" in ran.text


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
    aws.changes = ()
    ran = deploy()
    assert (ran.status, aws.seconds) == (Exit.DONE, 0)
    assert "no stack in eu-central-1 changed, so nothing is watched" in ran.text


def fails_at_monitoring(aws: Aws, *changed_before: str) -> Callable[[str], int]:
    def during(folder: str) -> int:
        for stack in changed_before:
            aws.operate(stack)
        aws.operate("acme-monitoring", "UPDATE_ROLLBACK_COMPLETE")
        return 1

    return during


def test_a_deploy_that_fails_is_not_watched(
    aws: Aws, deploy: Callable[..., Ran], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    aws.during = fails_at_monitoring(aws)
    with pytest.raises(LocalError, match="`cdk deploy` failed"):
        deploy()
    assert (aws.seconds, aws.ran) == (0, ["dev"])
    text = capsys.readouterr().err
    assert "  acme-monitoring: UPDATE_ROLLBACK_COMPLETE, earlier template" in text
    assert "way back" not in text
    assert not (tmp_path / "dev.before").exists()  # each stack has its earlier template


def test_a_deploy_that_fails_in_part_keeps_its_way_back(
    aws: Aws, deploy: Callable[..., Ran], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    aws.during = fails_at_monitoring(aws, "acme-jobs")
    with pytest.raises(LocalError, match="`cdk deploy` failed"):
        deploy()
    text, folder = capsys.readouterr().err, tmp_path / "dev.before"
    assert "  acme-jobs: UPDATE_COMPLETE, new template" in text
    assert f"The way back by hand, when no stack is in progress: cdk deploy --all --app {folder}" in text
    before = (folder / "acme-jobs.template.json").read_bytes()
    # then the next deploy would take its half for the earlier state
    aws.deployed["acme-jobs"], aws.during = AFTER["acme-jobs"], lambda folder: 0
    with pytest.raises(LocalError, match=rf"^--watch: {folder} has the templates .* delete the folder\. Nothing was"):
        deploy()
    assert ((folder / "acme-jobs.template.json").read_bytes(), aws.ran) == (before, ["dev"])
    # and without the folder, as in CI, the state of the stack says so
    shutil.rmtree(folder)
    aws.before, aws.states = True, fires_from(4)
    ran = deploy()
    assert (ran.status, aws.ran) == (Exit.ALARM, ["dev", "dev"])
    assert "not be reverted: the stack acme-monitoring is UPDATE_ROLLBACK_COMPLETE" in ran.text


def test_a_way_back_of_a_stopped_watch_is_not_overwritten(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.at = {3 * MINUTES: interrupted}
    folder = deploy().folder
    before = (folder / "acme-jobs.template.json").read_bytes()
    aws.changes = ()
    with pytest.raises(LocalError, match="which was not watched to its end"):
        deploy()
    assert ((folder / "acme-jobs.template.json").read_bytes(), aws.ran) == (before, ["dev"])


def test_a_deploy_without_changes_leaves_no_folder(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.changes = ()
    assert not deploy().folder.exists()


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
        "Watch: 5m left; acme-errors fires, which must last for 1m in total",
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
    assert in_folder(ran) == {"by": "eva", "from": "v2", "why": "by hand"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_watch_names_the_stacks_that_another_process_changed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.at = {2 * MINUTES: lambda: aws.operate("acme-data"), 3 * MINUTES: interrupted}
    ran = deploy()
    assert "  acme-data: UPDATE_COMPLETE, template of another deploy\n" in ran.text
    assert "  acme-jobs: UPDATE_COMPLETE, new template\n" in ran.text
    assert "The way back is not safe: another deploy has changed the stage since then" in ran.text


def test_a_stopped_deploy_says_which_stacks_have_changed(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def during(folder: str) -> int:
        aws.updated = {"acme-data": 1, "acme-jobs": 1}
        aws.status["acme-jobs"] = "UPDATE_IN_PROGRESS"
        raise KeyboardInterrupt

    aws.during = during
    ran = deploy({**AFTER, "acme-api": {"Resources": {}}})
    assert ran.status is Exit.INTERRUPTED
    assert ran.folder.exists()
    for text in (
        "acme-data: UPDATE_COMPLETE, new template",
        "acme-jobs: UPDATE_IN_PROGRESS: CloudFormation continues",
        "acme-monitoring: UPDATE_COMPLETE, earlier template",
        "acme-api: not deployed",
        "The way back is not safe: the stack acme-api is new",
    ):
        assert text in ran.text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE, not deployed"),
        ("UPDATE_ROLLBACK_FAILED", "UPDATE_ROLLBACK_FAILED, parts of both templates"),
    ],
)
def test_a_stack_without_a_whole_template_is_named(
    aws: Aws, deploy: Callable[..., Ran], status: str, said: str
) -> None:
    aws.at = {2 * MINUTES: lambda: aws.operate("acme-data", status), 3 * MINUTES: interrupted}
    assert f"  acme-data: {said}\n" in deploy().text


def test_a_stopped_watch_names_the_stacks_that_it_cannot_read(aws: Aws, deploy: Callable[..., Ran]) -> None:
    def stop(error: Exception, only: str) -> None:
        read = aws.describe_stacks

        def describe_stacks(*, StackName: str) -> Any:  # noqa: N803
            if StackName.startswith(only):
                raise error
            return read(StackName=StackName)

        aws.describe_stacks = describe_stacks  # type: ignore[method-assign]
        raise KeyboardInterrupt

    aws.at = {3 * MINUTES: lambda: stop(throttled(), "acme-jobs")}
    ran = deploy()
    assert "  acme-jobs: cannot be read: Throttling\n" in ran.text
    assert "  acme-data: UPDATE_COMPLETE, new template\n" in ran.text
    shutil.rmtree(ran.folder)
    del aws.describe_stacks
    aws.at = {6 * MINUTES: lambda: stop(denied(), "acme-")}
    text = deploy().text
    for stack in STACKS:
        assert f"  {stack}: cannot be read: AccessDenied\n" in text
    assert "The way back by hand" in text


def test_a_stack_whose_mark_is_unknown_is_not_compared(aws: Aws, deploy: Callable[..., Ran]) -> None:
    aws.fails = {"cloudformation": lambda: throttled() if aws.ran else None}
    aws.at = {2 * MINUTES: aws.fails.clear, 3 * MINUTES: interrupted}
    assert "  acme-jobs: UPDATE_COMPLETE, template unknown: it could not be read after the deploy\n" in deploy().text


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


def throttled() -> Exception:
    return ClientError({"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}, "X")


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
