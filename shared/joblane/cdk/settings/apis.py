"""Limits of the HTTP APIs of a stage, and thresholds of its alarms."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

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


class Slack(Settings):
    """A channel of Slack that shows the alarms. Authorise the workspace once in the AWS account before the deploy."""

    workspace_id: str = Field(pattern=r"^T[0-9A-Z]{1,254}$")
    """Id of the workspace, as the console of Amazon Q Developer in chat applications shows it."""
    channel_id: str = Field(pattern=r"^[CG][0-9A-Z]{1,254}$")
    """Id of the channel: the end of the link to it."""


class Monitoring(Settings):
    """Alarms with two SNS topics, a dashboard, and saved queries.

    Alarms that should wake somebody publish to the topic ``PREFIX-urgent``, all others to ``PREFIX-later``. A threshold
    is a number, or ``"off"`` for no alarm.
    """

    email: str | None = Field(None, pattern=rf"^off$|{EMAIL}")
    """Address that gets a mail when an alarm fires, and when a state such as a missing sweep ends. Confirm the address
    by the link in the first mail of each topic. ``"off"``: no mail, because you subscribe to the SNS topics in another
    way. None: no mail. Without ``slack`` nobody is notified then, as the synthesis says; refused if ``removal`` is
    ``"retain"``."""
    later_email: str | None = Field(None, pattern=rf"^off$|{EMAIL}")
    """Address for the topic ``PREFIX-later``, or ``"off"``. None: the address in ``email``."""
    slack: Slack | None = None
    """Channel of Slack for both topics. None: no channel."""
    runbook_url: str | None = Field(None, max_length=200, pattern=r"^https?://[^\s#]+$")
    """Address at which your team reads the page [Operate a stage](../how-to/operate.md), for the texts of the alarms,
    which add the anchor of a section. None: the texts name the file ``docs/how-to/operate.md``."""
    detail: Literal["lanes", "stage"] = "lanes"
    """``lanes``: alarms for each type in each of its queues. ``stage``: alarms for the whole stage only, which read 14
    metrics at most, and a dashboard with at most 50 metrics, for any number of types. The alarms of
    ``failing_percent`` and ``near_timeout_percent`` exist only with ``lanes``."""
    topic_key: bool = True
    """True: the SNS topics have a KMS key of their own. False: notifications are not encrypted by KMS. They hold names
    of alarms, types and functions, and numbers."""
    archived: Count = 1
    """Archived tasks of one type within 15 minutes; with ``detail`` ``stage``, of all types together."""
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
    old_snapshot_minutes: Annotated[int, Field(ge=15)] | Literal["off"] = 30
    """Minutes for which a session, a prepared transaction, a standby or a replication slot has kept dead rows of the
    database. The sweep reports none below 15."""
    throttles: Count = 1
    """Throttled invocations of the stage's functions within 5 minutes; with ``detail`` ``stage``, of all functions of
    the account in the region."""
    near_timeout_percent: Percent = 80
    """Duration of a run, in percent of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """Successive runs of the sweep, or of a health check, that are missing or did not complete."""

    @property
    def address_for_later(self) -> str | None:
        """The address for the topic ``PREFIX-later``."""
        return self.email if self.later_email is None else self.later_email

    @property
    def notifies_nobody(self) -> bool:
        """True if the settings do not say who is notified of urgent alarms."""
        return self.email is None and self.slack is None

    @property
    def is_stage(self) -> bool:
        """True if there are alarms for the whole stage only."""
        return self.detail == "stage"

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        lost = sorted(self.model_fields_set & {"failing_percent", "failing_runs", "near_timeout_percent"})
        if self.is_stage and lost:
            raise ValueError(f'{lost[0]}: there is no such alarm with detail "stage"; leave it out, or use "lanes"')
        return self
