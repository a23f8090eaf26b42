"""Tasks of a small shop, and a table for what they do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from joblane import Grants, Payload, Queue, SkipRetry, Snooze, TaskContext, cron, task

TABLE = "create table effects (id bigserial primary key, task_id text, what text, at timestamptz default now())"


class Order(Payload):
    number: int
    note: str = ""


class Nothing(Payload):
    pass


def write(ctx: TaskContext, what: str) -> None:
    ctx.session.execute(
        text("insert into effects (task_id, what) values (:id, :what)"), {"id": ctx.task_id, "what": what}
    )


class Receipt(BaseModel):
    number: int


@task(
    "order:ship",
    also=[Queue.CRITICAL],
    max_retry=2,
    retry_delay=timedelta(minutes=1),
    timeout=timedelta(seconds=20),
    grants=Grants(enqueue=("order:mail",)),
)
def order_ship(payload: Order, ctx: TaskContext) -> dict[str, int]:
    write(ctx, f"shipped {payload.number}")
    ctx.enqueue(order_mail, Order(number=payload.number), queue=Queue.LOW, tags=["mail"])
    return {"number": payload.number}


@task("order:mail", also=[Queue.LOW])
def order_mail(payload: Order, ctx: TaskContext) -> str:
    write(ctx, f"mailed {payload.number}")
    return "mailed"


@task("order:fail", max_retry=2, retry_delay=[timedelta(minutes=1), timedelta(hours=2)])
def order_fail(payload: Order, ctx: TaskContext) -> str:
    """Fails in as many attempts as ``number`` says."""
    write(ctx, f"attempt {ctx.attempt}")
    if ctx.attempt <= payload.number:
        raise ValueError(f"attempt {ctx.attempt} of {payload.number}")
    return "at last"


@task("order:refuse")
def order_refuse(payload: Order, ctx: TaskContext) -> None:
    raise SkipRetry("never")


@task("order:snooze")
def order_snooze(payload: Order, ctx: TaskContext) -> Any:
    raise Snooze(timedelta(seconds=0))


@task("order:pay", max_retry=1, retry_delay=timedelta(minutes=1))
def order_pay(payload: Order, ctx: TaskContext) -> list[Any]:
    """Two steps. Each writes its key, and the second one after a value of the first one."""

    def call(key: str) -> str:
        write(ctx, key)
        return f"paid {payload.number}"

    paid = ctx.step("pay", call)
    return [paid, ctx.step("mail", lambda _: write(ctx, f"mail: {paid}"))]


@task("order:parts", max_retry=1, retry_delay=timedelta(minutes=1))
def order_parts(payload: Order, ctx: TaskContext) -> int:
    for part in ctx.each(range(payload.number)):
        write(ctx, f"part {part}")
    return payload.number


@task("order:chunks", resumable=True, timeout=timedelta(hours=1))
def order_chunks(payload: Order, ctx: TaskContext) -> int:
    for part in ctx.resume(range(payload.number), chunk=2):
        write(ctx, f"part {part}")
    return payload.number


@task("order:quiet")
def order_quiet(payload: Order, ctx: TaskContext) -> str:
    return "quiet"


@task("order:gone", retention=timedelta(0))
def order_gone(payload: Order, ctx: TaskContext) -> str:
    return "gone"


@task("order:nightly", schedule="0 2 * * *")
def order_nightly(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, "night")


@task("order:clock", schedule=[cron("0 * * * *", name="hours"), cron("30 8 * * MON", name="mondays")])
def order_clock(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, "clock")
