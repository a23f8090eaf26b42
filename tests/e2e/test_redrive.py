"""Dead letters of the deployed stack: seen by what went wrong, and sent back once that is mended."""

from __future__ import annotations

from uuid import uuid4

from shared.db import Database
from shared.jobs.discovery import discover
from shared.jobs.inspector import Filter, Inspector
from shared.jobs.inspector.reach import Reach
from shared.jobs.sqs import Sqs
from tests.e2e.conftest import Deployed

LANE = "jobs-default-data-export"


def test_three_that_failed_complete_when_they_are_redriven(deployed: Deployed) -> None:
    # given three exports of a tenant that is not there yet
    tenant = str(uuid4())
    ids = [deployed.send(LANE, deployed.export(tenant_id=tenant)) for _ in range(3)]
    for id_ in ids:
        deployed.await_state(id_, "archived")
    database = Database(deployed.stack.database_url)
    inspector = Inspector(Reach(database, Sqs(), "jobs", discover(), "op"))
    [group] = [group for group in inspector.dead().groups if group.example in ids]
    assert (group.type, group.error_type) == ("data:export", "SkipRetry")
    # when
    database.get().run(
        "insert into tenants (id, name, slug, created_by) values ($1::uuid, 'Late Ltd', 'late', 'owner')", tenant
    )
    begun = inspector.redrive(Filter(ids=tuple(ids)), canary=1, rate=500, reason="it is there now")
    # then
    deployed.await_state(begun.id, "completed")
    for id_ in ids:
        assert deployed.await_state(id_, "completed")["generation"] == 1
    view = inspector.bulk_view(begun.id)
    assert (view.total, view.done, view.failed, view.stopped) == (3, 3, 0, None)
    assert not any(group.example in ids for group in inspector.dead().groups)
    database.drop()
