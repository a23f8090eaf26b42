"""The tables of Joblane: tasks, runs, finished items, cursors, steps, progress, pauses, and the audit of operators."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from joblane.record.migrations.comments import statements
from joblane.record.row.conditions import WAITED

revision = "0001"
down_revision = None

# The lines with `--` are written to the database as comments, see `joblane.record.migrations.comments`. The texts of
# long functions are in the `.sql` files of this folder.

# A task is live while `finished_at` is null. A statement that needs an index of live tasks has this condition in
# addition to its states. A claim writes no index entry if the new version of the row fits on the same page, so an
# insert leaves space on each page.
TASKS = """
-- One row for each task. A task that was sent without a row gets it when it first runs.
create table joblane.tasks (
    -- Id of the task: the caller's, or a UUID of version 7. It is kept for 24 days after the task has ended.
    id text collate "C" primary key,
    -- Type, as the task was declared when it was enqueued.
    type text not null,
    -- Queue of the task: critical, default or low.
    queue text not null,
    -- Tenant, for fair queues and for filters. Null: none.
    tenant text,
    -- User that owns the task, for access checks of the application. Null: none.
    owner text,
    -- Words to find the task by.
    tags text[] not null default '{}',
    -- Payload. Null: it was removed at the end of the retention, or by an operator.
    payload jsonb,
    -- Digest of the payload at the enqueue. A message with another payload does not belong to this task.
    payload_digest text not null,
    -- Digest of the payload's schema in the code that enqueued the task. Null: enqueued without Python.
    schema text,
    -- Headers for the handler. Empty once the payload is removed.
    headers jsonb not null default '{}',
    -- Options of the task instead of those that its type declares: timeout and retry_delay, in seconds. Only
    -- the check of the table reads them.
    options jsonb not null default '{}',

    -- Attempts after which the task is archived: max_retry plus 1.
    max_attempts integer not null,
    -- Seconds for which payload and result are kept after the task is completed or cancelled.
    retention_seconds bigint not null,
    -- Time of the enqueue.
    created_at timestamptz not null default clock_timestamp(),
    -- Time after which the task is archived instead of run. Null: none.
    deadline timestamptz,
    -- When the key is released: finish or start.
    unique_until text not null default 'finish',
    -- Time after which another enqueue takes the key. Null: no key.
    unique_expires_at timestamptz,

    -- Limit of the task's key: the type, a slash and the key. Null: none.
    key_limit text collate "C",
    -- Limit of all tasks of the type: the type. Null: none.
    total_limit text collate "C",
    -- Limit that several types share: its name. Null: none.
    shared_limit text collate "C",
    -- True: the tasks of its key start in the order of first_due_at and seq.
    ordered boolean,
    -- Number of the task among those with a limit, in the order of their inserts. Null: it has no limit.
    seq bigint,
    -- Id of the task that an operator replayed to make this one. Null: no replay.
    replay_of text collate "C",
    -- Id of the batch of which it is a member. Null: none.
    batch text collate "C",
    -- Id of the batch whose callback it is. Null: none.
    callback_of text collate "C",
    -- Ids of the tasks after which it runs. Null: none. Those for which it still waits are in joblane.task_parents.
    after text[],
    -- What it does if one of them is archived: hold, cancel or run. Null: it runs after none.
    on_parent_dead text,
    -- Id of the task whose run has enqueued it. Null: none has.
    enqueued_by text collate "C",
    -- Number of enqueues by runs that led to it. Null: 0.
    depth integer,
    -- Name of the schedule that made it. Null: none.
    schedule text collate "C",
    -- Unique key that it takes when it first runs. Null: none.
    tick_key text collate "C",
    -- Number of enqueues that a debounced task stands for. Null: it is not debounced.
    asks integer,
    -- Seconds after its first enqueue after which a debounced task is not pushed further.
    longest_seconds float8,
    -- Kinds of events that its type declares: completed, archived, cancelled. Null: none.
    events text[],
    -- Columns of the task that is inserted once its dead letter is sent: type, queue, max_attempts, retention_seconds,
    -- limits and events. Null: its type declares none.
    on_archived jsonb,

    -- Number of redrives and retries by operators. A dead letter of an earlier generation runs nothing.
    generation integer not null default 0,
    -- Runs that ended by Snooze.
    snoozes integer not null default 0,
    -- Runs of a resumable task that continued in another invocation.
    continuations integer not null default 0,
    -- Milliseconds that the present attempt took in earlier invocations. 0: there were none.
    used_ms bigint not null default 0,
    -- Time since which the task waits for code that can read its payload. Null: it does not wait for this.
    mismatch_since timestamptz,
    -- Time at which the task was cancelled, or was asked to stop. Null: it was not.
    cancel_requested_at timestamptz,
    -- Time from which the task was first due. Null: it has no limit, or it waits for its parents.
    first_due_at timestamptz,
    -- Last step that it has passed on its way through its limits: key_slot (it has a slot of its key's limit), key_time
    -- (and a time by the rate), type_slot and type_time (the same of its type), shared_slot, or all. It passes a limit
    -- that it does not have. Null: it has no slot.
    passed text collate "C",
    -- Kind of the wait: limit, for a slot of the limit in waits_for; parents, for the tasks in joblane.task_parents. A
    -- task with parents has it even before it is held. Null: neither.
    wait_kind text collate "C",
    -- Limit for whose slot the task waits. Null: none.
    waits_for text collate "C",
    -- Place among the tasks that wait for the same. Null: none, or it has parents and is not held yet.
    place float8,
    -- Unique key: the type and the caller's key, or a digest. A live task holds it. Null: none.
    unique_key text collate "C",

    -- State of the task.
    state text not null,
    -- Attempts that have begun. Runs that spend no attempt are not counted.
    attempts integer not null default 0,
    -- Runs that have begun, including runs that spend no attempt.
    runs integer not null default 0,
    -- Tasks that were claimed together with this one, itself included. 0: no run holds it.
    batch_size smallint not null default 0,
    -- True: a batch with this task was lost, so the next claim takes it alone.
    claim_alone boolean not null default false,
    -- Token of the run that holds the task. Only the run with this token can finish it. Null: no run.
    lease_token uuid,
    -- End of the lease. After it another run can claim the task. Null: no run holds it.
    lease_until timestamptz,
    -- Time from which the task may run: at first as the caller gave it, later the time of the next attempt.
    due_at timestamptz not null default clock_timestamp(),
    -- Messages that the sweep has sent since the last run.
    sends integer not null default 0,
    -- Time from which the sweep handles the row, unless the row changes before. Earlier than due_at: the task has no
    -- message, and the sweep sends one. Null: never.
    sweep_at timestamptz,
    -- Time at which its first run began. Null: it has not run.
    started_at timestamptz,
    -- Id of the Lambda invocation of its first run. Null: it has not run.
    request_id text,

    -- Milliseconds of the handler and its commit, if the task completed at its first run. Null: it did not.
    duration_ms integer,
    -- Billed milliseconds of this run, and its share of the rest of the invocation. Null: not known, or not one run.
    billed_ms integer,
    -- Memory of the function in this run, in MB. Null: not known, or not one run.
    memory_mb integer,
    -- Estimated cost of this run in US dollars. Null: not known, or not one run.
    cost_usd double precision,
    -- Time at which the task ended. Null: it has not ended.
    finished_at timestamptz,
    -- Time at which its dead letter was sent. Null: not archived, or the dead letter is not sent yet.
    dead_sent_at timestamptz,
    -- True: the task is archived, and its dead letter is not sent yet.
    dead_letter_unsent boolean not null default false,
    -- Time at which the sweep removes the content, and after that the row. Null: the task has not ended.
    expire_at timestamptz,
    -- True: payload, result and headers are removed.
    cleared boolean not null default false,
    -- Return value of the handler. Null: not completed, no result, or removed.
    result jsonb,
    -- Reason of the state: why the task was archived or cancelled. Null: no reason.
    reason text,
    -- Class of the last error. Null: no attempt has failed.
    error_type text,
    -- Message of the last error, with the values of redacted fields removed.
    error_message text,
    -- Digest of the last error: task type, class, message without its numbers, and place. Equal errors have one digest.
    -- Null: no error, or the content is removed.
    fingerprint text,
    -- Id of the bulk action that has changed it last. Empty: an action on it alone came later. Null: neither.
    bulk text collate "C"
) with (fillfactor = 55, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)
"""

CHECKED = """
create trigger tasks_checked after insert or update on joblane.tasks for each row
  when (joblane.checks()) execute function joblane.check_task()
"""

ENDED = """
create trigger tasks_ended after update of finished_at on joblane.tasks for each row
  when (new.events is not null) execute function joblane.task_ended()
"""

# Type, queue and tenant are repeated, so that the runs of the last hour are read without a look-up of each task.
ATTEMPTS = """
-- One row for each run of a task, except a first run in progress and the only run of a task that completed at once:
-- these are on the row of the task. The view joblane.runs has all. Type, queue and tenant are repeated for statistics.
create table joblane.task_attempts (
    -- Id of the task.
    task_id text collate "C" not null,
    -- Number of the run, from 1.
    run integer not null,
    -- Number of the attempt, from 1. A run that spends no attempt has the same number as the run after it.
    attempt integer not null,
    -- Generation of the task in this run.
    generation integer not null,
    -- Time of the claim.
    started_at timestamptz not null default clock_timestamp(),
    -- Time of the end. Null: the run is in progress.
    finished_at timestamptz,
    -- Outcome: completed, failed, timeout, archived, snoozed, rate_limited, revoked, cancelled, continued, mismatch,
    -- not_started, waiting or lost. Null: in progress.
    outcome text,
    -- Milliseconds of the handler and its commit. Null: not known.
    duration_ms integer,
    -- Id of the Lambda invocation.
    request_id text,
    -- Class of the error. Null: none.
    error_type text,
    -- Message of the error, with the values of redacted fields removed.
    error_message text,
    -- Digest of the error: task type, class, message without its numbers, and place.
    fingerprint text,
    -- The last 8,000 characters of the traceback, with the values of redacted fields removed. Null: none.
    traceback text,
    -- Type of the task.
    type text,
    -- Queue of the task.
    queue text,
    -- Tenant of the task.
    tenant text,
    -- Milliseconds from the time the task was due to the claim.
    wait_ms bigint,
    -- Billed milliseconds: those of the run, and its share of the rest of the invocation. Null: not known.
    billed_ms integer,
    -- Memory of the function, in MB. Null: not known.
    memory_mb integer,
    -- Estimated cost in US dollars. Null: not known, for example for a lost run.
    cost_usd double precision,
    primary key (task_id, run)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)
"""

RUNS = """
-- One row for each run of each task.
create view joblane.runs as
select task_id, run, attempt, generation, started_at, finished_at, outcome, duration_ms, request_id, error_type,
       error_message, fingerprint, traceback, type, queue, tenant, wait_ms, billed_ms, memory_mb, cost_usd
  from joblane.task_attempts
union all
select t.id, 1, t.attempts, t.generation, t.started_at, t.finished_at,
       case when t.finished_at is not null then 'completed' end, t.duration_ms, t.request_id, null, null, null, null,
       t.type, t.queue, t.tenant, WAITED::bigint, t.billed_ms, t.memory_mb, t.cost_usd
  from joblane.tasks t
 where t.started_at is not null and t.runs = 1 and t.state in ('active', 'completed')
""".replace("WAITED", WAITED.format(row="t"))

ITEMS = """
-- One row for each finished item of a loop over ctx.each. Removed with the task's content.
create table joblane.task_items (
    -- Id of the task.
    task_id text collate "C" not null,
    -- Key of the item, 1 to 2,000 bytes.
    key text collate "C" not null,
    -- Time at which its work was committed.
    done_at timestamptz not null default clock_timestamp(),
    primary key (task_id, key)
)
"""

CURSORS = """
-- Position of a loop over ctx.resume, committed with the work up to it.
create table joblane.task_cursors (
    -- Id of the task.
    task_id text collate "C" primary key,
    -- Cursor of the last item whose work is committed.
    cursor jsonb not null,
    -- Number of items up to the cursor.
    done bigint not null,
    -- Time at which the cursor last moved.
    at timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

STEPS = """
-- One row for each step of ctx.step that is done. It is committed with the step's work, and removed with the task's
-- content.
create table joblane.task_steps (
    -- Id of the task.
    task_id text collate "C" not null,
    -- Name of the step, 1 to 100 characters.
    name text collate "C" not null,
    -- Value of the step, at most 64 KiB. It is json, because jsonb would change numbers such as 1e20.
    value json not null,
    -- Time at which it was committed.
    created_at timestamptz not null default clock_timestamp(),
    primary key (task_id, name)
)
"""

WAITS = """
-- One row for each wait at which a run of a task has stopped. Only runs write it. Removed with the task's content.
create table joblane.task_waits (
    -- Id of the task.
    task_id text collate "C" not null,
    -- Name of the wait, 1 to 100 characters.
    name text collate "C" not null,
    -- Name of the signal for which it waits. Null: a sleep, a poll, or a wait for children.
    signal text collate "C",
    -- Time at which the wait ends. The first stop sets it. Null: it waits for children.
    until timestamptz,
    -- Number of the run that stopped here last. The wait is open while this is the last run of the task.
    run integer not null,
    -- Time at which a run saw that the wait has expired. Null: it has not.
    expired_at timestamptz,
    -- Time of the first stop.
    created_at timestamptz not null default clock_timestamp(),
    -- Ids of the children for which it waits, in the order of their results. Null: it waits for none.
    children text[],
    primary key (task_id, name)
) with (fillfactor = 50)
"""

SIGNALS = """
-- First signal of each name that was sent to a task. Removed with the task's content.
create table joblane.task_signals (
    -- Id of the task.
    task_id text collate "C" not null,
    -- Name of the signal, 1 to 100 printable ASCII characters.
    name text collate "C" not null,
    -- Value of the signal, at most 64 KiB. It is json, because jsonb would change numbers such as 1e20.
    value json not null,
    -- Operator who sent it. Null: a program did.
    sent_by text,
    -- Time at which it was sent.
    created_at timestamptz not null default clock_timestamp(),
    -- True: if the task waits for it, it runs. False: the sweep makes sure of it.
    heard boolean not null default false,
    primary key (task_id, name)
)
"""

PROGRESS = """
-- Progress that a run reports. A table of its own, because the run's transaction locks the task's row.
create table joblane.task_progress (
    -- Id of the task.
    task_id text collate "C" primary key,
    -- Items that are done.
    done bigint not null,
    -- All items. Null: the handler gave no total.
    total bigint,
    -- Note for operators, 200 characters at most. Null: none.
    note text,
    -- Time of the report.
    at timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

PARENTS = """
-- One row for each task for which another one waits, and for the seal of the batch for which a callback waits. It is
-- deleted when the parent lets its child go, or when the batch is sealed.
create table joblane.task_parents (
    -- Id of the task that waits.
    child text collate "C" not null,
    -- Id of the task for which it waits. Empty: it waits for a batch.
    parent text collate "C" not null default '',
    -- What the child does if the parent is archived: hold, cancel or run. If it is cancelled, the first two cancel it.
    on_parent_dead text not null check (on_parent_dead in ('hold', 'cancel', 'run')),
    -- Id of the batch for whose seal it waits. Empty: it waits for a task.
    parent_batch text collate "C" not null default '' check ((parent_batch = '') <> (parent = '')),
    primary key (child, parent, parent_batch)
)
"""

CHILDREN = """
-- One row for each task that waited for another one, or that a run of it has enqueued. For what operators see.
create table joblane.task_children (
    -- Id of the task that ended before, or whose run enqueued the child. The row is deleted with it.
    parent text collate "C" not null,
    -- Id of the child.
    child text collate "C" not null,
    primary key (parent, child)
)
"""

# A wrong value here would stop the Inspector or the sweep. These tables are not on the path of a message.
FIRST, LAST = "timestamptz '1973-01-01 UTC'", "timestamptz '9999-12-30 UTC'"
"""Times that pg8000 can read in every zone."""

RUN_STATISTICS = f"""
-- Runs by type and queue, for each minute, hour and day, and by tenant, for each hour and day. The sweep writes the
-- rows. It removes days after 180 days, and the others after 30. A time without runs has no row.
create table joblane.run_statistics (
    -- Kind of the name: type or tenant.
    kind text not null check (kind in ('type', 'tenant')),
    -- Type of the tasks, or tenant: empty for tasks without a tenant, * for all tenants without a row in this time.
    name text collate "C" not null,
    -- Queue of the tasks. Empty for a tenant.
    queue text not null,
    -- Length of the period: 60, 3600 or 86400, a day in UTC.
    seconds integer not null check (seconds in (60, 3600, 86400)),
    -- Begin of the period in which the runs ended.
    at timestamptz not null check (at between {FIRST} and {LAST}),
    -- Runs that completed.
    completed integer not null,
    -- Runs that failed or timed out, and whose task is retried.
    failed integer not null,
    -- Runs after which the task was archived.
    archived integer not null,
    -- Runs that were lost.
    lost integer not null,
    -- Runs with another outcome, for example snoozed or cancelled.
    others integer not null,
    -- Estimated cost in US dollars.
    cost_usd double precision not null,
    -- Waits from the due time to the claim, as pairs of a bucket and a number. Bucket 0 has the waits of 0 ms, bucket n
    -- those of 2 ^ ((n - 1) / 4) up to 2 ^ (n / 4) ms.
    waits integer[] not null,
    -- Durations of the handlers and their commits, as pairs like those of waits.
    durations integer[] not null,
    -- Sum of the waits, in milliseconds.
    wait_ms bigint not null default 0,
    -- Sum of the durations, in milliseconds.
    duration_ms bigint not null default 0,
    -- Longest duration, in milliseconds. Null: none is known.
    longest_ms integer,
    primary key (kind, name, seconds, at, queue)
)
"""

RUN_STATISTICS_UNTIL = f"""
-- Time up to which the sweep has added up the runs. One row.
create table joblane.run_statistics_until (
    -- End of the last minute. Null: none yet.
    until timestamptz check (until between {FIRST} and {LAST}),
    -- Always true, so that the table has only one row.
    only_row boolean primary key default true check (only_row)
)
"""

PAUSES = f"""
-- One row for each pause.
create table joblane.pauses (
    -- Kind of thing that is paused: type, queue or tenant.
    scope text not null check (scope in ('type', 'queue', 'tenant')),
    -- Name of the type, queue or tenant.
    name text not null,
    -- Reason that the operator gave. Null: none.
    reason text,
    -- Time at which the pause began.
    since timestamptz not null default clock_timestamp() check (since between {FIRST} and {LAST}),
    -- Time at which it ends by itself. Null: until it is resumed.
    until timestamptz check (until between {FIRST} and {LAST}),
    -- Operator who paused it. Null: not known.
    paused_by text,
    primary key (scope, name)
)
"""

BATCHES = f"""
-- One row for each batch. Its members have the tag batch: and its id.
create table joblane.batches (
    -- Id.
    id text collate "C" primary key,
    -- Time at which it was made.
    created_at timestamptz not null default clock_timestamp() check (created_at between {FIRST} and {LAST}),
    -- Time from which only its own members add members. Null: it is not sealed yet.
    sealed_at timestamptz check (sealed_at between {FIRST} and {LAST}),
    -- Id of the callback that runs once all members have ended. Null: none.
    on_end text collate "C",
    -- Id of the callback that runs once all members have completed. Null: none.
    on_success text collate "C"
)
"""

AUDIT = f"""
-- One row for each action of an operator, written in the transaction of the action.
create table joblane.audit (
    -- Number of the entry, ascending.
    number bigint generated always as identity primary key,
    -- Time of the action.
    at timestamptz not null default clock_timestamp() check (at between {FIRST} and {LAST}),
    -- Operator: the ARN that IAM verified, or the user of the machine that ran the command.
    who text not null,
    -- Name of the Inspector's operation.
    action text not null,
    -- Id of the task, or the name of the type, queue, tenant or schedule.
    target text collate "C" not null,
    -- Reason that the operator gave, 500 characters at most. Null: none.
    reason text,
    -- Id of the bulk action or redrive that acted on the task. Null: an action of its own.
    bulk text collate "C",
    -- Further facts: states, names and numbers, never a payload value.
    details jsonb not null default '{{}}' check (jsonb_typeof(details) = 'object')
)
"""

CAUSES = f"""
-- One row for each cause of failures: an error of a type. The sweep writes it, and keeps it for 180 days after the last
-- failure, longer than the runs.
create table joblane.causes (
    -- Fingerprint of the error.
    fingerprint text collate "C" not null,
    -- Type of the tasks.
    type text collate "C" not null,
    -- Class of the error.
    error_type text not null,
    -- First line of the message without ids and numbers, 300 characters at most. Empty: its tasks were deleted.
    message text not null,
    -- Time at which the first failed run started.
    first_at timestamptz not null check (first_at between {FIRST} and {LAST}),
    -- Version that was deployed then. Null: not known.
    first_version text,
    -- Time at which the last failed run started, within an hour.
    last_at timestamptz not null check (last_at between {FIRST} and {LAST}),
    -- Version that was deployed then. Null: not known.
    last_version text,
    -- Time since which the cause is new: of the first failed run, or of the first one after it was resolved.
    since timestamptz not null check (since between {FIRST} and {LAST}),
    -- Mark of an operator: known, resolved or ignored. Null: none.
    mark text check (mark in ('known', 'resolved', 'ignored')),
    -- Time of the mark. Null: there is none.
    marked_at timestamptz check (marked_at between {FIRST} and {LAST}),
    -- Operator, as in joblane.audit. Null: there is no mark.
    marked_by text,
    -- Note for other operators, 500 characters at most. Null: there is no mark.
    note text,
    primary key (fingerprint, type)
) with (fillfactor = 80)
"""

DEPLOYS = f"""
-- One row for each deploy that changed the version, written by the migration of the deploy. The latest 1,000 are kept.
create table joblane.deploys (
    -- Number of the deploy, ascending.
    number bigint generated always as identity primary key,
    -- Time of the migration.
    at timestamptz not null default clock_timestamp() check (at between {FIRST} and {LAST}),
    -- Version: that of the stage's settings, or the commit.
    version text not null,
    -- Person who deployed. Null: not known.
    deployed_by text,
    -- Time at which functions with this version ran. Null: the deploy has not ended, or has failed.
    done_at timestamptz check (done_at between {FIRST} and {LAST})
)
"""

BULKS = """
-- One row for each bulk action. A task of type jobs:bulk with the same id does its work.
create table joblane.bulks (
    -- Id of the bulk action and of its task.
    id text collate "C" primary key,
    -- run, retry, archive, delete, cancel or redrive.
    action text not null,
    -- Filter of the Inspector that selects the tasks.
    filter jsonb not null,
    -- Operator who started it.
    who text not null,
    -- Reason that the operator gave. Null: none.
    reason text,
    -- Tasks per second, 500 at most.
    rate integer not null,
    -- Number of tasks that run before the rest. 0: no canary.
    canary integer not null,
    -- Ids of the canary's tasks. The other tasks follow only if all of these complete.
    canary_ids text[] not null default '{}',
    -- Time by which the canary's tasks have to complete. Null: no canary runs.
    canary_until timestamptz,
    -- Tasks that matched when it was started.
    total integer not null,
    -- Tasks for which the action is done.
    done integer not null default 0,
    -- Tasks that had changed and were left unchanged.
    skipped integer not null default 0,
    -- Tasks for which the action failed.
    failed integer not null default 0,
    -- Reason why the action ended early. Null: it did not end early.
    stopped text,
    -- Time at which it was started.
    started_at timestamptz not null default clock_timestamp()
)
"""

# The rows are few and short-lived: the workers delete what they have sent.
EVENTS = f"""
-- One row for each event that is not sent yet: the end of a task whose type declares events.
create table joblane.events (
    -- Id of the event: id of the task, number of its redrives, and kind, with colons.
    id text collate "C" primary key,
    -- Time at which the event was written. The sweep sends the oldest first.
    created_at timestamptz not null default clock_timestamp() check (created_at between {FIRST} and {LAST}),
    -- Fields of the event, as other systems get them.
    detail json not null check (json_typeof(detail) = 'object')
) with (autovacuum_vacuum_scale_factor = 0.02)
"""

TYPES = """
-- One row for each declared type, for enqueues by SQL. joblane migrate writes the rows.
create table joblane.task_types (
    -- Type.
    type text collate "C" primary key,
    -- Queues in which it has a lane, the home queue first.
    queues text[] not null,
    -- Attempts after the first.
    max_retry integer not null,
    -- Seconds for which payload and result are kept after the end.
    retention_seconds bigint not null,
    -- Longest time for which a task holds its unique key, in seconds. Null: no key.
    unique_seconds float8,
    -- When the key is released: finish or start.
    unique_until text not null,
    -- Kinds of events that it declares. Null: none.
    events text[],
    -- Columns of the task of its on_archived. Null: it declares none.
    on_archived jsonb,
    -- JSON Schema of the payload.
    schema jsonb not null,
    -- Check of a payload, see joblane/record/payload_description.py. It refuses only what a worker refuses.
    payload_check jsonb not null,
    -- Limits of its tasks: parts of the key, names of the total and of the shared limit, and whether the tasks of a key
    -- have an order. Null: none.
    flow jsonb
)
"""

STAGE = f"""
-- The stage and the project of this schema. One row, written by the first joblane migrate.
create table joblane.stage (
    -- Prefix of the stage.
    prefix text not null,
    -- Name of the project in pyproject.toml. Null: none.
    project text,
    -- Time of the sweep whose message is in the lane of jobs:sweep. Null: the sweep has planned none yet.
    planned_sweep_at timestamptz check (planned_sweep_at between {FIRST} and {LAST}),
    -- Always true, so that the table has only one row.
    only_row boolean primary key default true check (only_row)
)
"""

SCHEDULES = f"""
-- One row for each schedule. joblane migrate writes the schedules of the code, whose ticks EventBridge Scheduler sends.
-- Programs write the others, and the sweep makes the tasks of their ticks.
create table joblane.schedules (
    -- Name: 1 to 128 printable ASCII characters without spaces, unique in the stage. Of the code: type, colon, name.
    name text collate "C" primary key check (name ~ '^[!-~]{{1,128}}$'),
    -- Where it was made: code or run_time.
    origin text not null default 'run_time' check (origin in ('code', 'run_time')),
    -- Type of its tasks.
    type text collate "C" not null check (type ~ '^[a-z0-9_]+:[a-z0-9_]+$'),
    -- Payload of each task.
    payload jsonb not null check (jsonb_typeof(payload) = 'object'),
    -- Digest of the payload's schema in the code that put the schedule.
    schema text,
    -- Tenant of its tasks. Null: none.
    tenant text collate "C" check (tenant ~ '^[!-~]{{1,128}}$'),
    -- Enqueue options of its tasks, by their names; durations in seconds.
    options jsonb not null default '{{}}' check (jsonb_typeof(options) = 'object'),
    -- Times at which it fires: five fields of Unix cron.
    expression text not null,
    -- Time zone of the times: a name of the IANA database.
    timezone text not null,
    -- Policy for ticks that were missed: latest (the newest of them runs late) or skip (none runs).
    missed text not null default 'latest' check (missed in ('latest', 'skip')),
    -- Ticks of an average day.
    ticks_a_day float8 not null check (ticks_a_day >= 0),
    -- Number of the last change of what its tasks are. It is part of the ids of ticks of a schedule made at run time.
    revision bigint not null,
    -- Time since which it is paused. Null: it is not paused.
    paused_at timestamptz check (paused_at between {FIRST} and {LAST}),
    -- Time at which the pause ends by itself. Null: none, or it is not paused.
    paused_until timestamptz check (paused_until between {FIRST} and {LAST}),
    -- Operator who paused it. Null: a program did, or it is not paused.
    paused_by text,
    -- Reason that the operator gave. Null: none.
    pause_reason text,
    -- Of a schedule made at run time: time of the next tick that has no task yet. Of one of the code: time from which
    -- the sweep has not looked for missed ticks yet. Of a schedule paused without an end it has no meaning.
    next_at timestamptz not null check (next_at between {FIRST} and {LAST}),
    -- Of a schedule of the code: time of the first tick at these times that the sweep looks for.
    looked_for_from timestamptz check (looked_for_from between {FIRST} and {LAST}),
    -- Of a schedule of the code: ticks up to this time that have no task run no more. Null: each runs.
    passed_until timestamptz check (passed_until between {FIRST} and {LAST}),
    -- Time of the last tick that the sweep gave a task, at most 15 minutes ahead. Null: none yet.
    last_at timestamptz check (last_at between {FIRST} and {LAST}),
    -- Id of the task of this tick. Null: none yet.
    last_task text collate "C",
    -- Why the last tick got no task, or why there are no ticks. It has no payload value. Null: there is no problem.
    problem text,
    -- Time at which it was first put.
    created_at timestamptz not null default clock_timestamp() check (created_at between {FIRST} and {LAST}),
    -- Time at which it was last changed, paused or resumed.
    updated_at timestamptz not null default clock_timestamp() check (updated_at between {FIRST} and {LAST})
) with (fillfactor = 80)
"""

LIMITS = """
-- Declared limits. joblane migrate writes the rows. A limit without a row lets every task pass.
create table joblane.limits (
    -- Name: a type with a slash for each of its keys, a type for all its tasks, or the name of a shared limit.
    name text collate "C" primary key,
    -- Tasks at a time. Null: any number.
    slots integer check (slots >= 0),
    -- Time between two starts. Null: no rate.
    step interval check (step > interval '0'),
    -- Starts that are saved up while nothing starts. Null: no rate.
    burst integer check (burst >= 1)
)
"""

LIMIT_CHANGES = """
-- Limits that operators have changed. What is null here is as declared.
create table joblane.limit_changes (
    -- Name of the limit, as in joblane.limits, or the limit of one key: the type, a slash and the key.
    name text collate "C" primary key,
    -- Tasks at a time. 0: none starts.
    slots integer check (slots >= 0),
    -- Time between two starts.
    step interval check (step > interval '0'),
    -- Starts that are saved up while nothing starts.
    burst integer check (burst >= 1),
    -- Reason that was given.
    reason text,
    -- Who changed it.
    changed_by text,
    -- Time of the change.
    since timestamptz not null default clock_timestamp(),
    -- Time until which the change holds. Null: until it is reset.
    until timestamptz
)
"""

RATES = """
-- One row for each limit with a rate that has started a task, or that a handler has delayed.
create table joblane.rates (
    -- Name of the limit. Each key has its own.
    name text collate "C" primary key,
    -- Time of the next start, if none was saved up.
    next_at timestamptz not null,
    -- Time until which a handler has delayed the limit by RateLimited. Null: none has.
    delayed_until timestamptz,
    -- Time between two starts by which the times up to next_at were given. Null: none was given by a rate.
    step interval,
    -- Starts that were saved up then.
    burst integer
) with (fillfactor = 50)
"""

FUNCTIONS = """
-- One row for each version of the library's functions. joblane migrate writes the rows.
create table joblane.functions (
    -- Version: a digest of the functions' text.
    version text collate "C" primary key,
    -- Time at which the code with this version was last migrated. The functions of the two latest versions are kept.
    migrated_at timestamptz not null default clock_timestamp()
)
"""

# No key, included column or predicate of an index names a column that an ordinary claim changes, so that the claim is a
# heap-only update: it writes no index. PostgreSQL compares the columns of predicates as well.
INDEXES = (
    # Live tasks: for the sweep, the listings of live tasks, and the counts of an overview. The enqueue writes it.
    "create index tasks_live on joblane.tasks (created_at, id) where finished_at is null",
    # Ended tasks. A listing of all tasks merges this index and the one above. The finish writes this index and the
    # next. Their predicates differ, so that a listing by type does not use this one, which has the tasks of all types.
    "create index tasks_ended on joblane.tasks (created_at, id) where finished_at > '-infinity'",
    # Listings by type. Without it a listing of a type that has no tasks would walk through the whole table.
    "create index tasks_type_ended on joblane.tasks (type, created_at, id) where finished_at is not null",
    # A live task holds its key; the end of a task releases it.
    (
        "create unique index tasks_unique on joblane.tasks (unique_key)"
        " where unique_key is not null and finished_at is null"
    ),
    # Dead letters that the sweep has to send.
    "create index tasks_unsent on joblane.tasks (finished_at, id) where dead_letter_unsent",
    # Archived tasks: few, and those that operators list most often. No predicate may name `state`. They are grouped by
    # their error without a look at the table, in which each lies on a page of its own.
    (
        "create index tasks_archived on joblane.tasks (created_at, id)"
        " include (fingerprint, type, tenant, finished_at)"
        " where dead_sent_at is not null or dead_letter_unsent"
    ),
    # Archived and cancelled tasks, which a retry of many tasks looks for. The check of the table requires the reason.
    (
        "create index tasks_unsuccessful on joblane.tasks (created_at, id)"
        " where reason is not null and finished_at is not null"
    ),
    "create index tasks_expire on joblane.tasks (expire_at) where expire_at is not null",
    # The others have few rows each.
    "create index tasks_tenant on joblane.tasks (tenant, created_at desc, id desc) where tenant is not null",
    "create index tasks_tags on joblane.tasks using gin (tags) where tags <> '{}'",
    "create index tasks_failed on joblane.tasks (created_at desc, id desc) where error_type is not null",
    (
        "create index tasks_cause on joblane.tasks (fingerprint, created_at desc, id desc)"
        " include (type, tenant, finished_at) where fingerprint is not null"
    ),
    # Limits: who has a slot of a key, and all tasks of a key with an order; who has a slot of a total or a shared
    # limit; who waits. A task without a limit has no entry, but each index, and each condition of it, costs every task.
    (
        "create index tasks_key_limit on joblane.tasks (key_limit, passed, first_due_at, seq)"
        " where passed is not null or ordered and expire_at is null"
    ),
    (
        "create index tasks_total_limit on joblane.tasks (total_limit)"
        " where passed in ('type_slot', 'type_time', 'shared_slot', 'all')"
    ),
    "create index tasks_shared_limit on joblane.tasks (shared_limit) where passed in ('shared_slot', 'all')",
    "create index tasks_waits on joblane.tasks (waits_for, place, seq) where wait_kind is not null",
    (
        "create index tasks_waits_tenant on joblane.tasks (waits_for, coalesce(tenant, ''), place)"
        " where waits_for is not null"
    ),
    # Runs lie on disk in the order in which they began, so the latest are found by a range of pages.
    (
        "create index task_attempts_started on joblane.task_attempts"
        " using brin (started_at) with (pages_per_range = 16, autosummarize = on)"
    ),
    # Failed runs, which are grouped by their error without a look at the table. A run that completes has no entry, and
    # its end changes none of these columns.
    (
        "create index task_attempts_failed on joblane.task_attempts (started_at)"
        " include (fingerprint, type, tenant, task_id) where fingerprint is not null"
    ),
    # The version that was deployed at a time.
    "create index deploys_at on joblane.deploys (at, number)",
    # Causes that the sweep removes, and the latest one that it has seen.
    "create index causes_last on joblane.causes (last_at)",
    # PostgreSQL updates an index of this kind in a heap-only update as well.
    (
        "create index tasks_started on joblane.tasks"
        " using brin (started_at) with (pages_per_range = 16, autosummarize = on) where started_at is not null"
    ),
    "create index run_statistics_at on joblane.run_statistics using brin (at) with (pages_per_range = 16)",
    "create index audit_target on joblane.audit (target, number)",
    # A bulk action has an entry for each of its tasks, which a list of actions must not walk over.
    "create index audit_actions on joblane.audit (number) where bulk is null",
    "create index audit_bulk on joblane.audit (bulk, number) where bulk is not null",
    # Open waits by their ends, for operators. Signals that the sweep has to look after: few.
    "create index task_waits_until on joblane.task_waits (until, task_id) where expired_at is null",
    "create index task_signals_unheard on joblane.task_signals (created_at, task_id) where not heard",
    "create index task_parents_parent on joblane.task_parents (parent, on_parent_dead)",
    "create index batches_created on joblane.batches (created_at, id)",
    "create index events_created on joblane.events (created_at, id)",
    # The sweep reads only the schedules that fire soon. The next tick of a pause with an end is after it.
    (
        "create index schedules_next on joblane.schedules (next_at, name)"
        " where paused_at is null or paused_until is not null"
    ),
    "create index schedules_frequent on joblane.schedules (ticks_a_day, name)",
    "create index schedules_of_code on joblane.schedules (name) where origin = 'code'",
    "create index schedules_paused on joblane.schedules (name) where paused_at is not null",
    "create index schedules_tenant on joblane.schedules (tenant, name) where tenant is not null",
    "create index schedules_type on joblane.schedules (type, name)",
    "create index schedules_problem on joblane.schedules (name) where problem is not null",
)


def upgrade() -> None:
    op.execute("create sequence joblane.tasks_seq")
    op.execute("create sequence joblane.schedules_seq")
    for table in (
        TASKS, ATTEMPTS, RUNS, RUN_STATISTICS, RUN_STATISTICS_UNTIL, ITEMS, CURSORS, STEPS, WAITS, SIGNALS, PROGRESS,
        PARENTS, CHILDREN, BATCHES, PAUSES, AUDIT, CAUSES, DEPLOYS, BULKS, EVENTS, TYPES, STAGE, SCHEDULES,
        LIMITS, LIMIT_CHANGES, RATES, FUNCTIONS,
    ):  # fmt: skip
        for statement in statements(table):
            op.execute(statement)
    op.execute("insert into joblane.run_statistics_until default values")
    for statement in (
        *INDEXES,
        _text("check_task"),
        _text("checks"),
        CHECKED,
        _text("canonical"),
        _text("payload_problem"),
        _text("enqueue"),
        _text("signal"),
        _text("event"),
        _text("add_event"),
        _text("task_ended"),
        ENDED,
    ):
        op.execute(statement)


def _text(function: str) -> str:
    """Return the statement that creates a function, from its file."""
    return (Path(__file__).parent / f"{revision}_{function}.sql").read_text("utf-8")
