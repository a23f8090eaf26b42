"""The parts of a stage's settings: its network, its database, its HTTP API, its control API."""

from __future__ import annotations

import re
from ipaddress import ip_network
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.login import RDS_HOST

DatabaseName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class SecretReference(Settings):
    """A value kept in Secrets Manager: the template holds the reference, CloudFormation reads it while it deploys."""

    secret: str = Field(min_length=1)
    """Name or ARN."""
    field: str | None = None
    """Key in a JSON secret; None: the whole text."""


# --- Network -------------------------------------------------------------------------------------------------------


class Reaching(Settings):
    """What functions reach from a network of whatever kind."""

    egress_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(strict=False)] = ()
    """TCP ports of what tasks call, beside HTTPS's 443 and the database's: 587, say, for mail by SMTP."""


class NewNetwork(Reaching):
    """A VPC of the stage's own, in two zones."""

    kind: Literal["new"]
    nat_gateways: int = Field(1, ge=0, le=2)
    """0: nothing of the internet can be reached, and of AWS what functions call: SQS, S3, Secrets Manager and SES. The
    endpoints cost more than a gateway does: it is for those whose functions must not reach the internet."""
    cidr: str = Field("10.60.0.0/16", pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")

    @field_validator("cidr")
    @classmethod
    def _a_network(cls, cidr: str) -> str:
        try:
            ip_network(cidr)
        except ValueError as error:
            raise ValueError(f"{error}; 10.60.0.0/16, for example, is right") from None
        return cidr


class ExistingNetwork(Reaching):
    """A VPC that is there. Its private subnets reach SQS, S3 and whatever the tasks call, by NAT or by endpoints."""

    kind: Literal["existing"]
    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]+$")
    subnet_ids: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Private ones, each in another zone."""
    availability_zones: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Theirs, in the same order."""

    @model_validator(mode="after")
    def _one_zone_each(self) -> Self:
        if len(self.subnet_ids) != len(self.availability_zones):
            raise ValueError("availability_zones: one for each of subnet_ids, in the same order, is required")
        if len(set(self.availability_zones)) < len(self.availability_zones):
            raise ValueError("availability_zones: one is there twice; give one subnet for each zone")
        return self


Network = Annotated[NewNetwork | ExistingNetwork, Field(discriminator="kind")]

# --- Database ------------------------------------------------------------------------------------------------------


MASTER_USER = "postgres"
"""Of a cluster of the stage's own: whom the migration logs in as."""
RESERVED_NAME = re.compile(r"rds.*|pg_.*|_.*|template[01]")
"""Of databases and roles. Source: CreateDBCluster, RDS API reference, and PostgreSQL, *CREATE ROLE*."""
CAPACITY_STEP = 0.5
MAX_CAPACITY = 256
CONNECTIONS = ((1, 189), (4, 823), (8, 1669), (16, 3360), (32, 5000), (MAX_CAPACITY, 5000))
"""``max_connections`` by the capacity at most; it follows the memory, and so is linear between them.

Source: Aurora, *Maximum connections for Aurora Serverless v2*.
"""
CONNECTIONS_BELOW_ONE_UNIT = 2000
"""The most where the capacity goes below 1. Source: the same."""


class Aurora(Settings):
    """A cluster of the stage's own: Aurora Serverless v2, in its network. Functions come in by IAM as ``user``."""

    kind: Literal["aurora"]
    name: DatabaseName = "joblane"
    user: DatabaseName = "joblane"
    """The role of the functions; the deploy makes it, with no right but to read and write."""
    min_capacity: float = Field(0, ge=0, le=MAX_CAPACITY, multiple_of=CAPACITY_STEP, strict=False)
    """Aurora capacity units. 0: it sleeps when nobody connects."""
    max_capacity: float = Field(2, ge=1, le=MAX_CAPACITY, multiple_of=CAPACITY_STEP, strict=False)
    """``max_connections`` follows from it."""
    pause_after_minutes: int = Field(5, ge=5, le=1440)
    """Source: Aurora, *Scaling to zero ACUs with automatic pause and resume*."""
    backup_days: int = Field(7, ge=1, le=35)
    deletion_protection: bool = True
    standby: bool = False
    """A second instance in the other zone, to fail over to."""

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.max_capacity < self.min_capacity:
            raise ValueError(f"max_capacity: {self.min_capacity:g}, the min_capacity, at least is required")
        return self

    @model_validator(mode="after")
    def _names_of_its_own(self) -> Self:
        for field, name in (("name", self.name), ("user", self.user)):
            if RESERVED_NAME.fullmatch(name):
                raise ValueError(f"{field}: {name!r} is reserved; joblane, for example, is right")
        if self.user == MASTER_USER:
            raise ValueError(
                f"user: {MASTER_USER!r} is the master, who may do everything; joblane, for example, is right"
            )
        return self

    @property
    def max_connections(self) -> int:
        return _connections(self.min_capacity, self.max_capacity)

    def enough_for(self, connections: int) -> str | None:
        """What to raise so that more than ``max_connections`` fit; None: no cluster takes so many."""
        for least in (self.min_capacity, max(self.min_capacity, 1)):
            for step in range(round(self.max_capacity / CAPACITY_STEP), round(MAX_CAPACITY / CAPACITY_STEP) + 1):
                most = step * CAPACITY_STEP
                if _connections(least, most) >= connections:
                    settings = (("min_capacity", self.min_capacity, least), ("max_capacity", self.max_capacity, most))
                    changes = [f"database.{name} ({now:g}) to {then:g}" for name, now, then in settings if now != then]
                    return f"raise {' and '.join(changes)}"
        return None


def _connections(min_capacity: float, max_capacity: float) -> int:
    """``max_connections`` of Aurora, the few for superusers included."""
    most = next(
        low + int((max_capacity - below) * (high - low) / (above - below))
        for (below, low), (above, high) in pairwise(CONNECTIONS)
        if max_capacity <= above
    )
    return most if min_capacity >= 1 else min(most, CONNECTIONS_BELOW_ONE_UNIT)


SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@!-]+-[A-Za-z0-9]{6}", re.ASCII)
"""Whole: a permission for a part of it, or for the name, allows nothing. Source: CreateSecret, Secrets Manager API
reference; the names of RDS's own secrets have a ``!`` as well."""


def _secret_arn(text: str) -> str:
    if not SECRET_ARN.fullmatch(text):
        raise ValueError(
            "the whole ARN of a secret is required, with the six characters at its end, as "
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:NAME-AbCdEf"
        )
    return text


def _host_on_aws(host: str) -> str:
    if host.lower() == "localhost" or host.startswith("127."):
        raise ValueError(f"{host} would be the function itself, and without TLS; the name of the database is required")
    return host


class ExistingDatabase(Settings):
    """A PostgreSQL that is there. ``secret`` for a password kept in Secrets Manager, or ``resource_id`` for IAM."""

    kind: Literal["existing"]
    host: Annotated[str, AfterValidator(_host_on_aws)] = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
    """With ``resource_id``: the endpoint itself, which the token is for, and no other name of it."""
    port: int = Field(5432, ge=1, le=65535)
    name: DatabaseName
    user: DatabaseName | None = None
    """Of the functions. With ``secret``: None, the secret's ``username``."""
    secret: Annotated[str, AfterValidator(_secret_arn)] | None = None
    """ARN of a JSON secret with ``username`` and ``password``, as RDS makes them."""
    resource_id: str | None = Field(None, pattern=r"^(cluster|db|prx)-[A-Za-z0-9]+$")
    """Of the cluster, instance or proxy, for ``rds-db:connect``: a token in place of a password."""
    migration_secret: Annotated[str, AfterValidator(_secret_arn)] | None = None
    """ARN of the secret of a user who may change the schema; None: the functions' own user does."""
    security_group_id: str | None = Field(None, pattern=r"^sg-([0-9a-f]{8}|[0-9a-f]{17})$")
    """Of the database: the functions are let in. Only where there is a network."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.secret is None) == (self.resource_id is None):
            raise ValueError("secret: give either secret, for a password, or resource_id, for IAM")
        if self.secret is not None and self.user is not None and self.migration_secret is None:
            raise ValueError("user: is the secret's username; leave it out beside secret")
        if self.resource_id is not None and self.user is None:
            raise ValueError("user: whom IAM lets in is required beside resource_id")
        if self.resource_id is not None and not RDS_HOST.search(self.host.lower()):
            raise ValueError(
                "host: the endpoint of RDS is required beside resource_id, as NAME.ID.REGION.rds.amazonaws.com: "
                "IAM's token and the certificate are for that name"
            )
        return self


class LocalDatabase(Settings):
    """The PostgreSQL of a local stage, or of a test."""

    kind: Literal["local"]
    url: str = Field(repr=False)


DatabaseSettings = Annotated[Aurora | ExistingDatabase | LocalDatabase, Field(discriminator="kind")]

# --- API -----------------------------------------------------------------------------------------------------------

ORIGIN = re.compile(r"(https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?|http://(localhost|127\.0\.0\.1))(:[1-9]\d{0,4})?")


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise ValueError(
            "https://HOST or https://HOST:PORT is required, as browsers send it: lower case, no path, no *; "
            "http:// is for localhost alone"
        )
    return text


class Jwt(Settings):
    """Tokens of an OpenID Connect provider."""

    kind: Literal["jwt"]
    issuer: str = Field(pattern=r"^https://[^\s]+$")
    """Just as the tokens' ``iss`` has it, a last slash included."""
    audience: Annotated[tuple[str, ...], Field(min_length=1, max_length=50, strict=False)]
    """One of them is a token's ``aud``, or its ``client_id`` where it has no ``aud``. Source: API Gateway, *Control
    access to HTTP APIs with JWT authorizers*, and its quotas."""


class Iam(Settings):
    """Requests signed by AWS credentials: services of this account, which act for no tenant."""

    kind: Literal["iam"]


class Api(Settings):
    """The HTTP API."""

    authorizer: Annotated[Jwt | Iam, Field(discriminator="kind")]
    rate_per_second: int = Field(50, ge=1)
    burst: int = Field(100, ge=1)
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(strict=False)] = ()
    """Origins whose pages may call it, for example ``https://app.example.com``."""
    max_concurrency: int | None = Field(None, ge=1)
    """Reserved for the API's function, and its bound. None: it shares what the account has left."""

    @model_validator(mode="after")
    def _pages_have_tokens(self) -> Self:
        if self.cors_origins and isinstance(self.authorizer, Iam):
            raise ValueError("cors_origins: pages have no AWS credentials; leave it out, or take authorizer jwt")
        return self


class Control(Settings):
    """The control API: operators ask and act by it, as whom IAM knows them."""

    rate_per_second: int = Field(20, ge=1)
    burst: int = Field(40, ge=1)
    max_concurrency: int | None = Field(None, ge=1)
    """Reserved for its function, and its bound. None: it shares what the account has left."""


# --- Monitoring ----------------------------------------------------------------------------------------------------

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
    """So many runs that ended without a word ten minutes ago and were not found."""
    throttles: Count = 1
    """So many invocations of the stage's functions within 5 minutes for which Lambda had no room."""
    near_timeout_percent: Percent = 80
    """A run took so much of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """So many times in a row the sweep, or a health check, did not end well."""
