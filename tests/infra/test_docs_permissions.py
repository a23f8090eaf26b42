"""`docs/how-to/permissions.md` is run: its tests of the tasks, and the synthesis of its CDK app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joblane.cdk.templates import read_assembly, whole
from joblane.cli.scaffold import init
from joblane.local.postgres import Postgres
from joblane.local.tools import Tools
from joblane.project import Project
from tests.infra import templates
from tests.infra.templates import Template
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "permissions.md"
SYNTH = """
import sys
from pathlib import Path

from infra.app import APP
from joblane.cdk.packaging import Package, Packages

empty = Path("empty.zip")
packages = Packages(code=Package(empty, "c0de" * 16), layer=Package(empty, "1a7e4" * 12))
sys.exit(APP.main(["-c", "stage=dev"], build=lambda *_: packages))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that `joblane init` has made, with the files and the settings of the page."""
    folder = tmp_path_factory.mktemp("permissions")
    init(Project.at(folder))
    for block in blocks("python", PAGE):
        first, source = block.text.split("\n", 1)
        path = folder / first.removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    [settings] = blocks("json", PAGE)
    cdk_json = json.loads((folder / "cdk.json").read_text())
    cdk_json["context"]["stages"]["dev"] |= json.loads(settings.text)
    (folder / "cdk.json").write_text(json.dumps(cdk_json))
    return folder


def run(project: Path, *arguments: str) -> None:
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(project), str(ROOT / "shared")]),
        "JSII_NODE": str(Tools(Project(ROOT)).node),
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(ROOT / ".joblane" / "cache" / "jsii"),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "CDK_VALIDATION": "false",  # the rules of the CDK, which a process loads for four seconds
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def template(project: Path) -> Template:
    """The stack of the jobs."""
    (project / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    run(project, "-c", SYNTH)
    return whole(read_assembly(project / ".joblane" / "cdk.out"), "jobs-dev-jobs")


def test_the_tests_of_the_tasks_pass(project: Path, postgres: Postgres) -> None:
    run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", f"--joblane-database={postgres.url}")


def test_each_function_has_the_permissions_that_the_page_names(template: Template) -> None:
    functions = templates.of_type(template, "AWS::Lambda::Function")
    write = functions["jobs-dev-statement-write"]
    variables = write["Environment"]["Variables"]
    assert variables["STATEMENT_TITLE"] == "Your balance"
    assert {"STATEMENT_BUCKET", "CUSTOMERS_TABLE"} <= variables.keys()
    allowed = templates.allowed_to_role(template, write["Role"])
    ends = {
        "s3:PutObject": "/statements/*",
        "dynamodb:GetItem": "}",  # the table alone, by its export
        "bedrock:InvokeModel": ":bedrock:${AWS::Region}::foundation-model/amazon.nova-micro-v1:0",
    }
    for action, end in ends.items():
        [resource] = allowed[action]
        assert resource.endswith(end)
    assert "jobs-dev-default-statement-mail" in allowed["sqs:SendMessage"]
    assert "ses:SendEmail" not in allowed
    mail = templates.allowed_to_role(template, functions["jobs-dev-statement-mail"]["Role"])
    assert "ses:SendEmail" in mail
    assert ends.keys() & mail.keys() == set()
