"""Whether what the platform stands on answers: one check each, which never raises."""

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
OLDEST = "select now() - min(sweep_at) from joblane.tasks where sweep_at is not null"
SWEEP_PATIENCE = timedelta(minutes=15)
"""How long after its time a sweep may take to come and to take what is due."""


@dataclass(frozen=True, slots=True)
class Check:
    """``problem``: what is wrong, without a value; None where all is well."""

    name: str
    milliseconds: int
    problem: str | None

    @property
    def healthy(self) -> bool:
        return self.problem is None


def check_database(session: Session) -> Check:
    """A round trip to the database."""
    return _check("database", lambda: session.execute(text("select 1")))


def check_sweep(session: Session, last_sweep: Callable[[datetime], datetime]) -> Check:
    """Whether the sweep does its rounds: else rows whose time has come would wait for it.

    ``last_sweep``: the last time, up to and including a given one, at which a sweep should have come.
    """

    def ask() -> None:
        now = datetime.now(UTC)
        oldest = session.execute(text(OLDEST)).scalar_one()
        if oldest is not None and oldest > now - last_sweep(now - SWEEP_PATIENCE):
            raise PlatformError(f"a task has waited for it for {int(oldest.total_seconds())} s")

    return _check("sweep", ask)


def check_queues(client: SQSClient, names: Sequence[str]) -> list[Check]:
    """Whether each queue is there and SQS tells of it."""

    def ask(name: str) -> None:
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
        client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])

    return [_check(f"queue {name}", lambda name=name: ask(name)) for name in names]  # type: ignore[misc]


def check_services(settings: Settings) -> list[Check]:
    """Whether each configured service answers, all asked at once."""
    try:
        found = services.configured(settings)
    except PlatformError as error:
        return [Check("services", 0, str(error))]

    def ask(service: services.Service) -> Check:
        return _check(f"service {service}", lambda: services.probe(service, settings, timeout_seconds=PROBE_SECONDS))

    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        return list(pool.map(ask, found))


@cache
def sqs() -> SQSClient:
    """A client with less patience than the check has time."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("sqs", config=config)


def _check(name: str, ask: Callable[[], object]) -> Check:
    from botocore.exceptions import BotoCoreError, ClientError

    started, problem = time.monotonic(), None
    try:
        ask()
    except PlatformError as error:
        problem = str(error)
    except ClientError as error:
        problem = error.response.get("Error", {}).get("Code", "ClientError")
    except (BotoCoreError, SQLAlchemyError, OSError) as error:
        problem = type(error).__name__
    return Check(name, int((time.monotonic() - started) * 1000), problem)
