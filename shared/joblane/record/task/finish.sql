-- The finish: it records the ends of runs in their rows, and answers with the ids of the tasks that it has finished.
-- Only the holder of the lease may finish: the token decides, not the clock. If a task has a cancel request, only the
-- end `cancelled` is recorded; after another end, the worker finishes the run again, as cancelled. A row that another
-- transaction has locked is left out, so that it does not delay the others. With `waits` the finish waits for it, and
-- longer than a claim, because without the finish the run's work is lost. With these settings and the conditions with
-- `any` each row is looked up by its key, whatever the statistics: a join alone may read all of an index that was empty
-- when its plan was made.
--
-- The rows of task_parents of the tasks that let their children go are deleted, in a later statement than the one that
-- has locked the tasks: it sees a child that was inserted in between, see open_parents.sql. A task may have any number
-- of children, so only the first rows are deleted here. `released`: pairs of a task and such a child. `look`: tasks with
-- further rows, whose children the caller has to look for after the commit.
create or replace function joblane.finish_@version(runs json, waits boolean) returns json language plpgsql
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  setting text;  -- an assignment costs less than `perform`
  finished text[];
  released json;
  look text[];
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
    select x.*,
           clock_timestamp() as clock,
           clock_timestamp() + pg_catalog.make_interval(secs => x.delay_seconds) as next_due,
           x.state in @ended as is_end,
           x.state = 'archived' as is_archived,
           x.state in ('completed', 'cancelled') and t.retention_seconds = 0 as is_cleared
      from (select * from json_to_recordset(runs) as x(
              id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean,
              snoozed boolean, mismatch boolean, continued boolean, result jsonb, reason text, error_type text,
              error_message text, fingerprint text, traceback text, duration_ms integer, billed_ms integer,
              memory_mb integer, cost_usd float8)
             order by id collate "C") as x,
           lateral (select t.retention_seconds from joblane.tasks t
                     where t.id = x.id and t.state = 'active' and t.lease_token = x.token
                       and (t.cancel_requested_at is null or x.state = 'cancelled')
                       for no key update skip locked) as t
  ),
  finishes as (
    update joblane.tasks t set
      state = f.state, @lease_released,
      attempts = t.attempts - (not f.counted)::int,
      snoozes = t.snoozes + f.snoozed::int,
      continuations = t.continuations + f.continued::int,
      passed = case when f.continued then t.passed
                    when t.ordered and not f.is_end and t.passed is not null then @passed_key_slot end,
      used_ms = case when f.continued then t.used_ms + f.duration_ms else 0 end,
      mismatch_since = case when f.mismatch then coalesce(t.mismatch_since, f.clock) end,
      due_at = case when f.is_end then t.due_at else f.next_due end,
      sends = 0,
      sweep_at = case when f.is_archived then @sweep_soon
                      when f.is_end then null
                      -- SQS cannot delay the message for so long: the row waits, and the sweep sends it
                      when f.delay_seconds > float8 '@max_delay' then f.next_due - interval '@max_delay s'
                      else f.next_due + interval '@sweep_margin s' end,
      finished_at = case when f.is_end then f.clock end,
      dead_letter_unsent = f.is_archived,
      expire_at = case when f.is_archived then @archived_expires
                       when f.is_cleared then @cleared_expires
                       when f.is_end then @retention_expires end,
      cleared = f.is_cleared,
      payload = case when not f.is_cleared then t.payload end,
      headers = case when f.is_cleared then '{}' else t.headers end,
      result = case when not f.is_cleared then f.result end,
      reason = f.reason, error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint
    from f where t.id = f.id and t.id = any(array(select f.id from f))
    returning t.id
  ),
  attempts as (
    update joblane.task_attempts a set
      finished_at = f.clock, outcome = f.outcome, duration_ms = f.duration_ms, billed_ms = f.billed_ms,
      memory_mb = f.memory_mb, cost_usd = f.cost_usd, error_type = f.error_type, error_message = f.error_message,
      fingerprint = f.fingerprint, traceback = f.traceback
    from f where a.task_id = f.id and a.run = f.run and a.task_id = any(array(select f.id from f))
  )
  select coalesce(pg_catalog.array_agg(id), '{}') into finished from finishes;
  setting := set_config('joblane.checks', 'on', true);
  if exists (select from joblane.task_parents e where e.parent = any (finished)) then
    with gone as (
      delete from joblane.task_parents d where d.ctid = any (array(
        select e.ctid
          from json_to_recordset(runs) as x(id text, state text),
               lateral (select e.ctid from joblane.task_parents e
                         where e.parent = x.id and e.on_parent_dead = any (
                                 case when x.state = 'completed' then array['hold', 'cancel', 'run']
                                      when x.state in @ended then array['run'] end)
                         limit @most_released for update) as e
         where x.id = any (finished) limit @most_released))
      returning d.parent, d.child
    )
    select pg_catalog.json_agg(pg_catalog.json_build_array(g.parent, g.child)) into released from gone g;
    select pg_catalog.array_agg(x.id) into look from json_to_recordset(runs) as x(id text, state text)
     where x.id = any (finished) and x.state in @ended
       and (select true from joblane.task_parents e where e.parent = x.id limit 1);
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then  -- its snapshot may be older than a child
    look := finished;
  end if;
  return pg_catalog.json_build_object('finished', finished, 'released', released, 'look', look);
end
$$
