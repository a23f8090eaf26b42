"""`init` makes a project, `new` writes a job in it, `check` checks all jobs, and `lock` adds packages."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from joblane import installation
from joblane.cli import options, terminal
from joblane.cli.exits import Exit
from joblane.names import OWN_TYPES
from joblane.project import Project


def init() -> None:
    """Make this folder a project, with a first job.

    Writes the job and its test, the CDK app, and a workflow for CI. Files that exist stay as they are.
    """
    from joblane.cli.scaffold import FIRST_TYPE
    from joblane.cli.scaffold import init as write

    done = write(Project.at(Path.cwd()))
    for path in done.written:
        typer.echo(f"wrote  {path}")
    for path in done.left:
        typer.echo(f"kept   {path}, which exists")
    for note in done.notes:
        terminal.say(note)
    terminal.say("\nNext:")
    payload = shlex.quote('{"name": "Ada"}')
    steps = [
        (_pytest(done.test), "runs the job in a test"),
        ("joblane dev", "runs jobs on this machine without a deploy, and reloads on save; Ctrl-C stops it"),
    ]
    if done.deploys:
        steps += [
            ("joblane up", "starts AWS and PostgreSQL on this machine, deploys, and runs the job"),
            (f"joblane enqueue {FIRST_TYPE} --json {payload} --wait", "runs it again"),
        ]
    for command, what in steps:
        terminal.say(f"  {command}  # {what}")


def new(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="category:action, for example report:generate.")],
    queue: Annotated[
        str, typer.Option("--queue", "-q", help="Its home queue.", autocompletion=options.queues)
    ] = "default",
    schedule: Annotated[str | None, typer.Option(metavar="CRON", help="Five fields, in UTC: '0 2 * * *'.")] = None,
    resumable: Annotated[bool, typer.Option("--resumable", help="Long work that continues where it stopped.")] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="PLACE", help="Run it in one function with other types: its name in places.py."),
    ] = None,
) -> None:
    """Write a job that works, and a test of it.

    In functions/ and tests/ of this project. For django:NAME: the handler of a queue of Django tasks.
    """
    from joblane.cli.scaffold import new as write

    project = Project.here()
    written = write(project, type_, queue=queue, schedule=schedule, resumable=resumable, on=on)
    for path in written:
        typer.echo(terminal.clean(str(path.relative_to(project.root))))
    test = written[-1].relative_to(project.root)
    if test.name == "handler.py":
        terminal.say(
            "Add the queue's name to QUEUES of TASKS in Django's settings, and correct the settings' module here."
        )
        if on is not None:
            terminal.say(
                "Next to ordinary tasks on this place, declare front_door=True here, or front_door=False there: "
                "docs/how-to/places.md"
            )
        return
    terminal.say(
        f"Test it:  {_pytest(test)}\n"
        "Then write your code into handler.py. `joblane dev` runs it, and `joblane up` deploys it."
    )


def check(as_json: options.AsJson = False) -> None:
    """Import all handlers and the migrations, and check what they declare.

    It needs no database and no stack. Prints each problem with its file, and exits with status 1 if there is one.
    """
    from joblane.tasks.discovery import check as check_all

    tasks, broken = check_all()
    own = [type_ for type_, task in tasks.items() if not type_.startswith(OWN_TYPES)]
    if as_json:
        problems = [{"folder": each.folder or None, "problem": each.text} for each in broken]
        terminal.document({"ok": not broken, "types": own, "problems": problems})
    else:
        for each in broken:
            terminal.say(each.text)
        if not broken:
            types = "1 task type is" if len(own) == 1 else f"{len(own)} task types are"
            terminal.say(f"{types} declared correctly.")
    if broken:
        raise typer.Exit(Exit.FAILED)


def lock(
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="PACKAGE", help="Packages that handlers import.")
    ] = None,
) -> None:
    """Add Python packages to the functions on AWS.

    Writes the list functions.in, and the lock functions.txt with all versions and hashes. Without PACKAGE, brings the
    lock up to date, for example after an update of Joblane.
    """
    from joblane.local.own_lock import write_lock

    project = Project.here()
    path, is_new = write_lock(project, packages or [])
    name = path.relative_to(project.root)
    typer.echo(f"{name.with_suffix('.in')}\n{name}")
    if is_new:
        terminal.say(f'Name it in pyproject.toml:\n\n[tool.joblane]\nlock = "{name}"')


def _pytest(test: Path) -> str:
    """Return the command that runs ``test`` with this program's interpreter, which has pytest and the plugin."""
    python = Path(sys.executable)
    shown = shlex.quote(str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python))
    command = f"{shown} -m pytest {test}"
    if importlib.util.find_spec("pytest") is None:
        return f"{installation.install('test')} && {command}"
    return command
