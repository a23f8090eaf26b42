"""The cost of the platform's stage for development, in the README and in ``docs/explanation/costs.md``."""

from __future__ import annotations

from joblane.cdk import costs
from joblane.discovery import discover
from tests import costs as page
from tests.infra.conftest import RealStages
from tests.pages import ROOT


def test_page_and_readme_show_what_the_stage_costs(real_stages: RealStages) -> None:
    lines = costs.of_stage(real_stages(page.STAGE).templates.values(), discover())
    text = page.PAGE.read_text()
    assert text == page.with_stage(text, lines), "`python -m tests.costs` writes it again"
    assert f"${costs.total(lines):,.2f}" in (ROOT / "README.md").read_text()
