-- True if fewer tasks than `slots` have a slot of a limit. A live task has one while `passed` says so, whatever its
-- lease says: nothing is counted up or down. `level`: 1 for the limit of a key, 2 for a total, 3 for a shared limit.
-- Without `finished_at is null`, as PostgreSQL might then read all live tasks from their index.
create or replace function joblane.has_room_@version(limit_name text, level integer, slots integer) returns boolean
language plpgsql stable as $$
begin
  if slots is null then
    return true;
  end if;
  return slots > case level
    when 1 then (select count(*) from (select from joblane.tasks t
                 where t.key_limit = limit_name and t.passed @has_key_slot and t.state in @live limit slots) as x)
    when 2 then (select count(*) from (select from joblane.tasks t
                 where t.total_limit = limit_name and t.passed @has_type_slot and t.state in @live limit slots) as x)
    else (select count(*) from (select from joblane.tasks t
            where t.shared_limit = limit_name and t.passed @has_shared_slot and t.state in @live limit slots) as x)
  end;
end
$$
