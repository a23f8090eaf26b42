"""The nested stacks of the task types: what is in them, and what a renamed type changes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

import joblane.cdk.constructs.jobs
from joblane.cdk.app import Synthesised
from joblane.cdk.constructs.nested_stacks import Parts, part_of
from joblane.cdk.templates import NESTED
from tests.infra import templates
from tests.infra.conftest import Synth

TASK = """
from joblane import Payload, Queue, every, task

class Nothing(Payload):
    pass

@task("{type}", schedule=every(minutes=30), aliases={aliases})
def {folder}(payload: Nothing, ctx: object) -> None:
    pass
"""
TYPES = ["data:copy", "data:export", "order:ship", "report:build", "user:invite"]
Place = tuple[str, str]


@pytest.fixture(scope="module")
def package_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Make a package with tasks of the types, each with a schedule, with their aliases."""
    root, patch = tmp_path_factory.mktemp("packages"), pytest.MonkeyPatch()
    patch.syspath_prepend(str(root))

    def make(name: str, types: Mapping[str, list[str]]) -> str:
        for type_, aliases in types.items():
            folder = type_.replace(":", "_")
            (root / name / folder).mkdir(parents=True)
            text = TASK.format(type=type_, aliases=aliases, folder=folder)
            (root / name / folder / "handler.py").write_text(text)
        (root / name / "__init__.py").touch()
        return name

    yield make
    patch.undo()


@pytest.fixture(scope="module")
def before(synth: Synth, package_of: Callable[..., str]) -> Synthesised:
    return synth("dev", package=package_of("types_before", {type_: [] for type_ in TYPES}), settings={})


@pytest.fixture(scope="module")
def renamed(synth: Synth, package_of: Callable[..., str]) -> Synthesised:
    """The same types, of which ``data:copy`` is now ``data:move``."""
    types: dict[str, list[str]] = {type_: [] for type_ in TYPES[1:]} | {"data:move": ["data:copy"]}
    return synth("dev", package=package_of("types_after", types), settings={})


def nested_of(done: Synthesised, type_: str) -> str:
    """Return the nested stack of a type's part."""
    (found,) = (stack for stack in done.templates if f"Part{part_of(type_):02}" in stack)
    return found


def resources(done: Synthesised) -> dict[Place, Any]:
    """Return the resources by stack and logical id, without the name of the package of :func:`package_of`."""
    same: dict[str, Any] = json.loads(re.sub("types_(before|after)", "types", json.dumps(dict(done.templates))))
    return {
        (stack, logical_id): resource
        for stack, template in same.items()
        for logical_id, resource in template["Resources"].items()
    }


# --- The parts -----------------------------------------------------------------------------------------------------


def test_all_that_belongs_to_a_type_is_in_its_part(before: Synthesised) -> None:
    names = {
        "AWS::SQS::Queue": "QueueName",
        "AWS::Lambda::Function": "FunctionName",
        "AWS::Scheduler::Schedule": "Name",
    }
    for (stack, _), resource in resources(before).items():
        name = resource["Properties"].get(names.get(resource["Type"], ""), "")
        for type_ in TYPES:
            if type_.replace(":", "-") in name:
                assert stack == nested_of(before, type_)
    # and a type costs ten resources
    template = before.templates[nested_of(before, "user:invite")]
    own = [logical_id for logical_id in template["Resources"] if logical_id.startswith("userinvite")]
    assert len(own) == 10


def test_no_part_depends_on_another(renamed: Synthesised) -> None:
    parent = renamed.templates["acme-jobs"]["Resources"]
    parts = {logical_id for logical_id, resource in parent.items() if resource["Type"] == NESTED}
    assert len(parts) > 3
    for logical_id in parts:
        assert not parts & set(re.findall(r"\w+", json.dumps(parent[logical_id]))) - {logical_id}


def test_a_local_stage_has_the_same_resources_in_a_single_stack(
    local: Synthesised, synth: Synth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(local.templates) == ["jobs-data", "jobs-jobs"]
    # given the local stage in nested stacks
    monkeypatch.setattr(
        joblane.cdk.constructs.jobs, "Parts", lambda *args, **given: Parts(*args, **{**given, "flat": False})
    )
    nested = synth.anew("local")
    assert len(nested.templates) > 3
    # then queues, functions, roles and schedules are the same
    assert by_construct(nested.whole("jobs-jobs")) == by_construct(local.whole("jobs-jobs"))


def by_construct(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources by the paths of their constructs, without what they wait for."""
    found = {key: {**resource, "DependsOn": []} for key, resource in template["Resources"].items()}
    text: str = re.sub(r'"(?:JobsTypes)?(\w+?)[0-9A-F]{8}"', r'"\1"', json.dumps(found))
    return dict(json.loads(text))


# --- A renamed type ------------------------------------------------------------------------------------------------


def test_renaming_a_type_changes_only_its_own_resources_and_the_router(
    before: Synthesised, renamed: Synthesised
) -> None:
    old, new = resources(before), resources(renamed)
    place = partial(nested_of, before)
    # a part that changed has another template
    changed = {at for at in old.keys() & new.keys() if old[at] != new[at] and old[at]["Type"] != NESTED}
    assert [new[at]["Properties"]["FunctionName"] for at in changed] == [
        "acme-router"
    ]  # it has the routes of all types
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    assert {stack for stack, _ in gone} == {place("data:copy")}
    assert sorted(old[at]["Type"] for at in gone) == [
        "AWS::IAM::Role",
        "AWS::IAM::Role",
        "AWS::Lambda::EventSourceMapping",
        "AWS::Lambda::Function",
        "AWS::Logs::LogGroup",
        "AWS::Scheduler::Schedule",
    ]
    own = {at for at in come if at[0] == nested_of(renamed, "data:move")}
    assert len(own) == 10
    assert sorted(new[at]["Type"] for at in come - own) in (
        ["AWS::CloudFormation::Stack", "AWS::Lambda::EventSourceMapping"],  # the part may be new
        ["AWS::Lambda::EventSourceMapping"],
    )


def test_the_lane_of_an_alias_stays_in_its_stack_with_its_logical_id(before: Synthesised, renamed: Synthesised) -> None:
    assert part_of("data:copy") != part_of("data:move")  # or this test would show nothing
    lanes = {
        at for at, resource in resources(before).items() if "data-copy" in resource["Properties"].get("QueueName", "")
    }
    assert len(lanes) == 2
    assert {stack for stack, _ in lanes} == {nested_of(before, "data:copy")}
    for at in lanes:
        assert resources(renamed)[at] == resources(before)[at]


def test_the_mapping_of_an_alias_waits_for_the_parts_of_lane_and_function(renamed: Synthesised) -> None:
    parent = renamed.templates["acme-jobs"]
    mappings = templates.of_type(parent, "AWS::Lambda::EventSourceMapping")
    (logical_id,) = (each for each, mapping in mappings.items() if mapping["FunctionName"] == "acme-data-move")
    parts = {nested_of(renamed, type_).partition("/")[2] for type_ in ("data:copy", "data:move")}
    assert set(parent["Resources"][logical_id]["DependsOn"]) == parts
    function, _ = templates.mappings(renamed.whole("acme-jobs"))["acme-default-data-copy"]
    assert function == "acme-data-move"
