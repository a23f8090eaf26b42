"""The causes of failures: failed runs, tasks in retry and archived tasks, grouped by their error; and their marks.

The failed runs of a time are counted in an index that has no other runs. What the sweep has kept of a cause, and the
mark of an operator, are joined (:mod:`joblane.sweep.causes`): a cause that no sweep has seen yet is listed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from joblane.errors.text import storable
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import CAUSE_SORTS, MOST_FAILED_RUNS, Filter
from joblane.inspector.links import log_group_link
from joblane.inspector.scope import Scope
from joblane.inspector.stage.trends.performance import SHORTEST
from joblane.inspector.tasks.filter_sql import CUSTOM, LARGEST_PAGE, NOW, check_number, check_within, checked, snapshot
from joblane.inspector.views.causes import QUIET, Cause, CauseNote, Causes, CauseState
from joblane.names import Queue, dead_letter_name, lane_name
from joblane.record.causes import MAX_SHOWN, shown
from joblane.record.row.states import as_read
from joblane.sweep.causes import VERSION

BARS = 24
MOST_CAUSES = 500
"""Causes that are listed."""
MOST_VERSIONS = 20
NEW = "1 day"
"""A cause is new for this long after its first failed run, or after the first one since it was resolved."""

INDEXED = f"{CUSTOM}; set local enable_seqscan = off; set local enable_bitmapscan = off; set local random_page_cost = 1"
"""A bitmap reads the pages of the table, and indexes have all columns: with a type it takes three times as long."""
IS_ARCHIVED = "(dead_sent_at is not null or dead_letter_unsent) and finished_at is not null"
"""Without columns that no index has: most of these rows are read from the index alone. A task whose content is removed
has no fingerprint."""
OF_TASKS = "(cardinality($2::text[]) = 0 or type = any($2::text[])) and ($3::text is null or tenant = $3)"
FIND = f"""
with deployed as (
  select version, at, lead(at) over (order by at, number) as until from joblane.deploys where done_at is not null
),
ran as not materialized (
  select fingerprint, type, tenant, started_at, task_id,
         $13::text is null or started_at <@ (select range_agg(tstzrange(at, until)) from deployed where version = $13)
           as counts
    from joblane.task_attempts
   where fingerprint is not null and started_at >= $1::timestamptz and type is not null and {OF_TASKS}
   order by started_at desc limit {MOST_FAILED_RUNS}
),
runs as materialized (
  select fingerprint, type, count(*) filter (where counts) as runs, count(*) as read,
         min(started_at) as first_at, max(started_at) as last_at
    from ran group by 1, 2
),
tasks as (
  select fingerprint, type, count(*) filter (where is_live) as retry, count(*) filter (where not is_live) as archived,
         count(*) filter (where finished_at >= coalesce($10::timestamptz, '-infinity')) as lately,
         min(finished_at) as first_at, max(finished_at) as last_at, max(id) filter (where not is_live) as archived_id,
         max(id) as id
    from (select coalesce(fingerprint, '') as fingerprint, type, id, finished_at, false as is_live from joblane.tasks a
           where {IS_ARCHIVED} and {OF_TASKS}
             and (fingerprint is not null
                  or (select state = 'archived' and not cleared from joblane.tasks t where t.id = a.id))
          union all
          select fingerprint, type, id, null, true from joblane.tasks
           where fingerprint is not null and finished_at is null and {OF_TASKS}) as t
   group by 1, 2
),
found as materialized (
  select fingerprint, type, coalesce(r.runs, 0) as runs, coalesce(t.retry, 0) as retry,
         coalesce(t.archived, 0) as archived, coalesce(t.lately, 0) as lately,
         least(r.first_at, t.first_at, c.first_at) as first_at, greatest(r.last_at, t.last_at) as last_at,
         r.last_at as run_at, t.archived_id, t.id,
         case when c.mark <> 'resolved' or coalesce(r.last_at, t.last_at, c.last_at) <= c.marked_at
              then c.mark
              when coalesce(case when c.mark is null then c.since else r.last_at end, least(r.first_at, t.first_at))
                   > $8::timestamptz - interval '{NEW}' then 'new'
              else 'open' end as state
    from runs r full join tasks t using (fingerprint, type) left join joblane.causes c using (fingerprint, type)
),
matching as not materialized (
  select * from found
   where case when $4::text is not null then state = $4
              else state <> 'ignored' or archived > 0 or cardinality($9::text[]) > 0 end
     and (not $6::boolean or lately > 0) and ($13::text is null or runs > 0)
     and (cardinality($9::text[]) = 0 or fingerprint = any($9::text[]))
),
totals as (
  select (select count(*) from matching) as number, (select coalesce(sum(runs), 0) from runs) as runs,
         (select count(*) from found where state = 'ignored' and archived = 0 and ($13::text is null or runs > 0))
           as ignored,
         (select sum(read) from runs) as read,
         array(select version from deployed where until > $1::timestamptz or until is null
                group by 1 order by max(at) desc limit {MOST_VERSIONS}) as versions
),
listed as materialized (
  select *, row_number() over () as place
    from (select * from matching
           order by array_position(array['known', 'resolved', 'ignored'], state) nulls first,
                    case when $5 = 'now' and last_at > $8::timestamptz - interval '1 hour'
                         then 1 + (state = 'new')::int end desc nulls last,
                    case when $5 in ('now', 'runs') then runs when $5 = 'archived' then lately end desc nulls last,
                    last_at desc nulls last, archived desc, fingerprint, type
           limit $7::int) as m
),
mine as materialized (  -- "is true": each run is looked up in a hash of the listed causes; a join may hash all runs
  select fingerprint, type, started_at, tenant, task_id from ran
   where counts and ((fingerprint, type) in (select fingerprint, type from listed)) is true
),
counted as (
  select fingerprint, type, array_agg(array[bar, number]) as bars
    from (select fingerprint, type, count(*)::int as number,
                 width_bucket(date_part('epoch', started_at), $11::float8, $12::float8, {BARS}) as bar
            from mine group by 1, 2, 4) as b
   group by 1, 2
),
concerned as (
  select fingerprint, type, count(distinct tenant) as tenants, max(task_id) filter (where started_at = run_at) as id
    from mine join listed using (fingerprint, type) group by 1, 2
)
select l.fingerprint, l.type, l.runs, l.retry, l.archived, coalesce(a.tenants, 0),
       coalesce(l.first_at, q.started_at, q.created_at), coalesce(l.last_at, q.started_at, q.created_at), b.bars,
       l.state, c.marked_at, c.marked_by, c.note, case when $6 then l.archived_id else coalesce(a.id, l.id) end,
       o.number, o.ignored, o.runs, c.error_type, c.message, e.error_type, e.message, q.queue,
       q.error_type, q.message,
       case when c.first_at <= l.first_at then c.first_version else {VERSION.format(at="l.first_at")} end,
       coalesce({VERSION.format(at="l.last_at")}, c.last_version), o.read, o.versions
  from totals o left join listed l on true left join counted b using (fingerprint, type)
       left join concerned a using (fingerprint, type) left join joblane.causes c using (fingerprint, type)
       left join lateral (
         select error_type, left(error_message, {10 * MAX_SHOWN}) as message from joblane.task_attempts e
          where coalesce(c.message, '') = '' and e.task_id = a.id and e.fingerprint = l.fingerprint
          order by e.run desc limit 1) as e on true
       left join lateral (
         select q.queue, q.started_at, q.created_at, coalesce(q.error_type, 'Archived') as error_type,
                left(coalesce(q.error_message, case when not q.cleared then q.reason end), {10 * MAX_SHOWN}) as message
           from joblane.tasks q where q.id = coalesce(l.id, a.id)) as q on true
 order by l.place
"""
"""The causes since $1, of the types $2 (none: all) and the tenant $3 (null: all), in the state $4 (null: all except
ignored ones without archived tasks), in the order $5, if $6 only causes of tasks that were archived since $10 (null: at
any time), the first $7 of them at the time $8, with the fingerprints $9 (none: all), and with bars from $11 to $12, as
seconds since 1970. With $13, only runs of this version are counted, and only causes with such a run are listed. The
failed runs of a task in retry can all be older than $1: its row has the start of the last one."""


def causes(
    scope: Scope,
    *,
    within: timedelta,
    types: Sequence[str],
    tenant: str | None,
    version: str | None,
    state: CauseState | None,
    sort: str,
    limit: int,
) -> Causes:
    """Return the causes of failures. Raises :class:`SelectionError`."""
    check_within(within, SHORTEST)
    check_number("limit", limit, LARGEST_PAGE)
    if sort not in CAUSE_SORTS:
        raise SelectionError("sort", f"{', '.join(CAUSE_SORTS)} are valid")
    if state is not None and state not in list(CauseState):
        raise SelectionError("state", f"{', '.join(CauseState)} are the states of errors")
    chosen = checked(scope, Filter(types=tuple(types), tenant=tenant))
    if version is not None and storable(version) != version:
        raise SelectionError("version", "a version from a list of errors is required")
    return read(scope, chosen, within=within, version=version, state=state, sort=sort, limit=limit)


def read(
    scope: Scope,
    chosen: Filter,
    *,
    within: timedelta = timedelta(days=1),
    version: str | None = None,
    state: CauseState | None = None,
    sort: str = "last",
    archived_only: bool = False,
    fingerprints: Sequence[str] = (),
    limit: int,
) -> Causes:
    """Return the causes of the types, the tenant and the earliest end of a checked filter.

    ``fingerprints``: only these, ignored ones too. None: all.
    """
    with snapshot(scope.connection, INDEXED) as connection:
        [[at]] = connection.run(NOW)
        since = at - within
        rows = connection.run(
            FIND,
            since,
            list(chosen.types),
            chosen.tenant,
            state and str(state),
            sort,
            "true" if archived_only else "false",
            str(limit),
            at,
            list(fingerprints),
            chosen.ended_after,
            str(since.timestamp()),
            str(at.timestamp()),
            version,
        )
    number, ignored, runs = map(int, rows[0][14:17])
    seen, versions = rows[0][-2:]
    found = tuple(_cause(scope, row) for row in rows if row[0] is not None)
    exact = (seen or 0) < MOST_FAILED_RUNS and number <= limit
    return Causes(found, number, runs, ignored, exact, since, at, tuple(versions))


def _cause(scope: Scope, row: Sequence[Any]) -> Cause:
    fingerprint, type_, runs, retry, archived, tenants, first_at, last_at, bars, state, *rest = row
    marked_at, marked_by, note, example, _, _, _, kept_error, kept_message, *rest = rest
    of_run, of_run_message, queue, of_task, of_task_message, first_version, last_version, *_ = rest
    heights = dict(bars or ())
    return Cause(
        fingerprint=fingerprint,
        type=type_,
        error_type=kept_error or of_run or of_task or "",
        message=shown(kept_message or of_run_message or of_task_message or ""),
        runs=int(runs),
        retry=int(retry),
        archived=int(archived),
        tenants=int(tenants),
        first_at=first_at,
        first_version=first_version,
        last_at=last_at,
        last_version=last_version,
        bars=tuple(heights.get(bar, 0) for bar in range(1, BARS + 1)),
        state=CauseState(state),
        note=CauseNote(marked_at, marked_by, note) if state in QUIET else None,
        example=example or "",
        queue=dead_letter_name(lane_name(scope.prefix, as_read(Queue, queue), type_)) if queue else "",
        log_link=log_link(scope, type_),
    )


def log_link(scope: Scope, type_: str) -> str | None:
    """A link to the log of the function that runs a type; None if the type is not known."""
    return log_group_link(scope.region, scope.log_group(type_)) if type_ else None
