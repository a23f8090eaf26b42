-- The limits for which tasks wait, in the order of their names, each found by one look-up in the index: those after
-- `low` and before `high`, `most` at most. `high` null: no end.
create or replace function joblane.waiting_limits_@version(low text, high text, most integer) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  name text := low;
begin
  for number in 1 .. most loop
    select t.waits_for into name from joblane.tasks t
     where t.wait_kind = 'limit' and t.waits_for > name and (t.waits_for < high or high is null)
     order by t.waits_for limit 1;
    exit when not found;
    return next name;
  end loop;
end
$$
