"""Finds tasks by a string, which may be a part of an id, a name, a part of an error, or a value of a payload.

The text itself is in no log, no error and no audit entry.

Of a payload only values that an operator may see are compared. The values of redacted fields are left out before
anything is compared with the text, so neither the result nor the time of a search depends on them. No index holds the
values: a statement reads up to 20,000 rows in the order of a listing. It ends earlier when :data:`SECONDS` have passed,
because large payloads take long to read; one row is always read. It returns where it ended, and the next statement
continues there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from joblane.errors import storable
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import listing
from joblane.inspector.tasks.filter_sql import (
    BOUND,
    FINGERPRINT_PATTERN,
    checked,
    cursor_of,
    mark_of,
    page_position,
    reading,
)
from joblane.inspector.tasks.listing import COLUMNS, row_of
from joblane.inspector.tasks.selection import Selection, Values, newest
from joblane.inspector.views import Found, FoundGroup, FoundKind, TaskPage, TaskRow
from joblane.record.driver.connection import Connection
from joblane.sqs.message import ID_PATTERN, TENANT_PATTERN
from joblane.tasks.job import MAX_TAG
from joblane.tasks.payload import Payload
from joblane.tasks.redaction import redacted_names
from joblane.tasks.task import Task

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
        found = search(scope, text, times, position, MOST_PAYLOADS)
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


def _filters(text: str, times: Filter) -> list[tuple[FoundKind, Filter]]:
    """The filters of listings that may have the text. Errors are searched in the time range, if there is one."""
    found = (
        (FoundKind.ID, Filter(id_prefix=text), ID_PATTERN.fullmatch(text)),
        (FoundKind.TENANT, Filter(tenant=text), TENANT_PATTERN.fullmatch(text)),
        (FoundKind.TAG, Filter(tag=text), len(text) <= MAX_TAG),
        (FoundKind.FINGERPRINT, Filter(fingerprint=text), FINGERPRINT_PATTERN.fullmatch(text)),
        (FoundKind.ERROR, replace(times, error=text), True),
    )
    return [(kind, filter_) for kind, filter_, may_have in found if may_have]


def _keys(scope: Scope, text: str) -> list[str]:
    """The unique keys that live tasks may hold under this name.

    Keys of types with redacted fields are left out: a key may contain such a value, or derive from it.
    """
    return [f"{name} {text}" for task in scope.tasks.values() if not _redacts(task.payload) for name in task.types]


def _redacts(model: type[Payload]) -> bool:
    return bool(redacted_names(model))


# --- Payloads ---------------------------------------------------------------------------------------------------------


SECONDS = 0.12
"""Time for reading, without planning."""
NUMBER = re.compile(r"-?(0|[1-9]\d{0,30})(\.\d{1,30})?([eE][+-]?\d{1,2})?")
"""A number as JSON writes it."""
LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Only ASCII is equal in upper and lower case: folding all of Unicode takes PostgreSQL several times as long."""

# `known` is null for a type that no declaration describes: all of its payload is masked. `visible` lacks the redacted
# fields at the top. A row with redacted fields further down has them left out on the way through its values, which
# takes longer. In all other rows the text as a whole is compared first.
STATEMENT = """
select {columns}, n, matches, earlier_at, earlier_id, is_last
  from (select id as found, n, earlier_at, earlier_id, is_last,
               case when n > 1 and clock_timestamp() > statement_timestamp() + {seconds}::float8 * interval '1 s'
                    then null
                    when known is null or jsonb_typeof(payload) is distinct from 'object' then false
                    when not known ? 'inner' and {needle} = {digits}
                         and strpos(lower(payload::text collate "C"), {needle}) = 0 then false
                    else (select (has_inner or strpos(whole, {needle}) > 0 or strpos(whole, {digits}) > 0)
                                 and exists ({values})
                            from (select visible, lower(visible::text collate "C") as whole,
                                         known ? 'inner' and jsonb_path_exists(visible, (known ->> 'inner')::jsonpath)
                                         as has_inner
                                    from (select case when known ? 'inner' then payload - array(
                                                      select jsonb_array_elements_text(known -> 'names'))
                                                      else payload end as visible
                                          offset 0) as v
                                  offset 0) as w)
               end as matches
          from (select created_at, id, payload, {known}::jsonb -> type as known, row_number() over newest_first as n,
                       lag(created_at) over newest_first as earlier_at, lag(id) over newest_first as earlier_id,
                       lead(id) over newest_first is null as is_last
                  from ({rows}) as r
                window newest_first as (order by created_at desc, id desc)) as numbered) as t,
       lateral (select * from joblane.tasks where id = found offset 0) as shown
 where matches is distinct from false or is_last
 limit {limit}
"""
"""The rows come in the order of the window: to sort them, the database would first compare all of them. The window has
few columns, because it copies each row. The other columns are looked up for the rows of the answer."""
VALUES = """
with recursive parts as (
  select visible as part
   union all
  select child from parts, lateral (
    select value from jsonb_each(case jsonb_typeof(part) when 'object' then part end) where not known -> 'names' ? key
     union all
    select value from jsonb_array_elements(case jsonb_typeof(part) when 'array' then part end)) as inside (child)
)
select from parts
 where jsonb_typeof(part) = 'string' and strpos(lower(part #>> '{{}}' collate "C"), {text}) > 0
    or jsonb_typeof(part) = 'number' and part = {number}::jsonb
"""


@dataclass(frozen=True, slots=True)
class PayloadMatches:
    """``read``: the number of rows that were read. ``to``: creation of the last of them, None if there was none.

    ``after``: the position to continue from; None if all rows of the time range were read.
    """

    tasks: tuple[TaskRow, ...]
    read: int
    to: datetime | None
    after: str | None


def search(scope: Scope, text: str, filter_: Filter, after: str | None, limit: int) -> PayloadMatches:
    """Up to ``limit`` tasks with the text in a value that may be seen. ``filter_``: a checked one, of times only."""
    found = statement(scope.tasks, text, filter_, after, limit)
    matching: list[TaskRow] = []
    row: TaskRow | None = None
    for *columns, n, matches, earlier_at, earlier_id, is_last in scope.connection.run(found.sql, *found.parameters):
        if matches is None:  # it was not read
            return PayloadMatches(tuple(matching), n - 1, earlier_at, cursor_of(earlier_at, earlier_id))
        row, read, ended = row_of(columns), n, is_last and n < BOUND
        matching += [row] if matches else []
    if row is None:
        return PayloadMatches((), 0, None, None)
    return PayloadMatches(tuple(matching), read, row.created_at, None if ended else cursor_of(row.created_at, row.id))


def statement(
    tasks: Mapping[str, Task[Any, Any]], text: str, filter_: Filter, after: str | None, limit: int
) -> Selection:
    """The rows that match, or were not read for lack of time, and the last one; up to ``limit``."""
    values = Values()
    lowered = text.translate(LOWER)
    needle = json.dumps(lowered, ensure_ascii=False)[1:-1]
    number = _number(text)
    named = {
        "needle": values.add(needle),
        "digits": values.add(needle if number is None else number),
        "text": values.add(lowered),
        "number": values.add(number),
    }
    sql = STATEMENT.format(
        columns=COLUMNS,
        seconds=values.add(str(SECONDS)),
        known=values.add(json.dumps({type_: _known(task) for task in tasks.values() for type_ in task.types})),
        values=VALUES.format(**named),
        rows=newest(values, filter_, after),
        limit=limit,
        **named,
    )
    return Selection(sql, tuple(values.given))


def _known(task: Task[Any, Any]) -> dict[str, Any]:
    """The names of the redacted fields of a type. ``inner``: a path that exists if some are left inside a payload."""
    model: type[Payload] = task.payload
    names = sorted(redacted_names(model))
    paths = " || ".join(f"exists(@.**.{json.dumps(name)})" for name in names)
    return {"names": names, **({"inner": f"$ ? ({paths})"} if names else {})}


def _number(text: str) -> str | None:
    """The number without an exponent and without zeros at its end: each way to write it contains these digits."""
    if not NUMBER.fullmatch(text):
        return None
    written = f"{Decimal(text):f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written) or "0"
