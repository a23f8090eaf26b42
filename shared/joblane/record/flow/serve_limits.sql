-- Gives what limits have free to the tasks that wait for them. Freeing a slot needs no lock; giving one does. Two call
-- this after their commit: who has freed a slot (the end of a run, a cancel, a pause, a raised limit), and who has left a
-- task waiting (a claim). The later of both commits sees the other's work, so at least one of them finds the task and the
-- slot. Both look without the lock first, as usually nobody waits, or no slot is free.
--
-- `freed`: an array of [limit of the key, total, shared limit], null where there is none. The answer: `turns`, the tasks
-- that may start, whose messages the caller sends after the commit; and such arrays for which the caller asks once more:
-- `again` at once, as tasks wait for another limit now, or are too many for one call; `later` after a pause, as the
-- tasks that would be next are locked by others.
create or replace function joblane.serve_limits_@version(freed json) returns json language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  keys text[];
  totals text[];
  shared text[];
  l record;            -- the values of the limit that is served
  limit_name text;
  w joblane.tasks;     -- the first task that waits for it
  way record;          -- how far that task gets
  turns json[] := '{}';
  again json[] := '{}';
  later json[] := '{}';
  parked integer := 0;
begin
  if not exists (
    select from json_array_elements(freed) as f,
           lateral (values (1, f ->> 0), (2, f ->> 1), (3, f ->> 2)) as n(level, name)
     where case when (select true from joblane.tasks t
                       where t.wait_kind = 'limit' and t.waits_for = n.name and t.state = 'held' limit 1)
                then joblane.has_room_@version(n.name, n.level, (joblane.limit_of_@version(n.name)).slots) end)
  then
    return json_build_object('turns', turns, 'again', again, 'later', later);
  end if;
  select array_agg(f ->> 0), array_agg(f ->> 1), array_agg(f ->> 2) into keys, totals, shared
    from json_array_elements(freed) as f;
  perform joblane.lock_limits_@version(
    array(select coalesce(f ->> 2, f ->> 1, f ->> 0) from json_array_elements(freed) as f));
  perform set_config('joblane.checks', 'off', true);
  -- Widest first: a task that comes up from a narrower limit does not overtake those who wait for the wider one.
  for level in reverse 3 .. 1 loop
    for limit_name in
      select distinct n from unnest(case level when 3 then shared when 2 then totals else keys end) as n
       where n is not null order by 1
    loop
      select * into l from joblane.limit_of_@version(limit_name);
      while joblane.has_room_@version(limit_name, level, l.slots) loop
        select * into w from joblane.tasks t
         where t.wait_kind = 'limit' and t.waits_for = limit_name and t.state = 'held'
         order by t.place, t.seq limit 1 for no key update skip locked;
        if not found then
          later := later || array(
            select json_build_array(t.key_limit, t.total_limit, t.shared_limit) from joblane.tasks t
             where t.wait_kind = 'limit' and t.waits_for = limit_name and t.state = 'held'
             order by t.place, t.seq limit 1);
          exit;
        elsif cardinality(turns) = @most_turns or parked = @most_parked then  -- the lock is not held for long
          again := again || json_build_array(w.key_limit, w.total_limit, w.shared_limit);
          exit;
        end if;
        -- Not due, or paused: it leaves its limits, and waits without them.
        if w.due_at > clock_timestamp() + interval '@early s' or @waiter_paused then
          parked := parked + 1;
          update joblane.tasks t set @set_park where t.id = w.id;
          if level = 3 then
            totals := totals || w.total_limit;
          end if;
          if level > 1 then
            keys := keys || w.key_limit;
          end if;
          continue;
        end if;
        select * into way from joblane.pass_limits_@version(w, true);
        if way.waits_for = limit_name then  -- a task before it in its order runs first, and may be locked
          if exists (select from joblane.tasks t
                      where t.wait_kind = 'limit' and t.waits_for = limit_name and t.state = 'held'
                        and (t.place, t.seq) < (w.place, w.seq)) then
            later := later || json_build_array(w.key_limit, w.total_limit, w.shared_limit);
          end if;
          exit;
        end if;
        if way.waits_for is not null then
          update joblane.tasks t set @set_hold where t.id = w.id;
          again := again || json_build_array(w.key_limit, w.total_limit, w.shared_limit);
          continue;
        elsif way.starts_at is not null then
          update joblane.tasks t set @set_start_later where t.id = w.id returning * into w;
        else
          update joblane.tasks t set @set_turn where t.id = w.id returning * into w;
        end if;
        turns := turns || json_build_object(
          'id', w.id, 'type', w.type, 'queue', w.queue, 'tenant', w.tenant, 'schema', w.schema, 'headers', w.headers,
          'delay', greatest(0, extract(epoch from w.due_at - clock_timestamp())));
      end loop;
    end loop;
  end loop;
  perform set_config('joblane.checks', 'on', true);
  return json_build_object('turns', turns, 'again', again, 'later', later);
end
$$
