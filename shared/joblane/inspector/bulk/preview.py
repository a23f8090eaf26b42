"""The preview of an action on many tasks, and the check of its canary, which the start repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from joblane.inspector.bulk import dead
from joblane.inspector.bulk.blocks import Survey, blocks_of, stopping, survey
from joblane.inspector.bulk.dead_letters import DeadLetter, declared, queue_of
from joblane.inspector.bulk.start import REDRIVE, SENDING, action_of, first_of
from joblane.inspector.filter import MAX_CANARY, BulkAction, Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import aimed, check_number, checked, reading
from joblane.inspector.views import Preview, PreviewCause
from joblane.record.causes import shown
from joblane.record.row.states import State

MOST_CAUSES = 50
"""Causes of a preview."""


def preview(scope: Scope, action: str, filter_: Filter, canary: int) -> Preview:
    check_number("canary", canary, MAX_CANARY, least=0)
    redrives = action == REDRIVE
    kind = BulkAction.RETRY if redrives else action_of(action)
    chosen = checked(scope, filter_)
    if redrives:
        chosen = replace(chosen, states=chosen.states or (State.ARCHIVED,))
    chosen = aimed(chosen, kind)
    messages, obsolete, unreadable = dead.wanted_dead_letters(scope, chosen) if redrives else ([], 0, 0)
    types = declared(scope.tasks)
    sends = action in SENDING
    with reading(scope.connection) as connection:
        found = survey(connection, chosen)
        _add(scope, found, messages)
        blocks = blocks_of(connection, types, found) if sends else ()
        stops = any(block.stops for block in blocks)
        ids = first_of(connection, chosen, canary) if canary and stops else []
        stopped = stopping(connection, types, ids)
    causes, more = _causes(found, messages)
    return Preview(
        action=action,
        number=found.number,
        exact=found.exact,
        causes=causes,
        more_causes=more,
        blocks=blocks,
        canary_stopped=stopped,
        removed=obsolete if replace(filter_, states=()).removes_obsolete else 0,
        unreadable=unreadable,
    )


def _add(scope: Scope, found: Survey, messages: Sequence[DeadLetter]) -> None:
    """Add dead letters without a row to a survey."""
    found.number += len(messages)
    for message in messages:
        found.groups[message.type, queue_of(message, scope.prefix, scope.tasks), message.delivery.group] += 1


def _causes(found: Survey, messages: Sequence[DeadLetter]) -> tuple[tuple[PreviewCause, ...], int]:
    """The largest causes, and the number of the others."""
    causes = [
        PreviewCause(fingerprint, type_, _error(*found.errors[type_, fingerprint]), number)
        for (type_, fingerprint), number in found.causes.items()
    ]
    alike: defaultdict[str, list[DeadLetter]] = defaultdict(list)
    for message in messages:
        alike[message.fingerprint].append(message)
    causes += [
        PreviewCause(fingerprint, of[0].type, ": ".join(filter(None, of[0].error)), len(of))
        for fingerprint, of in alike.items()
    ]
    causes.sort(key=lambda cause: (-cause.number, cause.type, cause.fingerprint))
    number = found.number_of_causes + len(alike)
    return tuple(causes[:MOST_CAUSES]), number - min(len(causes), MOST_CAUSES)


def _error(error_type: str | None, message: str | None) -> str:
    """The class of an error, and its first line, normalised; empty without an error."""
    return ": ".join(filter(None, (error_type, shown(message or ""))))
