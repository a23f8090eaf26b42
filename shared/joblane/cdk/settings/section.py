"""The base of all settings: unknown names are refused, no type is converted, and errors show no value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """A part of a stage's settings. It is checked when it is made, and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each reason why the settings do not fit together. It begins with a setting's name."""
        yield from ()

    @model_validator(mode="after")
    def _without_problems(self) -> Self:
        for problem in self.problems():
            raise ValueError(problem)
        return self


SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@!-]+-[A-Za-z0-9]{6}", re.ASCII)
"""Whole: a permission for a part of it, or for the name, allows nothing. Source: CreateSecret, Secrets Manager API
reference; the names of RDS's own secrets have a ``!`` as well."""
NAME = re.compile(r"[\w/+=.@!-]{1,512}", re.ASCII)


def required(is_right: Callable[[Any], object], sentence: str) -> AfterValidator:
    """Return a validator that refuses other values with ``sentence``, in which ``{}`` is the value."""

    def check(value: Any) -> Any:
        if not is_right(value):
            raise ValueError(sentence.format(value))
        return value

    return AfterValidator(check)


WHOLE_ARN = (
    "the whole ARN of a secret is required, with the six characters at its end, for example "
    "arn:aws:secretsmanager:eu-central-1:111122223333:secret:NAME-AbCdEf"
)
SecretArn = Annotated[str, required(SECRET_ARN.fullmatch, WHOLE_ARN)]
SecretId = Annotated[
    str,
    required(lambda text: not text.startswith("arn:") or SECRET_ARN.fullmatch(text), WHOLE_ARN),
    required(
        lambda text: text.startswith("arn:") or NAME.fullmatch(text),
        "the name or the whole ARN of a secret is required: letters, digits and /_+=.@-",
    ),
]


class SecretReference(Settings):
    """A value in Secrets Manager. Functions that declare the setting may read it, and read it when they use it.

    The templates and the configurations of functions have the reference only.
    """

    secret: SecretId
    """Name or whole ARN of the secret, in the region of the stage. If the secret has a KMS key of your own, the key's
    policy must allow the functions' roles ``kms:Decrypt``."""
    field: str | None = Field(None, min_length=1)
    """Key in a JSON secret. None: the whole value."""
