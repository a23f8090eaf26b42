"""Why a held task is not running, and the commands that let it go.

A task with limits waits for a slot, for its order, or for the time that a rate gives it. A child waits for tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joblane.inspector.durations import stamp
from joblane.inspector.sentences.blocks import order_text
from joblane.inspector.sentences.schedules import nth
from joblane.inspector.shell import argument
from joblane.inspector.tasks.filter_sql import BOUND
from joblane.inspector.tasks.row import Record
from joblane.inspector.views import Reason, Why
from joblane.record.driver.connection import Connection
from joblane.record.flow.limit_changes import level_of
from joblane.record.flow.limit_status import MOST_COUNTED, LimitKind, LimitStatus, status_of
from joblane.record.row.conditions import BATCH_IS_GONE, PARENT_CANCELS, PARENT_LETS_GO
from joblane.record.row.states import LEVELS, LIVE_SQL, Level, Passed, State, as_read
from joblane.tasks.limit import rate_text

EARLIER = f"""
select id, state, attempts + 1, due_at, lease_until from joblane.tasks
 where key_limit = $1 and ordered and expire_at is null and state in {LIVE_SQL}
   and (first_due_at, seq) < ($2::timestamptz, $3::bigint)
 order by first_due_at, seq limit {MOST_COUNTED}
"""
LATER = f"""
select count(*)
  from (select key_limit, first_due_at, seq, state from joblane.tasks
         where type = $1 and finished_at is not null and created_at > $2::timestamptz
         order by created_at desc, id desc limit {BOUND}) as x
 where state = 'completed' and key_limit = $3 and (first_due_at, seq) > ($4::timestamptz, $5::bigint)
"""
WAIT_BEFORE = f"""
select count(*) from (select from joblane.tasks
                       where wait_kind = 'limit' and waits_for = $1 and state = 'held'
                         and (place, seq) < ($2::float8, $3::bigint)
                       limit {MOST_COUNTED}) as x
"""


def _holder(level: Level) -> str:
    return f"""
select id, lease_until from joblane.tasks
 where {level.column} = $1 and passed {level.has_slot} and state = 'active'
 order by lease_until, id limit 1
"""


HOLDER = {number: _holder(level) for number, level in LEVELS.items()}


def why_held(connection: Connection, record: Record) -> Why:
    """Say for which limit a held task waits, which task has its slots, and what helps."""
    name = record.waits_for or ""
    if level_of(name) == 1 and record.ordered:
        earlier = connection.run(EARLIER, name, record.first_due_at, record.seq)
        if earlier:
            return _in_order(record, earlier)
    limit = status_of(connection, name)
    slots, what = limit.in_force.at_a_time, _what(limit)
    if slots == 0:
        return _set_to_0(connection, limit, what)
    ((before,),) = connection.run(WAIT_BEFORE, name, record.place, record.seq)
    if slots is None or limit.taken < slots:
        text = (
            f"It is held by {what}, which has a free slot: the next end of a task there, or the next sweep, starts it."
        )
        return Why(Reason.HELD, text)
    text = f"It is held by {what}: {limit.taken:,} of {slots:,} slots are taken"
    if limit.running:
        (id_, until), *_ = connection.run(HOLDER[level_of(name)], name) or [[None, None]]
        who = f"task {id_} runs" if limit.running == 1 else f"{limit.running:,} tasks run, the first of them {id_}"
        text += f"; {who}, until {_text(until)} at the latest" if id_ else ""
    text += f". {_place(before, in_turn=level_of(name) > 1)}"
    return Why(Reason.HELD, f"{text} To see or change the limit: {_command(limit)}.")


def passed_over(connection: Connection, record: Record) -> str | None:
    """Say how many later tasks of its ordered key have completed before an archived task; None if none has."""
    if not record.ordered or record.key_limit is None or record.seq is None:
        return None
    values = (record.type, record.created_at, record.key_limit, record.first_due_at, record.seq)
    [[later]] = connection.run(LATER, *values)
    key = record.key_limit.partition("/")[2]
    return order_text(later, key, record.type) if later else None


def _place(before: int, *, in_turn: bool) -> str:
    """Say how many tasks are served before. ``in_turn``: tenants are, so the number is not exact."""
    if in_turn:
        return f"About {_tasks(before)} before it; tenants are served in turn." if before else "It is the next one."
    return f"{_tasks(before)} before it in its key." if before else "It is the next one of its key."


def _tasks(number: int) -> str:
    return f"{number:,} task waits" if number == 1 else f"{number:,} tasks wait"


def _in_order(record: Record, earlier: list[Any]) -> Why:
    """The tasks of its key run in order, and another is first."""
    id_, state, attempt, due_at, lease_until = earlier[0]
    key = (record.key_limit or "").partition("/")[2]
    passing = f"`joblane limits pass {record.type} {argument(key)}`"
    first, until = standing(State(state), attempt, due_at, lease_until)
    match State(state):
        case State.ACTIVE:
            helps = f"To see all of them: `joblane limits line {record.type} {argument(key)}`"
        case State.RETRY:
            helps = f"To start that one now: `joblane run {id_}`. To let the next one run first: {passing}"
        case _:
            helps = f"To see why: `joblane show {id_}`. To let the next one run first: {passing}"
    number = len(earlier)
    more = f" {number:,} tasks are before it." if number > 1 else ""
    return Why(Reason.IN_ORDER, f"It is in line behind {id_}, which {first}.{more} {helps}.", until)


def standing(
    state: State, attempt: int, due_at: datetime | None, lease_until: datetime | None
) -> tuple[str, datetime | None]:
    """Say what a task does for which another one waits, and until when. ``attempt``: the number of its next one."""
    match state:
        case State.ACTIVE:
            return f"runs, until {_text(lease_until)} at the latest", lease_until
        case State.RETRY:
            return f"waits for its {nth(attempt)} attempt until {_text(due_at)}", due_at
        case State.SCHEDULED:
            return f"is scheduled for {_text(due_at)}", due_at
        case State.HELD:
            return "is held itself", None
        case _:
            return f"is {state}", None


def _set_to_0(connection: Connection, limit: LimitStatus, what: str) -> Why:
    own = limit.own_change
    is_inherited = limit.key is not None and (own is None or own.values.at_a_time is None)
    source = status_of(connection, f"{limit.name}/") if is_inherited else limit
    change = source.change
    if change is None or change.values.at_a_time is None:
        return Why(
            Reason.HELD, f"It is held by {what}, which is declared as 0. To change that: {_command(limit, 'set')}."
        )
    where = " for each key" if is_inherited else ""
    by = f" by {change.by}" if change.by else ""
    until = f" until {_text(change.until)}" if change.until else ""
    because = f" because: {change.reason}" if change.reason else ""
    text = f"It is held by {what}, which was set to 0{where}{by}{until}{because}."
    return Why(Reason.HELD, f"{text} To start the tasks: {_command(source, 'reset')}.", change.until)


def rate_of(connection: Connection, record: Record) -> str | None:
    """Say which rate gave a task its time; None if none did."""
    limit = _giver(connection, record)
    return None if limit is None else f"The {_rated(limit, record)}. To see or change the rate: {_command(limit)}."


def keeps_time(connection: Connection, record: Record) -> str | None:
    """Say why a task is not run before the time that a rate gave it; None if none did."""
    limit = _giver(connection, record)
    if limit is None:
        return None
    return f"the {_rated(limit, record)}. To change the rate: {_command(limit, 'set')} with --rate"


def keeps_slot(record: Record) -> str:
    """Say why a task that a limit or its order holds is not run."""
    name, _, key = (record.waits_for or "").partition("/")
    command = f"joblane limits ls {argument(name)}" + (f" --key {argument(key)}" if key else "")
    return (
        f"it waits for the limit {record.waits_for}. To see what it waits for: `joblane show {argument(record.id)}`. "
        f"To see or change the limit: `{command}`"
    )


def _giver(connection: Connection, record: Record) -> LimitStatus | None:
    names = {level.time: getattr(record, level.column) for level in LEVELS.values()}
    name = names.get(record.passed) if record.passed and record.has_time else None
    return status_of(connection, name) if name is not None else None


def _rated(limit: LimitStatus, record: Record) -> str:
    rate = rate_text(limit.in_force.rate)
    given = f"rate of {_what(limit)}" + (f", {rate}," if rate else "")
    return f"{given} gives it the time {_text(record.due_at)}"


def has_turn(record: Record) -> bool:
    """True if a task has its slots, and its message was sent when it got them."""
    limited = record.key_limit or record.total_limit or record.shared_limit
    return bool(limited) and record.state is State.PENDING and record.passed is Passed.ALL and record.used_ms == 0


# --- Words ---------------------------------------------------------------------------------------------------------


def _what(limit: LimitStatus) -> str:
    match limit.kind:
        case LimitKind.SHARED:
            return f"the shared limit {limit.name}"
        case LimitKind.KEY:
            return f"the limit of {limit.name} for key {limit.key}"
        case _:
            return f"the total of {limit.name}"


def _command(limit: LimitStatus, action: str = "ls") -> str:
    of_key = "" if limit.key is None else f" --key {argument(limit.key)}"
    return f"`joblane limits {action} {limit.name}{of_key}`"


def _text(at: datetime | None) -> str:
    return stamp(at) if at is not None else "an unknown time"


# --- Parents ----------------------------------------------------------------------------------------------------------


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
    waits_for_own = record.runs > 0 and record.after is None  # its handler: a run before their end would stop again
    text, until = _parent_tasks(parents, "its child" if waits_for_own else "task")
    alone = "" if waits_for_own else f" {_alone(record)}"
    return Why(Reason.PARENTS, f"{text}{alone}", until if parents.number == 1 else None)


def _parent_tasks(parents: Parents, kind: str) -> tuple[str, datetime | None]:
    id_, state = parents.id, as_read(State, parents.state or "")
    what, until = standing(state, parents.attempt or 1, parents.due_at, parents.lease_until)
    text = f"It waits for {kind} {id_}, which {what}"
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
