"""Background jobs in a CDK app that exists: one construct in a stack of yours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypedDict, Unpack, cast

from aws_cdk import Stage as CdkStage
from aws_cdk import Tags, Tokenization, Validations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from joblane.cdk.app import Build, declared_settings
from joblane.cdk.constructs.code import Workload
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.constructs.network import FunctionNetwork
from joblane.cdk.database_access import Address, DatabaseAccess, Login, Place
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import build_packages
from joblane.cdk.plugin import TemplateChecks
from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.load import make_stage, with_schedules_of
from joblane.cdk.settings.section import SecretReference
from joblane.cdk.settings.stage import Architecture, LogLevel, LogRetentionDays, Stage
from joblane.discovery import discover, discover_functions
from joblane.project import Project

PORT = 5432
"""What functions may reach of a database whose address is in a secret."""


@dataclass(frozen=True)
class JobDatabase:
    """The PostgreSQL that keeps the tasks: make it by :meth:`of` or :meth:`of_url`."""

    login: Login
    resource: rds.IDatabaseCluster | rds.IDatabaseInstance | None = None

    @classmethod
    def of(
        cls,
        resource: rds.IDatabaseCluster | rds.IDatabaseInstance,
        *,
        name: str,
        secret: secretsmanager.ISecret | None = None,
    ) -> Self:
        """A cluster or an instance of RDS, whose security group lets the functions in.

        ``name``: of the database in it. ``secret``: user and password, as RDS keeps them; None: the resource's own.
        Raises :class:`SynthError` where it has none.
        """
        secret = secret or getattr(resource, "secret", None)
        if secret is None:
            raise SynthError(f"database: {resource.node.path} has no secret; give the one to log in with, by secret=")
        if (cluster := getattr(resource, "cluster_endpoint", None)) is not None:
            address = Address(cluster.hostname, Tokenization.stringify_number(cluster.port), name)
        else:
            instance = cast(rds.IDatabaseInstance, resource)
            address = Address(instance.db_instance_endpoint_address, instance.db_instance_endpoint_port, name)
        return cls(Login(address.url(secret=secret.secret_arn), secret=secret), resource)

    @classmethod
    def of_url(cls, secret: secretsmanager.ISecret) -> Self:
        """Any PostgreSQL. The text of ``secret`` is its address: ``postgresql://user:password@host:5432/name``.

        CloudFormation reads it while it deploys and puts it into the functions' configuration. After a change of the
        secret, deploy again.
        """
        return cls(Login(secret.secret_value.unsafe_unwrap(), known_as=secret.secret_arn))


class StageSettings(TypedDict, total=False):
    """What :class:`Joblane` takes of the settings of a stage; see :class:`~joblane.cdk.settings.stage.Stage`."""

    prefix: str
    concurrency_budget: int
    account_concurrency: int
    database_connections: int
    reserved_connections: int
    log_retention_days: LogRetentionDays
    log_level: LogLevel
    removal: str
    control: Control
    schedules: Mapping[str, str]
    settings: Mapping[str, str | SecretReference]
    mail_from: str
    architecture: Architecture


class Joblane(Construct):
    """Front doors, router, lanes, functions, schedules and the migration, for the tasks of a project.

    ``database``: where tasks are recorded. ``vpc``: where the functions run, in ``subnets`` (default: the private ones
    with a way out); None: outside of any VPC. ``functions``: the package of the handlers; None: what
    ``[tool.joblane]`` of ``pyproject.toml`` says. ``buckets``: by the names that tasks declare in ``Grants.buckets``.
    The rest are the settings of a stage, each with its default.

    It has, by name, the ``queues``, ``functions`` and ``producer_policies`` of its ``jobs``, whose class says how they
    are called. ``security_group``: of the functions; None without a VPC.

    Raises :class:`SynthError`, which names the argument. Rules of the templates are checked in the synthesis.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        database: JobDatabase,
        vpc: ec2.IVpc | None = None,
        subnets: ec2.SubnetSelection | None = None,
        functions: str | None = None,
        buckets: Mapping[str, GrantedBucket] | None = None,
        build: Build = build_packages,
        **settings: Unpack[StageSettings],
    ) -> None:
        super().__init__(scope, id_)
        project = Project.here()
        project = project if functions is None else replace(project, functions=functions)
        project.add_to_path()
        tasks, own = discover(project.functions, times={}), discover_functions(project.functions)
        given: dict[str, Any] = {"name": settings.get("prefix", "jobs"), "database": {"kind": "given"}, **settings}
        stage = make_stage(Stage, self.node.path, given, declared_settings(tasks, own))
        place = None if vpc is None else self._place(stage, vpc, subnets, database)
        self.security_group = place and place.security_group
        self.jobs = Jobs(
            self,
            "Jobs",
            Workload(stage, project, with_schedules_of(stage, tasks), own, build(stage, project)),
            access=DatabaseAccess(database.login, database.login, place),
            buckets=buckets or {},
        )
        self.queues, self.functions = self.jobs.queues, self.jobs.functions
        self.producer_policies, self.grant_enqueue = self.jobs.producer_policies, self.jobs.grant_enqueue
        if database.resource is not None:
            self.jobs.migration.node.add_dependency(database.resource)
        Tags.of(self).add("joblane:stage", stage.name)
        if (app := CdkStage.of(self)) is not None:
            Validations.of(app).add_plugins(TemplateChecks(self.jobs))

    def _place(self, stage: Stage, vpc: ec2.IVpc, subnets: ec2.SubnetSelection | None, database: JobDatabase) -> Place:
        subnets = subnets or ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
        network = FunctionNetwork(self, "Network", stage=stage, vpc=vpc, subnets=subnets)
        if database.resource is None:
            network.allow_egress(PORT, "the database")
        else:
            network.security_group.connections.allow_to_default_port(database.resource, "functions to database")
        return network.place
