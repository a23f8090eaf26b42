"""What all functions share: the code, and the layer of dependencies."""

from __future__ import annotations

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.packaging import Package, Packages
from joblane.cdk.settings.stage import Architecture
from joblane.project import Project

RUNTIME = lambda_.Runtime.PYTHON_3_13
ARCHITECTURES: dict[Architecture, lambda_.Architecture] = {
    "arm64": lambda_.Architecture.ARM_64,
    "x86_64": lambda_.Architecture.X86_64,
}


class FunctionCode(Construct):
    """One code asset and one layer. Both are zips with a known hash, so CDK neither copies nor hashes a folder."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        packages: Packages,
        project: Project,
        architecture: Architecture,
        layer_name: str,
    ) -> None:
        super().__init__(scope, id_)
        self.project = project
        self.architecture = ARCHITECTURES[architecture]
        self.code, self.hash = _asset(packages.code), packages.code.hash
        self.layer = lambda_.LayerVersion(
            self,
            "Dependencies",
            layer_version_name=layer_name,
            code=_asset(packages.layer),
            compatible_runtimes=[RUNTIME],
            compatible_architectures=[self.architecture],
        )


def _asset(package: Package) -> lambda_.Code:
    return lambda_.Code.from_asset(str(package.path), asset_hash=package.hash)
