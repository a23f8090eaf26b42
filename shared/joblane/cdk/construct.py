"""Background jobs in an existing CDK app: one construct in one of its stacks, and its checks as a validation plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, cast

import jsii
from aws_cdk import (
    CfnElement,
    IPolicyValidationContext,
    IPolicyValidationPlugin,
    PolicyValidationPluginReport,
    PolicyViolatingResource,
    PolicyViolation,
    Stack,
    Tags,
    Token,
    Tokenization,
    Validations,
)
from aws_cdk import Stage as CdkStage
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from joblane.cdk.app import Build, declared_settings
from joblane.cdk.checks import problems_of
from joblane.cdk.constructs.aurora import PORT
from joblane.cdk.constructs.code import Workload
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.constructs.network import FunctionNetwork, NetworkTarget
from joblane.cdk.database_access import Address, DatabaseAccess, Login, Place
from joblane.cdk.egress import check_egress, check_services, needs_of
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import build_packages
from joblane.cdk.services import dual_stack_problem
from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.events import Events
from joblane.cdk.settings.images import Dockerfile
from joblane.cdk.settings.load import make_stage, with_schedules_of
from joblane.cdk.settings.network import Egress
from joblane.cdk.settings.section import SecretReference
from joblane.cdk.settings.stage import STAGE_TAG, Architecture, LogLevel, LogRetentionDays, Stage
from joblane.cdk.shares import sharing_lanes
from joblane.cdk.templates import Template, read_assembly
from joblane.project import Project
from joblane.tasks.discovery import discover, discover_functions

RULE = "jobs-arrive"


@dataclass(frozen=True)
class JobDatabase:
    """The PostgreSQL with the task table. Create it with :meth:`of` or :meth:`of_url`."""

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
        """Return a database of an RDS cluster or instance. Its security group gets a rule for the functions.

        Args:
            resource: The cluster or the instance.
            name: Name of the database in it.
            secret: JSON secret with ``username`` and ``password``. None: the secret of the resource.

        Raises:
            SynthError: there is no secret.
        """
        secret = secret or getattr(resource, "secret", None)
        if secret is None:
            raise SynthError(f"database: {resource.node.path} has no secret; pass the secret of the login as secret=")
        if (cluster := getattr(resource, "cluster_endpoint", None)) is not None:
            address = Address(cluster.hostname, Tokenization.stringify_number(cluster.port), name)
        else:
            instance = cast(rds.IDatabaseInstance, resource)
            address = Address(instance.db_instance_endpoint_address, instance.db_instance_endpoint_port, name)
        return cls(Login(address.url(secret=secret.secret_arn), secret=secret), resource)

    @classmethod
    def of_url(cls, secret: secretsmanager.ISecret) -> Self:
        """Return any PostgreSQL whose URL is in a secret.

        Functions read the secret before they connect, and again if the server refuses the login.

        Args:
            secret: The secret, with the value ``postgresql://user:password@host:5432/name``.
        """
        return cls(Login(f"postgresql:///?secret={secret.secret_full_arn or secret.secret_name}", secret=secret))


class StageSettings(TypedDict, total=False):
    """The settings of a stage that :class:`Joblane` accepts, see :class:`~joblane.cdk.settings.stage.Stage`."""

    prefix: str
    concurrency_budget: int
    account_concurrency: int
    database_connections: int
    reserved_connections: int
    log_retention_days: LogRetentionDays
    log_level: LogLevel
    removal: str
    control: Control
    events: Events
    sweep: str
    schedules: Mapping[str, str]
    settings: Mapping[str, str | SecretReference]
    mail_from: str
    architecture: Architecture
    images: Mapping[str, str | Dockerfile]
    kms_key: str
    other_kms_keys: Sequence[str]


class Joblane(Construct):
    """Front doors, router, lanes, functions, schedules and the migration for a project's tasks, in an existing stack.

    Attributes of the construct, each by name: ``queues`` (``default`` is a front door, ``default-data-export`` a lane),
    ``functions`` (``data:export`` runs a task) and ``producer_policies`` (``data:export`` allows a producer to send
    that type to its lanes, ``default`` to send to that front door). ``event_bus``: the bus that gets the events of
    tasks, None if no task declares events. ``security_group``: the security group of the functions, None
    without a VPC. ``grant_enqueue`` allows a grantee to enqueue. The synthesis checks the rules of the
    templates.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        database: JobDatabase,
        vpc: ec2.IVpc | None = None,
        subnets: ec2.SubnetSelection | None = None,
        ipv6: bool = False,
        functions: str | None = None,
        buckets: Mapping[str, GrantedBucket] | None = None,
        build: Build = build_packages,
        **settings: Unpack[StageSettings],
    ) -> None:
        """Create the construct.

        Args:
            scope: The stack, or a construct in it.
            id_: Id of the construct.
            database: The PostgreSQL with the task table.
            vpc: VPC of the functions. None: outside of any VPC.
            subnets: Subnets of the functions. None: private subnets with a route to the internet.
            ipv6: True: the subnets are dual-stack, and their way out is an egress-only internet gateway. Functions get
                an IPv6 address, and boto3 calls dual-stack endpoints. False: the subnets reach everything over IPv4.
            functions: Package of the handlers. None: ``functions`` of ``[tool.joblane]``.
            buckets: Buckets by the names that tasks declare in ``Grants.buckets``. None: no buckets.
            build: Function that builds the functions' packages.
            settings: Settings of a stage: ``prefix``, ``concurrency_budget``, ``account_concurrency``,
                ``database_connections``, ``reserved_connections``, ``log_retention_days``, ``log_level``, ``removal``,
                ``control``, ``events``, ``sweep``, ``schedules``, ``settings``, ``mail_from``, ``architecture``,
                ``images``, ``kms_key`` and ``other_kms_keys``, with their defaults.

        Raises:
            SynthError: an argument or a setting is wrong. The message has its name.
        """
        super().__init__(scope, id_)
        project = Project.here()
        project = project if functions is None else replace(project, functions=functions)
        project.add_to_path()
        tasks, own = discover(project.functions, times={}), discover_functions(project.functions)
        given: dict[str, Any] = {"name": settings.get("prefix", "jobs"), "database": {"kind": "given"}, **settings}
        stage = make_stage(Stage, self.node.path, given, declared_settings(tasks, own))
        workload = Workload(stage, project, with_schedules_of(stage, tasks), own, build(stage, project))
        check_services(workload)
        region = Stack.of(self).region
        for wrong in stage.wrong_regions(None if Token.is_unresolved(region) else region):
            raise SynthError(f"{self.node.path}: {wrong}")
        if vpc is not None:
            if ipv6 and not Token.is_unresolved(region) and (problem := dual_stack_problem(region)):
                raise SynthError(f"{self.node.path}: ipv6: {problem}; use subnets that reach everything over IPv4")
            needs = needs_of(workload, secret_login=database.login.reads_secret)
            check_egress(self.node.path, Egress(egress="ipv6" if ipv6 else "nat"), needs)
        place = None if vpc is None else self._place(stage, vpc, subnets, database, ipv6=ipv6)
        self.security_group = place and place.security_group
        self.jobs = Jobs(
            self,
            "Jobs",
            workload,
            access=DatabaseAccess(database.login, database.login, place),
            buckets=buckets or {},
        )
        self.jobs.migration.add_output(self)
        self.queues, self.functions, self.event_bus = self.jobs.queues, self.jobs.functions, self.jobs.event_bus
        self.producer_policies, self.grant_enqueue = self.jobs.producer_policies, self.jobs.grant_enqueue
        if database.resource is not None:
            # not the whole migration: the rule in the database's group waits for the group of the functions, and that
            # for the migration's role
            self.jobs.migration.run.node.add_dependency(database.resource)
        Tags.of(self).add(STAGE_TAG, stage.name)
        if (app := CdkStage.of(self)) is not None:
            Validations.of(app).add_plugins(TemplateChecks(self.jobs))

    def _place(
        self, stage: Stage, vpc: ec2.IVpc, subnets: ec2.SubnetSelection | None, database: JobDatabase, *, ipv6: bool
    ) -> Place:
        subnets = subnets or ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
        targets = [NetworkTarget(PORT, "the database")] if database.resource is None else []
        network = FunctionNetwork(self, "Network", stage=stage, vpc=vpc, subnets=subnets, targets=targets, ipv6=ipv6)
        if database.resource is not None:
            network.security_group.connections.allow_to_default_port(database.resource, "functions to database")
        return network.place


# --- The checks ----------------------------------------------------------------------------------------------------


@jsii.implements(IPolicyValidationPlugin)
class TemplateChecks:
    """Checks the resources of ``jobs`` in an app's templates, and no other resources: a problem fails the synthesis."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @property
    def name(self) -> str:
        return "Joblane"

    @property
    def version(self) -> None:
        """None: the report does not need a version."""

    @property
    def rule_ids(self) -> list[str]:
        return [RULE]

    def validate(self, context: IPolicyValidationContext) -> PolicyValidationPluginReport:
        stack = Stack.of(self._jobs)
        place = next(path for path in context.template_paths if Path(path).name == stack.template_file)
        elements = [each for each in self._jobs.node.find_all() if isinstance(each, CfnElement)]
        own = {str(stack.resolve(element.logical_id)) for element in elements}
        templates = read_assembly(Path(place).parent)
        parts = {name: template for name, template in templates.items() if name.startswith(f"{stack.stack_name}/")}
        lanes = sharing_lanes(self._jobs.stage.prefix, self._jobs.tasks.values())
        problems = problems_of(
            {stack.stack_name: _part(templates[stack.stack_name], own), **parts}, self._jobs.stage, lanes
        )
        return PolicyValidationPluginReport(
            success=not problems,
            violations=[
                PolicyViolation(
                    rule_name=RULE,
                    description=problem,
                    violating_resources=[
                        PolicyViolatingResource(locations=[], construct_path=self._jobs.node.path, template_path=place)
                    ],
                )
                for problem in problems
            ],
        )


def _part(template: Template, own: set[str]) -> Mapping[str, Any]:
    """Return the resources ``own``, and every event source mapping that refers to them or their nested stacks."""

    def refers(resource: Mapping[str, Any]) -> bool:
        text = json.dumps(resource["Properties"])
        return any(f'"{logical_id}"' in text for logical_id in own)

    return {
        "Resources": {
            logical_id: resource
            for logical_id, resource in template.get("Resources", {}).items()
            if logical_id in own or (resource["Type"] == "AWS::Lambda::EventSourceMapping" and refers(resource))
        }
    }
