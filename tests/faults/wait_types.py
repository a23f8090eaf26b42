"""The types of the storm of waits, and what their runs write into tables of the storm."""

from __future__ import annotations

import queue
import random
import threading
import time
from datetime import timedelta
from functools import partial

from sqlalchemy import text

from joblane import Grants, Job, Payload, TaskContext
from joblane.errors import ChildFailed
from joblane.tasks.limit import Limit
from tests.faults.declared import declared, follow

REPEATABLE = 0.3
"""The share of runs in the isolation level repeatable read."""
AIMED: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
"""Tasks and signals of runs that are about to stop."""
HERE = threading.local()
"""The task and the signal for which the thread's handler waits."""
FIRST_SECONDS = 3
LONG = timedelta(hours=1)
EVERY = timedelta(seconds=2)
EXPIRED = "expired"
TABLES = """
create table public.got (id text, name text, value text);
create table public.early (id text, child text);
create table public.looks (id text);
create index on public.looks (id);
"""
EFFECT = text("insert into public.effects values (:id)")
GOT = text("insert into public.got values (:id, :name, cast(:value as json)::text)")
LOOK = text("insert into public.looks values (:id)")
LOOKS = text("select count(*) from public.looks where id = :id")
EARLY = text("""
insert into public.early
select :id, c.id from joblane.task_waits w, joblane.tasks c
 where w.task_id = :id and w.name = :name and c.id = any (w.children) and c.finished_at is null and c.generation = 0
""")


class Asked(Payload):
    """``script``: what the runs of each part between two waits do, one after the other. ``children``: the scripts of
    its children. ``fails_after``: the first run that continues after this wait fails. ``looks``: the look at which a
    poll has its value; 0: it expires. ``key``: of an order."""

    script: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    fails_after: str = ""
    looks: int = 0
    key: int = 0


def begin(payload: Asked, ctx: TaskContext) -> None:
    HERE.waits = None
    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
        ctx.session.execute(text("select from public.got limit 1"))
        time.sleep(random.random() * 0.02)
    follow(next(iter(payload.script[ctx.attempt - 1 :]), ""), timedelta(milliseconds=50))


def asked(payload: Asked, ctx: TaskContext) -> None:
    begin(payload, ctx)
    first = timedelta(seconds=0.5 if ctx.type in ORDERED else FIRST_SECONDS)  # it is not early
    for name, timeout in (("a", first), ("b", LONG)):
        HERE.waits = ctx.task_id, name
        got(payload, ctx, name, ctx.wait(name, timeout=timeout, default=EXPIRED))
    ctx.session.execute(EFFECT, {"id": ctx.task_id})


def polls(payload: Asked, ctx: TaskContext) -> None:
    begin(payload, ctx)
    timeout = LONG if payload.looks else timedelta(seconds=FIRST_SECONDS)
    value = ctx.poll("ready", partial(look, payload, ctx), every=EVERY, timeout=timeout, default=EXPIRED)
    got(payload, ctx, "ready", value)
    ctx.session.execute(EFFECT, {"id": ctx.task_id})


def look(payload: Asked, ctx: TaskContext) -> str | None:
    ctx.session.execute(LOOK, {"id": ctx.task_id})
    has_come = 0 < payload.looks <= ctx.session.scalar(LOOKS, {"id": ctx.task_id})
    return "yes" if has_come else None


def family(payload: Asked, ctx: TaskContext) -> None:
    """Wait for all children, and then for one more."""
    begin(payload, ctx)
    others = [*payload.children]
    for name, scripts in (("all", others), ("one", others[:1])):
        jobs = [Job(CHILD, Asked(script=(script,) * 9 if script != "retry" else (script,))) for script in scripts]
        try:
            found = ctx.gather(name, jobs) if name == "all" else [ctx.run(name, CHILD, jobs[0].payload)]
            value = f"{sum(each or 0 for each in found)}"
        except ChildFailed:
            value = "failed"
        ctx.session.execute(EARLY, {"id": ctx.task_id, "name": name})
        got(payload, ctx, name, value)
    ctx.session.execute(EFFECT, {"id": ctx.task_id})


def child(payload: Asked, ctx: TaskContext) -> int:
    begin(payload, ctx)
    time.sleep(random.random() * 0.02)
    ctx.session.execute(EFFECT, {"id": ctx.task_id})
    return 1


def got(payload: Asked, ctx: TaskContext, name: str, value: str) -> None:
    """Keep what a wait has got, and sleep."""
    if payload.fails_after == name and ctx.attempt == 1:
        follow("fail")
    ctx.step(f"after {name}", partial(keep, ctx, name, value))
    ctx.sleep(f"nap {name}", timedelta(milliseconds=20))


def keep(ctx: TaskContext, name: str, value: str, _: str) -> None:
    ctx.session.execute(GOT, {"id": ctx.task_id, "name": name, "value": f'"{value}"'})


OF_CHILDREN = "wait:child"
HOME = Limit("home", total=12)
IN_ORDER = {"key": "key", "order": "first-due"}
OF_PARENTS = {"handler": family, "grants": Grants(run=(OF_CHILDREN,))}
TASKS = declared(
    asked,
    {
        "wait:one": {},
        "wait:many": {"batch_size": 4},
        "wait:limited": {"max_total": 3},
        "wait:order": IN_ORDER,
        "wait:poll": {"handler": polls, "batch_size": 4},
        OF_CHILDREN: {"handler": child, "batch_size": 4, "limit": HOME},
        "wait:family": OF_PARENTS,
        "wait:families": OF_PARENTS | {"batch_size": 4, "limit": HOME},
        "wait:heirs": OF_PARENTS | IN_ORDER,
    },
    max_retry=4,
    retry_delay=timedelta(0),
    timeout=timedelta(seconds=30),
)
CHILD = TASKS[OF_CHILDREN]
OFTEN = ("wait:one", "wait:many", "wait:limited", "wait:family")
"""The types that have twice as many tasks as others."""
ORDERED = {type_ for type_, task in TASKS.items() if task.flow is not None and task.flow.ordered}
