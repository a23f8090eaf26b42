-- Locks a schedule until the end of the transaction, also a name that no schedule has yet. It answers with the time, the
-- row, and the number of a new revision. Null: another transaction has not released the schedule within 5 seconds.
create or replace function joblane.lock_schedule_@version(given json) returns text
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set enable_seqscan = off
as $$
declare
  named constant text := given ->> 'name';
  s joblane.schedules;
begin
  begin
    perform pg_advisory_xact_lock(hashtextextended('joblane.schedules ' || named, 0));
    select * into s from joblane.schedules r where r.name = named for update;
  exception when lock_not_available or deadlock_detected then
    return null;
  end;
  if s.paused_until <= clock_timestamp() then  -- the pause has ended
    s.paused_at := null; s.paused_until := null;
  end if;
  return json_build_object('now', clock_timestamp(), 'revision', nextval('joblane.schedules_seq'),
                           'row', case when s.name is not null then row_to_json(s) end)::text;
end
$$
