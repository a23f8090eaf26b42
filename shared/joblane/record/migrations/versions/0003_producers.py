"""What the database itself knows of the types and schedules, and how to enqueue by SQL alone."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

# A time that never comes cannot be waited for, in a message or by the sweep.
FINITE = "alter table tasks add constraint tasks_times_finite check (isfinite(due_at) and isfinite(deadline))"

# Written by `joblane migrate` from the declarations.
TYPES = """
create table task_types (
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

# Until when the sweep has looked for ticks that did not come.
SCHEDULES = """
create table schedules (
    type          text collate "C" not null,
    name          text collate "C" not null,
    checked_until timestamptz not null,
    primary key (type, name)
)
"""

# JSON as the library writes it for a digest: keys in order, no spaces.
CANONICAL = r"""
create function joblane_canonical(value jsonb) returns text language sql immutable parallel safe as $$
  select case jsonb_typeof(value)
         when 'object' then '{' || coalesce((
              select string_agg(to_json(key)::text || ':' || joblane_canonical(item), ',' order by key collate "C")
                from jsonb_each(value) as e(key, item)), '') || '}'
         when 'array' then '[' || coalesce((
              select string_agg(joblane_canonical(item), ',' order by position)
                from jsonb_array_elements(value) with ordinality as e(item, position)), '') || ']'
         else value::text end
$$
"""

# The rules are those of JobClient.enqueue. A message is left to the sweep, unless the caller sends it after the commit.
ENQUEUE = r"""
create function joblane_enqueue(
    type text, payload jsonb default '{}', queue text default null, tenant text default null,
    task_id text default null, process_in interval default null, process_at timestamptz default null,
    unique_key text default null, unique_for interval default null, max_retry integer default null,
    deadline timestamptz default null, tags text[] default '{}', headers jsonb default '{}'
) returns table (id text, created boolean) language plpgsql as $$
#variable_conflict use_variable
declare
    known task_types%rowtype;
    due timestamptz := coalesce(process_at, clock_timestamp() + coalesce(process_in, interval '0'));
    digest text := left(encode(sha256(convert_to(joblane_canonical(payload), 'UTF8')), 'hex'), 32);
    defaults jsonb;
    lasts float8;
    wanted text;
begin
    select t.* into known from task_types t where t.type = joblane_enqueue.type;
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
                          joblane_canonical(defaults || payload), 'UTF8')), 'hex'), 32), 'UTF8')), 'hex'), 32);
    end if;
    wanted := case when lasts is not null then type || ' ' || unique_key end;
    task_id := coalesce(task_id, gen_random_uuid()::text);
    for round in 1..5 loop
        update tasks t set unique_key = null
         where t.unique_key = wanted and t.state in ('scheduled', 'pending', 'active', 'retry')
           and t.unique_expires_at <= clock_timestamp();
        insert into tasks as t (id, type, queue, tenant, tags, state, payload, payload_digest, headers, options,
                                allowed, retention_seconds, deadline, unique_key, unique_until, unique_expires_at,
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
        return query select t.id, false from tasks t
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
    for statement in (FINITE, TYPES, SCHEDULES, CANONICAL, ENQUEUE):
        op.execute(statement)
