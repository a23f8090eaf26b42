-- Writes the event of an ended task if its row names the kind. A role that may change tasks needs no right on events.
create function joblane.add_event(t joblane.tasks) returns void language plpgsql
security definer set search_path = pg_catalog as $$
begin
    if t.finished_at is not null and t.options -> 'events' ? t.state then
        insert into joblane.events (id, detail)
        values (t.id || ':' || t.generation || ':' || t.state, joblane.event(t)) on conflict do nothing;
    end if;
end
$$
