"""The preflight against a running stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.read import check_deploy
from tests.e2e.conftest import Deployed


def refused(deployed: Deployed) -> list[Finding]:
    found = check_deploy("local", deployed.stack.folder / "cdk.out")
    assert not [finding for finding in found if finding.kind is FindingKind.UNCHECKED]
    return [finding for finding in found if finding.kind is FindingKind.REFUSED]


@pytest.fixture
def old_lane(deployed: Deployed) -> Iterator[str]:
    """The queue of a type that the checkout does not declare, with a message and a waiting task."""
    name = "other-low-long-gone"
    url = deployed.sqs.create_queue(QueueName=name)["QueueUrl"]
    deployed.send(name, "{}", DelaySeconds=900)
    deployed.database.get().run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds)"
        " values ('left', 'long:gone', 'low', 'scheduled', '', 1, 60)"
    )
    yield name
    deployed.sqs.delete_queue(QueueUrl=url)
    deployed.database.get().run("delete from joblane.tasks where id = 'left'")


def test_a_deploy_without_changes_has_no_findings(deployed: Deployed) -> None:
    assert refused(deployed) == []


def test_a_deploy_that_would_leave_tasks_and_messages_behind_is_refused(deployed: Deployed, old_lane: str) -> None:
    (found,) = refused(deployed)
    assert found.what == "task type long:gone"
    assert found.why == f"no task declares it, and it still has 1 live task in queue low, 1 message in {old_lane}"
