-- Writes the relations of a task that an insert has just inserted: the parents for which it waits, the task whose run has
-- enqueued it, its batch, and the batch whose callback it is. It answers true if the task waits.
create or replace function joblane.link_task_@version(t joblane.tasks) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  waits constant boolean := t.after is not null or t.callback_of is not null;
begin
  if waits then
    insert into joblane.task_parents (child, parent, parent_batch, on_parent_dead)
    select t.id, p.id, '', t.on_parent_dead
      from joblane.tasks p where p.id = any (t.after) and p.state <> 'completed'
     union all
    select t.id, '', t.callback_of, 'hold' where t.callback_of is not null
    on conflict do nothing;
  end if;
  if t.after is not null or t.enqueued_by is not null then
    insert into joblane.task_children (parent, child)
    select p.id, t.id from unnest(t.after || t.enqueued_by) as p(id) where p.id is not null
    on conflict do nothing;
  end if;
  if t.batch is not null then  -- the callbacks of the batch wait for this task
    insert into joblane.task_parents (child, parent, on_parent_dead)
    select c.id, t.id, case when c.id = b.on_end then 'run' else 'hold' end
      from joblane.batches b, joblane.tasks c
     where b.id = t.batch and c.id = any (array[b.on_end, b.on_success])
       and c.wait_kind is not distinct from 'parents' and c.runs = 0
    on conflict do nothing;
  end if;
  return waits;
end
$$
