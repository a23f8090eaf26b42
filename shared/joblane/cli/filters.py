"""Options as the inspector takes them; a value that does not fit ends the command with a usage error."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from joblane.cli.terminal import usage

if TYPE_CHECKING:
    from joblane.inspector.filter import Filter

E = TypeVar("E", bound=StrEnum)


def filter_of(
    *,
    ids: Sequence[str] = (),
    state: Sequence[str] = (),
    type_: Sequence[str] = (),
    queue: Sequence[str] = (),
    tenant: str | None = None,
    tag: str | None = None,
    id_prefix: str | None = None,
    error: str | None = None,
    fingerprint: str | None = None,
    older: str | None = None,
    newer: str | None = None,
) -> Filter:
    """The options as the inspector wants them; a wrong one is a usage error that names what is right."""
    from joblane.inspector.filter import Filter
    from joblane.queues import Queue
    from joblane.record.states import State

    after, before = time_of(newer, "--newer"), time_of(older, "--older")
    if after is not None and before is not None and after >= before:
        usage(f"nothing is older than {older} and newer than {newer}", "--older and --newer")
    return Filter(
        ids=tuple(dict.fromkeys(ids)),
        id_prefix=id_prefix,
        states=tuple(one_of(State, value, "--state") for value in state),
        types=tuple(type_),
        queues=tuple(one_of(Queue, value, "--queue") for value in queue),
        tenant=tenant,
        tag=tag,
        error=error,
        fingerprint=fingerprint,
        created_after=after,
        created_before=before,
    )


def one_of(kind: type[E], value: str, option: str) -> E:
    """A member by its value."""
    if value not in list(kind):
        usage(f"{value!r} is not one of {', '.join(kind)}", option)
    return kind(value)


def type_of(text: str) -> str:
    """What can be a task's type, whether or not there is one."""
    from joblane.decorator import check_type
    from joblane.errors import DeclarationError

    try:
        check_type(text)
    except DeclarationError as error:
        usage(str(error), "TYPE")
    return text


def name_of(text: str, option: str) -> str:
    """What can be the name of a tenant; no other name is wider."""
    from joblane.sqs.message import TENANT_PATTERN

    if not TENANT_PATTERN.fullmatch(text):
        usage("1 to 128 ASCII letters, digits and punctuation are required", option)
    return text


def time_of(text: str | None, option: str) -> datetime | None:
    """A time, or one so long ago."""
    from joblane.inspector.durations import ago

    try:
        return None if text is None else ago(text, datetime.now(UTC))
    except ValueError as error:
        usage(str(error), option)
