"""The check at the end of a run: the rules that must hold, with a line for each violation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from joblane.quotas import SNOOZE_CEILING
from joblane.sqs.message import DEAD_ATTRIBUTE, REASON_ATTRIBUTE
from tests.faults.mix import Mix, children_of
from tests.faults.queues import Message
from tests.faults.samples import CHUNK, TASKS

ENDED = ("completed", "archived", "cancelled")
ONE_EFFECT = ("mix:row", "mix:child", "mix:parent", "mix:only", "mix:alert", "mix:watched", "mix:tick", "mix:overlap")
RECORDED = {type_ for type_ in TASKS if type_ != "mix:alert"}
"""Types whose handlers record their starts."""
EARLY_SECONDS = 2.2
"""A run may start this early: the tolerance of the claim, and a margin for clocks that differ."""
UNCOUNTED = ("snoozed", "mismatch", "continued")
SHOWN = 12
"""The most lines per rule."""


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
    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.sql("select to_jsonb(a) from joblane.task_attempts a order by task_id, run"):
            found[row[0]["task_id"]].append(row[0])
        return found

    @cached_property
    def effects(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for task, item, number in self.sql("select task, item, count(*)::int from public.effects group by 1, 2"):
            found[task][item] = number
        return found

    @cached_property
    def started(self) -> set[str]:
        return {row[0] for row in self.sql("select distinct task from public.starts")}

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
        runs = [f"{a['run']}:{a['attempt']}:{a['outcome']}" for a in self.attempts.get(id_, [])]
        return (
            f"{id_} ({row.get('type')}, {row.get('state')}, {row.get('reason')}; run:attempt:outcome {' '.join(runs)})"
        )


Check = Callable[[Evidence], Iterator[str]]
CHECKS: list[Check] = []


def check(evidence: Evidence) -> list[str]:
    violations: list[str] = []
    for check_rule in CHECKS:
        lines = list(check_rule(evidence))
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"{check_rule.__name__}: and {len(lines) - SHOWN} more"]
        violations += lines
    return violations


def rule(function: Check) -> Check:
    CHECKS.append(function)
    return function


# --- Nothing is lost -----------------------------------------------------------------------------------------------


@rule
def every_task_has_ended(e: Evidence) -> Iterator[str]:
    for id_, row in e.rows.items():
        if row["state"] not in ENDED:
            yield f"has not ended: {e.history(id_)}"
        if row["lease_token"] or row["lease_until"]:
            yield f"has a lease: {e.history(id_)}"
    for left in e.left:
        yield f"left in a lane: {left}"


@rule
def committed_tasks_exist(e: Evidence) -> Iterator[str]:
    promised = {row[0] for row in e.sql("select id from public.promises")}
    for id_ in sorted(promised | e.created):
        if id_ not in e.rows and not _refused(e, id_):
            yield f"lost: {id_}, although its enqueue was committed"


def _refused(e: Evidence, id_: str) -> bool:
    return any(about == id_ for about, _ in e.sent_dead)


@rule
def rolled_back_tasks_do_not_exist(e: Evidence) -> Iterator[str]:
    for id_ in sorted(e.mix.rolled_back & (e.rows.keys() | e.started)):
        yield f"exists, although it was rolled back: {e.history(id_)}"


@rule
def every_external_message_has_a_row_or_is_a_dead_letter(e: Evidence) -> Iterator[str]:
    states = {(row["payload"] or {}).get("nonce"): row["state"] for row in e.rows.values()}
    refused = [dead_letter.body for _, dead_letter in e.dead_letters if dead_letter.attributes.get(REASON_ATTRIBUTE)]
    for nonce, runs in e.mix.external.items():
        if nonce not in states and not any(nonce in body for body in refused):
            yield f"lost: the external message {nonce}"
        elif not runs and states.get(nonce) == "completed":
            yield f"completed, although it is unreadable: the external message {nonce}"


@rule
def every_tick_ran_or_was_skipped(e: Evidence) -> Iterator[str]:
    for id_ in sorted(e.mix.ticks - e.rows.keys()):
        yield f"lost: the tick {id_}"


# --- Nothing is done twice -----------------------------------------------------------------------------------------


@rule
def no_effect_happened_twice(e: Evidence) -> Iterator[str]:
    for id_, items in e.effects.items():
        if twice := [item for item, number in items.items() if number > 1]:
            what = "a step's work is there twice" if e.rows.get(id_, {}).get("type") == "mix:steps" else "done twice"
            yield f"{what}: {', '.join(twice) or 'its row'} of {e.history(id_)}"


@rule
def effects_match_completed_work(e: Evidence) -> Iterator[str]:
    items = Counter(row[0] for row in e.sql("select task_id from joblane.task_items"))
    cursors = {row[0]: row[1] for row in e.sql("select task_id, done::int from joblane.task_cursors")}
    steps = Counter(row[0] for row in e.sql("select task_id from joblane.task_steps"))
    for id_, row in e.rows.items():
        found, wanted = len(e.effects.get(id_, ())), (row["payload"] or {}).get("items", 0)
        completed = row["state"] == "completed"
        match row["type"]:
            case type_ if type_ in ONE_EFFECT:
                is_right = found == completed
            case "mix:batch":
                is_right = found == (completed and wanted)
            case "mix:each":
                is_right = found == items[id_] and (not completed or found == wanted)
            case "mix:steps":
                is_right = found == steps[id_] and (not completed or found == wanted)
            case "mix:long" | "mix:select" | "mix:pages":
                done = cursors.get(id_, 0)
                is_right = found == done and (done == wanted if completed else done % CHUNK == 0 or done == wanted)
            case _:
                is_right = True
        if not is_right:
            yield f"{found} effects: {e.history(id_)}"


@rule
def a_committed_step_is_not_called_again(e: Evidence) -> Iterator[str]:
    for id_, step in e.sql(
        "select distinct c.task, c.step from public.calls c join joblane.task_steps s on s.task_id = c.task"
        " and s.name = c.step and c.at > s.created_at order by 1, 2"
    ):
        yield f"called after its commit: step {step} of {e.history(id_)}"


@rule
def a_step_has_one_key(e: Evidence) -> Iterator[str]:
    for id_, step in e.sql(
        "select task, step from public.calls group by 1, 2 having count(distinct key) > 1 order by 1, 2"
    ):
        yield f"several keys: step {step} of {e.history(id_)}"


@rule
def completed_tasks_have_run(e: Evidence) -> Iterator[str]:
    for id_, row in e.rows.items():
        if row["state"] == "completed" and row["type"] in RECORDED and id_ not in e.started:
            yield f"completed without a run: {e.history(id_)}"


@rule
def children_exist_only_if_their_parent_completed(e: Evidence) -> Iterator[str]:
    for id_, job in e.mix.jobs.items():
        state = e.rows.get(id_, {}).get("state")
        children = [child for child in children_of(id_, job) if child in e.rows]
        if len(children) != (len(children_of(id_, job)) if state == "completed" else 0):
            yield f"{len(children)} children: {e.history(id_)}"


# --- Attempts and times --------------------------------------------------------------------------------------------


@rule
def no_task_ran_more_often_than_it_may(e: Evidence) -> Iterator[str]:
    for id_, *counts in e.sql(
        "select task, run, attempt, max_attempts from public.starts where attempt > max_attempts"
    ):
        yield f"run, attempt and max_attempts {counts}: {e.history(id_)}"
    for id_, row in e.rows.items():
        counted: Counter[int] = Counter()
        for attempt in e.attempts.get(id_, []):
            counted[attempt["generation"]] += attempt["outcome"] not in UNCOUNTED
        # A run lost in a batch is not counted, and a replaced task starts again from zero.
        exact = row["type"] != "mix:batch" and id_ not in e.replaced and row["type"] != "mix:only"
        if exact and any(number > row["max_attempts"] for number in counted.values()):
            yield f"more runs than {row['max_attempts']}: {e.history(id_)}"
        if row["attempts"] > row["max_attempts"] or row["snoozes"] > SNOOZE_CEILING:
            yield f"attempts {row['attempts']} of {row['max_attempts']}, snoozes {row['snoozes']}: {e.history(id_)}"


@rule
def every_run_has_an_outcome(e: Evidence) -> Iterator[str]:
    for id_, attempts in e.attempts.items():
        if any(attempt["outcome"] is None for attempt in attempts):
            yield f"a run without an outcome: {e.history(id_)}"
        if sum(attempt["outcome"] == "completed" for attempt in attempts) > 1:
            yield f"completed twice: {e.history(id_)}"
        if any(attempt["outcome"] == "completed" for attempt in attempts[:-1]):
            yield f"completed by a run without a lease: {e.history(id_)}"


@rule
def no_run_is_early_or_after_its_deadline(e: Evidence) -> Iterator[str]:
    late = "select task, run, early, overdue from public.starts where early > $1::float8 or overdue > $1::float8"
    for id_, number, early, overdue in e.sql(late, str(EARLY_SECONDS)):
        time = f"{early:.1f} s early" if early > EARLY_SECONDS else f"{overdue:.1f} s after its deadline"
        yield f"run {number} began {time}: {e.history(id_)}"


# --- Tasks that did not complete -----------------------------------------------------------------------------------


@rule
def archived_tasks_have_a_dead_letter(e: Evidence) -> Iterator[str]:
    for id_, row in e.rows.items():
        if row["state"] == "archived":
            if not row["dead_sent_at"]:
                yield f"the dead letter is not marked: {e.history(id_)}"
            elif (id_, row["generation"]) not in e.sent_dead:
                yield f"no dead letter of generation {row['generation']}: {e.history(id_)}"


@rule
def archived_tasks_have_one_successor(e: Evidence) -> Iterator[str]:
    for id_, row in e.rows.items():
        if row["type"] == "mix:watched":
            times = row["generation"] + (row["state"] == "archived")
            wanted = {f"{id_}:archived:{number}" for number in range(times)}
            found = {other for other in e.rows if other.startswith(f"{id_}:archived:")}
            if wanted != found:
                yield f"successors {sorted(found)}, not {sorted(wanted)}: {e.history(id_)}"


@rule
def cancelled_tasks_have_ended(e: Evidence) -> Iterator[str]:
    for id_, state in e.cancelled.items():
        if e.rows[id_]["state"] != "cancelled":
            yield f"cancelled while {state}: {e.history(id_)}"


@rule
def a_key_or_a_schedule_has_one_live_task(e: Evidence) -> Iterator[str]:
    for what, task, other in e.sql("select distinct what, task, other from public.conflicts order by 1, 2, 3"):
        yield f"{what} is held twice: by {e.history(task)} and {e.history(other)}"


@rule
def every_key_is_free_at_the_end(e: Evidence) -> Iterator[str]:
    for key in sorted(e.mix.keys):
        if f"probe-{key}" not in e.created:
            holders = [id_ for id_, row in e.rows.items() if row["unique_key"] == f"mix:only {key}"]
            yield f"{key} is held by a task that has ended: one of {holders}"
