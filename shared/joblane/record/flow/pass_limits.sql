-- How far a task gets through its limits, from the narrowest to the widest. At each level it takes a slot, and then a
-- time, if the limit has a rate. `passed` is the last of these steps. A task keeps what it has passed. The caller holds
-- the lock of the widest limit.
--
-- `waits_for`: the limit that does not let it pass, and its `place` among those who wait there. `starts_at`: the time
-- that a rate gives it, if that is later than now. All null: it has passed all limits. `is_next`: it is the first of the
-- list in which it waits.
create or replace function joblane.pass_limits_@version(
  t joblane.tasks, is_next boolean,
  out passed text, out waits_for text, out place float8, out starts_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  names constant text[] := array[t.key_limit, t.total_limit, t.shared_limit];
  steps constant text[] := @steps;  -- in their order
  slots constant text[] := @slots;  -- of each level, the step that takes a slot of its limit
  times constant text[] := @times;  -- and the step that takes a time
  number constant integer := coalesce(array_position(steps, t.passed), 0);
  limit_name text;
  l record;            -- the limit's values
begin
  passed := t.passed;
  for level in 1 .. 3 loop
    continue when number >= array_position(steps, times[level]);
    limit_name := names[level];
    if limit_name is not null then
      select * into l from joblane.limit_of_@version(limit_name);
      if number < array_position(steps, slots[level]) then
        if not joblane.has_room_@version(limit_name, level, l.slots)
           or (level = 1 and t.ordered and @before_it)
           or (not is_next and not (level = 1 and t.ordered) and exists (
                 select from joblane.tasks w
                  where w.wait_kind = 'limit' and w.waits_for = limit_name and w.state = 'held' and w.id <> t.id)) then
          waits_for := limit_name;
          place := case
            when t.waits_for = limit_name then t.place
            when level = 1 then extract(epoch from t.first_due_at)
            else greatest(0,  -- tenants in turns: behind the last of its own tenant, and not before the first of all
              (select w.place from joblane.tasks w
                where w.wait_kind = 'limit' and w.waits_for = limit_name and w.state = 'held'
                order by w.place, w.seq limit 1),
              (select w.place + 1 from joblane.tasks w
                where w.wait_kind = 'limit' and w.waits_for = limit_name and w.state = 'held'
                  and coalesce(w.tenant, '') = coalesce(t.tenant, '')
                order by w.place desc limit 1)) end;
          return;
        end if;
        is_next := false;
      end if;
      passed := times[level];
      if l.step is not null then  -- starts are `step` apart, and up to `burst` of them are saved up
        insert into joblane.rates as r (name, next_at, step, burst)
        values (limit_name, clock_timestamp() + l.step, l.step, l.burst)
        on conflict (name) do update set next_at = greatest(r.next_at, clock_timestamp()) + l.step,
          step = case when r.next_at > clock_timestamp() then r.step else l.step end,
          burst = case when r.next_at > clock_timestamp() then r.burst else l.burst end
        returning greatest(r.next_at - l.burst * l.step, r.delayed_until) into starts_at;
      else  -- a handler has met a limit of another service, see RateLimited
        select r.delayed_until into starts_at from joblane.rates r where r.name = limit_name;
      end if;
      if starts_at > clock_timestamp() then
        return;
      end if;
      starts_at := null;
    end if;
    passed := times[level];
  end loop;
end
$$
