"""The network in which functions and database meet: a VPC of the stage's own, or one that is there."""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.database_access import Place
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.network import ExistingNetwork, NewNetwork
from joblane.cdk.settings.stage import Stage

ZONES = 2
"""Aurora wants subnets in two at least. Source: Aurora, *Requirements for a DB cluster in a VPC*."""
HTTPS = 443
INTERFACES = ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"]
INTERFACES += ["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
LOOKING = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
"""These know no resource but all."""


class FunctionNetwork(Construct):
    """What functions need to run in ``vpc``: a security group, and what Lambda needs to put them there.

    Nothing comes in to a function. It reaches HTTPS, the ``egress_ports``, and what :meth:`let_out` adds; names are
    resolved without a rule. Source: EC2, *Security group rules*.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection,
        egress_ports: Iterable[int] = (),
    ) -> None:
        super().__init__(scope, id_)
        self.security_group = ec2.SecurityGroup(
            self,
            "Functions",
            vpc=vpc,
            description=f"Joblane, {stage.name}: the functions",
            allow_all_outbound=False,
        )
        for port in (HTTPS, *egress_ports):
            self.let_out(port, "what tasks call")
        self.place = Place(vpc, subnets, self.security_group, self._interface_policy(stage))

    def let_out(self, port: int, description: str) -> None:
        """To any address."""
        self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), description)

    def _interface_policy(self, stage: Stage) -> iam.ManagedPolicy:
        """What Lambda needs of a function's role to put it into a VPC; the functions' own code may do none of it.

        Lambda asks for all interfaces, which do not exist yet: the bounds are account and region.
        Source: Lambda, *Giving Lambda functions access to resources in an Amazon VPC*, and *Using source function ARN
        to control function access behavior*.
        """
        stack = Stack.of(self)
        functions = stack.format_arn(
            service="lambda",
            resource="function",
            resource_name=f"{stage.prefix}-*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        every = stack.format_arn(service="ec2", resource="*", resource_name="*")
        policy = iam.ManagedPolicy(
            self,
            "Interfaces",
            description=f"Joblane, {stage.name}: lets Lambda put the functions into their network",
            statements=[
                iam.PolicyStatement(actions=INTERFACES, resources=[every]),
                iam.PolicyStatement(actions=LOOKING, resources=["*"]),
                iam.PolicyStatement(
                    effect=iam.Effect.DENY,
                    actions=[*INTERFACES, *LOOKING],
                    resources=["*"],
                    conditions={"ArnLike": {"lambda:SourceFunctionArn": functions}},
                ),
            ],
        )
        acknowledge_wildcards(
            policy,
            [every, "*"],
            "Lambda makes the network interfaces with the functions' roles, and asks for interfaces that do not exist "
            "yet; all of it is denied to what runs in the functions.",
        )
        return policy


class StageNetwork(Construct):
    """``vpc``, with the subnets of the functions and of the database, and the functions' security group.

    ``mail``: whether any task sends mail, by Amazon SES where there is no NAT gateway.
    """

    vpc: ec2.IVpc
    functions: ec2.SubnetSelection
    database: ec2.SubnetSelection

    def __init__(
        self, scope: Construct, id_: str, *, stage: Stage, settings: NewNetwork | ExistingNetwork, mail: bool
    ) -> None:
        super().__init__(scope, id_)
        match settings:
            case NewNetwork():
                self.vpc, self.functions, self.database = self._make(settings)
            case ExistingNetwork():
                self.vpc, self.functions = self._refer(settings)
                self.database = self.functions
        inside = FunctionNetwork(
            self, "Inside", stage=stage, vpc=self.vpc, subnets=self.functions, egress_ports=settings.egress_ports
        )
        self.security_group, self.place, self.let_out = inside.security_group, inside.place, inside.let_out
        if isinstance(settings, NewNetwork):
            self._log_refusals(stage)
            self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3, subnets=[self.functions])
            if settings.nat_gateways == 0:
                self._add_endpoints(stage, mail=mail)

    def _make(self, settings: NewNetwork) -> tuple[ec2.Vpc, ec2.SubnetSelection, ec2.SubnetSelection]:
        """Three quarters of the addresses; half of all are the functions'.

        The public subnets come last: with or without NAT gateways, the others are the same, and nothing in them moves.

        The default security group stays as EC2 makes it, open within itself: nothing is in it, CloudFormation cannot
        take its rules away, and CDK's way is a function with the right to change any security group.
        """
        size = int(settings.cidr.partition("/")[2])
        behind = ec2.SubnetType.PRIVATE_WITH_EGRESS if settings.nat_gateways else ec2.SubnetType.PRIVATE_ISOLATED
        subnets = [
            ec2.SubnetConfiguration(name="functions", subnet_type=behind, cidr_mask=size + 2),
            ec2.SubnetConfiguration(name="database", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=size + 4),
        ]
        if settings.nat_gateways:
            subnets.append(
                ec2.SubnetConfiguration(
                    name="public",
                    subnet_type=ec2.SubnetType.PUBLIC,
                    cidr_mask=size + 4,
                    map_public_ip_on_launch=False,
                )
            )
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.cidr),
            max_azs=ZONES,
            nat_gateways=settings.nat_gateways,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        functions, database = (ec2.SubnetSelection(subnet_group_name=name) for name in ("functions", "database"))
        return vpc, functions, database

    def _refer(self, settings: ExistingNetwork) -> tuple[ec2.IVpc, ec2.SubnetSelection]:
        """By what the settings say alone: nothing is looked up."""
        vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=settings.vpc_id,
            availability_zones=list(settings.availability_zones),
            private_subnet_ids=list(settings.subnet_ids),
        )
        return vpc, ec2.SubnetSelection(subnets=vpc.private_subnets)

    def _log_refusals(self, stage: Stage) -> None:
        """What the security groups refuse, and no more: next to nothing in these subnets, and worth a look."""
        group = log_group(self, "FlowLogs", stage=stage, name=f"/joblane/{stage.prefix}/network")
        self.vpc.add_flow_log(
            "Refused",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )

    def _add_endpoints(self, stage: Stage, *, mail: bool) -> None:
        """In place of a NAT gateway: SQS; Secrets Manager for the migration's password; the API of SES for mails.

        S3 has its gateway, logs and metrics leave by Lambda itself, and an IAM token is made without a call. Beside
        these and the database nothing can be reached: no service of a tenant's, no SMTP server, no other AWS service.
        """
        group = ec2.SecurityGroup(
            self,
            "Endpoints",
            vpc=self.vpc,
            description=f"Joblane, {stage.name}: endpoints of AWS services",
            allow_all_outbound=False,
        )
        group.add_ingress_rule(self.security_group, ec2.Port.tcp(HTTPS), "the functions")
        services = {
            "Sqs": ec2.InterfaceVpcEndpointAwsService.SQS,
            "SecretsManager": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
            **({"Ses": ec2.InterfaceVpcEndpointAwsService.EMAIL} if mail else {}),
        }
        for name, service in services.items():
            self.vpc.add_interface_endpoint(
                name, service=service, subnets=self.functions, security_groups=[group], open=False
            )
