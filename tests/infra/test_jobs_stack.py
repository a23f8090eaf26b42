"""The resources of the jobs stack, read from the templates of the test tasks."""

from __future__ import annotations

import json
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.local.git import version_of
from joblane.names import TICKER
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_MESSAGE_BYTES, QUEUE_RETENTION
from joblane.sqs import message
from joblane.tasks.discovery import discover
from joblane.tasks.task import Task
from joblane.worker.routes import decode
from tests.infra import templates
from tests.infra.conftest import DATABASE_SECRET, DATABASE_URL, RDS_HOST, STAGES, TASKS, Synth
from tests.infra.templates import Template

LANES = {
    "acme-critical-order-ship": "order:ship",
    "acme-critical-report-build": "report:build",
    "acme-default-report-build": "report:build",
    "acme-low-jobs-bulk": "jobs:bulk",
    "acme-low-jobs-sweep": "jobs:sweep",
}
FRONT_DOORS = ("acme-critical", "acme-default", "acme-low")


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task[Any, Any]]:
    return discover(TASKS)


@pytest.fixture(scope="module")
def template(dev: Synthesised) -> Template:
    return dev.whole("acme-jobs")


@pytest.fixture(scope="module", params=["dev", "local"])
def either(request: pytest.FixtureRequest) -> Template:
    """The template for AWS, and the template for an emulator."""
    done: Synthesised = request.getfixturevalue(request.param)
    return done.whole(f"{done.stage.prefix}-jobs")


# --- Queues --------------------------------------------------------------------------------------------------------


def test_each_lane_and_each_front_door_has_a_queue_and_a_dlq(template: Template) -> None:
    expected = {*LANES, *FRONT_DOORS}
    assert set(templates.queues(template)) == {*expected, *(f"{name}-dlq" for name in expected), "acme-cron-dlq"}


def test_each_queue_has_its_own_dlq_with_a_longer_retention(either: Template) -> None:
    for name, queue in templates.queues(either).items():
        if name.endswith("-dlq"):
            assert queue["MessageRetentionPeriod"] == DEAD_LETTER_RETENTION.total_seconds()
            assert "RedrivePolicy" not in queue
        else:
            assert queue["MessageRetentionPeriod"] == QUEUE_RETENTION.total_seconds()
            assert templates.target(either, queue["RedrivePolicy"]["deadLetterTargetArn"]) == f"{name}-dlq"


def test_each_queue_accepts_the_largest_message_of_sqs(either: Template) -> None:
    # a queue without the property has SQS's default, which was lower in the past
    assert {queue["MaximumMessageSize"] for queue in templates.queues(either).values()} == {MAX_MESSAGE_BYTES}


def test_a_lane_has_the_numbers_of_its_declaration(template: Template, tasks: dict[str, Task[Any, Any]]) -> None:
    for name, type_ in LANES.items():
        queue, numbers = templates.queues(template)[name], tasks[type_].numbers
        assert timedelta(seconds=queue["VisibilityTimeout"]) == numbers.visibility
        assert queue["RedrivePolicy"]["maxReceiveCount"] == numbers.max_receive_count


def test_queues_are_encrypted_and_refuse_plain_http(template: Template) -> None:
    assert all(queue["SqsManagedSseEnabled"] for queue in templates.queues(template).values())
    guarded = set()
    for policy in templates.of_type(template, "AWS::SQS::QueuePolicy").values():
        statement, *_ = policy["PolicyDocument"]["Statement"]
        assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", {"AWS": "*"}, "sqs:*")
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert statement["Resource"] == "*"  # in a queue's policy: the queue
        guarded |= {templates.target(template, queue) for queue in policy["Queues"]}
    assert guarded == set(templates.queues(template))


def test_an_emulator_accepts_plain_http(local: Synthesised) -> None:
    assert not templates.of_type(local.whole("jobs-jobs"), "AWS::SQS::QueuePolicy")


def test_lambdas_guard_is_off_where_a_long_chain_is_declared(
    template: Template, tasks: dict[str, Task[Any, Any]]
) -> None:
    off = {name for name, made in templates.functions(template).items() if made.get("RecursiveLoop") == "Allow"}
    long = {f"acme-{task.slug}" for task in tasks.values() if task.max_depth > 15}
    assert (off, long) == ({*long, "acme-jobs-sweep"}, {"acme-order-ship"})  # the sweep sends itself the next one


# --- Mappings ------------------------------------------------------------------------------------------------------


def test_each_queue_has_its_one_consumer(template: Template) -> None:
    consumers = {queue: function for queue, (function, _) in templates.mappings(template).items()}
    assert consumers == {
        **{lane: f"acme-{type_.replace(':', '-')}" for lane, type_ in LANES.items()},
        **dict.fromkeys(FRONT_DOORS, "acme-router"),
    }
    assert len(consumers) == len(templates.of_type(template, "AWS::Lambda::EventSourceMapping"))


def test_each_mapping_reports_item_failures_has_a_limit_and_has_no_filter(either: Template) -> None:
    for _, mapping in templates.mappings(either).values():
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2
        assert "FilterCriteria" not in mapping
        assert "MaximumBatchingWindowInSeconds" not in mapping


def test_batch_size_and_concurrency_are_as_declared_and_shared(template: Template) -> None:
    found = {
        queue: (mapping["BatchSize"], mapping["ScalingConfig"]["MaximumConcurrency"])
        for queue, (_, mapping) in templates.mappings(template).items()
    }
    # budget 20 over the weights 6 + 6 + 3 + 1 + 1; report:build declares 3 at most
    assert found == {
        "acme-critical-order-ship": (1, 7),
        "acme-critical-report-build": (10, 3),
        "acme-default-report-build": (10, 3),
        "acme-low-jobs-bulk": (1, 2),
        "acme-low-jobs-sweep": (1, 2),
        **dict.fromkeys(FRONT_DOORS, (10, 2)),
    }


# --- Functions -----------------------------------------------------------------------------------------------------


def test_a_task_has_one_function_with_the_generic_entry(template: Template, tasks: dict[str, Task[Any, Any]]) -> None:
    others = {"acme-router", "acme-gateway", "acme-migrate"}
    assert set(templates.functions(template)) == {f"acme-{task.slug}" for task in tasks.values()} | others
    for task in tasks.values():
        function = templates.functions(template)[f"acme-{task.slug}"]
        assert function["Handler"] == "joblane.worker.lambda_entry.handler"
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["MemorySize"] == task.memory_mb
        assert timedelta(seconds=function["Timeout"]) == task.numbers.function_timeout


def test_all_functions_share_the_code_and_the_layer(either: Template) -> None:
    functions = templates.functions(either).values()
    assert len({json.dumps(function["Code"], sort_keys=True) for function in functions}) == 1
    assert len({json.dumps(function["Layers"]) for function in functions}) == 1


def test_the_environment_has_the_tasks_settings_and_no_secret(template: Template) -> None:
    found = dict(templates.variables(template, "acme-report-build"))
    assert "Fn::ImportValue" in found.pop("EXPORT_BUCKET")
    assert found == {
        "JOBLANE_FUNCTIONS": "tests.infra.tasks",
        "JOBLANE_TASK": "report:build",
        "JOBLANE_PREFIX": "acme",
        "JOBLANE_STAGE": "dev",
        "JOBLANE_SWEEP_MINUTES": "360",
        "DATABASE_URL": f"postgresql://db.internal:5432/acme?secret={DATABASE_SECRET}",
        "POWERTOOLS_SERVICE_NAME": "acme",
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "EMAIL_FROM_ADDRESS": "Acme <no-reply@example.com>",
        "JOBLANE_MAIL_FROM": "no-reply@example.com",
        "JOBLANE_SECRETS": '{"SMTP_PASSWORD": {"secret": "acme/smtp"}}',
    }
    assert "EMAIL_FROM_ADDRESS" not in templates.variables(template, "acme-order-ship")


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


def test_a_local_stage_takes_values_from_the_environment_of_this_machine(local: Synthesised) -> None:
    found = templates.variables(local.whole("jobs-jobs"), "jobs-report-build")
    assert found["DATABASE_URL"] == DATABASE_URL
    assert found["SMTP_HOST"] == "127.0.0.1"
    assert found["EMAIL_FROM_ADDRESS"] == "local@example.com"
    assert found["JOBLANE_STAGE"] == "local"


def test_the_router_knows_each_open_type_with_its_home_queue_first(template: Template) -> None:
    found = templates.variables(template, "acme-router")
    assert decode(found["JOBLANE_ROUTES"]) == {"order:ship": ["critical"], "report:build": ["default", "critical"]}
    assert "DATABASE_URL" not in found


def test_a_declared_function_has_its_folders_name_and_its_declared_settings(template: Template) -> None:
    function = templates.functions(template)["acme-gateway"]
    assert function["Handler"] == "tests.infra.tasks.gateway.handler.handler"
    assert (function["Timeout"], function["MemorySize"], function["Description"]) == (29, 512, "Answers")
    found = dict(templates.variables(template, "acme-gateway"))
    assert "Fn::ImportValue" in found.pop("EXPORT_BUCKET")
    assert found == {
        "JOBLANE_FUNCTIONS": "tests.infra.tasks",
        "JOBLANE_PREFIX": "acme",
        "JOBLANE_STAGE": "dev",
        "JOBLANE_SWEEP_MINUTES": "360",
        "DATABASE_URL": f"postgresql://db.internal:5432/acme?secret={DATABASE_SECRET}",
        "POWERTOOLS_SERVICE_NAME": "acme",
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "EMAIL_FROM_ADDRESS": "Acme <no-reply@example.com>",
    }


def test_a_declared_function_reads_its_buckets_and_sends_its_tasks(template: Template) -> None:
    allowed = templates.allowed(template, "acme-gateway")
    assert allowed["sqs:SendMessage"] == {"acme-critical-order-ship", "acme-low-jobs-sweep"}
    assert {action for action in allowed if action.startswith("s3:")} == {"s3:GetObject"}
    assert "sqs:ReceiveMessage" not in allowed


def test_the_logs_of_every_function_expire(either: Template) -> None:
    logs = templates.of_type(either, "AWS::Logs::LogGroup")
    assert set(logs) == {f"/aws/lambda/{name}" for name in templates.functions(either)}
    assert all(group["RetentionInDays"] > 0 for group in logs.values())
    for name, function in templates.functions(either).items():
        assert templates.target(either, function["LoggingConfig"]["LogGroup"]) == f"/aws/lambda/{name}"


# --- Permissions ---------------------------------------------------------------------------------------------------


def test_a_function_receives_only_from_its_own_lanes(template: Template) -> None:
    for function in {*templates.functions(template)} - {"acme-gateway", "acme-migrate"}:
        own = {queue for queue, (consumer, _) in templates.mappings(template).items() if consumer == function}
        for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"):
            queues = templates.allowed(template, function)[action]
            assert {queue for queue in queues if not queue.endswith("-dlq")} == own


def test_a_function_sends_to_its_own_lanes_and_dlqs_and_to_granted_types(template: Template) -> None:
    report = {"acme-default-report-build", "acme-critical-report-build"}
    own = {"acme-critical-order-ship", "acme-critical-order-ship-dlq"}
    assert templates.allowed(template, "acme-report-build")["sqs:SendMessage"] == {
        *report,
        *(f"{name}-dlq" for name in report),
        "acme-low-jobs-sweep",
    }
    assert templates.allowed(template, "acme-order-ship")["sqs:SendMessage"] == {*own, *report, "acme-low-jobs-sweep"}


def test_every_function_that_writes_to_the_record_may_wake_the_sweep(template: Template) -> None:
    lane = "acme-low-jobs-sweep"
    for name, function in templates.functions(template).items():
        allowed = templates.allowed(template, name)
        writes = "DATABASE_URL" in function["Environment"]["Variables"]
        for action in ("sqs:GetQueueUrl", "sqs:SendMessage"):
            queues = [queue.rpartition(":")[2] for queue in allowed.get(action, ())]
            assert any(fnmatch(lane, queue) for queue in queues) is (writes or name == "acme-router"), name


def test_the_sweep_reads_every_dead_letter_queue_and_deletes_nothing(template: Template) -> None:
    allowed = templates.allowed(template, "acme-jobs-sweep")
    lane = "acme-low-jobs-sweep"
    dead_letters = {*(f"{name}-dlq" for name in FRONT_DOORS), *(f"{name}-*-dlq" for name in FRONT_DOORS)}
    assert {name.rpartition(":")[2] for name in allowed["sqs:ReceiveMessage"]} == {*dead_letters, lane}
    assert allowed["sqs:DeleteMessage"] == {lane}
    assert templates.allowed(template, "acme-order-ship")["sqs:ReceiveMessage"] == {"acme-critical-order-ship"}


def test_the_sweep_reads_the_number_of_messages_in_every_lane(template: Template) -> None:
    allowed = templates.allowed(template, "acme-jobs-sweep")
    for action in ("sqs:GetQueueAttributes", "sqs:GetQueueUrl"):
        assert {name.rpartition(":")[2] for name in allowed[action]} >= {f"{name}-*" for name in FRONT_DOORS}


def test_the_sweep_sends_to_every_lane_and_dlq_and_to_no_front_door(template: Template) -> None:
    sent = templates.allowed(template, "acme-jobs-sweep")["sqs:SendMessage"]
    patterns = {name.rpartition(":")[2] for name in sent if name.endswith("*")}
    assert patterns == {"acme-critical-*", "acme-default-*", "acme-low-*"}
    assert not set(FRONT_DOORS) & sent


def test_the_router_sends_to_open_lanes_and_to_dlqs_of_front_doors(template: Template) -> None:
    # given the role, which allows every lane by a pattern, so that it does not grow with the lanes
    sent = templates.allowed(template, "acme-router")["sqs:SendMessage"]
    assert {name.rpartition(":")[2] for name in sent} == {
        *(f"{name}-*" for name in FRONT_DOORS),
        *(f"{name}-dlq" for name in FRONT_DOORS),
    }
    # then it denies the lanes' DLQs, and the policies of closed lanes deny the role
    role = templates.functions(template)["acme-router"]["Role"]["Fn::GetAtt"][0]
    (denied,) = (item for item in templates.statements(template, role) if item["Effect"] == "Deny")
    assert "sqs:SendMessage" in denied["Action"]
    assert {templates.target(template, item).rpartition(":")[2] for item in denied["Resource"]} == {
        f"{name}-*-dlq" for name in FRONT_DOORS
    }
    closed = {lane for lane, type_ in LANES.items() if type_.startswith("jobs:")}
    assert templates.closed_to(template, "acme-router") == closed | {f"{lane}-dlq" for lane in closed}


def test_mail_and_bucket_are_granted_only_if_declared(template: Template) -> None:
    role = templates.functions(template)["acme-report-build"]["Role"]["Fn::GetAtt"][0]
    (mail,) = (item for item in templates.statements(template, role) if "ses:SendEmail" in item["Action"])
    assert mail["Condition"] == {"StringEquals": {"ses:FromAddress": "no-reply@example.com"}}
    # SES also checks the default configuration set of an identity
    ends = {templates.target(template, resource).rpartition(":")[2] for resource in mail["Resource"]}
    assert ends == {"identity/*", "configuration-set/*"}
    allowed = templates.allowed(template, "acme-report-build")
    assert {action for action in allowed if action.startswith("s3:")} == {"s3:AbortMultipartUpload", "s3:PutObject"}
    for other in ("acme-order-ship", "acme-jobs-sweep", "acme-router"):
        assert not [action for action in templates.allowed(template, other) if action.startswith(("s3:", "ses:"))]


def test_no_statement_allows_every_action_or_every_resource(either: Template) -> None:
    for policy in templates.of_type(either, "AWS::IAM::Policy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            assert "*" not in json.dumps(statement["Action"])
            assert statement["Resource"] != "*"


# --- Schedules -----------------------------------------------------------------------------------------------------


def test_each_expression_of_a_schedule_sends_its_tick_to_the_home_lane(template: Template) -> None:
    schedules = templates.of_type(template, "AWS::Scheduler::Schedule")
    assert {name: item["ScheduleExpression"] for name, item in schedules.items()} == {
        "jobs-sweep.0": "cron(0 0/6 * * ? *)",
        "report-build.weekly": "cron(0 8 ? * SUN *)",
        "report-build.odd": "cron(30 1 1,15 * ? *)",
        "report-build.odd.2": "cron(30 1 ? * MON *)",
    }
    weekly = schedules["report-build.weekly"]
    assert weekly["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert weekly["GroupName"] == "acme-cron"
    assert templates.target(template, weekly["Target"]["Arn"]) == "acme-default-report-build"
    assert weekly["Target"]["Input"] == (
        '{"v":1,"type":"report:build","payload":{"scope":"week"},'
        '"tick":{"schedule":"weekly","at":"<aws.scheduler.scheduled-time>"}}'
    )
    for item in schedules.values():
        assert item["State"] == "ENABLED"
        assert message.decode(item["Target"]["Input"]).tick is not None


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


def test_without_own_times_a_stage_sets_no_variable_for_them(template: Template) -> None:
    for name in templates.functions(template):
        assert "JOBLANE_SCHEDULES" not in templates.variables(template, name)


def test_a_tick_is_retried_for_an_hour_and_then_sent_to_the_dlq(template: Template) -> None:
    for item in templates.of_type(template, "AWS::Scheduler::Schedule").values():
        assert item["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 10}
        assert templates.target(template, item["Target"]["DeadLetterConfig"]["Arn"]) == "acme-cron-dlq"


def test_a_schedules_role_serves_only_its_group_and_sends_to_one_lane(template: Template) -> None:
    for item in templates.of_type(template, "AWS::Scheduler::Schedule").values():
        role = item["Target"]["RoleArn"]
        (trust,) = template["Resources"][role["Fn::GetAtt"][0]]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        conditions = trust["Condition"]["StringEquals"]
        assert conditions["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}
        assert templates.target(template, conditions["aws:SourceArn"]).endswith(":schedule-group/acme-cron")
        lane = templates.target(template, item["Target"]["Arn"])
        assert templates.allowed_to_role(template, role) == {"sqs:SendMessage": {lane, "acme-cron-dlq"}}


def test_a_schedule_waits_for_its_group_in_one_stack_and_across_stacks(dev: Synthesised, local: Synthesised) -> None:
    """Its ``GroupName`` is a text, from which CloudFormation cannot tell the order."""
    waiting = []
    for stack, template in {**dev.templates, **local.templates}.items():
        parent, _, part = stack.partition("/")
        resources = (dev if stack.startswith("acme-") else local).templates[parent]["Resources"]
        for logical_id, item in template["Resources"].items():
            if item["Type"] == "AWS::Scheduler::Schedule":
                after = resources[part or logical_id].get("DependsOn", [])
                assert "AWS::Scheduler::ScheduleGroup" in {resources[each]["Type"] for each in after}, logical_id
                waiting.append(bool(part))
    assert set(waiting) == {True, False}
    assert len(waiting) == 8


def test_schedules_of_a_local_stage_are_disabled_and_say_why(local: Synthesised, dev: Synthesised) -> None:
    schedules = templates.of_type(local.whole("jobs-jobs"), "AWS::Scheduler::Schedule")
    assert len(schedules) == 4
    assert {(item["State"], item["Description"]) for item in schedules.values()} == {("DISABLED", TICKER)}
    on_aws = templates.of_type(dev.whole("acme-jobs"), "AWS::Scheduler::Schedule").values()
    assert [item for item in on_aws if "Description" in item or item["State"] != "ENABLED"] == []


# --- Retention -----------------------------------------------------------------------------------------------------


def test_the_bucket_is_private_and_encrypted_and_exports_expire_after_a_week(dev: Synthesised) -> None:
    (bucket,) = templates.of_type(dev.templates["acme-data"], "AWS::S3::Bucket").values()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert (rules["exports"]["Prefix"], rules["exports"]["ExpirationInDays"]) == ("exports/", 7)
    assert (rules["reports"]["Prefix"], rules["reports"]["ExpirationInDays"]) == ("reports/", 365)
    assert rules["unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert templates.of_type(dev.templates["acme-data"], "AWS::S3::BucketPolicy")


def test_the_buckets_name_is_an_output(local: Synthesised) -> None:
    assert "ExportBucket" in local.templates["jobs-data"]["Outputs"]


def test_the_stages_removal_decides_if_resources_are_retained(dev: Synthesised, local: Synthesised) -> None:
    kept = [item for item in dev.templates["acme-data"]["Resources"].values() if item["Type"] == "AWS::S3::Bucket"]
    gone = [item for item in local.templates["jobs-data"]["Resources"].values() if item["Type"] == "AWS::S3::Bucket"]
    assert [item["DeletionPolicy"] for item in kept] == ["RetainExceptOnCreate"]
    assert [item["DeletionPolicy"] for item in gone] == ["Delete"]


def test_queues_are_retained_if_the_stage_sets_removal_to_retain(dev: Synthesised, local: Synthesised) -> None:
    for done, on_delete, on_replace in ((dev, "RetainExceptOnCreate", "Retain"), (local, "Delete", "Delete")):
        template = done.whole(f"{done.stage.prefix}-jobs")
        found = [item for item in template["Resources"].values() if item["Type"] == "AWS::SQS::Queue"]
        assert len(found) == len(templates.queues(template)) > 1
        assert {(item["DeletionPolicy"], item["UpdateReplacePolicy"]) for item in found} == {(on_delete, on_replace)}


def test_no_password_is_in_a_template_for_aws(dev: Synthesised) -> None:
    assert "jobs:jobs@" not in json.dumps(dict(dev.templates))


def test_two_synths_give_the_same_template(dev: Synthesised, synth: Any) -> None:
    assert synth("dev").templates == dev.templates


def test_the_database_is_migrated_before_its_functions_change(template: Template) -> None:
    runs = [name for name, item in template["Resources"].items() if item["Type"] == "Custom::Migration"]
    functions = {
        item["Properties"]["FunctionName"]: item.get("DependsOn", [])
        for item in template["Resources"].values()
        if item["Type"] == "AWS::Lambda::Function"
    }
    uses = {name for name in functions if "DATABASE_URL" in templates.variables(template, name)} - {"acme-migrate"}
    assert {"acme-order-ship", "acme-gateway"} <= uses
    for name in uses:
        assert runs[0] in functions[name], name


def test_the_migration_runs_again_with_new_code_or_times_and_has_a_service_timeout(
    template: Template,
) -> None:
    [run] = templates.of_type(template, "Custom::Migration").values()
    assert run["Code"] == "c0de" * 16
    assert run["Database"] == run["Functions"] == f"postgresql://db.internal:5432/acme?secret={DATABASE_SECRET}"
    assert json.loads(run["Schedules"])["jobs:sweep"] == 360  # minutes
    function = templates.functions(template)["acme-migrate"]
    assert int(run["ServiceTimeout"]) == function["Timeout"] + 60
    assert templates.target(template, run["ServiceToken"]) == "acme-migrate"


def test_the_migration_records_the_version_of_the_settings_else_the_commit(
    template: Template, synth: Synth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "ann")
    [of_settings] = templates.of_type(synth("dev", version="v1.4").whole("acme-jobs"), "Custom::Migration").values()
    assert (of_settings["Version"], of_settings["By"]) == ("v1.4", "ann")
    [usual] = templates.of_type(template, "Custom::Migration").values()
    commit = version_of(Path(__file__).parent) or ""
    assert usual["Version"] in (commit, f"{commit.removesuffix('-dirty')}+c0dec0d")


def test_the_stack_prints_the_logical_id_of_its_migration(template: Template) -> None:
    (run,) = (name for name, item in template["Resources"].items() if item["Type"] == "Custom::Migration")
    assert template["Outputs"]["MigrationResource"]["Value"] == run


def test_the_migration_may_only_log_in_write_its_log_and_wake_the_sweep(template: Template) -> None:
    allowed = templates.allowed(template, "acme-migrate")
    assert allowed.pop("secretsmanager:GetSecretValue") == {DATABASE_SECRET}
    assert allowed["sqs:SendMessage"] == allowed["sqs:GetQueueUrl"] == {"acme-low-jobs-sweep"}
    assert set(allowed) == {"logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage", "sqs:GetQueueUrl"}


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


def test_a_failed_migration_is_not_retried_asynchronously(template: Template) -> None:
    ((logical_id, config),) = templates.of_type(template, "AWS::Lambda::EventInvokeConfig").items()
    assert (templates.target(template, config["FunctionName"]), config["MaximumRetryAttempts"]) == ("acme-migrate", 0)
    (run,) = (item for item in template["Resources"].values() if item["Type"] == "Custom::Migration")
    assert logical_id in run["DependsOn"]  # or the first migration could still be retried
