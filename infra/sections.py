"""The parts of a stage's settings: its network, its database, its HTTP API."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


class NewNetwork(Settings):
    """A VPC of the stage's own, in two zones."""

    kind: Literal["new"]
    nat_gateways: int = Field(1, ge=0, le=2)
    """0: nothing of the internet can be reached, and the AWS services by interface endpoints alone."""
    cidr: str = Field("10.60.0.0/16", pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")


class ExistingNetwork(Settings):
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
        return self


Network = Annotated[NewNetwork | ExistingNetwork, Field(discriminator="kind")]

# --- Database ------------------------------------------------------------------------------------------------------


class Aurora(Settings):
    """A cluster of the stage's own: Aurora Serverless v2, in its network. Functions come in by IAM as ``user``."""

    kind: Literal["aurora"]
    name: DatabaseName = "joblane"
    user: DatabaseName = "joblane"
    """The role of the functions; the deploy makes it, with no right but to read and write."""
    min_capacity: float = Field(0, ge=0, le=256, multiple_of=0.5, strict=False)
    """Aurora capacity units. 0: it sleeps when nobody connects."""
    max_capacity: float = Field(2, ge=1, le=256, multiple_of=0.5, strict=False)
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


class ExistingDatabase(Settings):
    """A PostgreSQL that is there. ``secret`` for a password kept in Secrets Manager, or ``resource_id`` for IAM."""

    kind: Literal["existing"]
    host: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
    port: int = Field(5432, ge=1, le=65535)
    name: DatabaseName
    user: DatabaseName | None = None
    """Of the functions. With ``secret``: None, the secret's ``username``."""
    secret: str | None = Field(None, min_length=1)
    """ARN of a JSON secret with ``username`` and ``password``, as RDS makes them."""
    resource_id: str | None = Field(None, pattern=r"^(cluster|db|prx)-[A-Za-z0-9]+$")
    """Of the cluster, instance or proxy, for ``rds-db:connect``: a token in place of a password."""
    migration_secret: str | None = Field(None, min_length=1)
    """ARN of the secret of a user who may change the schema; None: the functions' own user does."""
    security_group_id: str | None = Field(None, pattern=r"^sg-[0-9a-f]+$")
    """Of the database: the functions are let in. Only where there is a network."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.secret is None) == (self.resource_id is None):
            raise ValueError("secret: give either secret, for a password, or resource_id, for IAM")
        if self.resource_id is not None and self.user is None:
            raise ValueError("user: whom IAM lets in is required beside resource_id")
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
