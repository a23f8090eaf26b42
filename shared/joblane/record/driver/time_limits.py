"""The time limits of Joblane's own statements, by the part of the library that runs them.

The server ends a statement that waits or runs too long, and the client stops waiting for a server that does not answer
at all. A transaction that a handler or another caller begins has none of these limits: its statements can take as long
as they need. The functions of the ``.sql`` files set a ``lock_timeout`` of their own, in every transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TimeLimits:
    """Limits in seconds.

    ``connect``: for each step of a login. ``lock``: for each lock, ``lock_timeout``. ``statement``: for a statement,
    ``statement_timeout``. ``network``: the additional time until its answer must arrive.
    """

    connect: float
    lock: float
    statement: float
    network: float = 1

    @cached_property
    def answer(self) -> float:
        """The time in which the server must answer."""
        return self.statement + self.network

    @cached_property
    def startup(self) -> dict[str, str]:
        """The limits as parameters of a session, in milliseconds."""
        return {
            "lock_timeout": str(round(self.lock * 1000)),
            "statement_timeout": str(round(self.statement * 1000)),
        }

    @cached_property
    def sql(self) -> str:
        """The statements that set the limits, for a server that takes no startup parameters."""
        return "; ".join(f"set {name} = {value}" for name, value in self.startup.items())


WORKER = TimeLimits(connect=2, lock=1, statement=5.5)
"""A claim and a finish take milliseconds, but a finish may wait 5 s for locks, so ``statement`` is longer. If a commit
hangs and then a login hangs, both take 8.5 s together. Lambda ends the function 10 s after the last task's timeout
(``FINISH_MARGIN``)."""
CLIENT = TimeLimits(connect=5, lock=2, statement=10)
"""A web request may wait for these statements. The insert of 10,000 tasks takes less."""
OPERATOR = TimeLimits(connect=5, lock=2, statement=20)
"""The Inspector, its control API, whose function has 29 s, the command line and bulk actions."""
SWEEP = TimeLimits(connect=5, lock=2, statement=10)
"""About ten statements of this length fit into the time of a sweep."""
RESUME_SECONDS = 60
"""The time in which an operator's tool starts tries to reach a database that may be asleep. A paused Aurora accepts a
connection after about 15 s, and after "30 seconds or longer" if it has slept for more than a day. Source: Aurora,
*Scaling to Zero ACUs with automatic pause and resume*."""
NO_LIMITS = "set lock_timeout = 0; set statement_timeout = 0"
UNLIMITED = "set local lock_timeout = 0; set local statement_timeout = 0"
"""Sent with the statement that begins a caller's transaction. The end of the transaction restores the limits."""
