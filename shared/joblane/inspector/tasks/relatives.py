"""The parents and children of a task."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from joblane.enqueue.chain import DEPTH
from joblane.inspector.tasks.row import Record
from joblane.inspector.views import Relative, Relatives
from joblane.record.driver.connection import Connection
from joblane.record.row.states import ENDED_SQL, State, as_read
from joblane.record.task.insert import BULK_OPTION, RELATIONS

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
    options = record.options
    after = options.get("after") or []
    return {
        "parents": _relatives(connection.run(PARENTS, json.dumps(after)) if after else []),
        "on_parent_dead": options.get("on_parent_dead"),
        "children": _relatives(connection.run(CHILDREN, record.id)),
        "enqueued_by": options.get("enqueued_by"),
        "batch": options.get("batch") or options.get("callback_of"),
        "callback": options.get("callback"),
        "options": {name: value for name, value in options.items() if name not in (*RELATIONS, DEPTH, BULK_OPTION)},
    }


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
