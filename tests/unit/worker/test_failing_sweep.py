"""A sweep that cannot claim its own task."""

from __future__ import annotations

import pytest

from joblane.enqueue.wake import AFTER_COMMIT
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.local.memory_queues import MemoryQueues
from joblane.record.driver.database import Database
from joblane.sqs.message import Message
from joblane.worker.sweep_worker import SweepWorker
from tests.builders.events import invoke, record


def test_a_sweep_without_its_database_writes_the_metric_of_its_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    message = record(Message("jobs:sweep", f"{AFTER_COMMIT}1").encode(), "jobs-low-jobs-sweep")

    kept = invoke(SweepWorker(jobs_sweep, database, MemoryQueues(), "jobs").handle, message)

    assert kept == [message["messageId"]]
    assert '"SweepFailures":1' in capsys.readouterr().out.replace(" ", "")
