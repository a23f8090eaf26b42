"""Conditions on the row of a task that several statements share."""

from __future__ import annotations

from joblane.record.row.states import ENDED_SQL, LEVELS, LIVE_SQL, WAITING_SQL, Passed

EARLY_SECONDS = 2
"""A message may arrive this early, because SQS delays are whole seconds."""
MOST_RELEASED = 1_000
"""The maximum number of rows of ``task_parents`` that a finish deletes, and of tasks that one statement releases or
cancels. A thousand take less than a tenth of a second of PostgreSQL's processor time."""
MOST_WAIT_AGAIN = 10_000
"""The maximum number of children that wait again for a parent that is retried or redriven."""
UNUSED_SECONDS = 5
"""The times of a rate are given anew if tasks leave more of them unused. A task that starts early leaves a moment."""
PAUSED = """exists (select from joblane.pauses p
          where (p.until is null or p.until > now())
            and ((p.scope = 'type' and p.name = {row}.type)
              or (p.scope = 'queue' and p.name = {row}.queue and {row}.type not like 'jobs:%')
              or (p.scope = 'tenant' and p.name = {row}.tenant)))"""
"""True if the type, queue or tenant of a row is paused. The pause of a queue does not apply to Joblane's own ``jobs:``
types, because every queue depends on the sweep."""
_NAMES = "(select p.name from joblane.pauses p where p.scope = '{}' and (p.until is null or p.until > now()))"
UNPAUSED = f"""t.type not in {_NAMES.format("type")}
           and (t.queue not in {_NAMES.format("queue")} or t.type like 'jobs:%')
           and (t.tenant is null or t.tenant not in {_NAMES.format("tenant")})"""
"""True if :data:`PAUSED` is false for row ``t``: for a statement over many rows, which reads the pauses once."""
HAS_IDLE_SLOT = """((state in ('pending', 'held') and wait_kind is distinct from 'parents')
            or (state = 'active' and lease_until < now()))"""
"""True if a task with a slot of a limit does not run. A task that waits for its children keeps its key."""
HOLDER = """(select h.id from joblane.tasks h
          where h.unique_key = {key} and h.unique_key is not null and h.finished_at is null and h.id <> {id})"""
"""The id of the live task that holds a unique key."""
_BEFORE_IT = f"""exists (
         select from joblane.tasks o
          where o.key_limit = t.key_limit and o.ordered and o.expire_at is null and o.state in {LIVE_SQL}
            and o.passed {{}}
            and (o.first_due_at, o.seq) < (t.first_due_at, t.seq))"""
# `passed` is the second column of the index: one look-up for each of its values.
BEFORE_IT = f"""({_BEFORE_IT.format("is null")}
       or {_BEFORE_IT.format(f"= any ('{{{','.join(Passed)}}}')")})"""
"""True if another task is before ``t`` in the order of its key. A live task has no ``expire_at``: with ``finished_at``,
PostgreSQL might read all live tasks from their index."""
SKIPPED_TICK = """(t.state = 'cancelled' and t.runs = 0 and t.schedule is not null and coalesce(
        t.reason ~ '^(DuplicateTask|TickMissed|SchedulePaused|ScheduleChanged|ScheduleDeleted): ', false))"""
"""True if row ``t`` is a tick that its schedule or its overlap has cancelled before it started. It never runs again:
another task may have its time, or the schedule has no such tick any more."""
_TIMES = ", ".join(f"'{level.time}'" for level in LEVELS.values())
HAS_TIME = f"t.state = 'pending' and coalesce(t.passed in ({_TIMES}), false) and t.due_at > clock_timestamp()"
"""True if row ``t`` waits for the time that the rate of a limit, or a delay of the limit, has given it."""
UNDER_WAY = """(t.state = 'active' or (t.state in ('pending', 'held') and t.used_ms > 0)
            or coalesce(t.wait_kind = 'parents', false)
            or (select true from joblane.task_waits w where w.task_id = t.id limit 1) is not null
            or (select true from joblane.task_signals g where g.task_id = t.id limit 1) is not null)"""
"""True if no enqueue replaces the task: an attempt is under way, in an invocation or between two, where it may wait for
a slot; or it waits for its parents; or it has stopped at a wait, or has a signal, which is for its present payload.

With ``exists``, PostgreSQL may read all waits and signals, into a hash table.
"""
AT_WAIT = "exists (select from joblane.task_waits w where w.task_id = t.id and w.run = t.runs)"
"""True if the last run of task ``t`` has stopped at a wait. If the task is ``scheduled``, it waits."""
IS_FREE = """t.state = 'held' and t.wait_kind is not distinct from 'parents' and t.place is not null
         and (select true from joblane.task_parents e where e.child = t.id order by e.parent desc limit 1) is null"""
"""True if a task is held for its parents and has none any more. Without a place it is not held yet: its message comes.

The last parent is looked up first: parents end about in the order of their ids, and an index keeps entries of deleted
rows for a while.

``is not distinct from``: with ``=`` PostgreSQL may read all tasks that wait for their parents from an index.
"""
PARENT_LETS_GO = f"""coalesce((select p.state = 'completed' or (e.on_parent_dead = 'run' and p.state in {ENDED_SQL})
                   from joblane.tasks p where p.id = e.parent), e.on_parent_dead = 'run')"""
"""True if the child of row ``e`` of ``task_parents`` does not wait for this parent any more."""
PARENT_CANCELS = """(e.on_parent_dead <> 'run' and (p.state = 'cancelled' or (p.id is null and e.parent <> '')
               or (p.state = 'archived' and (e.on_parent_dead = 'cancel' or p.cleared))))"""
"""True if the child of row ``e`` of ``task_parents`` can never run, as its parent ``p`` did not complete.

A parent whose content is removed cannot be redriven.
"""
BATCH_IS_GONE = """(e.parent_batch <> ''
               and (select true from joblane.batches b where b.id = e.parent_batch) is null)"""
"""True if the callback of row ``e`` of ``task_parents`` can never run, as its batch was forgotten before its seal."""
WAITS_FOR_PARENTS = f"t.wait_kind is not distinct from 'parents' and t.state in {WAITING_SQL}"
"""True if row ``t`` waits for its parents, held or not."""
ORDINARY = {
    "its type": "t.type = task_type",
    "waits": "t.state in ('scheduled', 'pending')",
    "has not run": "t.runs = 0",
    "no earlier attempt continues": "t.used_ms = 0 and t.snoozes = 0 and t.mismatch_since is null and t.reason is null",
    "due": f"t.due_at <= clock_timestamp() + interval '{EARLY_SECONDS} s'",
    "no deadline": "t.deadline is null",
    "no limit": "t.key_limit is null and t.total_limit is null and t.shared_limit is null and t.passed is null",
    "no parents": "t.wait_kind is null",
    "takes no key": "t.tick_key is null",
}
"""Name → condition of an ordinary first run of a recorded task ``t``. While nothing is paused, ``claim_one.sql`` claims
it. ``claim.sql`` decides on any other task, and would do the same with this one."""
WAITED = "greatest(0, date_part('epoch', {row}.started_at - {row}.due_at) * float8 '1000')"
"""Milliseconds from the time a task was due to the start of its only run."""
FATE = "case when p.id is null or p.cleared then 'was deleted' else 'was ' || p.state end"
"""How a parent ``p`` ended that cancels its child."""
