"""`batch`."""

from __future__ import annotations

import json

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.views import Relative, Relatives
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

MEMBERS = Filter(tag="batch:import-7", states=(State.ARCHIVED,))


def archived(stub: FakeInspector, number: int) -> None:
    stub.rows = [views.task_row(id=f"dead-{one}") for one in range(number)]


def test_batches_are_listed(jobs: Run, stub: FakeInspector) -> None:
    open_batch = views.batch_row(id="open", sealed_at=None, on_end=None, on_success=Relative("x", None, None))
    stub.batched = [views.batch(), views.batch(row=open_batch)]
    ran = jobs("batch", "ls", columns=120)
    title, first, second = ran.out.splitlines()
    assert title.split() == ["ID", "CREATED", "SEALED", "ON", "END", "ON", "SUCCESS"]
    assert first.split()[-2:] == ["completed", "held"]
    assert (second.split()[0], second.split()[-3:]) == ("open", ["no", "–", "removed"])
    stub.batched = []
    assert jobs("batch", "ls").err == "There are no batches.\n"


def test_a_batch_is_shown(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("--stage", "dev", "batch", "show", "import-7", columns=120)
    assert "10,000 of 10,000 members ended. Sealed at " in ran.out
    assert ["archived", "2"] in [line.split() for line in ran.out.splitlines()]
    assert "on_success  import-7:on_success  data:export  held" in ran.out
    assert "jobs --stage dev batch retry import-7" in ran.out
    assert "jobs --stage dev ls --tag batch:import-7" in ran.out
    assert "batch seal" not in ran.out


def test_an_open_and_large_batch_is_shown(jobs: Run, stub: FakeInspector) -> None:
    row = views.batch_row(sealed_at=None, on_end=None, on_success=None)
    stub.batched = [views.batch(row=row, members={State.PENDING: 50_001}, exact=False, dead=())]
    ran = jobs("batch", "show", "import-7", columns=120)
    assert "0 of at least 50,001 members ended. It is not sealed" in ran.out
    assert "jobs batch seal import-7" in ran.out
    assert "CALLBACK" not in ran.out
    assert "batch retry" not in ran.out


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
    assert answer == {"number": 2, "exact": True}
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


def test_a_task_is_shown_with_its_parents_and_children(jobs: Run, stub: FakeInspector) -> None:
    stub.changes["one"] = {
        "parents": Relatives(
            (Relative("a", "b:c", State.ARCHIVED), Relative("gone", None, None)), False, {State.ARCHIVED: 1}, 1
        ),
        "on_parent_dead": "cancel",
        "children": Relatives((Relative("child", "b:c", State.HELD),), True, {State.HELD: 1_000}, exact=False),
        "enqueued_by": "creator",
        "batch": "import-7",
    }
    lines = [line.rstrip() for line in jobs("show", "one", columns=120).out.splitlines()]
    at = lines.index("Parents (2): 1 archived, 1 removed if one is archived: cancel")
    assert [line.split() for line in lines[at + 2 : at + 4]] == [["a", "b:c", "archived"], ["gone", "–", "removed"]]
    at = lines.index("Children (at least 1,000): 1,000 held")
    assert [line.split() for line in lines[at + 2 : at + 4]] == [["child", "b:c", "held"], ["and", "more"]]
    assert any("ls --parent one" in line for line in lines)
    assert "batch" in [line.split()[0] for line in lines if line.endswith("import-7")]
    assert any(line.split() == ["enqueued", "by", "creator"] for line in lines)
