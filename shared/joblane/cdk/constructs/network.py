"""The network of functions and database: the stage's own VPC, or an existing VPC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.constructs.nat_instance import NatInstance
from joblane.cdk.database_access import Place
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.services import S3, SERVICES
from joblane.cdk.settings.database import ExistingDatabase
from joblane.cdk.settings.network import ZONES, ExistingNetwork, NewNetwork
from joblane.cdk.settings.stage import Stage

HTTPS = 443
INTERFACES = ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"]
INTERFACES += ["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
DESCRIBE = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
"""IAM accepts only ``*`` as the resource of these actions."""


@dataclass(frozen=True)
class NetworkTarget:
    """A destination in the functions' own network: ``group``, or any address if it is None."""

    port: int
    description: str
    group: ec2.ISecurityGroup | None = None


class FunctionNetwork(Construct):
    """The security group of functions in ``vpc``, and the permissions that Lambda needs to place them there.

    The group allows no inbound traffic. Outbound it allows HTTPS, the ``egress_ports`` and the ``targets``. DNS needs
    no rule. Source: EC2, *Security group rules*. ``ipv6``: also by IPv6, except to targets. ``ipv4``: the network has a
    way out by IPv4, too.

    It belongs into the stack of the functions: Lambda removes the network interfaces of deleted functions some minutes
    later, and until then the group cannot be deleted. :meth:`~joblane.cdk.database_access.Place.keep` keeps a role for
    that time.
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
        targets: Iterable[NetworkTarget] = (),
        ipv6: bool = False,
        ipv4: bool = False,
    ) -> None:
        super().__init__(scope, id_)
        self.security_group = ec2.SecurityGroup(
            self,
            "Functions",
            vpc=vpc,
            description=f"Joblane, {stage.name}: the functions",
            allow_all_outbound=False,
            allow_all_ipv6_outbound=False,
        )
        for port in (HTTPS, *egress_ports):
            for peer in (ec2.Peer.any_ipv4(), *((ec2.Peer.any_ipv6(),) if ipv6 else ())):
                self.security_group.add_egress_rule(peer, ec2.Port.tcp(port), "services that tasks call")
        for target in targets:
            to = ec2.Port.tcp(target.port)
            if target.group is None:
                self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), to, target.description)
            else:  # the CDK puts the rule into the target's group, and the rule's resource into this stack
                self.security_group.connections.allow_to(target.group, to, target.description)
        self.place = Place(vpc, subnets, self.security_group, self._interface_policy(stage), ipv6, ipv4)

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
    """``vpc``, with the subnets of functions and database."""

    vpc: ec2.IVpc
    functions: ec2.SubnetSelection
    database: ec2.SubnetSelection

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, settings: NewNetwork | ExistingNetwork) -> None:
        super().__init__(scope, id_)
        self.settings, self._stage = settings, stage
        match settings:
            case NewNetwork():
                self.vpc, self.functions, self.database = self._create(settings)
                # only traffic that the security groups reject: rare in these subnets, and a sign of a fault
                self.vpc.add_flow_log(
                    "Refused",
                    destination=ec2.FlowLogDestination.to_cloud_watch_logs(
                        log_group(self, "FlowLogs", stage=stage, name=f"/joblane/{stage.prefix}/network")
                    ),
                    traffic_type=ec2.FlowLogTrafficType.REJECT,
                )
                self._add_gateway(S3)
            case ExistingNetwork():
                self.vpc = ec2.Vpc.from_vpc_attributes(  # without a call to AWS
                    self,
                    "Vpc",
                    vpc_id=settings.vpc_id,
                    availability_zones=list(settings.availability_zones),
                    private_subnet_ids=list(settings.subnet_ids),
                )
                self.functions = self.database = ec2.SubnetSelection(subnets=self.vpc.private_subnets)

    def add_endpoints(self, services: Iterable[str]) -> None:
        """Add an endpoint for each of ``services``, with ``egress`` ``endpoints``; else do nothing.

        Lambda itself ships logs and metrics, and a function computes an IAM token without a call.
        """
        if not isinstance(self.settings, NewNetwork) or self.settings.egress != "endpoints":
            return
        # not only for the functions' group: the rule would tie this stack to the functions' stack, which is deployed
        # later, so that another egress could not be deployed
        group = ec2.SecurityGroup(
            self,
            "Endpoints",
            vpc=self.vpc,
            description=f"Joblane, {self._stage.name}: endpoints of AWS services",
            allow_all_outbound=False,
        )
        group.add_ingress_rule(ec2.Peer.ipv4(self.settings.cidr), ec2.Port.tcp(HTTPS), "the stage's network")
        for service in services:
            if SERVICES[service].gateway:
                self._add_gateway(service)
            else:
                self.vpc.add_interface_endpoint(
                    service.capitalize(),
                    service=ec2.InterfaceVpcEndpointAwsService(SERVICES[service].endpoint),
                    subnets=self.functions,
                    security_groups=[group],
                    open=False,
                )

    def _add_gateway(self, service: str) -> None:
        """Add a free gateway endpoint. That of S3 also takes the migration's answer to CloudFormation, by IPv4."""
        found = ec2.GatewayVpcEndpointAwsService(SERVICES[service].endpoint)
        self.vpc.add_gateway_endpoint(service.capitalize(), service=found, subnets=[self.functions])

    def _create(self, settings: NewNetwork) -> tuple[ec2.Vpc, ec2.SubnetSelection, ec2.SubnetSelection]:
        """Create the VPC. Its subnets use three quarters of the addresses: half are for the functions.

        VPC and subnets are the same for every ``egress``, so that it can change while functions are in them: EC2 takes
        no IPv6 addresses from a subnet with resources that use them. Source: EC2, DisassociateSubnetCidrBlock. So
        the addresses of the public subnets are reserved without NAT gateways too, and the CDK sees only isolated
        subnets: to others it would add an egress-only gateway with any ``egress``.

        The default security group keeps EC2's rule, which allows traffic between its members. It has no member,
        CloudFormation cannot remove the rule, and the CDK's solution is a function that may change any security group.
        """
        size = int(settings.cidr.partition("/")[2])
        nat, by_instance = settings.egress == "nat", settings.egress == "nat_instance"
        isolated = ec2.SubnetType.PRIVATE_ISOLATED
        subnets = [
            ec2.SubnetConfiguration(name="functions", subnet_type=isolated, cidr_mask=size + 2),
            ec2.SubnetConfiguration(name="database", subnet_type=isolated, cidr_mask=size + 4),
            ec2.SubnetConfiguration(
                name="public",
                subnet_type=ec2.SubnetType.PUBLIC,
                cidr_mask=size + 4,
                map_public_ip_on_launch=False,
                ipv6_assign_address_on_creation=False,
                reserved=not (nat or by_instance),
            ),
        ]
        zones, gateways = settings.availability_zones, ec2.NatProvider.gateway()
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.cidr),
            ip_protocol=ec2.IpProtocol.DUAL_STACK,
            availability_zones=list(zones) if zones else None,
            max_azs=None if zones else ZONES,
            nat_gateways=settings.nat_gateways if nat else 0,
            nat_gateway_provider=gateways,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        functions, database = (ec2.SubnetSelection(subnet_group_name=name) for name in ("functions", "database"))
        private = cast(list[ec2.PrivateSubnet], vpc.select_subnets(subnet_group_name="functions").subnets)
        if settings.ipv6:
            out = ec2.CfnEgressOnlyInternetGateway(self, "Out", vpc_id=vpc.vpc_id)
            for subnet in private:
                subnet.add_ipv6_default_egress_only_internet_route(out.ref)
        if nat:
            for subnet in private:
                gateways.configure_subnet(subnet)
        if by_instance:
            ports = [HTTPS, *settings.egress_ports]
            if isinstance(self._stage.database, ExistingDatabase):  # outside of this network
                ports.append(self._stage.database.port)
            made = NatInstance(
                self,
                "Nat",
                stage=self._stage,
                settings=settings,
                vpc=vpc,
                subnet=vpc.public_subnets[0],
                ports=ports,
            )
            for subnet in private:
                subnet.add_route(
                    "DefaultRoute",
                    router_type=ec2.RouterType.INSTANCE,
                    router_id=made.instance.ref,
                    enables_internet_connectivity=True,
                )
        return vpc, functions, database
