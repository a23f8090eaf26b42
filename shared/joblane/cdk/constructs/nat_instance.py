"""A small EC2 instance as the way out by IPv4: cheaper than a NAT gateway, and less available."""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_sns as sns
from constructs import Construct

from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.network import NewNetwork
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import Links, Topic, metric
from joblane.names import nat_name

INSTANCE_TYPE = "t4g.nano"
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
"""A public parameter with the newest image of Amazon Linux 2023. Source: Amazon Linux 2023, *Launching AL2023 using the
SSM parameter and AWS CLI*."""
DISK_GB = 8
"""The size of the image. Source: Amazon Linux 2023, *Comparing AL2 and AL2023*."""
TRANSLATES = (
    "dd if=/dev/zero of=/swap bs=1M count=1024",
    "chmod 600 /swap && mkswap /swap && swapon /swap",
    "echo '/swap none swap sw 0 0' >> /etc/fstab",
    "until yum install -y iptables-services; do sleep 5; done",
    "systemctl enable --now iptables",
    "echo net.ipv4.ip_forward=1 > /etc/sysctl.d/custom-ip-forwarding.conf",
    "sysctl -p /etc/sysctl.d/custom-ip-forwarding.conf",
    "iptables -t nat -A POSTROUTING -o $(ip route | awk '/^default/ {print $5; exit}') -j MASQUERADE",
    "iptables -F FORWARD",
    "service iptables save",
)
"""The commands of the first start. A reboot keeps their result. yum needs more memory than a nano instance has, and
fails if another process clears its cache. Source: Amazon VPC, *Work with NAT instances*; amazonlinux/amazon-linux-2023,
issue 404; aws/aws-cdk, issue 36717; the CDK's ``NatInstanceProviderV2``, for the name of the interface."""
HEADING = "the-nat-instance-fails"
"""The section of the runbook."""
SAYS = (
    "The NAT instance fails its status checks, so functions do not reach hosts without an IPv6 address. It is"
    " recovered or restarted within minutes."
)
SILENCE = "No data means that the instance was terminated or stopped, or that a deploy has just replaced it."
MINUTE = Duration.minutes(1)
RECOVER_AFTER, REBOOT_AFTER, REPORT_AFTER = 2, 3, 3
"""Minutes with a failed check. Source: EC2, *Create alarms that stop, terminate, reboot, or recover an instance*, which
has three for a reboot and two for a recovery, so that both do not start at once."""


class NatInstance(Construct):
    """The instance, in ``subnet``, which has a route to an internet gateway; and the alarms that repair it.

    ``ports``: the TCP ports that it forwards. A failed check of the system moves it to other hardware (*recover*), and
    a failed check of the instance restarts it (*reboot*). It keeps its id, so the routes to it stay right. Nothing
    replaces an instance that was terminated, or one that passes its checks and does not forward.

    It is not the CDK's ``NatInstanceProviderV2``: that one reads the newest image at each deploy, so that a deploy of
    code would replace the instance. Here only a changed template does, or another ``nat_instance_version``. It has no
    role, no key, no service that listens, and no password in its settings.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        settings: NewNetwork,
        vpc: ec2.IVpc,
        subnet: ec2.ISubnet,
        ports: Iterable[int],
    ) -> None:
        super().__init__(scope, id_)
        group = ec2.SecurityGroup(
            self,
            "Group",
            vpc=vpc,
            description=f"Joblane, {stage.name}: the NAT instance",
            allow_all_outbound=False,
        )
        for port in dict.fromkeys(ports):
            group.add_ingress_rule(ec2.Peer.ipv4(settings.cidr), ec2.Port.tcp(port), "the stage's network")
            group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), "hosts without an IPv6 address")
        self.instance = self._instance(stage, settings, subnet, group)
        self._repair(stage)
        if stage.monitoring is not None:
            self._report(stage)

    def _instance(
        self, stage: Stage, settings: NewNetwork, subnet: ec2.ISubnet, group: ec2.ISecurityGroup
    ) -> ec2.CfnInstance:
        user_data = ec2.UserData.for_linux()
        user_data.add_commands(f"# version {settings.nat_instance_version}", *TRANSLATES)
        template = ec2.LaunchTemplate(
            self,
            "Template",
            version_description=nat_name(stage.prefix),
            machine_image=ec2.MachineImage.resolve_ssm_parameter_at_launch(IMAGE),
            instance_type=ec2.InstanceType(INSTANCE_TYPE),
            cpu_credits=ec2.CpuCredits.STANDARD,  # unlimited ones would have a price of their own
            require_imdsv2=True,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        DISK_GB, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3, delete_on_termination=True
                    ),
                )
            ],
            user_data=user_data,
        )
        instance = ec2.CfnInstance(
            self,
            "Instance",
            launch_template=ec2.CfnInstance.LaunchTemplateSpecificationProperty(
                launch_template_id=template.launch_template_id, version=template.latest_version_number
            ),
            network_interfaces=[
                ec2.CfnInstance.NetworkInterfaceProperty(
                    device_index="0",
                    subnet_id=subnet.subnet_id,
                    group_set=[group.security_group_id],
                    associate_public_ip_address=True,  # from its start, because it fetches a package then
                    delete_on_termination=True,
                )
            ],
            source_dest_check=False,
        )
        instance.node.add_dependency(subnet.internet_connectivity_established)
        acknowledge(instance, "EC28", "Status checks have values each minute without detailed monitoring.")
        acknowledge(instance, "EC29", "It has no state, and CloudFormation could not replace a protected instance.")
        return instance

    def _repair(self, stage: Stage) -> None:
        """Add the alarms whose action repairs the instance. They send no mail."""
        for name, check, action, minutes in (
            ("recover", "StatusCheckFailed_System", actions.Ec2InstanceAction.RECOVER, RECOVER_AFTER),
            ("reboot", "StatusCheckFailed_Instance", actions.Ec2InstanceAction.REBOOT, REBOOT_AFTER),
        ):
            alarm = cloudwatch.Alarm(
                self,
                name.capitalize(),
                alarm_name=f"{stage.prefix}-nat-{name}",
                alarm_description=f"Joblane, {stage.name}: {name}s the NAT instance. It sends no mail.",
                metric=self._check(check),
                threshold=1,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,  # while a new instance starts
            )
            alarm.add_alarm_action(actions.Ec2Action(action))

    def _report(self, stage: Stage) -> None:
        """Add the alarm that notifies. It is not in the stack of the other alarms, which knows no id of an instance.

        It goes to a topic of that stack by its name. An instance that was terminated sends no data.
        """
        assert stage.monitoring is not None
        links = Links(stage.name, stage.monitoring.runbook_url)
        alarm = cloudwatch.Alarm(
            self,
            "Failed",
            alarm_name=f"{stage.prefix}-nat-instance",
            alarm_description="\n".join(
                (
                    SAYS,
                    f"Run: {links.command('runs --within 1h')}",
                    f"Runbook: {links.section(HEADING)}",
                    SILENCE,
                )
            ),
            metric=self._check("StatusCheckFailed"),
            threshold=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=REPORT_AFTER,
            treat_missing_data=cloudwatch.TreatMissingData.MISSING,
        )
        arn = Stack.of(self).format_arn(service="sns", resource=f"{stage.prefix}-{Topic.URGENT}")
        action = actions.SnsAction(sns.Topic.from_topic_arn(self, "Urgent", arn))
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)
        alarm.add_insufficient_data_action(action)

    def _check(self, name: str) -> cloudwatch.Metric:
        return metric("AWS/EC2", name, "Maximum", InstanceId=self.instance.ref).with_(period=MINUTE)
