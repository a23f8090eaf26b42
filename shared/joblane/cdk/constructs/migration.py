"""The step of a deploy that migrates the database, before any function that uses it has the new code."""

from __future__ import annotations

from datetime import timedelta

from aws_cdk import CustomResource, Duration
from constructs import Construct

from joblane.cdk.constructs.code import Shared
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.database_access import DatabaseAccess

HANDLER = "joblane.functions.migrate.handler.handler"
TIMEOUT = timedelta(minutes=14)
MARGIN = timedelta(minutes=1)
"""Without a bound of its own, CloudFormation waits an hour for a function that was killed."""
MEMORY_MB = 512


class Migration(Construct):
    """Runs whenever the code or the database changes. What must come after depends on it; where it fails, nothing of
    that changes."""

    def __init__(self, scope: Construct, id_: str, shared: Shared) -> None:
        super().__init__(scope, id_)
        stage, access = shared.stage, shared.access
        self.function = function = JobFunction(
            self,
            "Function",
            shared,
            name=f"{stage.prefix}-migrate",
            description="Brings the database up to date in a deploy",
            handler=HANDLER,
            timeout=TIMEOUT,
            memory_mb=MEMORY_MB,
            environment={**_user(access), **shared.project.migration_environment},
            login=access.migration,
        ).function
        if not stage.local:  # CloudFormation hears of the first failure, and another try would meet the rollback
            function.configure_async_invoke(retry_attempts=0)
        CustomResource(
            self,
            "Run",
            resource_type="Custom::Migration",
            service_token=function.function_arn,
            service_timeout=Duration.seconds(int((TIMEOUT + MARGIN).total_seconds())),
            properties={
                "Code": shared.hash,
                "Database": access.migration.identity,
                "Functions": access.functions.identity,
                "User": access.user or "",
            },
        )


def _user(access: DatabaseAccess) -> dict[str, str]:
    if access.user is None:
        return {}
    return {"DATABASE_USER": access.user, "DATABASE_USER_LOGIN": "iam" if access.functions.by_iam else "password"}
