"""Jobs on the deployed stack: queues, mappings and function processes of the emulator, and a real database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from unittest.mock import patch

import boto3
import pytest

from functions.data_export.handler import DataExport, data_export
from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from joblane import JobClient
from tests.e2e.conftest import Deployed
from tests.patience import await_true

LANE = "default-data-export"


@pytest.fixture
def jobs(deployed: Deployed) -> Iterator[JobClient]:
    client = JobClient()
    yield client
    client.close()


@pytest.mark.parametrize("queue", ["default", LANE])
def test_a_plain_send_runs_once_under_the_id_of_its_message(deployed: Deployed, queue: str) -> None:
    id_ = deployed.send(deployed.named(queue), deployed.export())
    row = deployed.await_state(id_, "completed")
    assert (row["type"], row["queue"], row["runs"], row["attempts"]) == ("data:export", "default", 1, 1)
    assert row["result"]["counts"]["members"] == 4


def test_a_front_door_passes_a_type_without_a_lane_in_its_queue_to_its_home_lane(deployed: Deployed) -> None:
    id_ = deployed.send(deployed.named("low"), deployed.export())
    assert deployed.await_state(id_, "completed")["queue"] == "default"


def test_an_unreadable_message_is_in_the_front_doors_dlq_with_the_reason(deployed: Deployed) -> None:
    deployed.send(deployed.named("critical"), "not json at all")
    dead_letter = deployed.await_dead_letter(deployed.named("critical-dlq"), "not json at all")
    assert "not JSON" in dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]


def test_an_archived_task_has_one_dead_letter_which_runs_it_again_when_resent(deployed: Deployed) -> None:
    # given a task that is archived
    id_ = deployed.send(deployed.named(LANE), deployed.export(tenant_id=str(deployed.people.nobody)))
    deployed.await_state(id_, "archived")
    dead_letter = deployed.await_dead_letter(deployed.named(f"{LANE}-dlq"), id_)
    attributes = {name: value["StringValue"] for name, value in dead_letter["MessageAttributes"].items()}
    assert attributes == {"joblane-dead": "0", "joblane-reason": "SkipRetry: the tenant does not exist"}

    # when an obsolete copy of its message comes back, nothing runs
    body = dead_letter["Body"]
    deployed.send(deployed.named(LANE), body)
    # and when the dead letter is sent to the lane with its attributes, the task runs with new attempts
    deployed.send(
        deployed.named(LANE),
        body,
        MessageAttributes={"joblane-dead": {"DataType": "Number", "StringValue": attributes["joblane-dead"]}},
    )
    await_true(lambda: (deployed.row(id_) or {})["generation"] == 1, lambda: f"{deployed.row(id_)}")
    row = deployed.await_state(id_, "archived")
    assert (row["runs"], row["attempts"], row["generation"]) == (2, 1, 1)
    deployed.await_dead_letter(deployed.named(f"{LANE}-dlq"), id_)


def test_a_delayed_task_runs_at_its_second(deployed: Deployed, jobs: JobClient) -> None:
    job = jobs.enqueue(system_user_expiry, SystemUserExpiry(), process_in=timedelta(seconds=4))
    deployed.await_state(job.id, "completed")
    late = deployed.database.get().run(
        "select extract(epoch from runs.started_at - due_at)::float8 from joblane.runs join joblane.tasks "
        "on id = task_id"
        " where id = $1",
        job.id,
    )[0][0]
    assert -2 <= late < 30  # never early; the delay depends on how busy the machine is


def test_a_tick_delivered_twice_runs_once(deployed: Deployed) -> None:
    tick = {"type": "system_user:expiry", "tick": {"schedule": "0", "at": "2026-01-01T05:00:00Z"}}
    for _ in range(2):
        deployed.send(deployed.named("low-system-user-expiry"), tick)
    row = deployed.await_state("system_user:expiry:0:2026-01-01T05:00Z", "completed")
    assert row["runs"] == 1


def test_a_row_whose_message_was_never_sent_runs_after_the_sweep(deployed: Deployed, jobs: JobClient) -> None:
    # given a lane without a copy of an earlier test, which would count as the task's message
    deployed.sqs.purge_queue(QueueUrl=deployed.url(deployed.named(LANE)))
    # and a process that died between its commit and the send
    payload = DataExport.model_validate(deployed.export()["payload"])
    id_ = "never-sent"
    with patch.object(jobs._producer, "_send_rows", return_value=set()):
        jobs.enqueue(data_export, payload, task_id=id_)
    deployed.database.get().run("update joblane.tasks set sweep_at = clock_timestamp() where id = $1", id_)
    # when the sweep runs
    deployed.send(deployed.named("low-jobs-sweep"), {"type": "jobs:sweep", "id": f"test-sweep-{time.time()}"})
    # then
    assert deployed.await_state(id_, "completed")["runs"] == 1


def delivered(deployed: Deployed, since: float) -> bool:
    """Return true if an invocation of the export has ended since then."""
    with closing(boto3.client("logs")) as logs:
        group, start = f"/aws/lambda/{deployed.named('data-export')}", int(since * 1000)
        return bool(logs.filter_log_events(logGroupName=group, startTime=start, filterPattern="REPORT")["events"])


def test_while_the_database_is_unavailable_jobs_wait_without_using_attempts(deployed: Deployed) -> None:
    # given a stopped PostgreSQL, and new messages
    deployed.database.drop()
    deployed.stack.postgres.stop()
    since = time.time()
    for number in range(5):
        deployed.send(deployed.named(LANE), deployed.export() | {"id": f"waiting-{number}"})
    await_true(lambda: delivered(deployed, since), lambda: "no delivery was attempted")
    # when PostgreSQL starts again
    deployed.stack.postgres.start()
    # then all complete, in their first attempt
    for number in range(5):
        row = deployed.await_state(f"waiting-{number}", "completed")
        assert (row["attempts"], row["runs"]) == (1, 1)
