"""The database of a stage: an Aurora cluster or RDS instance of its own, an existing PostgreSQL, or this machine's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from joblane.cdk.settings.keys import KeyArn
from joblane.cdk.settings.section import SecretArn, Settings, required
from joblane.record.driver.login import RDS_HOST

DatabaseName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]

MASTER_USER = "postgres"
"""User of the migration, in a cluster of the stage's own. It logs in by IAM."""
RESERVED_NAME = re.compile(r"rds.*|pg_.*|_.*|template[01]")
"""Reserved names of databases and roles. Source: CreateDBCluster, RDS API reference, and PostgreSQL, *CREATE ROLE*."""
CAPACITY_STEP = 0.5
GIB_OF_UNIT = 2
"""Memory of a capacity unit. Source: Aurora, *Aurora Serverless v2 capacity*."""
MAX_CAPACITY = 256
CONNECTIONS = ((1, 189), (4, 823), (8, 1669), (16, 3360), (32, 5000), (MAX_CAPACITY, 5000))
"""Maximum capacity → ``max_connections``. It follows the memory, and so is linear between these points.

Source: Aurora, *Maximum connections for Aurora Serverless v2*.
"""
CONNECTIONS_BELOW_ONE_UNIT = 2000
"""Maximum if ``min_capacity`` is below 1. Source: the same."""
INSTANCE_GIB = {"db.t4g.micro": 1, "db.t4g.small": 2, "db.t4g.medium": 4}
"""Class of an RDS instance → its memory in GiB. Source: RDS, *Hardware specifications for DB instance classes*."""
BYTES_PER_CONNECTION, MOST_CONNECTIONS = 9_531_392, 5000
"""``LEAST(DBInstanceClassMemory/9531392, 5000)``. Source: RDS, *Maximum number of database connections*; AWS
Prescriptive Guidance, *Tuning PostgreSQL parameters*, max_connections."""
HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"
CLUSTER = re.compile(r"[a-z0-9-]+\.cluster-[a-z0-9]+\.")
"""Start of the address at which a cluster's writer answers; ``cluster-ro-`` belongs to its readers.

Source: Aurora, *Amazon Aurora endpoint connections*."""


class Restored(Settings):
    """A copy of the stage's database, restored from its backups with the security group and the parameter group of the
    stage. The stage uses the copy, and its first deploy pauses every queue there."""

    host: str = Field(pattern=HOST)
    """Endpoint of the copy: of the writer for a cluster. The name of the copy must begin with the prefix of the stage
    and a hyphen."""
    resource_id: str = Field(pattern=r"^(cluster|db)-[A-Za-z0-9]+$")
    """Resource id of the copy, which is not the id of the original: ``DbClusterResourceId`` of a cluster,
    ``DbiResourceId`` of an instance."""

    def problems(self) -> Iterator[str]:
        if not RDS_HOST.search(self.host.lower()):
            yield "host: the endpoint of the copy is required, NAME.ID.REGION.rds.amazonaws.com"

    @property
    def region(self) -> str:
        """The region in the host."""
        found = RDS_HOST.search(self.host.lower())
        return found["region"] if found else ""


def _own_problems(name: str, user: str) -> Iterator[str]:
    for field, given in (("name", name), ("user", user)):
        if RESERVED_NAME.fullmatch(given):
            yield f"{field}: {given!r} is reserved; jobs, for example, is right"
    if user == MASTER_USER:
        yield f"user: {MASTER_USER!r} is the master user with all rights; jobs, for example, is right"
    if user == "joblane":  # PostgreSQL searches the schema with the user's name first
        yield "user: 'joblane' would find Joblane's tables before yours; jobs, for example, is right"


class Aurora(Settings):
    """An Aurora Serverless v2 cluster of the stage's own, in its network. Functions log in by IAM as ``user``."""

    LARGEST: ClassVar[str] = "cluster"

    kind: Literal["aurora"]
    """Selects an Aurora cluster."""
    name: DatabaseName = "joblane"
    """Name of the database: lower-case letters, digits and underscores, 63 characters at most."""
    user: DatabaseName = "jobs"
    """Database role of the functions. The deploy creates it, with the rights to read and write rows only."""
    min_capacity: float = Field(0, ge=0, le=MAX_CAPACITY, multiple_of=CAPACITY_STEP, strict=False)
    """Minimum capacity, in Aurora capacity units (ACU), in steps of 0.5. 0: the cluster pauses if no client is
    connected. Below 1, memory for logins by IAM can be short."""
    max_capacity: float = Field(2, ge=1, le=MAX_CAPACITY, multiple_of=CAPACITY_STEP, strict=False)
    """Maximum capacity, in ACU, in steps of 0.5, not below ``min_capacity``. ``max_connections`` follows from it."""
    pause_after_minutes: int = Field(5, ge=5, le=1440)
    """Minutes without a connection until the cluster pauses, if ``min_capacity`` is 0.

    Source: Aurora, *Scaling to zero ACUs with automatic pause and resume*."""
    backup_days: int = Field(7, ge=1, le=35)
    """Days for which automatic backups are kept."""
    deletion_protection: bool = True
    """True: AWS refuses to delete the cluster."""
    standby: bool = False
    """True: a second instance in the other zone, for a failover."""
    restored: Restored | None = None
    """A restored copy that the stage uses instead of its cluster, which stays. None: the cluster."""
    kms_key: KeyArn | None = None
    """ARN of a symmetric KMS key of your own, in the region of the stage, for a new cluster. AWS cannot change the key
    of a database, so the preflight refuses to add, change or remove it later. None: the key of RDS in your account."""

    def problems(self) -> Iterator[str]:
        if self.max_capacity < self.min_capacity:
            yield f"max_capacity: at least min_capacity, {self.min_capacity:g}, is required"
        yield from _own_problems(self.name, self.user)
        if self.restored and not (
            CLUSTER.match(self.restored.host) and self.restored.resource_id.startswith("cluster-")
        ):
            yield (
                "restored: the endpoint of a cluster's writer, NAME.cluster-ID.REGION.rds.amazonaws.com, and a "
                "resource_id that begins with cluster- are required"
            )

    @property
    def max_connections(self) -> int:
        return _connections(self.min_capacity, self.max_capacity)

    @property
    def size(self) -> str:
        """The capacity or class, from which ``max_connections`` follows, in words."""
        return f"Aurora at max_capacity {self.max_capacity:g}"

    def enough_for(self, connections: int) -> str | None:
        """Return the settings to raise so that ``connections`` fit. None: no cluster has so many."""
        for least in (self.min_capacity, max(self.min_capacity, 1)):
            for step in range(round(self.max_capacity / CAPACITY_STEP), round(MAX_CAPACITY / CAPACITY_STEP) + 1):
                most = step * CAPACITY_STEP
                if _connections(least, most) >= connections:
                    settings = (("min_capacity", self.min_capacity, least), ("max_capacity", self.max_capacity, most))
                    changes = [f"database.{name} ({now:g}) to {then:g}" for name, now, then in settings if now != then]
                    return f"raise {' and '.join(changes)}"
        return None


def _connections(min_capacity: float, max_capacity: float) -> int:
    """Return ``max_connections`` of Aurora, including those reserved for superusers."""
    most = next(
        low + int((max_capacity - below) * (high - low) / (above - below))
        for (below, low), (above, high) in pairwise(CONNECTIONS)
        if max_capacity <= above
    )
    return most if min_capacity >= 1 else min(most, CONNECTIONS_BELOW_ONE_UNIT)


class Rds(Settings):
    """A small instance of RDS for PostgreSQL of the stage's own, in one zone of its network. It never sleeps, and has
    no standby. Functions log in with IAM as ``user``."""

    LARGEST: ClassVar[str] = "class of an RDS instance"

    kind: Literal["rds"]
    """Selects an RDS instance."""
    name: DatabaseName = "joblane"
    """Name of the database: lower-case letters, digits and underscores, 63 characters at most."""
    user: DatabaseName = "jobs"
    """Database role of the functions. The deploy creates it, with the rights to read and write rows only."""
    instance_class: Literal["db.t4g.micro", "db.t4g.small", "db.t4g.medium"] = "db.t4g.micro"
    """Class of the instance, with 1, 2 or 4 GiB of memory. ``max_connections`` follows from it. A change restarts the
    database. AWS's Free plan accepts ``db.t4g.micro`` only."""
    storage_gb: int = Field(20, ge=20, le=65_536)
    """Storage in GB, which can grow and never shrink. Source: RDS, *Amazon RDS DB instance storage*, gp3."""
    backup_days: int = Field(1, ge=1, le=35)
    """Days for which automatic backups are kept. AWS's Free plan accepts 1 only; take 7 or more if the data matters."""
    deletion_protection: bool = True
    """True: AWS refuses to delete the instance."""
    restored: Restored | None = None
    """A restored copy that the stage uses instead of its instance, which stays. None: the instance."""
    kms_key: KeyArn | None = None
    """ARN of a symmetric KMS key of your own, in the region of the stage, for a new instance. AWS cannot change the key
    of a database, so the preflight refuses to add, change or remove it later. None: the key of RDS in your account."""

    def problems(self) -> Iterator[str]:
        yield from _own_problems(self.name, self.user)
        if self.restored and (".cluster-" in self.restored.host or not self.restored.resource_id.startswith("db-")):
            yield (
                "restored: the endpoint of an instance, NAME.ID.REGION.rds.amazonaws.com, and a resource_id that "
                "begins with db- are required"
            )

    @property
    def max_connections(self) -> int:
        return _connections_of(self.instance_class)

    @property
    def size(self) -> str:
        """The capacity or class, from which ``max_connections`` follows, in words."""
        return self.instance_class

    def enough_for(self, connections: int) -> str | None:
        """Return the setting to raise so that ``connections`` fit. None: no class has so many."""
        for each in INSTANCE_GIB:
            if _connections_of(each) >= max(connections, self.max_connections):
                return f"raise database.instance_class ({self.instance_class}) to {each}"
        return None


def _connections_of(instance_class: str) -> int:
    """Return ``max_connections`` of an instance, including those reserved for superusers."""
    return min(INSTANCE_GIB[instance_class] * 2**30 // BYTES_PER_CONNECTION, MOST_CONNECTIONS)


OTHER_HOST = required(
    lambda host: host.lower() != "localhost" and not host.startswith("127."),
    "{} would be the function itself, without TLS; the host name of the database server is required",
)


class ExistingDatabase(Settings):
    """An existing PostgreSQL. Give ``secret`` for a password in Secrets Manager, or ``resource_id`` for IAM."""

    kind: Literal["existing"]
    """Selects an existing PostgreSQL."""
    host: Annotated[str, OTHER_HOST] = Field(pattern=HOST)
    """Host name. With ``resource_id``: the endpoint of RDS, not an alias, because the IAM token is valid only for this
    name."""
    port: int = Field(5432, ge=1, le=65535)
    """TCP port."""
    name: DatabaseName
    """Name of the database."""
    user: DatabaseName | None = None
    """Database role of the functions. Required with ``resource_id``. With ``secret`` the functions log in as the
    secret's ``username``, and ``user`` is refused, unless you also give ``migration_secret``. Then set ``user`` to this
    ``username``: the deploy grants the role its rights."""
    secret: SecretArn | None = None
    """ARN of a JSON secret with ``username`` and ``password``, in the form that RDS makes."""
    resource_id: str | None = Field(None, pattern=r"^(cluster|db|prx)-[A-Za-z0-9]+$")
    """Resource id of the cluster, instance or proxy. The functions then log in by IAM (``rds-db:connect``), without a
    password."""
    migration_secret: SecretArn | None = None
    """ARN of the secret of the owner role, which can change the schema. None: migrations log in as ``migration_user``,
    or as the functions do."""
    migration_user: DatabaseName | None = None
    """The owner role, which can change the schema, if it logs in by IAM, with ``resource_id``. None: see
    ``migration_secret``."""
    security_group_id: str | None = Field(None, pattern=r"^sg-([0-9a-f]{8}|[0-9a-f]{17})$")
    """Security group of the database. The stack adds a rule for the functions. Requires ``network``."""

    def problems(self) -> Iterator[str]:
        if (self.secret is None) == (self.resource_id is None):
            yield "secret: give either secret, for a password, or resource_id, for IAM"
        if self.secret is not None and self.user is not None and self.migration_secret is None:
            yield "user: with secret, the secret's username applies; leave user out"
        if self.resource_id is not None and self.user is None:
            yield "user: with resource_id, the database role for the login by IAM is required"
        if self.migration_user is not None and (self.resource_id is None or self.migration_secret is not None):
            yield "migration_user: with resource_id only, and not with migration_secret"
        if self.migration_user is not None and self.migration_user == self.user:
            yield "migration_user: the functions log in as this role; leave migration_user out, or name two"
        if self.resource_id is not None and not RDS_HOST.search(self.host.lower()):
            yield (
                "host: with resource_id, the endpoint of RDS is required, NAME.ID.REGION.rds.amazonaws.com, because "
                "IAM's token and the certificate are for that name"
            )


class LocalDatabase(Settings):
    """The PostgreSQL of a local stage or a test. No setting of ``cdk.json``: a local stage reads ``DATABASE_URL``."""

    kind: Literal["local"]
    """Selects the PostgreSQL of this machine."""
    url: str = Field(repr=False)
    """Address, ``postgresql://…``."""


class GivenDatabase(Settings):
    """A database that a CDK app passes to :class:`~joblane.cdk.construct.Joblane`. No setting of ``cdk.json``."""

    kind: Literal["given"]
    """Selects a database of the CDK app."""


OwnDatabase = Aurora | Rds
"""A database that the stage creates."""
DatabaseSettings = Annotated[
    Aurora | Rds | ExistingDatabase | LocalDatabase | GivenDatabase, Field(discriminator="kind")
]
