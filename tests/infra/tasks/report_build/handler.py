"""A task with two lanes, batches, a bucket, mail, settings, max_concurrency, and schedules of every form."""

from datetime import timedelta

from joblane import Grants, Payload, task
from joblane.names import Queue
from joblane.tasks.schedule import cron


class ReportBuild(Payload):
    scope: str = "day"


@task(
    "report:build",
    queue=Queue.DEFAULT,
    also=[Queue.CRITICAL],
    timeout=timedelta(seconds=30),
    batch_size=10,
    max_concurrency=3,
    memory_mb=256,
    environment=["EMAIL_PROVIDER", "EMAIL_FROM_ADDRESS", "SMTP_PASSWORD", "SMTP_HOST"],
    grants=Grants(buckets=("exports",), mail=True),
    schedule=[
        cron("0 8 * * 0", timezone="Europe/Berlin", payload={"scope": "week"}, name="weekly"),
        cron("30 1 1,15 * 1", name="odd"),  # day of month or day of week: two expressions
    ],
)
def report_build(payload: ReportBuild, ctx: object) -> None:
    """Nothing."""
