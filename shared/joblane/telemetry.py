"""Logs and metrics by Powertools, made on first use.

The log line and the metrics of an invocation are Powertools' bytes, for a third of the processor time. A producer needs
no Powertools, so it is imported with the first log line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import defaultdict
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

    from aws_lambda_powertools import Logger
    from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
else:
    LambdaPowertoolsFormatter = object

TRACE_VARIABLE = "_X_AMZN_TRACE_ID"
"""Changes with each invocation. Source: Lambda, *Defined runtime environment variables*."""
stream: TextIO | None = None
"""The stream of log lines. None: the standard output, which of the command line has results only."""
LOG_LEVEL = "POWERTOOLS_LOG_LEVEL"
METRICS_DISABLED = "POWERTOOLS_METRICS_DISABLED"
MAX_VALUES = 100
"""Maximum number of values of one metric in one line.

Source: CloudWatch, *Specification: Embedded metric format*, target members.
"""


def namespace(prefix: str) -> str:
    """Return the namespace of a stage's metrics. Each stage of an account has its own."""
    return f"Joblane/{prefix}"


@cache
def logger() -> Logger:
    """The process's structured logger, one JSON line per record. ``POWERTOOLS_LOG_LEVEL`` sets the level."""
    from aws_lambda_powertools import Logger

    return Logger(service=_service(), logger_formatter=formatter(_service()), stream=stream)


def formatter(service: str) -> LambdaPowertoolsFormatter:
    """Return the formatter of all log lines."""
    from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

    class Formatter(FrequentFormat, LambdaPowertoolsFormatter):
        pass

    return Formatter(service)


def frequent_line(message: str) -> FrequentLine:
    """Return a line that every invocation writes."""
    return FrequentLine(logging.getLogger(logger().service), message)


class FrequentRecord(logging.LogRecord):
    """A record that also keeps its ``extra`` fields together, in a slot: only ``__dict__`` has fields of the line."""

    __slots__ = ("extra",)
    extra: dict[str, Any]


class FrequentLine:
    """An INFO line with a fixed message, written at one place. All its lines have the same fields."""

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self._logger, self._message = logger, message
        self._attributes: dict[str, Any] = {}

    def write(self, extra: dict[str, Any]) -> None:
        """Write the line. ``extra``: its fields; no value is None."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if not self._attributes:
            place = sys._getframe(1)
            file, line, function = place.f_code.co_filename, place.f_lineno, place.f_code.co_name
            record = logging.LogRecord(self._logger.name, logging.INFO, file, line, self._message, (), None, function)
            self._attributes = record.__dict__
        record = FrequentRecord.__new__(FrequentRecord)
        now = time.time()
        record.__dict__.update(self._attributes, created=now, msecs=float(now * 1000 % 1000 // 1), **extra)
        record.extra = extra
        self._logger.handle(record)


class Quiet(logging.Filter):
    """Leaves out the lines that every invocation writes, unless ``POWERTOOLS_LOG_LEVEL`` is set: a test has many."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not isinstance(record, FrequentRecord) or LOG_LEVEL in os.environ

    def __enter__(self) -> None:
        logger().addFilter(self)

    def __exit__(self, *_: object) -> None:
        logger().removeFilter(self)


class FrequentFormat(LambdaPowertoolsFormatter):
    """Added to Powertools' formatter. It writes a :class:`FrequentRecord` with the fixed fields of the previous one.

    If keys were appended to the logger, it writes all fields anew, because their values can change.
    """

    def __init__(self, service: str) -> None:
        super().__init__(utc=True, use_rfc3339=True, service=service)
        encoder = json.JSONEncoder(default=str, separators=(",", ":"), indent=self.json_indent, ensure_ascii=False)
        self._encode = encoder.encode
        self._keys: dict[str, Any] | None = None
        self._fields: dict[str, Any] = {}

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record, FrequentRecord) or self.thread_safe_get_current_keys():
            return super().format(record)
        if self.log_format != self._keys or record.msg != self._fields["message"]:
            text = super().format(record)
            fixed = all(isinstance(value, str | None) for value in self.log_format.values())
            self._keys = dict(self.log_format) if fixed else None
            self._fields = json.loads(text)
            return text
        line = self._fields | record.extra
        line["timestamp"] = self.formatTime(record)
        if trace := os.environ.get(TRACE_VARIABLE):
            line["xray_trace_id"] = trace.split(";")[0].replace("Root=", "")
        else:
            line.pop("xray_trace_id", None)
        return self._encode(line)


class Tally:
    """The metrics of one invocation, written as lines of CloudWatch's embedded metric format.

    Powertools' provider writes the format once for each combination of metrics. For each line it would take as much
    processor time as the rest of a job.
    ``POWERTOOLS_METRICS_DISABLED=true`` turns metrics off, as in Powertools.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, float] = defaultdict(int)
        self._times: dict[str, list[int]] = {}

    def count(self, name: str, number: float = 1) -> None:
        """Add to a count. ``number`` 0 writes the metric with value 0, which an alarm can distinguish from no data."""
        self._counts[name] += number

    def time(self, name: str, milliseconds: int) -> None:
        self._times.setdefault(name, []).append(milliseconds)

    def flush(self, *stage_wide: str, **dimensions: str) -> None:
        """Write the metrics, see :func:`write_metrics`, and start again at zero."""
        counts, times = dict(self._counts), self._times
        self._counts.clear()
        self._times = {}
        write_metrics(counts, times, *stage_wide, **dimensions)


def write_metrics(counts: dict[str, float], times: dict[str, list[int]], *stage_wide: str, **dimensions: str) -> None:
    """Write metrics with ``dimensions``. Writes nothing if there are none. ``times``: in milliseconds.

    ``stage_wide``: counts that are also written without dimensions, as metrics of the whole stage. Their dimension
    set is empty. Source: CloudWatch, *Specification: Embedded metric format*, DimensionSet; an exporter of AWS's
    own writes it as ``[]``, github.com/open-telemetry/opentelemetry-collector-contrib, pull request 13766.
    """
    units = {name: _unit(name) for name in counts}
    values: dict[str, Any] = dict(counts)
    while values or times:
        units |= dict.fromkeys(times, "Milliseconds")
        values |= {name: part[:MAX_VALUES] for name, part in times.items()}
        times = {name: part[MAX_VALUES:] for name, part in times.items() if len(part) > MAX_VALUES}
        if os.environ.get(METRICS_DISABLED, "").lower() not in ("true", "1"):
            directives = _directives(namespace(_service()), tuple(units.items()), tuple(dimensions), stage_wide)
            now = int(time.time() * 1000)
            print(f'{{"_aws":{{"Timestamp":{now},{directives}}},{_encode(dimensions | values)[1:]}')  # noqa: T201
        units, values = {}, {}


_encode = json.JSONEncoder(separators=(",", ":")).encode


@lru_cache
def _unit(name: str) -> str:
    """Return the unit of a count. CloudWatch has none for money."""
    return "Seconds" if name.endswith("Seconds") else "None" if name.endswith("Usd") else "Count"


@lru_cache
def _directives(
    name: str, units: tuple[tuple[str, str], ...], dimensions: tuple[str, ...], stage_wide: tuple[str, ...]
) -> str:
    """Return ``"CloudWatchMetrics":[…]`` for metrics with their units, in the namespace ``name``."""
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    provider = AmazonCloudWatchEMFProvider(namespace=name)
    metrics = {metric: {"Unit": unit, "Value": 0} for metric, unit in units}
    line: Any = provider.serialize_metric_set(metrics, dict.fromkeys(dimensions, ""), {})
    directives = line["_aws"]["CloudWatchMetrics"]
    if whole := [metric for metric in directives[0]["Metrics"] if metric["Name"] in stage_wide]:
        directives.append(directives[0] | {"Dimensions": [[]], "Metrics": whole})
    return _encode({"CloudWatchMetrics": directives})[1:-1]


def _service() -> str:
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"
