"""The steps of `joblane deploy` after the preflight: `cdk deploy`, a first job by the control API, what to look at."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cli import terminal
from joblane.cli.durations import milliseconds
from joblane.cli.exits import Exit
from joblane.local.deployment import cdk_command, cdk_variables
from joblane.local.errors import LocalError
from joblane.local.tools import installing_environment
from joblane.names import CONTROL_URL, SWEEP
from joblane.project import Project

if TYPE_CHECKING:
    from boto3.session import Session

    from joblane.cli.stack_failures import Marks
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
    def has_control(self) -> bool:
        return any(CONTROL_URL in template.get("Outputs", {}) for template in self.templates.values())

    def deploy(self, session: Session, *, approved: bool) -> None:
        """Run `cdk deploy` in this terminal. ``approved``: the CDK asks no question.

        Raises :class:`LocalError`, which names the failed stacks.
        """
        options = ["--require-approval", "never"] if approved else []
        command = cdk_command(self.project, "deploy", "--all", "--app", str(self.assembly), *options)
        environment = installing_environment(self.project) | cdk_variables(self.project)
        started, before = time.monotonic(), self._marks(session)
        done = subprocess.run(command, cwd=self.project.root, env=environment, check=False)  # noqa: S603
        terminal.say(f"cdk deploy: {milliseconds(1000 * (time.monotonic() - started))}")
        if done.returncode:
            raise LocalError(
                "\n".join([f"`cdk deploy` failed (exit status {done.returncode}).", *self._causes(session, before)])
            )

    def _marks(self, session: Session) -> Marks:
        from joblane.cdk.templates import stacks_of
        from joblane.cli.stack_failures import marks

        with closing(session.client("cloudformation")) as client:
            return marks(client, stacks_of(self.templates))

    def _causes(self, session: Session, before: Marks) -> Iterator[str]:
        from joblane.cdk.templates import stacks_of
        from joblane.cli.stack_failures import stack_failures

        with closing(session.client("cloudformation")) as client:
            failures = list(stack_failures(client, stacks_of(self.templates), before))
        for failure in failures:
            yield f"{failure.text}. Next: {failure.next_step(self.assembly)}"
            if "MigrationRun" in failure.resource:
                yield f"Log of the migration: aws logs tail /aws/lambda/{self.prefix}-migrate --since 1h"
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
