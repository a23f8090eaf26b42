-- Cancels the tasks of a schedule's ticks that have not begun, including tasks that an operator has archived or cancelled
-- before: a retry does not bring them back from now on. It answers with what must be served and released after the
-- commit, and with the times of the later ticks that have begun already. Null: another transaction has not released one
-- of the tasks within 5 seconds. `low` and `high`: the range of ids; `later`: the id before those of later ticks;
-- `time_at`: position of the tick's time in its id.
create or replace function joblane.cancel_ticks_@version(given json) returns text
language plpgsql set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  low constant text := given ->> 'low';
  high constant text := given ->> 'high';
  time_at constant integer := (given ->> 'time_at')::integer;
  answer jsonb;
begin
  begin
    with not_begun as materialized (
      select t.id from joblane.tasks t
       where t.id >= low and t.id < high and substr(t.id, time_at) ~ '^\d{4}-\d\d-\d\dT\d\d:\d\dZ(:\d+)?$'
         and t.runs = 0 and case when t.finished_at is null then t.state in @waiting
                                 else t.state in ('archived', 'cancelled') and not t.cleared and not @skipped_tick end
       order by t.id for no key update
    ),
    cancelled as (
      update joblane.tasks t set @set_cancelled, reason = given ->> 'reason', dead_letter_unsent = false
        from not_begun as n where t.id = n.id
      returning t.id, array[t.key_limit, t.total_limit, t.shared_limit] as limits
    )
    select jsonb_build_object(
             'limits', coalesce(jsonb_agg(distinct to_jsonb(c.limits))
                                  filter (where array_remove(c.limits, null) <> '{}'), '[]'),
             'parents', coalesce(jsonb_agg(c.id) filter (where exists (
                                   select from joblane.task_parents e where e.parent = c.id)), '[]'))
      into answer from cancelled c;
  exception when lock_not_available or deadlock_detected then
    return null;
  end;
  return answer || jsonb_build_object('begun', (
    select coalesce(jsonb_agg(substr(t.id, time_at, 17)), '[]') from joblane.tasks t
     where t.id > given ->> 'later' and t.id < high and t.runs > 0
       and substr(t.id, time_at) ~ '^\d{4}-\d\d-\d\dT\d\d:\d\dZ(:\d+)?$'));
end
$$
