"""A function for each incident: it brings a healthy stage into its state. Each returns an id for its commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joblane import Job
from joblane.inspector.filter import Filter
from joblane.sqs.tick import id_of
from joblane.tasks.task import Task
from tests.builders.rows import In
from tests.builders.snapshots import swept
from tests.bulks import Bulks
from tests.incidents import platform
from tests.incidents.platform import HOUR, MINUTE, broken, copies
from tests.integration.inspector.scene import Scene
from tests.samples import Sample

FREQUENT = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, ticks_a_day, revision, next_at)
select 'acme-every-minute-' || n, 'report:daily', '{}', 'acme', '* * * * *', 'UTC', 1440, n, now() + interval '1 min'
  from generate_series(1, 6) n
"""
SENT = 2
"""The commit after which the wrong redrive is looked at."""


def fails(on: Scene, task: Task[Any, Any], error: Exception, id_: str, runs: int, number: int) -> str:
    """Let a task fail in real runs, and copy it."""
    broken[task.type] = error
    on.enqueue(id_, task=task)
    for _ in range(runs):
        on.later(id_).deliver(id_, task=task)
    copies(on, id_, number)
    return id_


def mail_provider_is_down(on: Scene) -> str:
    return fails(on, platform.mail_send, ConnectionError("smtp.example.org refused the connection"), "mail", 2, 40)


def receipts_are_down(on: Scene) -> str:
    """The tasks retry: none of them is archived."""
    return fails(on, platform.invoice_charge, ConnectionError("receipts.example.org: no route"), "invoice", 3, 30)


def bad_deploy(on: Scene) -> str:
    on.sql(
        "insert into joblane.deploys (at, version, deployed_by, done_at)"
        " values (now() - interval '9 min', '3f2a1c0', 'ann', now() - interval '8 min')"
    )
    return fails(on, platform.data_export, TypeError("export() got an unexpected argument 'tenant'"), "export", 1, 30)


def tenant_floods(on: Scene) -> str:
    for tenant, number in (("megacorp", 60), ("globex", 2), ("initech", 2)):
        since = In(-30 * MINUTE)
        due: dict[str, Any] = {"due_at": since, "created_at": since, "tenant": tenant, "sweep_at": In(HOUR)}
        copies(on.put(f"flood-{tenant}", platform.webhook_deliver, **due), f"flood-{tenant}", number - 1)
    return "megacorp"


def schedules_run_away(on: Scene) -> str:
    on.sql(FREQUENT)
    return "acme"


def old_snapshot(on: Scene) -> str:
    """A session with a snapshot is open: see :func:`tests.builders.snapshots.session`."""
    swept(on.world, 40, 30, 20)
    return ""


def tick_is_missed(on: Scene) -> str:
    on.sql("update joblane.schedules set looked_for_from = now() - interval '150 min' where name = 'report:daily:0'")
    [[hour]] = on.world.run("select date_trunc('hour', now(), 'UTC') - interval '2 h'")
    on.put(id_of("report:daily", "0", hour), platform.report_daily, queue="low", state="completed")
    return "report:daily:0"


def ordered_key_is_poisoned(on: Scene) -> str:
    """Version 3 of a key is archived, and later ones have completed."""
    on.send("sync-3", task=platform.account_sync, do="poison", number=42)
    on.send("sync-4", "sync-5", task=platform.account_sync, number=42)
    return "sync-3"


def limit_is_zero(on: Scene) -> str:
    on.limit("stripe", total=0, reason="test, please ignore")
    on.send("held-1", "held-2", task=platform.invoice_charge)
    on.sql(
        "update joblane.tasks set due_at = due_at - interval '20 min', first_due_at = first_due_at - interval '20 min'"
        " where state = 'held'"
    )
    return "stripe"


def stop() -> None:
    """End a bulk action in its middle: it is tried again."""
    raise ConnectionError("the process ends")


def redrive_is_wrong(on: Scene) -> str:
    """The tasks of an outage that has not ended are sent again: five have failed, and the others wait."""
    mail_provider_is_down(on)
    started = on.inspector.redrive(Filter(types=("mail:send",)), rate=5, reason="back")
    Bulks(on.world).run(started.id, after_commits={SENT: stop})
    for id_ in on.world.run("select id from joblane.tasks where bulk = $1 and state = 'pending'", started.id):
        on.deliver(*id_, *id_, task=platform.mail_send)
    return started.id


def member_of_a_batch_is_dead(on: Scene) -> str:
    broken["import:row"] = ValueError("row 7 has 11 columns")
    jobs = [Job(platform.import_row, Sample(), task_id=f"row-{n}") for n in (6, 7)]
    batch = on.world.client.batch("import-7", on_success=Job(platform.data_export, Sample()))
    batch.enqueue_many(jobs)
    batch.seal()
    on.deliver("row-7", task=platform.import_row)
    broken.clear()
    on.deliver("row-6", task=platform.import_row)
    return "import-7"


def image_kills_its_process(on: Scene) -> str:
    """Two runs are claimed, and their processes end without a report."""
    on.enqueue("image", task=platform.image_resize)
    for _ in range(2):
        on.claim("image", task=platform.image_resize)
        on.world.expire_leases()
    on.claim("image", task=platform.image_resize, verdict="archived")
    return "image"


HAPPENS: Mapping[str, Any] = {
    each.__name__: each
    for each in (
        mail_provider_is_down,
        receipts_are_down,
        bad_deploy,
        tenant_floods,
        schedules_run_away,
        old_snapshot,
        tick_is_missed,
        ordered_key_is_poisoned,
        limit_is_zero,
        redrive_is_wrong,
        member_of_a_batch_is_dead,
        image_kills_its_process,
    )
}
