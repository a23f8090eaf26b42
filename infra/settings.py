"""The platform's additional settings of a stage: its HTTP API, its bucket and its mail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parseaddr
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from joblane.cdk.constructs.network import HTTPS
from joblane.cdk.errors import StageError
from joblane.cdk.settings.apis import HttpLimits
from joblane.cdk.settings.network import Network
from joblane.cdk.settings.section import Settings, required
from joblane.cdk.settings.stage import Stage, Value

SES, SMTP, LOG = PROVIDERS = "ses", "smtp", "log"
"""Values of ``EMAIL_PROVIDER`` for a stage on AWS. The fourth value, ``console``, would lose mails there. See
:mod:`saas.mail`."""
SUBMISSION_PORT = "587"
"""Default of ``SMTP_PORT``."""
SERVICES = "TENANT_INIT_SERVICES"
"""Addresses that a task calls. See :mod:`saas.settings`."""
ORIGIN = re.compile(r"(https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?|http://(localhost|127\.0\.0\.1))(:[1-9]\d{0,4})?")


Origin = Annotated[
    str,
    required(
        ORIGIN.fullmatch,
        "https://HOST or https://HOST:PORT is required, as browsers send it: lower case, no path, no *; http:// is "
        "only for localhost",
    ),
]


class Jwt(Settings):
    """Tokens of an OpenID Connect provider."""

    kind: Literal["jwt"]
    issuer: str = Field(pattern=r"^https://[^\s]+$")
    """Exactly the ``iss`` of the tokens, including a slash at its end."""
    audience: Annotated[tuple[str, ...], Field(min_length=1, max_length=50, strict=False)]
    """Accepted values of a token's ``aud``, or of its ``client_id`` if it has no ``aud``. Source: API Gateway, *Control
    access to HTTP APIs with JWT authorizers*, and its quotas."""


class Iam(Settings):
    """Requests that are signed with AWS credentials: services of this account, without a tenant."""

    kind: Literal["iam"]


class Api(HttpLimits):
    """The HTTP API."""

    SECONDS: ClassVar[float] = 0.2

    authorizer: Annotated[Jwt | Iam, Field(discriminator="kind")]
    rate_per_second: int = Field(50, ge=1)
    burst: int = Field(100, ge=1)
    cors_origins: Annotated[tuple[Origin, ...], Field(strict=False)] = ()
    """Origins whose pages may call the API, for example ``https://app.example.com``."""

    @model_validator(mode="after")
    def _pages_have_tokens(self) -> Self:
        if self.cors_origins and isinstance(self.authorizer, Iam):
            raise ValueError("cors_origins: pages have no AWS credentials; leave it out, or use authorizer jwt")
        return self


class PlatformStage(Stage):
    """A stage of the platform. Without ``EMAIL_PROVIDER``, mail goes by Amazon SES."""

    api: Api | None = None
    """The HTTP API. None: there is none."""
    export_bucket: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """Name of the bucket. None: CloudFormation generates one."""

    @model_validator(mode="after")
    def _mails_arrive(self) -> Self:
        if self.local:
            return self
        if self.mails_by not in PROVIDERS:
            raise ValueError(
                f"settings.EMAIL_PROVIDER: {SES}, {SMTP} or {LOG} is required; console is for a local stage"
            )
        if self.mails_by == SMTP and self.network is not None:
            self._smtp_is_reached(self.network)
        return self

    @model_validator(mode="after")
    def _services_are_reached(self) -> Self:
        if self.network is not None and self.network.egress in ("endpoints", "none") and self.settings.get(SERVICES):
            raise ValueError(
                f"settings.{SERVICES}: network.egress {self.network.egress} reaches AWS services only; leave the list "
                "empty, or set egress to nat, or to ipv6 if all of them have an IPv6 address"
            )
        return self

    def _smtp_is_reached(self, network: Network) -> None:
        if network.egress == "endpoints":
            raise ValueError(
                f"settings.EMAIL_PROVIDER: network.egress endpoints reaches no server for {SMTP}; use {SES} "
                "or another egress"
            )
        port = self.settings.get("SMTP_PORT", SUBMISSION_PORT)
        if port not in [str(each) for each in (HTTPS, *network.egress_ports)]:
            raise ValueError(
                f"settings.SMTP_PORT: the functions may not connect to port {port}; write "
                f'"egress_ports": [{port}] into network'
            )

    @property
    def mails_by(self) -> Value:
        """``EMAIL_PROVIDER``, by default SES."""
        return self.settings.get("EMAIL_PROVIDER", SES)

    @property
    def ses_sender(self) -> str | None:
        if self.mails_by != SES:
            return None
        sender = self.settings.get("EMAIL_FROM_ADDRESS")
        address = self.mail_from or (parseaddr(sender)[1] if isinstance(sender, str) else "")
        if not address:
            raise StageError(
                f"cdk.json: stage {self.name!r}: settings.EMAIL_FROM_ADDRESS: the address itself is required, such as "
                "no-reply@example.com: functions that send mail by SES may send only from it"
            )
        return address

    @property
    def apis(self) -> Mapping[str, HttpLimits]:
        return {**({} if self.api is None else {"api": self.api}), **super().apis}
