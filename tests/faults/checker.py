"""The check at the end of a run: the rules that must hold, with a line for each violation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from joblane.quotas import SNOOZE_CEILING
from joblane.record.row.states import ENDED_SQL
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE
from tests.faults.mix import Mix, children_of
from tests.faults.queues import Message
from tests.faults.samples import CHUNK

EARLY_SECONDS = 2.2
"""A run may start this early: the tolerance of the claim, and a margin for clocks that differ."""
UNCOUNTED = "('snoozed', 'mismatch', 'continued')"
SHOWN = 12
"""The most lines per rule."""
RULES: dict[str, str] = {
    "has not ended: {history}": f"select id from joblane.tasks where state not in {ENDED_SQL}",
    "has a lease: {history}": "select id from joblane.tasks where num_nonnulls(lease_token, lease_until) > 0",
    "{1}: {2} of {history}": """
select e.task, case min(t.type) when 'mix:steps' then 'a step''s work is there twice' else 'done twice' end,
       string_agg(coalesce(nullif(e.item, ''), 'its row'), ', ')
  from (select task, item from public.effects group by 1, 2 having count(*) > 1) as e
  left join joblane.tasks t on t.id = e.task
 group by 1""",
    "{1} effects: {history}": f"""
select t.id, e.found
  from joblane.tasks t,
       lateral (select count(distinct item)::int as found from public.effects where task = t.id) as e,
       lateral (select coalesce((t.payload ->> 'items')::int, 0) as wanted, t.state = 'completed' as is_done,
                       coalesce((select done::int from joblane.task_cursors where task_id = t.id), 0) as moved,
                       (select count(*) from joblane.task_items where task_id = t.id) as items,
                       (select count(*) from joblane.task_steps where task_id = t.id) as steps) as w
 where not case
         when t.type in ('mix:row', 'mix:child', 'mix:parent', 'mix:only', 'mix:alert', 'mix:watched', 'mix:tick',
                         'mix:overlap', 'mix:ordered', 'mix:single', 'mix:after') then found = is_done::int
         when t.type = 'mix:batch' then found = case when is_done then wanted else 0 end
         when t.type = 'mix:each' then found = w.items and (not is_done or found = wanted)
         when t.type = 'mix:steps' then found = w.steps and (not is_done or found = wanted)
         when t.type in ('mix:long', 'mix:select', 'mix:pages')
           then found = w.moved and (w.moved = wanted or not is_done and w.moved % {CHUNK} = 0)
         else true end""",
    "one job as two tasks, {1} and {history}": """
select max(id), min(id) from joblane.tasks
 where type like 'mix:%' and state = 'completed' and payload ->> 'nonce' is not null
 group by payload ->> 'nonce' having count(*) > 1""",
    "called after its commit: step {1} of {history}": """
select distinct c.task, c.step from public.calls c join joblane.task_steps s on s.task_id = c.task
   and s.name = c.step and c.at > s.created_at order by 1, 2""",
    "several keys: step {1} of {history}": """
select task, step from public.calls group by 1, 2 having count(distinct key) > 1 order by 1, 2""",
    "completed without a run: {history}": """
select id from joblane.tasks where state = 'completed' and type like 'mix:%' and type <> 'mix:alert'
   and id not in (select task from public.starts)""",
    "run {1}, attempt {2} of {3}: {history}": """
select task, run, attempt, max_attempts from public.starts where attempt > max_attempts""",
    "attempts {1} of {2}, snoozes {3}: {history}": f"""
select id, attempts, max_attempts, snoozes from joblane.tasks
 where attempts > max_attempts or snoozes > {SNOOZE_CEILING}""",
    "a run without an outcome: {history}": """
select distinct task_id from joblane.runs where outcome is null""",
    "completed twice: {history}": """
select task_id from joblane.runs where outcome = 'completed' group by 1 having count(*) > 1""",
    "completed by a run without a lease: {history}": """
select distinct task_id from joblane.runs a where outcome = 'completed'
   and exists (select from joblane.runs where task_id = a.task_id and run > a.run)""",
    "run {1} began {2:.1f} s early: {history}": f"""
select task, run, early from public.starts where early > {EARLY_SECONDS}""",
    "run {1} began {2:.1f} s after its deadline: {history}": f"""
select task, run, overdue from public.starts where overdue > {EARLY_SECONDS}""",
    "the dead letter is not marked: {history}": """
select id from joblane.tasks where state = 'archived' and dead_sent_at is null""",
    "successors {1}, not {2}: {history}": """
select t.id, found, wanted
  from joblane.tasks t,
       lateral (select array_agg(id order by id) as found from joblane.tasks
                 where starts_with(id, t.id || ':archived:')) as f,
       lateral (select array_agg(id order by id) as wanted
                  from (select t.id || ':archived:' || n as id
                          from generate_series(0, t.generation + (t.state = 'archived')::int - 1) n) as ids) as w
 where t.type = 'mix:watched' and found is distinct from wanted""",
    "{1} is held twice: by {history} and {2}": """
select distinct task, what, other from public.conflicts order by 1, 2, 3""",
}
"""The line of a violated rule → the statement that finds its tasks, the id first."""
BEFORE_PARENT = """
select distinct x.child
  from jsonb_to_recordset($1::jsonb) as x(child text, parent text)
  join joblane.tasks p on p.id = x.parent and p.generation = 0
  join public.starts s on s.task = x.child and (s.at < p.finished_at or p.finished_at is null)
"""
"""A parent of a later generation was revived after its child had started."""
MORE_RUNS = f"""
select t.id, t.max_attempts from joblane.tasks t
 where t.type not in ('mix:batch', 'mix:only') and t.id <> all ($1::text[])
   and exists (select from joblane.runs where task_id = t.id and coalesce(outcome, '') not in {UNCOUNTED}
                group by generation having count(*) > t.max_attempts)
"""
"""A run lost in a batch is not counted, and a replaced task starts again from zero."""


@dataclass
class Evidence:
    """The facts at the end of a run. ``left``: messages in the lanes. ``created``, ``replaced``, ``cancelled``: the
    results of the producers; ``cancelled`` also has the tasks that the storm cancelled."""

    sql: Callable[..., list[list[Any]]]
    mix: Mix
    dead_letters: Sequence[tuple[str, Message]]
    left: Sequence[str]
    created: set[str]
    replaced: set[str]
    cancelled: Mapping[str, str]

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row[0]["id"]: row[0] for row in self.sql("select to_jsonb(t) from joblane.tasks t")}

    @cached_property
    def sent_dead(self) -> set[tuple[str, int]]:
        """Ids and generations of the dead letters with a reason."""
        return {
            (dead_letter.about, int(dead_letter.attributes[DEAD_ATTRIBUTE]["StringValue"]))
            for _, dead_letter in self.dead_letters
            if dead_letter.attributes.get(REASON_ATTRIBUTE, {}).get("StringValue")
        }

    def history(self, id_: str) -> str:
        """Return a task and its runs, as text."""
        row = self.rows.get(id_, {})
        runs = self.sql("select run, attempt, outcome from joblane.runs where task_id = $1 order by run", id_)
        outcomes = " ".join(":".join(map(str, run)) for run in runs)
        return f"{id_} ({row.get('type')}, {row.get('state')}, {row.get('reason')}; run:attempt:outcome {outcomes})"


def check(evidence: Evidence) -> list[str]:
    """Return the violated rules, one line each."""
    violations: list[str] = []
    rules = {line: _found(evidence, line, evidence.sql(statement)) for line, statement in RULES.items()}
    more_runs = evidence.sql(MORE_RUNS, [*evidence.replaced])
    rules["more runs"] = _found(evidence, "more runs than {1}: {history}", more_runs)
    for name, found in {**rules, **_of_producers(evidence)}.items():
        lines = list(found)
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"{name}: and {len(lines) - SHOWN} more"]
        violations += lines
    return violations


def _found(e: Evidence, line: str, rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in rows:
        yield line.format(*row, history=e.history(row[0]))


def _of_producers(e: Evidence) -> dict[str, Iterable[str]]:
    """Compare the rows with what producers and queues know. Return rule → lines."""
    rows, refused = e.rows, {about for about, _ in e.sent_dead}
    promised = {row[0] for row in e.sql("select id from public.promises")}
    started = {row[0] for row in e.sql("select distinct task from public.starts")}
    completed = {id_ for id_, row in rows.items() if row["state"] == "completed"}
    archived = [(id_, row["generation"]) for id_, row in rows.items() if row["state"] == "archived"]
    children = {id_: children_of(id_, job) for id_, job in e.mix.jobs.items()}
    found = {id_: [child for child in ids if child in rows] for id_, ids in children.items()}
    held = {key: f"mix:only {key}" for key in sorted(e.mix.keys) if f"probe-{key}" not in e.created}
    return {
        "left": (f"left in a lane: {left}" for left in e.left),
        "lost": (
            f"lost: {id_}, although its enqueue was committed"
            for id_ in sorted((promised | e.created) - rows.keys() - refused)
        ),
        "rolled back": (
            f"exists, although it was rolled back: {e.history(id_)}"
            for id_ in sorted(e.mix.rolled_back & (rows.keys() | started))
        ),
        "external messages": _of_external_messages(e),
        "parents": (
            f"ran before the end of its parent: {e.history(id_)}"
            for (id_,) in e.sql(BEFORE_PARENT, json.dumps(list(_pairs(e.mix))))
        ),
        "ticks": (f"lost: the tick {id_}" for id_ in sorted(e.mix.ticks - rows.keys())),
        "children": (
            f"{len(found[id_])} children: {e.history(id_)}"
            for id_, ids in children.items()
            if found[id_] != (ids if id_ in completed else [])
        ),
        "dead letters": (
            f"no dead letter of generation {generation}: {e.history(id_)}"
            for id_, generation in archived
            if rows[id_]["dead_sent_at"] and (id_, generation) not in e.sent_dead
        ),
        "cancels": (
            f"cancelled while {state}: {e.history(id_)}"
            for id_, state in e.cancelled.items()
            if rows.get(id_, {}).get("state") != "cancelled"
        ),
        "keys": (
            f"{key} is held by a task that has ended: one of "
            f"{[id_ for id_, row in rows.items() if row['unique_key'] == holder]}"
            for key, holder in held.items()
        ),
    }


def _pairs(mix: Mix) -> Iterator[Mapping[str, str]]:
    """Yield each task that waits for another one, with that one."""
    for id_, job in mix.jobs.items():
        yield from ({"child": id_, "parent": parent} for parent in job["options"].get("after", ()))


def _of_external_messages(e: Evidence) -> Iterator[str]:
    """Each has a row or is a dead letter."""
    states = {(row["payload"] or {}).get("nonce"): row["state"] for row in e.rows.values()}
    refused = [dead_letter.body for _, dead_letter in e.dead_letters if dead_letter.attributes.get(REASON_ATTRIBUTE)]
    for nonce, runs in e.mix.external.items():
        if nonce not in states and not any(nonce in body for body in refused):
            yield f"lost: the external message {nonce}"
        elif not runs and states.get(nonce) == "completed":
            yield f"completed, although it is unreadable: the external message {nonce}"
