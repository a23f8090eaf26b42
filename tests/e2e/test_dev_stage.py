"""The whole stage ``dev`` on the emulator: the deploy page followed in an empty account, further deploys, the removal.

The emulator lacks some resources, and its cluster has no database: :mod:`tests.e2e.dev_stage.assembly` lists the
changes of the templates. ``pytest -s`` shows how long each step takes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import boto3
import pytest
from botocore.exceptions import ClientError

from joblane.cdk.templates import Template, read_assembly
from joblane.cdk.way_back.deployed import read_deployed
from joblane.cdk.way_back.judgement import migration_of
from joblane.cli.exits import Exit
from joblane.cli.rollout import Rollout
from joblane.cli.watched import start
from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.local.tools import clean_environment, environment_of
from joblane.project import Project
from joblane.record.driver.database import Database
from tests.e2e.dev_stage import assembly
from tests.e2e.dev_stage.aws_cli import account_plan, installed_aws_cli, service_quotas
from tests.e2e.dev_stage.checkout import Checkout
from tests.e2e.dev_stage.nested import STACK
from tests.e2e.dev_stage.page import steps
from tests.pages import ROOT
from tests.patience import await_true

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

PAGE = ROOT / "docs" / "how-to" / "deploy.md"
REGION = "eu-central-1"
PREFIX = "jobs-dev"
STACKS = [f"{PREFIX}-{name}" for name in ("data", "jobs", "api", "control", "monitoring")]
HANDLER = "functions/user_invitation/handler.py"
UNKNOWN_INVITATION = {
    "type": "user:invitation",
    "payload": {"invitation_id": "00000000-0000-0000-0000-000000000000"},
}
CDK = "cdk deploy --all --app ASSEMBLY --require-approval never --no-notices --ci"


@dataclass
class Account:
    """An emulator with the stage, and the checkout that deploys it."""

    checkout: Checkout
    postgres: Postgres
    database: Database

    def deploy(self, name: str, assembly: Path, *, fails: bool = False) -> str:
        return self.checkout.run(CDK.replace("ASSEMBLY", str(assembly)), name=name, fails=fails)

    def copy(self, name: str) -> Path:
        """Return a copy of the deployed assembly, to be changed."""
        return shutil.copytree(self.checkout.assembly, self.checkout.folder / name)

    def templates(self) -> Mapping[str, Template]:
        """Return the templates that are deployed."""
        with closing(boto3.client("cloudformation")) as client:
            return read_deployed(client, read_assembly(self.checkout.assembly)).templates

    def run_job(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a message by plain boto3, and return the row of the ended task."""
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=f"{PREFIX}-default")["QueueUrl"]
        id_ = sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))["MessageId"]
        sqs.close()
        query = "select to_jsonb(t) from joblane.tasks t where id = $1 and state in ('completed', 'archived')"
        await_true(lambda: bool(self.database.get().run(query, id_)), lambda: f"{id_} has not ended")
        row: dict[str, Any] = self.database.get().run(query, id_)[0][0]
        return row

    def migrations(self, cloudformation: CloudFormationClient) -> list[str]:
        """Return the states of the migration that ended, oldest first."""
        pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=f"{PREFIX}-jobs")
        events = [event for page in pages for event in page["StackEvents"]]
        ended = [event for event in events if "IN_PROGRESS" not in event["ResourceStatus"]]
        return [event["ResourceStatus"] for event in reversed(ended) if event["ResourceType"] == "Custom::Migration"]


def states(cloudformation: CloudFormationClient) -> dict[str, str]:
    pages = cloudformation.get_paginator("describe_stacks").paginate()
    return {stack["StackName"]: stack["StackStatus"] for page in pages for stack in page["Stacks"]}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An empty account in which a reader has followed the page up to its last step, which removes the stage."""
    folder = tmp_path_factory.mktemp("account")
    with ExitStack() as cleanup:
        emulator = MiniStack(folder, None, REGION)
        cleanup.callback(emulator.stop)
        emulator.start()
        postgres = cleanup.enter_context(Postgres(folder / "postgres"))
        database = cleanup.enter_context(Database(postgres.url))
        database.get().run("create role jobs login password 'jobs'")  # locally nobody can log in by IAM
        as_jobs = re.sub(r"//.*@", "//jobs:jobs@", postgres.url)
        environment = {
            **clean_environment(),
            "AWS_ENDPOINT_URL": emulator.endpoint,
            "AWS_ENDPOINT_URL_S3": emulator.endpoint,
            "AWS_ENDPOINT_URL_FREETIER": cleanup.enter_context(account_plan("PAID")),
            "AWS_ENDPOINT_URL_SERVICE_QUOTAS": cleanup.enter_context(service_quotas()),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "TERM": "dumb",
        }
        environment["PATH"] = f"{installed_aws_cli()}:{environment['PATH']}"
        databases = {f"{PREFIX}-migrate": postgres.url, "": as_jobs}
        checkout = Checkout.create(folder / "checkout", environment, databases)
        with environment_of({name: value for name, value in environment.items() if name.startswith("AWS_")}):
            account = Account(checkout, postgres, database)
            for block in steps(PAGE)[0]:
                checkout.run(block.text, name=str(block))
            yield account
        print("", *(f"{seconds:6.1f} s  {name}" for name, seconds in checkout.seconds), sep="\n")


def test_every_step_of_the_deploy_page_succeeds_in_an_empty_account(account: Account) -> None:
    with closing(boto3.client("cloudformation")) as cloudformation:
        found = states(cloudformation)
    assert {name: found.get(name) for name in STACKS} == dict.fromkeys(STACKS, "CREATE_COMPLETE")
    query = "select state, runs, generation from joblane.tasks where tags = '{first-failure}'"
    assert account.database.get().run(query) == [["archived", 2, 1]]  # the first failure, after its redrive


def test_only_what_the_emulator_refuses_is_not_deployed(account: Account) -> None:
    with closing(boto3.client("cloudformation")) as cloudformation:
        # given: the emulator refuses each type
        template = {"Resources": {f"A{n}": {"Type": type_} for n, type_ in enumerate(sorted(assembly.REFUSED))}}
        with pytest.raises(ClientError) as refusal:
            cloudformation.validate_template(TemplateBody=json.dumps(template))
        assert f"Unrecognized resource types: [{', '.join(sorted(assembly.REFUSED))}]" in str(refusal.value)
        # then every other resource is in the account
        deployed: Counter[str] = Counter()
        for stack in states(cloudformation).keys() - {"CDKToolkit"}:
            pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
            deployed.update(each["ResourceType"] for page in pages for each in page["StackResourceSummaries"])
    templates = assembly.read_templates(account.checkout.assembly / assembly.ORIGINAL)
    resources = [each for template in templates for each in template.resources.values() if each["Type"] != STACK]
    assert deployed == Counter(each["Type"] for each in resources if not assembly.is_refused(each))
    # and each entry of the lists is needed
    left_out = {each["Type"] for each in resources if assembly.is_refused(each)}
    assert left_out == assembly.REFUSED | assembly.REFUSED_WITH.keys()


def test_an_alarm_of_several_metrics_is_refused_by_the_emulator(account: Account) -> None:
    """:data:`tests.e2e.dev_stage.assembly.REFUSED_WITH`."""
    (type_, property_), *others = assembly.REFUSED_WITH.items()
    assert others == []
    metric = {"Id": "a", "Expression": "1", "ReturnData": True}
    properties = {
        property_: [metric],
        "EvaluationPeriods": 1,
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 1,
    }
    with closing(boto3.client("cloudformation")) as cloudformation:
        body = json.dumps({"Resources": {"Alarm": {"Type": type_, "Properties": properties}}})
        cloudformation.create_stack(StackName="an-alarm", TemplateBody=body)
        await_true(
            lambda: "ROLLBACK_COMPLETE" in states(cloudformation)["an-alarm"], lambda: str(states(cloudformation))
        )
        cloudformation.delete_stack(StackName="an-alarm")


def test_on_a_free_plan_the_preflight_of_the_page_refuses_the_database(account: Account) -> None:
    paid = account.checkout.environment
    with account_plan("FREE") as address:
        account.checkout.environment = {**paid, "AWS_ENDPOINT_URL_FREETIER": address}
        script = "joblane preflight --stage dev --json"
        output = account.checkout.run(script, name="the preflight on a Free plan", fails=True)
    account.checkout.environment = paid
    assert "which refuses an Aurora cluster (database.kind aurora)" in output
    assert "aws freetier upgrade-account-plan --account-plan-type PAID" in output


def test_a_job_runs_on_the_deployed_stage(account: Account) -> None:
    row = account.run_job(UNKNOWN_INVITATION)
    assert (row["state"], row["runs"], row["reason"]) == ("archived", 1, "SkipRetry: the invitation does not exist")


def test_a_watched_deploy_of_a_changed_function_is_taken_back_when_an_alarm_fires(account: Account) -> None:
    # given an alarm that is OK, and a deploy of a changed function
    changed = account.copy("changed")
    assembly.change_code(changed, HANDLER, "the invitation does not exist", "there is no such invitation")
    rollout = Rollout(Project(account.checkout.folder), PREFIX, changed, read_assembly(changed), "joblane")
    seconds = [0.0]
    with closing(boto3.client("cloudwatch")) as cloudwatch, closing(boto3.client("cloudformation")) as cloudformation:

        def becomes(state: Literal["OK", "ALARM"]) -> None:
            cloudwatch.set_alarm_state(AlarmName=f"{PREFIX}-sweep", StateValue=state, StateReason="a test")

        def sleep(_: float) -> None:
            becomes("ALARM")
            seconds[0] += 60

        becomes("OK")
        before = account.migrations(cloudformation)
        watch = start(rollout, boto3.session.Session(), timedelta(minutes=5))
        assert watch is not None
        assert watch.counted.names == {f"{PREFIX}-sweep"}
        watch.now, watch.sleep = (lambda: seconds[0]), sleep
        # when the alarm fires after the deploy
        reasons: list[str] = []

        def first_job() -> Exit:
            assert account.migrations(cloudformation) == [*before, "UPDATE_COMPLETE"]
            reasons.append(account.run_job(UNKNOWN_INVITATION)["reason"])
            return Exit.DONE

        assert watch.run(partial(rollout.deploy, boto3.session.Session(), approved=True), first_job) is Exit.TAKEN_BACK
        # then the earlier code runs, and the audit says why
        reasons.append(account.run_job(UNKNOWN_INVITATION)["reason"])
        assert reasons == ["SkipRetry: there is no such invitation", "SkipRetry: the invitation does not exist"]
        audit = "select action, reason from joblane.audit where action = 'take_back'"
        await_true(lambda: bool(account.database.get().run(audit)), lambda: "there is no entry")
        assert account.database.get().run(audit) == [["take_back", f"{PREFIX}-sweep fired 2m after the deploy"]]
    assert "TakenBack" in migration_of(account.templates())


def test_a_failed_migration_is_rolled_back_while_the_database_is_stopped(account: Account) -> None:
    """The rollback sends the migration an update to its old properties.

    After an update that has succeeded, the emulator deletes the migration's new id instead, unlike CloudFormation:
    ``tests/unit/record/test_migrate_handler.py`` has these sequences.
    """
    # given a change of code with a migration that cannot be imported, and no database
    changed = account.copy("failing")
    assembly.change_code(changed, HANDLER, "raise SkipRetry", "raise RuntimeError")
    assembly.change_migration(changed, JOBLANE_FUNCTIONS="no_such_package")
    before = account.templates()
    account.database.drop()
    account.postgres.stop()
    # when it is deployed
    try:
        output = account.deploy("a deploy with a failing migration", changed, fails=True)
    finally:
        account.postgres.start()
    # then the old code runs, and the templates are the old ones
    assert "no_such_package" in output
    with closing(boto3.client("cloudformation")) as cloudformation:
        assert states(cloudformation)[f"{PREFIX}-jobs"] == "UPDATE_ROLLBACK_COMPLETE"
        assert account.migrations(cloudformation)[-2:] == ["UPDATE_FAILED", "UPDATE_COMPLETE"]
    assert account.run_job(UNKNOWN_INVITATION)["error_type"] == "SkipRetry"
    assert account.templates() == before
    # and a deploy of the code changes only the migration, which the watched deploy has changed on its way back
    output = account.deploy("a deploy of the same code", account.checkout.assembly)
    assert {*re.findall(r"✅ +(\S+) \(no changes\)", output)} == {*STACKS} - {f"{PREFIX}-jobs"}


def test_the_last_step_of_the_page_removes_the_stage(account: Account) -> None:
    for block in steps(PAGE)[1]:
        account.checkout.run(block.text, name=str(block))
    with (
        closing(boto3.client("cloudformation")) as cloudformation,
        closing(boto3.client("sqs")) as sqs,
        closing(boto3.client("lambda")) as functions,
    ):
        assert states(cloudformation).keys() == {"CDKToolkit"}
        assert sqs.list_queues().get("QueueUrls", []) == []
        assert functions.list_functions()["Functions"] == []
