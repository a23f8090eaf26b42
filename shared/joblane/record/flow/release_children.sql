-- Releases the children of tasks that have ended. It is called after the commit of that end, and takes a transaction of
-- its own: of two parents that end at the same moment, the one that commits last sees that no parent is left.
--
-- `ended`: tasks that have ended without success, or with more children than the finish lets go; their rows of
-- task_parents are deleted here, and their children are cancelled if they have to be. `children`: tasks of which rows of
-- task_parents were deleted in a transaction that has committed. Each call reads a limited number of rows. The answer:
-- `turns`, the tasks that are released, whose messages the caller sends after the commit; `ended` and `children`, for
-- which the caller calls once more, at once; `later`, children whose rows are locked by others, for which it calls after
-- a pause; `remaining`, ended tasks with further children, which are too many for one call, or locked by others if
-- `progress` is false.
--
-- Only a finish waits for rows of task_parents. Others skip locked rows, so that no finish is in a deadlock.
create or replace function joblane.release_children_@version(ended text[], children text[]) returns json
language plpgsql set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
as $$
declare
  free text[];
  turns json;
  later text[] := '{}';
  fates json;
  progress boolean := false;
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
  -- Decided for each parent, and not for each row: an archived parent may have any number of rows that stay.
  fates := (
    select json_agg(f) from (
      select e.parent, e.on_parent_dead, @parent_lets_go as lets_go, @cancels as cancels, @fate as fate
        from (select o.id as parent, d.on_parent_dead
                from unnest(ended) as o(id), unnest(array['hold', 'cancel', 'run']) as d(on_parent_dead)
               where (select true from joblane.task_parents e
                       where e.parent = o.id and e.on_parent_dead = d.on_parent_dead limit 1)) as e
             left join joblane.tasks p on p.id = e.parent) as f
     where f.lets_go or f.cancels);
  if fates is not null then
    with edges as materialized (
      select e.ctid, e.child, e.parent, f.fate
        from json_to_recordset(fates) as f(parent text, on_parent_dead text, cancels boolean, fate text),
             lateral (select e.ctid, e.child, e.parent from joblane.task_parents e
                       where e.parent = f.parent and e.on_parent_dead = f.on_parent_dead limit @most_released) as e
       where f.cancels limit @most_released
    ),
    children_to_cancel as materialized (
      select distinct on (t.id) t.id, x.parent as parent_id, x.fate as parent_fate
        from edges x,
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
         where e.child = any (array(select c.id from children_to_cancel c))
         limit @most_released for update skip locked))
    ),
    needless as (  -- the child has ended, or an operator has run it
      delete from joblane.task_parents d where d.ctid = any (array(
        select e.ctid from joblane.task_parents e
         where e.ctid = any (array(
                 select x.ctid from edges x
                  where (select true from joblane.tasks t where t.id = x.child and @waits_for_parents limit 1) is null))
           for update skip locked))
      returning d.child
    )
    select coalesce((select array_agg(e.id) from ended_now e), '{}'), exists (select from needless)
      into cancelled, progress;
    with gone as (
      delete from joblane.task_parents d where d.ctid = any (array(
        select e.ctid
          from json_to_recordset(fates) as f(parent text, on_parent_dead text, lets_go boolean),
               lateral (select e.ctid from joblane.task_parents e
                         where e.parent = f.parent and e.on_parent_dead = f.on_parent_dead
                         limit @most_released for update skip locked) as e
         where f.lets_go limit @most_released))
      returning d.child
    )
    select coalesce(array_agg(distinct g.child), '{}') into without_it from gone g;
    progress := progress or cardinality(cancelled) + cardinality(without_it) > 0;
    -- In a later statement than the one that has locked them, as in the finish.
    cancelled := array(
      select c.id from unnest(cancelled) as c(id)
       where (select true from joblane.task_parents e where e.parent = c.id limit 1));
    remaining := array(
      select distinct f.parent from json_to_recordset(fates) as f(parent text, on_parent_dead text)
       where (select true from joblane.task_parents e
               where e.parent = f.parent and e.on_parent_dead = f.on_parent_dead limit 1));
  end if;
  perform set_config('joblane.checks', 'on', true);
  return json_build_object('turns', coalesce(turns, '[]'), 'ended', cancelled, 'children', without_it, 'later', later,
                           'remaining', remaining, 'progress', progress);
end
$$
