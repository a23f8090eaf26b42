"""Finds tasks by a string, which may be a part of an id, a name, a part of an error, or a value of a payload.

The text itself is in no log, no error and no audit entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from joblane.errors import storable
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import listing, payload_search
from joblane.inspector.tasks.filter_sql import FINGERPRINT_PATTERN, checked, mark_of, page_position, reading
from joblane.inspector.views import Found, FoundGroup, FoundKind, TaskPage
from joblane.record.driver.connection import Connection
from joblane.sqs.message import ID_PATTERN, TENANT_PATTERN
from joblane.tasks.job import MAX_TAG
from joblane.tasks.payload import Payload
from joblane.tasks.redaction import redacted_names

MAX_TEXT = 200
SHOWN = 5
"""Tasks of a group."""
MOST_TYPES = 10
MOST_PAYLOADS = 20
"""Tasks of one search in payloads."""
CERTAIN_PREFIX = 8
"""Characters from which the beginning of an id is not taken for a word."""
PAYLOADS_WITHIN = timedelta(days=1)
IS_ID = "select exists (select from joblane.tasks where id = $1)"
BY_KEY = f"""
select {listing.COLUMNS} from joblane.tasks
 where unique_key = any($1::text[]) and unique_key is not null and finished_at is null limit {SHOWN}
"""


def find(
    scope: Scope, text: str, created_after: datetime | None, created_before: datetime | None, after: str | None
) -> Found:
    text = _checked(text)
    times = checked(scope, Filter(created_after=created_after, created_before=created_before))
    mark = mark_of(Filter(), text)
    position = page_position(mark, after)
    with reading(scope.connection) as connection:
        groups: list[FoundGroup] = []
        if after is None:
            if (id_ := _only_task(scope, connection, text)) is not None:
                return Found(id_, (), 0, None, None)
            groups = list(_groups(scope, connection, text, times))
        if times.created_after is None:
            [[now]] = connection.run("select now()")
            times = replace(times, created_after=(times.created_before or now) - PAYLOADS_WITHIN)
        found = payload_search.search(scope, text, times, position, MOST_PAYLOADS)
    if found.tasks:
        groups.append(FoundGroup(FoundKind.PAYLOAD, None, TaskPage(found.tasks, None)))
    return Found(None, tuple(groups), found.read, found.to, found.after and f"{found.after}.{mark}")


def _checked(text: str) -> str:
    stripped = text.strip() if isinstance(text, str) else ""
    if not stripped or len(stripped) > MAX_TEXT or storable(stripped) != stripped:
        raise SelectionError("text", f"1 to {MAX_TEXT} characters are required, without control characters")
    return stripped


def _only_task(scope: Scope, connection: Connection, text: str) -> str | None:
    """The task with this id, or the only one whose id begins with the text."""
    if not ID_PATTERN.fullmatch(text):
        return None
    if connection.run(IS_ID, text)[0][0]:
        return text
    if len(text) < CERTAIN_PREFIX:
        return None
    page = listing.tasks(scope, Filter(id_prefix=text), None, None, 2)
    return page.tasks[0].id if len(page.tasks) == 1 and page.after is None else None


def _groups(scope: Scope, connection: Connection, text: str, times: Filter) -> Iterator[FoundGroup]:
    if rows := connection.run(BY_KEY, _keys(scope, text)):
        yield FoundGroup(FoundKind.KEY, None, TaskPage(tuple(map(listing.row_of, rows)), None))
    for type_ in [name for name in sorted(scope.tasks) if text.lower() in name][:MOST_TYPES]:
        yield FoundGroup(FoundKind.TYPE, Filter(types=(type_,)), TaskPage((), None))
    for kind, filter_ in _filters(text, times):
        page = listing.tasks(scope, filter_, None, None, SHOWN)
        if page.tasks or page.searched_to is not None:
            yield FoundGroup(kind, filter_, page)


def _filters(text: str, times: Filter) -> Iterator[tuple[FoundKind, Filter]]:
    """The filters of listings that may have the text. Errors are searched in the time range, if there is one."""
    if ID_PATTERN.fullmatch(text):
        yield FoundKind.ID, Filter(id_prefix=text)
    if TENANT_PATTERN.fullmatch(text):
        yield FoundKind.TENANT, Filter(tenant=text)
    if len(text) <= MAX_TAG:
        yield FoundKind.TAG, Filter(tag=text)
    if FINGERPRINT_PATTERN.fullmatch(text):
        yield FoundKind.FINGERPRINT, Filter(fingerprint=text)
    yield FoundKind.ERROR, replace(times, error=text)


def _keys(scope: Scope, text: str) -> list[str]:
    """The unique keys that live tasks may hold under this name.

    Keys of types with redacted fields are left out: a key may contain such a value, or derive from it.
    """
    return [f"{name} {text}" for task in scope.tasks.values() if not _redacts(task.payload) for name in task.types]


def _redacts(model: type[Payload]) -> bool:
    return bool(redacted_names(model))
