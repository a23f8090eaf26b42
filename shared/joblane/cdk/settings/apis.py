"""TODO doc."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from joblane.cdk.settings.section import Settings

# --- API -----------------------------------------------------------------------------------------------------------

ORIGIN = re.compile(r"(https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?|http://(localhost|127\.0\.0\.1))(:[1-9]\d{0,4})?")


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise ValueError(
            "https://HOST or https://HOST:PORT is required, as browsers send it: lower case, no path, no *; "
            "http:// is for localhost alone"
        )
    return text


class Jwt(Settings):
    """Tokens of an OpenID Connect provider."""

    kind: Literal["jwt"]
    issuer: str = Field(pattern=r"^https://[^\s]+$")
    """Just as the tokens' ``iss`` has it, a last slash included."""
    audience: Annotated[tuple[str, ...], Field(min_length=1, max_length=50, strict=False)]
    """One of them is a token's ``aud``, or its ``client_id`` where it has no ``aud``. Source: API Gateway, *Control
    access to HTTP APIs with JWT authorizers*, and its quotas."""


class Iam(Settings):
    """Requests signed by AWS credentials: services of this account, which act for no tenant."""

    kind: Literal["iam"]


class Api(Settings):
    """The HTTP API."""

    authorizer: Annotated[Jwt | Iam, Field(discriminator="kind")]
    rate_per_second: int = Field(50, ge=1)
    burst: int = Field(100, ge=1)
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(strict=False)] = ()
    """Origins whose pages may call it, for example ``https://app.example.com``."""
    max_concurrency: int | None = Field(None, ge=1)
    """Reserved for the API's function, and its bound. None: it shares what the account has left."""

    @model_validator(mode="after")
    def _pages_have_tokens(self) -> Self:
        if self.cors_origins and isinstance(self.authorizer, Iam):
            raise ValueError("cors_origins: pages have no AWS credentials; leave it out, or take authorizer jwt")
        return self


class Control(Settings):
    """The control API: operators ask and act by it, as whom IAM knows them."""

    rate_per_second: int = Field(20, ge=1)
    burst: int = Field(40, ge=1)
    max_concurrency: int | None = Field(None, ge=1)
    """Reserved for its function, and its bound. None: it shares what the account has left."""


# --- Monitoring ----------------------------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=1)] | Literal["off"]
Percent = Annotated[int, Field(ge=1, le=100)] | Literal["off"]
"""``off``, as JSON's null does not come through the CDK."""
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"


class Monitoring(Settings):
    """Alarms with a topic that tells of them, a dashboard, and saved queries.

    Each number is the threshold of one kind of alarm; ``off``: there is none of that kind.
    """

    email: str | None = Field(None, pattern=EMAIL)
    """Told of each alarm and of its end, once the link in the first mail was followed. None: nobody is; subscribe to
    the topic ``PREFIX-alarms`` by other means."""
    archived: Count = 1
    """So many tasks of a type given up within 15 minutes."""
    failing_percent: Percent = 50
    """Of a type's runs within 15 minutes, so many failed …"""
    failing_runs: int = Field(10, ge=1)
    """… where there were so many at least: two failures of three say little."""
    waiting: bool = True
    """Tasks wait longer than the ``target_wait`` of their type."""
    moved_by_sqs: Count = 1
    """So many dead letters that SQS moved by itself."""
    refused: Count = 1
    """So many dead letters of front doors, and ticks that could not be sent."""
    missed_ticks: Count = 1
    """So many ticks that did not come."""
    stuck_leases: Count = 1
    """So many runs that ended without a word ten minutes ago and were not found."""
    throttles: Count = 1
    """So many invocations of the stage's functions within 5 minutes for which Lambda had no room."""
    near_timeout_percent: Percent = 80
    """A run took so much of its type's ``timeout``."""
    silence: Annotated[int, Field(ge=2)] | Literal["off"] = 4
    """So many times in a row the sweep, or a health check, did not end well."""
