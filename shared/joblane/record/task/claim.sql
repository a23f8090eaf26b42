-- The claim: see the table of verdicts in claim.py. It decides on each message in turn, on a row that it has locked.
-- Rows are locked in the order of their ids, because two overlapping batches would otherwise deadlock. All times come
-- from the database's clock. functions.py replaces the names with @: constants, conditions, and transitions of `t`.
-- `lease_seconds` is null if another function runs the type: then no run starts, and the row waits as if it were paused.
create or replace function joblane.claim_@version(messages json, token uuid, lease_seconds float8, invocation text)
returns json language plpgsql
set lock_timeout = '500ms' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  setting text;           -- an assignment costs less than `perform`
  members constant integer := json_array_length(messages);
  any_paused constant boolean := lease_seconds is null or exists (select from joblane.pauses);
  locked_limits text[];   -- the widest limits of the tasks that may ask for a slot
  widest text;            -- the widest limit of the task. Null: it has none
  asks boolean;           -- it has not passed its limits yet
  way record;             -- how far it gets through them
  parent_open boolean;    -- it waits for its parents
  parent_id text;         -- a parent that cancels it
  parent_fate text;       -- how that parent ended
  is_released boolean;    -- it does not wait for its parents any more
  has_relatives boolean;  -- it waits for its parents, or it has ended, and children wait for it
  leased_until constant timestamptz := clock_timestamp() + pg_catalog.make_interval(secs => lease_seconds);
  answers json[];
  m record;               -- the message
  t joblane.tasks;        -- its row: as it was found, then as it is written
  waits boolean;          -- wait for a locked row. At first only if the message is recorded: another may have no row,
                          -- and its insert finds out
  is_locked boolean;      -- another transaction has not released the row
  is_new boolean;         -- no row was found: the message's is inserted
  clock timestamptz;      -- the time, once the row is locked
  paused boolean;         -- the type, queue or tenant is paused, or another function runs the type
  skipped text;           -- why the schedule of a new tick does not run it
  takes_key boolean;      -- the row is not live yet, so a transition that makes it live takes its unique key
  is_tick boolean;        -- of a task that takes its key: a due tick that the sweep has made
  holder joblane.tasks;   -- the live task that holds the key
  uncounted integer;      -- 1 if the lost run was claimed in a batch, so that it does not count as an attempt
  first_attempt integer;  -- its only run so far has this number, and is on its row. Null: no, or it does not run
  verdict text;
  refusal text;
  changed boolean;        -- a transition was applied to `t`
begin
  setting := set_config('joblane.checks', 'off', true);
  if strpos(messages::text, '"limits"') > 0 then  -- most types have no limit
    -- Before any row is locked. A task whose turn it is has its slots, and needs no lock.
    select pg_catalog.array_agg(x.widest) into locked_limits
      from (select coalesce(
                     (select case when r.passed = @passed_all or r.finished_at is not null or r.state = 'active' then ''
                                  else coalesce(r.shared_limit, r.total_limit, r.key_limit, '') end
                        from joblane.tasks r where r.id = y.id),
                     y.limits[3], y.limits[2], y.limits[1]) as widest
              from json_to_recordset(messages) as y(id text, limits text[])
             where y.limits is not null) as x
     where x.widest <> '';
    if locked_limits is not null then
      begin
        perform joblane.lock_limits_@version(locked_limits);
        perform set_config('lock_timeout', '10ms', true);  -- others wait for these locks: do not wait for rows as well
      exception when lock_not_available then
        locked_limits := null;
      end;
    end if;
  end if;
  for m in
    select * from json_to_recordset(messages) as x(
      @arrived_fields, rec boolean, dead_generation integer)
    order by x.id collate "C"
  loop
    waits := m.rec;
    loop  -- once, or again if another transaction inserts the same id or unique key at the same moment
      changed := false; refusal := null; holder := null; is_locked := false; is_released := false; is_tick := false;
      parent_open := false; parent_id := null; skipped := null;

      -- Lock the row, and read it as one value: `select *` sets up each column for each message. Most rows are there
      -- and free. Only a wait needs a subtransaction.
      t := r from joblane.tasks r where r.id = m.id for no key update skip locked;
      is_new := t.id is null;
      if is_new and waits then
        begin
          t := r from joblane.tasks r where r.id = m.id for no key update;
          is_new := t.id is null;
        exception when lock_not_available or deadlock_detected then
          is_locked := true;
          perform set_config('lock_timeout', '10ms', true);  -- for each further lock of the batch
        end;
      end if;
      clock := clock_timestamp();
      if is_new and not m.rec then
        @arrived
        if not (m.rest is null) then
          @arrived_rest
          if t.schedule is not null then  -- a tick of a schedule of the code
            select case when s.paused_at is not null and (s.paused_until > clock) is not false
                        then 'SchedulePaused: its schedule is paused'
                        when s.passed_until is null then null
                        when cast(right(t.id, 17) as timestamptz) <= s.passed_until
                        then 'TickMissed: it came late, and its schedule has gone on without it' end
              into skipped from joblane.schedules s where s.name = t.schedule and s.origin = 'code';
          end if;
        end if;
        t.state := 'pending'; t.generation := coalesce(m.dead_generation, 0); t.due_at := clock;
        t.attempts := 0; t.runs := 0; t.snoozes := 0; t.used_ms := 0; t.sends := 0; t.batch_size := 0;
        t.claim_alone := false; t.dead_letter_unsent := false;
        t.first_due_at := case when m.limits is not null then clock end;
        t.seq := case when m.limits is not null then pg_catalog.nextval('joblane.tasks_seq'::regclass) end;
      end if;
      if t.wait_kind = 'parents' and t.finished_at is null then  -- most tasks have no parents
        begin
          select * into parent_open, parent_id, parent_fate
            from joblane.open_parents_@version(t.id, t.place is not null or (t.callback_of is not null and t.runs = 0));
          is_released := not parent_open and parent_id is null;
          parent_open := parent_open and (t.deadline <= clock) is not true;
        exception when lock_not_available or deadlock_detected then
          is_locked := true;
          perform set_config('lock_timeout', '10ms', true);
        end;
      end if;
      if is_released then
        t.wait_kind := null; t.place := null;
        t.first_due_at := case when t.seq is not null then coalesce(t.first_due_at, greatest(t.due_at, clock)) end;
      end if;
      widest := coalesce(t.shared_limit, t.total_limit, t.key_limit);
      asks := widest is not null and t.passed is distinct from @passed_all and m.limits is not null;
      paused := false;
      if any_paused then
        paused := lease_seconds is null or @paused;
      end if;
      -- A due tick that the sweep has made takes its key now. This is no statement of its own, for it would cost each
      -- task. Most tasks have no unique_expires_at.
      takes_key := is_new or t.state = 'archived'
                or (t.unique_expires_at > clock and t.unique_key is null and t.runs = 0 and t.finished_at is null
                    and not paused and t.due_at <= clock + interval '@early s' and t.tick_key is not null);
      if takes_key then
        is_tick := not is_new and t.state <> 'archived';
        if is_tick then
          t.unique_key := t.tick_key;
        end if;
        if t.unique_key is not null then
          select * into holder from joblane.tasks h
           where h.unique_key = t.unique_key and h.finished_at is null and h.id <> t.id;
          if t.state <> 'archived' and (holder.unique_expires_at <= clock or holder.state not in @live) then
            -- Its `unique_for` has passed, or it was ended by SQL. Do not wait for its lock: the batch may have locked
            -- higher ids already.
            update joblane.tasks r set unique_key = null
             where r.id = (select h.id from joblane.tasks h
                            where h.id = holder.id and h.unique_key = t.unique_key
                              and (h.unique_expires_at <= clock or h.state not in @live)
                              for no key update skip locked);
            is_locked := not found;
            holder := null;
          end if;
        end if;
      end if;
      uncounted := (t.state = 'active' and t.batch_size > 1)::integer;
      first_attempt := case when t.state = 'active' and t.runs = 1 and t.started_at is not null then t.attempts end;

      -- Decide. The comments are the rows of the table in claim.py, in its order.
      if is_locked then                                    -- locked by another transaction: any
        verdict := 'locked';
      elsif t.id is null then                              -- none: recorded
        verdict := 'gone';
      elsif skipped is not null then                       -- none: tick that its schedule does not run
        verdict := 'ended'; @tick_skipped
      elsif (is_new or is_tick) and holder.lease_token = token then  -- none, or due tick: key taken earlier in the batch
        verdict := 'claim_alone';
      elsif (is_new or is_tick) and holder.id is not null then  -- none, or due tick: unique key taken
        verdict := 'ended'; @duplicate
      elsif t.type <> m.type                               -- any: another type, or external with another payload
         or (not m.rec and t.payload_digest <> m.payload_digest and (m.rest).schedule is null) then
        verdict := 'conflict';
      elsif t.state in ('completed', 'cancelled') then     -- completed, cancelled: any
        verdict := 'ended';
      elsif t.state = 'archived' then
        if t.generation is distinct from m.dead_generation then
          if t.dead_sent_at is null then                   -- archived, dead letter not sent: other message
            verdict := 'send_dead_letter';
          else                                             -- archived: other message
            verdict := 'obsolete';
          end if;
        elsif holder.id is not null then                   -- archived, unique key taken: dead letter of this generation
          verdict := 'taken'; refusal := 'DuplicateTask: its unique key is held by ' || holder.id;
        elsif paused then                                  -- archived, paused: dead letter of this generation
          verdict := 'paused'; @revive_paused
        elsif widest is not null then                      -- archived, has a limit: dead letter of this generation
          verdict := 'wait'; @revive_limited
        else                                               -- archived: dead letter of this generation
          verdict := 'run'; @revive
        end if;
      elsif t.lease_token = token then                     -- active, a run of this claim: repeated after a lost answer
        verdict := 'run';
      elsif t.state = 'active' and t.lease_until > clock then  -- active, lease valid: any
        verdict := 'leased';
      elsif t.state = 'active' then
        if t.cancel_requested_at is not null then          -- active, lease over, cancel requested: any
          verdict := 'ended'; @cancel_lost
        elsif uncounted = 0 and t.attempts >= t.max_attempts then  -- active, lease over, no attempts left: any
          verdict := 'archived'; @lost
        elsif t.deadline <= clock then                     -- active, lease over, past its deadline: any
          verdict := 'archived'; @overdue
        elsif paused then                                  -- active, lease over, paused: any
          verdict := 'paused'; @release
        elsif members > 1 then                             -- active, lease over: in a batch
          verdict := 'claim_alone'; @release
        elsif widest is not null and t.passed is distinct from @passed_all then  -- active, lease over, slots taken back: any
          verdict := 'claim_alone'; @release
        else                                               -- active, lease over: alone
          verdict := 'run'; @run
        end if;
      elsif parent_id is not null then                     -- waiting, a parent cancels it: any
        verdict := 'ended'; @cancelled_by_parent
      elsif parent_open then                               -- waiting, a parent is open: any
        verdict := 'held'; @hold_for_parents
      elsif paused then                                    -- waiting, paused: any
        verdict := 'paused'; @park
      elsif t.deadline <= clock then                       -- waiting, past its deadline: any
        verdict := 'archived'; @overdue
      elsif t.due_at > clock + (case when t.passed is null then interval '@early s' else '0' end) then  -- waiting, not due yet: any
        verdict := 'wait';
      elsif t.claim_alone and members > 1 then             -- waiting, claim_alone is set: in a batch
        verdict := 'claim_alone';
      elsif not asks then                                  -- waiting, due, has its slots or no limit: any
        verdict := 'run'; @run
      elsif (widest = any (locked_limits)) is not true then  -- waiting, due, its limits are locked: any
        verdict := 'locked';
      else  -- its limits decide
        select * into way from joblane.pass_limits_@version(t, false);
        if way.waits_for is not null then                  -- waiting, due, gets no slot: any
          verdict := 'held'; @hold
        elsif way.starts_at is not null then               -- waiting, due, gets a later time by a rate: any
          verdict := 'wait'; @start_later
        else                                               -- waiting, due, gets its slots: any
          verdict := 'run'; @run_with_slots
        end if;
      end if;

      -- Write. Only a row that becomes live can meet another one, and only a new one can be refused.
      exit when not changed;
      if not takes_key then
        if verdict = 'run' and not asks and not is_released then
          update joblane.tasks r set (@run_columns) = (@run_values) where r.id = t.id;
        else
          update joblane.tasks r set (@columns) = (@values) where r.id = t.id;
        end if;
        exit;
      end if;
      begin
        if is_new then
          insert into joblane.tasks
                 (@arrived_columns, payload, @columns)
          values (@arrived_values, m.payload::jsonb, @values)
          on conflict do nothing returning payload into t.payload;
        else
          update joblane.tasks r set (@columns) = (@values) where r.id = t.id;
        end if;
        exit when found;
      exception
        when unique_violation then
          null;
        when lock_not_available or deadlock_detected then
          verdict := 'locked';
          perform set_config('lock_timeout', '10ms', true);
          exit;
        when data_exception or program_limit_exceeded then
          verdict := 'refused'; refusal := rtrim(split_part(sqlerrm, '"', 1), ' :') || ' (' || sqlstate || ')';
          exit;
      end;
      waits := true;
    end loop;

    if is_new and t.finished_at is not null and t.events is not null then  -- the trigger is for updates only
      perform joblane.add_event(r) from joblane.tasks r where r.id = t.id;
    end if;
    if changed and takes_key and not is_new then
      perform joblane.wait_again_@version(t.id, t.batch);
    end if;
    if changed and first_attempt is not null then  -- a run that does not complete has a row of its own
      insert into joblane.task_attempts (@run_start, outcome, finished_at, @lost_names)
      values (t.id, 1, first_attempt, t.generation, t.started_at, t.request_id, t.type, t.queue, t.tenant, @waited,
              'lost', clock, @lost_error)
      @again;
    end if;
    if not is_new and t.runs > 1 then  -- an earlier run that has not reported its end is lost
      update joblane.task_attempts a set outcome = 'lost', finished_at = clock, (@lost_names) = row (@lost_error)
       where a.task_id = t.id and a.outcome is null and (a.run < t.runs or t.state <> 'active');
    end if;
    if verdict = 'run' and changed and t.runs > 1 then
      insert into joblane.task_attempts (@run_start)
      values (t.id, t.runs, t.attempts, t.generation, clock, invocation, t.type, t.queue, t.tenant,
              greatest(0, date_part('epoch', clock - t.due_at) * float8 '1000'))
      @again;
    end if;
    has_relatives := null;
    if changed and verdict in ('held', 'ended', 'archived') then
      has_relatives := t.wait_kind = 'parents' or exists (select from joblane.task_parents e where e.parent = t.id);
    end if;
    -- Without a subquery, which PL/pgSQL runs much faster.
    answers := pg_catalog.array_append(answers, pg_catalog.json_build_object(
      'id', m.id, 'verdict', verdict, 'run', t.runs, 'attempt', t.attempts, 'max_attempts', t.max_attempts,
      'snoozes', t.snoozes, 'generation', t.generation, 'payload', t.payload::text, 'schema', t.schema,
      'headers', t.headers::text, 'options', t.options::text,
      'batch', t.batch, 'depth', t.depth, 'events', t.events, 'used_ms', t.used_ms, 'reason', coalesce(refusal, t.reason),
      'wait', date_part('epoch', case when verdict = 'leased' then t.lease_until else t.due_at end - clock),
      'left', date_part('epoch', t.deadline - clock),
      'mismatch', date_part('epoch', clock - t.mismatch_since),
      'limits', case when widest is not null then array[t.key_limit, t.total_limit, t.shared_limit] end,
      'serve', widest is not null and verdict in ('held', 'ended', 'archived', 'paused', 'send_dead_letter'),
      'release', has_relatives));
  end loop;
  setting := set_config('joblane.checks', 'on', true);
  return pg_catalog.to_json(answers);
end
$$
