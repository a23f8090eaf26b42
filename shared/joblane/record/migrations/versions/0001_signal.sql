-- Sends a signal to a task, in the caller's transaction. True: it counts. False: another one of this name came before, or
-- the task has completed, was cancelled, or was cleared. It locks no row of a task, so an open transaction delays no run.
-- The sweep lets a task continue that waits for it, unless the caller does so after the commit.
create function joblane.signal(task_id text, name text, value json default 'null', sent_by text default null)
returns boolean language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '5s' as $$
#variable_conflict use_variable
declare
    size constant integer := octet_length(coalesce(value, 'null')::text);
begin
    if (name ~ '^[ -~]{1,100}$') is not true then
        raise exception 'signal: 1 to 100 printable ASCII characters are required' using errcode = '22023';
    end if;
    if size > 65536 then
        raise exception 'value: at most 65,536 bytes are required, not %', size using errcode = '22023';
    end if;
    if (select count(*) >= 1000 or sum(octet_length(s.value::text)) + size > 1048576
          from joblane.task_signals s where s.task_id = task_id) then
        raise exception 'signal: the task has 1,000 signals, or signals of 1 MiB, and gets no more'
            using errcode = '54000';
    end if;
    insert into joblane.task_signals as s (task_id, name, value, sent_by)
    select t.id, name, coalesce(value, 'null'), sent_by from joblane.tasks t
     where t.id = task_id and (t.finished_at is null or (t.state = 'archived' and not t.cleared))
    on conflict do nothing;
    if found then
        return true;
    end if;
    if not exists (select from joblane.tasks t where t.id = task_id) then
        raise exception 'task_id: there is no task %', quote_nullable(task_id) using errcode = 'P0002';
    end if;
    return false;
end
$$
