"""The construct in another application's CDK app, which has its own network and database."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_rds as rds
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_lambda_event_sources import SqsEventSource

from joblane.cdk import packaging
from joblane.cdk.app import JoblaneApp
from joblane.cdk.construct import JobDatabase, Joblane
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.nag import refuse_findings
from joblane.cdk.packaging import Packages
from joblane.cdk.preflight.keys import jobs_of, keys_output
from joblane.cdk.templates import read_assembly, whole
from tests.infra import templates
from tests.infra.conftest import NEXT_KEY, STAGE_KEY, TASKS
from tests.infra.templates import Template
from tests.pages import ROOT, blocks

VERSION = rds.AuroraPostgresEngineVersion.VER_16_6
SENDING = {"sqs:GetQueueUrl", "sqs:SendMessage"}
OWN_APP = ROOT / "docs" / "how-to" / "own-cdk-app.md"
SETTINGS: dict[str, Any] = {"prefix": "shop", "mail_from": "shop@example.com"}


class Shop:
    """A CDK app with a VPC, a cluster, a bucket, and the jobs of the test tasks in ``stack``."""

    def __init__(self, packages: Packages, folder: Path, *, apart: bool = False) -> None:
        self._packages = packages
        self._folder = folder
        self.app = App(outdir=str(folder), analytics_reporting=False)
        self.stack = Stack(self.app, "shop")
        base = Stack(self.app, "base") if apart else self.stack
        self.vpc = ec2.Vpc(base, "Vpc", max_azs=2)
        self.cluster = rds.DatabaseCluster(
            base,
            "Orders",
            engine=rds.DatabaseClusterEngine.aurora_postgres(version=VERSION),
            writer=rds.ClusterInstance.serverless_v2("Writer"),
            vpc=self.vpc,
        )
        self.bucket = s3.Bucket(self.stack, "Files")

    def add_jobs(self, database: JobDatabase | None = None, **arguments: Any) -> Joblane:
        return Joblane(
            self.stack,
            "Jobs",
            functions=TASKS,
            vpc=self.vpc,
            database=database or JobDatabase.of(self.cluster, name="orders"),
            buckets={name: GrantedBucket(self.bucket, "FILES") for name in ("reports", "exports")},
            build=lambda *_: self._packages,
            **{**SETTINGS, **arguments},
        )

    def template(self) -> Template:
        return whole(read_assembly(Path(self.app.synth().directory)), "shop")

    def problems(self) -> list[str]:
        """Synthesise, expect a refusal, and return its problems."""
        with pytest.raises(RuntimeError, match="ValidationFailed"):
            self.app.synth()
        report = json.loads((self._folder / "validation-report.json").read_text())
        return [
            violation["description"]
            for plugin in report["pluginReports"]
            if plugin["pluginName"] == "Joblane"
            for violation in plugin["violations"]
        ]


@pytest.fixture
def shop(no_packages: Packages, tmp_path: Path) -> Shop:
    return Shop(no_packages, tmp_path)


def names(template: Template, stack: Stack, things: dict[str, Any], attribute: str) -> dict[str, str]:
    return {key: templates.target(template, stack.resolve(getattr(thing, attribute))) for key, thing in things.items()}


@pytest.fixture(scope="module")
def used(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop whose services enqueue: ``Web`` was granted a type, and ``Mobile`` has the policy of another type."""
    shop = Shop(no_packages, tmp_path_factory.mktemp("shop"))
    jobs = shop.add_jobs()
    web, mobile = (
        iam.Role(shop.stack, name, assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
        for name in ("Web", "Mobile")
    )
    jobs.grant_enqueue(web, "report:build")
    mobile.add_managed_policy(jobs.producer_policies["order:ship"])
    return shop


@pytest.fixture(scope="module")
def template(used: Shop) -> Template:
    return used.template()


def the(kind: type[Any], id_: str, stack: Stack) -> Any:
    """The construct ``id_`` in the stack."""
    found = stack.node.find_child(id_)
    assert isinstance(found, kind)
    return found


def test_cloudformation_can_order_the_resources(template: Template) -> None:
    assert templates.circle(template) == []


# --- Attributes ----------------------------------------------------------------------------------------------------


def test_queues_functions_and_policies_are_attributes_by_name(used: Shop, template: Template) -> None:
    jobs = the(Joblane, "Jobs", used.stack)
    queues = names(template, used.stack, dict(jobs.queues), "queue_arn")
    assert queues == {name: f"shop-{name}" for name in queues}
    assert {"critical", "default", "low", "critical-order-ship", "default-report-build"} <= queues.keys()
    functions = names(template, used.stack, dict(jobs.functions), "function_arn")
    assert functions == {
        "gateway": "shop-gateway",
        "jobs:bulk": "shop-jobs-bulk",
        "jobs:sweep": "shop-jobs-sweep",
        "order:ship": "shop-order-ship",
        "report:build": "shop-report-build",
    }
    assert jobs.producer_policies.keys() == {"critical", "default", "low", *functions} - {"gateway"}


def test_a_producer_may_send_what_was_granted_and_nothing_else(used: Shop, template: Template) -> None:
    allowed = templates.allowed_to_role(template, used.stack.resolve(the(iam.Role, "Web", used.stack).role_arn))
    # only the permissions for the lanes of the type and of the sweep, which it wakes
    lanes = {"shop-default-report-build", "shop-critical-report-build", "shop-low-jobs-sweep"}
    assert allowed == dict.fromkeys(SENDING, lanes)


def test_a_producer_policy_can_be_attached(used: Shop, template: Template) -> None:
    role = used.stack.resolve(the(iam.Role, "Mobile", used.stack).node.default_child.logical_id)
    (attached,) = template["Resources"][role]["Properties"]["ManagedPolicyArns"]
    policy = templates.of_type(template, "AWS::IAM::ManagedPolicy")[attached["Ref"]]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert set(statement["Action"]) == SENDING
    lanes = {templates.target(template, lane) for lane in statement["Resource"]}
    assert lanes == {"shop-critical-order-ship", "shop-low-jobs-sweep"}


def test_a_grant_of_an_unknown_type_is_refused(shop: Shop) -> None:
    jobs = shop.add_jobs()
    role = iam.Role(shop.stack, "Web", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
    with pytest.raises(SynthError, match=r"grant_enqueue: no task 'order:shop'; there are .*order:ship"):
        jobs.grant_enqueue(role, "order:shop")


# --- The network and the database ----------------------------------------------------------------------------------


def test_functions_run_in_the_vpc_and_reach_the_cluster_by_its_secret(used: Shop, template: Template) -> None:
    secret = used.stack.resolve(used.cluster.secret.secret_arn)  # type: ignore[union-attr]
    private = [used.stack.resolve(subnet.subnet_id) for subnet in used.vpc.private_subnets]
    for name in ("shop-order-ship", "shop-gateway", "shop-migrate"):
        assert templates.functions(template)[name]["VpcConfig"]["SubnetIds"] == private
        url = templates.variables(template, name)["DATABASE_URL"]
        assert secret in url["Fn::Join"][1]
        text = templates.target(template, url)
        assert text.startswith("postgresql://Orders")
        assert "/orders?secret=" in text
        allowed = templates.allowed(template, name)
        assert allowed["secretsmanager:GetSecretValue"] == {secret["Ref"]}
    (ingress,) = templates.of_type(template, "AWS::EC2::SecurityGroupIngress").values()
    assert ingress["Description"] == "functions to database"
    assert "DATABASE_URL" not in templates.variables(template, "shop-router")


def test_the_migration_waits_for_the_instances_of_the_cluster(template: Template) -> None:
    (run,) = (item for item in template["Resources"].values() if item["Type"] == "Custom::Migration")
    kinds = {template["Resources"][logical_id]["Type"] for logical_id in run["DependsOn"]}
    assert "AWS::RDS::DBInstance" in kinds


def test_network_and_cluster_may_be_in_another_stack(no_packages: Packages, tmp_path: Path) -> None:
    shop = Shop(no_packages, tmp_path, apart=True)
    shop.add_jobs()
    found = read_assembly(Path(shop.app.synth().directory))
    assert [templates.circle(template) for template in found.values()] == [[]] * len(found)
    (ingress,) = templates.of_type(whole(found, "shop"), "AWS::EC2::SecurityGroupIngress").values()
    assert "Fn::ImportValue" in ingress["GroupId"]


def test_an_instance_is_reached_like_a_cluster(shop: Shop) -> None:
    engine = rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_16)
    instance = rds.DatabaseInstance(shop.stack, "Single", engine=engine, vpc=shop.vpc, port=5433)
    shop.add_jobs(JobDatabase.of(instance, name="orders"))
    template = shop.template()
    url = templates.target(template, templates.variables(template, "shop-order-ship")["DATABASE_URL"])
    assert url.startswith("postgresql://Single")
    assert "/orders?secret=" in url


def test_an_address_that_is_a_secret_is_in_no_template(shop: Shop) -> None:
    secret = secretsmanager.Secret.from_secret_name_v2(shop.stack, "Address", "shop/database-url")
    shop.add_jobs(JobDatabase.of_url(secret))
    template = shop.template()
    for name in ("shop-order-ship", "shop-migrate"):
        assert templates.variables(template, name)["DATABASE_URL"] == "postgresql:///?secret=shop/database-url"
        (allowed,) = templates.allowed(template, name)["secretsmanager:GetSecretValue"]
        assert allowed.endswith(":secret:shop/database-url-??????")
    ours = [item for item in template["Resources"].values() if item["Type"] not in {"AWS::RDS::DBCluster"}]
    assert "resolve:secretsmanager" not in json.dumps(ours)  # the cluster's own password is the application's
    assert not templates.of_type(template, "AWS::EC2::SecurityGroupIngress")


def test_a_database_without_a_secret_is_refused(shop: Shop) -> None:
    cluster = rds.DatabaseCluster.from_database_cluster_attributes(shop.stack, "Theirs", cluster_identifier="theirs")
    with pytest.raises(SynthError, match=r"database: shop/Theirs has no secret; pass the secret of the login as secre"):
        JobDatabase.of(cluster, name="orders")


# --- Arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": "Shop"}, "shop/Jobs: prefix: "),
        ({"concurrency_budget": 1}, "shop/Jobs: concurrency_budget: .*greater than or equal to 2"),
        ({"concurency_budget": 20}, "shop/Jobs: concurency_budget: there is no such setting here"),
        ({"settings": {"NO_SUCH": "x"}}, "shop/Jobs: settings: no task declares NO_SUCH"),
        ({"schedules": {"jobs:swep": "off"}}, "schedules: jobs:swep: no task with a schedule"),
        ({"mail_from": "Shop"}, "shop/Jobs: mail_from: "),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(arguments: dict[str, Any], message: str, shop: Shop) -> None:
    with pytest.raises(StageError, match=message):
        shop.add_jobs(**arguments)


def test_ipv6_is_refused_where_the_dual_stack_hosts_are_not_known(no_packages: Packages) -> None:
    stack = Stack(App(), "shop", env={"region": "cn-north-1"})
    with pytest.raises(
        SynthError, match=r"shop/Jobs: ipv6: .* of cn-north-1, .*; use subnets that reach everything over"
    ):
        Joblane(
            stack,
            "Jobs",
            functions=TASKS,
            vpc=ec2.Vpc(stack, "Vpc"),
            ipv6=True,
            database=JobDatabase.of_url(secretsmanager.Secret(stack, "Address")),
            build=lambda *_: no_packages,
            **SETTINGS,
        )


def test_a_key_encrypts_the_queues_and_one_of_another_region_is_refused(shop: Shop, no_packages: Packages) -> None:
    jobs = shop.add_jobs(kms_key=STAGE_KEY, other_kms_keys=[NEXT_KEY])
    assert jobs.queues["default"].encryption_master_key is not None
    template = shop.template()
    assert {queue["KmsMasterKeyId"] for queue in templates.queues(template).values()} == {STAGE_KEY}
    # the preflight finds the keys of the deployed stack, by names in the template
    assert (found := jobs_of({"shop": template})) is not None
    assert template["Outputs"][keys_output(found[1])]["Value"] == f"{STAGE_KEY} {NEXT_KEY}"
    stack = Stack(App(), "elsewhere", env={"region": "eu-west-1"})
    with pytest.raises(SynthError, match="elsewhere/Jobs: kms_key: the key is in eu-central-1, and the stage in eu-we"):
        Joblane(
            stack,
            "Jobs",
            functions=TASKS,
            database=JobDatabase.of_url(secretsmanager.Secret(stack, "Url")),
            build=lambda *_: no_packages,
            **{**SETTINGS, "kms_key": STAGE_KEY},
        )


def test_a_key_of_another_account_is_named_by_its_arn(no_packages: Packages, tmp_path: Path) -> None:
    # given a stage and a key in two accounts: a key id alone would be looked up in the account of the stage
    key = STAGE_KEY.replace("111122223333", "999999999999")
    app = App(outdir=str(tmp_path), analytics_reporting=False)
    stack = Stack(app, "shop", env={"account": "111122223333", "region": "eu-central-1"})
    bucket = s3.Bucket(stack, "Files")
    Joblane(
        stack,
        "Jobs",
        functions=TASKS,
        database=JobDatabase.of_url(secretsmanager.Secret(stack, "Url")),
        buckets={name: GrantedBucket(bucket, "FILES") for name in ("reports", "exports")},
        build=lambda *_: no_packages,
        **{**SETTINGS, "kms_key": key},
    )
    # then queues, logs and the permissions of roles have its ARN
    template = whole(read_assembly(Path(app.synth().directory)), "shop")
    assert {queue["KmsMasterKeyId"] for queue in templates.queues(template).values()} == {key}
    assert {group["KmsKeyId"] for group in templates.of_type(template, "AWS::Logs::LogGroup").values()} == {key}
    roles = json.dumps([*templates.of_type(template, "AWS::IAM::Role").values()])
    assert set(re.findall(r"arn:aws:kms:[^\"]+", roles)) == {key}


def test_an_unknown_bucket_in_grants_is_refused(shop: Shop, no_packages: Packages) -> None:
    with pytest.raises(SynthError, match=r"task 'report:build': grants.buckets: no bucket 'exports'; there are none"):
        Joblane(
            shop.stack,
            "Jobs",
            functions=TASKS,
            database=JobDatabase.of(shop.cluster, name="orders"),
            build=lambda *_: no_packages,
            **SETTINGS,
        )


def test_a_project_without_functions_is_refused(shop: Shop, no_packages: Packages) -> None:
    with pytest.raises(Exception, match=r"there is no package 'no_functions' with the tasks.*joblane init"):
        Joblane(
            shop.stack,
            "Jobs",
            functions="no_functions",
            database=JobDatabase.of(shop.cluster, name="orders"),
            build=lambda *_: no_packages,
        )


# --- Checks --------------------------------------------------------------------------------------------------------


def test_a_budget_that_does_not_fit_fails_the_synthesis(shop: Shop) -> None:
    shop.add_jobs(concurrency_budget=100)
    concurrency, connections = shop.problems()
    assert re.search(r"above account_concurrency 50: lower concurrency_budget \(100\) to \d+, or raise", concurrency)
    assert "above database_connections 100: lower concurrency_budget (100)" in connections


def consume(shop: Shop, queue: sqs.IQueue, **mapping: Any) -> None:
    function = lambda_.Function(
        shop.stack,
        "Own",
        runtime=lambda_.Runtime.PYTHON_3_13,
        handler="index.handler",
        code=lambda_.Code.from_inline("def handler(event, context): ..."),
        timeout=Duration.seconds(10),
    )
    function.add_event_source(SqsEventSource(queue, **mapping))


def test_queues_of_the_application_are_not_checked(shop: Shop) -> None:
    # given a mapping that would be refused for a lane
    shop.add_jobs()
    consume(shop, sqs.Queue(shop.stack, "Mine"))
    assert shop.template()


def test_a_second_consumer_of_a_lane_fails_the_synthesis(shop: Shop) -> None:
    jobs = shop.add_jobs()
    consume(shop, jobs.queues["critical-order-ship"], report_batch_item_failures=True, max_concurrency=2)
    assert any("queue shop-critical-order-ship: has 2 consumers" in problem for problem in shop.problems())


def test_cdk_nag_has_no_unacknowledged_finding_in_the_construct(shop: Shop) -> None:
    refuse_findings(shop.add_jobs())


def test_jobs_of_two_prefixes_can_be_in_one_app(shop: Shop, no_packages: Packages) -> None:
    shop.add_jobs()
    Joblane(
        Stack(shop.app, "second"),
        "Jobs",
        functions=TASKS,
        database=JobDatabase.of_url(secretsmanager.Secret.from_secret_name_v2(shop.stack, "Url", "url")),
        buckets={name: GrantedBucket(shop.bucket, "FILES") for name in ("reports", "exports")},
        build=lambda *_: no_packages,
        prefix="other",
        mail_from="shop@example.com",
    )
    assembly = shop.app.synth()
    for stack, prefix in (("shop", "shop"), ("second", "other")):
        queues = templates.queues(assembly.get_stack_by_name(stack).template)
        assert f"{prefix}-default" in queues


# --- The page ------------------------------------------------------------------------------------------------------


def test_the_example_of_the_page_synthesises(
    no_packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given empty zips in place of the real zips
    (block,) = (block for block in blocks("python", OWN_APP) if block.mark == "construct")
    monkeypatch.setattr(packaging, "build_layer", lambda *_: no_packages.layer)
    monkeypatch.setattr(packaging, "build_code", lambda *_: no_packages.code)
    monkeypatch.setattr(packaging, "check_layer", lambda *_: None)
    monkeypatch.setattr(packaging, "find_uv", lambda *_: "uv")
    # when
    source = block.text.replace("App()", f"App(outdir={str(tmp_path)!r})")
    exec(compile(source, str(block), "exec"), {"__name__": "example"})
    # then
    template = whole(read_assembly(tmp_path), "shop")
    assert {"shop-data-export", "shop-user-invitation", "shop-router"} <= set(templates.functions(template))
    assert "shop-low-tenant-cleanup" in templates.queues(template)


def test_the_imports_of_the_example_find_the_projects_node(tmp_path: Path) -> None:
    # given a project with the tools, and no Node.js on PATH
    (block,) = (block for block in blocks("python", OWN_APP) if block.mark == "construct")
    (tmp_path / "functions").mkdir()
    (tmp_path / ".joblane").mkdir()
    (tmp_path / ".joblane" / "tools").symlink_to(ROOT / ".joblane" / "tools")
    source = block.text.partition("\n\n\n")[0]
    # then the imports work, and ruff keeps their order
    imported = _import(source, tmp_path)
    assert imported.returncode == 0, imported.stderr
    command = ["ruff", "check", "--isolated", "--select", "I", "-"]
    sorted_ = subprocess.run(command, input=source + "\n", cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sorted_.returncode == 0, sorted_.stdout


def test_without_node_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    imported = _import("import joblane.cdk.app", tmp_path)
    assert imported.stderr.splitlines()[-1].endswith("in JSII_NODE or on PATH. `joblane up` fetches it")


def _import(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": str(folder), "JSII_RUNTIME_PACKAGE_CACHE_ROOT": os.environ["JSII_RUNTIME_PACKAGE_CACHE_ROOT"]}
    command = [sys.executable, "-c", source]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_the_local_stage_of_the_page_is_the_app_of_joblane_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # given the lines of the page for the local stage
    page = ROOT / "docs" / "how-to" / "own-cdk-app.md"
    [block] = [block for block in blocks("python", page) if not block.mark]
    monkeypatch.setattr(JoblaneApp, "main", lambda _: 7)
    # when the stage is another one, then the program continues
    exec(block.text, {})
    # when it is the local stage, then the program ends as Joblane's app does
    with pytest.raises(SystemExit) as ended:
        exec(block.text.replace("if App()", 'if App(context={"stage": "local"})'), {})
    assert ended.value.code == 7
