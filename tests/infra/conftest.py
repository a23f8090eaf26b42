"""The stacks of test tasks, synthesised once per stage and session, without network, credentials or a real layer."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.app import APP
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import Package, Packages
from joblane.local.git import version_of
from joblane.local.uv import find_uv
from joblane.project import Project
from joblane.settings import SIGNAL_KEYS

TASKS = "tests.infra.tasks"
SENDERS = "tests.infra.senders"
"""Tasks that send events."""
DATABASE_URL = "postgresql://jobs:jobs@127.0.0.1:5432/jobs"
DATABASE_SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/dev-AbCdEf"
RDS_HOST = "acme.cluster-c1.eu-central-1.rds.amazonaws.com"
AURORA: dict[str, Any] = {"kind": "aurora", "name": "acme", "user": "worker"}
RESTORED = {
    "host": "acme-restored.cluster-c1.eu-central-1.rds.amazonaws.com",
    "resource_id": "cluster-RESTORED",
}
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


WEBHOOK: dict[str, Any] = {"url": "https://hooks.acme.io/joblane", "secret": {"secret": "acme/hook", "field": "key"}}
SLACK = {"workspace_id": "T0123ABCD", "channel_id": "C0456EFGH"}
RUNBOOK = "https://wiki.acme.io/jobs"
JWT: dict[str, Any] = {
    "authorizer": {"kind": "jwt", "issuer": "https://id.example.com/", "audience": ["web", "phone"]},
    "cors_origins": ["https://app.example.com", "http://localhost:3000"],
}
LIMITS = {"rate_per_second": 7, "burst": 9}
PAGE_SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:page-AbCdEf"
OIDC: dict[str, Any] = {
    "issuer": "https://id.acme.test",
    "client_id": "the-client",
    "roles_claim": "groups",
    "roles": {"view": ["readers"], "operate": ["ops"]},
}
IAM_DATABASE: dict[str, Any] = {
    "kind": "existing",
    "host": RDS_HOST,
    "port": 5433,
    "name": "acme",
    "user": "worker",
    "resource_id": "cluster-ABC",
    "migration_secret": DATABASE_SECRET,
}
IPV6: dict[str, Any] = {"kind": "new"}
NAT = {"kind": "new", "egress": "nat"}
NAT_INSTANCE: dict[str, Any] = {"kind": "new", "egress": "nat_instance"}
TWO_GATEWAYS = {**NAT, "nat_gateways": 2}
ENDPOINTS = {"kind": "new", "egress": "endpoints"}
NONE = {"kind": "new", "egress": "none", "reaches": ["sqs", "secretsmanager", "sesv2"]}
STAGE_KEY, NEXT_KEY, DATABASE_KEY = (
    f"arn:aws:kms:eu-central-1:111122223333:key/{id_}"
    for id_ in (
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "mrk-1234abcd12ab34cd56ef1234567890ab",
        "dddddddd-12ab-34cd-56ef-1234567890ab",
    )
)
IMAGE = f"111122223333.dkr.ecr.eu-central-1.amazonaws.com/team/shop@sha256:{'5e' * 32}"
APPS: Mapping[str, Mapping[str, Any]] = {
    "dev": {},
    "local": {"stage": "local"},
    "ipv6": {"network": IPV6, "database": AURORA},
    "asleep": {
        "removal": "destroy",
        "network": TWO_GATEWAYS,
        "database": {**AURORA, "min_capacity": 0, "pause_after_minutes": 10, "deletion_protection": False},
        "monitoring": {"detail": "stage", "database_connections_percent": 70},
    },
    "robust": {
        "network": NAT,
        "database": {**AURORA, "min_capacity": 1, "max_capacity": 8, "standby": True, "backup_days": 14},
        "tags": {"team": "billing"},
    },
    "nat_instance": {
        "network": {**NAT_INSTANCE, "egress_ports": [587]},
        "database": AURORA,
        "monitoring": {"email": "a@acme.io", "detail": "stage"},
    },
    "endpoints": {"network": ENDPOINTS, "database": AURORA},
    "rds": {
        "network": IPV6,
        "database": {"kind": "rds", "name": "acme", "user": "worker"},
        "monitoring": {"email": "off"},
    },
    "restored": {"network": IPV6, "database": {**AURORA, "restored": RESTORED}},
    "none": {"network": NONE, "database": AURORA},
    "subnets": {
        "network": {**EXISTING_NETWORK, "egress": "ipv6", "egress_ports": [587]},
        "database": {**IAM_DATABASE, "security_group_id": "sg-0123456789abcdef0"},
    },
    "watched": {
        "monitoring": {
            "email": "on-call@example.com",
            "later_email": "team@example.com",
            "slack": SLACK,
            "runbook_url": RUNBOOK,
            "archived": 7,
            "throttles": "off",
            "old_snapshot_minutes": 120,
            "budget": 12.5,
        }
    },
    "events": {
        "package": SENDERS,
        "settings": {},
        "events": {"webhook": {**WEBHOOK, "kinds": ["archived"], "types": ["order:paid"], "rate_per_second": 5}},
        "monitoring": {"email": "a@acme.io", "detail": "stage"},
    },
    "renamed": {"package": "tests.infra.renamed", "settings": {}},
    "imaged": {
        "package": "tests.infra.imaged",
        "settings": {},
        "images": {
            "shop": IMAGE,
            "built": {"dockerfile": "Dockerfile", "target": "app", "context": "tests/infra/imaged"},
        },
    },
    "places": {
        "package": "tests.infra.places",
        "settings": {"EMAIL_FROM_ADDRESS": "Acme <no-reply@example.com>"},
        "mail_from": "no-reply@example.com",
        "monitoring": {"email": "off"},
    },
    "apis": {
        "package": "functions",
        "api": {**JWT, **LIMITS, "max_concurrency": 12},
        "settings": {"EMAIL_FROM_ADDRESS": "Acme <no-reply@example.com>", SIGNAL_KEYS: {"secret": "acme/signals"}},
        "control": {**LIMITS, "max_concurrency": 3},
        "page": {"oidc": {**OIDC, "client_secret": PAGE_SECRET}, "max_concurrency": 4},
        "account_concurrency": 1000,
        "log_retention_days": 14,
        "monitoring": {"email": "off"},
    },
    "own_keys": {
        "package": "functions",
        "kms_key": STAGE_KEY,
        "other_kms_keys": [NEXT_KEY],
        "network": IPV6,
        "database": {**AURORA, "kms_key": DATABASE_KEY},
        "api": {"authorizer": {"kind": "iam"}},
        "control": {},
        "page": {"oidc": OIDC},
        "account_concurrency": 1000,
        "monitoring": {"email": "off", "detail": "stage", "budget": 12.5},
    },
    "own_keys_of_events": {
        "package": SENDERS,
        "settings": {},
        "kms_key": STAGE_KEY,
        "events": {"webhook": {**WEBHOOK, "types": ["order:paid"]}},
        "removal": "destroy",
    },
    "signed": {
        "package": "functions",
        "api": {"authorizer": {"kind": "iam"}},
        "control": {},
        "account_concurrency": 1000,
        "removal": "destroy",
    },
}
"""Arguments of :class:`Synth`, by the name of the app. Each is synthesised once, with the findings of cdk-nag."""


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv executable. Tests that need a layer are skipped on a machine without it."""
    try:
        return find_uv(Project.here())
    except SynthError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def one_version() -> Iterator[None]:
    """Git compares the files of this checkout with its commit once, and not for each of nearly 200 syntheses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joblane.cdk.constructs.code.version_of", functools.cache(version_of))
        yield


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
    """Synthesises the test tasks for a stage, with changes to its settings. The same arguments give the same result."""

    def __init__(self, packages: Packages, folder: Path) -> None:
        self._packages, self._folder, self._count = packages, folder, 0
        self._known: dict[str, Synthesised] = {}

    def __call__(self, stage: str = "dev", **given: Any) -> Synthesised:
        key = json.dumps([stage, given], sort_keys=True)
        if key not in self._known:
            self._known[key] = self.anew(stage, **given)
        return self._known[key]

    def anew(
        self,
        stage: str = "dev",
        *,
        package: str = TASKS,
        findings: bool = False,
        move: str | None = None,
        **changes: Any,
    ) -> Synthesised:
        self._count += 1
        return replace(APP, functions=package).synthesise(
            context_of_file(Project.here())
            | {"stage": stage, "stages": {**STAGES, stage: {**STAGES[stage], **changes}}}
            | ({"move": move} if move else {}),
            output=self._folder / f"{stage}-{self._count}",
            environ={"DATABASE_URL": DATABASE_URL, "SMTP_HOST": "127.0.0.1"},
            build=lambda stage, project: self._packages,
            findings=findings,
        )

    def app(self, name: str) -> Synthesised:
        """Return an app of :data:`APPS`."""
        return self(**APPS[name], findings=True)


@pytest.fixture(scope="session")
def synth(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Synth:
    return Synth(no_packages, tmp_path_factory.mktemp("assemblies"))


@pytest.fixture(scope="session")
def dev(synth: Synth) -> Synthesised:
    return synth.app("dev")


@pytest.fixture(scope="session")
def local(synth: Synth) -> Synthesised:
    return synth.app("local")


ON_AWS = [*(name for name in APPS if name != "local"), *("real dev", "real prod")]


@pytest.fixture(params=ON_AWS)
def every(request: pytest.FixtureRequest, synth: Synth, real_stages: RealStages) -> Synthesised:
    """Each app of :data:`APPS` but the local one, and the real tasks on the stages for AWS."""
    _, is_real, stage = request.param.rpartition("real ")
    return real_stages(stage) if is_real else synth.app(stage)
