"""What differs between stages: settings under ``stages`` in ``cdk.json``, checked when they are read."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from aws_cdk import RemovalPolicy
from pydantic import AfterValidator, Field, ValidationError, model_validator

from joblane import schedule_overrides as schedules
from joblane.cdk.errors import StageError
from joblane.cdk.settings.apis import Api, Control, Monitoring
from joblane.cdk.settings.database import Aurora, DatabaseSettings, ExistingDatabase, LocalDatabase
from joblane.cdk.settings.network import Network, NewNetwork
from joblane.cdk.settings.section import SecretReference, Settings
from joblane.declaration import Task
from joblane.errors import DeclarationError
from joblane.limits import MAX_CONCURRENCY, MIN_CONCURRENCY
from joblane.queues import check_prefix

Architecture = Literal["arm64", "x86_64"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogRetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 3653]
"""Source: PutRetentionPolicy, CloudWatch Logs API reference."""

UNRESERVED_CONCURRENCY = 100
"""Of an account's concurrency, what no function can reserve. Source: Lambda, *Configuring reserved concurrency*."""
SECRET_NAME = re.compile(r"_(PASSWORD|SECRET|TOKEN|KEY)$")
"""Settings of such a name never stand in a template."""
SES, SMTP = "ses", "smtp"
"""``EMAIL_PROVIDER`` of a stage that is not local: its third value, ``console``, would lose the mails. See
:mod:`saas.mail`."""

DEFAULT_CONNECTIONS = 100
"""Source: PostgreSQL, *max_connections*."""
OWN_TAGS = "joblane:"
TAG_KEY, TAG_VALUE, MAX_TAGS = re.compile(r"[\w .:/=+\-@]{1,128}"), re.compile(r"[\w .:/=+\-@]{0,256}"), 40
"""AWS takes 50 on a resource, those of CDK included. Source: *Tagging AWS Resources*."""

REMOVAL = {
    "destroy": RemovalPolicy.DESTROY,
    # and not RETAIN: what a first deploy made and rolled back would be in the way of the second by its name
    "retain": RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
}


Value = str | SecretReference


class Stage(Settings):
    """One stage. Numbers left out have the defaults that suit a new account."""

    name: str
    local: bool = False
    """An emulator: no TLS on queues and bucket, schedules disabled, architecture and settings of this machine."""
    prefix: Annotated[str, AfterValidator(check_prefix)] = "jobs"
    concurrency_budget: int = Field(20, ge=MIN_CONCURRENCY, le=MAX_CONCURRENCY)
    """Split over the lanes by the weights of their queues."""
    account_concurrency: int = Field(50, ge=1)
    """The account's Lambda quota. 1,000 by default and less in a new account, by how much AWS does not say:
    ``aws lambda get-account-settings`` does. Source: Lambda quotas."""
    database_connections: int | None = Field(None, ge=1)
    """``max_connections`` of the database. None: what follows from Aurora's capacity, else PostgreSQL's own default."""
    reserved_connections: int = Field(10, ge=4)
    """Of these, kept for what else uses the database: two each for the migration of a deploy and an operator's command,
    and the few that the server keeps for superusers."""
    log_retention_days: LogRetentionDays = 30
    log_level: LogLevel = "INFO"
    removal: Literal["retain", "destroy"] = "retain"
    """What becomes of the bucket and the logs when the stack goes. A bucket that holds objects is never removed."""
    network: Network | None = None
    """Where functions and database live. None: functions outside of any VPC, for a database that is public."""
    database: DatabaseSettings
    """On a local stage: DATABASE_URL of the environment."""
    api: Api | None = None
    """None: there is no HTTP API."""
    control: Control | None = None
    """None: there is no control API, and operators need the database's address. An emulator verifies no signature."""
    monitoring: Monitoring | None = None
    """None: there are no alarms, no dashboard and no saved queries."""
    tags: Mapping[str, str] = {}
    """For every resource, beside ``joblane:stage``."""
    schedules: Mapping[str, str] = {}
    """Times in place of declared ones: ``{"jobs:sweep": "@hourly", "system:health_check": "off"}``. A database that
    may sleep does so between them. See :mod:`joblane.schedule_overrides`."""
    settings: Mapping[str, Value] = {}
    """Values for the names that tasks declare in ``environment``."""
    architecture: Architecture = "arm64"
    export_bucket: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """Name of the bucket; None: CloudFormation makes one up."""

    @model_validator(mode="after")
    def _no_secret_in_the_template(self) -> Self:
        if not self.local:
            for name, value in self.settings.items():
                if isinstance(value, str) and value and SECRET_NAME.search(name):
                    raise ValueError(
                        f'settings.{name}: is a secret; refer to it by {{"secret": "name", "field": "key"}}'
                    )
        return self

    @model_validator(mode="after")
    def _mails_arrive(self) -> Self:
        if self.local:
            return self
        if self.mails_by not in (SES, SMTP):
            raise ValueError(f"settings.EMAIL_PROVIDER: {SES} or {SMTP} is required; console is for a local stage")
        if self.mails_by == SMTP and isinstance(self.network, NewNetwork) and self.network.nat_gateways == 0:
            raise ValueError(
                f"settings.EMAIL_PROVIDER: no server for {SMTP} can be reached with network.nat_gateways 0; {SES} is "
                "right, or 1 gateway at least"
            )
        return self

    @model_validator(mode="after")
    def _tags_that_aws_takes(self) -> Self:
        for key, value in self.tags.items():
            if key.startswith(("aws:", OWN_TAGS)) or not TAG_KEY.fullmatch(key) or not TAG_VALUE.fullmatch(value):
                raise ValueError(
                    f"tags.{key}: letters, digits, spaces and any of _.:/=+-@ are required, 128 at most in a key that "
                    f"starts with neither aws: nor {OWN_TAGS}, 256 at most in a value"
                )
        if len(self.tags) > MAX_TAGS:
            raise ValueError(f"tags: {len(self.tags)} are too many; {MAX_TAGS} at most")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.local != isinstance(self.database, LocalDatabase):
            raise ValueError("database: of kind aurora or existing is required; a local stage has DATABASE_URL's")
        if self.local and self.control is not None:
            raise ValueError(
                "control: an emulator verifies no signature; leave it out, `joblane` reaches the stack itself"
            )
        if self.local and self.network is not None:
            raise ValueError("network: there is none on a local stage; leave it out")
        if self.local and self.monitoring is not None:
            raise ValueError("monitoring: there are no metrics on a local stage to watch; leave it out")
        if isinstance(self.database, Aurora) and self.network is None:
            raise ValueError('network: {"kind": "new"} or an existing one is required for database.kind aurora')
        if isinstance(self.database, ExistingDatabase) and self.database.security_group_id and self.network is None:
            raise ValueError("database.security_group_id: lets functions in from a network, and network is not set")
        if isinstance(self.database, ExistingDatabase) and isinstance(self.network, NewNetwork):
            if self.database.security_group_id:
                raise ValueError(
                    "database.security_group_id: is of another VPC than the new one, whose groups it cannot let in; "
                    "make network the database's, of kind existing"
                )
            if self.network.nat_gateways == 0:
                raise ValueError(
                    "network.nat_gateways: 1 at least is required for database.kind existing, which is outside of the "
                    "new VPC"
                )
        return self

    @model_validator(mode="after")
    def _reservable(self) -> Self:
        most = max(self.account_concurrency - UNRESERVED_CONCURRENCY, 0)
        for name, section in (("api", self.api), ("control", self.control)):
            reserved = (section.max_concurrency or 0) if section else 0
            if reserved > most:
                raise ValueError(
                    f"{name}.max_concurrency: {most} at most is required, as Lambda keeps {UNRESERVED_CONCURRENCY} of "
                    f"the {self.account_concurrency} of account_concurrency unreserved; leave it out, or have the "
                    "quota raised"
                )
            most -= reserved
        return self

    @model_validator(mode="after")
    def _as_many_as_the_database_takes(self) -> Self:
        if isinstance(self.database, Aurora) and self.connections > self.database.max_connections:
            enough = self.database.enough_for(self.connections)
            raise ValueError(
                f"database_connections: {self.connections} are more than the {self.database.max_connections} that "
                f"Aurora takes at a max_capacity of {self.database.max_capacity:g}: leave it out"
                f"{f', or {enough}' if enough else ''}"
            )
        return self

    @property
    def mails_by(self) -> Value:
        """``EMAIL_PROVIDER``; SES where it is left to be."""
        return self.settings.get("EMAIL_PROVIDER", SES)

    @property
    def connections(self) -> int:
        """``max_connections`` of the database."""
        if self.database_connections is not None:
            return self.database_connections
        return self.database.max_connections if isinstance(self.database, Aurora) else DEFAULT_CONNECTIONS


def load_stage(name: str, stages: object, *, declared: Iterable[str], environ: Mapping[str, str]) -> Stage:
    """The settings of stage ``name``.

    ``stages``: what ``cdk.json`` holds. ``declared``: the names that tasks declare in ``environment``; a local stage
    takes their values from ``environ`` first. Raises :class:`StageError`.
    """
    if not isinstance(stages, Mapping) or not stages:
        raise StageError("cdk.json: context.stages: an object with one entry per stage is required")
    if name not in stages:
        raise StageError(f"no stage {name!r} in cdk.json; there are {', '.join(sorted(stages))} (cdk … -c stage=NAME)")
    given = stages[name]
    if not isinstance(given, Mapping):
        raise StageError(f"cdk.json: stage {name!r}: an object of settings is required")
    declared = set(declared)
    if given.get("local") is True:
        given = _of_this_machine(name, given, declared, environ)
    try:
        stage = Stage.model_validate({**given, "name": name})
    except ValidationError as error:
        raise StageError(f"cdk.json: stage {name!r}: {_describe(error)}") from None
    _check_prefix(stage, stages)
    unknown = sorted(set(stage.settings) - declared)
    if unknown:
        raise StageError(
            f"cdk.json: stage {name!r}: settings: no task declares {', '.join(unknown)} in environment=; "
            f"declared are {', '.join(sorted(declared)) or 'none'}"
        )
    return stage


def _check_prefix(stage: Stage, stages: Mapping[str, Any]) -> None:
    """Two stages can be in one account: no name of the one is a name of the other, and no permission reaches over.

    Permissions name queues by ``PREFIX-*``, so no prefix may begin another. A local stage is in no account.
    """
    own = f"{stage.prefix}-"
    for name, given in stages.items():
        if stage.local or name == stage.name or not isinstance(given, Mapping) or given.get("local") is True:
            continue
        other = f"{given.get('prefix', Stage.model_fields['prefix'].default)}-"
        if own.startswith(other) or other.startswith(own):
            raise StageError(
                f"cdk.json: stage {stage.name!r}: prefix: {stage.prefix!r} and {other[:-1]!r} of stage {name!r} begin "
                f"alike: {max(own, other, key=len)}… would be a name of both; jobs-{stage.name}, for example, is right"
            )


def _of_this_machine(
    name: str, given: Mapping[str, Any], declared: set[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    url = environ.get("DATABASE_URL")
    if not url:
        raise StageError(
            f"stage {name!r}: DATABASE_URL is not set in the environment, where a local stage takes the address of its "
            "database from, for example DATABASE_URL=postgresql://jobs:jobs@127.0.0.1:5432/jobs"
        )
    settings = given.get("settings", {})
    if isinstance(settings, Mapping):  # else refused with the others
        settings = {**settings, **{key: environ[key] for key in declared if key in environ}}
    return {
        **given,
        "database": {"kind": "local", "url": url},
        "settings": settings,
        "architecture": host_architecture(),
    }


def with_schedules_of(stage: Stage, tasks: Mapping[str, Task[Any, Any]]) -> dict[str, Task[Any, Any]]:
    """The tasks with the times that they have in ``stage``. Raises :class:`StageError`."""
    try:
        return schedules.apply_all(tasks, stage.schedules)
    except DeclarationError as error:
        raise StageError(f"cdk.json: stage {stage.name!r}: schedules: {error}") from None


def host_architecture() -> Architecture:
    """Of the machine that synthesises, and runs the emulator."""
    machine = platform.machine().lower()
    found = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    for known in get_args(Architecture):
        if found == known:
            return known  # type: ignore[no-any-return]
    raise StageError(f"Lambda has no architecture {machine!r}")


def _describe(error: ValidationError) -> str:
    """``setting: what is wrong`` for each, without the values."""
    found = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        found.append(f"{where}: {item['msg']}" if where else item["msg"].removeprefix("Value error, "))
    return "; ".join(found)
