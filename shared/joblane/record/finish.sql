-- The finish: it records the ends of runs in their rows, and answers with the ids of the tasks that took their end.
-- Only the holder of the lease may finish: the token decides, not the clock. A task with a cancel request takes no
-- other end than `cancelled`: it does not complete, is not retried and is not archived. The worker then finishes the
-- run again, as cancelled. A finish waits longer than a claim, because without it the run's work is lost.
create or replace function joblane.finish_@version(runs json) returns json language plpgsql
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  finished text[] := '{}';
  f record;              -- the end of a run
  clock timestamptz;
  next_due timestamptz;  -- when the task is due again
  is_long boolean;       -- SQS cannot delay the message until then: the row waits, and the sweep sends it
  is_end boolean;
  is_cleared boolean;    -- its content is removed at once, unless it is retained
begin
  perform set_config('joblane.checks', 'off', true);
  for f in
    select * from json_to_recordset(runs) as x(
      id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean,
      snoozed boolean, mismatch boolean, continued boolean, result jsonb, reason text, error_type text,
      error_message text, fingerprint text, traceback text, duration_ms integer, billed_ms integer, memory_mb integer,
      cost_usd float8)
    order by x.id collate "C"  -- as every other statement, against deadlocks
  loop
    clock := clock_timestamp();
    is_end := f.state in @ended;
    is_cleared := is_end and f.state <> 'archived';
    next_due := case when not is_end then clock + make_interval(secs => f.delay_seconds) end;
    is_long := not is_end and f.delay_seconds > @max_delay;
    update joblane.tasks t set
      state = f.state, @lease_released,
      attempts = t.attempts - (not f.counted)::int,
      snoozes = t.snoozes + f.snoozed::int,
      continuations = t.continuations + f.continued::int,
      used_ms = case when f.continued then t.used_ms + f.duration_ms else 0 end,
      mismatch_since = case when f.mismatch then coalesce(t.mismatch_since, clock) end,
      due_at = coalesce(next_due, t.due_at),
      sends = 0,
      sweep_at = case when is_long then next_due - interval '@max_delay s'
                      when not is_end then next_due + interval '@sweep_margin s'
                      when f.state = 'archived' then @sweep_soon end,
      finished_at = case when is_end then clock end,
      dead_letter_unsent = f.state = 'archived',
      expire_at = case when f.state = 'archived' then @archived_expires
                       when is_cleared and t.retention_seconds = 0 then @cleared_expires
                       when is_end then @retention_expires end,
      cleared = is_cleared and t.retention_seconds = 0,
      payload = case when (is_cleared and t.retention_seconds = 0) then null else t.payload end,
      headers = case when (is_cleared and t.retention_seconds = 0) then '{}' else t.headers end,
      result = case when not (is_cleared and t.retention_seconds = 0) then f.result end,
      reason = f.reason, error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint
    where t.id = f.id and t.state = 'active' and t.lease_token = f.token
      and (t.cancel_requested_at is null or f.state = 'cancelled');
    if found then
      finished := finished || f.id;
      update joblane.task_attempts a set
        finished_at = clock, outcome = f.outcome, duration_ms = f.duration_ms, billed_ms = f.billed_ms,
        memory_mb = f.memory_mb, cost_usd = f.cost_usd, error_type = f.error_type, error_message = f.error_message,
        fingerprint = f.fingerprint, traceback = f.traceback
      where a.task_id = f.id and a.run = f.run;
    end if;
  end loop;
  perform set_config('joblane.checks', 'on', true);
  return to_json(finished);
end
$$
