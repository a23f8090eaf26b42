"""Why a child is not running: the tasks for which it waits, and the commands that let it go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from joblane.inspector.shell import argument
from joblane.inspector.tasks.row import Record
from joblane.inspector.tasks.why_held import standing
from joblane.inspector.views import Reason, Why
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_status import MOST_COUNTED
from joblane.record.row.conditions import BATCH_IS_GONE, PARENT_CANCELS, PARENT_LETS_GO
from joblane.record.row.states import State, as_read

# A callback waits for all members of its batch. Each parent is looked up by its id, as a join might read more rows. An
# order might let the index of the other column be read.
OPEN = f"""
with open as materialized (
  select e.child, e.parent, e.parent_batch, e.on_parent_dead
    from joblane.task_parents e where e.child = $1 limit {MOST_COUNTED}
),
known as materialized (
  select * from (select e.parent, e.parent_batch, p.state, p.attempts, p.due_at, p.lease_until,
                        {PARENT_LETS_GO} as lets_go, {PARENT_CANCELS} or {BATCH_IS_GONE} as cancels
                   from open e
                   left join lateral (select * from joblane.tasks t where t.id = e.parent limit 1) p on true) as k
   where not k.lets_go
)
select k.parent, k.parent_batch, k.state, k.attempts + 1, k.due_at, k.lease_until, coalesce(k.cancels, false),
       (select count(*) from known where parent_batch = ''),
       exists (select from joblane.task_parents e where e.child = $1 and e.parent = ''),
       (select count(*) from known where state = 'archived')
  from known k
 order by k.cancels is true desc, k.parent_batch, k.state is not distinct from 'archived' desc, k.parent limit 1
"""
"""The parents of a task for which it waits: one of them, a dead one if there is any; their number; true if it waits for
the seal of its batch; the number of archived ones."""


@dataclass(frozen=True, slots=True)
class Parents:
    """The parents of a task. The first seven values are of one of them: a dead one, if there is any.

    ``id`` or ``batch`` is empty: it waits for a task, or for the seal of a batch.
    """

    id: str
    batch: str
    state: str | None
    attempt: int | None
    due_at: datetime | None
    lease_until: datetime | None
    cancels: bool
    number: int
    unsealed: bool
    dead: int

    @property
    def least(self) -> str:
        return "at least " if self.number + self.unsealed >= MOST_COUNTED else ""


def why_parents(connection: Connection, record: Record) -> Why | None:
    """Say for which tasks a child waits, and what lets it go; None if its own message lets it go."""
    batch = record.callback_of
    rows = connection.run(OPEN, record.id)
    if not rows:
        if record.place is None:
            return None
        return Why(Reason.PARENTS, "The tasks for which it has waited have ended; the next sweep starts it.")
    parents = Parents(*rows[0])
    if parents.cancels:
        what = f"batch {parents.batch}" if parents.batch else f"task {parents.id}"
        how = "was cancelled" if parents.state == State.CANCELLED else "cannot complete any more"
        return Why(Reason.PARENTS, f"It waits for {what}, which {how}: the next sweep cancels it.")
    if batch is not None:
        return Why(Reason.PARENTS, f"{_of_batch(batch, parents)} {_alone(record)}")
    text, until = _tasks(parents)
    return Why(Reason.PARENTS, f"{text} {_alone(record)}", until if parents.number == 1 else None)


def _tasks(parents: Parents) -> tuple[str, datetime | None]:
    id_, state = parents.id, as_read(State, parents.state or "")
    what, until = standing(state, parents.attempt or 1, parents.due_at, parents.lease_until)
    text = f"It waits for task {id_}, which {what}"
    if (more := parents.number - 1) > 0:
        dead = parents.dead - (state is State.ARCHIVED)
        text += f", and for {more:,} more" + (f", {dead:,} of them archived" if dead else "")
    match state:
        case State.ARCHIVED:
            helps = f"To run {id_} again: `joblane retry {argument(id_)}`"
        case State.RETRY:
            helps = f"To start {id_} now: `joblane run {argument(id_)}`"
        case _:
            helps = f"To see {id_}: `joblane show {argument(id_)}`"
    return f"{text}. {helps}.", until


def _of_batch(batch: str, parents: Parents) -> str:
    waits, helps = [], []
    if parents.unsealed:
        waits.append(f"until the batch {batch} is sealed")
        helps.append(f"If its creator cannot seal it any more: `joblane batch seal {argument(batch)}`.")
    if parents.number:
        members = f"{parents.least}{parents.number:,} member{'s' * (parents.number != 1)}"
        of = "it" if parents.unsealed else f"batch {batch}"
        dead = f", {parents.least}{parents.dead:,} of them archived" if parents.dead else ""
        waits.append(f"for {members} of {of}{dead}")
    if parents.dead:
        helps.append(f"To run the archived ones again: `joblane batch retry {argument(batch)}`.")
    else:
        helps.append(f"To see the batch: `joblane batch show {argument(batch)}`.")
    return f"It waits {' and '.join(waits)}. {' '.join(helps)}"


def _alone(record: Record) -> str:
    return f"To run this task without waiting: `joblane run {argument(record.id)}`."
