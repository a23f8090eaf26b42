"""The step of a deploy that migrates the database before any function gets the new code."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import cast

from aws_cdk import CfnElement, CfnOutput, CustomResource, Duration, Stack
from constructs import Construct

from joblane.cdk.constructs.code import Shared
from joblane.cdk.constructs.queue_pair import send_statement
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.preflight.keys import KEYS_OUTPUT, MIGRATION_OUTPUT, UsedKeys, keys_output
from joblane.cdk.preflight.moves import RESTORED_OUTPUT
from joblane.cdk.templates import MIGRATION
from joblane.local.git import deployer
from joblane.names import SWEEP, Queue, lane_name
from joblane.project import Project

HANDLER = "joblane.functions.migrate.handler.handler"
TIMEOUT = timedelta(minutes=14)
MARGIN = timedelta(minutes=1)
"""CloudFormation's own time limit is an hour, also for a function that was killed."""
MEMORY_MB = 512
DIGEST = 16
MOVE = "move"
"""Key of the context: the time at which `joblane deploy` moves the stage to another database, as a person wants it.
Without it, a second move to a database would send the request of a rollback."""
FOLDERS = frozenset({"migrations", "alembic"})
"""Names of folders for migrations, as Django and Alembic call them."""


class Migration(Construct):
    """A custom resource that migrates the database whenever the code, its version, the database, or the times of the
    stage's schedules change, which the migration registers.

    Resources that need the new schema depend on it. If the migration fails, they stay as they are.
    """

    def __init__(self, scope: Construct, id_: str, shared: Shared) -> None:
        super().__init__(scope, id_)
        stage, access = shared.stage, shared.access
        self.name = f"{stage.prefix}-migrate"
        made = JobFunction(
            self,
            "Function",
            shared,
            name=self.name,
            description="Brings the database up to date in a deploy",
            handler=HANDLER,
            timeout=TIMEOUT,
            memory_mb=MEMORY_MB,
            environment={**_user(access), **shared.project.migration_environment},
            login=access.migration,
        )
        made.permit(send_statement([lane_name(stage.prefix, Queue.LOW, SWEEP)]))  # it wakes the sweep at its end
        self.function = function = made.function
        self.run = run = CustomResource(
            self,
            "Run",
            resource_type=MIGRATION,
            service_token=function.function_arn,
            service_timeout=Duration.seconds(int((TIMEOUT + MARGIN).total_seconds())),
            properties={
                "Code": shared.hash,
                "Database": access.migration.url,
                "Functions": access.functions.url,
                "Schedules": json.dumps({**stage.schedules, SWEEP: stage.sweep_minutes}, sort_keys=True),
                "User": access.user or "",
                **({"Restored": access.restored} if access.restored else {}),
                **({"Move": move} if (move := self.node.try_get_context(MOVE)) else {}),
                "Version": shared.version,
                "By": "" if stage.local else deployer(shared.project.root) or "",
            },
        )
        if access.place:  # its rules are resources of their own, and the function reaches the database only by them
            run.node.add_dependency(access.place.security_group)
        if not stage.local:  # CloudFormation rolls back after the first failure; a retry would run during the rollback
            function.configure_async_invoke(retry_attempts=0)
            run.node.add_dependency(function.node.find_child("EventInvokeConfig"))
        self._restored, self._keys = access.restored, UsedKeys.of(stage.keys).text
        self._resource = cast(CfnElement, run.node.default_child)

    def add_output(self, scope: Construct) -> None:
        """Print the logical id of the resource in a deploy, with which a rollback can skip it, and the restored copy
        and the KMS keys that the stage uses, with which the preflight compares the next deploy."""
        stack = Stack.of(self)
        migration = CfnOutput(scope, MIGRATION_OUTPUT, value=stack.get_logical_id(self._resource))
        if self._restored:
            CfnOutput(scope, RESTORED_OUTPUT, value=self._restored)
        if self._keys:
            keys = CfnOutput(scope, KEYS_OUTPUT, value=self._keys)
            keys.override_logical_id(keys_output(stack.get_logical_id(migration)))


def digest_of_migrations(project: Project) -> str:
    """Return a digest of the files of the project's own migrations: their module, and all folders for migrations.

    Empty: they are in no folder of the project's code. A project without own migrations has a digest, too.
    """
    found = hashlib.sha256((project.migrations or "").encode())
    if project.migrations is None:
        return found.hexdigest()[:DIGEST]
    module = Path(*project.migrations.partition(":")[0].split("."))
    has_module = False
    for folder in project.code_folders:
        for path in sorted(folder.rglob("*")):
            own = path.relative_to(folder.parent)
            is_module = own.with_suffix("") == module or module in own.parents
            if path.is_file() and "__pycache__" not in own.parts and (is_module or not FOLDERS.isdisjoint(own.parts)):
                found.update(f"{own.as_posix()}\0".encode() + path.read_bytes() + b"\0")
                has_module |= is_module
    return found.hexdigest()[:DIGEST] if has_module else ""


def _user(access: DatabaseAccess) -> dict[str, str]:
    if access.user is None:
        return {}
    return {"DATABASE_USER": access.user, "DATABASE_USER_LOGIN": "iam" if access.functions.by_iam else "password"}
