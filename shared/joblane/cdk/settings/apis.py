"""Limits of the HTTP APIs of a stage, and thresholds of its alarms."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from joblane.cdk.settings.section import Settings


class HttpLimits(Settings):
    """Limits of an HTTP API."""

    SECONDS: ClassVar[float] = 0.5
    """Assumed mean time of a request, which makes a concurrency of a rate (Little's law)."""

    rate_per_second: int = Field(20, ge=1)
    """Requests per second; more are refused with status 429."""
    burst: int = Field(20, ge=1)
    """Requests that may arrive at once before the rate applies."""
    max_concurrency: int | None = Field(None, ge=1)
    """Concurrency reserved for the API's function, and its upper bound. None: nothing is reserved, and the function
    uses the unreserved concurrency of the account."""

    @property
    def at_once(self) -> int:
        """Requests at the same time: ``max_concurrency``, or the rate times :attr:`SECONDS`."""
        return self.max_concurrency or math.ceil(self.rate_per_second * self.SECONDS)


class Control(HttpLimits):
    """The control API: an HTTP API for operators, authorised by IAM. Its settings are its limits."""


Count = Annotated[int, Field(ge=1)] | Literal["off"]
Percent = Annotated[int, Field(ge=1, le=100)] | Literal["off"]
"""``off``, because the CDK removes JSON's null."""
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"


class Monitoring(Settings):
    """Alarms with an SNS topic, a dashboard, and saved queries. A threshold is a number, or ``"off"`` for no alarm."""

    email: str | None = Field(None, pattern=EMAIL)
    """Address that gets a mail when an alarm fires and when it ends. Confirm the address by the link in the first mail.
    None: no address; subscribe to the SNS topic ``PREFIX-alarms`` in another way."""
    archived: Count = 1
    """Archived tasks of one type within 15 minutes."""
    failing_percent: Percent = 50
    """Failed runs of one type within 15 minutes, in percent of its runs."""
    failing_runs: int = Field(10, ge=1)
    """Minimum number of runs within 15 minutes for the alarm of ``failing_percent``."""
    waiting: bool = True
    """True: an alarm if tasks wait longer than the ``target_wait`` of their type."""
    moved_by_sqs: Count = 1
    """Dead letters that SQS moved itself."""
    refused: Count = 1
    """Dead letters of front doors, and ticks that could not be sent."""
    missed_ticks: Count = 1
    """Ticks that did not arrive."""
    stuck_leases: Count = 1
    """Runs whose lease ended more than ten minutes ago and whose end is not recorded."""
    throttles: Count = 1
    """Throttled invocations of the stage's functions within 5 minutes."""
    near_timeout_percent: Percent = 80
    """Duration of a run, in percent of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """Successive runs of the sweep, or of a health check, that are missing or did not complete."""
