"""Settings of a stage: what is read, from where, and what is refused with the setting's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.app import context_of_file
from infra.errors import StageError
from infra.sections import SecretReference
from infra.stage import host_architecture, load_stage, with_schedules_of
from shared.jobs.discovery import discover

SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/dev-AbCdEf"
DATABASE = {"kind": "existing", "host": "db.internal", "name": "jobs", "secret": SECRET}
DECLARED = ["EMAIL_PROVIDER", "SMTP_PASSWORD"]


def load(name: str = "dev", environ: dict[str, str] | None = None, **settings: Any) -> Any:
    given = {"database": DATABASE, **settings}
    return load_stage(name, {name: given, "other": {}}, declared=DECLARED, environ=environ or {})


def test_a_stage_that_names_only_its_database_has_defaults_that_fit_a_new_account() -> None:
    stage = load()
    assert (stage.prefix, stage.concurrency_budget, stage.architecture, stage.local) == ("jobs", 20, "arm64", False)
    assert stage.removal == "retain"


def test_an_unknown_stage_lists_those_that_there_are() -> None:
    with pytest.raises(StageError, match=r"no stage 'prd' in cdk.json; there are dev, other"):
        load_stage("prd", {"dev": {}, "other": {}}, declared=(), environ={})


@pytest.mark.parametrize("stages", [None, {}, [], "dev"])
def test_stages_of_another_shape_are_refused(stages: object) -> None:
    with pytest.raises(StageError, match="one entry per stage is required"):
        load_stage("dev", stages, declared=(), environ={})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prefix": "Jobs_1"}, "prefix: .*lower-case letters"),
        ({"prefix": "a" * 21}, "prefix: .*20 characters at most"),
        ({"concurrency_budget": 1}, "concurrency_budget: .*greater than or equal to 2"),
        ({"concurrency_budget": "20"}, "concurrency_budget: .*valid integer"),
        ({"account_concurrency": 0}, "account_concurrency: "),
        ({"log_retention_days": 8}, "log_retention_days: "),
        ({"log_level": "LOUD"}, "log_level: "),
        ({"removal": "keep"}, "removal: "),
        ({"architecture": "riscv"}, "architecture: "),
        ({"export_bucket": "No Bucket"}, "export_bucket: "),
        ({"concurency_budget": 20}, "concurency_budget: Extra inputs are not permitted"),
        ({"database": {**DATABASE, "password": "x"}}, "database.existing.password: Extra inputs"),
        (
            {"settings": {"EMAIL_PROVIDR": "ses"}},
            "settings: no task declares EMAIL_PROVIDR .*declared are EMAIL_PROVIDER",
        ),
        ({"settings": {"EMAIL_PROVIDER": 1}}, "settings.EMAIL_PROVIDER"),
        ({"schedules": {"jobs:sweep": 5}}, "schedules.jobs:sweep: .*valid string"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        load(**settings)


@pytest.mark.parametrize(
    ("schedules", "problem"),
    [
        ({"jobs:swep": "@hourly"}, "jobs:swep: no task with a schedule; there are .*jobs:sweep"),
        ({"jobs:sweep:nightly": "off"}, "jobs:sweep:nightly: .*there are jobs:sweep:0"),
        ({"jobs:sweep": "hourly"}, "jobs:sweep: schedule 'hourly': "),
    ],
)
def test_times_for_no_schedule_and_no_times_are_refused(schedules: dict[str, str], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': schedules: {problem}"):
        with_schedules_of(load(schedules=schedules), discover(times={}))


def test_the_database_is_required() -> None:
    with pytest.raises(StageError, match="database: Field required"):
        load_stage("dev", {"dev": {}}, declared=(), environ={})


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(StageError, match=r"settings\.SMTP_PASSWORD: is a secret") as caught:
        load(settings={"SMTP_PASSWORD": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_secret_is_taken_by_reference() -> None:
    stage = load(settings={"SMTP_PASSWORD": {"secret": "acme/smtp", "field": "password"}})
    assert stage.settings["SMTP_PASSWORD"] == SecretReference(secret="acme/smtp", field="password")


def test_a_local_stage_takes_address_and_settings_from_the_environment_and_this_machines_architecture() -> None:
    environ = {"DATABASE_URL": "postgresql://a:b@127.0.0.1/c", "EMAIL_PROVIDER": "smtp", "HOME": "/root"}
    stage = load(environ=environ, local=True, settings={"EMAIL_PROVIDER": "console", "SMTP_PASSWORD": "local"})
    assert stage.database.url == "postgresql://a:b@127.0.0.1/c"
    assert stage.settings == {"EMAIL_PROVIDER": "smtp", "SMTP_PASSWORD": "local"}
    assert stage.architecture == host_architecture()


def test_a_local_stage_without_an_address_says_where_it_comes_from() -> None:
    with pytest.raises(StageError, match="stage 'dev': DATABASE_URL is not set in the environment"):
        load(local=True)


def test_production_keeps_what_its_stack_leaves_and_a_local_stage_does_not() -> None:
    stages = context_of_file()["stages"]
    assert {name: stages[name]["removal"] for name in ("prod", "local")} == {"prod": "retain", "local": "destroy"}


def test_the_stages_of_this_checkout_fit_its_tasks() -> None:
    declared = [name for task in discover().values() for name in task.environment]
    stages = context_of_file()["stages"]
    for name in stages:
        environ = {"DATABASE_URL": "postgresql://jobs@127.0.0.1/jobs"}
        stage = load_stage(name, stages, declared=declared, environ=environ)
        assert with_schedules_of(stage, discover(times={})).keys() == discover().keys()
    assert "password" not in json.dumps(stages).lower()
