"""The costs of the platform's stages, in the README, on the page about deploys and in ``docs/explanation/costs.md``."""

from __future__ import annotations

import pytest

from joblane.cdk import costs
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


@pytest.mark.parametrize("stage", page.STAGES)
def test_the_page_shows_what_a_stage_costs(stage: str, real_stages: RealStages) -> None:
    text = page.PAGE.read_text()
    assert text == page.with_stage(text, stage, lines_of(stage, real_stages)), "`python -m tests.costs` writes it again"


def test_a_reader_who_starts_sees_what_the_whole_stage_for_development_costs(real_stages: RealStages) -> None:
    total = costs.total(lines_of("dev", real_stages))
    assert f"`dev` stage costs ${total:,.2f} a month" in (ROOT / "README.md").read_text()
    assert f"`dev`: about ${total:,.0f} a month" in (ROOT / "docs" / "how-to" / "deploy.md").read_text()


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
