-- Gives new times to the tasks that wait for their time, if another rate has given it, or if no task uses some of the
-- times that a limit has given, for example after a cancellation. The k-th of them starts `first` plus k intervals from
-- now, less the burst. The caller holds the locks of the limits. `level`: theirs, 1 for limits of keys, 2 for totals,
-- 3 for shared limits. A limit keeps its times while another transaction has locked a task that waits for one.
create or replace function joblane.plan_limits_@version(names text[], level integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $function$
declare
  own constant text := (array['key_limit', 'total_limit', 'shared_limit'])[level];
  timed constant text := format($$
    t.%I = $1 and t.passed = %L and t.state in ('pending', 'retry') and t.used_ms = 0 and t.due_at > $2$$,
    own, (@times::text[])[level]);
  limit_name text;
  l record;           -- the limit's values now
  r record;           -- what it has given, and by which rate
  step_now float8;    -- in seconds
  step_before float8;
  burst_before integer;
  clock timestamptz;
  waiting text[];     -- ids of the tasks that wait for their time, in their order
  number integer;     -- of them
  debt float8;        -- seconds that all starts so far have used in advance, those that wait included
  delay float8;       -- seconds for which a handler has delayed the limit: none starts before
  first float8;       -- seconds that starts have used in advance by the new rate, without those that wait
begin
  perform set_config('joblane.checks', 'off', true);
  foreach limit_name in array names loop
    select * into l from joblane.limit_of_@version(limit_name);
    select * into r from joblane.rates x where x.name = limit_name;
    continue when not found;
    clock := clock_timestamp();
    step_now := extract(epoch from l.step);
    step_before := coalesce(extract(epoch from r.step), step_now);
    burst_before := coalesce(r.burst, l.burst);
    debt := extract(epoch from r.next_at - clock);
    delay := greatest(coalesce(extract(epoch from r.delayed_until - clock), 0), 0);
    execute format('select count(*) from joblane.tasks t where %s', timed) into number using limit_name, clock;
    continue when (l.step, l.burst) is not distinct from (r.step, r.burst)
      and debt <= delay + coalesce((number + l.burst) * step_now, 0) + @unused_seconds;
    execute format('select coalesce(array_agg(w.id order by w.due_at, w.seq), ''{}'') from ('
                   'select t.id, t.due_at, t.seq from joblane.tasks t where %s'
                   ' for no key update skip locked) as w', timed)
      into waiting using limit_name, clock;
    continue when cardinality(waiting) < number;

    if step_now is null then
      first := delay;
    elsif delay = 0 then                 -- counted in starts: at most a burst of the debt counts by the new rate
      first := least(greatest(debt / step_before - number, 0), l.burst) * step_now;
    else                                 -- the burst is used up, and the rest of the last interval counts
      first := delay + (l.burst - 1
                        + least(greatest((debt - delay) / step_before - (burst_before - 1) - number, 0), 1)) * step_now;
    end if;

    update joblane.tasks t set
      due_at = n.due_at, sends = 0,
      sweep_at = case when t.sweep_at >= t.due_at and n.due_at between t.due_at and clock + interval '@max_delay s'
                      -- its message comes too early, and is made to wait
                      then n.due_at + interval '@sweep_margin s' else n.due_at - interval '@max_delay s' end
      from (select w.id, clock + make_interval(secs => greatest(delay,
                                                 coalesce(first + (w.place - l.burst) * step_now, 0))) as due_at
              from unnest(waiting) with ordinality as w(id, place)) as n
     where t.id = n.id;
    if step_now is null and delay = 0 then
      delete from joblane.rates x where x.name = limit_name;
    else
      update joblane.rates x
         set next_at = clock + make_interval(secs => first + coalesce(number * step_now, 0)),
             step = l.step, burst = l.burst
       where x.name = limit_name;
    end if;
  end loop;
  perform set_config('joblane.checks', 'on', true);
end
$function$
