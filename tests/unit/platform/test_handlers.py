"""The platform's jobs as they are declared."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from itertools import pairwise

import pytest

from functions.data_export.handler import data_export
from functions.system_user_expiry.handler import system_user_expiry
from functions.tenant_initialize.handler import tenant_initialize
from functions.user_invitation.handler import user_invitation
from shared.jobs import Queue
from shared.jobs.retry import delay_after

MODULES = [f"functions.{task.folder}.handler" for task in (data_export, system_user_expiry, tenant_initialize)]
HEAVY = ("sqlalchemy", "boto3", "smtplib", "http.client", "ssl")


@pytest.mark.parametrize("module", [*MODULES, "functions.user_invitation.handler"])
def test_importing_a_handler_imports_neither_database_nor_services(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    bare = code.replace(module, "shared.jobs")
    runs = [subprocess.run([sys.executable, "-c", text], capture_output=True, check=True) for text in (code, bare)]
    assert runs[0].stdout == runs[1].stdout


def test_the_jobs_have_the_queues_retries_and_times_of_the_platform() -> None:
    found = {
        task.type: (task.queue, task.max_retry, task.timeout)
        for task in (tenant_initialize, user_invitation, data_export)
    }
    assert found == {
        "tenant:initialize": (Queue.CRITICAL, 5, timedelta(minutes=5)),
        "user:invitation": (Queue.DEFAULT, 3, timedelta(seconds=30)),
        "data:export": (Queue.DEFAULT, 3, timedelta(minutes=10)),
    }
    assert data_export.retention == timedelta(days=7)
    assert (system_user_expiry.queue, system_user_expiry.timeout) == (Queue.LOW, timedelta(minutes=1))
    assert [schedule.text for schedule in system_user_expiry.schedules] == ["0 * * * *"]


def test_initializing_backs_off_exponentially() -> None:
    delays = [delay_after(tenant_initialize.retry_delay, attempt, ValueError()) for attempt in range(1, 6)]
    assert all(later == 4 * earlier for earlier, later in pairwise(delays))
