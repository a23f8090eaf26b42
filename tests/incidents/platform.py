"""The task types of the incidents, and a healthy background."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from joblane import Grants, Queue, TaskContext, task
from joblane.functions.jobs_bulk.handler import jobs_bulk
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.record.schedules import register
from joblane.record.task_types import LIMITS, declared_limits
from joblane.tasks.limit import Limit
from joblane.tasks.task import Task
from tests.builders.rows import In, archived
from tests.integration.inspector.scene import Scene
from tests.samples import Sample

STRIPE = Limit("stripe", total=6)
MINUTE, HOUR = 60, 3_600
SHORT: dict[str, Any] = {"retry_delay": timedelta(0), "timeout": timedelta(seconds=20)}

broken: dict[str, Exception] = {}
"""Type → the error of all its runs."""


def run(ctx: TaskContext) -> None:
    if error := broken.get(ctx.type):
        raise error


@task("mail:send", max_retry=1, **SHORT)
def mail_send(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("invoice:charge", queue=Queue.CRITICAL, max_retry=9, limit=STRIPE, **SHORT)
def invoice_charge(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("data:export", max_retry=0, **SHORT)
def data_export(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("webhook:deliver", max_retry=1, **SHORT)
def webhook_deliver(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("report:daily", queue=Queue.LOW, schedule="0 * * * *")
def report_daily(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("account:sync", max_retry=0, key="number", order="first-due", **SHORT)
def account_sync(payload: Sample, ctx: TaskContext) -> None:
    if payload.do == "poison":
        raise ValueError("version 3 has no currency")


@task("import:row", max_retry=0, grants=Grants(enqueue=("data:export",)), **SHORT)
def import_row(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


@task("image:resize", max_retry=1, **SHORT)
def image_resize(payload: Sample, ctx: TaskContext) -> None:
    run(ctx)


TYPES: tuple[Task[Any, Any], ...] = (
    mail_send, invoice_charge, data_export, webhook_deliver, report_daily, account_sync, import_row, image_resize,
)  # fmt: skip
TASKS: dict[str, Task[Any, Any]] = {each.type: each for each in (*TYPES, jobs_sweep, jobs_bulk)}
COPIES = """
with copies as (
  insert into joblane.tasks
  select (jsonb_populate_record(t, jsonb_build_object('id', $1 || '-' || n, 'tenant', coalesce(t.tenant,
                                                                                              'tenant-' || n % 7)))).*
    from joblane.tasks t, generate_series(1, $2::int) n where t.id = $1
)
insert into joblane.task_attempts
select (jsonb_populate_record(a, jsonb_build_object('task_id', $1 || '-' || n, 'tenant', 'tenant-' || n % 7))).*
  from joblane.task_attempts a, generate_series(1, $2::int) n where a.task_id = $1
"""
DECLINED = {
    "error_type": "CardDeclinedError",
    "error_message": "card_declined",
    "fingerprint": "00000000deadca4d",
    "reason": "the handler raised SkipRetry",
}
DECLINED_RUNS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue, outcome,
                                   error_type, error_message, fingerprint, tenant)
select t.id, run, run, 0, t.finished_at, t.finished_at, t.type, t.queue, 'failed', t.error_type, t.error_message,
       t.fingerprint, t.tenant
  from joblane.tasks t, generate_series(1, 9) as run where t.id like 'declined%'
"""
"""More failed runs of the day than the outage of the type has."""


def copies(on: Scene, id_: str, number: int) -> Scene:
    """Copy a task and its runs, for several tenants."""
    return on.sql(COPIES, id_, str(number))


def healthy(on: Scene) -> Scene:
    """A stage with runs of all types that went well, old dead letters of another cause, and a sweep of a minute ago."""
    on.declare(*TASKS.values())
    broken.clear()
    on.world.deploy(TASKS.values())
    on.sql(LIMITS, json.dumps(declared_limits(TASKS)))
    register(on.world.database.get(), TASKS)
    on.put("swept", jobs_sweep, queue="low", state="completed", created_at=In(-MINUTE), finished_at=In(-MINUTE))
    for each in TYPES:
        id_, at = f"well-{each.type}", In(-5 * MINUTE)
        ran: dict[str, Any] = {
            "state": "completed",
            "attempts": 1,
            "runs": 1,
            "started_at": at,
            "created_at": at,
            "finished_at": at,
        }
        copies(on.put(id_, each, queue=str(each.queue), **ran), id_, 9)
    at = In(-3 * HOUR)
    old = archived(**DECLINED, created_at=at, finished_at=at, started_at=at)
    copies(on.put("declined", invoice_charge, queue="critical", **old), "declined", 20)
    return on.sql(DECLINED_RUNS)
