"""The checks at the start of a run: limits, rates, order, pauses, parents, batches, deadlines, cancels and leases; and
the model's own view from outside: the answers that callers got, and the notes of handlers.

The checks compare the rows with the model's own view, and share no statement with the library.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joblane import TaskContext
from tests.faults.model.actors import Actor

if TYPE_CHECKING:
    from tests.faults.model.samples import Work
    from tests.faults.model.world import World

RATE_STEP_SECONDS, RATE_BURST = 1.0, 2
LIMITS = {"m:keyed/": 1, "m:keyed": 2, "model-pool": 2, "m:order/": 1, "m:async/": 1}
"""Limit → its declared value. With a slash: of each key."""
LIMITS_OF = {
    "m:keyed": ("m:keyed/", "m:keyed", "model-pool"),
    "m:share": ("model-pool",),
    "m:order": ("m:order/",),
    "m:async": ("m:async/",),
}
"""Type → its limits."""


@dataclass
class SeenBatch:
    """``added``: members that members have added, maybe in a run that did not commit. ``callbacks``: ids of tasks.
    ``is_sealed``: the seal is known to be committed."""

    members: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    callbacks: set[str] = field(default_factory=set)
    is_sealed: bool = False


@dataclass
class Seen:
    """``accepted``: task id → the actors' number of the moment at which its acceptance was known.

    ``ids``: of tasks for operators and parents. ``parents``: child → its parents, and what it does if they die.
    ``made_by``: task → the task and generation in whose run it was enqueued. ``by_hand``: tasks that an operator has
    started at once. ``cancelled``: task → the generation that is known to be cancelled. ``pauses``: scope, name and
    version of the row → the number of the moment at which the pause was known. ``asks``, ``answered``: key → the
    greatest ask that was committed, and that a run has read. ``limits``: limit → the values that it has had.
    ``is_rate_known`` False: an operator has changed the rate. ``rated``: the times of starts since there was no other
    task with the rate. ``events``: event id → how often it came.
    """

    ids: list[str] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    parents: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    made_by: dict[str, tuple[str, int]] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)
    cancelled: dict[str, int] = field(default_factory=dict)
    pauses: dict[tuple[str, ...], int] = field(default_factory=dict)
    asks: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    limits: dict[str, set[int]] = field(default_factory=lambda: {name: {value} for name, value in LIMITS.items()})
    is_rate_known: bool = True
    rated: list[float] = field(default_factory=list)
    batches: dict[str, SeenBatch] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    def accept(self, id_: str, number: int) -> None:
        self.ids.append(id_)
        self.accepted.setdefault(id_, number)

    def batch_of(self, callback: str) -> SeenBatch | None:
        """Return the batch with this callback."""
        return next((batch for batch in self.batches.values() if callback in batch.callbacks), None)


# --- Starts -----------------------------------------------------------------------------------------------------------

EARLY_SECONDS = 2.1
ROW = """
select t.state, t.lease_token::text, t.generation, t.queue, t.tenant, t.attempts, t.max_attempts,
       extract(epoch from t.lease_until)::float8, extract(epoch from t.due_at)::float8,
       extract(epoch from t.deadline)::float8, extract(epoch from a.started_at)::float8
  from joblane.tasks t join joblane.runs a on a.task_id = t.id and a.run = $2 where t.id = $1
"""
LEASED = """
select count(*) from joblane.tasks where state = 'active' and lease_until > clock_timestamp()
   and type = any($1::text[]) and ($2::int is null or coalesce((payload ->> 'number')::int, 0) = $2::int)
"""
EARLIER = """
select o.id from joblane.tasks o, joblane.tasks t
 where t.id = $1 and o.type = t.type and o.id <> t.id and o.payload ->> 'number' = t.payload ->> 'number'
   and o.finished_at is null and o.state in ('scheduled', 'pending', 'held', 'active', 'retry')
   and (o.first_due_at, o.seq) < (t.first_due_at, t.seq)
   and (o.after is null or o.first_due_at < t.first_due_at)
"""
"""A child enters its order when it is released, in virtual time maybe at the same moment as a later task."""
STATES = "select id, state, generation, finished_at is not null from joblane.tasks where id = any($1::text[])"
# A member that an operator has retried can add members after the callback has started.
MEMBERS = f"""{STATES}
   and ($3::int = 1 or created_at < (select min(started_at) from joblane.runs where task_id = $2))"""
SEALED = "select sealed_at is not null from joblane.batches where id = $1"
PAUSES = "select scope, name, xmin::text from joblane.pauses"
OTHERS_RATED = """
select count(*) from joblane.tasks where type = 'm:rated' and finished_at is null and id <> $1
"""
BEFORE_LOST = "select outcome = 'lost' from joblane.runs where task_id = $1 and run = $2 - 1"


@dataclass
class Start:
    """A run that has begun. ``lease``: the end of its lease."""

    id: str
    run: int
    number: int
    generation: int
    queue: str
    tenant: str | None
    lease: float
    at: float


class Starts:
    """The starts of a seed."""

    def __init__(self, world: World) -> None:
        self._world, self._seen = world, world.seen
        self._running: dict[tuple[str, int], Start] = {}
        self._first: dict[tuple[str, int], int] = {}
        """Task and generation → the number of the delivery in which its first run has started."""

    def begin(self, ctx: TaskContext, payload: Work, actor: Actor) -> Start | None:
        """Check a start. None: the run has lost its lease already."""
        id_, run = ctx.task_id, ctx._claim.run
        rows = self._world.observer.run(ROW, id_, run)
        if not rows or rows[0][0] != "active" or rows[0][1] != str(ctx._claim.token):
            self._world.counts["runs that had lost their lease at the start"] += 1
            return None
        _, _, generation, queue, tenant, attempts, most, lease, due, deadline, at = rows[0]
        start = Start(id_, run, actor.number, generation, queue, tenant, lease, at)
        self._world.counts["runs"] += 1
        self._world.counts[f"runs by a message of {actor.messages.get(id_, 'its own id')}"] += 1
        self._if(run == 1 and at < due - EARLY_SECONDS, "a start is early", start, due - at)
        self._if(deadline is not None and at > deadline, "a start is past its deadline", start)
        self._if(attempts > most, "too many attempts", start, attempts, most)
        self._if(self._seen.cancelled.get(id_) == generation, "a cancelled task has started", start)
        self._check_lease(start)
        self._check_limits(start, ctx.type, payload.number)
        self._check_pauses(start, ctx.type)
        if ctx.type == "m:order":
            self._check_order(start, attempts)
        if ctx.type == "m:rated":
            self._check_rate(start)
        if generation == 0 and id_ not in self._seen.by_hand:
            self._check_parents(start)
            self._check_batch(start)
        if ctx.type == "m:asked":
            self._seen.answered[payload.number] = max(self._seen.answered[payload.number], payload.n)
        self._running[id_, run] = start
        return start

    def end(self, start: Start | None) -> None:
        """Note that a handler has returned. A run that was killed in its handler has its lease until it ends."""
        if start is not None:
            del self._running[start.id, start.run]

    def leased_for(self) -> float:
        """Return the time until the leases of all handlers have ended. 0: no handler has a lease."""
        return max([0.0, *(start.lease - self._world.now for start in self._running.values())])

    def _if(self, violated: bool, rule: str, *details: Any) -> None:
        if violated:
            self._world.wrong(rule, *details)

    def _check_lease(self, start: Start) -> None:
        for other in self._running.values():
            if other.id == start.id and other.run != start.run:
                self._if(other.lease > start.at, "a run has started while another one had the lease", start, other)

    def _check_limits(self, start: Start, type_: str, key: int) -> None:
        for limit in LIMITS_OF.get(type_, ()):
            types = [other for other, limits in LIMITS_OF.items() if limit in limits]
            ((held,),) = self._world.observer.run(LEASED, types, key if limit.endswith("/") else None)
            most = max(self._seen.limits[limit])
            self._if(held > most, "over the limit", limit, f"{held} of {most}", start)

    def _check_pauses(self, start: Start, type_: str) -> None:
        """Check for a pause at the claim: it was known before the delivery, and is still there."""
        for *pause, version in self._world.observer.run(PAUSES) if self._seen.pauses else ():
            known = self._seen.pauses.get((*pause, version), start.number) < start.number
            concerns = pause in (["type", type_], ["queue", start.queue], ["tenant", start.tenant])
            self._if(known and concerns, "a start while paused", pause, start)

    def _check_order(self, start: Start, attempts: int) -> None:
        """Check the order. A task keeps its turn for all runs: only tasks accepted before its first run go first."""
        if attempts == 1:
            self._first.setdefault((start.id, start.generation), start.number)
        first = self._first.get((start.id, start.generation), 0)
        for (other,) in self._world.observer.run(EARLIER, start.id) if start.id not in self._seen.by_hand else ():
            known = self._seen.accepted.get(other, first) < first and other not in self._seen.by_hand
            self._if(known, "out of order", start, other)

    def _check_rate(self, start: Start) -> None:
        """Count the starts since the last start without another task of the rate.

        A lost run starts again without its limits.
        """
        rows = self._world.observer.run(BEFORE_LOST, start.id, start.run)
        if not self._seen.is_rate_known or (rows and rows[0][0]):
            return
        rated = self._seen.rated
        if not self._world.observer.run(OTHERS_RATED, start.id)[0][0]:
            rated.clear()
        rated.append(start.at)
        rated.sort()
        most = RATE_BURST + (rated[-1] - rated[0]) / RATE_STEP_SECONDS + 0.5
        self._if(len(rated) > most, "over the rate", start, rated)

    def _check_parents(self, start: Start) -> None:
        parents, policy = self._seen.parents.get(start.id, ([], ""))
        for parent, state, generation, has_ended in self._world.observer.run(STATES, parents) if parents else ():
            may_start = has_ended if policy == "run" else state == "completed"
            self._if(not may_start and generation == 0, "a child before its parent", start, policy, parent, state)

    def _check_batch(self, start: Start) -> None:
        batch = self._seen.batch_of(start.id)
        if batch is None:
            return
        id_, _, kind = start.id.partition(":")
        self._if(not self._world.observer.run(SEALED, id_)[0][0], "a callback before the seal", start)
        rows = self._world.observer.run(MEMBERS, sorted(batch.members | batch.added), start.id, start.run)
        lost = set() if start.run > 1 else batch.members - {row[0] for row in rows}
        self._if(bool(lost) and not self._world.is_old, "members are lost", start, lost)
        for member, state, generation, has_ended in rows:
            may_start = has_ended if kind == "on_end" else state == "completed"
            self._if(not may_start and generation == 0, "a callback before a member", start, member, state)
