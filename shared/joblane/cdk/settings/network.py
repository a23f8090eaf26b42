"""Where functions and database meet: a VPC of the stage's own, or one that exists."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from joblane.cdk.settings.section import Settings


class Reaching(Settings):
    """What functions reach from a network of whatever kind."""

    egress_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(strict=False)] = ()
    """TCP ports of what tasks call, beside HTTPS's 443 and the database's: 587, say, for mail by SMTP."""


class NewNetwork(Reaching):
    """A VPC of the stage's own, in two zones."""

    kind: Literal["new"]
    nat_gateways: int = Field(1, ge=0, le=2)
    """0: nothing of the internet can be reached, and of AWS what functions call: SQS, S3, Secrets Manager and SES. The
    endpoints cost more than a gateway does: it is for those whose functions must not reach the internet."""
    cidr: str = Field("10.60.0.0/16", pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")

    @field_validator("cidr")
    @classmethod
    def _a_network(cls, cidr: str) -> str:
        try:
            ip_network(cidr)
        except ValueError as error:
            raise ValueError(f"{error}; 10.60.0.0/16, for example, is right") from None
        return cidr


class ExistingNetwork(Reaching):
    """A VPC that is there. Its private subnets reach SQS, S3 and whatever the tasks call, by NAT or by endpoints."""

    kind: Literal["existing"]
    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]+$")
    subnet_ids: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Private ones, each in another zone."""
    availability_zones: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Theirs, in the same order."""

    @model_validator(mode="after")
    def _one_zone_each(self) -> Self:
        if len(self.subnet_ids) != len(self.availability_zones):
            raise ValueError("availability_zones: one for each of subnet_ids, in the same order, is required")
        if len(set(self.availability_zones)) < len(self.availability_zones):
            raise ValueError("availability_zones: one is there twice; give one subnet for each zone")
        return self


Network = Annotated[NewNetwork | ExistingNetwork, Field(discriminator="kind")]
