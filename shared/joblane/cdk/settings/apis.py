"""Limits of the HTTP APIs of a stage, and thresholds of its alarms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from joblane.cdk.settings.section import SECRET_ARN, Settings, required
from joblane.inspector.stage.doctor.sessions import FULL_PERCENT
from joblane.inspector.views.runs import NEAR_TIMEOUT_PERCENT


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


Group = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Group, ...], Field(strict=False)]


class Roles(Settings):
    """The groups that give a role on the page. Each role includes those before it: view, operate, edit."""

    view: Names = ()
    """Groups that see the page."""
    operate: Names = ()
    """Groups that decide if and when tasks run, too."""
    edit: Names = ()
    """Groups that change payloads and enqueue tasks, too."""

    def problems(self) -> Iterator[str]:
        if not (self.view or self.operate or self.edit):
            yield 'at least one group is required, for example {"operate": ["on-call"]}; nobody else signs in'


def _is_issuer(text: str) -> bool:
    where = urlsplit(text)
    return where.scheme == "https" and bool(where.hostname) and not (where.query or where.fragment) and text.isascii()


ISSUER = required(
    _is_issuer,
    "https:// and a host are required, exactly as in the `iss` of its tokens, for example "
    "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI",
)


MAX_HOST = 253
ADDRESS_HOST = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])", re.ASCII)
"""A host name of DNS labels. Source: RFC 1123, section 2.1."""


def _is_address(text: str) -> object:
    host = text.removeprefix("https://")
    return host != text and len(host) <= MAX_HOST and ADDRESS_HOST.fullmatch(host)


ADDRESS = required(
    _is_address,
    "https:// and a host in lower case are required, without a path, for example https://jobs.example.com",
)


PARAMETER_ARN = re.compile(r"arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter/[\w./-]+", re.ASCII)


PAGE_SECRET = required(
    lambda text: SECRET_ARN.fullmatch(text) or PARAMETER_ARN.fullmatch(text),
    "the whole ARN of a secret in Secrets Manager or of a parameter in Parameter Store is required, and never the "
    "secret itself",
)
OPENID = required(lambda scopes: "openid" in scopes, "openid is required")


class Oidc(Settings):
    """An OpenID Connect issuer, such as a user pool of Amazon Cognito, and the client of the page there.

    The client has the authorization code flow with PKCE, and the page's address with ``/signed-in`` as its redirect.
    """

    issuer: Annotated[str, ISSUER]
    """Exactly the ``iss`` of its tokens, https, including a slash at its end."""
    client_id: str = Field(min_length=1)
    """Id of the page's client."""
    client_secret: Annotated[str, PAGE_SECRET] | None = None
    """ARN of a secret in Secrets Manager or Parameter Store whose whole value is the client's secret. None: the client
    is public, and PKCE alone protects its sign-in. If the secret has a KMS key of your own, the key's policy must allow
    the page's role ``kms:Decrypt``."""
    scopes: Annotated[tuple[str, ...], Field(strict=False), OPENID] = ("openid", "email", "profile")
    """Scopes that the page asks for, with ``openid``. Some issuers send groups only with a scope of their own."""
    name_claim: str = Field("email", min_length=1)
    """Claim of the ID token with the person's name in the audit, which has the ``sub`` as well. An email that the
    issuer has not verified is left out."""
    roles_claim: str = Field(min_length=1)
    """Claim of the ID token with the person's groups: a list of strings, or a string. ``cognito:groups`` in Cognito."""
    roles: Roles
    """The groups of each role. A person without such a group sees nothing."""
    session_hours: int = Field(8, ge=1, le=24)
    """Hours until a person signs in again. A group that was taken from a person is in effect then."""


class PageSettings(HttpLimits):
    """The page that a team shares: an HTTP API and a function outside of the VPC, which calls the control API. Its
    other settings are its limits."""

    oidc: Oidc
    """The sign-in."""
    address: Annotated[str, ADDRESS] | None = None
    """Address of the page, if you give it a [domain of your own](../how-to/own-domain.md). None: the address of its
    HTTP API. The page answers at this address only."""


Count = Annotated[int, Field(ge=1)] | Literal["off"]
Percent = Annotated[int, Field(ge=1, le=100)] | Literal["off"]
"""``off``, because the CDK removes JSON's null."""
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
EMAIL_OR_OFF = rf"^off$|{EMAIL}"
WORKSPACE, CHANNEL, RUNBOOK_URL = r"^T[0-9A-Z]{1,254}$", r"^[CG][0-9A-Z]{1,254}$", r"^https?://[^\s#]+$"
MAX_DOLLARS = 1e9
MEANINGS = {
    EMAIL: "one address such as no-reply@example.com is required",
    EMAIL_OR_OFF: 'one address such as on-call@example.com, or "off", is required',
    WORKSPACE: "the id of a workspace such as T0123ABCD is required",
    CHANNEL: "the id of a channel such as C0456EFGH is required, which is not its name",
    RUNBOOK_URL: "an address without # is required, for example https://wiki.example.com/operate",
}
"""Pattern → the value that is right, for errors."""


Dollars = Annotated[
    float,
    required(
        lambda dollars: 0 < dollars < MAX_DOLLARS,
        "more than 0 and less than a billion dollars a month are required, for example 20; leave it out for no budget",
    ),
]


class Slack(Settings):
    """A channel of Slack that shows the alarms. Authorise the workspace once in the AWS account before the deploy."""

    workspace_id: str = Field(pattern=WORKSPACE)
    """Id of the workspace, as the console of Amazon Q Developer in chat applications shows it."""
    channel_id: str = Field(pattern=CHANNEL)
    """Id of the channel: the end of the link to it."""


class Monitoring(Settings):
    """Alarms with two SNS topics, a dashboard, and saved queries.

    Alarms that should wake a person publish to the topic ``PREFIX-urgent``, all others to ``PREFIX-later``. A threshold
    is a number, or ``"off"`` for no alarm.
    """

    email: str | None = Field(None, pattern=EMAIL_OR_OFF)
    """Address that gets a mail when an alarm fires, and when a state such as a missing sweep ends. Confirm the address
    with the link in the first mail of each topic. ``"off"``: no mail, because you subscribe to the SNS topics in
    another way. None: no mail. Without ``slack``, the alarms then notify no person, as the synthesis says; refused if
    ``removal`` is ``"retain"``."""
    later_email: str | None = Field(None, pattern=EMAIL_OR_OFF)
    """Address for the topic ``PREFIX-later``, or ``"off"``. None: the address in ``email``."""
    slack: Slack | None = None
    """Channel of Slack for both topics. None: no channel."""
    runbook_url: str | None = Field(None, max_length=200, pattern=RUNBOOK_URL)
    """Address at which your team reads the page [Operate a stage](../how-to/operate.md), for the texts of the alarms,
    which add the anchor of a section. None: the texts name the file ``docs/how-to/operate.md``."""
    detail: Literal["lanes", "stage"] = "lanes"
    """``lanes``: alarms for each type in each of its queues. ``stage``: alarms for the whole stage only, which read 20
    metrics at most (24 with events; 4 more with a database of its own, 3 with a NAT instance), and a dashboard with at
    most 50 metrics, for any number of types. The alarms of ``failing_percent`` and ``near_timeout_percent`` exist only
    with ``lanes``."""
    topic_key: bool = True
    """True: the SNS topics have a KMS key of their own. False: notifications are not encrypted by KMS. They hold names
    of alarms, types and functions, and numbers."""
    archived: Count = 1
    """Archived tasks of one type within 15 minutes; with ``detail`` ``stage``, of all types together."""
    failing_percent: Percent = 50
    """Failed runs of one type within 15 minutes, in percent of its runs. ``"off"`` also leaves out the alarms of killed
    invocations of places."""
    failing_runs: int = Field(10, ge=1)
    """Minimum number of runs within 15 minutes for the alarm of ``failing_percent``. For a place: number of killed
    invocations, which have an alarm of their own."""
    waiting: bool = True
    """True: an alarm if tasks wait longer than the ``target_wait`` of their type."""
    moved_by_sqs: Count = 1
    """Dead letters that SQS moved itself."""
    refused: Count = 1
    """Dead letters of front doors, and ticks that could not be sent."""
    missed_ticks: Count = 1
    """Ticks without a task."""
    lowered_limits: Count = 1
    """Limits that an operator has lowered and for which tasks wait: longer than the ``target_wait`` of their type, or
    for any time, if no task may start."""
    stuck_leases: Count = 1
    """Runs whose lease ended more than ten minutes ago and whose end is not recorded."""
    old_snapshot_minutes: Annotated[int, Field(ge=15)] | Literal["off"] = 30
    """Minutes for which a session, a prepared transaction, a standby or a replication slot has kept dead rows of the
    database. The sweep reports none below 15."""
    events_refused: Count = 1
    """Events that the webhook of ``events`` refused."""
    events_late_minutes: Annotated[int, Field(ge=10)] | Literal["off"] = 30
    """Minutes for which an event has waited to be sent to the bus."""
    events_dropped: Count = 1
    """Events that were deleted unsent."""
    throttles: Count = 1
    """Throttled invocations of the stage's functions within 5 minutes; with ``detail`` ``stage``, of all functions of
    the account in the region."""
    near_timeout_percent: Percent = NEAR_TIMEOUT_PERCENT
    """Duration of a run, in percent of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """Successive runs of the sweep's schedule, or of a health check, that are missing or did not complete. If they take
    longer than an hour after the first, the alarm fires an hour after the first. ``"off"`` also leaves out the alarms
    of sweeps that fail, and of their lane if nothing reads it."""
    database_capacity_percent: Percent = 95
    """Used capacity of the stage's own Aurora, in percent of its ``max_capacity``, for 15 minutes."""
    database_connections_percent: Percent = FULL_PERCENT
    """Connections of the stage's own database, in percent of its ``max_connections``."""
    database_memory_percent: Percent = 5
    """Free memory of the stage's own database, in percent of the memory of its ``instance_class``, or of its writer's
    memory at ``max_capacity``."""
    database_storage_percent: Percent = 15
    """Free storage of the stage's own RDS instance, in percent of its ``storage_gb``. An Aurora cluster grows by
    itself."""
    budget: Dollars | None = None
    """Dollars a month. AWS Budgets sends a notification to ``PREFIX-later`` at 80 and at 100 percent, and if it
    forecasts more than 100. It counts resources with the tag ``joblane:stage``, before credits, and nothing until you
    [activate the tag](../how-to/operate.md#a-budget). None: no budget."""

    @property
    def is_stage(self) -> bool:
        """True if there are alarms for the whole stage only."""
        return self.detail == "stage"

    def problems(self) -> Iterator[str]:
        lost = sorted(self.model_fields_set & {"failing_percent", "failing_runs", "near_timeout_percent"})
        if self.is_stage and lost:
            yield f'{lost[0]}: there is no such alarm with detail "stage"; leave it out, or use "lanes"'
