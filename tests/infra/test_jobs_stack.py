"""The jobs stack with other settings than those of its golden file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joblane.cdk.app import Synthesised
from joblane.local.git import version_of
from tests.infra import templates
from tests.infra.conftest import DATABASE_SECRET, RDS_HOST, STAGES, Synth
from tests.infra.templates import Template


@pytest.fixture(scope="module")
def template(dev: Synthesised) -> Template:
    return dev.whole("acme-jobs")


# --- Functions -----------------------------------------------------------------------------------------------------


def test_only_functions_that_declare_a_secret_may_read_it(synth: Synth, template: Template) -> None:
    named = "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:acme/smtp-??????"
    reading = {
        name: templates.allowed(template, name).get("secretsmanager:GetSecretValue", set()) - {DATABASE_SECRET}
        for name in templates.functions(template)
    }
    assert {name: found for name, found in reading.items() if found} == {"acme-report-build": {named}}
    # and a whole ARN is allowed as it is
    whole = DATABASE_SECRET.replace("acme/dev", "acme/smtp")
    settings = {
        "EMAIL_FROM_ADDRESS": "a@example.com",
        "SMTP_HOST": {"secret": "acme/smtp"},
        "SMTP_PASSWORD": {"secret": whole, "field": "password"},
    }
    done = synth("dev", settings=settings, findings=True)  # cdk-nag accepts both
    found = templates.allowed(done.whole("acme-jobs"), "acme-report-build")["secretsmanager:GetSecretValue"]
    assert found == {DATABASE_SECRET, named, whole}


# --- Schedules -----------------------------------------------------------------------------------------------------


def test_a_stages_own_times_are_in_its_schedules_and_functions(synth: Synth, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a shell with the times of another stage
    monkeypatch.setenv("JOBLANE_SCHEDULES", '{"report:build:weekly": "@yearly"}')
    times = {"report:build:odd": "off"}
    # when
    template = synth("dev", schedules=times, sweep="1 hour").whole("acme-jobs")
    # then
    schedules = templates.of_type(template, "AWS::Scheduler::Schedule")
    assert {name: item["ScheduleExpression"] for name, item in schedules.items()} == {
        "jobs-sweep.0": "cron(0 * * * ? *)",
        "report-build.weekly": "cron(0 8 ? * SUN *)",
    }
    for name in templates.functions(template):
        assert json.loads(templates.variables(template, name)["JOBLANE_SCHEDULES"]) == times
        assert templates.variables(template, name)["JOBLANE_SWEEP_MINUTES"] == "60"


# --- Retention -----------------------------------------------------------------------------------------------------


def test_no_password_is_in_a_template_for_aws(dev: Synthesised) -> None:
    assert "jobs:jobs@" not in json.dumps(dict(dev.templates))


def test_two_synths_give_the_same_template(dev: Synthesised, synth: Synth) -> None:
    assert synth.anew().templates == dev.templates


def test_the_migration_records_the_version_of_the_settings_else_the_commit(
    template: Template, synth: Synth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "ann")
    [of_settings] = templates.of_type(synth("dev", version="v1.4").whole("acme-jobs"), "Custom::Migration").values()
    assert (of_settings["Version"], of_settings["By"]) == ("v1.4", "ann")
    [usual] = templates.of_type(template, "Custom::Migration").values()
    commit = version_of(Path(__file__).parent) or ""
    assert usual["Version"] in (commit, f"{commit.removesuffix('-dirty')}+c0dec0d")
    # and the sweep notes that it runs
    assert templates.variables(template, "acme-jobs-sweep")["JOBLANE_DEPLOY"] == usual["Version"]
    assert "JOBLANE_DEPLOY" not in templates.variables(template, "acme-jobs-bulk")


def test_the_migration_logs_in_as_its_own_user_and_grants_the_functions_rights(synth: Synth) -> None:
    owner = DATABASE_SECRET.replace("dev", "owner")
    database = {**STAGES["dev"]["database"], "user": "jobs", "migration_secret": owner}
    template = synth("dev", database=database).whole("acme-jobs")
    variables = templates.variables(template, "acme-migrate")
    assert (variables["DATABASE_USER"], variables["JOBLANE_PROJECT"]) == ("jobs", "joblane")
    assert variables["DATABASE_USER_LOGIN"] == "password"
    (run,) = templates.of_type(template, "Custom::Migration").values()
    assert run["User"] == "jobs"
    assert templates.variables(template, "acme-migrate")["DATABASE_URL"].endswith(f"?secret={owner}")
    assert templates.allowed(template, "acme-migrate")["secretsmanager:GetSecretValue"] == {owner}
    assert templates.allowed(template, "acme-order-ship")["secretsmanager:GetSecretValue"] == {DATABASE_SECRET}


def test_a_function_logs_in_by_iam_as_its_own_user_only(synth: Synth) -> None:
    database = {"kind": "existing", "host": RDS_HOST, "name": "acme", "user": "jobs", "resource_id": "cluster-AB1"}
    template = synth("dev", database=database).whole("acme-jobs")
    assert templates.variables(template, "acme-order-ship")["DATABASE_URL"] == (
        f"postgresql://jobs@{RDS_HOST}:5432/acme?auth=iam"
    )
    [arn] = templates.allowed(template, "acme-order-ship")["rds-db:connect"]
    assert arn.endswith(":dbuser:cluster-AB1/jobs")
