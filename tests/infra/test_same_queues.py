"""What holds messages and objects keeps its identity, so that no deploy replaces it by accident."""

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
    """(stack, type, logical id) → name, of all that would be lost by a replacement."""
    return {
        (stack, resource["Type"], logical_id): resource.get("Properties", {}).get(KEPT[resource["Type"]])
        for stack, template in done.templates.items()
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] in KEPT
    }


@pytest.fixture
def another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of the test tasks with one more, which comes first in every order."""
    package = "tasks_and_another"
    shutil.copytree(FOLDER, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / package / "alpha_first").mkdir()
    (tmp_path / package / "alpha_first" / "__init__.py").touch()
    (tmp_path / package / "alpha_first" / "handler.py").write_text(ANOTHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_a_task_that_comes_or_goes_changes_no_queue_and_no_bucket_but_its_own(
    dev: Synthesised, synth: Synth, another_task: str
) -> None:
    without, with_one_more = kept(dev), kept(synth("dev", package=another_task))
    assert {kind for _, kind, _ in without} == set(KEPT)
    assert without.items() <= with_one_more.items()
    assert {name for key, name in with_one_more.items() if key not in without} == {
        f"acme-{queue}-alpha-first{end}" for queue in ("critical", "low") for end in ("", "-dlq")
    }


def test_settings_of_the_stage_change_none_of_them(dev: Synthesised, synth: Synth) -> None:
    changed = synth("dev", package=TASKS, concurrency_budget=30, schedules={"jobs:sweep": "off"}, log_level="DEBUG")
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
    """A package with one task of this type and these aliases."""
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


def test_a_type_that_is_renamed_keeps_the_queues_of_its_old_name(
    synth: Synth, package_of: Callable[[str, list[str]], str]
) -> None:
    """CloudFormation would refuse a queue of a name that another one, which goes only afterwards, still has."""
    before = kept(synth("dev", package=package_of("data:copy", []), settings={}))
    after = kept(synth("dev", package=package_of("data:move", ["data:copy"]), settings={}))
    assert {"acme-default-data-copy", "acme-low-data-copy-dlq"} < set(before.values())
    assert before.items() <= after.items()
