"""How the functions come to the database: its address, the permission to log in, and the network it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam

from infra.sections import ExistingDatabase, LocalDatabase


@dataclass(frozen=True)
class Login:
    """One user's way in. ``url``: ``DATABASE_URL``, without a password; ``statements``: what it takes beside."""

    url: str
    statements: Sequence[iam.PolicyStatement] = ()


@dataclass(frozen=True)
class Place:
    """Where functions run that have to reach the database."""

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_group: ec2.ISecurityGroup


@dataclass(frozen=True)
class DatabaseAccess:
    """``functions``: of the tasks and the API. ``migration``: of the deploy. ``place`` None: no network is needed.

    ``user``: of the functions, whom the migration makes and lets in; None where they come as the owner.
    """

    functions: Login
    migration: Login
    place: Place | None = None
    user: str | None = None


def local_access(database: LocalDatabase) -> DatabaseAccess:
    login = Login(database.url)
    return DatabaseAccess(login, login)


def existing_access(stack: Stack, database: ExistingDatabase, place: Place | None) -> DatabaseAccess:
    """To a database that is there already, with the rights to do just that."""
    if database.secret is not None:
        functions = by_secret(database, database.secret)
    else:
        functions = by_iam(stack, database, str(database.user), str(database.resource_id))
    if database.migration_secret is None:
        return DatabaseAccess(functions, functions, place)
    return DatabaseAccess(functions, by_secret(database, database.migration_secret), place, database.user)


def by_secret(database: ExistingDatabase, arn: str) -> Login:
    url = database_url(database.host, database.port, database.name, secret=arn)
    statement = iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[arn])
    return Login(url, [statement])


def by_iam(stack: Stack, database: ExistingDatabase, user: str, resource_id: str) -> Login:
    """Source: RDS, *Creating and using an IAM policy for IAM database access*."""
    url = database_url(database.host, database.port, database.name, user=user, auth="iam")
    arn = stack.format_arn(
        service="rds-db",
        resource="dbuser",
        resource_name=f"{resource_id}/{user}",
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    return Login(url, [iam.PolicyStatement(actions=["rds-db:connect"], resources=[arn])])


def database_url(host: str, port: int | str, name: str, *, user: str = "", **query: str) -> str:
    """As :class:`shared.db.Database` takes it. Parts may be tokens, which are not escaped."""
    return f"postgresql://{user + '@' if user else ''}{host}:{port}/{name}?{urlencode(query, safe=':/${}.[]')}"
