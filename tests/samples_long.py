"""Sample tasks that commit item by item or chunk by chunk, and the table that they fill."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from joblane import Grants, TaskContext, task
from tests.samples import Sample, behaviour, behaviours
from tests.world import World

HANDLED = "TEST_HANDLED_FILE"
"""The variable that names a file with a line for each item that a handler starts. The file survives a killed
process."""
PIECE = 50
"""The number of effects that a handler of many items writes in one statement."""


class Base(DeclarativeBase):
    pass


class Thing(Base):
    """A row that a task handles. It must have exactly one effect."""

    __tablename__ = "things"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    code: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    maybe: Mapped[int | None]


def make_things(world: World, number: int) -> None:
    """Create ``number`` things, and an empty table for the effects. Codes and times have another order than ids."""
    world.run(
        "create table things (id bigint primary key, code uuid not null unique, at timestamptz not null, maybe bigint)"
    )
    world.run("create table effects (thing bigint not null check (thing <> -1))")
    world.run(
        "insert into things select n, md5(n::text)::uuid, timestamptz '2026-01-01 00:00:00.000001+00'"
        " + ((n * 7919) % 100003) * interval '1 ms 1 microsecond', null from generate_series(1, $1::int) n",
        str(number),
    )


def counts(world: World) -> dict[int, int]:
    """Return the number of effects per thing."""
    return {row[0]: row[1] for row in world.run("select thing, count(*) from effects group by 1")}


def write(ctx: TaskContext, thing: int) -> None:
    ctx.session.execute(text("insert into effects values (:thing)"), {"thing": thing})


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(
    "sample:long",
    max_retry=5,
    timeout=timedelta(minutes=30),
    resumable=True,
    retry_delay=timedelta(seconds=40),
    grants=Grants(enqueue=("sample:one",)),
)
def sample_long(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@behaviour
def each_until_killed(payload: Sample, ctx: TaskContext) -> None:
    """Handle a hundred items. The first attempt kills the process at item ``number``, after writing its effect."""
    with Path(os.environ[HANDLED]).open("a", buffering=1) as handled:
        for item in ctx.each(range(100)):
            print(item, file=handled)
            write(ctx, item)
            if ctx.attempt == 1 and item == payload.number:
                die()


@behaviour
def resume_all(payload: Sample, ctx: TaskContext) -> None:
    """Handle every thing in chunks of ``number``. A statement writes the effects of :data:`PIECE` things."""
    from sqlalchemy import select

    piece: list[int] = []
    handled = os.open(os.environ[HANDLED], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for thing in ctx.resume(select(Thing.id), cursor=Thing.id, chunk=payload.number):
        piece.append(thing)
        if len(piece) == PIECE:
            os.write(handled, "".join(f"{thing}\n" for thing in piece).encode())
            ctx.session.execute(text("insert into effects select unnest(cast(:things as bigint[]))"), {"things": piece})
            piece.clear()
    os.close(handled)


@behaviour
def enqueue_children(payload: Sample, ctx: TaskContext) -> None:
    from joblane import Job
    from tests.samples import sample_one

    ctx.enqueue_many([Job(sample_one, Sample(number=n), task_id=f"child-{n}") for n in range(payload.number)])
