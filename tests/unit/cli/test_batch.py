"""`batch`."""

from __future__ import annotations

import json

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

MEMBERS = Filter(tag="batch:import-7", states=(State.ARCHIVED,))


def archived(stub: FakeInspector, number: int) -> None:
    stub.rows = [views.task_row(id=f"dead-{one}") for one in range(number)]


def test_an_unknown_batch_has_its_exit_status(jobs: Run) -> None:
    ran = jobs("batch", "show", "unknown")
    assert (ran.code, ran.err) == (
        3,
        "joblane: there is no batch 'unknown' in this stage; `joblane batch ls` lists the latest\n",
    )


@pytest.mark.parametrize("person", ["y", "n"])
def test_the_archived_members_are_redriven_after_a_question(jobs: Run, stub: FakeInspector, person: str) -> None:
    archived(stub, 2)
    stub.answers["bulk_view"] = views.bulk(action="redrive", total=2, done=2, skipped=0)
    ran = jobs("batch", "retry", "import-7", "--canary", "1", "--reason", "fixed", person=person)
    assert stub.performed == ([("redrive", MEMBERS, 1, 50, "fixed")] if person == "y" else [])
    assert ran.code == (0 if person == "y" else 1)


def test_a_retry_is_counted_without_an_effect(jobs: Run, stub: FakeInspector) -> None:
    archived(stub, 2)
    assert jobs("batch", "retry", "import-7", "--dry-run").out == "2 tasks would be redriven.\n"
    answer = json.loads(jobs("batch", "retry", "import-7", "--dry-run", "--json").out)
    assert (answer["number"], answer["exact"]) == (2, True)
    assert stub.performed == []


def test_a_batch_without_archived_members_is_not_retried(jobs: Run, stub: FakeInspector) -> None:
    stub.rows = []
    ran = jobs("batch", "retry", "import-7", "--yes")
    assert (ran.code, stub.performed) == (3, [])
    assert "no member of the batch 'import-7' is archived" in ran.err


def test_a_batch_is_sealed(jobs: Run, stub: FakeInspector) -> None:
    assert jobs("batch", "seal", "import-7", "--reason", "the importer died").code == 0
    assert stub.performed == [("seal_batch", "import-7", "the importer died")]
    stub.answers["seal_batch"] = SelectionError("id", "the batch 'import-7' is sealed already")
    ran = jobs("batch", "seal", "import-7")
    assert (ran.code, ran.err) == (2, "joblane: ID: the batch 'import-7' is sealed already\n")
