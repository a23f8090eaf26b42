"""Values of options in the types of the inspector; an invalid value ends the command with a usage error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from joblane.cli import options
from joblane.cli.terminal import usage
from joblane.inspector.durations import ago, duration, moment
from joblane.inspector.filter import Filter
from joblane.inspector.nearest import meant
from joblane.names import Queue
from joblane.record.row.states import State

E = TypeVar("E", bound=StrEnum)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """The options that choose tasks. A task must match all the given options, and any value of a repeated option."""

    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            "-s",
            metavar="STATE",
            help="Task state. You can repeat the option.",
            autocompletion=options.states,
        ),
    ] = None
    type_: options.Types = None
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue", "-q", metavar="QUEUE", help="Queue. You can repeat the option.", autocompletion=options.queues
        ),
    ] = None
    tenant: options.Tenant = None
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Tasks with this tag.")] = None
    id_prefix: Annotated[str | None, typer.Option("--id", metavar="PREFIX", help="Beginning of the id.")] = None
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="Text in the error's type or message.")] = None
    fingerprint: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Fingerprint of the error, from `joblane errors`.")
    ] = None
    parent: Annotated[
        str | None, typer.Option(metavar="ID", help="Tasks that run after this task, or that its runs enqueued.")
    ] = None
    older: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only tasks older than this: an age (10m, 2h, 3d) or a time.")
    ] = None
    newer: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only tasks newer than this: an age (10m, 2h, 3d) or a time.")
    ] = None

    ended_older: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only tasks that ended before this: an age or a time.")
    ] = None
    ended_newer: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only tasks that ended after this: an age or a time.")
    ] = None

    lease_over: Annotated[
        bool,
        typer.Option("--lease-over", help="Only tasks whose run has stopped without a result: their lease is over."),
    ] = False
    longer: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Only tasks whose last run took longer than this: 30s, 5m, 1h."),
    ] = None

    def filter(self, ids: Sequence[str] = ()) -> Filter:
        after, before = time_range(self.newer, self.older)
        ended_after, ended_before = time_range(self.ended_newer, self.ended_older, "--ended-newer", "--ended-older")
        return Filter(
            ids=tuple(dict.fromkeys(ids)),
            id_prefix=self.id_prefix,
            states=tuple(one_of(State, value, "--state") for value in self.state or ()),
            types=tuple(self.type_ or ()),
            queues=tuple(one_of(Queue, value, "--queue") for value in self.queue or ()),
            tenant=self.tenant,
            tag=self.tag,
            error=self.error,
            fingerprint=self.fingerprint,
            parent=self.parent,
            created_after=after,
            created_before=before,
            ended_after=ended_after,
            ended_before=ended_before,
            lease_over=self.lease_over,
            longer=duration_of(self.longer, "--longer"),
        )


def time_range(
    newer: str | None, older: str | None, newer_option: str = "--newer", older_option: str = "--older"
) -> tuple[datetime | None, datetime | None]:
    """The times of two options that are ages or times."""
    now = datetime.now(UTC)
    after = None if newer is None else parsed(lambda text: ago(text, now), newer, newer_option)
    before = None if older is None else parsed(lambda text: ago(text, now), older, older_option)
    if after is not None and before is not None and after >= before:
        usage(f"nothing is older than {older} and newer than {newer}", f"{older_option} and {newer_option}")
    return after, before


def parsed(parse: Callable[[str], R], text: str, option: str) -> R:
    """The result of ``parse``, which raises ValueError for an invalid text."""
    try:
        return parse(text)
    except ValueError as error:
        usage(str(error), option)


def duration_of(text: str | None, option: str) -> timedelta | None:
    return None if text is None else parsed(duration, text, option)


def time_of(text: str | None, option: str) -> datetime | None:
    return None if text is None else parsed(moment, text, option)


def end_of(for_: str | None, until: str | None) -> datetime | None:
    """The end of a pause, by the options --for and --until."""
    if for_ is not None and until is not None:
        usage("give --for or --until, not both", "--until")
    length = duration_of(for_, "--for")
    return time_of(until, "--until") if length is None else datetime.now(UTC) + length


def one_of(kind: type[E], value: str, option: str) -> E:
    """Return the member of an enumeration with a value. Another value ends the command."""
    if value not in list(kind):
        hint = "Repeat --state for each value. " if option == "--state" and "," in value else meant(value, kind)
        usage(f"{value!r} is not valid. {hint}Valid: {', '.join(kind)}", option)
    return kind(value)


def type_of(text: str) -> str:
    """A valid name of a task type, declared or not."""
    from joblane.tasks.task import check_type

    parsed(check_type, text, "TYPE")
    return text


def name_of(text: str, option: str) -> str:
    """A valid name of a tenant; no other kind of name allows more characters."""
    from joblane.sqs.message import TENANT_PATTERN

    if not TENANT_PATTERN.fullmatch(text):
        usage("1 to 128 ASCII letters, digits and punctuation are required", option)
    return text
