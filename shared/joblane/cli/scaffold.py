"""`joblane init` and `joblane new` write the files of a project, and of a job, from ``templates/``."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblane import installation
from joblane.errors import DeclarationError
from joblane.local.errors import LocalError, MisuseError
from joblane.names import Queue, folder_of
from joblane.project import LOCKS, Project
from joblane.tasks.place import Lambda
from joblane.tasks.schedule import parse
from joblane.tasks.task import check_type

FIRST_TYPE = "hello:world"
"""The type of the job that `joblane init` writes, and that the first `joblane up` runs."""
REQUIREMENTS = "requirements-joblane.txt"
"""The file with the hashes of the wheel and of all packages that the workflow installs."""
WHEELS = "vendor"
"""The folder of a project for the wheel. The usual .gitignore of Python projects has `wheels/` and `dist/`."""
DJANGO = "django:"
"""The start of the types of Django's tasks, which :mod:`joblane.django` declares."""
PLACES_DOCSTRING = "The Lambda functions that run several task types."
"""The docstring of a ``places.py`` from here. Only such a file gets further declarations."""


@dataclass(frozen=True)
class Initialised:
    """The result of `joblane init`. Paths are relative to the project.

    ``left``: files that existed and were not changed. ``test``: the test of the first job, written now or before.
    ``deploys``: True if `joblane up` can deploy cdk.json and infra/app.py.
    """

    written: list[Path]
    left: list[Path]
    test: Path
    notes: list[str]
    deploys: bool


@dataclass(frozen=True)
class Declaration:
    """The declaration of a place in ``places.py``. ``added``: the lines that the file lacks, or an empty string."""

    variable: str
    path: Path
    added: str


def new(
    project: Project, type_: str, *, queue: str, schedule: str | None, resumable: bool, on: str | None = None
) -> list[Path]:
    """Write a job and its test, the test last. Of a queue of Django tasks, write only the handler.

    ``on``: the name of the place that runs it. ``places.py`` gets a declaration of the place if it has none.
    Raises :class:`LocalError`, before anything is written.
    """
    try:
        check_type(type_)
        if schedule is not None:
            parse(schedule)
    except DeclarationError as error:
        raise MisuseError(str(error)) from None
    if queue not in list(Queue):
        raise MisuseError(f"--queue: {queue!r} is not one of {', '.join(Queue)}")
    if not project.handlers.is_dir():
        raise LocalError(
            f"There is no folder {project.functions}/ in {project.root}: run this in the folder of a project, or "
            "`joblane init` to make one."
        )
    folder = folder_of(type_)
    target, test = project.handlers / folder, _test(project, folder)
    queue_name = type_.removeprefix(DJANGO) if type_.startswith(DJANGO) else None
    if queue_name and (schedule is not None or resumable):
        raise MisuseError("--schedule, --resumable: a queue of Django tasks has many; see docs/how-to/django.md")
    for path in (target,) if queue_name else (target, test):
        if path.exists():
            raise LocalError(f"{path.relative_to(project.root)} already exists; nothing was written.")
    place = _declaration(project, on) if on is not None else None
    words = {
        "type": type_,
        "functions": project.functions,
        "folder": folder,
        "name": "".join(part.capitalize() for part in folder.split("_")),
        "queue": Queue(queue).name,
        "schedule": schedule,
        "resumable": resumable,
        "queue_name": queue_name,
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE") or "project.settings",
        "place": place and place.variable,
    }
    templates = {target / "handler.py": "handler.py", test: "test.py"}
    if queue_name:
        templates = {target / "handler.py": "django_handler.py"}
    files = {path: text(name, words).encode() for path, name in templates.items()}
    added = {place.path: place.added.encode()} if place and place.added else {}
    write_files(project.root, files, added)
    return [*added, *files]


def _declaration(project: Project, name: str) -> Declaration:
    """Return the declaration of the place ``name``. Raises :class:`LocalError`."""
    try:
        place = Lambda(name)
    except DeclarationError as error:
        raise MisuseError(f"--on: {error}") from None
    if (project.handlers / name / "handler.py").exists():
        raise MisuseError(f"--on: {project.functions}/{name}/ is a function of this name; choose another")
    path, variable = project.handlers / "places.py", place.name.upper()
    shown, line = path.relative_to(project.root), f'{variable} = Lambda("{name}")\n'
    if not path.exists():
        return Declaration(variable, path, f'"""{PLACES_DOCSTRING}"""\n\nfrom joblane import Lambda\n\n{line}')
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError) as error:
        raise LocalError(f"{shown} cannot be read: {error}. Nothing was written.") from None
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(found)], value=call) | ast.AnnAssign(target=ast.Name(found), value=call):
                if _place_of(call) == name:
                    return Declaration(found, path, "")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if ast.get_docstring(tree) != PLACES_DOCSTRING or variable in names:
        raise LocalError(
            f"{shown} declares no Lambda {name!r}, and it is your own file. Add the line `{line.strip()}` to it, with "
            "a variable of any name, and run this again. Nothing was written."
        )
    return Declaration(variable, path, line if text.endswith("\n") else f"\n{line}")


def _place_of(call: ast.expr | None) -> str | None:
    """Return the name in a call of ``Lambda("web", …)``. None: it is no such call."""
    match call:
        case ast.Call(func=ast.Name("Lambda") | ast.Attribute(attr="Lambda"), args=args, keywords=keywords):
            for value in (*args[:1], *(keyword.value for keyword in keywords if keyword.arg == "name")):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    return value.value
    return None


def init(project: Project) -> Initialised:
    """Write the files that a project needs to run a first job, and change no existing file.

    Raises :class:`LocalError` if the folder cannot be written; no file is left then.
    """
    root, folder = project.root, folder_of(FIRST_TYPE)
    handler, test = project.handlers / folder / "handler.py", _test(project, folder)
    workflow = root / ".github" / "workflows" / "joblane.yml"
    templates = {
        project.handlers / "__init__.py": "project/package.py",  # else another package of this name is imported
        handler: "project/handler.py",
        test: "project/test.py",
        root / "infra" / "app.py": "project/app.py",
        root / "cdk.json": "project/cdk.json",
        workflow: "project/workflow.yml",
    }
    missing = _missing(root)
    if missing:  # the workflow runs the app, which would fail
        del templates[workflow]
    left = [path for path in templates if path.exists()]
    if handler in left and test not in left:  # the job may be another one by now, and fail the test
        left.append(test)
    words = {
        "functions": project.functions,
        "published": installation.PUBLISHED,
        "requirements": REQUIREMENTS,
        "uv": _locked("uv"),
        "version": installation.version(),
    }
    files = {path: text(name, words).encode() for path, name in templates.items() if path not in left}
    notes = [missing] if missing else _notes(root)
    if not missing and REQUIREMENTS.encode() in (files.get(workflow) or workflow.read_bytes()):
        if (root / REQUIREMENTS).exists():
            left.append(root / REQUIREMENTS)
        elif pinned := _pinned(root):
            files |= pinned
        else:
            notes.append(
                f"The workflow installs joblane from its wheel, and joblane was not installed from a file here. Put "
                f"{installation.wheel_name()} into {WHEELS}/, and run `joblane init` again: it writes {REQUIREMENTS}."
            )
    write_files(root, files)
    return Initialised(
        written=[path.relative_to(root) for path in files],
        left=[path.relative_to(root) for path in left if path.exists()],
        test=test.relative_to(root),
        notes=notes,
        deploys=not missing,
    )


def _pinned(root: Path) -> dict[Path, bytes]:
    """Return :data:`REQUIREMENTS`, and the wheel that it names if the project lacks it. Empty: no wheel is known."""
    source = root / WHEELS / installation.wheel_name()
    if not source.is_file():
        if (installed := installation.wheel()) is None:
            return {}
        source = installed.resolve()
    content = source.read_bytes()
    wheel = source if source.parent == root else root / WHEELS / source.name
    words = {
        "wheel": wheel.relative_to(root),
        "hash": hashlib.sha256(content).hexdigest(),
        "packages": (LOCKS / "ci.txt").read_text(encoding="utf-8"),
    }
    requirements = {root / REQUIREMENTS: text("project/requirements.txt", words).encode()}
    return requirements if wheel == source else {wheel: content, **requirements}


def _locked(package: str) -> str:
    """Return the version of a package of :data:`REQUIREMENTS`."""
    found = re.search(rf"^{package}==(\S+)", (LOCKS / "ci.txt").read_text(encoding="utf-8"), re.M)
    assert found
    return found[1]


def _missing(root: Path) -> str | None:
    """Return a note if an existing CDK app lacks settings or code for `joblane up`; else None."""
    try:
        cdk_json = json.loads((root / "cdk.json").read_text(encoding="utf-8"))
        settings = isinstance(cdk_json.get("context", {}).get("stages", {}).get("local"), dict)
    except FileNotFoundError:
        settings = True
    except (OSError, ValueError, AttributeError):
        settings = False
    app = root / "infra" / "app.py"
    lacks = [] if settings else ["cdk.json has no stage `local`: context.stages.local"]
    if app.is_file() and b"JoblaneApp" not in app.read_bytes():
        lacks.append("infra/app.py makes no JoblaneApp")
    if not lacks:
        return None
    return (
        f"This folder has a CDK app already: {'; '.join(lacks)}. So `joblane up` cannot deploy it yet, and no workflow "
        "was written. docs/how-to/own-cdk-app.md shows how to add the jobs to it."
    )


def _notes(root: Path) -> list[str]:
    repository = next((each for each in (root, *root.parents) if (each / ".git").exists()), None)
    if repository is None:
        return ["This folder is not in a git repository. The workflow needs one: `git init` makes it."]
    if repository != root:
        line = f"defaults: {{run: {{working-directory: {root.relative_to(repository)}}}}}"
        where = repository / ".github/workflows"
        return [f"GitHub reads workflows only in {where}: move joblane.yml there, and add the line `{line}`."]
    return []


def _test(project: Project, folder: str) -> Path:
    """Return the path of a job's test: in tests/integration if that folder exists, else in tests."""
    tests = project.root / "tests"
    return (tests / "integration" if (tests / "integration").is_dir() else tests) / f"test_{folder}.py"


def text(template: str, words: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - it makes no HTML
        loader=PackageLoader("joblane.cli"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(f"{template}.jinja").render(words)


def write_files(root: Path, files: Mapping[Path, bytes], added: Mapping[Path, bytes] | None = None) -> None:
    """Write all files, or none. ``added``: is appended to files that may exist."""
    made: list[Path] = []
    try:
        for path, content in files.items():
            for folder in reversed(path.relative_to(root).parents):
                if not (root / folder).exists():
                    (root / folder).mkdir()
                    made.append(root / folder)
            with path.open("xb") as file:
                made.append(path)
                file.write(content)
        for path, content in (added or {}).items():
            with path.open("ab") as file:
                file.write(content)
    except OSError as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        where = error.filename or root
        raise LocalError(f"{where} cannot be written: {error.strerror}. Nothing was written.") from error
