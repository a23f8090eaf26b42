"""The things that keep the tasks of an action from starting: pauses, limits, orders, undeclared types; and causes.

A survey reads the tasks in steps of a bounded number of rows. Each step is one statement that groups them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.stage import pauses
from joblane.inspector.tasks.filter_sql import BOUND, cursor_of
from joblane.inspector.tasks.listing import COUNT_CAP, MOST_STEPS
from joblane.inspector.tasks.selection import is_narrow, select
from joblane.inspector.views import Block, BlockKind, Pause
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_changes import LIVE_CHANGE
from joblane.record.flow.limit_status import LimitStatus, statuses
from joblane.record.row.states import State

MOST_GROUPS = 200
"""Causes, limits and ordered keys that a step returns: the largest."""
MOST_LIMITS = 20
"""Limits whose values are read."""
MAX_SHOWN = 2_000
"""Characters of an error that are read."""
COLUMNS = (
    "id, created_at, type, queue, tenant, coalesce(fingerprint, '') as fingerprint, error_type,"
    f" left(coalesce(error_message, reason), {MAX_SHOWN}) as message, key_limit, total_limit, shared_limit, ordered,"
    " first_due_at, seq"
)
CHANGE = f"""exists (select from joblane.limit_changes c
                where c.name = {{name}} and {LIVE_CHANGE.format(row="c")})"""
SURVEY = f"""
with read as materialized ({{selection}}),
t as materialized (select * from read where matches),
kinds as materialized (
  select type, fingerprint, count(*) as number, max(id) as example from t group by type, fingerprint
),
causes as (
  select g.type, g.fingerprint, g.number, e.error_type, e.message
    from (select * from kinds order by number desc, fingerprint limit {MOST_GROUPS}) as g join t e on e.id = g.example
),
groups as (
  select t.type, t.queue, p.name as tenant, count(*) as number
    from t left join joblane.pauses p on p.scope = 'tenant' and p.name = t.tenant group by 1, 2, 3
),
keys as (  -- a key without values of its own has the values of each key
  select case when {CHANGE.format(name="k.name")} then k.name else split_part(k.name, '/', 1) || '/' end as name, number
    from (select key_limit as name, count(*) as number from t where key_limit is not null group by 1) as k
),
limits as (
  select n.name, sum(n.number)::int as number
    from (select name, number from keys
           union all select total_limit, count(*) from t where total_limit is not null group by 1
           union all select shared_limit, count(*) from t where shared_limit is not null group by 1) as n
   where {CHANGE.format(name="n.name")}
      or exists (select from joblane.limits d where d.name = n.name and d.slots = 0)
   group by n.name order by number desc, n.name limit {MOST_LIMITS}
),
firsts as (
  select distinct on (key_limit) type, key_limit, first_due_at, seq, created_at,
         count(*) over (partition by key_limit) as number
    from t where ordered and key_limit is not null and seq is not null order by key_limit, first_due_at, seq
),
later as (
  select l.*
    from (select type, min(created_at) as at from firsts group by type) as f,
         lateral (select x.key_limit, x.first_due_at, x.seq, x.state from joblane.tasks x
                   where x.type = f.type and x.finished_at is not null and x.created_at > f.at
                   order by x.created_at desc, x.id desc limit {BOUND}) as l
   where l.state = '{State.COMPLETED}'
),
orders as (
  select f.type, f.key_limit, max(f.number) as number, count(*) as later
    from firsts f join later l
      on l.key_limit = f.key_limit and (l.first_due_at, l.seq) > (f.first_due_at, f.seq)
   group by f.type, f.key_limit order by later desc, f.key_limit limit {MOST_GROUPS}
)
select (select count(*) from t), (select created_at from read where reached), (select id from read where reached),
       (select coalesce(json_agg(json_build_array(type, fingerprint, number, error_type, message)), '[]') from causes),
       (select count(*) from kinds),
       (select coalesce(json_agg(json_build_array(type, queue, tenant, number)), '[]') from groups),
       (select coalesce(json_object_agg(name, number), '{{{{}}}}') from limits),
       (select coalesce(json_agg(json_build_array(type, key_limit, number, later)), '[]') from orders)
"""


@dataclass(slots=True)
class Survey:
    """The tasks of an action, counted up to 10,000. ``causes``: (type, fingerprint) → their number, with an error.

    ``groups``: (type, queue, tenant) → their number; the tenant is None unless it is paused. ``limits``: the name of a
    limit that is 0 or changed → the number of its tasks. ``orders``: (type, name of the limit of the key) → the number
    of tasks, and the number of later tasks that have completed.
    """

    number: int = 0
    exact: bool = True
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: dict[tuple[str, str], tuple[str | None, str | None]] = field(default_factory=dict)
    number_of_causes: int = 0
    groups: Counter[tuple[str, str | None, str | None]] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    orders: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)


def survey(connection: Connection, filter_: Filter) -> Survey:
    """Read the tasks of a checked filter that an action would change, within a transaction of ``reading``."""
    found, after, narrow = Survey(), None, is_narrow(connection, filter_)
    for _ in range(MOST_STEPS):
        selection = select(COLUMNS, filter_, after, BOUND, narrow=narrow, acting=True)
        [[number, at, id_, causes, all_causes, groups, limits, orders]] = connection.run(
            SURVEY.format(selection=selection.sql), *selection.parameters
        )
        for type_, fingerprint, count, *error in causes:
            found.causes[type_, fingerprint] += count
            found.errors.setdefault((type_, fingerprint), tuple(error))
        for type_, queue, tenant, count in groups:
            found.groups[type_, queue, tenant] += count
        found.limits.update(limits)
        for type_, key, count, later in orders:
            earlier = found.orders.get((type_, key), (0, 0))
            found.orders[type_, key] = (earlier[0] + count, max(earlier[1], later))
        found.number += number
        found.number_of_causes += all_causes - len(causes)
        after = None if id_ is None else cursor_of(at, id_)
        if after is None or found.number > COUNT_CAP:
            break
    found.number_of_causes += len(found.causes)
    found.exact = after is None and found.number <= COUNT_CAP
    found.number = min(found.number, COUNT_CAP)
    return found


def blocks_of(connection: Connection, declared: Collection[str], found: Survey) -> tuple[Block, ...]:
    """The things that keep the tasks of a survey from starting: what stops them first.

    ``declared``: the types, with their former names.
    """
    blocks = [*_paused(connection, found.groups), *_limited(connection, found.limits), *_orders(found.orders)]
    types: Counter[str] = Counter()
    for (type_, _, _), number in found.groups.items():
        types[type_] += number
    for type_, number in types.items():
        if type_ and type_ not in declared:
            blocks.append(Block(BlockKind.UNDECLARED, number, stops=True, type=type_))
    return tuple(sorted(blocks, key=lambda block: (not block.stops, -block.tasks)))


def stopping(connection: Connection, declared: Collection[str], ids: Iterable[str]) -> tuple[Block, ...]:
    """The things that stop any of these tasks."""
    chosen = Filter(ids=tuple(ids))
    if not chosen.ids:
        return ()
    return tuple(block for block in blocks_of(connection, declared, survey(connection, chosen)) if block.stops)


def _paused(connection: Connection, groups: Mapping[tuple[str, str | None, str | None], int]) -> Iterable[Block]:
    for pause in pauses.current(connection):
        number = sum(count for group, count in groups.items() if _concerns(pause, *group))
        if number:
            yield Block(BlockKind.PAUSE, number, stops=True, pause=pause)


def _concerns(pause: Pause, type_: str, queue: str | None, tenant: str | None) -> bool:
    """True if the claim would find the pause for a task. The pause of a queue leaves out ``jobs:*``."""
    match pause.scope:
        case PauseScope.TYPE:
            return pause.name == type_
        case PauseScope.QUEUE:
            return pause.name == queue and not type_.startswith("jobs:")
        case _:
            return pause.name == tenant


def _limited(connection: Connection, limits: Counter[str]) -> Iterable[Block]:
    numbers = dict(limits.most_common(MOST_LIMITS))
    for limit, number in zip(statuses(connection, [*numbers]), numbers.values(), strict=True):
        stops = limit.in_force.at_a_time == 0
        if stops or _is_lowered(limit):
            yield Block(BlockKind.LIMIT, number, stops=stops, limit=limit)


def _is_lowered(limit: LimitStatus) -> bool:
    """True if an operator has set a rate, or fewer tasks at a time than are declared."""
    if limit.change is None:
        return False
    values, declared = limit.change.values, limit.declared.at_a_time
    fewer = values.at_a_time is not None and (declared is None or values.at_a_time < declared)
    return fewer or values.rate is not None


def _orders(orders: Mapping[tuple[str, str], tuple[int, int]]) -> Iterable[Block]:
    for type_ in dict.fromkeys(type_ for type_, _ in orders):
        keys = {key: numbers for (of, key), numbers in orders.items() if of == type_}
        most = max(keys, key=lambda key: keys[key][1])
        yield Block(
            BlockKind.ORDER,
            sum(number for number, _ in keys.values()),
            stops=False,
            type=type_,
            key=most.partition("/")[2],
            later=keys[most][1],
            keys=len(keys),
        )
