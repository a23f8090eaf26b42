"""The check of OpenTelemetry's settings at the start, before a first span."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from joblane.errors import DeclarationError

ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
"""Source: OpenTelemetry, *OpenTelemetry Protocol Exporter*."""
TRACES, METRICS = "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"
"""Source: OpenTelemetry, *Environment Variable Specification*."""
OTLP, CONSOLE, NONE = "otlp", "console", "none"
EXPORTERS = (OTLP, CONSOLE, NONE)


def exporter(name: str) -> str:
    """Return the exporter that a variable names: one of :data:`EXPORTERS`."""
    return os.environ.get(name, "").strip() or OTLP


def check_settings() -> None:
    """Raise :class:`DeclarationError` for an address without a host, and for an unknown exporter."""
    for name in ENDPOINTS:
        if address := os.environ.get(name, "").strip():
            _check_address(name, address)
    for name in (TRACES, METRICS):
        if exporter(name) not in EXPORTERS:
            given = os.environ[name]
            raise DeclarationError(f"{name}: {given!r} is not one of {', '.join(EXPORTERS)}")


def _check_address(name: str, address: str) -> None:
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        is_right = False
    if not is_right:  # it may contain a password
        raise DeclarationError(
            f"{name}: an address with scheme and host is required, for example http://localhost:4318"
        )
