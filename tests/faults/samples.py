"""The tasks of the mix. Each run follows its payload's script, and its start is recorded outside of its transaction.

The script has one word for each run; later runs have ``ok``. The words: ``fail``, ``skip``, ``revoke``,
``retry:SECONDS``, ``snooze:SECONDS``, ``hang`` (longer than the timeout), ``freeze:MS`` (slow, then completes),
``outrun`` (so slow that another run takes over the task, then completes), ``die`` (SIGKILL). A run does its work first,
and then follows the word.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, select, text

from joblane import ArchivedTask, Grants, Job, Payload, Queue, RetryAfter, TaskContext
from joblane.record.driver.database import Database
from joblane.record.row.states import LIVE_SQL
from tests.faults.declared import declared, follow

TABLES = (
    # The effects of runs, in the session of their task. Without a constraint, so that a second effect is visible.
    "create table public.effects (task text not null, item text not null, run integer)",
    # The tasks that were enqueued in a session, written in the same transaction.
    "create table public.promises (id text not null)",
    # Every start of a handler.
    """create table public.starts (
      task text, run integer, attempt integer, max_attempts integer, generation integer, at timestamptz, early float8,
      overdue float8)""",
    "create index on public.starts (task)",
    # The calls of steps.
    "create table public.calls (task text, step text, key text, run integer, at timestamptz)",
    # Runs that wait for another run to take over their task.
    "create table public.frozen (task text)",
    # The rows that some long tasks read.
    "create table public.numbers (n integer primary key)",
    "insert into public.numbers select generate_series(0, 99)",
    # A key, or a schedule without overlap, that two live tasks had at the same time; a limit of 1 with two runs.
    "create table public.conflicts (what text, task text, other text)",
    f"""create function public.record_conflict() returns trigger language plpgsql as $$ begin
      insert into public.conflicts
      select coalesce(new.unique_key, new.type), new.id, t.id from joblane.tasks t
       where t.id <> new.id and t.state in {LIVE_SQL}
         and (t.unique_key = new.unique_key or t.type = 'mix:tick' and new.type = 'mix:tick');
      return null;
    end $$""",
    f"""create trigger record_conflict after insert or update on joblane.tasks for each row
      when (new.state in {LIVE_SQL} and (new.unique_key is not null or new.type = 'mix:tick'))
      execute function public.record_conflict()""",
    """create function public.record_excess() returns trigger language plpgsql as $$ begin
      insert into public.conflicts
      select coalesce(new.key_limit, new.total_limit), new.id, t.id from joblane.tasks t
       where t.id <> new.id and t.state = 'active' and t.type = new.type
         and t.lease_until > clock_timestamp()  -- else it is lost, and a pause has taken its slot back
         and t.key_limit is not distinct from new.key_limit and t.total_limit is not distinct from new.total_limit;
      return null;
    end $$""",
    """create trigger record_excess after insert or update on joblane.tasks for each row
      when (new.state = 'active' and new.type in ('mix:ordered', 'mix:single'))
      execute function public.record_excess()""",
)
START = """
with leased as (
  select t.*, a.started_at as began from joblane.tasks t join joblane.runs a on a.task_id = t.id and a.run = t.runs
   where t.id = $1 and t.lease_token = $2::uuid and t.state = 'active'
),
recorded as (
  insert into public.starts
  select id, runs, attempts, max_attempts, generation, began,
         extract(epoch from due_at - began), extract(epoch from began - deadline) from leased
)
select count(*) from public.starts where task = $1
"""
"""The times are the claim's. A run that has already lost its lease is not recorded."""
CALL = """
insert into public.calls select id, $3, $4, runs, clock_timestamp() from joblane.tasks
 where id = $1 and lease_token = $2::uuid and state = 'active'
"""
"""A run that has already lost its lease is not recorded."""
CHUNK = 5
OUTRUN_SECONDS = 1.7


class Work(Payload):
    """The payload. ``nonce``: identifies the job. ``items``: the number of effects to write, or children to enqueue."""

    nonce: str
    script: tuple[str, ...] = ()
    items: int = 0


class Tick(Payload):
    """An empty payload."""


class SideConnection:
    """The process's second connection, for :data:`START`; :attr:`database` is set by the worker."""

    database: Database


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def earlier_starts(ctx: TaskContext) -> int:
    """Record this start. Return the number of earlier starts."""
    try:
        return int(SideConnection.database.get().run(START, ctx.task_id, ctx._claim.token)[0][0])
    except Exception:
        SideConnection.database.drop()
        raise


def play(payload: Work, ctx: TaskContext, work: Callable[[int], Any] = lambda number: None) -> None:
    """Do the work and the script's step for this run. ``work`` gets the number of earlier starts."""
    number = earlier_starts(ctx)
    word, _, amount = (payload.script[number] if number < len(payload.script) else "ok").partition(":")
    work(number)
    match word:
        case "hang":
            time.sleep(60)
        case "freeze":
            time.sleep(int(amount) / 1000)
        case "outrun":
            await_another_run(ctx)
        case "die":
            die()
        case _:
            ctx.session.flush()
            follow(word, timedelta(seconds=int(amount or 0)))


def await_another_run(ctx: TaskContext) -> None:
    """Ask the storm for a clock jump. Return when another run has the lease, or after :data:`OUTRUN_SECONDS`."""
    SideConnection.database.get().run("insert into public.frozen values ($1)", ctx.task_id)
    ends = time.monotonic() + OUTRUN_SECONDS
    while time.monotonic() < ends:
        rows = SideConnection.database.get().run(
            "select lease_token::text from joblane.tasks where id = $1", ctx.task_id
        )
        if rows and rows[0][0] != ctx._claim.token:
            return
        time.sleep(0.02)


numbers = Table("numbers", MetaData(schema="public"), Column("n", Integer, primary_key=True))


def effect(ctx: TaskContext, item: object = "") -> None:
    ctx.session.execute(
        text("insert into public.effects values (:task, :item, :run)"),
        {"task": ctx.task_id, "item": str(item), "run": ctx._claim.run},
    )


def effects(payload: Work, ctx: TaskContext) -> None:
    """Write a row. ``mix:batch``, which is claimed and finished in batches, writes it if it has an item."""
    play(payload, ctx, lambda _: effect(ctx) if payload.items or ctx.type != "mix:batch" else None)


def each(payload: Work, ctx: TaskContext) -> None:
    """Every third item fails in its first run, without an effect on the other items."""

    def work(number: int) -> None:
        for item in ctx.each(range(payload.items)):
            with ctx.isolated():
                effect(ctx, item)
                if item % 3 == 2 and number == 0:
                    raise ValueError("as every third")

    play(payload, ctx, work)


def steps(payload: Work, ctx: TaskContext) -> None:
    """Each step writes an effect. The last one follows the script, which is then between its call and its commit."""

    def call(item: int, key: str) -> str:
        SideConnection.database.get().run(CALL, ctx.task_id, ctx._claim.token, str(item), key)
        if item < payload.items - 1:
            effect(ctx, item)
        else:
            play(payload, ctx, lambda _: effect(ctx, item))
        return f"{ctx.task_id} {item}"

    values = [ctx.step(str(item), partial(call, item)) for item in range(payload.items)]
    assert values == [f"{ctx.task_id} {item}" for item in range(payload.items)]


def pages(items: int) -> Callable[[int | None], range]:
    def after(cursor: int | None) -> range:
        return range(0 if cursor is None else cursor + 1, items)

    return after


SOURCES: dict[str, tuple[Callable[[int], Any], Any]] = {
    "mix:long": (range, None),
    "mix:select": (lambda items: select(numbers.c.n).where(numbers.c.n < items), numbers.c.n),
    "mix:pages": (pages, lambda item: item),
}
"""Type → what it reads, and its cursor."""


def resumed(payload: Work, ctx: TaskContext) -> None:
    """A task that is longer than its invocations."""

    def work(_: int) -> None:
        source, cursor = SOURCES[ctx.type]
        for item in ctx.resume(source(payload.items), cursor=cursor, chunk=CHUNK):
            effect(ctx, item)
            if item % CHUNK == 0:
                time.sleep(0.05)

    play(payload, ctx, work)


def parent(payload: Work, ctx: TaskContext) -> None:
    def work(_: int) -> None:
        effect(ctx)
        children = [child_id(ctx.task_id, number) for number in range(payload.items)]
        ctx.enqueue(TASKS["mix:child"], Work(nonce=children[0]), task_id=children[0])
        ctx.enqueue_many([Job(TASKS["mix:child"], Work(nonce=child), task_id=child) for child in children[1:]])

    play(payload, ctx, work)


def child_id(parent: str, number: int) -> str:
    return f"{parent}/{number}"


def alert(payload: ArchivedTask, ctx: TaskContext) -> None:
    effect(ctx)


def ticked(payload: Tick, ctx: TaskContext) -> None:
    """A tick of ``mix:tick`` is skipped while the last tick is live. Each tick is live until its second run."""
    earlier = earlier_starts(ctx)
    effect(ctx)
    if not earlier and ctx.type == "mix:tick":
        raise RetryAfter(timedelta(seconds=15))


SECONDS = timedelta(seconds=1)
LONG = {"handler": resumed, "max_retry": 8, "timeout": timedelta(minutes=30), "resumable": True}
TICKED = {"handler": ticked, "schedule": "*/5 * * * *"}
TASKS = declared(
    effects,
    {
        "mix:batch": {"batch_size": 10},
        "mix:row": {"also": [Queue.CRITICAL]},
        "mix:each": {"handler": each, "max_retry": 8},
        "mix:steps": {"handler": steps, "max_retry": 8},
        **dict.fromkeys(SOURCES, LONG),
        "mix:child": {},
        "mix:parent": {"handler": parent, "grants": Grants(enqueue=("mix:child",))},
        "mix:only": {"unique_for": timedelta(hours=5)},
        "mix:alert": {"handler": alert},
        "mix:watched": {"max_retry": 1, "on_archived": "mix:alert"},
        "mix:tick": TICKED,
        "mix:overlap": TICKED | {"overlap": "allow"},
        "mix:ordered": {"key": "items", "max_per_key": 1, "order": "first-due"},
        "mix:single": {"max_total": 1},
        "mix:after": {},
    },
    max_retry=6,
    retry_delay=[SECONDS, 15 * SECONDS, 1200 * SECONDS, 60 * SECONDS],
    timeout=2 * SECONDS,
    retention=timedelta(days=30),
)
