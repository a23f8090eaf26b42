"""The documentation of stages and of the CDK's command line agrees with the code."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from datetime import timedelta

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infra.settings import Api, PlatformStage
from joblane.cdk.app import context_of_file
from joblane.cdk.constructs.jobs import shares
from joblane.cdk.settings import apis, database, network
from joblane.cdk.settings.load import load_stage
from joblane.discovery import discover
from joblane.limits import MIN_CONCURRENCY, Numbers
from joblane.local.tools import Tools, clean_environment
from joblane.project import KEYS, Project
from joblane.queues import Queue
from tests.pages import ROOT, Block, blocks, table
from tests.unit.test_docs import CDK

DEPLOYING = ROOT / "docs" / "how-to" / "deploy.md"
STAGE = "A stage"
SECTIONS: dict[str, type[BaseModel]] = {
    STAGE: PlatformStage,
    "A new network": network.NewNetwork,
    "An existing network": network.ExistingNetwork,
    "Aurora": database.Aurora,
    "An existing database": database.ExistingDatabase,
    "The API": Api,
    "The control API": apis.Control,
    "Monitoring": apis.Monitoring,
}
DECLARED = [name for task in discover().values() for name in task.environment]


def load(name: str, stages: object) -> PlatformStage:
    return load_stage(name, stages, kind=PlatformStage, declared=DECLARED, environ={})


def settings(heading: str) -> dict[str, FieldInfo]:
    """Return the settings of a section. In ``cdk.json`` a stage's name is its key, and no setting."""
    return {name: field for name, field in SECTIONS[heading].model_fields.items() if name != "name" or heading != STAGE}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_names_every_setting_and_no_other(heading: str) -> None:
    named = {name for row in table(DEPLOYING, heading) for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert named == set(settings(heading))


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_defaults_of_the_page_are_those_of_the_settings(heading: str) -> None:
    shown = {row[0].strip("`"): row[1].strip("`") for row in table(DEPLOYING, heading)}
    for name, field in settings(heading).items():
        assert shown[name] == ("required" if field.is_required() else json.dumps(field.default)), name


def test_the_page_names_every_key_of_the_project() -> None:
    assert tuple(row[0].strip("`") for row in table(DEPLOYING, "What the functions import")) == KEYS


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_blocks_are_valid_and_settings_of_a_stage_are_accepted(block: Block) -> None:
    assert block.mark in ("", "stage", "schedules")
    settings = json.loads(block.text)
    if block.mark == "stage":
        assert (
            load_stage("shown", {"shown": settings}, kind=PlatformStage, declared=DECLARED, environ={}).name == "shown"
        )


@pytest.mark.parametrize("command", CDK)
def test_the_cdk_has_the_commands_and_options_that_the_pages_name(command: str) -> None:
    done = subprocess.run(
        [Tools(Project.here()).cdk, command, "--help"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cdk {command}" in done.stdout
    assert CDK[command] <= set(re.findall(r"--([a-z-]+)", done.stdout))


FIGURES = [row for row in table(ROOT / "docs" / "reference" / "limits.md", "Figures") if row[2]]


@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row[0])
def test_a_limit_of_the_page_is_that_of_the_code(row: list[str]) -> None:
    _, figure, where = row
    module, _, name = where.strip("`").rpartition(".")
    value = getattr(importlib.import_module(module), name)
    number, _, unit = figure.partition(" ")
    if isinstance(value, timedelta):
        value /= timedelta(**{unit: 1})
    assert int(number.replace(",", "")) == value


def test_shares_of_the_stages_are_those_of_the_page() -> None:
    shown = {row[0].strip("`*"): row[1:] for row in table(ROOT / "docs" / "how-to" / "size.md", "Concurrency")}
    tasks = discover()
    for column, name in enumerate(("dev", "prod")):
        stage = load_stage(
            name, context_of_file(Project.here())["stages"], kind=PlatformStage, declared=DECLARED, environ={}
        )
        got = {lane.removeprefix(f"{stage.prefix}-"): share for lane, share in shares(stage, tasks).items()}
        wanted = {**got, "all lanes": sum(got.values()), "front doors": len(Queue) * MIN_CONCURRENCY}
        assert {lane: int(cells[column].strip("*")) for lane, cells in shown.items()} == wanted


def test_a_queues_default_numbers_are_those_of_the_page() -> None:
    numbers = Numbers.of(timeout=timedelta(minutes=1), batch_size=1, max_retry=5, what="the defaults")
    shown = [row[2] for row in table(ROOT / "docs" / "how-to" / "size.md", "Memory and time of a function")]
    times = [f"{value.total_seconds():.0f} s" for value in (numbers.function_timeout, numbers.visibility)]
    assert shown == [*times, str(numbers.max_receive_count)]
