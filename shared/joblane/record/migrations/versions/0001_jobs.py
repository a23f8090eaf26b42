"""The record of tasks: a row per task, per run, per finished item; cursors, progress, and what is paused."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# `sweep_at` is when the sweep must look at a row if nothing happens before: send its message, send it again, or finish
# its dead letter. Null means never. It carries the only index that is written on every change of state.
#
# Rows are updated twice or more in their life, hence the room on each page and the early vacuum.
#
# `unique_key` is held while the task is live, by the index alone: whatever ends a task frees its key.
TASKS = """
create table tasks (
    id             text collate "C" primary key,
    type           text not null,
    queue          text not null,
    tenant         text,
    owner          text,
    tags           text[] not null default '{}',
    state          text not null check (state in
                       ('scheduled', 'pending', 'active', 'retry', 'completed', 'archived', 'cancelled')),
    payload        jsonb,
    payload_digest text not null,
    schema         text,
    headers        jsonb not null default '{}',
    options        jsonb not null default '{}',
    tick           text,

    attempts       integer not null default 0,
    runs           integer not null default 0,
    allowed        integer not null check (allowed > 0),
    snoozes        integer not null default 0,
    continuations  integer not null default 0,
    used_ms        bigint not null default 0,
    generation     integer not null default 0,

    company        smallint not null default 0,
    suspect        boolean not null default false,
    lease_token    uuid,
    lease_until    timestamptz,

    created_at     timestamptz not null default clock_timestamp(),
    due_at         timestamptz not null default clock_timestamp(),
    deadline       timestamptz,
    sent_at        timestamptz,
    sends          integer not null default 0,
    sweep_at       timestamptz,
    mismatch_since timestamptz,
    cancel_requested_at timestamptz,
    finished_at    timestamptz,
    dead_sent_at   timestamptz,

    unique_key     text collate "C",
    unique_until   text not null default 'finish' check (unique_until in ('finish', 'start')),
    unique_expires_at timestamptz,

    retention_seconds bigint not null,
    expire_at      timestamptz,
    cleared        boolean not null default false,

    result         jsonb,
    reason         text,
    error_type     text,
    error_message  text
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)
"""

ATTEMPTS = """
create table task_attempts (
    task_id     text collate "C" not null,
    run         integer not null,
    attempt     integer not null,
    generation  integer not null,
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome     text,
    duration_ms integer,
    request_id  text,
    error_type  text,
    error_message text,
    fingerprint text,
    traceback   text,
    primary key (task_id, run)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
"""

ITEMS = """
create table task_items (
    task_id text collate "C" not null,
    key     text collate "C" not null,
    done_at timestamptz not null default clock_timestamp(),
    primary key (task_id, key)
)
"""

# Where a resumable task goes on: committed with the work up to there.
CURSORS = """
create table task_cursors (
    task_id text collate "C" primary key,
    cursor  jsonb not null,
    done    bigint not null,
    at      timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

# What a run tells of itself while its own transaction is open, hence apart from its row.
PROGRESS = """
create table task_progress (
    task_id text collate "C" primary key,
    done    bigint not null,
    total   bigint,
    note    text,
    at      timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

PAUSES = """
create table pauses (
    scope  text not null check (scope in ('type', 'queue', 'tenant', 'schedule')),
    name   text not null,
    reason text,
    since  timestamptz not null default clock_timestamp(),
    until  timestamptz,
    primary key (scope, name)
)
"""


def upgrade() -> None:
    for table in (TASKS, ATTEMPTS, ITEMS, CURSORS, PROGRESS, PAUSES):
        op.execute(table)
    op.execute("create index tasks_sweep on tasks (sweep_at) where sweep_at is not null")
    op.execute(
        "create unique index tasks_unique on tasks (unique_key)"
        " where unique_key is not null and state in ('scheduled', 'pending', 'active', 'retry')"
    )
    op.execute("create index tasks_expire on tasks (expire_at) where expire_at is not null")
