-- Writes the event of an ended task if its row names the kind. Its caller needs the right to insert events:
-- otherwise a role that may only read could write events of tasks that do not exist.
create function joblane.add_event(t joblane.tasks) returns void language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
    if t.finished_at is not null and t.state = any (t.events) then
        insert into joblane.events (id, detail)
        values (t.id || ':' || t.generation || ':' || t.state, joblane.event(t)) on conflict do nothing;
    end if;
end
$$
