"""Joblane in somebody else's project: installed as a wheel, next to an application with its own tables and packages."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from joblane.cdk.packaging import WHEEL_PLATFORMS
from joblane.cdk.templates import read_assembly, whole
from joblane.local.ports import free_port
from joblane.local.tools import Tools
from joblane.local.uv import installing_environment
from joblane.project import Project
from joblane.record.driver.database import Database
from tests import long_chains, unpacked, wheel
from tests.e2e.adopter.shop import FILES
from tests.e2e.adopter.tutorial import Tutorial, difference
from tests.pages import ROOT
from tests.patience import await_true

ROWS = "".join(f"row {number}\n" for number in range(300))


@pytest.mark.parametrize(
    ("page", "printed", "differs"),
    [
        ("a  b\n…\nc …\n", "a b\nx\nc\nc  d\n", None),
        ("id 01a2167e-7a49-70e6-ab8a-436a2ce92025\n…\n", "id 01a2167f-26ce-77fe-a1ba-251eb8677215\n", None),
        (
            "…\nrow 1\nrow 2\n…\nrow 7\n",
            "row 1\nrow 1\nrow 2\nrow 6\n",
            "the page has 'row 7', and printed was 'the end'",
        ),
        ("a\nb\n", "a\n", "the page has 'b', and printed was 'the end'"),
        ("a\n", "a\nb\n", "the page has 'the end', and printed was 'b'"),
        ("…\nrow …\n" * 30 + "end\n", ROWS, "the page has 'end', and printed was 'the end'"),
    ],
    ids=["same", "ids", "after-an-omission", "less", "more", "many-omissions"],
)
def test_the_first_line_that_differs_from_the_page_is_named(page: str, printed: str, differs: str | None) -> None:
    assert difference(page, printed) == differs


@dataclass(frozen=True)
class Adopter:
    """Somebody's shell, in the folder of a project, with an environment of its own activated."""

    folder: Path
    python: Path
    variables: dict[str, str]

    def try_to_run(self, *command: str | Path, **variables: str) -> tuple[int, str]:
        """Run a command; return its exit status and what it prints, on both outputs."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run a command that has to succeed; return what it prints, on both outputs."""
        status, output = self.try_to_run(*command, **variables)
        assert status == 0, f"{command}: {status}\n{output}"
        return output

    @property
    def joined(self) -> dict[str, str]:
        """The variables of the local stack, as a shell reads them."""
        lines = (self.folder / ".joblane" / "env").read_text().splitlines()
        return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(scope="module")
def adopter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopter]:
    """A project of somebody's, in a path with spaces; nothing of this checkout is on its path."""
    base = tmp_path_factory.mktemp("adopter")
    folder = base / "my shop"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
    python = wheel.environment(base / "venv", wheel.build(base), "local", "test")
    wheel.install(python, "fastapi")
    ours = {
        name: value
        for name, value in installing_environment(Project(ROOT)).items()
        if not name.startswith(("AWS_", "JOBLANE_", "DATABASE_", "JSII_", "PYTEST_"))
    }
    # built and unpacked once for all tests: it takes as long as the rest
    ours["JSII_RUNTIME_PACKAGE_CACHE_ROOT"] = str(ROOT / ".joblane" / "cache" / "jsii")
    (folder / ".joblane" / "build").mkdir(parents=True)
    for platform in (None, WHEEL_PLATFORMS["arm64"]):
        shutil.copy(unpacked.layer(platform).path, folder / ".joblane" / "build")
    tools = folder / ".joblane" / "tools" / "bin"
    path = os.pathsep.join([str(python.parent), str(tools), "/usr/local/bin", "/usr/bin", "/bin"])
    ports = {"JOBLANE_AWS_PORT": str(free_port()), "JOBLANE_POSTGRES_PORT": str(free_port())}
    # the rules of the CDK, which tests/infra has: a process loads them for four seconds
    without_rules = {"CDK_VALIDATION": "false"}
    made = Adopter(folder, python, {**ours, **ports, **without_rules, "PATH": path, "COLUMNS": "160"})
    try:
        yield made
    finally:
        made.run("joblane", "down")


def relations(database: Database, schema: str) -> set[str]:
    found = database.get().run(
        "select relname from pg_class join pg_namespace n on n.oid = relnamespace where relkind = 'r' and nspname = $1",
        schema,
    )
    return {str(name) for (name,) in found}


@pytest.fixture(scope="module")
def tutorial(adopter: Adopter) -> Tutorial:
    """The tutorial up to its local stack, in the adopter's folder, whose own job needs a setting."""
    page = Tutorial(adopter.folder, adopter.try_to_run)
    page.follow("2. Make the folder a project")
    stages = json.loads((adopter.folder / "cdk.json").read_text())
    for stage in stages["context"]["stages"].values():
        stage["settings"] = {"SHOP_NAME": "the corner shop"}
    (adopter.folder / "cdk.json").write_text(json.dumps(stages))
    for heading in ("3. Write the job", "4. Write the application", "5. Test it", "6. Start the local stack"):
        page.follow(heading)
    return page


@pytest.mark.usefixtures("tutorial")
def test_an_application_adopts_joblane(adopter: Adopter) -> None:
    # given a project whose local stack runs
    assert (adopter.folder / ".joblane").stat().st_mode & 0o077 == 0
    assert (adopter.folder / ".joblane" / ".gitignore").read_text() == "*\n"
    assert {"AWS_REGION": "us-east-1", "SHOP_NAME": "the corner shop"}.items() <= adopter.joined.items()

    # then both schemas live in one database, in whatever order they are migrated
    joined = adopter.joined
    adopter.run("alembic", "upgrade", "head", **joined)
    assert "The schema is up to date" in adopter.run("joblane", "migrate")
    database = Database(joined["DATABASE_URL"])
    ours = relations(database, "joblane")
    assert relations(database, "public") == {"alembic_version", "tasks", "tenants"}
    assert {"alembic_version", "tasks"} <= ours

    # and the application's own migrations touch none of ours
    adopter.run("alembic", "downgrade", "base", **joined)
    assert relations(database, "public") == {"alembic_version"}
    adopter.run("alembic", "upgrade", "head", **joined)
    adopter.run("alembic", "revision", "--autogenerate", "--message", "more", **joined)
    (more,) = (adopter.folder / "migrations" / "versions").glob("*_more.py")
    assert "op." not in more.read_text()
    more.unlink()
    assert relations(database, "joblane") == ours

    # when it enqueues a job in its own session
    program = "from shop.main import add_tenant; print(add_tenant('Ada')['job'])"
    job = adopter.run("python", "-c", program, **joined).split()[-1]

    # then the job completes, and its work is in the application's table
    adopter.run("joblane", "wait", job, "--timeout", "1m")
    [[text]] = database.get().run("select text from public.tasks")
    assert text == "Welcome to the corner shop, Ada"
    printed = adopter.run("joblane", "invoke", "tenant:welcome", "--json", '{"tenant_id": 1}')
    assert "Welcome to the corner shop, Ada" in printed
    database.drop()


@pytest.mark.usefixtures("tutorial")
def test_chains_of_messages_end_as_on_aws(adopter: Adopter) -> None:
    (adopter.folder / "chains.py").write_text(long_chains.PROGRAM)
    adopter.run("python", "chains.py", "jobs-default-chain-link", **adopter.joined)
    log = adopter.folder / ".joblane" / "ministack.log"
    await_true(lambda: long_chains.REFUSAL in log.read_text(), lambda: f"no refusal in {log}")
    long_chains.assert_stopped(adopter.joined["DATABASE_URL"])


def test_the_tutorial_is_followed_to_its_end(tutorial: Tutorial) -> None:
    for heading in ("7. Run it", "8. See it fail", "9. Fix it", "10. Run it again"):
        tutorial.follow(heading)


def test_its_tests_and_its_templates_pass(adopter: Adopter, tutorial: Tutorial, database_url: str) -> None:
    adopter.run("python", "-m", "pytest", "-q", "tests", DATABASE_URL=database_url)
    tutorial.follow("11. Deploy it")
    written = {path.name for path in (adopter.folder / ".joblane" / "cdk.out").glob("*.template.json")}
    assert {"jobs-dev-data.template.json", "jobs-dev-jobs.template.json"} <= written


def test_its_own_cdk_app_takes_the_jobs_as_a_construct(adopter: Adopter) -> None:
    printed = adopter.run("python", "cloud/app.py", JSII_NODE=str(Tools(Project(ROOT)).node))
    assert "tenant:welcome" in printed.split()
    template = whole(read_assembly(adopter.folder / ".joblane" / "cloud.out"), "shop")
    kinds = [resource["Type"] for resource in template["Resources"].values()]
    assert kinds.count("AWS::RDS::DBCluster") == kinds.count("AWS::EC2::VPC") == 1
    names = [resource["Properties"].get("QueueName") for resource in template["Resources"].values()]
    assert {"shop-default", "shop-default-tenant-welcome"} <= {name for name in names if isinstance(name, str)}
