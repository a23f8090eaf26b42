"""Alarms, dashboard and saved queries of 200 task types stay within the limits of CloudWatch and CloudFormation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_cdk import App

from joblane.cdk.constructs.nested_stacks import part_of
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.database import Aurora
from joblane.cdk.shares import shares
from joblane.cdk.stacks.monitoring import MonitoringStack
from joblane.cdk.templates import Template, read_assembly, whole
from joblane.cdk.watching.queries import MAX_LOG_GROUPS, QUERIES
from joblane.names import Queue, function_name, slug_of
from joblane.tasks.discovery import discover
from tests.infra import templates
from tests.infra.test_monitoring_stack import (
    alarms_of,
    all_problems,
    dashboard_of,
    metrics_of,
    metrics_shown,
    note_of,
    text_of,
)

MAX_RESOURCES, MAX_TEMPLATE_BYTES, MAX_DYNAMIC_REFERENCES = 500, 1_000_000, 60
"""Source: CloudFormation quotas, *Resources*, *Template body size in an Amazon S3 object*; *Dynamic references*."""
MAX_WIDGETS, MAX_METRICS, MAX_METRICS_OF_WIDGET, MAX_ALARMS_OF_WIDGET = 500, 2500, 500, 100
"""Source: CloudWatch quotas, *Dashboards*; *Dashboard body structure and syntax*, ``alarms``."""
MORE_ALARMS = 11
"""Alarms that a stage can add: four of a webhook, four of a database that pauses, three of a NAT instance."""
PREFIX = "types-of-a-big-team"
STACK = f"{PREFIX}-monitoring"
TYPES = [f"team_{number % 12}:a_job_with_a_long_name_number_{number:03}" for number in range(197)]
"""With the types of the library 200, with long names."""
RENAMED = "team_3:renamed"
PAGE_URL = "https://abcdefghij.execute-api.ap-southeast-2.amazonaws.com/page"

Monitored = Callable[..., dict[str, Template]]


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Monitored:
    """Return a function that synthesises the stack for types, and returns its templates with those nested in it."""

    @cache
    def make(detail: Any = "lanes", types: tuple[str, ...] = tuple(TYPES)) -> dict[str, Template]:
        own = {type_: task for type_, task in discover().items() if type_.startswith("jobs:")}
        sample = discover()["data:export"]
        tasks = own | {type_: replace(sample, type=type_, schedules=()) for type_ in types}
        functions = [f"{PREFIX}-migrate", f"{PREFIX}-router", *(function_name(PREFIX, type_) for type_ in tasks)]
        jobs: Any = SimpleNamespace(
            stage=SimpleNamespace(
                prefix=PREFIX,
                name="many",
                events=None,
                database=Aurora(kind="aurora"),
                connections=99,
                database_id="jobs-database",
                kms_key=None,
            ),
            tasks=tasks,
            function_names=sorted(functions),
            shares=shares(PREFIX, 500, tasks.values()),
        )
        folder = tmp_path_factory.mktemp("many")
        app = App(outdir=str(folder))
        monitoring = Monitoring(detail=detail, email="off", runbook_url="https://wiki.acme.io/".ljust(200, "x"))
        MonitoringStack(app, STACK, jobs=jobs, monitoring=monitoring, page_url=PAGE_URL)
        app.synth()
        return read_assembly(Path(folder))

    return make


def bytes_of(template: Template) -> int:
    return len(json.dumps(template, indent=1).encode())


def test_every_stack_has_less_than_500_resources_and_a_template_that_is_accepted(monitored: Monitored) -> None:
    found = monitored()
    assert len(found) == 17
    assert max(len(template["Resources"]) for template in found.values()) < MAX_RESOURCES / 2
    assert max(map(bytes_of, found.values())) < MAX_TEMPLATE_BYTES


def test_the_texts_of_alarms_fit_and_have_the_address_of_the_page(monitored: Monitored) -> None:
    template = whole(monitored(), STACK)
    assert all_problems(template, PREFIX) == []
    texts = {name: text_of(alarm["AlarmDescription"]) for name, alarm in alarms_of(template).items()}
    assert [name for name, text in texts.items() if f"\nPage: {PAGE_URL}/" not in text] == []
    (stuck,) = (text for name, text in texts.items() if name.endswith("-stuck-lease"))
    assert f"\nPage: {PAGE_URL}/tasks?lease_over=yes\n" in stuck
    # the address may be a dynamic reference
    found = max(json.dumps(each).count(PAGE_URL) for each in monitored().values())
    assert found + MORE_ALARMS <= MAX_DYNAMIC_REFERENCES


def test_every_type_has_its_alarms(monitored: Monitored) -> None:
    names = set(alarms_of(whole(monitored(), STACK)))
    for type_ in TYPES:
        assert {f"{PREFIX}-{name}-default-{slug_of(type_)}" for name in ("archived", "failing", "waiting")} <= names


@pytest.mark.parametrize("types", [3, 20, 197])
def test_alarms_of_the_whole_stage_read_at_most_24_metrics(types: int, monitored: Monitored) -> None:
    found = monitored("stage", tuple(TYPES[:types]))
    assert list(found) == [STACK]
    assert sum(len(metrics_of(alarm)) for alarm in alarms_of(found[STACK]).values()) <= 24


@pytest.mark.parametrize("types", [3, 20, 197])
def test_the_dashboard_of_the_whole_stage_has_at_most_50_metrics(types: int, monitored: Monitored) -> None:
    template = monitored("stage", tuple(TYPES[:types]))[STACK]
    shown = metrics_shown(template)
    assert 12 <= len(shown) <= 50
    text = note_of(template)
    assert "50 at most: " in text
    assert ("oldest due" in text) == (types == 197)  # otherwise it fits


def test_the_dashboard_of_200_types_is_within_the_limits_of_cloudwatch(monitored: Monitored) -> None:
    template = monitored()[STACK]
    widgets = dashboard_of(template)["widgets"]
    assert len(widgets) <= MAX_WIDGETS
    assert len(metrics_shown(template)) <= MAX_METRICS
    assert max(len(widget["properties"].get("metrics", [])) for widget in widgets) <= MAX_METRICS_OF_WIDGET
    (tiles,) = (widget["properties"] for widget in widgets if widget["type"] == "alarm")
    assert len(tiles["alarms"]) == MAX_ALARMS_OF_WIDGET
    assert {f"{PREFIX}-sweep", f"{PREFIX}-refused"} <= {arn.rpartition(":")[2] for arn in tiles["alarms"]}
    assert tiles["title"] == f"The first 100 of {len(alarms_of(whole(monitored(), STACK)))} alarms"
    text = note_of(template)
    assert f"[button:primary:Page]({PAGE_URL})" in text
    assert "2,500 at most: wait p50, ms; duration p95, ms; duration p50, ms; started; functions' duration" in text


def test_saved_queries_search_all_log_groups_in_as_many_queries_as_needed(monitored: Monitored) -> None:
    found = templates.of_type(monitored()[STACK], "AWS::Logs::QueryDefinition").values()
    assert {entry["Name"] for entry in found if "One task" in entry["Name"]} == {
        f"{PREFIX}/One task ({number} of 5)" for number in range(1, 6)
    }
    for name in QUERIES:
        groups = [entry["LogGroupNames"] for entry in found if entry["Name"].startswith(f"{PREFIX}/{name} (")]
        assert max(map(len, groups)) <= MAX_LOG_GROUPS
        names = [group for some in groups for group in some]
        assert len(names) == len(set(names)) == len(TYPES) + len([*Queue]) + 1


def test_a_renamed_type_changes_its_own_alarms_and_those_of_its_part(monitored: Monitored) -> None:
    types = tuple(TYPES[:30])
    before = monitored("lanes", types)
    after = monitored("lanes", tuple(RENAMED if type_ == TYPES[3] else type_ for type_ in types))
    old, new = (alarms_of(whole(found, STACK)) for found in (before, after))
    slugs = tuple(map(slug_of, (TYPES[3], RENAMED)))
    groups = tuple(
        f"{PREFIX}-{name}-{part_of(type_):02}"
        for name in ("throttles", "near-timeout")
        for type_ in (TYPES[3], RENAMED)
    )
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert len([name for name in changed if name.endswith(slugs)]) == 2 * 3
    assert [name for name in changed if not name.endswith(slugs) and not name.startswith(groups)] == []
    # and no resource is in another stack
    places = [
        {resource: stack for stack, template in found.items() for resource in template["Resources"]}
        for found in (before, after)
    ]
    moved = [name for name in places[0].keys() & places[1].keys() if places[0][name] != places[1][name]]
    assert moved == []
