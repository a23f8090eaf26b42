"""The preflight's reading of templates and declarations."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.preflight.read import read_declared, read_templates
from joblane.cdk.shares import slots_with
from joblane.local.errors import LocalError
from joblane.tasks.discovery import discover
from tests.infra import templates
from tests.infra.conftest import TASKS, Synth


def test_queues_lanes_slots_and_settings_are_those_of_the_stage(dev: Synthesised) -> None:
    declared = read_declared(read_templates(dev.directory), discover(TASKS).values())
    template = dev.whole("acme-jobs")
    assert set(declared.queues.values()) == set(templates.queues(template))
    assert {stack.partition("/")[0] for stack, _ in declared.queues} == {"acme-jobs"}
    assert declared.lanes["report:build"] == ["default", "critical"]
    mappings = templates.mappings(template).values()
    assert declared.demand.slots == sum(mapping["ScalingConfig"]["MaximumConcurrency"] for _, mapping in mappings)
    assert (declared.stage, declared.prefix) == ("dev", "acme")
    assert (declared.demand.account, declared.database_connections, declared.reserved_connections) == (50, 100, 10)


def test_the_slots_for_another_budget_are_those_of_a_synthesis_with_it(dev: Synthesised, synth: Synth) -> None:
    tasks = discover(TASKS).values()
    before = read_declared(dev.templates, tasks).demand
    then = read_declared(synth("dev", concurrency_budget=60, account_concurrency=100).templates, tasks).demand
    assert slots_with(before.lanes, before.slots, before.budget, 60) == then.slots
    assert slots_with(then.lanes, then.slots, 60, before.budget) == before.slots
    assert then.slots > before.slots


def test_an_alias_has_its_own_lanes(dev: Synthesised) -> None:
    declared = read_declared(dev.templates, discover("tests.infra.renamed").values())
    assert declared.lanes["data:copy"] == declared.lanes["data:move"] == ["default", "low"]


def test_a_function_with_a_reservation_is_counted_by_its_reservation(dev: Synthesised) -> None:
    changed: Any = copy.deepcopy(dict(dev.templates))
    before = read_declared(changed, ())
    (function,) = (
        found[name] for found in map(templates.functions, changed.values()) if (name := "acme-report-build") in found
    )
    function["ReservedConcurrentExecutions"] = 9  # type: ignore[index]
    shares = [
        mapping["ScalingConfig"]["MaximumConcurrency"]
        for consumer, mapping in templates.mappings(dev.whole("acme-jobs")).values()
        if consumer == "acme-report-build"
    ]
    after = read_declared(changed, ())
    assert (after.demand.slots, after.demand.reserved) == (before.demand.slots - sum(shares), 9)


def test_templates_without_jobs_are_refused(dev: Synthesised) -> None:
    with pytest.raises(LocalError, match="none of the templates contains jobs of Joblane: acme-data"):
        read_declared({"acme-data": dev.templates["acme-data"]}, ())
