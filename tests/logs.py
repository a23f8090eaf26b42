"""The library's log lines, as text and as fields."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblane import telemetry


class Lines(logging.Handler):
    """Log lines of the library, in JSON text."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self.formatter = formatter
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    @property
    def fields(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]


@contextmanager
def lines() -> Iterator[Lines]:
    """Collect the library's log lines inside the block."""
    handler = Lines(telemetry.logger().registered_formatter)
    logger = logging.getLogger(telemetry.logger().service)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
