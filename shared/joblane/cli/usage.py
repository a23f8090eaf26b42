"""The usage line, the help and the errors of a command, in words that need no knowledge of Python or Typer.

A command runs in its project. Help, completion and usage errors need none.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from joblane.inspector.nearest import meant
from joblane.project import Project

RANGE = re.compile(r"(\d[\d.]*)<=x<=(\d[\d.]*)")
LEAST = re.compile(r"x>=(\d[\d.]*)")
TYPE = re.compile(r" <([^<>]*)>")
LONGEST = 200
"""Characters of the sentence about a command in the help of its group, which wraps it."""


class UsageError(typer.BadParameter):
    """A usage error, whose message is shown as it is."""

    def format_message(self) -> str:
        """Return the message without the name of a parameter before it."""
        return self.message


class Command(TyperCommand):
    """A command. Required arguments stand in its usage line as they are, the others in one pair of brackets."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        arguments = [each for each in self.get_params(ctx) if isinstance(each, TyperArgument) and not each.hidden]
        return ["[OPTIONS]", *map(_usage, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        for title in ("Arguments", "Options"):
            chosen = [
                each for each in self.get_params(ctx) if isinstance(each, TyperArgument) is (title == "Arguments")
            ]
            records = [record for each in chosen if (record := each.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl([(_name(name, title), _plain(text)) for name, text in records])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. A value of the wrong kind is a :class:`UsageError`."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            problem = _problem(error)
            if problem is None:
                raise
            raise UsageError(problem, error.ctx) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command with the code of its project, except `init`, which uses the working folder alone."""
        if self.name != "init":
            Project.here().activate()
        return super().invoke(ctx)


class Group(TyperGroup):
    """A command with commands of its own. The help shows a whole sentence for each, by heading."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands. Without a heading they get a section of their own."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            headings.setdefault(heading, []).append((name, command.get_short_help_str(LONGEST)))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class Listing(Group):
    """A group whose command `ls` needs no name: `limits NAME` is `limits ls NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = ["ls", *args]
        return super().parse_args(ctx, args)


def _usage(argument: TyperArgument) -> str:
    name = argument.display_name_raw + ("" if argument.nargs == 1 else "...")
    return name if argument.required else f"[{name}]"


def _name(name: str, title: str) -> str:
    """The name of an argument alone; an option with the values that it takes."""
    return TYPE.sub("" if title == "Arguments" else r" \1", name)


def _plain(text: str) -> str:
    return LEAST.sub(r"\1 or more", RANGE.sub(r"\1 to \2", text))


def _problem(error: typer.BadParameter) -> str | None:
    """The problem of a value that pydantic has refused; None for another error."""
    param, cause = error.param, error.__cause__
    if param is None or cause is None or not hasattr(cause, "errors"):
        return None
    [found, *_] = cause.errors()
    kind, given = found["type"], found["input"]
    name = max(param.opts, key=len) if param.opts and param.opts[0].startswith("-") else param.display_name_raw
    choices = [str(getattr(each, "value", each)) for each in param.type_descriptor.choices or ()]
    if choices:
        return f"{name}: {given!r} is not valid. {meant(given, choices)}Valid: {', '.join(choices)}"
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if kind in ("greater_than_equal", "less_than_equal"):
        bounds = f"{least} or more" if most is None else f"{least} to {most}"
        return f"{name}: {bounds}, not {given}"
    if kind.startswith(("int_", "float_")):
        return f"{name}: a {'whole ' if kind.startswith('int_') else ''}number, not {given!r}"
    return f"{name}: {found['msg'].removeprefix('Value error, ').replace('Input should', 'it must')}"
