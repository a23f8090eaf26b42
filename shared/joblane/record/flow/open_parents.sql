-- The parents for which a task still waits, as its claim decides. The caller has locked the task's row.
--
-- `is_held`: a claim of this task has called the function before, or each row of joblane.task_parents was inserted
-- together with its parent's row. Otherwise a parent may be at its end: it has looked for children, did not see this
-- one, and has not committed. So the first call locks the parents' rows, which waits for that commit. A parent that
-- ends later finds the child, because the finish looks for children after it has locked its own row.
--
-- `is_open`: a parent has not ended, or is archived and the child waits for its redrive. The states decide, as a parent
-- with many children leaves rows to the release. Only the callback of a batch has more rows than are read here; it waits
-- for the release. `parent_id`, `parent_fate`: a parent that cancels the child, and how it ended; null: none.
create or replace function joblane.open_parents_@version(
  child text, is_held boolean, out is_open boolean, out parent_id text, out parent_fate text)
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
  if not is_held then
    perform from joblane.tasks t
      where t.id = any (array(select e.parent from joblane.task_parents e where e.child = open_parents_@version.child))
      order by t.id for share;
    delete from joblane.task_parents d where d.ctid = any (array(
      select e.ctid from joblane.task_parents e
       where e.child = open_parents_@version.child and @parent_lets_go for update skip locked));
    select e.parent, @fate into parent_id, parent_fate
      from joblane.task_parents e left join joblane.tasks p on p.id = e.parent
     where e.child = open_parents_@version.child and @cancels limit 1;
  end if;
  is_open := exists (select from (select * from joblane.task_parents e
                                    where e.child = open_parents_@version.child limit @most_released) as e
                      where not @parent_lets_go)
          or exists (select from joblane.task_parents e
                      where e.child = open_parents_@version.child offset @most_released);
end
$$
