"""Start-up of a function in a fresh process with compiled bytecode, against one that imports everything eagerly.

Ours is ready for its first message: entry, task and what its path needs are imported. The other has imported boto3,
SQLAlchemy, pg8000, pydantic and Powertools, and made a client, as handlers commonly do.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.report import Ratio, in_turns

ROUNDS = 11
ROOT = Path(__file__).resolve().parents[2]
CLOCK = "import time; started = time.perf_counter()\n{}\nprint(time.perf_counter() - started)"
OURS = "from shared.jobs.entry import handler"
EAGER = """
import boto3, pg8000.dbapi, pydantic, sqlalchemy, sqlalchemy.orm
from aws_lambda_powertools import Logger, Metrics
Logger(service="bare"), Metrics(namespace="Bare", service="bare"), boto3.client("sqs")
class Payload(pydantic.BaseModel):
    tenant_id: str
engine = sqlalchemy.create_engine("postgresql+pg8000://nobody@127.0.0.1/none")
"""


def run() -> list[Ratio]:
    for folder in ("shared", "functions"):
        compileall.compile_dir(ROOT / folder, quiet=2)
    ours, eager = in_turns(ROUNDS, lambda: _start(OURS), lambda: _start(EAGER))
    return [
        Ratio(
            "start-up of a function",
            "fresh process, compiled bytecode, without the interpreter; against eager imports",
            f"{ours * 1000:.0f} ms",
            f"{eager * 1000:.0f} ms",
            ours / eager,
            0.5,
            at_most=True,
        )
    ]


def _start(code: str) -> float:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AWS_DEFAULT_REGION": "us-east-1",
        "JOBLANE_TASK": "tenant:initialize",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
    }
    command = [sys.executable, "-c", CLOCK.format(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
