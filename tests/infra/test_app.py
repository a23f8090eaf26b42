"""The CDK app with the real tasks, run as the CDK CLI runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import aws_cdk
import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_sqs as sqs
from typer.testing import CliRunner

import joblane.cdk.app
from infra.app import APP
from infra.settings import PlatformStage
from joblane.cdk import costs
from joblane.cdk.app import FEATURE_FLAGS, JoblaneApp, Synthesised, context_of_file
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.packaging import Packages
from joblane.cdk.templates import stacks_of
from joblane.cli import connect
from joblane.cli.main import app as command_line
from joblane.inspector.sentences.batching import batching_line
from joblane.inspector.views import Obstacle
from joblane.project import Project
from joblane.tasks.discovery import discover
from tests.builders import views
from tests.infra import templates
from tests.infra.conftest import STAGES, RealStages, Synth
from tests.infra.lint import lint
from tests.inspector import FakeInspector
from tests.pages import ROOT

NAMING = re.compile(r"(Name|Identifier)$")
"""Properties that name a resource."""
WITHIN = {
    ("AWS::ApiGatewayV2::Authorizer", "Name"): "its API",
    ("AWS::ApiGatewayV2::Stage", "StageName"): "its API",
    ("AWS::CloudWatch::Alarm", "MetricName"): "its namespace",
    ("AWS::IAM::Policy", "PolicyName"): "its role",
    ("AWS::RDS::DBCluster", "DatabaseName"): "its cluster",
    ("AWS::Scheduler::Schedule", "Name"): "its group",
}
"""Names that must be unique within this resource, and not in the account."""


@pytest.fixture(scope="module")
def stages(real_stages: RealStages) -> RealStages:
    return real_stages


@pytest.fixture(scope="module")
def real(stages: RealStages) -> Synthesised:
    """The real tasks on the real stage ``dev``."""
    return stages("dev")


PLANTED = {
    "Service": {"Type": "AWS::AppRunner::AutoScalingConfiguration"},
    "Instance": {
        "Type": "AWS::RDS::DBInstance",
        "DeletionPolicy": "Snapshot",
        "UpdateReplacePolicy": "Snapshot",
        "Properties": {"Engine": "postgres", "DBInstanceClass": "db.t2.micro", "DBSnapshotIdentifier": "planted"},
    },
    "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"Misspelt": 1}},
}
"""A service of large regions, an instance class of old regions, and a property that no region has."""


@pytest.fixture(scope="module")
def findings(
    stages: RealStages, synth: Synth, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[str, str]]]:
    """Rule and sentence of each finding of cfn-lint, by template, with CloudFormation's schemas of :data:`REGIONS`.

    Templates of the stages for AWS, one of them for the other processor, the own templates of one with an RDS instance,
    and :data:`PLANTED`.
    """
    folder = tmp_path_factory.mktemp("lint")
    dev, prod, rds = stages("dev"), stages("prod"), synth.app("rds")
    files = {done.stage.name: sorted(done.directory.glob("*.template.json")) for done in (dev, prod)}
    assert [*map(len, files.values())] == [len(dev.templates), len(prod.templates)]
    of_other = [folder / file.name for file in files["prod"]]
    for file, copy in zip(files["prod"], of_other, strict=True):
        copy.write_text(file.read_text().replace('"arm64"', '"x86_64"'))
    assert '"arm64"' in (dev.directory / "jobs-dev-jobs.template.json").read_text()
    assert '"x86_64"' in (folder / "jobs-prod-jobs.template.json").read_text()
    of_rds = [rds.directory / f"acme-{stack}.template.json" for stack in ("data", "monitoring")]
    planted = folder / "planted"
    planted.write_text(json.dumps({"Resources": PLANTED}))
    return lint([*files["dev"], *of_other, *of_rds, planted])


def test_cfn_lint_finds_nothing_in_the_templates_in_six_regions(findings: dict[str, list[tuple[str, str]]]) -> None:
    assert {name: found for name, found in findings.items() if found and name != "planted"} == {}
    assert {"jobs-dev-jobs.template.json", "jobs-prod-data.template.json", "acme-data.template.json"} <= {*findings}


def test_a_resource_or_value_that_a_region_lacks_is_found(findings: dict[str, list[tuple[str, str]]]) -> None:
    places = [(rule, message.rpartition(" in ")[2]) for rule, message in findings["planted"] if rule != "E3002"]
    young = ["'eu-south-1'", "'mx-central-1'"]
    assert sorted(places) == [(rule, region) for rule in ("E3006", "E3025") for region in young]
    assert [rule for rule, _ in findings["planted"]].count("E3002") == 1


def test_invalid_properties_are_refused_with_their_construct(
    no_packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_planted(app: App, jobs: Jobs, stage: PlatformStage) -> None:
        planted = sqs.CfnQueue(Stack.of(jobs), "Planted")
        planted.add_property_override("DelaySeconds", 5000)
        planted.add_property_override("Misspelt", 1)

    monkeypatch.setattr(joblane.cdk.app, "refuse_findings", lambda app: None)
    app = replace(APP, stacks=[add_planted])
    assert app.main(["-c", "stage=dev", "-o", str(tmp_path / "out")], lambda *_: no_packages) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  - ")]
    assert [re.sub(r": F\d+:", ":", line) for line in sorted(lines)] == [
        "  - jobs-dev-jobs/Planted: Misspelt: Additional properties are not allowed ('Misspelt' was unexpected)",
        "  - jobs-dev-jobs/Planted: DelaySeconds: 5000 is greater than the maximum of 900",
    ]


def test_run_by_hand_the_app_writes_to_the_output_folder_of_cdk_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    def synthesise(_app: object, _context: object, *, output: Path, **_options: object) -> None:
        written.append(output)
        raise SynthError("enough")

    monkeypatch.setattr(JoblaneApp, "synthesise", synthesise)
    monkeypatch.delenv("CDK_OUTDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    for given in ({"output": ".joblane/cdk.out"}, {}):
        (tmp_path / "cdk.json").write_text(json.dumps({**given, "context": {}}))
        JoblaneApp().main([])
    assert written == [tmp_path / ".joblane/cdk.out", tmp_path / "cdk.out"]
    (tmp_path / "cdk.json").unlink()
    (tmp_path / "cdk.json").mkdir()
    assert JoblaneApp().main([]) == 1
    assert "cdk.json cannot be read: Is a directory" in capsys.readouterr().err


def test_two_stages_share_no_name_in_an_account(stages: RealStages) -> None:
    def names(done: Synthesised) -> set[str]:
        """The names in the templates. CloudFormation makes all other names unique."""
        found = set(done.templates)
        for template in done.templates.values():
            for resource in template["Resources"].values():
                kind = resource["Type"]
                for key, value in resource.get("Properties", {}).items():
                    if NAMING.search(key) and isinstance(value, str) and (kind, key) not in WITHIN:
                        found.add(f"{kind} {value}")
        return found

    dev, prod = names(stages("dev")), names(stages("prod"))
    for name in ("SQS::Queue jobs-dev-low", "RDS::DBCluster jobs-dev-database", "Lambda::Function jobs-dev-router"):
        assert f"AWS::{name}" in dev
    assert dev & prod == set()


def test_no_permission_of_a_stage_covers_a_name_of_another_stage(stages: RealStages) -> None:
    for stage, other in (("dev", "prod"), ("prod", "dev")):
        for template in stages(stage).templates.values():
            text = json.dumps(template)
            assert f"jobs-{stage}" in text
            assert f"jobs-{other}" not in text
            assert "jobs-*" not in text


def test_the_shares_of_concurrency_are_printed(
    no_packages: Packages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main(["-c", "stage=dev", "-o", str(tmp_path)], lambda *_: no_packages) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stage dev: MaximumConcurrency = 20 × weight / ")
    assert "jobs-dev-critical-tenant-initialize" in err
    assert "$" not in err  # `joblane costs` has them
    assert (tmp_path / "jobs-dev-jobs.template.json").exists()


def test_a_stages_costs_follow_from_its_settings(stages: RealStages) -> None:
    dev, prod = (
        {line.price: line.amount for line in costs.fixed(costs.as_in_stage(found, discover(times={})), found)}
        for found in ([*stages(name).templates.values()] for name in ("dev", "prod"))
    )
    assert "NAT gateway hour" not in dev
    assert prod["NAT gateway hour"] == 2 * costs.HOURS
    assert dev["Aurora ACU-hour"] == pytest.approx(costs.LEAST_AWAKE * 155 / 6)  # 155 wakes of ten minutes
    assert prod["Aurora ACU-hour"] == 2 * costs.HOURS  # with a standby
    assert dev["SQS request"] == costs.mapped_queues(discover()) * costs.RECEIVES_PER_MAPPING


def test_the_command_computes_an_idle_stages_costs_from_its_templates(stages: RealStages) -> None:
    def output(*options: str, stage: str = "dev") -> str:
        line = ["costs", "--stage", stage, "--assembly", str(stages(stage).directory), *options]
        done = CliRunner().invoke(command_line, line)
        assert done.exit_code == 0, done.output
        return done.stdout

    text, found = output(), json.loads(output("--json"))
    assert text.startswith(f"Stage dev: about ${found['usd']:,.2f} a month if nobody uses it, estimated by prices of ")
    assert re.search(
        r"Aurora, awake for 26 of 720 hours +\$ +1\.55  the database; 155 times a month its schedules", text
    )
    assert re.search(r"18 alarms, for each metric they read +\$ +2\.50", text)
    assert text.splitlines()[-1] == (
        "The database: it may pause; schedules wake it 155 times a month and keep it awake for 26 of 720 hours, for "
        "$1.55; hours of each type alone: jobs:sweep (20.0), system_user:expiry (5.0), tenant:cleanup (5.0), "
        "report:generate (0.8). Types that run at the same time share a wake: give them common times in `schedules`."
    )
    assert "The database: " not in output(stage="prod")
    assert "NAT gateways" not in text
    assert "runs of system:health_check: its own SQS requests" not in text  # dev has switched it off
    assert "runs of system:health_check: its own SQS requests" in output(stage="prod")
    assert found["usd"] == pytest.approx(sum(line["usd"] for line in found["lines"]))
    # the sums of the page, which other tests compute
    assert f"\nAn account that has this stage alone pays about ${found['usd_after_allowances']:,.2f}: AWS gives" in text
    jobs = found["million_jobs"]
    assert (
        f"\nA million jobs of 0.1 s and 512 MB, spread over the month, add about ${jobs['usd']:,.2f}: Aurora, " in text
    )
    assert jobs["usd"] == pytest.approx(sum(line["usd"] for line in jobs["lines"]))
    assert 0 < found["usd_after_allowances"] < found["usd"] < jobs["usd"]
    assert all(line["for"] for line in found["lines"])


@pytest.mark.parametrize("more", [[], ["--stage", "prod"]], ids=["here", "a stage"])
def test_the_costs_say_what_batches_would_save(
    stages: RealStages, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    # given
    alone = views.batching(type="a:b", advised=None, obstacle=Obstacle.ALONE)
    inspector = FakeInspector(advised=[views.batching(), alone])
    asked: list[str | None] = []

    def connected(*, stage: str | None, **_: Any) -> FakeInspector:
        asked.append(stage)
        return inspector

    monkeypatch.setattr(connect, "connect", connected)

    def output(*options: str) -> str:
        line = ["costs", "--assembly", str(stages("dev").directory), *more, *options]
        done = CliRunner().invoke(command_line, line)
        assert done.exit_code == 0, done.output
        return done.stdout

    # when, then nothing is read if nobody asks
    assert "batches" not in json.loads(output("--json"))
    assert asked == []
    # when
    lines, found = output("--batches").splitlines(), json.loads(output("--batches", "--json"))
    # then
    assert lines[-2:] == [f"{one.type}: {batching_line(one)}" for one in inspector.advised]
    assert found["batches"] == [asdict(one) for one in inspector.advised]
    assert asked == [more[-1] if more else None] * 2
    inspector.advised = []
    assert output("--batches").splitlines()[-1].startswith("No task ran in the last 7 days")


def test_a_stage_without_network_database_and_buckets_of_its_own_has_no_data_stack(
    no_packages: Packages, tmp_path: Path
) -> None:
    # given an existing database, and functions outside of any network
    stage = {**STAGES["dev"], "settings": {}}
    done = JoblaneApp(functions="tests.infra.renamed").synthesise(
        context_of_file(Project.here()) | {"stage": "dev", "stages": {"dev": stage}},
        output=tmp_path,
        environ={},
        build=lambda stage, project: no_packages,
        findings=False,
    )
    assert stacks_of(done.templates) == ["acme-jobs"]


def test_a_burst_of_requests_leaves_the_lanes_of_development_their_concurrency(stages: RealStages) -> None:
    done = stages("dev")
    mappings = templates.mappings(done.whole("jobs-dev-jobs")).values()
    lanes = sum(mapping["ScalingConfig"]["MaximumConcurrency"] for _, mapping in mappings)
    assert lanes + sum(api.burst for api in done.stage.apis.values()) <= done.stage.account_concurrency


def the_next_step(*_: object) -> Packages:
    raise SynthError("the next step")


def test_names_of_the_examples_are_refused_if_the_cdk_has_credentials(no_packages: Packages, tmp_path: Path) -> None:
    context = context_of_file(Project.here()) | {"stage": "prod"}
    problem = r"stage 'prod': .*settings\.EMAIL_FROM_ADDRESS: it still has a name of the examples, .*; api\.authorizer"
    account = {"CDK_DEFAULT_ACCOUNT": "111122223333"}
    with pytest.raises(StageError, match=problem):
        APP.synthesise(context, output=tmp_path, environ=account, build=lambda *_: no_packages)
    # then templates can be written with credentials, as by `make synth`
    for deploys in (False, "false"):
        given = {"CDK_CONTEXT_JSON": json.dumps({"stage": "prod", "deploys": deploys})}
        with pytest.raises(SynthError, match="the next step"):  # of a synthesis builds the packages
            APP.synthesise(context, output=tmp_path, environ=account | given, build=the_next_step)
    assert "cdk synth --quiet --no-notices -c stage=$$stage -c deploys=false" in Path("Makefile").read_text()
    with pytest.raises(StageError, match=problem):
        APP.synthesise(context | {"deploys": True}, output=tmp_path, environ={}, build=lambda *_: no_packages)


def test_quiet_prints_nothing(
    no_packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joblane.cdk.app, "refuse_findings", lambda app: None)
    assert APP.main(["-c", "quiet=true", "-o", str(tmp_path)], lambda *_: no_packages) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stage", "message"),
    [("prdo", "no stage 'prdo' in cdk.json; there are dev, local, prod"), ("local", "DATABASE_URL is not set")],
)
def test_a_refusal_is_one_message_and_status_1(
    stage: str,
    message: str,
    no_packages: Packages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert APP.main(["-c", f"stage={stage}", "-o", str(tmp_path)], lambda *_: no_packages) == 1
    assert message in capsys.readouterr().err


def test_a_handler_with_a_syntax_error_is_one_message_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unparsed" / "data_export"
    folder.mkdir(parents=True)
    (tmp_path / "unparsed" / "__init__.py").touch()
    (folder / "handler.py").write_text("def data_export(payload, ctx)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("joblane.cdk.app.discover", lambda package, **_: discover("unparsed"))
    assert APP.main(["-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("joblane: unparsed/data_export/handler.py, line 1: SyntaxError: expected ':'\nFix it and ")
    assert "Traceback" not in error


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the app as the CDK CLI does, but without credentials."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))}
    command = [sys.executable, "-m", "infra.app", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ | more, capture_output=True, text=True, check=False)


def test_the_app_runs_as_a_module_and_context_of_the_cdk_cli_takes_precedence(tmp_path: Path) -> None:
    elsewhere = json.dumps({"stage": "elsewhere"})
    done = run("-c", "stage=nowhere", CDK_CONTEXT_JSON=elsewhere, CDK_OUTDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("joblane: no stage 'elsewhere' in cdk.json; there are dev, local, prod")


# --- Feature flags of the CDK --------------------------------------------------------------------------------------


def test_the_feature_flags_are_those_that_the_installed_cdk_recommends() -> None:
    (package,) = Path(aws_cdk.__file__).parent.glob("_jsii/aws-cdk-lib@*.jsii.tgz")
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/recommended-feature-flags.json")
        assert file is not None
        recommended = json.load(file)
    differing = {name for name, value in recommended.items() if FEATURE_FLAGS.get(name) != value}
    assert (differing, FEATURE_FLAGS.keys()) == ({"@aws-cdk/core:defaultCrossStackReferences"}, recommended.keys())


def test_no_feature_flag_is_left_for_the_cdk_to_report(real: Synthesised) -> None:
    # the CDK command line counts the flags without a value whose default differs from the recommended value
    artifacts = json.loads((real.directory / "manifest.json").read_text())["artifacts"]
    (flags,) = (each["properties"]["flags"] for each in artifacts.values() if "feature-flag" in each["type"])
    unset = {
        name
        for name, flag in flags.items()
        if "userValue" not in flag
        and flag.get("unconfiguredBehavesLike", {}).get("v2", False) != flag["recommendedValue"]
    }
    assert (len(flags) > 80, unset) == (True, set())
