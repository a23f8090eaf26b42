"""The network of functions and database: a VPC of the stage's own, or an existing one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from joblane.cdk.settings.section import Settings, required

ZONES = 2
"""Aurora requires subnets in at least two zones. Source: Aurora, *Requirements for a DB cluster in a VPC*."""
ZONE = re.compile(r"(?P<region>[a-z]{2,4}(-[a-z]+)+-\d)[a-z]")
"""Name of an availability zone: its region, and ``a`` to ``z``. Source: EC2, *Regions and Zones*."""


def _of_one_region(zones: tuple[str, ...]) -> tuple[str, ...]:
    if len({zone[:-1] for zone in zones}) > 1:
        raise ValueError(f"{' and '.join(zones)} are in different regions; a network is in one region")
    return zones


Zone = Annotated[
    str,
    required(ZONE.fullmatch, "{!r} is not the name of an availability zone; eu-central-1a, for example, is right"),
]
OneRegion = AfterValidator(_of_one_region)
PRIVATE = [IPv4Network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
"""Addresses that no host in the internet has. Source: RFC 1918; RFC 6598, for the last."""


class Egress(Settings):
    """The destinations that functions reach, for both kinds of network."""

    egress: Literal["ipv6", "nat_instance", "nat", "endpoints", "none"]
    """Way out of the functions' subnets."""
    egress_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(strict=False)] = ()
    """TCP ports to which functions may connect, in addition to 443 (HTTPS) and the port of the database, for example
    587 for SMTP."""
    reaches: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """With ``egress`` ``none``: the AWS services that functions reach through your own VPC endpoints or routes, as
    boto3 names them, for example ``["sqs", "sesv2"]``. S3 is always assumed."""

    def problems(self) -> Iterator[str]:
        if self.reaches and self.egress != "none":
            yield "reaches: it lists your own ways out; leave it out, or set egress to none"

    @property
    def ipv6(self) -> bool:
        """True: functions get an IPv6 address, and boto3 calls dual-stack endpoints."""
        return self.egress in ("ipv6", "nat_instance")

    @property
    def ipv4(self) -> bool:
        """True: functions reach the internet by IPv4."""
        return self.egress in ("nat_instance", "nat")


class NewNetwork(Egress):
    """A VPC of the stage's own, in two zones."""

    kind: Literal["new"]
    """Selects a new VPC."""
    egress: Literal["ipv6", "nat_instance", "nat", "endpoints", "none"] = "ipv6"
    """Way out of the functions' private subnets. ``ipv6``: an egress-only internet gateway, which is free; functions
    reach AWS services with a dual-stack endpoint and hosts with an IPv6 address. ``nat_instance``: the same, and one
    small EC2 instance for hosts without an IPv6 address. ``nat``: NAT gateways; functions reach everything.
    ``endpoints``: a VPC endpoint for each AWS service that functions call, and nothing else. ``none``: S3 only; your
    app adds the ways to the services in ``reaches``."""
    nat_gateways: int = 1
    """NAT gateways, 1 or 2, with ``egress`` ``nat`` only. 2: one in each zone, so that functions of one zone do not
    depend on the other."""
    cidr: str = Field("10.60.0.0/16", pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")
    """Addresses of the VPC, with a prefix of 16 to 24 bits, in ``10.0.0.0/8``, ``172.16.0.0/12``, ``192.168.0.0/16`` or
    ``100.64.0.0/10``."""
    availability_zones: (
        Annotated[tuple[Zone, ...], Field(min_length=2, max_length=2, strict=False), OneRegion] | None
    ) = None
    """Two availability zones of all subnets, for example ``["eu-central-1a", "eu-central-1b"]``. None: the first two
    that the account lists. Set them if Lambda or Aurora does not support one of those."""
    nat_instance_version: str = Field("1", pattern=r"^[0-9A-Za-z.-]{1,32}$")
    """With ``egress`` ``nat_instance``: any version or date. With another value, the next deploy replaces the instance
    with one that has the newest image of Amazon Linux."""

    @field_validator("cidr")
    @classmethod
    def _a_private_network(cls, cidr: str) -> str:
        try:
            network = IPv4Network(cidr)
        except ValueError as error:
            raise ValueError(f"{error}; 10.60.0.0/16, for example, is right") from None
        if not any(network.subnet_of(private) for private in PRIVATE):
            raise ValueError(f"{cidr} is not private; a network in {', '.join(map(str, PRIVATE))} is required")
        return cidr

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "nat_gateways" in self.model_fields_set and self.egress != "nat":
            yield f"nat_gateways: there is none with egress {self.egress}; leave it out, or set egress to nat"
        if "nat_instance_version" in self.model_fields_set and self.egress != "nat_instance":
            yield (
                f"nat_instance_version: there is no instance with egress {self.egress}; leave it out, or set egress to"
                " nat_instance"
            )
        if self.nat_gateways not in (1, 2):
            yield "nat_gateways: 1 or 2 is required; for none, leave it out and set egress to ipv6, endpoints or none"
        if self.availability_zones and len(set(self.availability_zones)) < 2:
            yield "availability_zones: two different zones are required"


class ExistingNetwork(Egress):
    """An existing VPC, with a way from its subnets to S3, and to the AWS services that functions call."""

    kind: Literal["existing"]
    """Selects an existing VPC."""
    egress: Literal["nat", "ipv6", "none"] = "nat"
    """Way out that the subnets have. ``nat``: to everything. ``ipv6``: by an egress-only internet gateway, from
    dual-stack subnets; functions get an IPv6 address, and boto3 calls dual-stack endpoints. ``none``: only to the
    services in ``reaches``."""
    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]+$")
    """Id of the VPC."""
    subnet_ids: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Ids of private subnets, at least 2, each in another availability zone."""
    availability_zones: Annotated[tuple[Zone, ...], Field(min_length=2, strict=False), OneRegion]
    """Availability zones of the subnets, in the same order."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.subnet_ids) != len(self.availability_zones):
            yield "availability_zones: the zone of each of subnet_ids, in the same order, is required"
        if len(set(self.availability_zones)) < len(self.availability_zones):
            yield "availability_zones: a zone is named twice; give one subnet for each zone"


Network = Annotated[NewNetwork | ExistingNetwork, Field(discriminator="kind")]
