"""The pages are right about settings of stages, limits, and the command line of the CDK."""

from __future__ import annotations

import importlib
import json
import re
from datetime import timedelta

import pytest

from infra.settings import Api, Jwt, PlatformStage
from joblane.cdk.app import context_of_file
from joblane.cdk.settings.load import load_stage
from joblane.cdk.settings.stage import Stage
from joblane.cdk.shares import shares
from joblane.local.tools import Tools
from joblane.names import Queue
from joblane.project import Project
from joblane.quotas import FRONT_DOOR, MIN_CONCURRENCY, Numbers
from joblane.tasks.discovery import discover
from tests.pages import ROOT, Block, blocks, table
from tests.unit.test_docs import CDK

HOW_TO = ROOT / "docs" / "how-to"
DECLARED = [name for task in discover().values() for name in task.environment]


def load(name: str, stages: object) -> PlatformStage:
    return load_stage(name, stages, kind=PlatformStage, declared=DECLARED, environ={})


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json_and_settings_of_a_stage_are_accepted(block: Block) -> None:
    assert block.mark in ("", "stage", "schedules")
    settings = json.loads(block.text)
    if block.mark == "stage":
        assert load("shown", {"shown": settings}).name == "shown"


@pytest.mark.parametrize("command", CDK)
def test_the_cdk_has_the_commands_and_options_that_the_pages_name(command: str) -> None:
    """The command line makes its parser and its help from this file; to start it for them takes a second."""
    lib = Tools(Project.here()).cdk.resolve().parents[1] / "lib"
    known = json.loads((lib / "cli" / "cli-type-registry.json").read_text())
    assert CDK[command] <= {*known["globalOptions"], *known["commands"][command]["options"]}


def test_the_pages_name_every_setting_of_the_platform() -> None:
    of_the_api = {
        name
        for row in table(ROOT / "docs" / "platform" / "api.md", "Deploy it")
        for name in re.findall("`([a-z_]+)`", row[0])
    }
    assert of_the_api == {*Api.model_fields, *(set(Jwt.model_fields) - {"kind"})}
    page = (HOW_TO / "deploy.md").read_text()
    assert [name for name in PlatformStage.model_fields.keys() - Stage.model_fields if f"`{name}`" not in page] == []


FIGURES = [row for row in table(ROOT / "docs" / "reference" / "limits.md", "Figures") if row[2]]


@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row[0])
def test_a_limit_of_the_page_is_that_of_the_code(row: list[str]) -> None:
    _, figure, where = row
    module, _, name = where.strip("`").rpartition(".")
    value = getattr(importlib.import_module(module), name)
    number, _, unit = figure.partition(" ")
    if isinstance(value, timedelta):
        value /= timedelta(**{f"{unit.rstrip('s')}s": 1})
    assert int(number.replace(",", "")) == value


def shares_of(name: str) -> dict[str, int]:
    """The share of each lane of a stage of this repository, and the sums under their names on the page."""
    stage = load(name, context_of_file(Project.here())["stages"])
    got = {
        lane.removeprefix(f"{stage.prefix}-"): share
        for lane, share in shares(stage.prefix, stage.concurrency_budget, discover().values()).items()
    }
    return {**got, "all lanes": sum(got.values()), "front doors": len(Queue) * MIN_CONCURRENCY}


def test_shares_of_the_stages_are_those_of_the_page() -> None:
    shown = {row[0].strip("`*"): row[1:] for row in table(HOW_TO / "size.md", "Concurrency")}
    for column, name in enumerate(("dev", "prod")):
        assert {lane: int(cells[column].strip("*")) for lane, cells in shown.items()} == shares_of(name)


def test_the_page_of_deploying_names_the_concurrency_that_dev_needs() -> None:
    [number] = re.findall(r"concurrent Lambda executions: (\d+) for", (HOW_TO / "deploy.md").read_text())
    needed = shares_of("dev")
    assert int(number) == needed["all lanes"] + needed["front doors"]


def test_a_queues_default_numbers_are_those_of_the_page() -> None:
    numbers = Numbers.of(timeout=timedelta(minutes=1), batch_size=1, max_retry=5, what="the defaults")
    shown = [row[2] for row in table(HOW_TO / "size.md", "Memory and time of a function")]
    times = [f"{value.total_seconds():.0f} s" for value in (numbers.function_timeout, numbers.visibility)]
    assert shown == [*times, str(numbers.max_receive_count)]


def test_the_hours_until_a_dead_letter_are_those_of_the_page() -> None:
    found = [
        Numbers.of(timeout=timedelta(seconds=seconds), batch_size=batch, max_retry=5, what="")
        for seconds, batch in ((2, 1), (2, 10), (60, 1), (890, 1))
    ]
    shown = [row[1:] for row in table(HOW_TO / "size.md", "Functions that never start")]
    assert shown == [
        [
            f"{numbers.visibility.total_seconds():.0f} s",
            str(numbers.max_receive_count),
            f"{numbers.max_receive_count * numbers.visibility / timedelta(hours=1):.1f} hours",
        ]
        for numbers in (*found, FRONT_DOOR)
    ]
