"""The first connection to a database that may be asleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from socket import gaierror

from pg8000.exceptions import Error as PostgresError

from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.login import LoginError

PAUSE_SECONDS = 0.5
TRY_SECONDS = 5
"""The time of the last try."""


def connect_patiently(
    database: Database, patience_seconds: float, *, on_wait: Callable[[], object] | None = None
) -> None:
    """Open the connection. While the database does not answer, start further tries for ``patience_seconds``.

    They end, with the check of the stage, :data:`TRY_SECONDS` later. A connection that is open is tested. Without
    patience there is one try, with the limits of ``database``.

    A refused login and a name that cannot be resolved are not repeated. Raises the error of the last try: nothing has
    been executed. ``on_wait``: called after the first try that failed, if another one follows.
    """
    ends = time.monotonic() + patience_seconds
    until = ends + TRY_SECONDS if patience_seconds else None
    database.test()
    while True:
        try:
            with database.opening_until(until):
                database.get()
        except (PostgresError, OSError) as error:
            is_last = time.monotonic() + PAUSE_SECONDS > ends
            if is_last or isinstance(error, (LoginError, gaierror)) or not is_unavailable(error):
                raise
            if on_wait is not None:
                on_wait()
                on_wait = None
        else:
            return
        time.sleep(PAUSE_SECONDS)
