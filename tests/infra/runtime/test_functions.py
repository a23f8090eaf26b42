"""Each kind of function, started from the zips by AWS's own runtime client, through the life of its environment."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.builders.events import event, record
from tests.builders.http_events import claims, http_event, principal
from tests.infra.runtime.conftest import PREFIX, Stage

EXPIRY = "system_user:expiry"
LANE = f"{PREFIX}-low-system-user-expiry"


def message(id_: str) -> dict:
    return event(record({"type": EXPIRY, "id": id_, "payload": {}}, LANE))


def test_the_migration_answers_cloudformation_and_makes_the_functions_user(stage: Stage) -> None:
    assert stage.migrated["Status"] == "SUCCESS"
    assert stage.run("select count(*) from pg_roles where rolname = 'jobs'") == [[1]]


def test_a_worker_completes_a_task_of_its_lane(stage: Stage) -> None:
    assert stage.of("system-user-expiry").invoke(message("one")) == {"batchItemFailures": []}
    assert stage.row("one")["state"] == "completed"
