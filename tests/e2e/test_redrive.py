"""Dead letters of the deployed stack: grouped by cause, and redriven after the cause is fixed."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import Cause
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs
from joblane.tasks.discovery import discover
from tests.e2e.conftest import Deployed
from tests.patience import await_true


@pytest.fixture
def inspector(deployed: Deployed) -> Iterator[Inspector]:
    database = Database(deployed.stack.database_url)
    yield Inspector(Scope(database, Sqs(), deployed.stack.prefix, discover(), "op"))
    database.drop()


def test_three_failed_tasks_complete_after_a_redrive(deployed: Deployed, inspector: Inspector) -> None:
    # given three exports of a tenant that does not exist yet
    tenant = str(uuid4())
    ids = [deployed.send(deployed.named("default-data-export"), deployed.export(tenant_id=tenant)) for _ in range(3)]
    for id_ in ids:
        deployed.await_state(id_, "archived")
    # other tests may leave tasks with the same error
    [fingerprint] = {inspector.task(id_).row.fingerprint for id_ in ids}
    [group] = [group for group in inspector.dead().groups if group.fingerprint == fingerprint]
    assert (group.type, group.error_type) == ("data:export", "SkipRetry")
    assert group.archived >= len(ids)
    # when
    deployed.database.get().run(
        "insert into saas.tenants (id, name, slug, created_by) values ($1::uuid, 'Late Ltd', 'late', 'owner')", tenant
    )
    begun = inspector.redrive(Filter(ids=tuple(ids)), canary=1, rate=500, reason="it is there now")
    # then
    deployed.await_state(begun.id, "completed")
    for id_ in ids:
        assert deployed.await_state(id_, "completed")["generation"] == 1
    view = inspector.bulk_view(begun.id)
    assert (view.total, view.done, view.failed, view.stopped) == (3, 3, 0, None)
    left = sum(now.archived for now in inspector.dead().groups if now.fingerprint == fingerprint)
    assert left == group.archived - len(ids)


def test_a_message_that_a_front_door_refused_is_redriven_to_it(deployed: Deployed, inspector: Inspector) -> None:
    def refused() -> list[Cause]:
        return [group for group in inspector.dead().groups if group.queue == deployed.named("critical-dlq")]

    # given
    deployed.send(deployed.named("critical"), "no json either")
    await_true(lambda: bool(refused()), lambda: f"{inspector.dead()}")
    # when the message is redriven
    [group] = refused()
    begun = inspector.redrive(Filter(fingerprint=group.fingerprint), rate=500)
    # then the front door has refused it again
    deployed.await_state(begun.id, "completed")
    view = inspector.bulk_view(begun.id)
    assert (view.done, view.failed) == (1, 0)
    await_true(lambda: any(found.last_at > group.last_at for found in refused()), lambda: f"{inspector.dead()}")
