"""Queues and buckets keep their logical ids and names, so that no deploy replaces them by accident."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from tests.infra.conftest import TASKS, Synth

FOLDER = Path(__file__).parent / "tasks"
KEPT = {"AWS::SQS::Queue": "QueueName", "AWS::S3::Bucket": "BucketName"}
ANOTHER = """
from joblane import Payload, Queue, task

class AlphaFirst(Payload):
    pass

@task("alpha:first", queue=Queue.CRITICAL, also=[Queue.LOW])
def alpha_first(payload: AlphaFirst, ctx: object) -> None:
    pass
"""


def kept(done: Synthesised) -> dict[tuple[str, str, str], Any]:
    """Return (stack, type, logical id) → name, of the resources whose content a replacement would lose."""
    return {
        (stack, resource["Type"], logical_id): resource.get("Properties", {}).get(KEPT[resource["Type"]])
        for stack, template in done.templates.items()
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] in KEPT
    }


@pytest.fixture
def another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of the test tasks with one more task, whose name sorts first."""
    package = "tasks_and_another"
    shutil.copytree(FOLDER, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / package / "alpha_first").mkdir()
    (tmp_path / package / "alpha_first" / "__init__.py").touch()
    (tmp_path / package / "alpha_first" / "handler.py").write_text(ANOTHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_adding_a_task_changes_no_queue_and_no_bucket_of_other_tasks(
    dev: Synthesised, synth: Synth, another_task: str
) -> None:
    before, after = kept(dev), kept(synth("dev", package=another_task))
    assert {kind for _, kind, _ in before} == set(KEPT)
    assert before.items() <= after.items()
    assert {name for key, name in after.items() if key not in before} == {
        f"acme-{queue}-alpha-first{end}" for queue in ("critical", "low") for end in ("", "-dlq")
    }


def test_settings_of_the_stage_change_no_queue_and_no_bucket(dev: Synthesised, synth: Synth) -> None:
    changed = synth("dev", package=TASKS, concurrency_budget=30, sweep="1 hour", log_level="DEBUG")
    assert kept(changed) == kept(dev)


RENAMED = """
from joblane import Payload, Queue, task

class Move(Payload):
    pass

@task("{type}", also=[Queue.LOW], aliases={aliases})
def {folder}(payload: Move, ctx: object) -> None:
    pass
"""


@pytest.fixture
def package_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], str]:
    """Make a package with one task of a type with aliases."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(type_: str, aliases: list[str]) -> str:
        folder = type_.replace(":", "_")
        package = tmp_path / f"only_{folder}"
        (package / folder).mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / folder / "__init__.py").touch()
        (package / folder / "handler.py").write_text(RENAMED.format(type=type_, aliases=aliases, folder=folder))
        return package.name

    return make


def test_a_renamed_type_keeps_the_queues_of_its_old_name(
    synth: Synth, package_of: Callable[[str, list[str]], str]
) -> None:
    """CloudFormation removes the old queue last, so it would refuse a second queue of the same name."""
    before = kept(synth("dev", package=package_of("data:copy", []), settings={}))
    after = kept(synth("dev", package=package_of("data:move", ["data:copy"]), settings={}))
    assert {"acme-default-data-copy", "acme-low-data-copy-dlq"} < set(before.values())
    assert before.items() <= after.items()
