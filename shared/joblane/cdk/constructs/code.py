"""What all functions of a stage share: code, layer of dependencies, settings, and the way to the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.packaging import Package, Packages
from joblane.cdk.settings.stage import Architecture, Stage
from joblane.declaration import Task
from joblane.function import Function
from joblane.project import Project

RUNTIME = lambda_.Runtime.PYTHON_3_13
ARCHITECTURES: dict[Architecture, lambda_.Architecture] = {
    "arm64": lambda_.Architecture.ARM_64,
    "x86_64": lambda_.Architecture.X86_64,
}


Tasks = Mapping[str, Task[Any, Any]]


@dataclass(frozen=True)
class Workload:
    """All that a stage runs: the ``tasks`` of a project with the stage's times, by type, and ``functions``, the Lambdas
    with a handler of their own, by name."""

    stage: Stage
    project: Project
    tasks: Tasks
    functions: Mapping[str, Function]
    packages: Packages


class Shared(Construct):
    """One code asset and one layer. Both are zips with a known hash, so CDK neither copies nor hashes a folder.

    With them go ``stage``, ``project`` and ``access``, to the database.
    """

    def __init__(self, scope: Construct, id_: str, workload: Workload, access: DatabaseAccess) -> None:
        super().__init__(scope, id_)
        packages = workload.packages
        self.stage, self.project, self.access = workload.stage, workload.project, access
        self.architecture = ARCHITECTURES[self.stage.architecture]
        self.code, self.hash = _asset(packages.code), packages.code.hash
        self.layer = lambda_.LayerVersion(
            self,
            "Dependencies",
            layer_version_name=f"{self.stage.prefix}-dependencies",
            code=_asset(packages.layer),
            compatible_runtimes=[RUNTIME],
            compatible_architectures=[self.architecture],
        )


def _asset(package: Package) -> lambda_.Code:
    return lambda_.Code.from_asset(str(package.path), asset_hash=package.hash)
