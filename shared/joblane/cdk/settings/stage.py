"""The settings of a stage, checked when they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from aws_cdk import RemovalPolicy
from pydantic import AfterValidator, BeforeValidator, Field

from joblane.cdk.errors import StageError
from joblane.cdk.settings.apis import EMAIL, Control, HttpLimits, Monitoring, PageSettings
from joblane.cdk.settings.database import DatabaseSettings, ExistingDatabase, LocalDatabase, OwnDatabase
from joblane.cdk.settings.events import Events
from joblane.cdk.settings.images import EcrAddress, Image, image_region_problem
from joblane.cdk.settings.keys import KeyArn, region_of
from joblane.cdk.settings.network import Network, NewNetwork
from joblane.cdk.settings.section import SecretReference, Settings, required
from joblane.errors import DeclarationError
from joblane.names import SWEEP, check_prefix, database_id
from joblane.quotas import MAX_CONCURRENCY, MIN_CONCURRENCY
from joblane.tasks.schedule_overrides import minutes_of

Architecture = Literal["arm64", "x86_64"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogRetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 3653]
"""Source: PutRetentionPolicy, CloudWatch Logs API reference."""

UNRESERVED_CONCURRENCY = 100
"""Concurrency of an account that no function can reserve. Source: Lambda, *Configuring reserved concurrency*."""
SECRET_NAME = re.compile(r"_(PASSWORD|SECRET|TOKEN|KEYS?)$")
"""Names of settings whose values are secrets, which a template must not have."""
DEFAULT_CONNECTIONS = 100
"""Source: PostgreSQL, *max_connections*."""
NOT_LOCAL = {
    "control": "an emulator does not verify signatures; leave it out, `joblane` reaches the stack directly",
    "network": "a local stage has no network; leave it out",
    "monitoring": "a local stage has no metrics; leave it out",
    "events": "a local stage has a bus of its own, and sends to no webhook; leave it out",
    "kms_key": "an emulator has no keys; leave it out",
    "images": "an emulator runs the zip files instead; leave it out",
}
"""Setting that a local stage does not take → the reason."""
UNWATCHED: Mapping[str, frozenset[str]] = {
    "aurora": frozenset({"database_storage_percent"}),
    "rds": frozenset({"database_capacity_percent"}),
}
"""Kind of an own database → the settings of ``monitoring`` without an alarm. Another kind has none of them."""
OWN_TAGS = "joblane:"
STAGE_TAG = f"{OWN_TAGS}stage"
"""Tag of every resource: the name of the stage."""
MAX_OTHER_KEYS = 4
VERSION = r"^[\x21-\x7e]{1,64}$"
TAG_KEY, TAG_VALUE, MAX_TAGS = re.compile(r"[\w .:/=+\-@]{1,128}"), re.compile(r"[\w .:/=+\-@]{0,256}"), 40
"""AWS accepts 50 on a resource, including the tags of the CDK. Source: *Tagging AWS Resources*."""

REMOVAL = {
    "destroy": RemovalPolicy.DESTROY,
    # and not RETAIN: resources of a first deploy that was rolled back would block the second by their names
    "retain": RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
}


Value = str | SecretReference


def key_region_problem(arn: str, region: str) -> str:
    return f"the key is in {region_of(arn)}, and the stage in {region}; a key of {region} is required"


def _interval(given: object) -> object:
    try:
        minutes_of(str(given))
    except DeclarationError as error:
        raise ValueError(str(error)) from None
    return given


class Stage(Settings):
    """The settings of one stage. The defaults suit a new AWS account.

    An application adds settings of its own in a subclass, which it passes to :class:`~joblane.cdk.app.JoblaneApp`.
    """

    name: str
    """Name of the stage."""
    local: bool = False
    """True: a stage for an emulator, with no TLS on queues and buckets, with disabled schedules, and with the
    architecture and the environment of this machine. It takes no ``database``, ``network``, ``control``, ``page``,
    ``monitoring``, ``events`` or ``images``."""
    prefix: Annotated[str, AfterValidator(check_prefix)] = "jobs"
    """Start of the names of all resources: lower-case letters, digits and single hyphens, 20 characters at most. It
    must not begin with the prefix of another stage and a hyphen: two stages cannot have ``jobs`` and
    ``jobs-prod``."""
    concurrency_budget: int = Field(20, ge=MIN_CONCURRENCY, le=MAX_CONCURRENCY)
    """Concurrent invocations of all lanes together, split over the lanes by the weights of their queues. Each lane gets
    2 at least. An event source mapping without provisioned pollers allows 1,000 at most."""
    account_concurrency: int = Field(50, ge=1)
    """Lambda's quota for concurrent executions in the account: 1,000 by default, and less in a new account.
    ``aws lambda get-account-settings`` shows it. Source: Lambda quotas."""
    database_connections: int | None = Field(None, ge=1)
    """``max_connections`` of the database. None: calculated from Aurora's capacity or the class of the RDS instance, or
    100 for another PostgreSQL."""
    reserved_connections: int = Field(10, ge=4)
    """Connections of ``database_connections`` that the functions leave free: two for the migration of a deploy, two for
    each operator's command, what the server reserves for superusers, and the connections of your other programs."""
    log_retention_days: LogRetentionDays = 30
    """Days for which CloudWatch Logs keeps the logs of functions."""
    log_level: LogLevel = "INFO"
    """Lowest level of the log lines that functions write."""
    removal: Literal["retain", "destroy"] = "retain"
    """``"retain"``: queues, logs, buckets and a last snapshot of an Aurora cluster stay when the stack is deleted.
    ``"destroy"``: they are deleted, except buckets with objects, and the cluster leaves no snapshot."""
    network: Network | None = None
    """Network of functions and database. None: functions run outside of any VPC, and the database has to be public.
    Required for ``database`` of kind ``aurora`` or ``rds``."""
    database: DatabaseSettings
    """The database. A local stage uses the database of ``DATABASE_URL``."""
    control: Control | None = None
    """Control API for operators. None: no control API; operators need the address of the database."""
    page: PageSettings | None = None
    """The page for a team, behind a sign-in. None: each operator runs `joblane page`. Requires ``control``."""
    monitoring: Monitoring | None = None
    """Alarms, dashboard and saved queries. None: none of them."""
    events: Events | None = None
    """Bus and webhook of the events of tasks. None: the events of tasks that declare ``events=`` go to a bus of the
    stage's own, ``PREFIX-events``, for the targets of your own rules."""
    tags: Mapping[str, str] = {}
    """Tags of every resource, in addition to ``joblane:stage``: 40 at most. A key has 1 to 128 letters, digits, spaces
    and any of ``_.:/=+-@``, and starts neither with ``aws:`` nor with ``joblane:``. A value has 256 characters at
    most."""
    sweep: Annotated[str, BeforeValidator(_interval)] = "6 hours"
    """Interval of the sweep's own schedule: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30 minutes, or 1, 2, 3, 4, 6, 8, 12 or
    24 hours. Above ``"5 minutes"`` sweeps are planned: a sweep runs when work is due and after each write, and this
    schedule is a safety net. ``"5 minutes"`` or less: only the schedule starts sweeps, for a stage with producers that
    enqueue with SQL and cannot send to SQS."""
    schedules: Mapping[str, str] = {}
    """Times that replace the declared times, for example ``{"mail:digest": "@hourly"}``. The key is the type, or
    ``type:name`` if the type has several schedules. The value is Unix cron text or ``"off"``. Name, time zone and
    payload stay as declared. ``sweep`` has the interval of ``jobs:sweep``."""
    settings: Mapping[str, Value] = {}
    """Values of the names that tasks declare in ``environment``: strings, or references to secrets. A name that ends in
    ``_PASSWORD``, ``_SECRET``, ``_TOKEN``, ``_KEY`` or ``_KEYS`` takes a reference only."""
    mail_from: str | None = Field(None, pattern=EMAIL)
    """Sender address of tasks that declare ``mail`` in their ``Grants`` and send through Amazon SES. Required if there
    is such a task."""
    architecture: Architecture = "arm64"
    """Processor architecture of the functions. A local stage uses the architecture of this machine."""
    images: Mapping[str, Image] = {}
    """Container images of places, by the names in ``Lambda(…, image=…)``. A value is the address of an image in ECR
    with its digest, or an object with ``dockerfile``, ``target`` and ``context``. ``-c image.NAME=ADDRESS`` replaces
    an address: [Run jobs in your own image](../how-to/python-packages.md#run-jobs-in-your-own-image). A local stage
    takes none."""
    version: str | None = Field(None, pattern=VERSION)
    """Version of the code, which marks a deploy on charts: 1 to 64 ASCII characters without spaces. None:
    the commit of the project's folder, or a digest of the code."""
    kms_key: KeyArn | None = None
    """ARN of a symmetric KMS key of your own, in the region of the stage, for its queues, logs and topics, for the key
    of the page's sessions, and for the buckets of an application that uses it. You write its policy:
    [Use your own KMS keys](../how-to/own-keys.md). None: keys of each service, and with ``monitoring`` a key for the
    topics. The database has a setting of its own, ``database.kms_key``."""
    other_kms_keys: Annotated[
        tuple[KeyArn, ...],
        Field(strict=False),
        required(
            lambda keys: len(keys) <= MAX_OTHER_KEYS,
            f"{MAX_OTHER_KEYS} keys at most are allowed: the next kms_key, and former ones; leave out a key with which "
            "no message and no object is encrypted any more",
        ),
    ] = ()
    """ARNs of further keys that the functions and the producers' policies may use: the next ``kms_key``, one deploy
    before it, and a former one for as long as messages or objects are encrypted with it. 4 at most."""

    def problems(self) -> Iterator[str]:
        if not self.local:
            for name, value in self.settings.items():
                if isinstance(value, str) and value and SECRET_NAME.search(name):
                    yield f'settings.{name} is a secret; refer to it by {{"secret": "name", "field": "key"}}'
        for key in self.schedules:
            if key == SWEEP or key.startswith(f"{SWEEP}:"):
                yield f'schedules.{key}: the setting sweep has its interval; write "sweep": "1 hour", for example'
        for key, value in self.tags.items():
            if key.startswith(("aws:", OWN_TAGS)) or not TAG_KEY.fullmatch(key) or not TAG_VALUE.fullmatch(value):
                yield (
                    f"tags.{key}: letters, digits, spaces and any of _.:/=+-@ are required, 128 at most in a key that "
                    f"starts with neither aws: nor {OWN_TAGS}, 256 at most in a value"
                )
        if len(self.tags) > MAX_TAGS:
            yield f"tags: {len(self.tags)} are too many; {MAX_TAGS} at most"
        yield from self._unreachable()
        yield from self._without_effect()
        yield from self._wrong_keys()
        if self.removal == "retain" and self.alarms_of_nobody:
            yield (
                'monitoring.email: an address is required, because the removal of this stage is "retain"; '
                f'or set slack, or "off" if you subscribe to the topics {self.prefix}-urgent and {self.prefix}-later '
                "in another way"
            )
        free = max(self.account_concurrency - UNRESERVED_CONCURRENCY, 0)
        for name, reserved in self.reserved.items():
            if reserved > free:
                yield (
                    f"{name}.max_concurrency: {free} at most is required, because Lambda keeps "
                    f"{UNRESERVED_CONCURRENCY} of the {self.account_concurrency} of account_concurrency unreserved; "
                    "leave it out, or request a higher quota"
                )
            free -= reserved
        if isinstance(self.database, OwnDatabase) and self.connections > self.database.max_connections:
            enough = self.database.enough_for(self.connections)
            yield (
                f"database_connections: {self.connections} are more than the {self.database.max_connections} "
                f"connections of {self.database.size}: leave it out"
                f"{f', or {enough}' if enough else ''}"
            )

    def _wrong_keys(self) -> Iterator[str]:
        """Yield what is wrong with the keys, and with the regions of keys and images."""
        if self.kms_key in self.other_kms_keys:
            yield "other_kms_keys: it has kms_key, which the functions may use in any case; leave it out there"
        for place, arn in enumerate(self.other_kms_keys):
            if (first := self.other_kms_keys.index(arn)) < place:
                yield f"other_kms_keys.{place}: it is the key of other_kms_keys.{first}; leave one of them out"
        if self.kms_key and self.monitoring and not self.monitoring.topic_key:
            yield "monitoring.topic_key: kms_key encrypts the topics; leave topic_key out"
        if self.local and self.other_kms_keys:
            yield f"other_kms_keys: {NOT_LOCAL['kms_key']}"
        zones = (self.network and self.network.availability_zones) or ()
        regions = [zone[:-1] for zone in zones] + [region_of(arn) for arn in self.keys.values()]
        yield from self.wrong_regions(regions[0] if regions else None)

    def wrong_regions(self, region: str | None) -> Iterator[str]:
        """Yield a sentence for each key and image outside of ``region``, the region of the stage; None: unknown."""
        for name, arn in self.keys.items():
            if region is not None and region_of(arn) != region:
                yield f"{name}: {key_region_problem(arn, region)}"
        for name, image in self.ecr_images.items():
            if region is not None and image.region != region:
                yield f"images.{name}: {image_region_problem(image, region)}"

    def _unreachable(self) -> Iterator[str]:
        if self.local != isinstance(self.database, LocalDatabase):
            yield "database: kind aurora, rds or existing is required; only a local stage uses DATABASE_URL"
        for name, why in NOT_LOCAL.items():
            if self.local and getattr(self, name):
                yield f"{name}: {why}"
        if self.page is not None and self.control is None:
            yield 'page: "control": {} is required with it, because the page calls the control API'
        if isinstance(self.database, OwnDatabase) and self.network is None:
            kind = self.database.kind
            yield f'network: {{"kind": "new"}} or an existing network is required for database.kind {kind}'
        if isinstance(self.database, OwnDatabase) and (copy := self.database.restored) is not None:
            called = copy.host.partition(".")[0]
            if not called.startswith(f"{self.prefix}-") or called == database_id(self.prefix):
                yield (
                    f"database.restored.host: {called} is not a copy of this stage's database: restore it under a name "
                    f"such as {self.prefix}-restored, and write its endpoint; to use the stage's own database, leave "
                    "restored out"
                )
            zones = (self.network and self.network.availability_zones) or ()
            if zones and not zones[0].startswith(copy.region):
                yield (
                    f"database.restored.host: it is in {copy.region}, and the network of the stage is in "
                    f"{zones[0][:-1]}; restore the copy there"
                )
        if isinstance(self.database, ExistingDatabase) and self.database.security_group_id and self.network is None:
            yield "database.security_group_id: network is required with it, for the functions' side"
        if isinstance(self.database, ExistingDatabase) and isinstance(self.network, NewNetwork):
            if self.database.security_group_id:
                yield (
                    "database.security_group_id: the group is in another VPC and cannot refer to groups of a new one; "
                    "set network to the VPC of the database, with kind existing"
                )
            if self.network.egress in ("ipv6", "endpoints"):
                yield (
                    f"network.egress: {self.network.egress} does not reach database.kind existing, which is outside "
                    "the new VPC; set egress to nat, or network to the VPC of the database, with kind existing"
                )

    def _without_effect(self) -> Iterator[str]:
        kind = self.database.kind
        of_database = {name for name in Monitoring.model_fields if name.startswith("database_")}
        given = (self.monitoring.model_fields_set if self.monitoring else set()) & of_database
        if without := given & UNWATCHED.get(kind, of_database):
            yield f"monitoring.{min(without)}: there is no such alarm with database.kind {kind}; leave it out"

    @property
    def keys(self) -> Mapping[str, str]:
        """The ARNs of all KMS keys in the settings, by the names of their settings."""
        given = {
            "kms_key": self.kms_key,
            **{f"other_kms_keys.{place}": arn for place, arn in enumerate(self.other_kms_keys)},
            "database.kms_key": self.database.kms_key if isinstance(self.database, OwnDatabase) else None,
        }
        return {name: arn for name, arn in given.items() if arn}

    @property
    def ecr_images(self) -> Mapping[str, EcrAddress]:
        """The images that exist in ECR, by their names."""
        return {name: EcrAddress.of(image) for name, image in self.images.items() if isinstance(image, str)}

    @property
    def usable_keys(self) -> tuple[str, ...]:
        """The ARNs of the keys that functions and producers may use."""
        return ((self.kms_key,) if self.kms_key else ()) + self.other_kms_keys

    @property
    def sweep_minutes(self) -> int:
        """The setting ``sweep`` in minutes."""
        return minutes_of(self.sweep)

    @property
    def alarms_of_nobody(self) -> bool:
        """True if there are alarms and the settings do not say who is notified."""
        return self.monitoring is not None and self.monitoring.email is None and self.monitoring.slack is None

    @property
    def apis(self) -> Mapping[str, HttpLimits]:
        """The HTTP APIs whose functions use the database, by the name of the setting and of the function."""
        return {} if self.control is None else {"control": self.control}

    @property
    def reserved(self) -> Mapping[str, int]:
        """Concurrency that is reserved for functions of APIs, by name."""
        apis = self.apis if self.page is None else {**self.apis, "page": self.page}
        return {name: api.max_concurrency for name, api in apis.items() if api.max_concurrency}

    @property
    def ses_sender(self) -> str | None:
        """The address that functions send from by Amazon SES. None on a local stage without one.

        Raises :class:`StageError` if it is missing.
        """
        if self.mail_from is None and not self.local:
            raise StageError(
                f"stage {self.name!r}: mail_from: a sender address such as no-reply@example.com is required, because "
                "a task declares Grants(mail=True)"
            )
        return self.mail_from

    @property
    def database_id(self) -> str:
        """Identifier of the stage's own cluster or instance, or of the restored copy that it uses."""
        copy = self.database.restored if isinstance(self.database, OwnDatabase) else None
        return copy.host.partition(".")[0] if copy else database_id(self.prefix)

    @property
    def connections(self) -> int:
        """``max_connections`` of the database."""
        if self.database_connections is not None:
            return self.database_connections
        return self.database.max_connections if isinstance(self.database, OwnDatabase) else DEFAULT_CONNECTIONS
