"""The network of functions and database: the stage's own VPC, or an existing VPC."""

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
"""Aurora requires subnets in at least two zones. Source: Aurora, *Requirements for a DB cluster in a VPC*."""
HTTPS = 443
INTERFACES = ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"]
INTERFACES += ["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
DESCRIBE = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
"""IAM accepts only ``*`` as the resource of these actions."""


class FunctionNetwork(Construct):
    """The security group of functions in ``vpc``, and the permissions that Lambda needs to place them there.

    The group allows no inbound traffic. Outbound it allows HTTPS, the ``egress_ports``, and the ports that
    :meth:`allow_egress` adds. DNS needs no rule. Source: EC2, *Security group rules*.
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
            self.allow_egress(port, "services that tasks call")
        self.place = Place(vpc, subnets, self.security_group, self._interface_policy(stage))

    def allow_egress(self, port: int, description: str) -> None:
        """Allow outbound TCP on ``port`` to any address."""
        self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), description)

    def _interface_policy(self, stage: Stage) -> iam.ManagedPolicy:
        """Return the policy that lets Lambda place a function in a VPC, and denies the same to the function's code.

        The interfaces do not exist yet, so the resources are all interfaces of the account and region.
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
            description=f"Joblane, {stage.name}: allows Lambda to place the functions in their network",
            statements=[
                iam.PolicyStatement(actions=INTERFACES, resources=[every]),
                iam.PolicyStatement(actions=DESCRIBE, resources=["*"]),
                iam.PolicyStatement(
                    effect=iam.Effect.DENY,
                    actions=[*INTERFACES, *DESCRIBE],
                    resources=["*"],
                    conditions={"ArnLike": {"lambda:SourceFunctionArn": functions}},
                ),
            ],
        )
        acknowledge_wildcards(
            policy,
            [every, "*"],
            "Lambda creates network interfaces with the functions' roles, and the interfaces do not exist yet; "
            "the same policy denies these actions to the code of the functions.",
        )
        return policy


class StageNetwork(Construct):
    """``vpc``, the subnets of functions and database, and the functions' security group.

    ``mail``: a task sends mail, which needs an endpoint of Amazon SES if there is no NAT gateway.
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
                self.vpc, self.functions, self.database = self._create(settings)
            case ExistingNetwork():
                self.vpc, self.functions = self._import(settings)
                self.database = self.functions
        inside = FunctionNetwork(
            self, "Inside", stage=stage, vpc=self.vpc, subnets=self.functions, egress_ports=settings.egress_ports
        )
        self.security_group, self.place, self.allow_egress = inside.security_group, inside.place, inside.allow_egress
        if isinstance(settings, NewNetwork):
            self._log_rejected_traffic(stage)
            self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3, subnets=[self.functions])
            if settings.nat_gateways == 0:
                self._add_endpoints(stage, mail=mail)

    def _create(self, settings: NewNetwork) -> tuple[ec2.Vpc, ec2.SubnetSelection, ec2.SubnetSelection]:
        """Create the VPC. Its subnets use three quarters of the addresses: half are for the functions.

        The public subnets come last, so the other subnets are the same with and without NAT gateways.

        The default security group keeps EC2's rule, which allows traffic between its members. It has no member,
        CloudFormation cannot remove the rule, and the CDK's solution is a function that may change any security group.
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

    def _import(self, settings: ExistingNetwork) -> tuple[ec2.IVpc, ec2.SubnetSelection]:
        """Import the VPC from the settings, without a call to AWS."""
        vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=settings.vpc_id,
            availability_zones=list(settings.availability_zones),
            private_subnet_ids=list(settings.subnet_ids),
        )
        return vpc, ec2.SubnetSelection(subnets=vpc.private_subnets)

    def _log_rejected_traffic(self, stage: Stage) -> None:
        """Log only traffic that the security groups reject: rare in these subnets, and a sign of a fault."""
        group = log_group(self, "FlowLogs", stage=stage, name=f"/joblane/{stage.prefix}/network")
        self.vpc.add_flow_log(
            "Refused",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )

    def _add_endpoints(self, stage: Stage, *, mail: bool) -> None:
        """Add endpoints in place of a NAT gateway: SQS, Secrets Manager for the migration's password, SES for mail.

        S3 has its gateway endpoint, Lambda itself ships logs and metrics, and the function computes an IAM token
        without a call. Functions reach only these and the database: no service of a tenant, no SMTP server, and no
        other AWS service.
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
