"""The declarations of the platform's jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise

from functions.data_export.handler import data_export
from functions.report_generate.handler import report_generate
from functions.system_health_check.handler import system_health_check
from functions.system_user_expiry.handler import system_user_expiry
from functions.tenant_cleanup.handler import tenant_cleanup
from functions.tenant_initialize.handler import tenant_initialize
from functions.user_invitation.handler import user_invitation
from joblane import Queue
from joblane.tasks.retry import delay_after

TASKS = (
    data_export,
    report_generate,
    system_health_check,
    system_user_expiry,
    tenant_cleanup,
    tenant_initialize,
    user_invitation,
)
MODULES = [f"functions.{name}.handler" for name in ("api", *(task.folder for task in TASKS))]
HEAVY = ("sqlalchemy", "boto3", "smtplib", "http.client", "ssl")


def test_importing_the_handlers_loads_neither_database_nor_services() -> None:
    code = f"""
import importlib, json, sys
from joblane import TaskContext, task

def loaded():
    return [name for name in {HEAVY!r} if name in sys.modules]

print(json.dumps([loaded(), {{name: loaded() for name in {MODULES!r} if importlib.import_module(name)}}]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    bare, after = json.loads(run.stdout)
    assert [name for name in after if after[name] != bare] == []
    assert [*after] == MODULES


def test_the_jobs_have_the_queues_retries_and_times_of_the_platform() -> None:
    found = {
        task.type: (task.queue, task.max_retry, task.timeout)
        for task in (
            tenant_initialize,
            user_invitation,
            data_export,
            tenant_cleanup,
            report_generate,
            system_health_check,
        )
    }
    assert found == {
        "tenant:initialize": (Queue.CRITICAL, 5, timedelta(minutes=5)),
        "user:invitation": (Queue.DEFAULT, 3, timedelta(seconds=30)),
        "data:export": (Queue.DEFAULT, 3, timedelta(minutes=10)),
        "tenant:cleanup": (Queue.LOW, 3, timedelta(minutes=5)),
        "report:generate": (Queue.DEFAULT, 3, timedelta(minutes=10)),
        "system:health_check": (Queue.DEFAULT, 0, timedelta(seconds=30)),
    }
    assert data_export.retention == timedelta(days=7)
    assert (system_user_expiry.queue, system_user_expiry.timeout) == (Queue.LOW, timedelta(minutes=1))
    assert {task.type: [schedule.text for schedule in task.schedules] for task in TASKS if task.schedules} == {
        "system_user:expiry": ["0 * * * *"],
        "tenant:cleanup": ["0 2 * * *"],
        "report:generate": ["0 8 * * 0"],
        "system:health_check": ["*/15 * * * *"],
    }
    assert not any(task.front_door for task in (tenant_cleanup, report_generate, system_health_check))


def test_initialization_has_an_exponential_back_off() -> None:
    delays = [delay_after(tenant_initialize.retry_delay, attempt, ValueError()) for attempt in range(1, 6)]
    assert all(later == 4 * earlier for earlier, later in pairwise(delays))
