"""The lock of the packages that functions import: a file of requirements with versions and hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from joblane.project import LOCKS, ProjectError

PROVIDED = ("boto3", "botocore", "s3transfer", "urllib3")
"""Packages that Lambda's Python runtime or the emulator's environment provides: most of the lock's size.
jmespath, python-dateutil and six come with boto3 too, but stay in the layer: Powertools and pg8000 need the lock's
versions."""
PYTHON = "3.13"
"""Version of the functions on AWS."""
LAMBDA = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
}
"""The environment of functions, for the markers of a lock."""


def check_lock(lock: Path) -> None:
    """Raise :class:`ProjectError` if ``lock`` does not have what the library imports in the functions.

    The message has each package that is missing or too old, its version, and the version that is needed.
    """
    locked, needed = _versions(text_of(lock)), _needed()
    names = _versions(text_of(LOCKS / "runtime.txt")).keys()
    problems = [f"{name}{needed.get(name, '')} is missing" for name in sorted(names - locked.keys())]
    for name, wanted in sorted(needed.items()):
        if (version := locked.get(name)) and not wanted.contains(version, prereleases=True):
            problems.append(f"{name} is {version}, and joblane needs {name}{wanted}")
    if problems:
        raise ProjectError(
            f"{lock} does not fit this version of joblane: {'; '.join(problems)}. `joblane lock` writes it again for"
            " joblane and the packages that it lists in a file of the same name with the suffix .in"
        )


def locked_names(lock: Path) -> set[str]:
    """Return the names of the packages in ``lock`` that functions on Lambda get, in their canonical form."""
    return {*_versions(text_of(lock))}


def text_of(lock: Path) -> str:
    if not lock.is_file():
        raise ProjectError(f"{lock}: no such file; it must be the lock, with hashes, of the packages of the functions")
    return lock.read_text(encoding="utf-8")


def without_provided(lock: str) -> str:
    """Return the lock's text without comments and without :data:`PROVIDED`."""
    kept = [entry for entry in _entries(lock) if _name(entry) not in PROVIDED]
    lines = [line for entry in kept for line in entry.splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines) + "\n"


def _entries(lock: str) -> list[str]:
    """Return the lines of each package: its requirement and its hashes."""
    return re.findall(r"^[^\s#].*(?:\n[ \t]+.*)*", lock, re.MULTILINE)


def _name(entry: str) -> str:
    return canonicalize_name(re.split(r"[^\w.-]", entry)[0])


def _versions(lock: str) -> Mapping[str, str]:
    """Return each package that functions import → its version; empty if the lock has another form of requirement."""
    found = {}
    for entry in _entries(lock):
        if (name := _name(entry)) in PROVIDED:
            continue
        try:
            requirement = Requirement(re.split(r"\\|\s--hash|\s#", entry)[0])
        except InvalidRequirement:  # an option of pip, or a form that uv reads and this does not
            found[name] = ""
            continue
        if requirement.marker is None or requirement.marker.evaluate(dict(LAMBDA)):
            found[name] = next((one.version for one in requirement.specifier if one.operator == "=="), "")
    return found


def _needed() -> Mapping[str, SpecifierSet]:
    """Return each package that the library imports in functions → the versions that it supports.

    Empty if the library is not installed as a distribution.
    """
    try:
        requirements = map(Requirement, requires("joblane") or ())
    except PackageNotFoundError:
        return {}
    return {
        canonicalize_name(one.name): one.specifier
        for one in requirements
        if one.name not in PROVIDED and (one.marker is None or one.marker.evaluate({"extra": "async"}))
    }
