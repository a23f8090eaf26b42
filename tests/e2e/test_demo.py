"""`make demo` on its own ports and in its own folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from joblane.local.ports import free_port
from joblane.local.tools import clean_environment
from tests.pages import ROOT


def test_every_job_of_the_demo_has_the_announced_outcome(tmp_path: Path) -> None:
    environment = clean_environment() | {
        "JOBLANE_LOCAL": str(tmp_path),
        "JOBLANE_AWS_PORT": str(free_port()),
        "JOBLANE_POSTGRES_PORT": str(free_port()),
        "JOBLANE_DEMO_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "saas.demo"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 9 jobs have the expected outcome: 8 completed, 1 archived." in done.stdout
    assert "members.jsonl" in done.stdout
    assert "SkipRetry: the tenant does not exist" in done.stdout
    assert re.search(r"retries\.\n\nThe export\n  s3:", done.stdout)
    assert ".venv/bin/joblane page --open" in done.stdout
    assert not (tmp_path / "env").exists()  # the demo stops the stack that it started
