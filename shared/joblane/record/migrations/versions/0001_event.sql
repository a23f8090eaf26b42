-- The event of a task that has ended, see joblane/tasks/events.py. It is bounded, whatever the row has.
create function joblane.event(t joblane.tasks) returns json language sql stable
set search_path = pg_catalog, pg_temp as $$
    select json_build_object(
        'id', t.id || ':' || t.generation || ':' || t.state,
        'kind', t.state,
        'type', t.type,
        'task_id', t.id,
        'queue', t.queue,
        'tenant', t.tenant,
        'owner', left(t.owner, 200),
        'tags', array(select left(tag, 100) from unnest(t.tags) as tag limit 30),
        'redrives', t.generation,
        'attempts', t.attempts,
        'enqueued_at', to_char(t.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'finished_at', to_char(t.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'reason', left(t.reason, 2000),
        'error_type', left(t.error_type, 200),
        'fingerprint', left(t.fingerprint, 200))
$$
