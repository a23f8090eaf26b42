-- Lets the tasks that still wait for others wait for a task again that is live again, as if it had never ended: the
-- callback of its batch, and its children that run when it has ended in any way. The others have not stopped waiting.
-- Of a task with very many children only the first are read. The limit of one row lets each be looked up by its key.
create or replace function joblane.wait_again_@version(revived text, batch text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
  insert into joblane.task_parents (child, parent, on_parent_dead)
  select t.id, revived, 'run'
    from (select b.on_end as id from joblane.batches b where b.id = batch
           union
          (select c.child from joblane.task_children c where c.parent = revived limit @most_again)) as x,
         lateral (select t.id from joblane.tasks t
                   where t.id = x.id and t.wait_kind is not distinct from 'parents' and t.runs = 0
                     and (t.callback_of is not null
                          or (t.on_parent_dead = 'run' and revived = any (t.after))) limit 1) as t
  on conflict do nothing;
end
$$
