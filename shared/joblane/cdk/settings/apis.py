"""The HTTP APIs of a stage, and what watches over it: limits of the control API, thresholds of the alarms."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from joblane.cdk.settings.section import Settings


class HttpLimits(Settings):
    """How much a function behind an HTTP API has to answer at most."""

    SECONDS: ClassVar[float] = 0.5
    """A request's average, so that its rate says how many run at once (Little's law)."""

    rate_per_second: int = Field(20, ge=1)
    burst: int = Field(40, ge=1)
    max_concurrency: int | None = Field(None, ge=1)
    """Reserved for its function, and its bound. None: it shares what the account has left."""

    @property
    def at_once(self) -> int:
        """Requests at the same time: the bound that is set, else what the rate makes likely."""
        return self.max_concurrency or math.ceil(self.rate_per_second * self.SECONDS)


class Control(HttpLimits):
    """The control API: operators ask and act by it, each as the identity that IAM knows."""


Count = Annotated[int, Field(ge=1)] | Literal["off"]
Percent = Annotated[int, Field(ge=1, le=100)] | Literal["off"]
"""``off``, as JSON's null does not come through the CDK."""
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"


class Monitoring(Settings):
    """Alarms with a topic that tells of them, a dashboard, and saved queries.

    Each number is the threshold of one kind of alarm; ``off``: there is none of that kind.
    """

    email: str | None = Field(None, pattern=EMAIL)
    """Told of each alarm and of its end, once the link in the first mail was followed. None: nobody is; subscribe to
    the topic ``PREFIX-alarms`` by other means."""
    archived: Count = 1
    """So many tasks of a type given up within 15 minutes."""
    failing_percent: Percent = 50
    """Of a type's runs within 15 minutes, so many failed …"""
    failing_runs: int = Field(10, ge=1)
    """… where there were so many at least: two failures of three say little."""
    waiting: bool = True
    """Tasks wait longer than the ``target_wait`` of their type."""
    moved_by_sqs: Count = 1
    """So many dead letters that SQS moved by itself."""
    refused: Count = 1
    """So many dead letters of front doors, and ticks that could not be sent."""
    missed_ticks: Count = 1
    """So many ticks that did not come."""
    stuck_leases: Count = 1
    """So many runs that ended ten minutes ago without a record, and that no sweep has found."""
    throttles: Count = 1
    """So many invocations of the stage's functions within 5 minutes for which Lambda had no room."""
    near_timeout_percent: Percent = 80
    """A run took so much of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """So many times in a row the sweep, or a health check, did not end well."""
