"""A copy of a running server at a moment, as a restore to a time makes it: no session of the original is disturbed.

A transaction that is open at this moment is not in the copy, and may commit in the original.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from joblane.local.postgres import Postgres, as_other_user, environment, program
from tests.faults.server_of_its_own import SETTINGS


def copy_of(server: Postgres, folder: Path) -> Postgres:
    """Return a started server with a copy of all databases of ``server``. ``folder``: does not exist yet."""
    folder.mkdir(mode=0o700)
    shutil.copy2(server.folder / "password", folder / "password")
    data = folder / "data"
    data.mkdir(mode=0o700)
    if as_other_user():
        shutil.chown(data, "nobody")
    address = urlsplit(server.url)
    command = [str(program("pg_basebackup")), "--pgdata", str(data), "--checkpoint", "fast", "--no-sync"]
    command += ["--host", str(address.hostname), "--port", str(address.port), "--username", str(address.username)]
    subprocess.run(
        [*as_other_user(), *command],
        env={**environment(), "PGPASSWORD": str(address.password)},
        check=True,
        capture_output=True,
    )
    copy = Postgres(folder, durable=True, settings=SETTINGS)
    copy.start()
    return copy
