"""`make release-check`: build what a release publishes into ``dist/``, check it, and try it. Nothing is published.

``python -m tests.release [TAG]``. With a tag, the changelog, the name on PyPI and the checkout must be those of a
release. ``--notes``: only print the entry of this version in the changelog.
"""

from __future__ import annotations

import argparse
import email
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import joblane
from joblane import installation
from joblane.project import LOCKS
from tests import wheel as wheels
from tests.pages import ROOT
from tests.versions.__main__ import COMBINATIONS, MissingError, interpreter

DIST, TOOLS = ROOT / "dist", ROOT / ".joblane" / "release"
HEADING = re.compile(r"^## (\S+) — (\d{4}-\d\d-\d\d|unreleased)$", re.M)
INSIDE = {"joblane", f"joblane-{joblane.__version__}.dist-info"}


class NotReadyError(Exception):
    """The release cannot be published. The text says why."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--notes", action="store_true", help="print the entry of this version in the changelog")
    parser.add_argument("tag", nargs="?")
    arguments = parser.parse_args()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if arguments.notes:
        print(notes(changelog, joblane.__version__))
        return
    problems = [*version_problems(changelog, joblane.__version__, arguments.tag)]
    if arguments.tag:
        problems += checkout_problems(arguments.tag)
    if problems:
        sys.exit("\n".join(problems))
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(Path(folder).resolve())
        except NotReadyError as error:
            sys.exit(str(error))


def check(folder: Path) -> None:
    """Build, check and try the files of a release. Raises :class:`NotReadyError`."""
    wheel = build(folder)
    say("the wheel and the source distribution, built in two folders, have the same bytes")
    problems = [*content_problems(wheel, str(ROOT), str(folder), f"{Path.home()}/", sys.prefix)]
    if problems:
        raise NotReadyError("\n".join(problems))
    say("the wheel has the library alone, this version, and no path of this machine")
    tool("twine", "check", "--strict", *map(str, sorted(DIST.glob("joblane-*"))))
    say("the metadata is what PyPI accepts")
    python = lowest_python()
    listed = list_packages(wheel, folder, python)
    say(f"{listed.name} lists {len(json.loads(listed.read_text())['components'])} packages, and is valid")
    say(f"installed with Python {COMBINATIONS[0].python}: {try_out(wheel, folder, python)}")


def say(line: str) -> None:
    print(line, flush=True)


def version_problems(changelog: str, version: str, tag: str | None) -> Iterator[str]:
    """The newest entry of the changelog is that of the version and, with a tag, of the tag, with a date."""
    newest = HEADING.search(changelog)
    if newest is None or newest[1] != version:
        yield f"CHANGELOG.md begins with {newest[1] if newest else 'no version'}, and joblane.__version__ is {version}"
    elif tag and newest[2] == "unreleased":
        yield f"CHANGELOG.md says that {version} is unreleased: write the date"
    if tag and tag != f"v{version}":
        yield f"the tag is {tag}, and joblane.__version__ is {version}: the tag must be v{version}"


def checkout_problems(tag: str) -> Iterator[str]:
    """The checkout is the commit of the tag, and its messages name the package on PyPI."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if changed := git("status", "--porcelain"):
        yield f"the checkout has changes that are in no commit: {changed.splitlines()[0].split()[-1]}"
    if git("rev-parse", "--verify", f"{tag}^{{commit}}") != git("rev-parse", "HEAD"):
        yield f"{tag} is not the commit of this checkout"
    if not installation.PUBLISHED:
        yield "joblane.installation.PUBLISHED is False: messages would not install joblane from PyPI by its name"


def build(folder: Path) -> Path:
    """Build in two folders into ``dist/``, and return the wheel. Raises :class:`NotReadyError`."""
    places = folder / "one", folder / "of" / "another" / "length"
    for place in places:
        place.mkdir(parents=True)
    one, other = (wheels.build(place).parent for place in places)
    for path in one.iterdir():
        if path.read_bytes() != (other / path.name).read_bytes():
            raise NotReadyError(f"{path.name} has other bytes if it is built in another folder")
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.copytree(one, DIST)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def content_problems(wheel: Path, *paths: str) -> Iterator[str]:
    """Files that do not belong into the wheel, and files with one of the ``paths``."""
    with zipfile.ZipFile(wheel) as opened:
        for name in opened.namelist():
            if name.partition("/")[0] not in INSIDE or "/tests/" in name or name.endswith((".pyc", ".pyo")):
                yield f"{wheel.name} has {name}"
            content = opened.read(name)
            yield from (f"{wheel.name}: {name} has the path {path}" for path in paths if path.encode() in content)
        metadata = email.message_from_bytes(opened.read(f"joblane-{joblane.__version__}.dist-info/METADATA"))
    if metadata["Version"] != joblane.__version__:
        yield f"{wheel.name} has the version {metadata['Version']}, and joblane.__version__ is {joblane.__version__}"


def tool(name: str, *arguments: str | Path) -> None:
    """Run a program of ``requirements/release.txt``."""
    lock = ROOT / "requirements" / "release.txt"
    if not (TOOLS / "bin" / name).exists():
        wheels.run(ROOT, wheels.uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, TOOLS)
    wheels.run(ROOT, wheels.uv(), "pip", "sync", "--quiet", "--python", TOOLS, "--require-hashes", lock)
    done = subprocess.run([TOOLS / "bin" / name, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReadyError(f"{name}: {done.stdout}{done.stderr}")


def lowest_python() -> Path:
    """Return the lowest Python that the library accepts. Raises :class:`NotReadyError`."""
    try:
        return interpreter(COMBINATIONS[0].python)
    except MissingError as error:
        raise NotReadyError(f"this machine lacks {error}, the lowest version that joblane accepts") from None


def list_packages(wheel: Path, folder: Path, python: Path) -> Path:
    """Write the list of the packages that a function gets, as CycloneDX, and return it."""
    listed = DIST / f"joblane-{joblane.__version__}.cdx.json"
    runtime = wheels.environment(folder / "runtime", wheel, base=python, lock=LOCKS / "runtime.txt")
    project = folder / "named" / "pyproject.toml"  # the list takes its name and its version from such a file
    project.parent.mkdir()
    declared = (ROOT / "pyproject.toml").read_text()
    project.write_text(declared.replace('dynamic = ["version"]', f'version = "{joblane.__version__}"'))
    options = ("--validate", "--output-reproducible", "--mc-type", "library", "--pyproject", project)
    tool("cyclonedx-py", "environment", *options, "--output-file", listed, runtime)
    of = json.loads(listed.read_text())["metadata"]["component"]
    if (of["name"], of.get("version")) != ("joblane", joblane.__version__):
        raise NotReadyError(f"{listed.name} is about {of['name']} {of.get('version')}")
    return listed


def try_out(wheel: Path, folder: Path, python: Path) -> str:
    """Install the wheel, write a project and run its tests. Return the last line of their output."""
    used = wheels.environment(folder / "used", wheel, "local", "test", base=python)
    project = folder / "project"
    project.mkdir()
    version = wheels.run(project, used.with_name("joblane"), "--version")
    if not version.startswith(f"joblane {joblane.__version__}, "):
        raise NotReadyError(f"joblane --version prints {version!r}")
    wheels.run(project, used.with_name("joblane"), "init")
    return wheels.run(project, used, "-m", "pytest", "-q", "-p", "no:cacheprovider").splitlines()[-1]


def notes(changelog: str, version: str) -> str:
    """Return the entry of a version, without its heading."""
    for found in HEADING.finditer(changelog):
        if found[1] == version:
            return changelog[found.end() :].partition("\n## ")[0].strip()
    raise SystemExit(f"CHANGELOG.md has no entry for {version}")


if __name__ == "__main__":
    main()
