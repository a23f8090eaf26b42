"""The parents and children of a task."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from joblane.inspector.tasks.row import Record
from joblane.inspector.views import Relative, Relatives
from joblane.record.driver.connection import Connection
from joblane.record.row.states import ENDED_SQL, State, as_read

SHOWN = 50
"""Parents or children of a task that are shown."""
MOST_COUNTED = 1_000
"""Parents or children of a task whose states are counted, in some milliseconds."""
_STATE = "left join lateral (select t.type, t.state from joblane.tasks t where t.id = x.id limit 1) p on true"
ORDER = f"case when p.state = 'archived' then 0 when p.state in {ENDED_SQL} or p.state is null then 2 else 1 end"
PARENTS = f"""
select x.id, p.type, p.state
  from (select id, n from jsonb_array_elements_text($1::jsonb) with ordinality as after(id, n)) as x {_STATE}
 order by {ORDER}, x.n
"""
"""At most 1,000 ids are given: more parents are not accepted."""
CHILDREN = f"""
select x.id, p.type, p.state
  from (select child as id from joblane.task_children where parent = $1 order by parent, child
         limit {MOST_COUNTED + 1}) as x
  {_STATE} order by {ORDER}, x.id
"""


def relatives(connection: Connection, record: Record) -> dict[str, Any]:
    """Return the fields of a task's view that name other tasks, and its options without them."""
    after = record.after or []
    of = record.callback_of
    return {
        "parents": _relatives(connection.run(PARENTS, json.dumps(after)) if after else []),
        "on_parent_dead": record.on_parent_dead,
        "children": _relatives(connection.run(CHILDREN, record.id)),
        "enqueued_by": record.enqueued_by,
        "batch": record.batch or of,
        "callback": None if of is None else record.id.removeprefix(f"{of}:"),
        "options": {**record.options, **_own(record)},
    }


def _own(record: Record) -> dict[str, Any]:
    """Return the options that have columns, as far as the task has them."""
    debounce = None if record.asks is None else {"asks": record.asks, "longest": record.longest_seconds}
    named = {name: getattr(record, name) for name in ("schedule", "tick_key", "events", "on_archived")}
    return {name: value for name, value in (named | {"debounce": debounce}).items() if value is not None}


def _relatives(rows: Any) -> Relatives:
    found = [Relative(id_, type_, state and as_read(State, state)) for id_, type_, state in rows[:MOST_COUNTED]]
    states = Counter(one.state for one in found if one.state is not None)
    return Relatives(
        tuple(found[:SHOWN]),
        more=len(rows) > SHOWN,
        states=dict(states),
        removed=len(found) - states.total(),
        exact=len(rows) <= MOST_COUNTED,
    )
