"""Each check of the templates, by a stack that breaks it, or by a changed copy of the real template."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from aws_cdk.assertions import Template
from aws_cdk.aws_lambda_event_sources import SqsEventSource

from infra.settings import Api
from joblane.cdk.app import Synthesised
from joblane.cdk.checks import check, throttling
from joblane.cdk.errors import RefusedTemplateError, SynthError
from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.stage import Stage
from joblane.cdk.shares import Lanes, sharing_lanes
from tests.infra.conftest import AURORA, DATABASE_SECRET, Synth

DATABASE = {"kind": "existing", "host": "db.internal", "name": "jobs", "secret": DATABASE_SECRET}
STAGE = Stage.model_validate({"name": "test", "database": DATABASE})


def problems_of(*templates: dict[str, Any], stage: Stage = STAGE) -> str:
    with pytest.raises(RefusedTemplateError) as caught:
        check({f"stack-{number}": template for number, template in enumerate(templates)}, stage, lanes=())
    return "\n".join(caught.value.problems)


# --- Stacks of an application --------------------------------------------------------------------------------------


class Written:
    """A stack with a queue, its DLQ, and functions."""

    def __init__(self, *, visibility: int = 60, dead_letter_days: int = 14, receives: int = 10) -> None:
        self.stack = Stack(App(), "written")
        self.dead_letters = sqs.Queue(
            self.stack, "DeadLetters", queue_name="mine-dlq", retention_period=Duration.days(dead_letter_days)
        )
        self.queue = sqs.Queue(
            self.stack,
            "Queue",
            queue_name="mine",
            visibility_timeout=Duration.seconds(visibility),
            retention_period=Duration.days(10),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=receives),
        )

    def consume(self, name: str = "worker", *, reserved: int | None = None, **mapping: Any) -> Written:
        function = lambda_.Function(
            self.stack,
            name,
            function_name=name,
            runtime=lambda_.Runtime.PYTHON_3_13,
            handler="index.handler",
            code=lambda_.Code.from_inline("def handler(event, context): ..."),
            timeout=Duration.seconds(10),
            reserved_concurrent_executions=reserved,
        )
        given = {"report_batch_item_failures": True, "max_concurrency": 2, **mapping}
        function.add_event_source(SqsEventSource(self.queue, **given))
        return self

    @property
    def template(self) -> dict[str, Any]:
        return dict(Template.from_stack(self.stack).to_json())


def test_a_stack_without_a_problem_passes() -> None:
    check({"written": Written().consume().template}, STAGE, lanes=())


def test_a_filter_is_refused() -> None:
    filters = [lambda_.FilterCriteria.filter({"body": {"type": lambda_.FilterRule.is_equal("data:export")}})]
    found = problems_of(Written().consume(filters=filters).template)
    assert found.startswith("queue mine: its mapping filters events, and messages that the filter does not match are")


def test_a_queue_with_two_consumers_is_refused() -> None:
    assert problems_of(Written().consume("first").consume("second").template) == (
        "queue mine: has 2 consumers (first, second): each takes messages of the others"
    )


def test_two_consumers_are_found_across_stacks() -> None:
    first, second = Written().consume("first").template, Written().consume("second").template
    assert "queue mine: has 2 consumers (first, second)" in problems_of(first, second)


def test_a_mapping_without_partial_responses_is_refused() -> None:
    found = problems_of(Written().consume(report_batch_item_failures=False).template)
    assert found.startswith("queue mine: its mapping lacks ReportBatchItemFailures")


def test_a_mapping_without_a_limit_is_refused() -> None:
    found = problems_of(Written().consume(max_concurrency=None).template)
    assert found.startswith("queue mine: its mapping lacks MaximumConcurrency")


def test_reserved_concurrency_below_the_mappings_limit_is_refused() -> None:
    found = problems_of(Written().consume(max_concurrency=5, reserved=3).template)
    assert found.startswith("function worker: its reserved concurrency of 3 is below the 5 of the mapping of mine")


def test_a_visibility_below_six_timeouts_is_refused() -> None:
    found = problems_of(Written(visibility=59).consume().template)
    assert found.startswith("queue mine: a visibility timeout of 59 s is less than 6 times the 10 s timeout of functio")


def test_a_sweep_needs_a_visibility_beyond_its_lease(dev: Synthesised) -> None:
    def shorten(resource: dict[str, Any]) -> None:
        if resource["Properties"].get("QueueName") == f"{dev.stage.prefix}-low-jobs-sweep":
            assert resource["Properties"]["VisibilityTimeout"] == 265
            resource["Properties"]["VisibilityTimeout"] = 264

    assert problems_after(dev, shorten).startswith(
        f"queue {dev.stage.prefix}-low-jobs-sweep: a visibility timeout of 264 s is not 15 s longer than the 250 s "
    )


@pytest.mark.parametrize("days", [4, 10])
def test_dead_letters_that_are_not_kept_longer_are_refused(days: int) -> None:
    found = problems_of(Written(dead_letter_days=days).consume().template)
    assert found.startswith(f"queue mine: its dead letters are kept {days * 86400} s and its messages 864000 s")


def test_receives_that_take_longer_than_a_message_is_kept_are_refused() -> None:
    found = problems_of(Written(visibility=43_200, receives=20).consume().template)
    assert found.startswith("queue mine: 20 receives can take 864000 s and messages are kept 864000 s")


# --- The real template, changed ------------------------------------------------------------------------------------


def problems_after(dev: Synthesised, change: Callable[[dict[str, Any]], object]) -> str:
    template = copy.deepcopy(dict(dev.whole("acme-jobs")))
    for resource in template["Resources"].values():
        change(resource)
    return problems_of(template, stage=dev.stage)


def test_a_consumed_queue_without_a_dlq_is_refused(dev: Synthesised) -> None:
    found = problems_after(dev, lambda resource: resource["Properties"].pop("RedrivePolicy", None))
    assert "queue acme-critical-order-ship: has a consumer and no dead-letter queue" in found


def test_two_queues_of_one_name_are_refused(dev: Synthesised) -> None:
    def rename(resource: dict[str, Any]) -> None:
        if resource["Properties"].get("QueueName") == "acme-low-jobs-sweep":
            resource["Properties"]["QueueName"] = "acme-critical-order-ship-dlq"

    assert "queue acme-critical-order-ship-dlq: two queues have this name" in problems_after(dev, rename)


def test_a_lane_with_the_name_of_a_dead_letter_queue_is_refused(dev: Synthesised) -> None:
    def rename(resource: dict[str, Any]) -> None:
        if resource["Properties"].get("QueueName") == "acme-low-jobs-sweep":
            resource["Properties"]["QueueName"] = "acme-low-jobs-dlq"

    found = problems_after(dev, rename)
    assert "queue acme-low-jobs-dlq: its name ends as that of a dead-letter queue does; rename the task" in found


def test_an_environment_above_lambdas_limit_is_refused_with_the_largest_variable(dev: Synthesised) -> None:
    def fill(resource: dict[str, Any]) -> None:
        if resource["Properties"].get("FunctionName") == "acme-router":
            resource["Properties"]["Environment"]["Variables"]["JOBLANE_ROUTES"] = "x" * 4096

    found = problems_after(dev, fill)
    assert found.startswith("function acme-router: its environment has 42")
    assert found.endswith("Lambda's limit is 4096; the largest variable is JOBLANE_ROUTES with 4110")


def test_a_secret_that_cloudformation_would_write_into_a_function_is_refused(dev: Synthesised) -> None:
    def resolve(resource: dict[str, Any]) -> None:
        if resource.get("Properties", {}).get("FunctionName") == "acme-report-build":
            resource["Properties"]["Environment"]["Variables"]["SMTP_PASSWORD"] = {
                "Fn::Join": ["", ["{{resolve:secretsmanager:", {"Ref": "AWS::Region"}, ":SecretString}}"]]
            }

    found = problems_after(dev, resolve)
    assert found.startswith("function acme-report-build: its variable SMTP_PASSWORD is a dynamic reference, and")
    assert "resolve:secretsmanager" not in json.dumps(dev.templates)


def test_all_problems_are_reported_at_once(dev: Synthesised) -> None:
    def remove_responses(resource: dict[str, Any]) -> None:
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            del resource["Properties"]["FunctionResponseTypes"]

    assert problems_after(dev, remove_responses).count("lacks ReportBatchItemFailures") == 8


# --- Budgets -------------------------------------------------------------------------------------------------------


def test_concurrency_above_the_accounts_quota_is_refused_at_synth(synth: Synth) -> None:
    # 17 on the lanes and 2 on each of three front doors
    synth("dev", account_concurrency=23)
    with pytest.raises(RefusedTemplateError, match=r"stage dev: .* adds up to 23, above account_concurrency 22: lower"):
        synth("dev", account_concurrency=22)


def lanes_of(done: Synthesised) -> Lanes:
    return sharing_lanes(done.stage.prefix, done.jobs.tasks.values())


def test_the_quota_of_a_new_account_is_no_reason_to_refuse(synth: Synth) -> None:
    # given ten executions, which no budget fits
    done = synth("dev", account_concurrency=10)
    line = throttling(done.templates, done.stage, lanes_of(done))
    assert line is not None
    assert "adds up to 23, above account_concurrency 10; no concurrency_budget fits" in line
    assert "aws service-quotas request-service-quota-increase" in line


def test_the_budget_that_a_refusal_names_is_the_largest_that_fits(synth: Synth, dev: Synthesised) -> None:
    with pytest.raises(RefusedTemplateError) as refused:
        synth("dev", account_concurrency=22)
    (budget,) = re.findall(r"lower concurrency_budget \(20\) to (\d+), or raise", str(refused.value))
    synth("dev", account_concurrency=22, concurrency_budget=int(budget))
    with pytest.raises(RefusedTemplateError):
        synth("dev", account_concurrency=22, concurrency_budget=int(budget) + 1)
    assert throttling(dev.templates, dev.stage, lanes_of(dev)) is None


def test_connections_above_the_databases_limit_are_refused_at_synth(synth: Synth) -> None:
    # 17 on the lanes, two each, and 10 reserved; the router has no connection
    synth("dev", database_connections=44)
    with pytest.raises(RefusedTemplateError, match=r"17 concurrent tasks × 2 .* 10 reserved make 44, above .* 43"):
        synth("dev", database_connections=43)


def with_api(dev: Synthesised, api: dict[str, Any], **settings: Any) -> None:
    """Check the templates for a stage with an API. The test tasks have no function for it."""
    validated = Api.model_validate({"authorizer": {"kind": "iam"}, **api})
    check(dev.templates, dev.stage.model_copy(update={"api": validated, **settings}), lanes_of(dev))


def test_requests_to_the_api_use_connections_too(dev: Synthesised) -> None:
    # 17 on the lanes and 5 requests, two each, and 10 reserved
    with_api(dev, {"max_concurrency": 5}, database_connections=54)
    with pytest.raises(RefusedTemplateError) as caught:
        with_api(dev, {"max_concurrency": 5}, database_connections=53)
    (problem,) = caught.value.problems
    assert problem == (
        "stage dev: 17 concurrent tasks and 5 requests to api × 2 connections + 10 reserved make 54, above "
        "database_connections 53: lower concurrency_budget (20) or api.max_concurrency (5), or raise "
        "max_connections of the database and database_connections with it"
    )


def test_without_max_concurrency_the_apis_rate_gives_its_concurrent_requests(dev: Synthesised) -> None:
    # 31 a second for 0.2 s each are 6.2 at once
    with_api(dev, {"rate_per_second": 31}, database_connections=58)
    with pytest.raises(RefusedTemplateError, match=r"and 7 requests .* make 58, .* set api.max_concurrency \(now 7,"):
        with_api(dev, {"rate_per_second": 31}, database_connections=57)


def test_concurrency_reserved_for_the_api_is_not_available_to_lanes(dev: Synthesised) -> None:
    with_api(dev, {"max_concurrency": 5}, account_concurrency=28)
    with pytest.raises(RefusedTemplateError, match=r"up to 28 with api.max_concurrency 5, above .* 27"):
        with_api(dev, {"max_concurrency": 5}, account_concurrency=27)


def with_control(dev: Synthesised, control: dict[str, Any], **settings: Any) -> None:
    """``dev`` with a control API, whose stack is not needed to count."""
    check(
        dev.templates,
        dev.stage.model_copy(update={"control": Control.model_validate(control), **settings}),
        lanes_of(dev),
    )


def test_requests_of_operators_use_connections_too(dev: Synthesised) -> None:
    # 17 concurrent tasks and 5 requests, twice, and 10 reserved
    with_control(dev, {"max_concurrency": 5}, database_connections=54)
    with pytest.raises(
        RefusedTemplateError, match=r"and 5 requests to control .* make 54, .* control.max_concurrency \(5"
    ):
        with_control(dev, {"max_concurrency": 5}, database_connections=53)


def test_without_max_concurrency_the_rate_gives_the_operators_concurrent_requests(dev: Synthesised) -> None:
    # 9 a second for half a second each are 4.5 at once
    with_control(dev, {"rate_per_second": 9}, database_connections=54)
    with pytest.raises(RefusedTemplateError, match=r"and 5 requests to control .*set control.max_concurrency \(now 5,"):
        with_control(dev, {"rate_per_second": 9}, database_connections=53)


def test_concurrency_reserved_for_operators_is_not_available_to_lanes(dev: Synthesised) -> None:
    with_control(dev, {"max_concurrency": 5}, account_concurrency=28)
    with pytest.raises(RefusedTemplateError, match=r"up to 28 with control.max_concurrency 5, above .* 27"):
        with_control(dev, {"max_concurrency": 5}, account_concurrency=27)


@pytest.mark.parametrize(
    ("reserved", "capacity", "advice"),
    [
        (156, 1, r"make 190, above database_connections 189: .*, or raise database.max_capacity \(1\) to 1.5$"),
        (1996, 16, r"make 2030, .* 2000: .*, or raise database.min_capacity \(0\) to 1$"),
        (4996, 16, r"make 5030, .* lower concurrency_budget \(20\); no cluster accepts that many$"),
    ],
)
def test_a_budget_above_auroras_connections_is_refused_with_the_needed_capacity(
    reserved: int, capacity: int, advice: str, synth: Synth
) -> None:
    settings: dict[str, Any] = {"network": {"kind": "new"}, "database": {**AURORA, "max_capacity": capacity}}
    with pytest.raises(RefusedTemplateError, match=advice):
        synth("dev", reserved_connections=reserved, **settings)


def test_a_budget_within_auroras_connections_needs_no_database_connections(synth: Synth) -> None:
    settings: dict[str, Any] = {"network": {"kind": "new"}, "database": {**AURORA, "max_capacity": 1}}
    synth("dev", reserved_connections=155, **settings)
    with pytest.raises(RefusedTemplateError, match=r"make 189, above database_connections 188: .*, or leave data"):
        synth("dev", reserved_connections=155, database_connections=188, **settings)


# --- Declarations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grants", "message"),
    [
        ("Grants(buckets=('imports',))", r"task 'bad:task': grants.buckets: no bucket 'imports'; there are exports"),
        ("Grants(enqueue=('no:body',))", r"task 'bad:task': grants.enqueue: no task 'no:body'; there are bad:task"),
    ],
)
def test_a_grant_of_an_unknown_bucket_or_type_is_refused(
    grants: str, message: str, synth: Synth, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"bad_{abs(hash(grants))}"
    folder = tmp_path / package / "bad_task"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (folder / "handler.py").write_text(
        "from joblane import Grants, Payload, task\n"
        "class Bad(Payload): ...\n"
        f"@task('bad:task', grants={grants})\n"
        "def bad_task(payload: Bad, ctx): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SynthError, match=message):
        synth("dev", package=package, settings={})
