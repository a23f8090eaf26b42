"""The base of all settings: unknown names are refused, no type is converted, and errors show no value."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A part of a stage's settings. It is checked when it is made, and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class SecretReference(Settings):
    """A value in Secrets Manager. The template has the reference, and CloudFormation reads the value at each deploy."""

    secret: str = Field(min_length=1)
    """Name or ARN of the secret."""
    field: str | None = None
    """Key in a JSON secret. None: the whole text."""
