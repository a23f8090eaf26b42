-- A run stops at a wait, instead of a finish, in the transaction of the handler's work. The answer: `due`, the seconds
-- until the task is due again, and `look`: the caller has to call wake.sql after the commit, because the snapshot of this
-- transaction may be older than a signal. Null: the run does not hold the task, or the task has a cancel request, or its
-- row is locked. With `waits` the function waits for the row, and fails after 5 s.
--
-- `children`: the run has enqueued them in this transaction. The task is held for them, as a child is for its parents, and
-- `due` is null: each of their ends comes later, and finds the row of task_parents. If it stops at the same wait again, a
-- child may be at its end, and may have looked before: then the task has a message, and its claim decides, with locks on
-- the rows of the children, see open_parents.sql.
create or replace function joblane.suspend_@version(stop json, waits boolean) returns json language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  setting text;
  s record;             -- the stop
  t joblane.tasks;      -- the row, as the run has left it
  clock timestamptz;
  resumes timestamptz;  -- the time at which the task is due again
  awaited text[];       -- the children for which it waits. Null: it waits for a time or a signal
  is_held boolean;      -- it waits without a message
begin
  setting := set_config('joblane.checks', 'off', true);
  select * into s from json_to_record(stop) as x(
    id text, token uuid, run integer, name text, signal text, seconds float8, at timestamptz, again float8,
    children text[], duration_ms integer, billed_ms integer, memory_mb integer, cost_usd float8);
  -- A signal that commits before this lock is seen below. A signal that commits later finds the task stopped, because
  -- wake.sql waits for this lock.
  t := r from joblane.tasks r
        where r.id = s.id and r.state = 'active' and r.lease_token = s.token and r.cancel_requested_at is null
          for no key update skip locked;
  if t.id is null and waits then
    t := r from joblane.tasks r
          where r.id = s.id and r.state = 'active' and r.lease_token = s.token and r.cancel_requested_at is null
            for no key update;
  end if;
  if t.id is null then
    return null;
  end if;
  clock := clock_timestamp();
  insert into joblane.task_waits as w (task_id, name, signal, until, children, run)
  values (s.id, s.name, s.signal, coalesce(s.at, clock + make_interval(secs => s.seconds)), s.children, s.run)
  on conflict (task_id, name) do update
     set run = excluded.run, signal = excluded.signal,
         -- The first stop sets it. The row of a first run was left by a task that was deleted with SQL.
         until = case when excluded.run = 1 then excluded.until else w.until end,
         children = case when excluded.run = 1 then excluded.children else w.children end
  returning least(w.until, clock + make_interval(secs => s.again)), w.children into resumes, awaited;
  if exists (select from joblane.task_signals g where g.task_id = s.id and g.name = s.signal) then
    resumes := clock;
    update joblane.task_signals g set heard = true where g.task_id = s.id and g.name = s.signal and not g.heard;
  end if;
  if awaited is null then
    resumes := greatest(clock, least(resumes, t.deadline));  -- at its deadline the claim archives it
    update joblane.tasks t set @stopped where t.id = s.id;
  else
    resumes := clock;
    is_held := s.children is not null;
    insert into joblane.task_parents (child, parent, on_parent_dead)
    select s.id, c.id, 'run' from joblane.tasks c where c.id = any (awaited) and c.finished_at is null
    on conflict do nothing;
    update joblane.tasks t set @set_held_for_children where t.id = s.id;
  end if;
  if s.run > 1 then
    update joblane.task_attempts a set
      finished_at = clock, outcome = 'waiting', duration_ms = s.duration_ms, billed_ms = s.billed_ms,
      memory_mb = s.memory_mb, cost_usd = s.cost_usd
     where a.task_id = s.id and a.run = s.run;
  elsif t.started_at is not null then  -- a run that does not complete has a row of its own
    insert into joblane.task_attempts (@run_start, finished_at, outcome, duration_ms, billed_ms, memory_mb, cost_usd)
    values (s.id, 1, t.attempts, t.generation, t.started_at, t.request_id, t.type, t.queue, t.tenant, @waited,
            clock, 'waiting', s.duration_ms, s.billed_ms, s.memory_mb, s.cost_usd)
    @again;
  end if;
  setting := set_config('joblane.checks', 'on', true);
  return json_build_object(
    'due', case when is_held is not true then extract(epoch from resumes - clock) end,
    'look', s.signal is not null and current_setting('transaction_isolation') <> 'read committed');
end
$$
