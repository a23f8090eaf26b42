"""The steps of `joblane deploy` after the preflight: `cdk deploy`, a first job by the control API, what to look at.

If stacks failed: which, with the reason that CloudFormation gives and the command for the next step.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cdk.templates import stacks_of
from joblane.cdk.way_back.judgement import migration_of
from joblane.cli import terminal
from joblane.cli.exits import Exit
from joblane.local.deployment import cdk_command, cdk_variables
from joblane.local.errors import LocalError
from joblane.local.uv import installing_environment
from joblane.names import CONTROL_URL, SWEEP
from joblane.project import Project

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackEventTypeDef, StackTypeDef

    from joblane.inspector.inspector import Inspector

PATIENCE = timedelta(minutes=5)
"""Time for the first job: a paused cluster resumes in half a minute, and a first function in a VPC takes seconds."""
REASON = "first job after a deploy"


@dataclass(frozen=True)
class Rollout:
    """A deploy of the stage with ``prefix``. ``templates``: by stack. ``assembly``: their folder. ``command``:
    `joblane` with the options for this stage."""

    project: Project
    prefix: str
    assembly: Path
    templates: Mapping[str, Mapping[str, Any]]
    command: str

    @property
    def stacks(self) -> list[str]:
        """The stacks that are not nested."""
        return stacks_of(self.templates)

    @property
    def has_control(self) -> bool:
        return any(CONTROL_URL in template.get("Outputs", {}) for template in self.templates.values())

    def deploy(self, session: Session, *, approved: bool) -> bool:
        """Run `cdk deploy` in this terminal. ``approved``: the CDK asks no question. Return True if a stack changed.

        Raises :class:`LocalError`, which names the failed stacks.
        """
        options = ["--require-approval", "never"] if approved else []
        command = cdk_command(self.project, "deploy", "--all", "--app", str(self.assembly), *options)
        environment = installing_environment(self.project) | cdk_variables(self.project)
        started, stacks = time.monotonic(), self.stacks
        with closing(session.client("cloudformation")) as client:
            before = marks(client, stacks)
            done = subprocess.run(command, cwd=self.project.root, env=environment, check=False)  # noqa: S603
            terminal.say(f"cdk deploy: {terminal.milliseconds(1000 * (time.monotonic() - started))}")
            if done.returncode:
                causes = self._causes(list(stack_failures(client, stacks, before)))
                raise LocalError("\n".join([f"`cdk deploy` failed (exit status {done.returncode}).", *causes]))
            return marks(client, stacks) != before

    def _causes(self, failures: Sequence[StackFailure]) -> Iterator[str]:
        for failure in failures:
            yield f"{failure.text}. Next: {failure.next_step(self.assembly)}"
            if "MigrationRun" in failure.resource:
                yield f"Log of the migration: aws logs tail /aws/lambda/{self.prefix}-migrate --since 1h"
        if failures and "Move" in migration_of(self.templates):
            yield (
                "This deploy moves the stage to another database. Resume no queue before all its stacks use the same "
                "database: docs/how-to/restore.md, If a stack fails"
            )
        if not failures:
            yield "No stack is in a failed state: the lines above name the cause. Fix it and repeat the command."

    def run_first_job(self, inspector: Inspector) -> Exit:
        """Enqueue a run of the sweep, which every stage has and which runs on schedule anyway, and wait for its end."""
        from joblane.cli.commands.tasks import await_end
        from joblane.inspector.filter import Filter

        inspector.tasks(Filter(types=(SWEEP,)), limit=1)  # is repeated until the new API answers; an enqueue is not
        started = time.monotonic()
        id_ = inspector.enqueue(SWEEP, {}, reason=REASON).id
        terminal.say(f"First job: {SWEEP}, task {id_}")
        status = await_end(inspector, self.command, id_, PATIENCE, as_json=False)
        if status is Exit.DONE:
            terminal.say(f"The control API, SQS, Lambda and the database work: {time.monotonic() - started:.1f} s.")
        elif status is Exit.TIMED_OUT:
            terminal.say(f"Next: {self.command} show {id_}, and {self.command} doctor")
        return status

    def show_next(self, region: str) -> None:
        """Print the commands and addresses for a look at the new stage."""
        from joblane.inspector.links import dashboard_link

        rows = []
        if self.has_control:
            rows += [
                (f"{self.command} ls", "tasks"),
                (f"{self.command} doctor", "checks of the whole deployment"),
                (f"{self.command} page", "queues, tasks and dead letters in a browser"),
            ]
        resources = (each for template in self.templates.values() for each in template["Resources"].values())
        has_dashboard = any(resource["Type"] == "AWS::CloudWatch::Dashboard" for resource in resources)
        if has_dashboard and (link := dashboard_link(region, self.prefix)):
            rows.append((link, "metrics and alarms"))
        if rows:
            terminal.say("Look at the stage:")
            terminal.steps(terminal.messages(), rows)


# --- Failed stacks ---------------------------------------------------------------------------------------------------


STACK = "AWS::CloudFormation::Stack"
FAILED = ("CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED")
CONSEQUENCES = ("Resource creation cancelled", "Resource update cancelled")
"""Reasons of resources that failed because another had failed."""
NEVER_CREATED = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
Marks = Mapping[str, tuple[str, object]]
"""Stack → id and time of its last operation."""


@dataclass(frozen=True)
class StackFailure:
    """A stack that is in a failed ``status``. ``resource``: logical id of the first that failed; empty if unknown.

    ``stuck``: the resources whose rollback failed, as ``--resources-to-skip`` takes them.
    """

    stack: str
    status: str
    resource: str = ""
    reason: str = ""
    stuck: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A sentence for people."""
        why = f": {self.resource}: {self.reason}" if self.resource else ""
        return f"{self.stack} is {self.status}{why}"

    def next_step(self, assembly: Path) -> str:
        """The command for the next step. ``assembly``: the folder with the templates."""
        if self.status == "UPDATE_FAILED":
            return f"cdk rollback {self.stack} --app {assembly}"
        if self.status == "UPDATE_ROLLBACK_FAILED":
            return (
                f"cdk rollback {self.stack} --app {assembly}; if that fails: aws cloudformation "
                f"continue-update-rollback --stack-name {self.stack} --resources-to-skip "
                f"{' '.join(self.stuck) or 'RESOURCE, a resource whose rollback failed'}"
            )
        if self.status == "DELETE_FAILED":
            return (
                f"fix the cause, delete the stack again: aws cloudformation delete-stack --stack-name {self.stack}; "
                "deploy when it is gone"
            )
        if self.status.endswith("_IN_PROGRESS"):
            return (
                "wait until the rollback has ended, and repeat the command: aws cloudformation describe-stacks "
                f"--stack-name {self.stack} --query Stacks[0].StackStatus"
            )
        if self.status in NEVER_CREATED:
            return "fix the cause and deploy again: docs/how-to/deploy.md, If the first deploy fails"
        return "fix the cause and deploy again: the stack is as it was before the deploy"


def marks(client: CloudFormationClient, stacks: Iterable[str]) -> Marks:
    """Return the marks of the stacks that exist, by which :func:`stack_failures` finds those that changed since."""
    return {name: mark_of(found) for name, found in _described(client, stacks)}


def newest_event(client: CloudFormationClient, stack: str) -> str:
    """Return the id of the newest event of ``stack``, for :func:`operations_since`. Raises botocore's errors."""
    found = client.describe_stack_events(StackName=stack)["StackEvents"]
    return found[0]["EventId"] if found else ""


def operations_since(client: CloudFormationClient, stack: str, event_id: str) -> int:
    """Return the number of operations on ``stack`` that started after the event. Raises botocore's errors.

    The newest event is first. Source: DescribeStackEvents, CloudFormation API reference.
    """
    count = 0
    for page in client.get_paginator("describe_stack_events").paginate(StackName=stack):
        for event in page["StackEvents"]:
            if event["EventId"] == event_id:
                return count
            count += _is_start(event)
    return count


def stack_failures(client: CloudFormationClient, stacks: Iterable[str], before: Marks) -> Iterator[StackFailure]:
    """Find failed stacks and the resources that failed in each, also in nested stacks.

    A stack that a rollback ended before, and that has the same mark as ``before``, does not stop a deploy.
    """
    for name, found in _described(client, stacks):
        status = str(found["StackStatus"])
        is_old = status.endswith("_COMPLETE") and before.get(name) == mark_of(found)
        if ("FAILED" in status or "ROLLBACK" in status) and not is_old:
            resource, reason = _cause(client, name)
            stuck = tuple(_stuck(client, name)) if status == "UPDATE_ROLLBACK_FAILED" else ()
            yield StackFailure(name, status, resource, reason, stuck)


def read_stack(client: CloudFormationClient, name: str) -> StackTypeDef | str | None:
    """Return the stack; or the code of the error if it cannot be read; or None if it does not exist."""
    from botocore.exceptions import ClientError

    try:
        return client.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):  # CloudFormation has no error code for this
            return None
        return str(error.response.get("Error", {}).get("Code", "unknown"))


def _described(client: CloudFormationClient, stacks: Iterable[str]) -> Iterator[tuple[str, StackTypeDef]]:
    for name in stacks:
        found = read_stack(client, name)
        if found is not None and not isinstance(found, str):
            yield name, found


def mark_of(found: StackTypeDef) -> tuple[str, object]:
    """Return id and time of the last operation on the stack."""
    return found.get("StackId", ""), found.get("LastUpdatedTime", found["CreationTime"])


def _cause(client: CloudFormationClient, stack: str) -> tuple[str, str]:
    """Return logical id and reason of the first resource that failed in the last operation on ``stack``."""
    first = None
    for event in _events(client, stack):
        if _has_failed(event):
            first = event
    if first is None:
        return "", ""
    if first.get("ResourceType") == STACK and (found := _cause(client, first.get("PhysicalResourceId", "")))[0]:
        return found
    return first.get("LogicalResourceId", ""), first.get("ResourceStatusReason", "")


def _stuck(client: CloudFormationClient, stack: str, *, nested: bool = False) -> Iterator[str]:
    """Find the resources that are UPDATE_FAILED because their rollback failed; no others can be skipped.

    One of a nested stack is ``NAME.LOGICAL_ID``, with the name of that stack, not its logical id. Source:
    ContinueUpdateRollback, CloudFormation API reference.
    """
    newest: dict[str, StackEventTypeDef] = {}
    in_rollback: list[StackEventTypeDef] = []
    for event in _events(client, stack):
        if not _is_of_stack(event):
            newest.setdefault(event.get("LogicalResourceId", ""), event)
        elif event.get("ResourceStatus") == "UPDATE_ROLLBACK_IN_PROGRESS":
            in_rollback = [*newest.values()]  # the older events are of the update
    for event in in_rollback:
        if event.get("ResourceType") == STACK and event.get("ResourceStatus") == "UPDATE_FAILED":
            yield from _stuck(client, event.get("PhysicalResourceId", ""), nested=True)
        elif event.get("ResourceStatus") == "UPDATE_FAILED" and _has_failed(event):
            prefix = f"{event.get('StackName', '')}." if nested else ""
            yield f"{prefix}{event.get('LogicalResourceId', '')}"


def _events(client: CloudFormationClient, stack: str) -> Iterator[StackEventTypeDef]:
    """Return the events of the last operation on ``stack``, newest first."""
    for page in client.get_paginator("describe_stack_events").paginate(StackName=stack):
        for event in page["StackEvents"]:
            if _is_start(event):
                return
            yield event


def _is_of_stack(event: StackEventTypeDef) -> bool:
    return event.get("PhysicalResourceId") == event.get("StackId")


def _is_start(event: StackEventTypeDef) -> bool:
    return _is_of_stack(event) and event.get("ResourceStatus") in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS")


def _has_failed(event: StackEventTypeDef) -> bool:
    """True for a resource that failed itself, and not because another had failed."""
    reason = event.get("ResourceStatusReason", "")
    return not _is_of_stack(event) and event.get("ResourceStatus") in FAILED and not reason.startswith(CONSEQUENCES)
