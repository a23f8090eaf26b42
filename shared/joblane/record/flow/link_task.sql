-- Writes the relations of a task that an insert has just inserted, from its options, `given`: the parents for which it
-- waits, the task whose run has enqueued it, its batch, and the batch whose callback it is. It answers true if the task
-- waits.
create or replace function joblane.link_task_@version(new_id text, given jsonb) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  parents constant text[] := array(select jsonb_array_elements_text(given -> 'after'));
begin
  if given ?| '{after,callback_of}' then
    insert into joblane.task_parents (child, parent, parent_batch, on_parent_dead)
    select new_id, t.id, '', given ->> 'on_parent_dead'
      from joblane.tasks t where t.id = any (parents) and t.state <> 'completed'
     union all
    select new_id, '', given ->> 'callback_of', 'hold' where given ? 'callback_of'
    on conflict do nothing;
  end if;
  if given ?| '{after,enqueued_by}' then
    insert into joblane.task_children (parent, child)
    select parent, new_id from unnest(parents || (given ->> 'enqueued_by')) as parent where parent is not null
    on conflict do nothing;
  end if;
  if given ? 'batch' then  -- the callbacks of the batch wait for this task
    insert into joblane.task_parents (child, parent, on_parent_dead)
    select t.id, new_id, case when t.options ->> 'callback' = 'on_end' then 'run' else 'hold' end
      from joblane.batches b, joblane.tasks t
     where b.id = given ->> 'batch' and t.id = any (array[b.on_end, b.on_success])
       and t.wait_kind is not distinct from 'parents'
    on conflict do nothing;
  end if;
  return given ?| '{after,callback_of}';
end
$$
