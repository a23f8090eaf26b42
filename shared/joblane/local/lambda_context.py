"""Lambda's context object, for an invocation on this machine."""

from __future__ import annotations

import time


class LambdaContext:
    """The attributes of Lambda's context object that the library reads. ``seconds``: until the function's timeout."""

    def __init__(self, seconds: float, request_id: str) -> None:
        self._ends = time.monotonic() + seconds
        self.aws_request_id = request_id
        self.memory_limit_in_mb = "512"

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self._ends - time.monotonic()) * 1000)
