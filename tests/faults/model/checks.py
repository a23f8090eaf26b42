"""The checks during and at the end of a seed: effects, steps, ticks, asks, events, dead letters, and an end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.model.world import World

AT_ANY_TIME = {
    "an effect took place twice": """
select id, generation, count(*) from public.ledger where what = 'done' group by 1, 2 having count(*) > 1""",
    "a step took effect twice": """
select id, what, count(*) from public.ledger where what like 'step%' group by 1, 2 having count(*) > 1""",
    "state and effect differ": """
select t.id, t.type, t.state, t.generation, t.runs from joblane.tasks t
 where t.type like 'm:%' and (t.finished_at is not null or t.state <> 'completed')
   and (t.state = 'completed') <> exists (
         select from public.ledger e where e.id = t.id and e.generation = t.generation and e.what = 'done')""",
    "a run took effect after its lease was lost": """
select e.id, e.generation, e.run, a.run from public.ledger e join joblane.runs a on a.task_id = e.id
 where e.what = 'done' and a.generation = e.generation and a.run > e.run""",
    "two live tasks have a unique key": """
select unique_key, array_agg(id) from joblane.tasks
 where unique_key is not null and finished_at is null and state in ('scheduled', 'pending', 'held', 'active', 'retry')
 group by 1 having count(*) > 1""",
    "two tasks have the key of a step": """
select key, count(distinct id) from public.calls group by 1 having count(distinct id) > 1""",
    "a step has two keys": """
select id, step from public.calls group by 1, 2 having count(distinct key) > 1""",
    "a tick ran twice": """
select t.schedule, substr(t.id, 1, length(t.schedule) + 18), array_agg(t.id)
  from joblane.tasks t join public.ledger e on e.id = t.id and e.what = 'done'
 where t.schedule is not null and t.id like '@%' group by 1, 2 having count(*) > 1""",
}
LIVE = """
select t.id, t.type, t.state, t.wait_kind, t.due_at - now(), t.sweep_at - now(),
       (select array_agg(e.parent || e.parent_batch) from joblane.task_parents e where e.child = t.id)
  from joblane.tasks t where t.finished_at is null and t.type like 'm:%'
"""
ARCHIVED = "select id, generation, dead_sent_at is not null from joblane.tasks where state = 'archived' and not cleared"
WITHOUT_OUTCOME = """
select a.task_id, a.run from joblane.runs a where a.outcome is null and a.type like 'm:%'
   and not exists (select from joblane.tasks t where t.id = a.task_id and t.state = 'active')
"""
EVENTS = """
select id, generation - (cleared and state = 'archived')::int, state from joblane.tasks
 where state = any (events) and finished_at is not null
"""
ANSWERED_OTHERWISE = """
select id, state, reason from joblane.tasks where type = 'm:asked' and state in ('archived', 'cancelled')
   and reason is not null and (payload ->> 'number')::int = $1 and (payload ->> 'n')::int >= $2
"""
OF_KEY = """
select t.id, t.state, t.runs, t.reason, t.payload::text,
       (select json_agg(json_build_array(a.run, a.outcome)) from joblane.runs a where a.task_id = t.id)
  from joblane.tasks t where t.type = 'm:asked' and (t.payload is null or (t.payload ->> 'number')::int = $1)
"""
STATES = "select id, state from joblane.tasks"
DONE = "select id, generation from public.ledger where what = 'done'"


Rows = Mapping[str, Iterable[Sequence[object]]]
"""Rule → the rows that violate it."""


def check(world: World) -> None:
    """Check what must hold at any time."""
    run, seen = world.observer.run, world.seen
    states = dict(run(STATES))
    done = {(id_, generation) for id_, generation in run(DONE)}
    reported = {event: event.rsplit(":", 2) for event in seen.events}
    found: Rows = {
        **{rule: run(sql) for rule, sql in AT_ANY_TIME.items()},
        "a task was rolled back, and is there": [(id_,) for id_ in seen.rolled_back & states.keys()],
        "a run has enqueued a task and did not commit": [
            (id_, maker) for id_, maker in seen.made_by.items() if id_ in states and maker not in done
        ],
        "an event reports an end that is not there": [
            (event,)
            for event, (id_, generation, kind) in reported.items()
            if kind == "completed" and (id_, int(generation)) not in done and id_ in states
        ],
    }
    _report(world, found)


def check_end(world: World) -> None:
    """Check a world that is quiet."""
    check(world)
    run, seen, states = world.observer.run, world.seen, dict(world.observer.run(STATES))
    unanswered = [(key, ask) for key, ask in seen.asks.items() if seen.answered[key] < ask]
    ended_otherwise = [(key, ask) for key, ask in unanswered if run(ANSWERED_OTHERWISE, key, ask)]
    accepted = set[str]() if world.is_old else set(seen.accepted)
    sealed = [batch for batch in seen.batches.values() if batch.is_sealed and not world.is_old]
    found: Rows = {
        "a task was accepted, and is lost": [(id_,) for id_ in accepted - states.keys()],
        "a task still waits in the end": waiting_without_reason(world),
        "a task was archived without a dead letter": [
            (id_, generation)
            for id_, generation, is_sent in run(ARCHIVED)
            if not is_sent or not world.queues.dead_letters[id_, generation]
        ],
        "a run has no outcome": run(WITHOUT_OUTCOME),
        "an event is missing": [row for row in run(EVENTS) if not seen.events[":".join(map(str, row))]],
        "an ask was lost": [
            (key, ask, seen.answered[key], run(OF_KEY, key))
            for key, ask in unanswered
            if (key, ask) not in ended_otherwise
        ],
        "a callback is lost": [(id_,) for batch in sealed for id_ in batch.callbacks - states.keys()],
    }
    _report(world, found)
    world.counts["asks that ended without a run"] += len(ended_otherwise)
    world.counts.update(f"tasks {state}" for state in states.values())
    world.counts["events"] += seen.events.total()


def _report(world: World, found: Rows) -> None:
    for rule, rows in found.items():
        for row in rows:
            world.wrong(rule, *row)


def waiting_without_reason(world: World) -> list[list[Any]]:
    """Return the live tasks, except those that wait for an archived parent, maybe through others."""
    live, states = world.observer.run(LIVE), dict(world.observer.run(STATES))
    allowed: set[str] = set()
    while more := {
        row[0]
        for row in live
        if row[0] not in allowed
        and row[3] == "parents"
        and any(parent in allowed or states.get(parent) == "archived" for parent in row[6] or ())
    }:
        allowed |= more
    return [row for row in live if row[0] not in allowed]
