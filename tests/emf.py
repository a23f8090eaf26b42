"""The embedded metric format: what a line has to be so that CloudWatch reads metrics out of it.

Source: CloudWatch, *Specification: Embedded metric format*, its schema and what its text demands beyond that;
PutMetricData, MetricDatum and Dimension, CloudWatch API reference, for names and values.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

MAX_METRICS, MAX_VALUES, MAX_DIMENSIONS = 100, 100, 30
MAX_LINE_BYTES = 256 * 1024
"""The limit in the older text of the specification. The newer one has 1 MB."""
FUTURE_MS, PAST_MS = 2 * 3600 * 1000, 14 * 24 * 3600 * 1000
UNITS = (
    "Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits"
    "|Terabits|Percent|Count|Bytes/Second|Kilobytes/Second|Megabytes/Second|Gigabytes/Second|Terabytes/Second"
    "|Bits/Second|Kilobits/Second|Megabits/Second|Gigabits/Second|Terabits/Second|Count/Second|None"
)
NAMESPACE = re.compile(r"[0-9A-Za-z.\-_/#]{1,255}")
PRINTABLE = re.compile(r"[!-~]([ -~]*[!-~])?")
"""Names and values of dimensions and metrics: ASCII, no blank around them."""
OURS = {"task_type", "queue", "check", "limit"}
"""Each has as many values as there are declarations; a dimension with more would cost with each value."""

NAME = {"type": "string", "minLength": 1, "maxLength": 255}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "minItems": 0,
                                    "maxItems": MAX_DIMENSIONS,
                                    "items": {"type": "string", "minLength": 1, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": MAX_METRICS,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"type": "string", "pattern": f"^({UNITS})$"},
                                        "StorageResolution": {"type": "integer", "enum": [1, 60]},
                                    },
                                    "additionalProperties": False,
                                },
                            },
                        },
                        "additionalProperties": False,
                    },
                },
            },
        },
    },
}


def documents(text: str) -> list[dict[str, Any]]:
    """The lines of an output that hold metrics, each checked."""
    found = [json.loads(line) for line in text.splitlines() if '"_aws"' in line]
    for document in found:
        assert list(problems(document)) == []
    return found


def problems(document: Any) -> Iterator[str]:
    """Yield the faults of a line: metrics that CloudWatch would refuse, or would charge for without a use."""
    from cfnlint.jsonschema import StandardValidator  # imported here: it takes longer than all other modules of a test

    faults = [str(error.message) for error in StandardValidator(schema=SCHEMA).iter_errors(document)]
    yield from faults
    if faults:
        return
    if len(json.dumps(document).encode()) > MAX_LINE_BYTES:
        yield "the line is too long"
    now = time.time() * 1000
    if not now - PAST_MS < document["_aws"]["Timestamp"] < now + FUTURE_MS:
        yield "Timestamp is no time of these days in milliseconds"
    for directive in document["_aws"]["CloudWatchMetrics"]:
        if not NAMESPACE.fullmatch(directive["Namespace"]) or directive["Namespace"].startswith("AWS/"):
            yield f"Namespace {directive['Namespace']!r}"
        for metric in directive["Metrics"]:
            yield from _of_metric(metric["Name"], document.get(metric["Name"]))
        for name in {name for names in directive["Dimensions"] for name in names}:
            yield from _of_dimension(name, document.get(name))


def _of_metric(name: str, value: Any) -> Iterator[str]:
    values = value if isinstance(value, list) else [value]
    if not PRINTABLE.fullmatch(name):
        yield f"metric {name!r} has no good name"
    if not 0 < len(values) <= MAX_VALUES:
        yield f"{name} has {len(values)} values"
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or abs(one) > 2**360 for one in values):
        yield f"{name} is no number, or none that is there"


def _of_dimension(name: str, value: Any) -> Iterator[str]:
    if name not in OURS:
        yield f"dimension {name!r} may have any number of values"
    if not PRINTABLE.fullmatch(name) or name.startswith(":"):
        yield f"dimension {name!r} has no good name"
    if not isinstance(value, str) or not 1 <= len(value) <= 1024 or not PRINTABLE.fullmatch(value):
        yield f"dimension {name!r} has no good value"
