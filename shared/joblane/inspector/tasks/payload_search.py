"""Search for a text in the values of payloads, newest task first, in a bounded number of rows and a bounded time.

Only values that an operator may see are compared. The values of redacted fields are left out before anything is
compared with the text, so neither the result nor the time of a search depends on them.

No index holds the values: a statement reads up to 20,000 rows in the order of a listing. It ends earlier when
:data:`SECONDS` have passed, because large payloads take long to read; one row is always read. It returns where it
ended, and the next statement continues there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from joblane.inspector.filter import Filter
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import BOUND, cursor_of
from joblane.inspector.tasks.listing import COLUMNS, row_of
from joblane.inspector.tasks.selection import Selection, Values, newest
from joblane.inspector.views import TaskRow
from joblane.tasks.payload import Payload
from joblane.tasks.redaction import redacted_names
from joblane.tasks.task import Task

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
  from (select *,
               case when n > 1 and clock_timestamp() > statement_timestamp() + {seconds}::float8 * interval '1 s'
                    then null
                    when known is null or jsonb_typeof(payload) is distinct from 'object' then false
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
          from (select *, {known}::jsonb -> type as known, row_number() over newest_first as n,
                       lag(created_at) over newest_first as earlier_at, lag(id) over newest_first as earlier_id,
                       lead(id) over newest_first is null as is_last
                  from ({rows}) as r
                window newest_first as (order by created_at desc, id desc)) as numbered) as t
 where matches is distinct from false or is_last
 limit {limit}
"""
"""The rows come in the order of the window: to sort them, the database would first compare all of them."""
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
