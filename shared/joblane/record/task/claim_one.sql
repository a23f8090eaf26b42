-- The claim of one message of a recorded task: one small statement if the task is ordinary, see ORDINARY in conditions.py;
-- claim.sql decides on any other. If another transaction has locked the row, this function fails almost at once, and the
-- caller calls claim.sql, which waits for it and has a verdict.
--
-- For an ordinary task the answer is an array of values, FIRST_RUN in claim.py. Otherwise claim.sql answers.
create or replace function joblane.claim_one_@version(
  task text, task_type text, token uuid, lease_seconds float8, invocation text)
returns json language plpgsql
set lock_timeout = '10ms' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
  setting text;
  members constant integer := 1;
  uncounted constant integer := 0;
  leased_until constant timestamptz := clock_timestamp() + pg_catalog.make_interval(secs => lease_seconds);
  answer json;
begin
  if not exists (select from joblane.pauses) then  -- as a condition of the update it would cost twice as much
    setting := set_config('joblane.checks', 'off', true);
    update joblane.tasks t set @set_run
     where t.id = task and @ordinary
    returning pg_catalog.json_build_array(
      t.attempts, t.max_attempts, t.generation, t.payload, t.schema, t.headers, t.options,
      date_part('epoch', t.due_at - clock_timestamp()), t.batch, t.depth, t.events) into answer;
    setting := set_config('joblane.checks', 'on', true);
  end if;
  if answer is null then
    return joblane.claim_@version(pg_catalog.json_build_array(
      pg_catalog.json_build_object('id', task, 'type', task_type, 'rec', true)), token, lease_seconds, invocation);
  end if;
  return answer;
end
$$
