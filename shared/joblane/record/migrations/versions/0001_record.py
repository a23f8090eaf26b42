"""The record of tasks: a row per task, per run, per finished item; cursors, progress, pauses, and what operators do."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# `sweep_at` is when the sweep must look at a row if nothing happens before: send its message, send it again, or finish
# its dead letter. Null means never. It carries the only index that is written on every change of state.
#
# A time that never comes cannot be waited for, in a message or by the sweep. `fingerprint` is that of the last error;
# `replay_of` the task that this one was made from by an operator.
#
# Rows are updated twice or more in their life, hence the room on each page and the early vacuum.
#
# `unique_key` is held while the task is live, by the index alone: whatever ends a task frees its key.
TASKS = """
create table joblane.tasks (
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
    max_attempts   integer not null check (max_attempts > 0),
    snoozes        integer not null default 0,
    continuations  integer not null default 0,
    used_ms        bigint not null default 0,
    generation     integer not null default 0,

    batch_size     smallint not null default 0,
    claim_alone    boolean not null default false,
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
    error_message  text,
    fingerprint    text,
    replay_of      text collate "C",

    constraint tasks_times_finite check (isfinite(due_at) and isfinite(deadline))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)
"""

# Type, queue and tenant stand here as well, so that what ran in the last hour is read without a look at each task.
ATTEMPTS = """
create table joblane.task_attempts (
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
    type        text,
    queue       text,
    tenant      text,
    wait_ms     bigint,
    billed_ms   integer,
    memory_mb   integer,
    cost_usd    double precision,
    primary key (task_id, run)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
"""

ITEMS = """
create table joblane.task_items (
    task_id text collate "C" not null,
    key     text collate "C" not null,
    done_at timestamptz not null default clock_timestamp(),
    primary key (task_id, key)
)
"""

# Where a resumable task goes on: committed with the work up to there.
CURSORS = """
create table joblane.task_cursors (
    task_id text collate "C" primary key,
    cursor  jsonb not null,
    done    bigint not null,
    at      timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

# What a run tells of itself while its own transaction is open, hence apart from its row.
PROGRESS = """
create table joblane.task_progress (
    task_id text collate "C" primary key,
    done    bigint not null,
    total   bigint,
    note    text,
    at      timestamptz not null default clock_timestamp()
) with (fillfactor = 50)
"""

PAUSES = """
create table joblane.pauses (
    scope  text not null check (scope in ('type', 'queue', 'tenant', 'schedule')),
    name   text not null,
    reason text,
    since  timestamptz not null default clock_timestamp(),
    until  timestamptz,
    paused_by text,
    primary key (scope, name)
)
"""

AUDIT = """
create table joblane.audit (
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
create table joblane.bulks (
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

# Written by `joblane migrate` from the declarations.
TYPES = """
create table joblane.task_types (
    type              text collate "C" primary key,
    queues            text[] not null,
    max_retry         integer not null,
    retention_seconds bigint not null,
    unique_seconds    float8,
    unique_until      text not null,
    options           jsonb not null,
    schema            jsonb not null
)
"""

# The stage that this schema serves, and the project: the one row is written by its first `joblane migrate`.
STAGE = """
create table joblane.stage (
    prefix   text not null,
    project  text,
    only_row boolean primary key default true check (only_row)
)
"""

# Until when the sweep has looked for ticks that did not come.
SCHEDULES = """
create table joblane.schedules (
    type          text collate "C" not null,
    name          text collate "C" not null,
    checked_until timestamptz not null,
    primary key (type, name)
)
"""

# A listing is read newest first, by an index whose first column has one value; one of all tasks puts three queues
# together. An index costs a write for each state that a row in it goes through: those after the second hold few rows,
# or leave out the completed ones, which are most. What an overview counts stands in the index by state itself.
INDEXES = (
    "create index tasks_sweep on joblane.tasks (sweep_at) where sweep_at is not null",
    (
        "create unique index tasks_unique on joblane.tasks (unique_key)"
        " where unique_key is not null and state in ('scheduled', 'pending', 'active', 'retry')"
    ),
    "create index tasks_expire on joblane.tasks (expire_at) where expire_at is not null",
    "create index tasks_queue on joblane.tasks (queue, created_at desc, id desc)",
    "create index tasks_type on joblane.tasks (type, created_at desc, id desc)",
    (
        "create index tasks_state on joblane.tasks (state, created_at desc, id desc)"
        " include (type, queue, due_at) where state <> 'completed'"
    ),
    "create index tasks_tenant on joblane.tasks (tenant, created_at desc, id desc) where tenant is not null",
    "create index tasks_tags on joblane.tasks using gin (tags) where tags <> '{}'",
    "create index tasks_failed on joblane.tasks (created_at desc, id desc) where error_type is not null",
    ("create index tasks_cause on joblane.tasks (fingerprint, created_at desc, id desc) where fingerprint is not null"),
    "create index tasks_replays on joblane.tasks (replay_of) where replay_of is not null",
    "create index task_attempts_started on joblane.task_attempts (started_at)",
    "create index audit_target on joblane.audit (target, number)",
)

# JSON as the library writes it for a digest: keys in order, no spaces. JSON's own numbers have no bound, and a float of
# 64 bits ends here: stricter than a client, which takes long integers.
CANONICAL = r"""
create function joblane.canonical(value jsonb) returns text language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(value) = 'number' and abs(value::numeric) > 1.7976931348623157e308 then
    raise exception 'payload: a number is too large' using errcode = '22023';
  end if;
  return case jsonb_typeof(value)
         when 'object' then '{' || coalesce((
              select string_agg(to_json(key)::text || ':' || joblane.canonical(item), ',' order by key collate "C")
                from jsonb_each(value) as e(key, item)), '') || '}'
         when 'array' then '[' || coalesce((
              select string_agg(joblane.canonical(item), ',' order by position)
                from jsonb_array_elements(value) with ordinality as e(item, position)), '') || ']'
         else value::text end;
end
$$
"""

# The rules are those of JobClient.enqueue. A message is left to the sweep, unless the caller sends it after the commit.
ENQUEUE = r"""
create function joblane.enqueue(
    type text, payload jsonb default '{}', queue text default null, tenant text default null,
    task_id text default null, process_in interval default null, process_at timestamptz default null,
    unique_key text default null, unique_for interval default null, max_retry integer default null,
    deadline timestamptz default null, tags text[] default '{}', headers jsonb default '{}'
) returns table (id text, created boolean) language plpgsql as $$
#variable_conflict use_variable
declare
    known joblane.task_types%rowtype;
    due timestamptz := coalesce(process_at, clock_timestamp() + coalesce(process_in, interval '0'));
    digest text := left(encode(sha256(convert_to(joblane.canonical(payload), 'UTF8')), 'hex'), 32);
    defaults jsonb;
    lasts float8;
    wanted text;
begin
    select t.* into known from joblane.task_types t where t.type = enqueue.type;
    if not found then
        raise exception 'type: there is no task %', quote_nullable(type) using errcode = '22023',
            hint = 'It is written by `joblane migrate` of the code that declares it.';
    end if;
    queue := coalesce(queue, known.queues[1]);
    if not queue = any(known.queues) then
        raise exception 'queue: % has no lane in %; it has one in: %', type, quote_nullable(queue),
            array_to_string(known.queues, ', ') using errcode = '22023';
    end if;
    if jsonb_typeof(payload) is distinct from 'object' then
        raise exception 'payload: a JSON object is required' using errcode = '22023';
    end if;
    if jsonb_typeof(headers) is distinct from 'object'
       or (select count(*) > 32 or bool_or(jsonb_typeof(v) <> 'string' or length(k) > 100 or length(v #>> '{}') > 1000)
             from jsonb_each(headers) as h(k, v)) then
        raise exception 'headers: an object of at most 32 strings is required' using errcode = '22023';
    end if;
    if task_id !~ '^[!-~]{1,200}$' then
        raise exception 'task_id: 1 to 200 printable ASCII characters without spaces are required'
            using errcode = '22023';
    end if;
    if task_id ~ '^[a-z0-9_]+:[a-z0-9_]+:[a-z0-9-]+:\d{4}-\d\d-\d\dT\d\d:\d\dZ$' then
        raise exception 'task_id: has the form of a tick''s id, which only the scheduler gives' using errcode = '22023';
    end if;
    if tenant !~ '^[!-~]{1,128}$' then
        raise exception 'tenant: 1 to 128 ASCII letters, digits and punctuation are required' using errcode = '22023';
    end if;
    if process_in is not null and process_at is not null then
        raise exception 'process_at: give process_in or process_at, not both' using errcode = '22023';
    end if;
    if not isfinite(process_at) or process_in < interval '0' or due > clock_timestamp() + interval '3650 days' then
        raise exception 'process_%: from now to 3650 days ahead is required',
            case when process_at is null then 'in' else 'at' end using errcode = '22023';
    end if;
    due := greatest(due, clock_timestamp() - interval '1 day');  -- a past time runs now, however far it is
    if max_retry not between 0 and known.max_retry then
        raise exception 'max_retry: 0 to %, which % declares, is required', known.max_retry, type
            using errcode = '22023';
    end if;
    if not isfinite(deadline) or deadline <= greatest(due, clock_timestamp()) then
        raise exception 'deadline: a time after the task is due is required' using errcode = '22023';
    end if;
    tags := coalesce(tags, '{}');
    if cardinality(tags) > 20
       or exists (select from unnest(tags) as one where (length(one) between 1 and 100) is not true) then
        raise exception 'tags: at most 20 strings of 1 to 100 characters are required' using errcode = '22023';
    end if;
    lasts := coalesce(extract(epoch from unique_for), known.unique_seconds);
    if not lasts between 1 and 315360000 or (lasts is null and unique_key is not null) then
        raise exception 'unique_for: an interval of 1 second to 3650 days is required' using errcode = '22023';
    end if;
    if unique_key !~ '^[ -~]{1,200}$' then
        raise exception 'unique_key: 1 to 200 printable ASCII characters are required' using errcode = '22023';
    end if;
    if lasts is not null and unique_key is null then  -- of the payload with its defaults, as a client writes it
        select coalesce(jsonb_object_agg(name, field -> 'default'), '{}') into defaults
          from jsonb_each(coalesce(known.schema -> 'properties', '{}')) as p(name, field) where field ? 'default';
        unique_key := left(encode(sha256(convert_to(queue || ' ' || left(encode(sha256(convert_to(
                          joblane.canonical(defaults || payload), 'UTF8')), 'hex'), 32), 'UTF8')), 'hex'), 32);
    end if;
    wanted := case when lasts is not null then type || ' ' || unique_key end;
    task_id := coalesce(task_id, gen_random_uuid()::text);
    for round in 1..5 loop
        update joblane.tasks t set unique_key = null
         where t.unique_key = wanted and t.state in ('scheduled', 'pending', 'active', 'retry')
           and t.unique_expires_at <= clock_timestamp();
        insert into joblane.tasks as t (id, type, queue, tenant, tags, state, payload, payload_digest, headers, options,
                                max_attempts, retention_seconds, deadline, unique_key, unique_until, unique_expires_at,
                                due_at, sweep_at)
        values (task_id, type, queue, tenant, tags,
                case when due > clock_timestamp() then 'scheduled' else 'pending' end,
                payload, digest, headers, known.options, coalesce(max_retry, known.max_retry) + 1,
                known.retention_seconds, deadline, wanted, known.unique_until,
                clock_timestamp() + make_interval(secs => lasts), due, greatest(due - interval '15 min', now()))
        on conflict do nothing;
        if found then
            return query select task_id, true;
            return;
        end if;
        return query select t.id, false from joblane.tasks t
                      where t.id = task_id
                         or (t.unique_key = wanted and t.state in ('scheduled', 'pending', 'active', 'retry'))
                      order by (t.id = task_id) desc limit 1;
        if found then
            return;
        end if;
    end loop;
    raise exception 'unique_key: it is changing hands; enqueue it again' using errcode = '40001';
end
$$
"""


def upgrade() -> None:
    for statement in (
        *(TASKS, ATTEMPTS, ITEMS, CURSORS, PROGRESS, PAUSES, AUDIT, BULKS, TYPES, STAGE, SCHEDULES),
        *INDEXES,
        *(CANONICAL, ENQUEUE),
    ):
        op.execute(statement)
