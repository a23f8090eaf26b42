"""The check of OpenTelemetry's settings at the start, before a first span."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from joblane.errors import DeclarationError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Source: OpenTelemetry, *OpenTelemetry Protocol Exporter*."""
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
TRACES = "OTEL_TRACES_EXPORTER"
"""Source: OpenTelemetry, *Environment Variable Specification*."""
METRICS = "OTEL_METRICS_EXPORTER"
OTLP, CONSOLE, NONE = "otlp", "console", "none"
EXPORTERS = (OTLP, CONSOLE, NONE)
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
METRICS_PROTOCOL = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
HTTP = "http/protobuf"


def exporters() -> dict[str, str]:
    """Return the exporter that each variable names: one of :data:`EXPORTERS`."""
    given = {TRACES: os.environ.get(TRACES, ""), METRICS: os.environ.get(METRICS, "")}
    return {name: value.strip() or OTLP for name, value in given.items()}


def addresses() -> dict[str, str]:
    """Return the address that each variable names; empty if it names none."""
    return {
        ENDPOINT: os.environ.get(ENDPOINT, "").strip(),
        TRACES_ENDPOINT: os.environ.get(TRACES_ENDPOINT, "").strip(),
        METRICS_ENDPOINT: os.environ.get(METRICS_ENDPOINT, "").strip(),
    }


def check_settings() -> None:
    """Raise :class:`DeclarationError` for an address without a host, an unknown exporter, and another protocol."""
    for name, address in addresses().items():
        if address:
            _check_address(name, address)
    for name, given in exporters().items():
        if given not in EXPORTERS:
            raise DeclarationError(f"{name}: {given!r} is not one of {', '.join(EXPORTERS)}")
    for name, protocol in {
        PROTOCOL: os.environ.get(PROTOCOL, ""),
        TRACES_PROTOCOL: os.environ.get(TRACES_PROTOCOL, ""),
        METRICS_PROTOCOL: os.environ.get(METRICS_PROTOCOL, ""),
    }.items():
        if protocol.strip() not in ("", HTTP):
            raise DeclarationError(f"{name}: {HTTP} is required, usually with port 4318, not {protocol!r}")


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
