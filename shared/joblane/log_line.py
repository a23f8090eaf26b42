"""A log line that every invocation writes: Powertools' bytes, for a third of the processor time.

It passes through the logger, so that the levels, filters, handlers and formatters of the user's code apply to it. This
module imports Powertools, so it is imported with the first log line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

TRACE_VARIABLE = "_X_AMZN_TRACE_ID"
"""Changes with each invocation. Source: Lambda, *Defined runtime environment variables*."""


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


class Formatter(LambdaPowertoolsFormatter):
    """Powertools' formatter. It writes a :class:`FrequentRecord` with the fixed fields of the previous one.

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
