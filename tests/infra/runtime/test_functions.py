"""Functions of each kind, started from the zips by AWS's own runtime client, through the life of their environments."""

from __future__ import annotations

import json
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.constructs.image import ENTRY_POINT
from joblane.cdk.constructs.task_function import ENTRY
from joblane.cdk.packaging import WHEEL_PLATFORMS
from joblane.errors import MISSING_MODULE
from joblane.installation import version
from joblane.record.driver.database import Database
from tests.builders.events import event, record
from tests.builders.http_events import claims, http_event, principal
from tests.infra.runtime.conftest import PREFIX, Stage, cloudformation, cloudformation_event
from tests.infra.runtime.folders import python, unpacked
from tests.infra.runtime.sandbox import FunctionError, RuntimeExitError, Sandbox, TimedOutError
from tests.patience import PATIENCE_SECONDS
from tests.unpacked import code, layer

EXPIRY, LANE = "system_user:expiry", f"{PREFIX}-low-system-user-expiry"
WORKER = "system-user-expiry"
DONE: dict[str, Any] = {"batchItemFailures": []}
MAX_UNZIPPED_BYTES = 250 * 1024 * 1024
"""Code and layers together. Source: Lambda, *Quotas*."""


def message(id_: str, **how: Any) -> dict[str, Any]:
    return event(record({"type": EXPIRY, "id": id_, "payload": {}}, LANE, **how))


def await_true(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@contextmanager
def blocked(stage: Stage) -> Iterator[None]:
    """Let every run of the task wait for a lock."""
    with Database(stage.url) as other:
        other.get().run("begin")
        other.get().run("lock table saas.system_users in access exclusive mode")
        yield
        other.get().run("rollback")


def sessions(stage: Stage) -> list[int]:
    """Process ids of the functions' database sessions."""
    return [pid for (pid,) in stage.run("select pid from pg_stat_activity where usename = 'jobs'")]


# --- Start ---------------------------------------------------------------------------------------------------------


def test_every_function_of_the_template_starts_and_asks_for_an_invocation(stage: Stage) -> None:
    names = [name.removeprefix(f"{PREFIX}-") for name in stage.resolved.functions]
    stage.start(*(name for name in names if name not in stage.sandboxes))
    assert {name: stage.of(name).init_error for name in names} == dict.fromkeys(names)


@pytest.mark.parametrize(
    ("left_out", "missing", "advice"),
    [("joblane/record/task/claim.py", "joblane.record.task.claim", ""), ("saas/", "saas", f"; {MISSING_MODULE}")],
)
def test_a_module_missing_in_the_zip_is_an_error_of_the_start(
    stage: Stage, tmp_path: Path, left_out: str, missing: str, advice: str
) -> None:
    # given the code zip without a module that the worker or the handler imports
    broken = tmp_path / "code.zip"
    with zipfile.ZipFile(code().path) as whole, zipfile.ZipFile(broken, "w") as part:
        for entry in whole.infolist():
            if not entry.filename.startswith(left_out):
                part.writestr(entry, whole.read(entry))
    # when its function starts
    with unpacked(broken, stage.folders) as folders, Sandbox(stage.function(WORKER), folders) as sandbox:
        error = sandbox.init_error
    # then Lambda gets the reason
    assert error is not None
    assert (error["errorType"], error["errorMessage"]) == (
        "Runtime.ImportModuleError",
        f"Unable to import module 'joblane.worker.lambda_entry': No module named '{missing}'{advice}",
    )


def test_a_missing_setting_is_an_error_of_the_start(stage: Stage) -> None:
    with stage.another(WORKER, JOBLANE_TASK="") as sandbox:
        error = sandbox.init_error
    assert error is not None
    assert (error["errorType"], "JOBLANE_TASK" in error["errorMessage"]) == ("MissingSettingError", True)


def test_an_unavailable_database_does_not_fail_the_start(stage: Stage) -> None:
    with stage.another(WORKER, DATABASE_URL="postgresql://jobs@127.0.0.1:1/jobs") as sandbox:
        (failure,) = sandbox.invoke(message("unreached", message_id="unreached"))["batchItemFailures"]
    assert failure == {"itemIdentifier": "unreached"}


def test_code_and_layer_for_aws_fit_into_lambda_and_all_can_read_them(stage: Stage) -> None:
    entries = [
        entry
        for package in (code(), layer(WHEEL_PLATFORMS["arm64"]))
        for entry in zipfile.ZipFile(package.path).infolist()
    ]
    assert {oct(entry.external_attr >> 16 & 0o777) for entry in entries} == {"0o644"}
    assert sum(entry.file_size for entry in entries) < MAX_UNZIPPED_BYTES / 2


# --- Invocations ---------------------------------------------------------------------------------------------------


def test_the_migration_makes_schema_and_user_and_answers_cloudformation(stage: Stage) -> None:
    assert stage.migrated["Status"] == "SUCCESS"
    assert stage.run("select prefix, project from joblane.stage") == [[PREFIX, "joblane"]]
    assert stage.run("select count(*) from pg_roles where rolname = 'jobs'") == [[1]]


def test_a_failed_migration_answers_with_its_reason_and_a_delete_with_success(stage: Stage) -> None:
    with (
        stage.another("migrate", DATABASE_URL="not a url") as sandbox,
        cloudformation() as (url, answers),
    ):
        for kind in ("Update", "Delete"):
            sandbox.invoke(cloudformation_event(kind, url))
    assert [answer["Status"] for answer in answers] == ["FAILED", "SUCCESS"]
    assert "DATABASE_URL" in answers[0]["Reason"]


def test_a_worker_runs_its_task_as_the_granted_user(stage: Stage) -> None:
    assert stage.of(WORKER).invoke(message("one")) == DONE
    assert stage.row("one")["state"] == "completed"
    ((request,),) = stage.run("select request_id from joblane.runs where task_id = 'one'")
    assert len(request) == 36  # Lambda's request id


def test_a_worker_in_an_image_runs_its_task_and_logs_another_version_of_the_deploy(stage: Stage) -> None:
    # given an image with this project as its working directory, started as the template of an image says
    configured = stage.function(WORKER, JOBLANE_VERSION="0.0.9")
    with Sandbox(configured, stage.folders, image=[*ENTRY_POINT, ENTRY]) as sandbox:
        assert sandbox.invoke(message("in-an-image")) == DONE
        [line] = [json.loads(line) for line in sandbox.output.splitlines() if "another version" in line]
    assert (line["level"], line["joblane"], line["deployed"]) == ("WARNING", version(), "0.0.9")
    assert stage.row("in-an-image")["state"] == "completed"


def test_an_image_without_the_runtime_client_ends_with_its_name(stage: Stage) -> None:
    without = [python(), "-S", *ENTRY_POINT[1:], ENTRY]
    with Sandbox(stage.function(WORKER), stage.folders, image=without) as sandbox:
        assert sandbox.process.wait(PATIENCE_SECONDS) == 1
        assert "No module named awslambdaric" in sandbox.output


def test_a_worker_sends_a_message_without_id_again_with_one(stage: Stage) -> None:
    given = event(record({"type": EXPIRY, "payload": {}}, LANE, message_id="11111111-0000-4000-8000-000000000001"))
    assert stage.of(WORKER).invoke(given) == DONE
    (sent,) = stage.received(LANE)
    assert json.loads(sent["Body"])["id"] == "11111111-0000-4000-8000-000000000001"


def test_the_router_forwards_from_a_front_door_to_the_lane(stage: Stage) -> None:
    body = {"type": EXPIRY, "id": "routed", "payload": {}}
    assert stage.of("router").invoke(event(record(body, f"{PREFIX}-low"))) == DONE
    assert [json.loads(sent["Body"])["id"] for sent in stage.received(LANE)] == ["routed"]


def test_the_control_api_and_the_http_api_answer(stage: Stage) -> None:
    signer = principal("arn:aws:sts::123456789012:assumed-role/Operator/ann")
    request = http_event("POST", "/view/overview", {}, signer=signer)
    request["routeKey"], request["pathParameters"] = "POST /view/{operation}", {"operation": "overview"}
    shown = stage.of("control").invoke(request)
    assert shown["statusCode"] == 200, shown
    document = stage.of("api").invoke(http_event("GET", "/openapi.json", who=claims()))
    assert "/exports" in json.loads(document["body"])["paths"]


def test_an_event_that_is_not_from_sqs_fails_and_the_next_one_runs(stage: Stage) -> None:
    with pytest.raises(FunctionError) as raised:
        stage.of(WORKER).invoke({"not": "from SQS"})
    assert raised.value.report["errorType"] == "KeyError"
    assert stage.of(WORKER).invoke(message("after-error")) == DONE


# --- The end of an invocation --------------------------------------------------------------------------------------


def test_a_run_ends_before_lambda_would_kill_it(stage: Stage) -> None:
    # given a run that waits for a lock, and four seconds until Lambda kills the function
    with blocked(stage):
        answer = stage.of(WORKER).invoke(message("slow"), seconds=4)
    # then the alarm has ended it, with an attempt, and the message stays in the queue
    assert len(answer["batchItemFailures"]) == 1
    row = stage.row("slow")
    assert (row["state"], row["runs"]) == ("retry", 1)


def test_a_killed_run_keeps_its_lease_and_the_sweep_sends_it_to_the_next_environment(stage: Stage) -> None:
    # given a run whose environment is killed, as by Lambda at the timeout, without any signal before
    with stage.another(WORKER) as killed, blocked(stage):
        invocation = killed.begin(message("killed"), seconds=30)
        await_true(lambda: stage.run("select 1 from joblane.tasks where id = 'killed' and state = 'active'") == [[1]])
        killed.kill()
        with pytest.raises(RuntimeExitError):
            killed.end(invocation)
    # then its lease holds: the message stays in the queue, and nothing runs
    assert len(stage.of(WORKER).invoke(message("killed"))["batchItemFailures"]) == 1
    assert (stage.row("killed")["state"], stage.row("killed")["runs"]) == ("active", 1)
    # when the lease has ended, the sweep runs, and another environment gets its message
    stage.run(
        "update joblane.tasks set lease_until = clock_timestamp(), sweep_at = clock_timestamp() where id = 'killed'"
    )
    sweep = record({"type": "jobs:sweep", "id": "sweep-after-kill", "payload": {}}, f"{PREFIX}-low-jobs-sweep")
    assert stage.of("jobs-sweep").invoke(event(sweep)) == DONE
    (sent,) = stage.received(LANE)
    assert stage.of(WORKER).invoke(event(record(sent["Body"], LANE))) == DONE
    # then it has run twice, and the first run is recorded as lost
    assert (stage.row("killed")["state"], stage.row("killed")["runs"]) == ("completed", 2)
    outcomes = stage.run("select outcome from joblane.runs where task_id = 'killed' order by run")
    assert outcomes == [["lost"], ["completed"]]


def test_an_environment_that_does_not_answer_is_killed_at_its_deadline(stage: Stage) -> None:
    with stage.another(WORKER) as stuck:
        assert stuck.init_error is None
        stuck.freeze()  # as in code that no signal interrupts
        with pytest.raises(TimedOutError):
            stuck.invoke(message("stuck"), seconds=0.2)
    assert stuck.process.returncode == -signal.SIGKILL


# --- Freeze, thaw and shutdown -------------------------------------------------------------------------------------


def test_a_thawed_environment_works_after_all_its_connections_were_closed(stage: Stage) -> None:
    def routed(id_: str) -> dict[str, Any]:
        return event(record({"type": EXPIRY, "id": id_, "payload": {}}, f"{PREFIX}-low"))

    # given a worker and a router with open connections, frozen as between two invocations
    known, router = sessions(stage), stage.of("router")
    with stage.another(WORKER) as worker:
        assert worker.invoke(message("before-freeze")) == router.invoke(routed("before-freeze")) == DONE
        worker.freeze()
        router.freeze()
        # when the other side closes their connections, and they are thawed
        for session in {*sessions(stage)} - {*known}:
            stage.run("select pg_terminate_backend($1::int)", str(session))
        stage.aws.close_connections()
        worker.thaw()
        router.thaw()
        # then the next invocations work
        assert worker.invoke(message("after-freeze")) == router.invoke(routed("after-freeze")) == DONE
    assert stage.row("after-freeze")["state"] == "completed"
    assert {json.loads(sent["Body"])["id"] for sent in stage.received(LANE)} == {"before-freeze", "after-freeze"}


def test_a_shutdown_signal_ends_an_environment_at_once_and_its_session(stage: Stage) -> None:
    # given an idle environment with a database session
    known = sessions(stage)
    with stage.another(WORKER) as idle:
        assert idle.invoke(message("last")) == DONE
        assert len(set(sessions(stage)) - set(known)) == 1
        # when it gets SIGTERM, which Lambda sends to functions with extensions, then it ends without a handler's delay
        idle.process.terminate()
        assert idle.process.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    await_true(lambda: set(sessions(stage)) <= set(known))
