"""What one run costs: an estimate from the table of prices, made when it ends and kept with it.

Counted are its time and memory in Lambda, its share of the invocation, and of the calls to SQS. Left out is what a run
cannot tell, or what is there without it: a cold start, the finish itself (which is written before it is over), the
database, the network, logs and metrics, the surcharge of fair queues, bodies above 64 KiB, and what the handler calls.
A run that was lost has no estimate: nobody knows how long it went on.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from joblane.prices import PRICES, compute
from joblane.record.states import State

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.record.claim import Claim
    from joblane.record.finish import Finish

MEMORY_VARIABLE = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
"""Source: Lambda, *Defined runtime environment variables*; in MB."""
CALLS_FOR_ALL = 2
"""One request receives the messages of an invocation, and one deletes them or has them wait."""


class RunCosts:
    """Prices the runs of one function, those of one claim at a time."""

    def __init__(self, task: Task[Any, Any]) -> None:
        given = os.environ.get(MEMORY_VARIABLE, "")
        self._memory_mb = int(given) if given.isdecimal() else task.memory_mb
        self._millisecond = compute(os.uname().machine).each * self._memory_mb / 1024 / 1000
        self._request = PRICES["Lambda request"].each
        self._call = PRICES["SQS request"].each
        self._shared_ms = self._shared_usd = 0.0

    def share(self, company: int, milliseconds: int) -> None:
        """``company`` runs have an invocation between them, and in it ``milliseconds`` up to the first one's start."""
        parts = company or 1
        self._shared_ms = milliseconds / parts
        self._shared_usd = (self._request + CALLS_FOR_ALL * self._call) / parts

    def note(self, end: Finish, claimed: Claim) -> None:
        """Write into ``end`` what the run has cost. Lambda bills each millisecond begun."""
        own_calls = (claimed.run == 1) + (end.state is State.ARCHIVED)  # the message was sent; its dead letter is
        end.billed_ms = math.ceil(end.duration_ms + self._shared_ms)
        end.memory_mb = self._memory_mb
        end.cost_usd = end.billed_ms * self._millisecond + self._shared_usd + own_calls * self._call
