"""The network of functions and database: a VPC of the stage's own, or an existing one."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from joblane.cdk.settings.section import Settings


class Egress(Settings):
    """The destinations that functions reach, for both kinds of network."""

    egress_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(strict=False)] = ()
    """TCP ports to which functions may connect, in addition to 443 (HTTPS) and the port of the database, for example
    587 for SMTP."""


class NewNetwork(Egress):
    """A VPC of the stage's own, in two zones."""

    kind: Literal["new"]
    """Selects a new VPC."""
    nat_gateways: int = Field(1, ge=0, le=2)
    """NAT gateways. 0: functions cannot reach the internet. They reach SQS, S3, Secrets Manager and SES by VPC
    endpoints, which cost more than a NAT gateway."""
    cidr: str = Field("10.60.0.0/16", pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")
    """Addresses of the VPC, with a prefix of 16 to 24 bits."""

    @field_validator("cidr")
    @classmethod
    def _a_network(cls, cidr: str) -> str:
        try:
            ip_network(cidr)
        except ValueError as error:
            raise ValueError(f"{error}; 10.60.0.0/16, for example, is right") from None
        return cidr


class ExistingNetwork(Egress):
    """An existing VPC. Its private subnets reach SQS, S3 and the services that tasks call, by NAT or by endpoints."""

    kind: Literal["existing"]
    """Selects an existing VPC."""
    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]+$")
    """Id of the VPC."""
    subnet_ids: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Ids of private subnets, at least 2, each in another availability zone."""
    availability_zones: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Availability zones of the subnets, in the same order."""

    @model_validator(mode="after")
    def _one_zone_each(self) -> Self:
        if len(self.subnet_ids) != len(self.availability_zones):
            raise ValueError("availability_zones: the zone of each of subnet_ids, in the same order, is required")
        if len(set(self.availability_zones)) < len(self.availability_zones):
            raise ValueError("availability_zones: a zone is named twice; give one subnet for each zone")
        return self


Network = Annotated[NewNetwork | ExistingNetwork, Field(discriminator="kind")]
