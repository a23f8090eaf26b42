-- The rules are those of JobClient.enqueue. The sweep sends the message, unless the caller sends it after the commit.
create function joblane.enqueue(
    type text, payload jsonb default '{}', queue text default null, tenant text default null,
    task_id text default null, process_in interval default null, process_at timestamptz default null,
    unique_key text default null, unique_for interval default null, max_retry integer default null,
    deadline timestamptz default null, tags text[] default '{}', headers jsonb default '{}',
    key text default null, after text[] default null, on_parent_dead text default 'hold'
) returns table (id text, created boolean) language plpgsql
set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    known joblane.task_types%rowtype;
    due timestamptz := coalesce(process_at, clock_timestamp() + coalesce(process_in, interval '0'));
    digest text := left(encode(sha256(convert_to(joblane.canonical(payload), 'UTF8')), 'hex'), 32);
    defaults jsonb;
    lasts float8;
    wanted text;
    part text;
    value jsonb;
    limits text[];
    waits boolean;
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
    part := joblane.payload_problem(known.payload_check -> 'check', payload, known.payload_check -> 'defs');
    if part is not null then
        raise exception 'payload: %', part using errcode = '22023', hint = known.payload_check ->> 'hint';
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
    if task_id ~ '^([a-z0-9_]+:[a-z0-9_]+:[a-z0-9-]+:\d{4}-\d\d-\d\dT\d\d:\d\dZ|@.+:\d{4}-\d\d-\d\dT\d\d:\d\dZ:\d+)$'
    then
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
    if (lasts is not null and unique_key is null) or known.flow is not null then
        -- Keys are made of the payload with its defaults, as a client writes it.
        select coalesce(jsonb_object_agg(name, field -> 'default'), '{}') into defaults
          from jsonb_each(coalesce(known.schema -> 'properties', '{}')) as p(name, field) where field ? 'default';
    end if;
    if lasts is not null and unique_key is null then
        unique_key := left(encode(sha256(convert_to(queue || ' ' || left(encode(sha256(convert_to(
                          joblane.canonical(defaults || payload), 'UTF8')), 'hex'), 32), 'UTF8')), 'hex'), 32);
    end if;
    wanted := case when lasts is not null then type || ' ' || unique_key end;
    if key is not null and jsonb_array_length(coalesce(known.flow -> 'key', '[]')) = 0 then
        raise exception 'key: % declares no key', type using errcode = '22023';
    end if;
    if key is null then
        for part in select * from jsonb_array_elements_text(known.flow -> 'key') loop
            value := case when part = 'tenant' then to_jsonb(tenant)
                          else (defaults || payload) #> string_to_array(part, '.') end;
            if coalesce(jsonb_typeof(value), 'null') = 'null' then
                key := null;
                exit;
            end if;
            if jsonb_typeof(value) not in ('string', 'number', 'boolean')
               or (jsonb_typeof(value) = 'number' and strpos(value::text, '.') > 0) then
                raise exception 'key: %: a string, an integer or a boolean is required', part using errcode = '22023';
            end if;
            key := concat_ws(' ', key, value #>> '{}');
        end loop;
    end if;
    if key !~ '^[ -~]{1,200}$' then
        raise exception 'key: 1 to 200 printable ASCII characters are required' using errcode = '22023';
    end if;
    limits := array[type || '/' || key, known.flow ->> 'total', known.flow ->> 'shared'];
    if array_remove(limits, null) = '{}' then
        limits := null;
    end if;
    task_id := coalesce(task_id, gen_random_uuid()::text);
    if on_parent_dead is null or on_parent_dead not in ('hold', 'cancel', 'run') then
        raise exception 'on_parent_dead: hold, cancel or run is required' using errcode = '22023';
    end if;
    if array_position(after, null) is not null then
        raise exception 'after: null is not an id' using errcode = '22023';
    end if;
    after := array(select distinct p from unnest(after) as p);
    waits := cardinality(after) > 0;
    if not waits and on_parent_dead <> 'hold' then
        raise exception 'on_parent_dead: give after too' using errcode = '22023';
    end if;
    if cardinality(after) > 1000 then
        raise exception 'after: at most 1,000 parents' using errcode = '22023';
    end if;
    select p into part from unnest(after) as p
     where (select true from joblane.tasks t where t.id = p) is null limit 1;
    if part is not null then
        raise exception 'after: there is no task %', quote_literal(part) using errcode = '22023';
    end if;
    if (waits or due > clock_timestamp()) and headers ? 'traceparent' and coalesce(headers ->> 'tracestate', '') !~ 'joblane='
       and (select count(*) from jsonb_object_keys(headers)) < 32 then
        -- Its first run is no child of the caller's span, as with the client.
        part := concat_ws(',', 'joblane=later', headers ->> 'tracestate');
        headers := headers || jsonb_build_object(
            'tracestate', case when length(part) > 1000 then 'joblane=later' else part end);
    end if;
    for round in 1..5 loop
        update joblane.tasks t set unique_key = null
         where t.unique_key = wanted and t.finished_at is null
           and (t.unique_expires_at <= clock_timestamp()
                or t.state not in ('scheduled', 'pending', 'held', 'active', 'retry'));  -- ended by hand
        insert into joblane.tasks as t (id, type, queue, tenant, tags, state, payload, payload_digest, headers,
                                max_attempts, retention_seconds, deadline, unique_key, unique_until, unique_expires_at,
                                due_at, sweep_at, key_limit, total_limit, shared_limit, ordered, first_due_at, seq,
                                wait_kind, after, on_parent_dead, events, on_archived)
        values (task_id, type, queue, tenant, tags,
                case when due > clock_timestamp() then 'scheduled' when waits then 'held' else 'pending' end,
                payload, digest, headers,
                coalesce(max_retry, known.max_retry) + 1,
                known.retention_seconds, deadline, wanted, known.unique_until,
                clock_timestamp() + make_interval(secs => lasts), due, due - interval '15 min',
                limits[1], limits[2], limits[3],
                case when limits[1] is not null then nullif((known.flow ->> 'ordered')::boolean, false) end,
                case when limits is not null and not waits then due end,
                case when limits is not null then nextval('joblane.tasks_seq') end,
                case when waits then 'parents' end, case when waits then after end,
                case when waits then on_parent_dead end, known.events, known.on_archived)
        on conflict do nothing;
        if found then
            insert into joblane.task_parents (child, parent, on_parent_dead)
            select task_id, t.id, enqueue.on_parent_dead from joblane.tasks t
             where t.id = any(after) and t.state <> 'completed'
            on conflict do nothing;
            insert into joblane.task_children (parent, child) select p, task_id from unnest(after) as p
            on conflict do nothing;
            return query select task_id, true;
            return;
        end if;
        return query select t.id, false from joblane.tasks t
                      where t.id = task_id
                         or (t.unique_key = wanted and t.finished_at is null)
                      order by (t.id = task_id) desc limit 1;
        if found then
            return;
        end if;
    end loop;
    raise exception 'unique_key: its holder is changing; enqueue it again' using errcode = '40001';
end
$$
