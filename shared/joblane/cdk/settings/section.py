"""The base of all settings: nothing unknown is taken, no type is converted, and no value appears in an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A part of a stage's settings, checked when it is made and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class SecretReference(Settings):
    """A value kept in Secrets Manager: the template holds the reference, CloudFormation reads it while it deploys."""

    secret: str = Field(min_length=1)
    """Name or ARN."""
    field: str | None = None
    """Key in a JSON secret; None: the whole text."""
