"""The statement of a debounced enqueue whose unique key a waiting task holds: it pushes that task."""

from __future__ import annotations

from joblane.record.row.conditions import UNDER_WAY
from joblane.record.row.new import FIELDS, enqueued
from joblane.record.row.states import WAITING_SQL
from joblane.record.row.transitions import DUE_STATE, DUE_SWEEP, assignments
from joblane.record.task.insert import CONTENT

PUSHED_CONTENT = {name: f"case when keeps then t.{name} else {value} end" for name, value in CONTENT.items()}
PUSHED_CONTENT |= {"asks": "w.asks + x.asks", "longest_seconds": "l.longest"}
IS_LIMITED = "case when keeps then t.seq is not null else x.limits is not null end"

# `d` is the time at which the task is due, as in the other statements of an enqueue. It is read once the row is locked:
# of two pushes at once, the later commit has the later time.
PUSH = f"""
with waiting as (
  select id, unique_key, queue, key_limit, total_limit, shared_limit, due_at, deadline, created_at,
         coalesce(asks, 1) as asks, longest_seconds as longest,
         state = 'held' or passed is not null as has_place,
         passed is not null or wait_kind is not null or due_at <= clock_timestamp() as may_free,
         state <> 'held' and sweep_at >= due_at as has_message
    from joblane.tasks t
   where unique_key = any(array(select unique_key from jsonb_to_recordset(cast($1 as jsonb)) as x(unique_key text)))
     and finished_at is null and state in {WAITING_SQL} and runs = 0 and not {UNDER_WAY}
   order by unique_key for no key update
),
asked as (
  select x.*, (x.rest).asks, (x.rest).longest_seconds as longest, x.keep = 'first' as keeps
    from {enqueued("cast($1 as json)", FIELDS | {"keep": "text"})}
),
pushed as (
  update joblane.tasks t set
    {assignments(PUSHED_CONTENT)},
    unique_until = x.unique_until,
    unique_expires_at = clock_timestamp() + pg_catalog.make_interval(secs => x.unique_seconds),
    state = case when stays then t.state else {DUE_STATE} end,
    due_at = case when stays then t.due_at else d.due_at end,
    sends = case when stays then t.sends else 0 end,
    sweep_at = case when not stays then {DUE_SWEEP}
                    when t.state = 'held' and not keeps then x.deadline else t.sweep_at end,
    first_due_at = case when stays then t.first_due_at when {IS_LIMITED} then d.due_at end,
    seq = case when {IS_LIMITED} then coalesce(t.seq, pg_catalog.nextval('joblane.tasks_seq'::regclass)) end,
    passed = case when stays then t.passed end, wait_kind = case when stays then t.wait_kind end,
    waits_for = case when stays then t.waits_for end, place = case when stays then t.place end
    from asked as x join waiting as w on w.unique_key = x.unique_key,
         lateral (select least(w.longest, x.longest)) as l(longest),
         lateral (select least(clock_timestamp() + pg_catalog.make_interval(secs => x.delay),
                               greatest(w.created_at + pg_catalog.make_interval(secs => l.longest),
                                        least(w.due_at, clock_timestamp())))
         ) as pushed(due_at),
         lateral (select case when x.keeps and w.deadline <= pushed.due_at then w.due_at else pushed.due_at end
         ) as d(due_at),
         lateral (select w.has_place and (x.keeps or (w.key_limit is not distinct from x.limits[1]
                         and w.total_limit is not distinct from x.limits[2]
                         and w.shared_limit is not distinct from x.limits[3]))) as s(stays)
   where t.id = w.id
  returning t.id, t.unique_key, t.due_at,
    case when stays or (w.has_message and w.due_at <= t.due_at and w.queue = t.queue) then t.state end as state,
    case when w.may_free and not stays then array[w.key_limit, w.total_limit, w.shared_limit]
         else array[null::text, null, null] end as freed
)
select id, extract(epoch from due_at - clock_timestamp())::float8, unique_key, freed[1], freed[2], freed[3], state
  from pushed
"""
"""Push each waiting task that holds a unique key: it is due when the new task with that key would be, and no later than
``longest`` after its insert, which was the first ask, nor past a deadline that is kept. It gets the new content, unless
the first is kept.

A task that is held, or has a slot of a limit or a time by a rate, keeps them, and its time. The last column is the
state of a task that needs no message: it has one, which arrives early and then waits for the rest of the time. The
three columns before are the limits that must be served after the commit. Rows are locked in the order of keys. A task
stays unchanged if it has begun or ended, or waits for its parents."""
