-- Tasks have ended, and let their children go: see finish.sql and finish_one.sql. It answers with the tasks themselves,
-- as `finished`, and deletes their rows of task_parents, in a later statement than the one that has locked the tasks: it
-- sees a child that was inserted in between, see open_parents.sql. A task may have any number of children, so only the
-- first rows are deleted here. `released`: pairs of a task and such a child. `look`: tasks with further rows, whose
-- children the caller has to look for after the commit.
create or replace function joblane.let_go_@version(tasks text[], states text[]) returns json language plpgsql
set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  released json;
  look text[];
begin
  with gone as (
    delete from joblane.task_parents d where d.ctid = any (array(
      select e.ctid
        from unnest(tasks, states) as x(id, state),
             lateral (select e.ctid from joblane.task_parents e
                       where e.parent = x.id and e.on_parent_dead = any (
                               case when x.state = 'completed' then array['hold', 'cancel', 'run']
                                    when x.state in @ended then array['run'] end)
                       limit @most_released for update) as e
       limit @most_released))
    returning d.parent, d.child
  )
  select pg_catalog.json_agg(pg_catalog.json_build_array(g.parent, g.child)) into released from gone g;
  if current_setting('transaction_isolation') <> 'read committed' then  -- its snapshot may be older than a child
    look := tasks;
  else
    select pg_catalog.array_agg(x.id) into look from unnest(tasks, states) as x(id, state)
     where x.state in @ended and (select true from joblane.task_parents e where e.parent = x.id limit 1);
  end if;
  return pg_catalog.json_build_object('finished', tasks, 'released', released, 'look', look);
end
$$
