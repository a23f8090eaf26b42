-- Lets tasks continue that have stopped at a wait whose signal has come. It is called in a transaction of its own: after
-- the commit of a signal, by the sweep for signals that are not heard, and after a stop with an old snapshot. The answer:
-- `turns`, the tasks whose messages the caller sends after the commit; `later`, the tasks whose rows are locked.
create or replace function joblane.wake_@version(ids text[]) returns json language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  setting text;
  task text;
  t joblane.tasks;
  names text[];  -- the signals that this call looks at
  turns json[] := '{}';
  later text[] := '{}';
begin
  setting := set_config('joblane.checks', 'off', true);
  for task in select distinct x collate "C" from unnest(ids) as x order by 1 loop
    t := r from joblane.tasks r where r.id = task for no key update skip locked;
    if t.id is null then  -- only a wait needs a subtransaction
      begin
        t := r from joblane.tasks r where r.id = task for no key update;
      exception when lock_not_available or deadlock_detected or serialization_failure then
        later := array_append(later, task);
        continue;
      end;
    end if;
    if t.id is null then  -- it was deleted while the signal was not committed: a later task of this id gets none of it
      delete from joblane.task_signals g where g.task_id = task;
      continue;
    end if;
    -- A run is in progress: it may have read its signals before this one came. It stays unheard until this run has ended.
    continue when t.state = 'active';
    names := array(select g.name from joblane.task_signals g where g.task_id = task and not g.heard);
    if t.state = 'scheduled' and t.due_at > clock_timestamp()
       and exists (select from joblane.task_waits w
                    where w.task_id = task and w.run = t.runs and w.signal = any (names)) then
      update joblane.tasks t set @woken where t.id = task;
      turns := array_append(turns, json_build_object(
        'id', t.id, 'type', t.type, 'queue', t.queue, 'tenant', t.tenant, 'schema', t.schema, 'headers', t.headers));
    end if;
    update joblane.task_signals g set heard = true where g.task_id = task and g.name = any (names);
  end loop;
  setting := set_config('joblane.checks', 'on', true);
  return json_build_object('turns', to_json(turns), 'later', to_json(later));
end
$$
