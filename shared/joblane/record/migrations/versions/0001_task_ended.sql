-- Each statement that ends a task writes its event: the trigger is the only place for it, except for the claim's insert
-- of a task that never runs. A statement that does not set finished_at, such as the start of a run, does not read the
-- condition. A role that may change tasks needs no right on events: the trigger has the rights of the tables' owner. On
-- another role's table it does nothing, because NEW has a type of that role there, whose casts would run as the owner.
create function joblane.task_ended() returns trigger language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'joblane.tasks'::regclass and old.finished_at is null then
        perform joblane.add_event(new);
    end if;
    return null;
end
$$
