"""Moves a Celery application: plans all handlers, writes them together or not at all, and reports the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joblane.cli.moving.application import Application, Finding, read
from joblane.cli.moving.beat import move_schedules
from joblane.cli.moving.calls import find_calls
from joblane.cli.moving.handlers import Handler
from joblane.cli.scaffold import text, write_files
from joblane.errors import DeclarationError
from joblane.local.errors import LocalError
from joblane.project import Project
from joblane.tasks.task import check_type

HEADINGS = {
    "by hand": "Rewrite by hand",
    "differs": "Moved, with a difference",
    "not read": "Not read",
}
RESERVED = ("jobs:", "system:", "django:")


@dataclass(frozen=True)
class Move:
    """The plan of a move. ``files``: the text of each handler."""

    app: Application
    files: Mapping[Path, str]
    root: Path

    @property
    def findings(self) -> list[Finding]:
        found = [each for source in self.app.sources.values() for each in source.findings]
        return sorted(dict.fromkeys(found), key=lambda each: (each.file, each.line))

    def as_json(self) -> dict[str, Any]:
        tasks = [
            {"name": task.name, "type": task.type, "file": task.source.shown, "line": task.function.lineno,
             "handler": str(path.relative_to(self.root)), "schedules": task.schedules}
            for task, path in zip(self.app.tasks.values(), self.files, strict=True)
        ]  # fmt: skip
        return {"tasks": tasks, "findings": [asdict(each) for each in self.findings]}

    def as_markdown(self) -> str:
        lines = ["# From Celery to Joblane", "", "| Celery task | type | handler | schedules |", "|---|---|---|---|"]
        for task in self.as_json()["tasks"]:
            schedules = ", ".join(f"`{schedule}`" for schedule in task["schedules"])
            where = f"{task['file']}, line {task['line']}"
            lines.append(f"| `{task['name']}`, {where} | `{task['type']}` | {task['handler']} | {schedules} |")
        for kind, heading in HEADINGS.items():
            found = [each for each in self.findings if each.kind == kind]
            lines += ["", f"## {heading}", ""] if found else []
            for each in found:
                lines.append(f"- {each.file}, line {each.line}, `{each.code}`: {each.says}.")
                if each.joblane:
                    lines += ["", "  ```python", *(f"  {line}" for line in each.joblane.splitlines()), "  ```", ""]
        return "\n".join(lines)


def plan(project: Project, path: Path, types: Mapping[str, str]) -> Move:
    """Read the application at ``path``, and return what :func:`write` writes. Raises :class:`LocalError`."""
    if not project.handlers.is_dir():
        raise LocalError(
            f"There is no folder {project.functions}/ in {project.root}: run this in the folder of a project, or "
            "`joblane init` to make one. Nothing was written."
        )
    app = read(path, without=project.handlers, types=types)
    if not app.tasks:
        found = "".join(f"\n{each.file}, line {each.line}: {each.says}." for each in Move(app, {}, path).findings)
        raise LocalError(f"{path} declares no Celery task that can be read. Nothing was written.{found}")
    _check_types(app)
    paths = [project.handlers / task.folder for task in app.tasks.values()]
    if existing := [str(path.relative_to(project.root)) for path in paths if path.exists()]:
        raise LocalError(
            f"{', '.join(existing)} already exists. Remove it, or choose another type. Nothing was written."
        )
    move_schedules(app)
    find_calls(app)
    handlers = [text("celery_handler.py", Handler(app, task).words()) for task in app.tasks.values()]
    return Move(app, {path / "handler.py": text for path, text in zip(paths, handlers, strict=True)}, project.root)


def write(move: Move) -> None:
    """Write all handlers. Raises :class:`LocalError`, and leaves none then."""
    write_files(move.root, {path: text.encode() for path, text in move.files.items()})


def _check_types(app: Application) -> None:
    problems = []
    folders = Counter(task.folder for task in app.tasks.values())
    for task in app.tasks.values():
        why = None
        try:
            check_type(task.type)
        except DeclarationError as error:
            why = str(error)
        if task.type.startswith(RESERVED):
            why = f"task type {task.type!r}: {', '.join(RESERVED)} are the library's own"
        elif folders[task.folder] > 1:
            why = f"another task has this folder: {task.folder}"
        if why:
            problems.append(
                f"{task.source.shown}, line {task.function.lineno}: {why}. Use --type {task.name}=category:action"
            )
    if problems:
        raise LocalError("\n".join([*problems, "Nothing was written."]))
