"""What operators need: listings by index, an audit, who paused what, and what each run cost."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

# `fingerprint` is that of the last error; `replay_of` the task that this one was made from by an operator. Where the
# table is large, they, what fills them and the indexes below are made by hand before: here all writers wait for them.
TASKS = """
alter table tasks add column if not exists fingerprint text, add column if not exists replay_of text collate "C"
"""

# Type, queue and tenant stand here as well, so that what ran in the last hour is read without a look at each task.
ATTEMPTS = """
alter table task_attempts add column type text, add column queue text, add column tenant text,
    add column wait_ms bigint, add column billed_ms integer, add column memory_mb integer,
    add column cost_usd double precision
"""

PAUSES = "alter table pauses add column paused_by text"

AUDIT = """
create table audit (
    number  bigint generated always as identity primary key,
    at      timestamptz not null default clock_timestamp(),
    who     text not null,
    action  text not null,
    target  text not null,
    reason  text,
    details jsonb not null default '{}'
)
"""

# A bulk action beside its task `jobs:bulk`, which has the same id: what it was to do, and what it has done. Those of
# `canary_ids` came first, and have to end well by `canary_until` for the rest to follow.
BULKS = """
create table bulks (
    id         text collate "C" primary key,
    action     text not null,
    filter     jsonb not null,
    who        text not null,
    reason     text,
    rate       integer not null,
    canary     integer not null,
    canary_ids text[] not null default '{}',
    canary_until timestamptz,
    total      integer not null,
    done       integer not null default 0,
    skipped    integer not null default 0,
    failed     integer not null default 0,
    stopped    text,
    started_at timestamptz not null default clock_timestamp()
)
"""

# What failed before has the fingerprint of its last run that was given one.
FINGERPRINTS = """
update tasks t
   set fingerprint = coalesce((select a.fingerprint from task_attempts a
                                where a.task_id = t.id and a.fingerprint is not null order by a.run desc limit 1),
                              left(md5(t.type || '|' || t.error_type), 16))
 where t.error_type is not null and t.fingerprint is null
"""

# A listing is read newest first, by an index whose first column has one value; one of all tasks puts three queues
# together. An index costs a write for each state that a row in it goes through: those after the second hold few rows,
# or leave out the completed ones, which are most. What an overview counts stands in the index by state itself.
INDEXES = (
    "create index if not exists tasks_queue on tasks (queue, created_at desc, id desc)",
    "create index if not exists tasks_type on tasks (type, created_at desc, id desc)",
    (
        "create index if not exists tasks_state on tasks (state, created_at desc, id desc)"
        " include (type, queue, due_at) where state <> 'completed'"
    ),
    "create index if not exists tasks_tenant on tasks (tenant, created_at desc, id desc) where tenant is not null",
    "create index if not exists tasks_tags on tasks using gin (tags) where tags <> '{}'",
    "create index if not exists tasks_failed on tasks (created_at desc, id desc) where error_type is not null",
    (
        "create index if not exists tasks_cause on tasks (fingerprint, created_at desc, id desc)"
        " where fingerprint is not null"
    ),
    "create index if not exists tasks_replays on tasks (replay_of) where replay_of is not null",
    "create index if not exists task_attempts_started on task_attempts (started_at)",
    "create index if not exists audit_target on audit (target, number)",
)


def upgrade() -> None:
    for statement in (TASKS, FINGERPRINTS, ATTEMPTS, PAUSES, AUDIT, BULKS, *INDEXES):
        op.execute(statement)
