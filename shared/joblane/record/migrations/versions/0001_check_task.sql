-- A trigger refuses values that no code writes and that would stop the sweep or the Inspector at their row: names that
-- no queue or message can have, times that Python cannot hold, numbers that overflow. The library's functions switch it
-- off by joblane.checks while they run. CHECK constraints are not used: PostgreSQL parses their text in each statement,
-- so that the statements of a task took 60 % more CPU.
create function joblane.check_task() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
    t constant joblane.tasks := new;
    wrong text;
begin
    wrong := case
        when (length(t.id) between 1 and 200) is not true then 'id: 1 to 200 characters are required'
        when t.type !~ '^[a-z0-9_]+:[a-z0-9_]+$' then 'type: a name with a colon, such as data:copy, is required'
        when t.queue not in ('critical', 'default', 'low') then 'queue: critical, default or low is required'
        when not length(t.tenant) between 1 and 128 or t.tenant ~ '[^!-~]'
        then 'tenant: 1 to 128 ASCII letters, digits and punctuation, or null, are required'
        when array_position(t.tags, null) is not null then 'tags: null is not a tag'
        when t.state not in ('scheduled', 'pending', 'held', 'active', 'retry', 'completed', 'archived', 'cancelled')
        then 'state: there is no such state'
        when t.unique_until not in ('finish', 'start') then 'unique_until: finish or start is required'
        when t.max_attempts not between 1 and 1000 then 'max_attempts: 1 to 1,000 is required'
        when t.attempts > 1000 then 'attempts: 0 to 1,000 is required'
        when t.retention_seconds not between 0 and 315360000
        then 'retention_seconds: 0 to 315,360,000 (3650 days) is required'
        when least(t.attempts, t.runs, t.snoozes, t.continuations, t.generation, t.sends, t.batch_size, t.used_ms) < 0
          or greatest(t.runs, t.snoozes, t.continuations, t.generation) > 2000000000
          or t.used_ms > 315360000000
        then 'attempts, runs and the other numbers: 0 to 2,000,000,000 is required'
        when least(t.created_at, t.due_at, t.deadline, t.lease_until, t.sweep_at, t.mismatch_since,
                   t.cancel_requested_at, t.finished_at, t.dead_sent_at, t.unique_expires_at, t.expire_at)
                 < timestamptz '1973-01-01 UTC'
          or greatest(t.created_at, t.due_at, t.deadline, t.lease_until, t.sweep_at, t.mismatch_since,
                      t.cancel_requested_at, t.finished_at, t.dead_sent_at, t.unique_expires_at, t.expire_at)
                 >= timestamptz '9999-12-30 UTC'
          or t.dead_sent_at >= timestamptz '9999-01-01 UTC'
        then 'due_at and the other times: a year from 1973 to 9999 is required'
        when jsonb_typeof(t.headers) <> 'object' or jsonb_path_exists(t.headers, '$.* ? (@.type() != "string")')
        then 'headers: an object of strings is required'
        when jsonb_typeof(t.options) <> 'object' then 'options: an object is required'
        when t.options ? 'timeout' and not jsonb_path_exists(
                t.options, 'strict $.timeout ? (@ >= 1 && @ <= 315360000)', silent => true)
        then 'options: timeout: 1 to 315,360,000 seconds are required'
        when t.options ? 'retry_delay' and (jsonb_typeof(t.options -> 'retry_delay') <> 'array' or jsonb_path_exists(
                t.options, 'strict $.retry_delay[*] ? (@.type() != "number" || @ < 0 || @ > 31536000)'))
        then 'options: retry_delay: a list of seconds, each from 0 to 31,536,000, is required'
        when (t.asks is null) <> (t.longest_seconds is null) or t.asks not between 1 and 2000000000
          or t.longest_seconds <= 0 or t.longest_seconds > 315360000
        then 'asks: a number of at least 1, and longest_seconds, at most 315,360,000, are required'
        when t.on_archived is not null and not jsonb_path_exists(t.on_archived, 'strict $ ? (
                @.type like_regex "^[a-z0-9_]+:[a-z0-9_]+$"
                && (@.queue == "critical" || @.queue == "default" || @.queue == "low")
                && @.max_attempts > 0 && @.max_attempts <= 1000 && @.max_attempts.floor() == @.max_attempts
                && @.retention_seconds >= 0 && @.retention_seconds <= 315360000
                && @.retention_seconds.floor() == @.retention_seconds)', silent => true)
        then 'on_archived: type, queue, max_attempts and retention_seconds are required'
        when not t.events <@ array['completed', 'archived', 'cancelled']
        then 'events: a list of completed, archived and cancelled is required'
        when t.wait_kind not in ('limit', 'parents') then 'wait_kind: limit or parents is required'
        when (t.state = 'held') <> (t.wait_kind is not null)
         and t.state in ('scheduled', 'pending', 'held', 'active', 'retry')
         and (t.wait_kind = 'parents' and t.state <> 'active') is not true
        then 'wait_kind: a held task, and no other, has the kind of its wait'
        when (t.wait_kind is not distinct from 'limit') <> (t.waits_for is not null)
        then 'waits_for: a task that waits for a limit, and no other, has its name'
        when t.wait_kind = 'limit'
         and (t.place is null or t.waits_for not in (t.key_limit, t.total_limit, t.shared_limit)) is not false
        then 'waits_for: one of its limits, with its place, is required'
        when coalesce(t.key_limit, t.total_limit, t.shared_limit) is not null
         and (t.seq is null or (t.first_due_at is null and t.wait_kind is null and t.finished_at is null))
        then 'first_due_at: a task with a limit has this time and seq'
        when t.passed not in ('key_slot', 'key_time', 'type_slot', 'type_time', 'shared_slot', 'all')
        then 'passed: there is no such step'
        when t.finished_at is not null and t.state not in ('completed', 'archived', 'cancelled')
        then 'finished_at: a live task has none'
        when t.finished_at is not null and t.state in ('archived', 'cancelled') and t.reason is null
        then 'reason: an archived or cancelled task has one'
        when t.finished_at is not null and t.expire_at is null
        then 'expire_at: a time is required with finished_at; or set the state alone, and the sweep sets both'
        when t.dead_letter_unsent
         and (t.state <> 'archived' or (t.finished_at is not null and t.dead_sent_at is not null))
        then 'dead_letter_unsent: only an archived task without dead_sent_at has an unsent dead letter'
        when t.state = 'archived' and t.finished_at is not null and t.dead_sent_at is null and not t.dead_letter_unsent
        then 'dead_letter_unsent: true is required for an archived task without dead_sent_at'
    end;
    if wrong is not null then
        raise exception '%', wrong using errcode = 'check_violation', table = 'tasks', schema = 'joblane';
    end if;
    return null;
end
$$
