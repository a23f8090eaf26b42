"""The facts in templates for the way back from a deploy, and the folder of earlier templates of a whole stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.constructs.migration import digest_of_migrations
from joblane.cdk.templates import SETTINGS, metadata, of_type, read_assembly, stacks_of
from joblane.cdk.way_back.alarms import AlarmState, Counted
from joblane.cdk.way_back.deployed import NOT_ASCII, Deployed
from joblane.cdk.way_back.folder import write_folder
from joblane.cdk.way_back.judgement import migration_of, reasons_to_stay
from joblane.project import Project
from joblane.record.migrations import newest
from tests.infra.conftest import RealStages, Synth


def test_the_template_names_schema_and_limits(synth: Synth) -> None:
    app = synth.app("renamed")
    found: Any = metadata(app.templates.values(), SETTINGS)
    assert found["schema"] == {"revision": newest(), "own": digest_of_migrations(Project.here())}
    assert found["limits"] == dict.fromkeys(("ops:alert", "data:move", "data:copy"), "||mover")


def test_the_folder_of_a_stage_has_the_same_templates(real_stages: RealStages) -> None:
    done: Synthesised = real_stages("prod")
    deployed = Deployed(done.templates, {stack: {"stage": "prod"} for stack in stacks_of(done.templates)})
    assert reasons_to_stay(deployed, done.templates) == []
    folder = write_folder(deployed, done.directory, by="eva", version="v2", why="x")
    for stack in stacks_of(done.templates):
        found = json.loads((folder / f"{stack}.template.json").read_text())
        run = migration_of({stack: found})
        assert ("TakenBack" in run) is (stack == "jobs-prod-jobs")
        for name in ("By", "TakenBack"):
            run.pop(name, None)  # type: ignore[attr-defined]
        expected = json.loads(json.dumps(done.templates[stack]))
        migration_of({stack: expected}).pop("By", None)  # type: ignore[attr-defined]
        assert found == expected
    assert read_assembly(done.directory) == done.templates  # the assembly itself is as it was


def test_the_alarms_that_repair_the_nat_instance_do_not_count(synth: Synth) -> None:
    templates = synth.app("nat_instance").templates
    names = {"acme-nat-instance", "acme-nat-recover", "acme-nat-reboot"}
    alarms = {
        (stack, logical_id): properties["AlarmName"]
        for stack, template in templates.items()
        for logical_id, properties in of_type(template, "AWS::CloudWatch::Alarm")
        if properties["AlarmName"] in names
    }
    states = {name: AlarmState(name, "OK") for name in names}
    found = Counted.of(Deployed(templates, alarms=alarms), states, templates)
    assert found.names == {"acme-nat-instance"}
    repairs = {name for name, why in found.left_out.items() if why == "repairs an instance"}
    assert repairs == {"acme-nat-recover", "acme-nat-reboot"}


def test_no_string_of_the_stages_loses_a_character_in_cloudformation(real_stages: RealStages) -> None:
    for stage in ("dev", "prod"):
        assert not NOT_ASCII.search(json.dumps(real_stages(stage).templates, ensure_ascii=False))


# --- The project's own migrations ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for file in (
        "functions/a/handler.py",
        "src/shop/orders.py",
        "src/shop/tables/__init__.py",
        "src/shop/tables/1.sql",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    return Project(tmp_path, code=("src/shop",), migrations="shop.tables:upgrade")


def written(file: str) -> Callable[[Project], Project]:
    def write(project: Project) -> Project:
        (project.root / file).parent.mkdir(parents=True, exist_ok=True)
        (project.root / file).write_text("2")
        return project

    return write


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        (written("src/shop/tables/1.sql"), True),
        (written("src/shop/tables/2.sql"), True),
        (written("src/shop/tables/__init__.py"), True),
        (written("src/shop/orders/migrations/0002_total.py"), True),
        (written("src/shop/alembic/versions/2.py"), True),
        (lambda project: replace(project, migrations="shop.tables:other"), True),
        (written("src/shop/orders.py"), False),
        (written("functions/a/handler.py"), False),
        (written("src/shop/tables/__pycache__/1.pyc"), False),
        (written("docs/migrations/page.md"), False),
    ],
)
def test_a_change_of_the_projects_migrations_changes_their_digest(
    project: Project, change: Callable[[Project], Project], is_other: bool
) -> None:
    before = digest_of_migrations(project)
    assert (digest_of_migrations(change(project)) != before) is is_other


def test_migrations_outside_of_the_projects_code_have_no_digest(project: Project) -> None:
    assert digest_of_migrations(replace(project, migrations="another_package:upgrade")) == ""
    assert digest_of_migrations(replace(project, migrations=None)) == digest_of_migrations(Project(Path("/nothing")))
