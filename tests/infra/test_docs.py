"""What the documentation says of stages and of the CDK's command line is so."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from datetime import timedelta

import pytest
from pydantic import BaseModel

from infra import sections
from infra.app import context_of_file
from infra.checks import CONNECTIONS_PER_SLOT
from infra.packaging import ROOT
from infra.stacks.jobs import shares
from infra.stage import Stage, load_stage
from shared.cli.tools import clean_environment, node
from shared.jobs.discovery import discover
from shared.jobs.queues import MIN_CONCURRENCY, Queue
from tests.pages import Block, blocks, table
from tests.unit.test_docs import CDK

DEPLOYING = ROOT / "docs" / "deploying.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "A stage": Stage,
    "A new network": sections.NewNetwork,
    "An existing network": sections.ExistingNetwork,
    "Aurora": sections.Aurora,
    "An existing database": sections.ExistingDatabase,
    "The API": sections.Api,
}
DECLARED = [name for task in discover().values() for name in task.environment]
OF_THE_FILE = {"name"}
"""A stage's name is its key in the file."""
COMING = {"schedules"}
"""Settings of a stage that the page names before they are there."""


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_names_every_setting_and_no_other(heading: str) -> None:
    named = {name for row in table(DEPLOYING, heading) for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert named - COMING == set(SECTIONS[heading].model_fields) - (OF_THE_FILE if heading == "A stage" else set())


def test_nothing_is_coming_that_is_there() -> None:
    assert COMING.isdisjoint(Stage.model_fields)


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_defaults_that_the_page_names_are_those_of_the_settings(heading: str) -> None:
    for names, default, *_ in table(DEPLOYING, heading):
        [name] = re.findall(r"`([a-z_]+)`", names)
        if name in COMING or (heading != "A stage" and name == "kind"):
            continue
        field = SECTIONS[heading].model_fields[name]
        shown = "required" if field.is_required() else json.dumps(field.default)
        assert default == (shown if field.is_required() else f"`{shown}`"), name


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json_and_settings_of_a_stage_are_taken(block: Block) -> None:
    assert block.mark in ("", "stage")
    settings = json.loads(block.text)
    if block.mark == "stage":
        assert load_stage("shown", {"shown": settings}, declared=DECLARED, environ={}).name == "shown"


@pytest.mark.parametrize("command", CDK)
def test_the_cdk_has_the_commands_and_options_that_the_pages_name(command: str) -> None:
    done = subprocess.run(
        [node(), ROOT / "node_modules" / "aws-cdk" / "bin" / "cdk", command, "--help"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cdk {command}" in done.stdout
    assert CDK[command] <= set(re.findall(r"--([a-z-]+)", done.stdout))


FIGURES = [row for row in table(ROOT / "docs" / "limits.md", "Figures") if row[2]]


@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row[0])
def test_a_limit_is_what_the_code_says(row: list[str]) -> None:
    _, figure, where = row
    module, _, name = where.strip("`").rpartition(".")
    value = getattr(importlib.import_module(module), name)
    number, _, unit = figure.partition(" ")
    if isinstance(value, timedelta):
        value /= timedelta(**{unit: 1})
    assert int(number.replace(",", "")) == value


def test_shares_and_connections_of_the_stages_are_those_of_the_page() -> None:
    text = (ROOT / "docs" / "sizing.md").read_text()
    shown = {row[0].strip("`*"): row[1:] for row in table(ROOT / "docs" / "sizing.md", "Concurrency")}
    tasks = discover()
    for column, name in enumerate(("dev", "prod")):
        stage = load_stage(name, context_of_file()["stages"], declared=DECLARED, environ={})
        got = {lane.removeprefix(f"{stage.prefix}-"): share for lane, share in shares(stage, tasks).items()}
        slots = sum(got.values())
        wanted = {**got, "all lanes": slots, "front doors": len(Queue) * MIN_CONCURRENCY}
        assert {lane: int(cells[column].strip("*")) for lane, cells in shown.items()} == wanted
        connections = slots * CONNECTIONS_PER_SLOT + stage.reserved_connections
        assert f"`{name}` {'needs ' if name == 'dev' else ''}{connections} of {stage.database_connections}" in text
