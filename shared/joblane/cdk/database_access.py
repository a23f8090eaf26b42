"""Access of the functions to the database: its address, the permission to log in, and its network."""

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
    """The login of a database user.

    ``url``: value of ``DATABASE_URL``, without a password. ``statements``: the permissions that the login needs.
    ``secret``: a secret to read.
    """

    url: str
    statements: Sequence[iam.PolicyStatement] = ()
    by_iam: bool = False
    secret: secretsmanager.ISecret | None = None

    @property
    def reads_secret(self) -> bool:
        """True: the functions read a secret to log in."""
        return "secret=" in self.url


@dataclass(frozen=True)
class Address:
    """Host, port and name of a database. They may be CDK tokens."""

    host: str
    port: int | str
    name: str

    def url(self, *, user: str = "", **query: str) -> str:
        """Return a URL for :class:`joblane.record.driver.database.Database`. Tokens are not escaped."""
        login = f"{user}@" if user else ""
        return f"postgresql://{login}{self.host}:{self.port}/{self.name}?{urlencode(query, safe=':/${}.[]')}"


@dataclass(frozen=True)
class Place:
    """The network of functions that connect to the database.

    ``interfaces``: the policy that their roles need there. ``ipv6``: functions get an IPv6 address, and boto3 calls
    dual-stack endpoints. ``ipv4``: with ``ipv6``, functions also reach the internet by IPv4.
    """

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_group: ec2.ISecurityGroup
    interfaces: iam.IManagedPolicy
    ipv6: bool = False
    ipv4: bool = False

    def keep(self, role: iam.IRole) -> None:
        """Delete ``role`` and the policy only after the security group, which waits for the network interfaces.

        Lambda removes the interfaces with the role of a function; without one they stay, and so does the group.
        Source: AWS Compute Blog, *Update: Issue affecting HashiCorp Terraform resource deletions after the VPC
        improvements to AWS Lambda*.
        """
        self.security_group.node.add_dependency(role, self.interfaces)


@dataclass(frozen=True)
class DatabaseAccess:
    """The logins of a stage: ``functions`` for tasks and API, ``migration`` for the deploy.

    ``place``: None: the functions run outside a VPC. ``user``: the database role of the functions, which the migration
    creates and grants its rights; None: they log in as the owner. ``restored``: resource id of the restored copy that
    the stage uses; None: its own or an existing database.
    """

    functions: Login
    migration: Login
    place: Place | None = None
    user: str | None = None
    restored: str | None = None


def existing_access(stack: Stack, database: ExistingDatabase) -> DatabaseAccess:
    """Return the access to an existing database, with only the permissions for it."""
    address = Address(database.host, database.port, database.name)
    if database.secret is not None:
        functions = by_secret(address, database.secret)
    else:
        functions = by_iam(stack, address, str(database.user), str(database.resource_id))
    if database.migration_user is not None:
        migration = by_iam(stack, address, database.migration_user, str(database.resource_id))
    elif database.migration_secret is not None:
        migration = by_secret(address, database.migration_secret)
    else:
        return DatabaseAccess(functions, functions)
    return DatabaseAccess(functions, migration, user=database.user)


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
