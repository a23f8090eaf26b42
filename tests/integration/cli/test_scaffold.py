"""`joblane new` and `joblane init`: the files that they write work at once, and follow this project's rules."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from joblane import installation
from joblane.cli.commands import scaffold as commands
from joblane.cli.scaffold import init, new
from joblane.local.errors import LocalError
from joblane.local.postgres import Postgres
from joblane.project import Project
from tests.pages import MYPY, ROOT, TYPED

KINDS: dict[str, dict[str, Any]] = {
    "order:pay": {},
    "order:bill_all": {"queue": "low", "resumable": True},
    "order:remind": {"queue": "critical", "schedule": "0 2 * * *"},
    "order:sum_up": {"schedule": "@hourly", "resumable": True},
    "order:print": {"on": "web"},
    "order:check": {"on": "slow", "queue": "low", "resumable": True},
    "django:mail": {"on": "django"},
}


def written(folder: Path, type_: str, options: Mapping[str, Any]) -> list[Path]:
    return new(Project.at(folder), type_, **{"queue": "default", "schedule": None, "resumable": False, **options})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of somebody's, with one job of each kind."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "functions").mkdir()
    (folder / "functions" / "__init__.py").touch()
    # of ruff the rules that hold here, in a project where joblane is somebody else's package
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    lines = ["[tool.ruff]", "line-length = 120", "[tool.ruff.lint]"]
    lines += [f"{name} = {json.dumps(rules[name])}" for name in ("select", "ignore")]
    lines += ["[tool.ruff.lint.per-file-ignores]", '"tests/**" = ["S", "PLR"]']
    (folder / "pyproject.toml").write_text("\n".join(lines))
    for type_, options in KINDS.items():
        written(folder, type_, options)
    return folder


def run(project: Path, *arguments: str, **variables: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments] if arguments[0] == "-c" else [sys.executable, "-m", *arguments],
        cwd=project,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_written_job_passes_its_tests(project: Path, postgres: Postgres) -> None:
    run(project, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests", f"--joblane-database={postgres.url}")


def test_the_written_files_pass_the_formatter_and_the_linter(project: Path) -> None:
    run(project, "ruff", "format", "--check", "functions", "tests")
    run(project, "ruff", "check", "functions", "tests")


def test_a_project_with_all_kinds_of_jobs_is_discovered(project: Path) -> None:
    code = """
from joblane.tasks.discovery import discover, discover_functions
from joblane.tasks.places import places_of
places = places_of(discover().values())
discover_functions()
print({place.name: [task.type for task in tasks] for place, tasks in places.items()})
"""
    found = run(project, "-c", code, PYTHONPATH=str(project))
    assert found.splitlines()[-1] == "{'django': ['django:mail'], 'slow': ['order:check'], 'web': ['order:print']}"


def test_a_queue_of_django_tasks_gets_its_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "functions").mkdir()
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings")
    [handler] = written(tmp_path, "django:mail", {"queue": "low"})
    namespace: dict[str, Any] = {"__name__": "functions.django_mail.handler"}
    exec(handler.read_text(), namespace)
    declared = namespace["django_mail"]
    assert (declared.type, declared.queue, declared.max_retry) == ("django:mail", "low", 3)
    assert '"shop.settings"' in handler.read_text()
    with pytest.raises(LocalError, match="a queue of Django tasks has many"):
        written(tmp_path, "django:other", {"schedule": "@hourly"})


@pytest.mark.parametrize(
    ("type_", "options", "problem"),
    [
        ("order:pay", {}, "functions/order_pay already exists; nothing was written"),
        ("order_pay", {}, "'category:action' is required"),
        ("Order:Pay", {}, "lower-case letters"),
        ("../x:y", {}, "'category:action' is required"),
        ("order:new", {"queue": "fast"}, "'fast' is not one of critical, default, low"),
        ("order:new", {"schedule": "often"}, "fields where Unix cron has five"),
        ("order:new", {"on": "Web-1"}, "--on: Lambda 'Web-1': name: a lower-case letter"),
        ("order:new", {"on": "low"}, "--on: Lambda 'low': name: it is a name of the library's own"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    project: Path, type_: str, options: dict[str, str], problem: str
) -> None:
    before = sorted(project.rglob("*"))
    with pytest.raises(LocalError) as caught:
        written(project, type_, options)
    assert problem in str(caught.value)
    assert sorted(project.rglob("*")) == before


OWN_PLACES = """import joblane

MAIN: joblane.Lambda = joblane.Lambda(name="web", memory_mb=1024)
"""


def test_a_declaration_of_one_s_own_is_used_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    places = tmp_path / "functions" / "places.py"
    places.write_text(OWN_PLACES)
    handler, _ = written(tmp_path, "order:pay", {"on": "web"})
    assert "\nfrom functions.places import MAIN\n" in handler.read_text()
    assert "    runs_on=MAIN,\n" in handler.read_text()
    with pytest.raises(LocalError, match=r'Add the line `SLOW = Lambda\("slow"\)` to it'):
        written(tmp_path, "order:bill", {"on": "slow"})
    places.write_text("WEB = (")
    with pytest.raises(LocalError, match=r"functions/places.py cannot be read: .*Nothing was written"):
        written(tmp_path, "order:bill", {"on": "web"})
    places.unlink()
    (tmp_path / "functions" / "web").mkdir()
    (tmp_path / "functions" / "web" / "handler.py").touch()
    with pytest.raises(LocalError, match="functions/web/ is a function of this name"):
        written(tmp_path, "order:bill", {"on": "web"})
    assert not (tmp_path / "functions" / "order_bill").exists()


def test_a_written_file_of_places_keeps_its_changes(tmp_path: Path) -> None:
    # given
    (tmp_path / "functions").mkdir()
    [places, *_] = written(tmp_path, "order:pay", {"on": "web"})
    changed = places.read_text().replace('"web"', '"web", memory_mb=1024').rstrip()
    places.write_text(changed)
    # when
    assert written(tmp_path, "order:ship", {"on": "web"})[0].name == "handler.py"
    [same, *_] = written(tmp_path, "order:bill", {"on": "slow"})
    # then
    assert (same, places.read_text()) == (places, f'{changed}\nSLOW = Lambda("slow")\n')


def test_a_project_without_functions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"no folder functions/ in .*`joblane init`"):
        written(tmp_path, "order:pay", {})
    assert not list(tmp_path.iterdir())


# --- init ------------------------------------------------------------------------------------------------------------

JOBLANE = str(Path(sys.executable).with_name("joblane"))
FILES = {
    "functions/__init__.py",
    "functions/hello_world/handler.py",
    "tests/test_hello_world.py",
    "infra/app.py",
    "cdk.json",
    ".github/workflows/joblane.yml",
}


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_an_empty_folder_becomes_a_project(tmp_path: Path, postgres: Postgres) -> None:
    done = init(Project.at(tmp_path))
    assert {str(path) for path in done.written} == FILES == files(tmp_path).keys()
    assert done.left == []
    run(tmp_path, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", f"--joblane-database={postgres.url}")
    run(tmp_path, "ruff", "format", "--check", "--line-length", "120", ".")
    run(tmp_path, "ruff", "check", "--no-cache", "--select", "E,F,I,UP,B", "--line-length", "120", ".")
    new(Project.at(tmp_path), "order:pay", queue="default", schedule=None, resumable=False)
    run(tmp_path, *MYPY, "functions", "tests", "infra", MYPYPATH=TYPED)
    stages = json.loads((tmp_path / "cdk.json").read_text())["context"]["stages"]
    assert stages.keys() == {"dev", "local"}


def test_init_keeps_existing_files_and_reports_them(tmp_path: Path) -> None:
    # given
    theirs = {"cdk.json": "{}", "functions/hello_world/handler.py": "# mine", "README.md": "mine"}
    for name, text in theirs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    # when
    done = init(Project.at(tmp_path))
    # then: no test either, which would be of another job
    assert {str(path) for path in done.left} == {"cdk.json", "functions/hello_world/handler.py"}
    assert {str(path) for path in done.written} == {"functions/__init__.py", "infra/app.py"}
    assert files(tmp_path).items() >= theirs.items()
    # and once more, it writes nothing
    before = files(tmp_path)
    assert init(Project.at(tmp_path)).written == []
    assert files(tmp_path) == before


def test_init_follows_the_project_s_own_package_of_functions(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.joblane]\nfunctions = "jobs"\n')
    init(Project.at(tmp_path))
    assert "from jobs.hello_world.handler import" in files(tmp_path)["tests/test_hello_world.py"]
    assert '"jobs/**"' in files(tmp_path)["cdk.json"]


@pytest.mark.parametrize("blocked", ["functions", "infra", ".github", "tests"])
def test_an_init_that_cannot_write_leaves_no_files(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).write_text("a file where a folder has to be")
    with pytest.raises(LocalError, match=rf"{blocked}.* cannot be written: .*Nothing was written"):
        init(Project.at(tmp_path))
    assert files(tmp_path).keys() == {blocked}
    assert [path.name for path in tmp_path.iterdir()] == [blocked]


def test_init_in_a_folder_that_is_not_writable_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(LocalError, match=r"functions cannot be written: Permission denied\. Nothing was written"):
        init(Project.at(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "lacks"),
    [
        ("cdk.json", '{"app": "node bin/app.js", "context": {"@aws-cdk/core:x": true}}', "context.stages.local"),
        ("cdk.json", '{"context": {"stages": {"dev": {}}}}', "context.stages.local"),
        ("cdk.json", "[]", "context.stages.local"),
        ("infra/app.py", "from aws_cdk import App\nApp().synth()\n", "infra/app.py makes no JoblaneApp"),
    ],
)
def test_init_over_another_cdk_app_reports_what_it_lacks_and_promises_no_deploy(
    tmp_path: Path, name: str, text: str, lacks: str
) -> None:
    (tmp_path / "infra").mkdir()
    (tmp_path / name).write_text(text)
    ran = subprocess.run([JOBLANE, "init"], cwd=tmp_path, capture_output=True, text=True, check=True)
    output = " ".join((ran.stdout + ran.stderr).split())
    assert lacks in output
    assert "docs/how-to/own-cdk-app.md" in output
    assert "deploys, and runs the job" not in output
    assert files(tmp_path)[name] == text
    assert ".github/workflows/joblane.yml" not in files(tmp_path)


WHEEL, LISTED = "vendor/joblane-1.0-py3-none-any.whl", "requirements-joblane.txt"
WORKFLOW = ".github/workflows/joblane.yml"


def steps(folder: Path) -> list[str]:
    """The commands of the workflow."""
    return re.findall(r"^ {6}- run: (.+)$", (folder / WORKFLOW).read_text(), re.M)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel from which joblane was installed."""
    wheel = tmp_path / "downloads" / "joblane-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"\0wheel")
    monkeypatch.setattr(installation, "version", lambda: "1.0")
    monkeypatch.setattr(installation, "wheel", lambda: wheel)
    return wheel


def test_the_written_workflow_installs_the_wheel_and_all_packages_by_hash(tmp_path: Path, origin: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    # when
    done = init(Project.at(shop))
    # then
    assert [str(path) for path in done.written[-2:]] == [WHEEL, LISTED]
    assert (shop / WHEEL).read_bytes() == b"\0wheel"
    assert steps(shop)[0] == f"python -m pip install --require-hashes --requirement {LISTED}"
    lines = (shop / LISTED).read_text().replace("\\\n", "").splitlines()
    wheel, *others = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert wheel == f"./{WHEEL}[cdk,test] --hash=sha256:{hashlib.sha256(origin.read_bytes()).hexdigest()}"
    assert len(others) > 40
    assert [line for line in others if not re.match(r"[\w-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
    assert any(line.startswith("uv==") for line in others)
    # and again, nothing is written
    again = init(Project.at(shop))
    assert (again.written, Path(LISTED) in again.left) == ([], True)


def test_a_wheel_in_the_project_stays_where_it_is(
    tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copy(origin, tmp_path))
    monkeypatch.setattr(installation, "wheel", lambda: own)
    assert init(Project.at(tmp_path)).written[-1] == Path(LISTED)
    assert f"\n./{own.name}[cdk,test] --hash" in (tmp_path / LISTED).read_text()
    assert not (tmp_path / "vendor").exists()


def test_init_without_a_known_wheel_says_where_to_put_it(
    tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "wheel", lambda: None)
    (tmp_path / ".git").mkdir()
    done = init(Project.at(tmp_path))
    [note] = done.notes
    assert f"Put {origin.name} into vendor/, and run `joblane init` again: it writes {LISTED}." in note
    assert Path(LISTED) not in done.written
    # when it is there
    (tmp_path / "vendor").mkdir()
    shutil.copy(origin, tmp_path / "vendor")
    done = init(Project.at(tmp_path))
    assert (done.written, done.notes) == ([Path(LISTED)], [])


def test_a_workflow_of_one_s_own_gets_no_wheel(tmp_path: Path, origin: Path) -> None:
    (tmp_path / WORKFLOW).parent.mkdir(parents=True)
    (tmp_path / WORKFLOW).write_text("mine")
    written = init(Project.at(tmp_path)).written
    assert not {Path(WHEEL), Path(LISTED)} & {*written}


def test_once_published_the_workflow_names_the_package_and_pins_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PUBLISHED", True)
    done = init(Project.at(tmp_path))
    assert {str(path) for path in done.written} == FILES
    assert re.fullmatch(
        rf'python -m pip install "joblane\[cdk,test\]=={installation.version()}" "uv==[\d.]+"', steps(tmp_path)[0]
    )


def test_init_reports_missing_parts_of_git(tmp_path: Path, origin: Path) -> None:
    assert "not in a git repository" in init(Project.at(tmp_path)).notes[0]
    (tmp_path / ".git").mkdir()
    assert init(Project.at(tmp_path)).notes == []
    inner = tmp_path / "service"
    inner.mkdir()
    [note] = init(Project.at(inner)).notes
    assert f"GitHub reads workflows only in {tmp_path}/.github/workflows:" in note
    assert "`defaults: {run: {working-directory: service}}`" in note, "else its steps find no requirements-joblane.txt"


def test_init_without_pytest_names_the_extra_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pytest" else found(name))
    commands.init()
    assert f"  {installation.install('test')} && " in capsys.readouterr().err
