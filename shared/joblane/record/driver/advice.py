"""Advice for a server that refuses writes or connections."""

from __future__ import annotations

from joblane.errors import sqlstate
from joblane.record.driver.connection import READ_ONLY

HOLDERS = (
    '`psql -U postgres -c "select usename, application_name, state, count(*) from pg_stat_activity'
    ' group by 1, 2, 3 order by 4 desc"`'
)
"""A superuser has connections of its own. Source: PostgreSQL, *superuser_reserved_connections*."""
ADVICE = {
    READ_ONLY: "end the failover, or its default_transaction_read_only",
    "53300": f"close connections, or raise its max_connections; as a superuser, {HOLDERS} shows who holds them",
    "53": "give it storage or memory",
}
"""Beginning of an SQLSTATE → what to do. The first that matches is used."""


def advice_for(error: BaseException) -> str | None:
    """The advice for a server that refused a login or a statement with this error; None if that is not known."""
    code = sqlstate(error) or ""
    return next((do for beginning, do in ADVICE.items() if code.startswith(beginning)), None)
