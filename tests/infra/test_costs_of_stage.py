"""The costs of the platform's stages, in the README, on the page about deploys and in ``docs/explanation/costs.md``."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from joblane.cdk import costs
from joblane.cdk.app import JoblaneApp, context_of_file
from joblane.cdk.million import million
from joblane.cdk.packaging import Packages
from joblane.cdk.templates import Template
from joblane.cli.scaffold import init as write
from joblane.project import Project
from joblane.tasks.discovery import discover
from tests import costs as page
from tests.infra.conftest import RealStages
from tests.pages import ROOT

MOST_OF_DEV = 20
"""Dollars of the stage for development, with its database, in a month in which nobody uses it."""
MOST_WAKES = 8 * 30
"""Wakes of its database in this month."""


def lines_of(stage: str, real_stages: RealStages) -> list[costs.Line]:
    return costs.of_stage(real_stages(stage).templates.values(), discover(times={}))


@pytest.fixture(scope="module")
def init(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection[Template], costs.Tasks]:
    """The templates and the tasks of a project as `joblane init` writes it."""
    project = Project(tmp_path_factory.mktemp("init"), functions="of_a_new_project")
    write(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.syspath_prepend(project.root)
        found = JoblaneApp(functions=project.functions).synthesise(
            context_of_file(project) | {"stage": "dev"},
            output=project.root / "cdk.out",
            environ={},
            build=lambda stage, project: no_packages,
        )
        return found.templates.values(), discover(project.functions, times={})


@pytest.fixture(scope="module")
def stages(init: tuple[Collection[Template], costs.Tasks], real_stages: RealStages) -> page.Stages:
    platform = {name: lines_of(name, real_stages) for name in page.STAGES}
    return page.Stages(costs.of_stage(*init), million(*init), platform)


def test_the_page_shows_what_stages_cost(stages: page.Stages) -> None:
    text = page.PAGE.read_text()
    assert text == page.with_stages(text, stages), "`python -m tests.costs` writes it again"


def test_the_first_costs_are_those_of_a_new_project(stages: page.Stages) -> None:
    # three lanes and three front doors, the metrics of the sweep, and a secret or an Aurora
    own = {line.price: line.amount for line in stages.own() if line.dollars > 0.01}
    assert own == {"SQS request": 6 * costs.RECEIVES_PER_MAPPING, "Metric": pytest.approx(7 / 6), "Secret": 1}
    assert {line.price for line in stages.asleep() if line.dollars > 0.01} == {
        "SQS request",
        "Metric",
        "Aurora ACU-hour",
    }


def test_a_reader_who_starts_sees_what_a_stage_costs(stages: page.Stages) -> None:
    readme = (ROOT / "README.md").read_text()
    for lines in (stages.own(), stages.asleep(), stages.init, stages.platform["dev"]):
        assert f"${costs.total(lines):,.2f}" in readme
    assert f"${costs.after_allowances(stages.init):,.2f}" in readme
    assert f"a million jobs add about ${costs.total(stages.jobs):,.0f}" in readme
    total = costs.total(stages.platform["dev"])
    assert f"`dev`: about ${total:,.0f} a month" in (ROOT / "docs" / "how-to" / "deploy.md").read_text()


def test_the_page_says_how_many_metrics_the_alarms_of_dev_read(stages: page.Stages) -> None:
    [read] = [line.amount for line in stages.platform["dev"] if line.price == "Alarm"]
    assert f"so it reads {read:.0f}." in page.PAGE.read_text()


def test_the_page_on_a_sleeping_database_has_its_costs(real_stages: RealStages) -> None:
    (asleep,) = (line.dollars for line in lines_of("dev", real_stages) if line.price == "Aurora ACU-hour")
    awake = costs.Line("always awake", costs.LEAST_AWAKE * costs.HOURS, "Aurora ACU-hour").dollars
    text = (ROOT / "docs" / "how-to" / "sleep.md").read_text()
    assert f"`dev` pays ${asleep:,.2f} a month for it instead of ${awake:,.2f}" in text


def test_the_stage_for_development_costs_little_when_nobody_uses_it(real_stages: RealStages) -> None:
    lines = lines_of("dev", real_stages)
    assert costs.total(lines) <= MOST_OF_DEV
    assert all(line.use for line in lines)
    found = costs.pausing(real_stages("dev").templates.values(), discover(times={}))
    assert found is not None
    assert found[0].wakes <= MOST_WAKES
    assert {line.price for line in lines} & {"Key", "Secret", "NAT gateway hour", "Public IPv4 hour"} == set()
