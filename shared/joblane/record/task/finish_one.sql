-- The finish of one run: one small statement if it is the first run of its task, it completed, and the task keeps its
-- content. finish.sql records any other end.
--
-- The answer is null if the task is finished and no task waits for it. Otherwise finish.sql answers. With `commits` a
-- commit follows in the same round trip, so the function fails if the run does not hold its task any more.
create or replace function joblane.finish_one_@version(
  task text, token uuid, result jsonb, duration_ms integer, billed_ms integer, memory_mb integer, cost_usd float8,
  commits boolean)
returns json language plpgsql
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
  clock constant timestamptz := clock_timestamp();
  answer json;
  setting text;
begin
  setting := set_config('joblane.checks', 'off', true);
  update joblane.tasks t set @completed
   where t.id = task and t.state = 'active' and t.lease_token = token and t.runs = 1
     and t.cancel_requested_at is null and t.retention_seconds <> 0;
  setting := set_config('joblane.checks', 'on', true);
  if not found then
    answer := joblane.finish_@version(pg_catalog.json_build_array(pg_catalog.json_build_object(
      'id', task, 'token', token, 'run', 1, 'outcome', 'completed', 'state', 'completed', 'delay_seconds', 0,
      'counted', true, 'snoozed', false, 'mismatch', false, 'continued', false, 'result', result,
      'duration_ms', duration_ms, 'billed_ms', billed_ms, 'memory_mb', memory_mb, 'cost_usd', cost_usd)), commits);
    if commits and json_array_length(answer -> 'finished') = 0 then
      raise exception 'the run does not hold its task any more' using errcode = '@not_held';
    end if;
    return answer;
  end if;
  if exists (select from joblane.task_parents e where e.parent = task)
     or current_setting('transaction_isolation') <> 'read committed' then
    return joblane.let_go_@version(array[task], array['completed']);
  end if;
  return null;
end
$$
