"""The stacks of test tasks, synthesised once per stage and session, without network, credentials or a real layer."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.app import APP
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import Package, Packages
from joblane.local.uv import find_uv
from joblane.project import Project

TASKS = "tests.infra.tasks"
SENDERS = "tests.infra.senders"
"""Tasks that send events."""
DATABASE_URL = "postgresql://jobs:jobs@127.0.0.1:5432/jobs"
DATABASE_SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/dev-AbCdEf"
RDS_HOST = "acme.cluster-c1.eu-central-1.rds.amazonaws.com"
AURORA: dict[str, Any] = {"kind": "aurora", "name": "acme", "user": "worker"}
EXISTING_NETWORK: dict[str, Any] = {
    "kind": "existing",
    "vpc_id": "vpc-0a1b2c3d",
    "subnet_ids": ["subnet-01", "subnet-02"],
    "availability_zones": ["eu-central-1a", "eu-central-1b"],
}
STAGES: dict[str, Any] = {
    "dev": {
        "prefix": "acme",
        "removal": "retain",
        "database": {"kind": "existing", "host": "db.internal", "name": "acme", "secret": DATABASE_SECRET},
        "settings": {
            "EMAIL_FROM_ADDRESS": "Acme <no-reply@example.com>",
            "SMTP_PASSWORD": {"secret": "acme/smtp"},
        },
    },
    "local": {"local": True, "removal": "destroy", "settings": {"EMAIL_FROM_ADDRESS": "local@example.com"}},
}


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv executable. Tests that need a layer are skipped on a machine without it."""
    try:
        return find_uv(Project.here())
    except SynthError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def no_packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Empty zips in place of code and dependencies: a template contains only their hashes."""
    path = tmp_path_factory.mktemp("packages") / "empty.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nothing.py", "")
    return Packages(code=Package(path, "c0de" * 16), layer=Package(path, "1a7e4" * 12), page=Package(path, "ba9e" * 16))


class RealStages:
    """The real tasks on the stages of ``cdk.json``, each synthesised once, with all checks."""

    def __init__(self, packages: Packages, folder: Path) -> None:
        self._packages, self._folder = packages, folder
        self._synthesised: dict[str, Synthesised] = {}

    def __call__(self, stage: str) -> Synthesised:
        if stage not in self._synthesised:
            self._synthesised[stage] = APP.synthesise(
                context_of_file(Project.here()) | {"stage": stage},
                output=self._folder / stage,
                environ={},
                build=lambda stage, project: self._packages,
            )
        return self._synthesised[stage]


@pytest.fixture(scope="session")
def real_stages(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> RealStages:
    return RealStages(no_packages, tmp_path_factory.mktemp("real"))


class Synth:
    """Synthesises the test tasks for a stage, with changes to its settings."""

    def __init__(self, packages: Packages, folder: Path) -> None:
        self._packages, self._folder, self._count = packages, folder, 0

    def __call__(
        self, stage: str = "dev", *, package: str = TASKS, findings: bool = False, **changes: Any
    ) -> Synthesised:
        self._count += 1
        return replace(APP, functions=package).synthesise(
            context_of_file(Project.here())
            | {"stage": stage, "stages": {**STAGES, stage: {**STAGES[stage], **changes}}},
            output=self._folder / f"{stage}-{self._count}",
            environ={"DATABASE_URL": DATABASE_URL, "SMTP_HOST": "127.0.0.1"},
            build=lambda stage, project: self._packages,
            findings=findings,
        )


@pytest.fixture(scope="session")
def synth(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Synth:
    return Synth(no_packages, tmp_path_factory.mktemp("assemblies"))


@pytest.fixture(scope="session")
def dev(synth: Synth) -> Synthesised:
    return synth("dev")


@pytest.fixture(scope="session")
def local(synth: Synth) -> Synthesised:
    return synth("local")
