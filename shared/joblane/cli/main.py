"""`joblane`: the command line. Its commands are listed here; each is a function of a module in ``commands``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from joblane.cli import queries
from joblane.cli.commands import (
    actions,
    batch,
    chart,
    dead,
    deploy,
    enqueue,
    errors,
    limits,
    local,
    move,
    overview,
    page,
    pause,
    redrive,
    scaffold,
    schedules,
    tasks,
    waits,
    watch,
)
from joblane.cli.exits import Exit, epilog, exit_of, message_of
from joblane.cli.target import Target
from joblane.cli.usage import Command, Group, UsageError

COMMANDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "Projects and jobs": {"init": scaffold.init, "new": scaffold.new, "check": scaffold.check, "lock": scaffold.lock},
    "Inspect": {
        "ls": tasks.ls,
        "find": tasks.find,
        "show": tasks.show,
        "graph": tasks.graph,
        "logs": tasks.logs,
        "wait": tasks.wait,
        "waits": waits.waits,
        "queues": overview.queues,
        "runs": overview.runs,
        "chart": chart.chart,
        "watch": watch.watch,
        "page": page.page,
        "types": overview.types,
        "audit": overview.audit,
        "doctor": overview.doctor,
        "why": overview.why,
    },
    "Act on tasks": {
        **{action: actions.command(action) for action in actions.HELP},
        "signal": waits.signal,
        "skip": waits.skip,
    },
    "Errors and dead letters": {"dead": dead.dead, "redrive": redrive.redrive},
    "Pauses and schedules": {"pause": pause.pause, "resume": pause.resume},
    "Limits": {},  # of :data:`GROUPS`
    "Tasks by hand": {
        "enqueue": enqueue.enqueue,
        "replay": enqueue.replay,
        "edit": enqueue.edit,
        "invoke": enqueue.invoke,
        "schema": deploy.schema,
    },
    "Local stack": {"dev": local.dev, "up": local.up, "down": local.down, "status": local.status},
    "Deploy": {
        "deploy": deploy.deploy,
        "migrate": deploy.migrate,
        "preflight": deploy.preflight,
        "costs": deploy.costs,
    },
}
GROUPS = (
    ("Projects and jobs", "move", move.group, "Move an application from another library: celery."),
    ("Act on tasks", "bulk", actions.group, "Bulk actions: ls, show and abort."),
    ("Act on tasks", "batch", batch.group, "Batches: ls, show, retry and seal."),
    (
        "Pauses and schedules",
        "schedules",
        schedules.group,
        "Schedules: list, pause, resume, run and delete them.",
    ),
    (
        "Errors and dead letters",
        "errors",
        errors.group,
        "Errors: list them, and mark them as known, resolved, ignored or open.",
    ),
    ("Limits", "limits", limits.group, "Limits: show, set and reset them; the order of a key, and its next task."),
)
"""Commands with commands of their own: the heading, the name, the group, and its help."""


GONE = {
    "ack": "`joblane errors known FINGERPRINT --reason …`",
    "tick": "`joblane schedules run NAME`; `joblane schedules` lists the names",
    "stats": "`joblane runs`",
    "line": "`joblane limits line TYPE KEY` and `joblane limits pass TYPE KEY`",
}
"""Commands of before, and those that do their work."""


class Commands(Group):
    """All commands. The help lists them under the headings above."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the arguments."""
        if args[0] in GONE:
            raise UsageError(f"Use {GONE[args[0]]}")
        if args[:2] == ["why", "slow"]:
            raise UsageError("Use `joblane why TYPE`")
        if args[0] not in self.commands:
            self._add_new()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, those for new operations of the inspector too."""
        self._add_new()
        super().format_commands(ctx, formatter)

    def _add_new(self) -> None:
        for command in queries.new():
            self.add_command(command)


app = typer.Typer(
    name="joblane",
    cls=Commands,
    help="Background jobs on AWS without a server, and the same stack on this machine.",
    epilog=epilog(),
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def where(
    context: typer.Context,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            envvar="JOBLANE_STAGE",
            help="Stage of cdk.json; without it, or as `local`, the local stack.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Profile of the AWS configuration.", show_default=False)
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="REGION", help="AWS region.", show_default=False)] = None,
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of joblane, of its SQL functions, and of Python.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: print one JSON document.")] = False,
) -> None:
    """Background jobs on AWS without a server, and the same stack on this machine."""
    if version:
        _print_version(as_json=as_json)
    if as_json:
        raise UsageError("--json: give it after the command, or with --version")
    if context.invoked_subcommand is None:
        raise UsageError("Missing command.")
    # `.joblane/env` sets JOBLANE_STAGE=local where a task declares that setting
    context.obj = Target(None if stage == "local" else stage, profile, region)


def _print_version(*, as_json: bool) -> None:
    """Print the versions, and end the command. ``joblane doctor`` names the same functions and revision."""
    import platform

    from joblane import installation
    from joblane.cli import terminal
    from joblane.record import migrations, sql_functions

    version, functions = installation.version(), sql_functions.VERSION
    revision, python = migrations.newest(), platform.python_version()
    found = {"version": version, "functions": functions, "revision": revision, "python": python}
    terminal.answer(found, as_json=as_json)
    typer.echo(f"joblane {version}, SQL functions {functions}, schema revision {revision}, Python {python}")
    raise typer.Exit


for _heading, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=Command, rich_help_panel=_heading)(_command)
for _heading, _name, _group, _help in GROUPS:
    app.add_typer(_group, name=_name, rich_help_panel=_heading, help=_help)
for _of in app.registered_groups:
    for _found in _of.typer_instance.registered_commands if _of.typer_instance else ():
        _found.cls = Command


OBJECTS = 100_000
"""New objects after which the garbage collector runs. With Python's number it takes a tenth of a command's processor
time, as the imports create objects that stay."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that the user can fix are shown without a traceback."""
    from joblane.cli.terminal import allow_all_signs, say
    from joblane.local.errors import UnavailableError  # its message has its own advice

    if arguments is None:
        gc.set_threshold(OBJECTS, 20, 20)
        arguments = sys.argv[1:]
    allow_all_signs()
    try:
        app([_text_of(given) for given in arguments], prog_name="joblane")
    except Exception as error:
        code = exit_of(error)
        if code is None:
            raise
        say(f"joblane: {message_of(error)}")
        if code is Exit.UNAVAILABLE and not isinstance(error, UnavailableError) and not has_advice(error):
            say("Is the local stack up (`joblane status`)? For a stage on AWS, give --stage.")
        sys.exit(code)


def has_advice(error: BaseException) -> bool:
    """True if the message of an error of the database says what to do."""
    from joblane.record.driver.advice import advice_for

    return advice_for(error.__cause__ or error) is not None


def _text_of(given: str) -> str:
    """Return an argument as text, which is UTF-8 in a shell without a locale, too.

    Other arguments are refused: neither the database nor the control API accepts them.
    """
    from joblane.local.errors import MisuseError

    try:
        given.encode()
    except UnicodeEncodeError:  # Python has read the bytes in another encoding
        pass
    else:
        return given
    try:
        return os.fsencode(given).decode()
    except UnicodeError:
        raise MisuseError(f"{given!r} is not text in UTF-8") from None


if __name__ == "__main__":
    main()
