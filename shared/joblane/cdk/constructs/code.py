"""The code, dependency layer, settings and database access that all functions of a stage share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.constructs.image import check_images
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.packaging import Package, Packages
from joblane.cdk.settings.stage import Architecture, Stage
from joblane.local.git import DIRTY, version_of
from joblane.project import Project
from joblane.tasks.function import Function
from joblane.tasks.places import places_text
from joblane.tasks.task import Task

RUNTIME = lambda_.Runtime.PYTHON_3_13
ARCHITECTURES: dict[Architecture, lambda_.Architecture] = {
    "arm64": lambda_.Architecture.ARM_64,
    "x86_64": lambda_.Architecture.X86_64,
}


SHORT = 7
"""Characters of a digest of the code in a version."""
Tasks = Mapping[str, Task[Any, Any]]


@dataclass(frozen=True)
class Workload:
    """The code that a stage runs.

    ``tasks``: by type, with the schedules of the stage. ``functions``: functions with their own handler, by name.
    """

    stage: Stage
    project: Project
    tasks: Tasks
    functions: Mapping[str, Function]
    packages: Packages


class Shared(Construct):
    """A code asset and a layer, with ``stage``, ``project`` and database ``access``.

    Code and layer are zips with a known hash, so the CDK neither copies nor hashes a folder.
    """

    def __init__(self, scope: Construct, id_: str, workload: Workload, access: DatabaseAccess) -> None:
        super().__init__(scope, id_)
        packages = workload.packages
        check_images(workload.stage, workload.project, workload.tasks.values())
        self.stage, self.project, self.access = workload.stage, workload.project, access
        self.places = places_text(workload.tasks.values())
        self.architecture = ARCHITECTURES[self.stage.architecture]
        self.hash, self._package = packages.code.hash, packages.code
        self._codes: dict[str, lambda_.Code] = {}
        self.layer = lambda_.LayerVersion(
            self,
            "Dependencies",
            layer_version_name=f"{self.stage.prefix}-dependencies",
            code=_asset(packages.layer),
            compatible_runtimes=[RUNTIME],
            compatible_architectures=[self.architecture],
        )

    @property
    def version(self) -> str:
        """The version that the deploy records. Empty: the local stack records it."""
        if self.stage.local:
            return ""
        commit, code = version_of(self.project.root), self.hash[:SHORT]
        if commit and commit.endswith(DIRTY):
            commit = f"{commit.removesuffix(DIRTY)}+{code}"
        return self.stage.version or commit or code

    def code_for(self, scope: Construct) -> lambda_.Code:
        """Return the code for functions in the stack of ``scope``. The CDK wants an object for each stack."""
        stack = Stack.of(scope).node.path
        if stack not in self._codes:
            self._codes[stack] = _asset(self._package)
        return self._codes[stack]


def _asset(package: Package) -> lambda_.Code:
    return lambda_.Code.from_asset(str(package.path), asset_hash=package.hash)
