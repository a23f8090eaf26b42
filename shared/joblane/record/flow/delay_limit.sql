-- Lets no task of a limit start within the next `delay_seconds`, a day at most: a handler has met the limit of another
-- service, see RateLimited. Tasks that have got a later time by a rate keep their distances, from that moment on.
-- `limits`: of the key, of the type, shared; the widest is delayed.
create or replace function joblane.delay_limit_@version(limits text[], delay_seconds float8) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set enable_seqscan = off
as $function$
declare
  level constant integer := case when limits[3] is not null then 3 when limits[2] is not null then 2 else 1 end;
  limit_name constant text := limits[level];
  l record;
  opens timestamptz;
  waiting text[];     -- ids of the tasks that wait for their time
  later interval;
begin
  perform joblane.lock_limits_@version(array[limit_name]);
  select * into l from joblane.limit_of_@version(limit_name);
  opens := clock_timestamp() + make_interval(secs => least(delay_seconds, @longest_delay));
  execute format($$
    select array_agg(t.id), greatest(interval '0', $1 - min(t.due_at))
      from (select t.id, t.due_at from joblane.tasks t
             where t.%1$I = $2 and t.passed = %2$L and t.state in ('pending', 'retry') and t.used_ms = 0
               and t.due_at > clock_timestamp()
             for no key update skip locked) as t
  $$, (array['key_limit', 'total_limit', 'shared_limit'])[level], (@times::text[])[level])
    into waiting, later using opens, limit_name;
  perform set_config('joblane.checks', 'off', true);
  update joblane.tasks t set
    due_at = t.due_at + later,
    sweep_at = case when t.due_at + later > clock_timestamp() + interval '@max_delay s'
                    then t.due_at + later - interval '@max_delay s'
                    else t.due_at + later + interval '@sweep_margin s' end
   where t.id = any (waiting) and later > interval '0';
  perform set_config('joblane.checks', 'on', true);
  insert into joblane.rates as r (name, next_at, delayed_until, step, burst)
  values (limit_name, opens + coalesce((l.burst - 1) * l.step, '0'), opens, l.step, l.burst)
  on conflict (name) do update set next_at = greatest(r.next_at + coalesce(later, '0'), excluded.next_at),
                                   delayed_until = greatest(r.delayed_until, opens);
end
$function$
