"""The page and the remote inspector run without a database driver, as the shared page has none."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pg8000", "sqlalchemy", "alembic", "aws_lambda_powertools", "cronsim"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import joblane.page.app, joblane.inspector.remote
joblane.inspector.wire.operations()
"""


def test_the_page_imports_no_database_driver() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
