"""The guard of a run's transaction, which only the run ends: a run's work and its completion commit together.

A handler could otherwise end it through SQL or a driver. The driver would start another transaction with the next
statement, and the run would seem complete. Only runs with a session import this.
"""

from __future__ import annotations

import re

from joblane.errors import JobError, SkipRetry

CONTROL = re.compile(
    r"(?>\s+|--[^\n]*|/\*.*?\*/)*+"
    r"(begin|start\s+transaction|commit|end|abort|prepare\s+transaction"
    r"|rollback(?!(?:\s+(?:work|transaction))?\s+to\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that starts or ends a transaction. A savepoint does not. Source: PostgreSQL, *SQL Commands*."""
WITHOUT_CONTROL = re.compile(
    r"'[^']*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/|begin\s+atomic\b.*", re.IGNORECASE | re.DOTALL
)
"""Quoted strings, comments, and bodies of functions, in which words mean nothing here."""
ROLLBACK = "a rollback"


class TransactionGuard:
    """Refuses what would end the transaction of a run, and notes what has ended it.

    ``owner``: what the transaction belongs to, for errors. ``advice``: what to do instead of SQL.
    """

    __slots__ = ("_advice", "_ended_by", "_owner", "is_committing")

    def __init__(self, owner: str, advice: str) -> None:
        self._owner, self._advice = owner, advice
        self._ended_by = ""
        self.is_committing = False
        """The run itself commits."""

    def begin(self) -> None:
        """Note that the owner has started a transaction."""
        self._ended_by = ""

    def check(self, statement: str) -> None:
        """Raise :class:`JobError` if a statement would end the transaction. It is not sent."""
        if not self.is_committing and (word := control_in(statement)):
            raise JobError(
                f"{word} as SQL is refused: the transaction of {self._owner} commits with the task's completion, or "
                f"not at all. {self._advice}"
            )

    def roll_back(self) -> None:
        """Note a rollback. If it is not the owner's, :meth:`check_whole` raises an error."""
        self._ended_by = ROLLBACK

    def end(self) -> None:
        """Note that the server has ended the transaction. Raises :class:`SkipRetry`, unless the run commits."""
        if not self.is_committing:
            self.check_whole(is_open=False)

    def check_whole(self, *, is_open: bool = True) -> None:
        """Raise an error if the transaction has ended before its run. ``is_open`` False: it is not open now."""
        if not is_open:
            self._ended_by = self._ended_by or "a statement"
        if self._ended_by == ROLLBACK:
            raise JobError(
                f"the connection under {self._owner} was rolled back, and with it the work of the run. {self._advice}"
            )
        if self._ended_by:
            raise SkipRetry(
                f"{self._ended_by} has ended the transaction of {self._owner} before the end of the run. Its work may "
                f"be committed, so the task does not run again. {self._advice}"
            )


def control_in(sql: str) -> str:
    """Return the first command that starts or ends a transaction, in capitals. Empty: there is none."""
    statements = WITHOUT_CONTROL.sub(" ", sql).split(";") if ";" in sql else [sql]
    found = next(filter(None, map(CONTROL.match, statements)), None)
    return "" if found is None else " ".join(found[1].upper().split())
