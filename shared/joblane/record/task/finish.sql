-- The finish: it records the ends of runs in their rows, and answers with the ids of the tasks that it has finished.
-- Only the holder of the lease may finish: the token decides, not the clock. If a task has a cancel request, only the
-- end `cancelled` is recorded; after another end, the worker finishes the run again, as cancelled. A row that another
-- transaction has locked is left out, so that it does not delay the others. With `waits` the finish waits for it, and
-- longer than a claim, because without the finish the run's work is lost. With these settings and the conditions with
-- `any` each row is looked up by its key, whatever the statistics: a join alone may read all of an index that was empty
-- when its plan was made.
--
-- The only run of a task that completes at its first run stays on the row of the task. Any other run has a row of
-- task_attempts. A child that was inserted meanwhile is seen by the later statement, see let_go.sql.
create or replace function joblane.finish_@version(runs json, waits boolean) returns json language plpgsql
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  setting text;  -- an assignment costs less than `perform`
  finished text[];
  states text[];
  has_run_before boolean;
  missing record;
  waits_until constant timestamptz := clock_timestamp() + current_setting('lock_timeout')::interval;
begin
  setting := set_config('joblane.checks', 'off', true);
  if waits then
    for missing in select x.id from json_to_recordset(runs) as x(id text) order by x.id collate "C" loop
      -- 5 s for all rows together, and 10 ms for each after that
      perform set_config('lock_timeout', greatest(
        10, extract(epoch from waits_until - clock_timestamp()) * 1000)::int || 'ms', true);
      begin
        perform from joblane.tasks t where t.id = missing.id for no key update;
      exception when lock_not_available then
        if json_array_length(runs) = 1 then
          raise;
        end if;
      end;
    end loop;
  end if;

  with f as (  -- the ends of the runs that hold their tasks, whose rows are locked in the order of their ids
    select x.*, t.*,
           clock_timestamp() as clock,
           clock_timestamp() + pg_catalog.make_interval(secs => x.delay_seconds) as next_due,
           x.state in @ended as is_end,
           x.state = 'archived' as is_archived,
           x.state = 'completed' and x.run = 1 as is_first,
           x.state in ('completed', 'cancelled') and t.retention_seconds = 0 as is_cleared
      from (select * from json_to_recordset(runs) as x(
              id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean,
              snoozed boolean, mismatch boolean, continued boolean, result jsonb, reason text, error_type text,
              error_message text, fingerprint text, traceback text, duration_ms integer, billed_ms integer,
              memory_mb integer, cost_usd float8)
             order by id collate "C") as x,
           lateral (select t.retention_seconds, t.attempts, t.generation, t.started_at, t.request_id, t.type, t.queue,
                           t.tenant, @waited as wait_ms
                      from joblane.tasks t
                     where t.id = x.id and t.state = 'active' and t.lease_token = x.token
                       and (t.cancel_requested_at is null or x.state = 'cancelled')
                       for no key update skip locked) as t
  ),
  finishes as (
    update joblane.tasks t set @finish
    from f where t.id = f.id and t.id = any(array(select f.id from f))
    returning t.id, t.state, t.runs
  ),
  attempts as (  -- a first run that completes stays on the row of its task
    insert into joblane.task_attempts (@run_start, @run_end)
    select f.id, 1, f.attempts, f.generation, f.started_at, f.request_id, f.type, f.queue, f.tenant, f.wait_ms,
           f.clock, f.outcome, f.duration_ms, f.billed_ms, f.memory_mb, f.cost_usd, f.error_type, f.error_message,
           f.fingerprint, f.traceback
      from f where f.run = 1 and not f.is_first and f.started_at is not null
    @again
  )
  select coalesce(pg_catalog.array_agg(f.id), '{}'), pg_catalog.array_agg(f.state), pg_catalog.bool_or(f.runs > 1)
    into finished, states, has_run_before from finishes f;
  if has_run_before then
    update joblane.task_attempts a set
      finished_at = clock_timestamp(), outcome = x.outcome, duration_ms = x.duration_ms, billed_ms = x.billed_ms,
      memory_mb = x.memory_mb, cost_usd = x.cost_usd, error_type = x.error_type, error_message = x.error_message,
      fingerprint = x.fingerprint, traceback = x.traceback
    from json_to_recordset(runs) as x(
      id text, run integer, outcome text, error_type text, error_message text, fingerprint text, traceback text,
      duration_ms integer, billed_ms integer, memory_mb integer, cost_usd float8)
    where x.id = any (finished) and a.task_id = x.id and a.run = x.run and a.task_id = any (finished);
  end if;
  setting := set_config('joblane.checks', 'on', true);
  if exists (select from joblane.task_parents e where e.parent = any (finished))
     or current_setting('transaction_isolation') <> 'read committed' then
    return joblane.let_go_@version(finished, states);
  end if;
  return pg_catalog.json_build_object('finished', finished);
end
$$
