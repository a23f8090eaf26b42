-- Gives new times to the tasks that wait for their time, after the rate of limits has changed. The k-th of them starts
-- `first` plus k intervals from now, less the burst. The caller holds the locks of the limits. `level`: theirs, 1 for
-- limits of keys, 2 for totals, 3 for shared limits. `step_before` (seconds, null: no rate) and `burst_before`: the rate
-- before. A limit whose rate is the same keeps its times.
create or replace function joblane.plan_limits_@version(
  names text[], level integer, step_before float8, burst_before integer) returns void
language plpgsql set enable_seqscan = off
as $function$
declare
  own constant text := (array['key_limit', 'total_limit', 'shared_limit'])[level];
  timed constant text := format($$
    t.passed = %s and t.state in ('pending', 'retry') and t.used_ms = 0 and t.due_at > clock_timestamp()$$, 2 * level);
  limit_name text;
  l record;           -- the limit's values now
  step float8;        -- in seconds
  clock timestamptz;
  waiting text[];     -- ids of the tasks that wait for their time, in their order
  number integer;     -- of them
  debt float8;        -- seconds that all starts so far have used in advance, those that wait included
  delay float8;       -- seconds for which a handler has delayed the limit: none starts before
  first float8;       -- seconds that starts have used in advance by the new rate, without those that wait
begin
  execute format('select from joblane.tasks t where t.%I = any ($1) and %s order by t.id for no key update', own, timed)
    using names;
  perform set_config('joblane.checks', 'off', true);
  foreach limit_name in array names loop
    select * into l from joblane.limit_of_@version(limit_name);
    step := extract(epoch from l.step);
    continue when (step, l.burst) is not distinct from (step_before, burst_before);
    clock := clock_timestamp();
    execute format('select coalesce(array_agg(t.id order by t.due_at, t.seq), ''{}'') from joblane.tasks t'
                   ' where t.%I = $1 and %s', own, timed)
      into waiting using limit_name;
    number := cardinality(waiting);
    select coalesce(extract(epoch from min(r.next_at) - clock), 0),
           greatest(coalesce(extract(epoch from min(r.delayed_until) - clock), 0), 0)
      into debt, delay
      from joblane.rates r where r.name = limit_name;

    if step is null then
      first := delay;
    elsif step_before is null then       -- a debt without a rate is a delay
      first := case when debt > 0 then debt + (l.burst - 1) * step else 0 end;
    elsif delay = 0 then                 -- counted in starts: at most a burst of the debt counts by the new rate
      first := least(greatest(debt / step_before - number, 0), l.burst) * step;
    else                                 -- the burst is used up, and the rest of the last interval counts
      first := delay + (l.burst - 1
                        + least(greatest((debt - delay) / step_before - (burst_before - 1) - number, 0), 1)) * step;
    end if;

    update joblane.tasks t set
      due_at = n.due_at, sends = 0,
      sweep_at = case when t.sweep_at >= t.due_at and n.due_at between t.due_at and clock + interval '@max_delay s'
                      -- its message comes too early, and is made to wait
                      then n.due_at + interval '@sweep_margin s' else n.due_at - interval '@max_delay s' end
      from (select w.id, clock + make_interval(secs => greatest(delay,
                                                 coalesce(first + (w.place - l.burst) * step, 0))) as due_at
              from unnest(waiting) with ordinality as w(id, place)) as n
     where t.id = n.id;
    if step is null and delay = 0 then
      delete from joblane.rates r where r.name = limit_name;
    else
      update joblane.rates r set next_at = clock + make_interval(secs => first + coalesce(number * step, 0))
       where r.name = limit_name;
    end if;
  end loop;
  perform set_config('joblane.checks', 'on', true);
end
$function$
