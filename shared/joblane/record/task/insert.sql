-- The insert of new tasks. It answers with the id of each task that was inserted, the seconds until it is due, and if
-- it waits for other tasks. A task whose id or unique key already exists is not inserted. Tasks are inserted in the order
-- of the document: the caller sorts it by ids and keys, so that two callers with the same ones cannot deadlock. Of two
-- new tasks with the same key, the first is inserted. The insert waits longer than a claim, because a lock that it does
-- not get fails the caller's transaction.
create or replace function joblane.@insert(given json)
returns table (id text, due_seconds float8, waits boolean)
language plpgsql set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  setting text;  -- an assignment costs less than `perform`
begin
  @with_rest
  setting := set_config('joblane.checks', 'off', true);
  -- The holder of a key may have held it for `unique_for`, or was ended by hand. Most tasks have no key.
  if strpos(given::text, '"unique_key"') > 0 then
    update joblane.tasks t set unique_key = null
     where t.id = any (array(
       select h.id
         from (select unique_key from json_to_recordset(given) as x(unique_key text) order by unique_key) as x,
              lateral (select h.id from joblane.tasks h
                        where h.unique_key = x.unique_key and h.finished_at is null
                          and (h.unique_expires_at <= clock_timestamp() or h.state not in @live)
                          for no key update) as h));
  end if;
  return query
  insert into joblane.tasks as t
         (@inserted_columns)
  select @inserted_values
    from @new
   order by x.ordinality
  on conflict do nothing
  returning t.id, date_part('epoch', t.due_at - clock_timestamp()),
    @link;
  setting := set_config('joblane.checks', 'on', true);
end
$$
