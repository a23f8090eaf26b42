"""An inspector for the stage that is meant."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.jobs.inspector import Inspector


def connect(*, stage: str | None = None, profile: str | None = None, region: str | None = None) -> Inspector:
    """The local stack's, by the environment."""
    from shared import settings
    from shared.db import Database
    from shared.jobs.discovery import discover
    from shared.jobs.inspector import Inspector
    from shared.jobs.inspector.reach import Reach
    from shared.jobs.sqs import Sqs

    database = Database(settings.database_url())
    return Inspector(Reach(database, Sqs(), settings.prefix(), discover(), getpass.getuser(), region or ""))
