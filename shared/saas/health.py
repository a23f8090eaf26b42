"""Health checks of the platform's database, queues and services. A check never raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from saas import services
from saas.errors import PlatformError
from saas.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from sqlalchemy.orm import Session

PROBE_SECONDS = 5.0
PROBES_AT_ONCE = 16
# The sweep does not change paused tasks and a backlog in its lane, so an overdue task alone is no problem. The sweep
# also runs at the time that it has planned; while that lies ahead, its schedule counts.
OVERDUE = """
with expected as (
  select greatest(:since, max(planned_sweep_at) filter (where planned_sweep_at < :before)) as since from joblane.stage
)
select now() - min(t.sweep_at) from joblane.tasks t cross join expected e
 where (t.finished_at is null or t.dead_letter_unsent) and t.sweep_at < e.since
   and not exists (select from (select finished_at from joblane.tasks
                                 where type = 'jobs:sweep' and state = 'completed' and finished_at is not null
                                 order by created_at desc, id desc limit 20) as last
                    where last.finished_at >= e.since)
"""
SWEEP_PATIENCE = timedelta(minutes=15)
"""Time after a scheduled or planned sweep within which one must have completed."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check. ``problem``: a description without values; None: there is no problem."""

    name: str
    milliseconds: int
    problem: str | None

    @property
    def healthy(self) -> bool:
        return self.problem is None


def check_database(session: Session) -> Check:
    """Check that the database answers."""
    return _check("database", lambda: session.execute(text("select 1")))


def check_sweep(session: Session, last_sweep: Callable[[datetime], datetime]) -> Check:
    """Check that the sweep runs: it has completed on time, or no task needs it.

    ``last_sweep``: returns the scheduled time of the last sweep at or before a given time.
    """

    def run() -> None:
        before = datetime.now(UTC) - SWEEP_PATIENCE
        waited = session.execute(text(OVERDUE), {"since": last_sweep(before), "before": before}).scalar_one()
        if waited is not None:
            raise PlatformError(f"a task has waited for the sweep for {int(waited.total_seconds())} s")

    return _check("sweep", run)


def check_queues(client: SQSClient, names: Sequence[str]) -> list[Check]:
    """Check that each queue exists and SQS returns its attributes."""

    def read(name: str) -> None:
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
        client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])

    return [_check(f"queue {name}", lambda name=name: read(name)) for name in names]  # type: ignore[misc]


def check_services(settings: Settings) -> list[Check]:
    """Check that each configured service answers, all at the same time."""
    try:
        found = services.configured(settings)
    except PlatformError as error:
        return [Check("services", 0, str(error))]

    def probe(service: services.Service) -> Check:
        return _check(f"service {service}", lambda: services.probe(service, settings, timeout_seconds=PROBE_SECONDS))

    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        return list(pool.map(probe, found))


@cache
def sqs() -> SQSClient:
    """Return an SQS client with timeouts below that of the task."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("sqs", config=config)


def _check(name: str, run: Callable[[], object]) -> Check:
    from botocore.exceptions import BotoCoreError, ClientError

    started, problem = time.monotonic(), None
    try:
        run()
    except PlatformError as error:
        problem = str(error)
    except ClientError as error:
        problem = error.response.get("Error", {}).get("Code", "ClientError")
    except (BotoCoreError, SQLAlchemyError, OSError) as error:
        problem = type(error).__name__
    return Check(name, int((time.monotonic() - started) * 1000), problem)
