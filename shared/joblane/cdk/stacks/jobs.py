"""The stack of the jobs: queues, functions and schedules."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Stack
from constructs import Construct

from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.jobs import Jobs, Tasks
from joblane.cdk.costs import Extra
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.packaging import Packages
from joblane.cdk.settings.stage import Stage as StageSettings
from joblane.function import Function
from joblane.project import Project


class JobsStack(Stack):
    """``jobs``: all that it holds, as a construct."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: StageSettings,
        project: Project,
        tasks: Tasks,
        functions: Mapping[str, Function],
        packages: Packages,
        access: DatabaseAccess,
        buckets: Mapping[str, GrantedBucket],
        costs: Mapping[str, Extra] | None = None,
    ) -> None:
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: queues, functions and schedules")
        self.jobs = Jobs(
            self,
            "Jobs",
            stage=stage,
            project=project,
            tasks=tasks,
            functions=functions,
            packages=packages,
            access=access,
            buckets=buckets,
            costs=costs,
        )
