"""Start-up of a function in a new process from the packaged zips, against a function with eager imports.

Joblane's function is ready for its first message: it has imported the entry, the task and their dependencies. The other
function has imported boto3, SQLAlchemy, pg8000, pydantic and Powertools, and created a client, as handlers commonly do.
Both have the unpacked layer with its bytecode, and the boto3 of Lambda's runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.report import Ratio, in_turns
from tests.unpacked import Unpacked, unpack

ROUNDS = 11
CLOCK = "import time; started = time.perf_counter()\n{}\nprint(time.perf_counter() - started)"
OURS = "from joblane.worker.lambda_entry import handler"
EAGER = """
import boto3, pg8000.dbapi, pydantic, sqlalchemy, sqlalchemy.orm
from aws_lambda_powertools import Logger, Metrics
Logger(service="bare"), Metrics(namespace="Bare", service="bare"), boto3.client("sqs")
class Payload(pydantic.BaseModel):
    tenant_id: str
engine = sqlalchemy.create_engine("postgresql+pg8000://nobody@127.0.0.1/none")
"""


def run(folder: Path) -> list[Ratio]:
    unpacked = unpack(folder)
    ours, eager = in_turns(ROUNDS, lambda: start(unpacked, OURS), lambda: start(unpacked, EAGER))
    return [
        Ratio(
            "start-up of a function",
            "new process, from the zips, without the interpreter; against eager imports",
            f"{ours * 1000:.0f} ms",
            f"{eager * 1000:.0f} ms",
            ours / eager,
            0.5,
            at_most=True,
        )
    ]


def start(unpacked: Unpacked, code: str, under: Sequence[str] = ()) -> float:
    """Return the start-up time in seconds. ``under``: the prefix of the command."""
    out = unpacked.run(
        CLOCK.format(code),
        under=under,
        PYTHONHASHSEED="0",
        AWS_DEFAULT_REGION="us-east-1",
        JOBLANE_TASK="tenant:initialize",
        DATABASE_URL="postgresql://nobody@127.0.0.1/none",
    )
    return float(out)
