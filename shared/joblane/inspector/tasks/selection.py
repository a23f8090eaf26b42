"""A checked filter as SQL, which reads a bounded number of rows whatever the filter and the table are.

A source is a condition with an index of its own that yields its rows in the order of a listing. The database merges
the sources of a filter, and tests its conditions on the first :data:`BOUND` rows. The row at the bound is returned even
if it does not match: all rows before it were tested, so a walk continues there.

An id prefix, a tag or a parent has an index without that order. Its rows are read and sorted if they are not more than
:data:`NARROW`; one that more tasks have is tested like any other condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from joblane.inspector.filter import BULK_TYPE, Filter
from joblane.inspector.tasks.filter_sql import BOUND, position_of
from joblane.record.driver.connection import Connection
from joblane.record.row.states import ENDED, LIVE, State

NARROW = 5_000
"""Rows in no order, each on a page of its own, that a statement reads at most."""
NEWEST = "created_at desc, id desc"
CHILDREN = "select child from joblane.task_children where parent = {parent} limit {limit}"
IS_LIVE, IS_ENDED = "finished_at is null", "finished_at > '-infinity'"
IS_ARCHIVED = "(dead_sent_at is not null or dead_letter_unsent)"
IS_UNSUCCESSFUL = "reason is not null and finished_at is not null"
"""Conditions of indexes: an index is used only if the statement has its condition."""
COMMON_TAG = """
select s.most_common_elem_freqs[array_position(s.most_common_elems::text::text[], $1)] * c.reltuples
  from pg_stats s join pg_class c on c.oid = 'joblane.tasks'::regclass
 where s.schemaname = 'joblane' and s.tablename = 'tasks' and s.attname = 'tags'
"""
"""How many tasks have a tag, if the last ANALYZE found it among the common tags; otherwise null. A GIN index collects
all rows of a tag before it yields the first, so an index scan for a common tag takes as long as the tag is common."""


_TOOK = """coalesce({run}.duration_ms,
             case when {run}.finished_at is null then extract(epoch from now() - {run}.started_at) * 1000 end)"""
TOOK_MS = f"""
case when r.runs = 1 and r.state in ('active', 'completed') and r.started_at is not null then {_TOOK.format(run="r")}
     when r.runs > 0 then (select {_TOOK.format(run="a")} from joblane.task_attempts a
                            where a.task_id = r.id and a.run = r.runs) end
"""
"""Duration of the last run of a row ``r``. Most rows have their only run: a look-up for each takes too long."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A statement with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def select(
    columns: str,
    filter_: Filter,
    after: str | None,
    limit: int,
    *,
    narrow: bool = False,
    oldest_first: bool = False,
    acting: bool = False,
) -> Selection:
    """Select up to ``limit`` rows for a checked filter, after a position.

    ``columns``: must include ``created_at`` and ``id``. Two columns follow them: True if the row matches, and True if
    the walk has to continue after it. ``narrow``: the answer of :func:`is_narrow`. ``acting``: see
    :func:`_conditions`.
    """
    values = Values()
    order = "created_at, id" if oldest_first else NEWEST
    tested = _tested(values, filter_, after, order, narrow=narrow, acting=acting)
    return Selection(
        f"select {columns}, matches, reached from ({tested}) as t where matches or reached order by {order}"
        f" limit {limit}",
        tuple(values.given),
    )


def count(
    filter_: Filter, after: str | None, most: int | None, *, narrow: bool = False, acting: bool = False
) -> Selection:
    """Count the tasks of a checked filter up to the bound: their number, and the position to continue from, if any.

    ``most``: the count ends there, without a position. None: only the bound ends it.
    """
    values = Values()
    order = NEWEST
    tested = _tested(values, filter_, after, order, narrow=narrow, acting=acting)
    limit = "" if most is None else f" order by {order} limit {most}"
    return Selection(
        f"""
select count(*) filter (where matches), max(created_at) filter (where reached), max(id) filter (where reached)
  from (select created_at, id, matches, reached from ({tested}) as t where matches or reached{limit}) as found
""",
        tuple(values.given),
    )


def is_narrow(connection: Connection, filter_: Filter) -> bool:
    """True if an index of ids, tags or parents yields so few rows for the filter that all of them can be read."""
    values = Values()
    condition = _narrow_condition(values, filter_)
    if filter_.ids or condition is None:
        return condition is not None
    # without an order, only the index of the condition can be used
    number = f"(select count(*) from (select from joblane.tasks where {condition} limit {NARROW + 1}) as found)"
    if filter_.parent:
        number = f"(select count(*) from ({CHILDREN.format(parent='$1', limit=NARROW + 1)}) as found)"
    elif not filter_.id_prefix:
        number = f"case when ({COMMON_TAG}) > {NARROW} then {NARROW + 1} else {number} end"
    return bool(connection.run(f"select {number}", *values.given)[0][0] <= NARROW)


@dataclass(slots=True)
class Values:
    """The parameters of a statement."""

    given: list[Any] = field(default_factory=list)

    def add(self, value: Any) -> str:
        self.given.append(value)
        return f"${len(self.given)}"


def _tested(values: Values, filter_: Filter, after: str | None, order: str, *, narrow: bool, acting: bool) -> str:
    """The rows up to the bound, each with the columns ``matches`` and ``reached``."""
    place = list(_place(values, filter_, after, order))
    matches = " and ".join([*_conditions(values, filter_, acting=acting), "true"])
    if narrow:
        condition = _narrow_condition(values, filter_)
        rows = f"select * from joblane.tasks where {condition} limit {NARROW}"
        return f"select *, {matches} as matches, false as reached from ({rows}) as r{_where(place)}"
    rows = _rows(values, filter_, place, order)
    return (
        f"select *, {matches} as matches, row_number() over (order by {order}) = {BOUND} as reached from ({rows}) as r"
    )


def newest(values: Values, filter_: Filter, after: str | None) -> str:
    """The rows up to the bound, newest first, of which some fit a checked filter."""
    return _rows(values, filter_, list(_place(values, filter_, after, NEWEST)), NEWEST)


def _rows(values: Values, filter_: Filter, place: Sequence[str], order: str) -> str:
    # Each source has the order and the bound as well: without them the database would sort all rows of all sources.
    merged = "\nunion all\n".join(
        f"(select * from joblane.tasks{_where([condition, *place])} order by {order} limit {BOUND})"
        for condition in _indexed(values, filter_)
    )
    return f"select * from (\n{merged}\n) as m order by {order} limit {BOUND}"


def _indexed(values: Values, filter_: Filter) -> Iterator[str]:
    """The sources: conditions that together hold for all tasks that the filter can match."""
    states = frozenset(filter_.states or State)
    if filter_.ended_after or filter_.ended_before:
        states &= ENDED
    ended = states & ENDED
    if filter_.fingerprint:
        yield f"fingerprint = {values.add(filter_.fingerprint)}"
    elif filter_.tenant and ended != {State.ARCHIVED}:
        yield f"tenant = {values.add(filter_.tenant)}"
    elif filter_.error:
        yield "error_type is not null"
    else:
        if states & LIVE:
            yield IS_LIVE
        if ended == {State.ARCHIVED}:
            yield IS_ARCHIVED
        elif ended and State.COMPLETED not in ended:
            yield IS_UNSUCCESSFUL
        elif ended and filter_.types:
            yield from (f"type = {values.add(type_)} and finished_at is not null" for type_ in filter_.types)
        elif ended:
            yield IS_ENDED


def _narrow_condition(values: Values, filter_: Filter) -> str | None:
    """The condition of an index without the order of a listing; None if the filter has none."""
    if filter_.ids:
        return f"id = any({values.add(list(filter_.ids))}::text[])"
    if filter_.parent:
        return f"id = any(array({CHILDREN.format(parent=values.add(filter_.parent), limit=NARROW)}))"
    if filter_.id_prefix:
        return f"id >= {values.add(filter_.id_prefix)} and id < {values.add(_past(filter_.id_prefix))}"
    if filter_.tag:
        return f"tags <> '{{}}' and tags @> array[{values.add(filter_.tag)}::text]"  # the index needs both
    return None


def _place(values: Values, filter_: Filter, after: str | None, order: str) -> Iterator[str]:
    """Conditions that an index in the order of a listing can search for."""
    if filter_.created_after:
        yield f"created_at >= {values.add(filter_.created_after)}"
    if before := min(filter(None, (filter_.created_before, filter_.ended_before)), default=None):
        yield f"created_at < {values.add(before)}"  # a task is created before it ends
    if after is not None:
        created_at, id_ = position_of(after)
        compared = "<" if "desc" in order else ">"
        yield f"(created_at, id) {compared} ({values.add(created_at)}, {values.add(id_)})"


def _conditions(values: Values, filter_: Filter, *, acting: bool) -> Iterator[str]:
    """The conditions of the filter.

    ``acting``: leave out the tasks that a bulk action leaves out: cleared tasks, on which no action is possible, and
    earlier bulk actions, which would repeat their own filter, unless the filter names them.
    """
    for column, several in (
        ("id", filter_.ids),
        ("type", filter_.types),
        ("state", filter_.states),
        ("queue", filter_.queues),
    ):
        if several:
            yield f"{column} = any({values.add([str(value) for value in several])}::text[])"
    if filter_.id_prefix:
        yield f"id >= {values.add(filter_.id_prefix)} and id < {values.add(_past(filter_.id_prefix))}"
    if filter_.tenant:
        yield f"tenant is not distinct from {values.add(filter_.tenant)}"
    if filter_.tag:
        yield f"tags @> array[{values.add(filter_.tag)}::text]"
    if filter_.error:
        text = "lower(concat(error_type, ': ', error_message))"
        yield f"error_type is not null and strpos({text}, lower({values.add(filter_.error)})) > 0"
    if filter_.ended_after:
        yield f"finished_at is not null and finished_at >= {values.add(filter_.ended_after)}"
    if filter_.ended_before:
        yield f"finished_at is not null and finished_at < {values.add(filter_.ended_before)}"
    if filter_.fingerprint:
        yield f"fingerprint is not distinct from {values.add(filter_.fingerprint)}"
    yield from ["lease_until is not null and lease_until < clock_timestamp()"] if filter_.lease_over else []
    yield from _in_other_tables(values, filter_)
    if acting:
        yield "not cleared"
        if not (filter_.ids or filter_.types or filter_.fingerprint):
            yield f"type <> '{BULK_TYPE}'"


def _in_other_tables(values: Values, filter_: Filter) -> Iterator[str]:
    """The conditions that look up another row for each task. `exists` could read all of them into a hash."""
    if filter_.parent:
        parent = values.add(filter_.parent)
        yield f"(select true from joblane.task_children c where c.parent = {parent} and c.child = id) is not null"
    if filter_.longer:
        yield f"({TOOK_MS}) > {values.add(str(filter_.longer / timedelta(milliseconds=1)))}::float8"


def _where(conditions: Sequence[str]) -> str:
    return f" where {' and '.join(conditions)}" if conditions else ""


def _past(prefix: str) -> str:
    """The first text after all ids that begin with ``prefix``: ids are compared byte by byte."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
