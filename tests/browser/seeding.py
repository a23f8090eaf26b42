"""A realistic database: tasks of the platform's types in every state, their runs, and three kinds of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

TASKS = """
insert into joblane.tasks (id, type, queue, tenant, tags, state, payload, payload_digest, attempts, runs, max_attempts,
 created_at,
                   due_at, sweep_at, lease_until, finished_at, expire_at, dead_sent_at, retention_seconds, result,
                   reason, error_type, error_message, fingerprint)
select id, type, queue, tenant, tags, state, payload, 'seeded', runs, runs, 4, created_at,
       case when state = 'scheduled' then now() + n * interval '3 min'
            when state = 'retry' then now() + interval '10 min' else created_at end,
       case when state = 'completed' then null else now() + interval '1 day' end,
       case when state = 'active' then now() + interval '5 min' end,
       case when ended then created_at + interval '9 s' end,
       case when ended then now() + interval '7 days' end, case when state = 'archived' then now() end, 604800,
       case when state = 'completed' then jsonb_build_object('rows', n) end,
       case state when 'archived' then 'its attempts are used up' when 'cancelled' then 'cancelled before it ran' end,
       case when failed then error[1] end, case when failed then error[2] end,
       case when failed then substr(md5(type || error[1]), 1, 16) end
  from (select *, state in ('completed', 'archived', 'cancelled') as ended, state in ('archived', 'retry') as failed,
               case when state in ('scheduled', 'pending') then 0 when state in ('archived', 'retry') then 4
                    else 1 end as runs
          from (select n, '0199a8b2-' || to_char(n / 10000, 'FM0000') || '-7d01-9a2b-' || lpad(md5(n::text), 12) as id,
                       kinds.type, kinds.queue,
                       (array['acme', 'globex', 'initech', 'umbrella'])[1 + n % 4] as tenant,
                       case when n % 5 = 0 then array['nightly']
                            when n % 7 = 0 then array['import', 'retried-by-hand'] else '{}' end as tags,
                       case when n % 50 = 0 then 'archived' when n % 61 = 0 then 'retry'
                            when n % 67 = 0 then 'scheduled' when n % 71 = 0 then 'pending'
                            when n % 997 = 0 then 'active' when n % 401 = 0 then 'cancelled'
                            else 'completed' end as state,
                       jsonb_build_object('tenant_id', '6f1c5d0e-6f0a-4b0b-9a59-0d1f7f5f2c11', 'user_id', 'auth0|' || n,
                                          'export_type', 'full') as payload,
                       now() - n * interval '1 s' as created_at, kinds.error
                  from generate_series(1, $1::int) as numbers (n)
                  join lateral (select * from (values
                       (0, 'data:export', 'default', array['ServiceError', 'the storage answered 503 after 4 tries']),
                       (1, 'user:invitation', 'default', array['SMTPRecipientsRefused', 'the mailbox does not exist']),
                       (2, 'tenant:initialize', 'critical', array['TimeoutError', 'billing did not answer in 20 s']),
                       (3, 'data:export', 'default', array['ServiceError', 'the storage answered 503 after 4 tries'])
                  ) as all_kinds (at, type, queue, error) where at = (n / 3) % 4) as kinds on true) as chosen) as tasks
"""

ATTEMPTS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, outcome, duration_ms,
 request_id,
                           error_type, error_message, fingerprint, traceback, type, queue, tenant, wait_ms, billed_ms,
                           memory_mb, cost_usd)
select t.id, run, run, 0, timed.started_at, case when ended then timed.started_at + took * interval '1 ms' end,
       case when not ended then null when t.state = 'completed' then 'completed'
            when t.state = 'cancelled' then 'cancelled'
            when run = t.max_attempts and t.state = 'archived' then 'archived' else 'failed' end,
       took, 'b1946ac9-2c3a-4b2e-9f59-' || substr(t.id, 25), t.error_type, t.error_message, t.fingerprint,
       case when t.error_type is not null then
            E'Traceback (most recent call last):\n  File "/var/task/shared/joblane/worker/worker.py", line 212, in
            _run\n'
            || E'    return task.function(payload, context)\n'
            || E'  File "/var/task/functions/handler.py", line 61, in run\n'
            || E'    store.put(key, content)\n' || t.error_type || ': ' || t.error_message end,
       t.type, t.queue, t.tenant, 120 + took % 700, took + 20, 256, (took + 20) * 0.0000000042
  from joblane.tasks t cross join lateral generate_series(1, t.runs) as run
 cross join lateral (select t.created_at + run * interval '2 s' as started_at, t.state <> 'active' as ended,
                           300 + (ascii(right(t.id, 1)) * 37 + ascii(substr(t.id, 30, 1)) * 91) % 4200 as took) as timed
"""

PROGRESS = """
insert into joblane.task_progress (task_id, done, total, note)
select id, 420, 1000, 'members' from joblane.tasks where state = 'active'
"""

LIMITS = """
insert into joblane.limits (name, slots, step, burst)
values ('data:export/', 2, null, null), ('storage', 10, interval '0.12 s', 50)
"""
HELD = """
update joblane.tasks
   set state = 'held', sweep_at = null, key_limit = 'data:export/' || tenant, shared_limit = 'storage', passed = null,
       wait_kind = 'limit', waits_for = 'data:export/' || tenant, place = extract(epoch from due_at),
       first_due_at = due_at, seq = nextval('joblane.tasks_seq')
 where state = 'pending' and type = 'data:export'
"""
BATCH = """
with members as (
  update joblane.tasks set tags = array['batch:import-7'], batch = 'import-7'
   where type = 'tenant:initialize' and state in ('completed', 'archived') returning id, state
),
callbacks as (
  insert into joblane.tasks (id, type, queue, state, payload, payload_digest, callback_of, max_attempts,
                             retention_seconds, wait_kind, place)
  select 'import-7:' || name, 'data:export', 'default', 'held', '{}', '', 'import-7', 4,
         604800, 'parents', 1 from unnest(array['on_end', 'on_success']) as name
  returning id
),
parents as (
  insert into joblane.task_parents
  select c.id, m.id, 'hold' from callbacks c, members m
   where m.state = 'archived' and c.id like '%success'
)
insert into joblane.batches (id, created_at, sealed_at, on_end, on_success) values
  ('import-7', now() - interval '2 hours', now() - interval '1 hour', 'import-7:on_end', 'import-7:on_success'),
  ('import-8', now(), null, null, null)
"""
CHILD = """
with child as (
  insert into joblane.tasks (id, type, queue, state, payload, payload_digest, after, on_parent_dead, max_attempts,
                             retention_seconds, wait_kind, place)
  select 'child', 'data:export', 'default', 'held', '{}', '',
         array_agg(p.id), 'hold', 4, 604800, 'parents', 1
    from (select id from joblane.tasks where state = 'archived' and type = 'data:export' order by id limit 2) as p
  returning id, after
),
related as (
  insert into joblane.task_children
  select p.parent, c.id from child c, unnest(c.after) p(parent)
)
insert into joblane.task_parents
select c.id, p.parent, 'hold' from child c, unnest(c.after) p(parent)
"""
WAIT = """
with waiting as (
  insert into joblane.tasks (id, type, queue, state, payload, payload_digest, runs, due_at, max_attempts,
                             retention_seconds)
  values ('waiting', 'data:export', 'default', 'scheduled', '{}', '', 1, now() + interval '2 d', 4, 604800)
),
signals as (
  insert into joblane.task_signals (task_id, name, value, sent_by) values ('waiting', 'aproval', '1', 'ann')
)
insert into joblane.task_waits (task_id, name, signal, until, run)
values ('waiting', 'approval', 'approval', now() + interval '2 d', 1)
"""
TICKS = """
with ticks as (
  insert into joblane.tasks (id, type, queue, state, payload, payload_digest, schedule, max_attempts, attempts, runs,
                             retention_seconds, created_at, due_at, finished_at, expire_at)
  select 'tenant:cleanup:0:' || to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'), 'tenant:cleanup', 'low',
         'completed', '{}', '', 'tenant:cleanup:0', 4, 1, 1, 604800, at, at, at, now() + interval '1 day'
    from (select (date_trunc('day', now() at time zone 'UTC') - n * interval '1 day' + interval '2 hours')
                 at time zone 'UTC' as at from generate_series(0, 9) n where n <> 4) as days
   where at <= now()
  returning id, due_at
)
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, outcome, duration_ms)
select id, 1, 1, 0, due_at, due_at, 'completed', 400 + 90 * extract(day from due_at) from ticks
"""

SCHEDULES = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, ticks_a_day, revision, next_at,
                               last_at, last_task, problem, paused_at)
select name, type, jsonb_build_object('tenant_id', '6f1c5d0e-6f0a-4b0b-9a59-0d1f7f5f2c11', 'user_id', 'auth0|1',
                                      'export_type', 'full'), tenant, expression, 'Europe/Berlin', 1, 1,
       now() + interval '5 hours', now() - interval '19 hours',
       (select id from joblane.tasks where state = 'completed' and type = 'data:export' order by id limit 1), problem,
       paused_at
  from (values ('acme-nightly', 'data:export', 'acme', '0 6 * * *', null, null),
               ('acme-yearly', 'data:export', 'acme', '0 0 1 1 *', null, now() - interval '3 days'),
               ('globex-monthly', 'data:export', 'globex', '30 7 1 * *',
                'PayloadError: payload: export_type: Input should be full or partial', null)
       ) as x(name, type, tenant, expression, problem, paused_at)
on conflict (name) do nothing
"""

EVENTS = """
with deployed as (
  insert into joblane.deploys (at, version, deployed_by) select now() - interval '20 min', '3f2a1c0', 'ann'
)
insert into joblane.audit (at, who, action, target, reason)
select now() - minutes * interval '1 min', 'bob', action, target, 'the provider is unavailable'
  from (values (40, 'pause', 'type:user:invitation'), (35, 'resume', 'type:user:invitation'),
               (12, 'pause', 'queue:default'), (11, 'resume', 'queue:default')) as x (minutes, action, target)
"""


def seed(connection: Connection, tasks: int) -> None:
    """Insert a task for each second up to now; one of fifty is archived, with three kinds of errors."""
    connection.run(TASKS, str(tasks))
    connection.run(ATTEMPTS)
    connection.run(PROGRESS)
    connection.run(LIMITS)
    connection.run(HELD)
    connection.run(BATCH)
    connection.run(CHILD)
    connection.run(WAIT)
    connection.run(TICKS)
    connection.run(SCHEDULES)
    connection.run(EVENTS)
    connection.run("analyze")
