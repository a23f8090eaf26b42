"""How the functions come to the database: its address, the permission to log in, and the network it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_secretsmanager as secretsmanager

from joblane.cdk.settings.database import ExistingDatabase


@dataclass(frozen=True)
class Login:
    """How a user logs in. ``url``: ``DATABASE_URL``. ``statements``: the permissions that it takes, ``secret``: read.

    ``known_as``: stands for the address where that is a secret itself.
    """

    url: str
    statements: Sequence[iam.PolicyStatement] = ()
    by_iam: bool = False
    secret: secretsmanager.ISecret | None = None
    known_as: str | None = None

    @property
    def identity(self) -> str:
        """Changes when the database is another."""
        return self.known_as or self.url


@dataclass(frozen=True)
class Address:
    """Of a database. Parts may be tokens."""

    host: str
    port: int | str
    name: str

    def url(self, *, user: str = "", **query: str) -> str:
        """As :class:`joblane.record.database.Database` takes it. Tokens are not escaped."""
        login = f"{user}@" if user else ""
        return f"postgresql://{login}{self.host}:{self.port}/{self.name}?{urlencode(query, safe=':/${}.[]')}"


@dataclass(frozen=True)
class Place:
    """Where functions run that have to reach the database. ``interfaces``: what their roles need to be there."""

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_group: ec2.ISecurityGroup
    interfaces: iam.IManagedPolicy


@dataclass(frozen=True)
class DatabaseAccess:
    """``functions``: of the tasks and the API. ``migration``: of the deploy. ``place`` None: no network is needed.

    ``user``: of the functions, whom the migration makes and lets in; None where they come as the owner.
    """

    functions: Login
    migration: Login
    place: Place | None = None
    user: str | None = None


def existing_access(stack: Stack, database: ExistingDatabase, place: Place | None) -> DatabaseAccess:
    """To a database that is there already, with the rights to do just that."""
    address = Address(database.host, database.port, database.name)
    if database.secret is not None:
        functions = by_secret(address, database.secret)
    else:
        functions = by_iam(stack, address, str(database.user), str(database.resource_id))
    if database.migration_secret is None:
        return DatabaseAccess(functions, functions, place)
    return DatabaseAccess(functions, by_secret(address, database.migration_secret), place, database.user)


def by_secret(address: Address, arn: str) -> Login:
    statement = iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[arn])
    return Login(address.url(secret=arn), [statement])


def by_iam(stack: Stack, address: Address, user: str, resource_id: str) -> Login:
    """Source: RDS, *Creating and using an IAM policy for IAM database access*."""
    arn = stack.format_arn(
        service="rds-db",
        resource="dbuser",
        resource_name=f"{resource_id}/{user}",
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    statement = iam.PolicyStatement(actions=["rds-db:connect"], resources=[arn])
    return Login(address.url(user=user, auth="iam"), [statement], by_iam=True)
