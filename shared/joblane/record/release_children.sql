-- Releases the children of tasks that have ended. It is called after the commit of that end, and takes a transaction of
-- its own: of two parents that end at the same moment, the one that commits last sees that no parent is left.
--
-- `ended`: tasks that have ended without success, or whose children are not known; their rows of task_parents are
-- deleted here, and their children are cancelled if they have to be. `children`: tasks of which rows of task_parents
-- were deleted in a transaction that has committed. The answer: `turns`, the tasks that are released, whose messages
-- the caller sends after the commit; `ended` and `children`, for which the caller calls once more, at once; `later`,
-- children whose rows are locked by others, for which it calls after a pause; `remaining`, ended tasks with further
-- children, which are too many for one call, or locked by others.
--
-- Only a finish waits for rows of task_parents. Others skip locked rows, so that no finish is in a deadlock.
create or replace function joblane.release_children_@version(ended text[], children text[]) returns json
language plpgsql set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  free text[];
  turns json;
  later text[] := '{}';
  cancelled text[] := '{}';
  without_it text[] := '{}';
  remaining text[] := '{}';
begin
  perform set_config('joblane.checks', 'off', true);
  -- Most children wait for another parent. An update of the table costs more, as it opens all indexes.
  free := array(select t.id from joblane.tasks t where t.id = any (children) and @is_free);
  if cardinality(free) > 0 then
    with locked as materialized (
      select t.id from joblane.tasks t where t.id = any (free) and @is_free order by t.id for no key update skip locked
    ),
    released as (
      update joblane.tasks t set @set_released where t.id = any (array(select l.id from locked l)) returning t.*
    )
    select json_agg(json_build_object(
             'id', r.id, 'type', r.type, 'queue', r.queue, 'tenant', r.tenant, 'schema', r.schema, 'headers', r.headers,
             'delay', greatest(0, extract(epoch from r.due_at - clock_timestamp()))))
      into turns from released r;
    later := array(select t.id from joblane.tasks t where t.id = any (free) and @is_free);
  end if;
  if cardinality(ended) > 0 then
    with children_to_cancel as materialized (
      select distinct on (t.id) t.id, x.parent_id, x.parent_fate
        from (select e.child, e.parent as parent_id, @fate as parent_fate
                from joblane.task_parents e left join joblane.tasks p on p.id = e.parent
               where e.parent = any (ended) and @cancels_child limit @most_released) as x,
             lateral (select t.id from joblane.tasks t where t.id = x.child and @waits_for_parents
                         for no key update skip locked) as t
    ),
    ended_now as (
      update joblane.tasks t set @set_cancelled_by_parent
        from children_to_cancel c
       where t.id = c.id
      returning t.id
    ),
    theirs as (
      delete from joblane.task_parents d where d.ctid = any (array(
        select e.ctid from joblane.task_parents e
         where e.child = any (array(select c.id from children_to_cancel c)) for update skip locked))
    )
    select coalesce(array_agg(e.id), '{}') into cancelled from ended_now e;
    with gone as (
      delete from joblane.task_parents d where d.ctid = any (array(
        select e.ctid from joblane.task_parents e
         where e.parent = any (ended) and @parent_lets_go limit @most_released for update skip locked))
      returning d.child
    )
    select coalesce(array_agg(distinct g.child), '{}') into without_it from gone g;
    remaining := array(
      select o.id from unnest(ended) as o(id)
       where (select true from joblane.task_parents e left join joblane.tasks p on p.id = e.parent
               where e.parent = o.id and (@parent_lets_go or @cancels_child) limit 1));
  end if;
  perform set_config('joblane.checks', 'on', true);
  return json_build_object('turns', coalesce(turns, '[]'), 'ended', cancelled, 'children', without_it, 'later', later,
                           'remaining', remaining);
end
$$
