"""The filter line of `joblane watch`: the filters of `joblane ls`, as ``type=data:export state=retry newer=2h``."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from typing import Any

import typer
from rich.text import Text

from joblane.cli.exits import OPTIONS
from joblane.cli.filters import FilterOptions
from joblane.cli.options import expanded
from joblane.cli.terminal import word
from joblane.inspector.filter import Filter
from joblane.inspector.views import Cause, TaskRow

ROW_FIELDS = (
    "ids", "id_prefix", "states", "types", "queues", "tenant", "tag", "error", "fingerprint", "created_after",
    "created_before", "ended_after", "ended_before",
)  # fmt: skip
"""Fields that :func:`matches` compares."""
CAUSE_FIELDS = ("types", "tenant", "error", "fingerprint", "ended_after")
"""Fields of the list of errors."""


def parsed(text: str) -> Filter:
    """The filter of a line. Raises ValueError, whose text is for the user."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}".replace("No closing quotation", "a quotation mark is missing")) from error
    given = [f"--{each}" if "=" in each.split(" ")[0] and not each.startswith("-") else each for each in words]
    try:
        return FilterOptions(**_command().make_context("filter", given).params).filter()
    except Exception as error:
        if not hasattr(error, "format_message"):  # no usage error
            raise
        unknown = "unexpected extra argument" in str(error)
        problem = f"{words[0]!r}: write NAME=VALUE, as type=data:export" if unknown else error.format_message()
        raise ValueError(problem.rstrip(".")) from error


@cache
def _command() -> Any:
    @expanded
    def of(*, which: FilterOptions) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command(context_settings={"help_option_names": []})(of)
    return typer.main.get_command(app)


def unused(chosen: Filter, used: Collection[str] | None) -> list[str]:
    """The options of a filter that a list does not use. ``used``: its fields; None: all."""
    given = [each.name for each in fields(Filter) if getattr(chosen, each.name) != each.default]
    return [OPTIONS.get(name, name).removeprefix("--") for name in given if used is not None and name not in used]


def notice(text: str, chosen: Filter, used: Collection[str] | None) -> Text:
    """The line above a list about its filter: the words ``text``, and which of them the list does not use."""
    line = word(f"Filter: {text}", "bold")
    if not_used := unused(chosen, used):
        line.append(f"  not used here: {', '.join(not_used)}", "yellow")
    return line


def matches(chosen: Filter, row: TaskRow) -> bool:
    """True if a row of a list matches the :data:`ROW_FIELDS` of a filter."""
    error = f"{row.error_type or ''}: {row.error_message or ''}".lower()
    ended = row.finished_at
    return (
        (not chosen.ids or row.id in chosen.ids)
        and row.id.startswith(chosen.id_prefix or "")
        and (not chosen.states or row.state in chosen.states)
        and of_lane(chosen, row.type, row.queue)
        and chosen.tenant in (None, row.tenant)
        and (chosen.tag is None or chosen.tag in row.tags)
        and (chosen.error or "").lower() in error
        and chosen.fingerprint in (None, row.fingerprint)
        and (chosen.created_after is None or row.created_at >= chosen.created_after)
        and (chosen.created_before is None or row.created_at < chosen.created_before)
        and (chosen.ended_after is None or (ended is not None and ended >= chosen.ended_after))
        and (chosen.ended_before is None or (ended is not None and ended < chosen.ended_before))
    )


def includes(chosen: Filter, group: Cause) -> bool:
    """True if a cause matches the :data:`CAUSE_FIELDS` of a filter, apart from the tenant."""
    return (
        of_lane(chosen, group.type)
        and chosen.fingerprint in (None, group.fingerprint)
        and (chosen.error or "").lower() in group.error.lower()
        and (chosen.ended_after is None or group.last_at >= chosen.ended_after)
    )


def of_lane(chosen: Filter, type_: str, queue: str | None = None) -> bool:
    """True if a type, and a queue if one is given, match a filter."""
    return (not chosen.types or type_ in chosen.types) and (
        queue is None or not chosen.queues or queue in list(map(str, chosen.queues))
    )
