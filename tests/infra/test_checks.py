"""Each check of the templates, by a stack that breaks it, or by a changed copy of the real template."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
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
from joblane.cdk.settings.database import Aurora, Rds
from joblane.cdk.settings.stage import Stage
from joblane.cdk.shares import Lanes, sharing_lanes
from joblane.errors import DeclarationError
from joblane.tasks.discovery import discover
from tests.infra.conftest import DATABASE_SECRET, TASKS, Synth

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


FILTER = {"body": {"type": lambda_.FilterRule.is_equal("data:export")}}


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (
            lambda: Written().consume(filters=[lambda_.FilterCriteria.filter(FILTER)]),
            "queue mine: its mapping filters events, and messages that the filter does not match are",
        ),
        (
            lambda: Written().consume("first").consume("second"),
            "queue mine: has 2 consumers (first, second): each takes messages of the others",
        ),
        (
            lambda: Written().consume(report_batch_item_failures=False),
            "queue mine: its mapping lacks ReportBatchItemFailures",
        ),
        (lambda: Written().consume(max_concurrency=None), "queue mine: its mapping lacks MaximumConcurrency"),
        (
            lambda: Written().consume(max_concurrency=5, reserved=3),
            "function worker: its reserved concurrency of 3 is below the 5 of the mapping of mine",
        ),
        (
            lambda: Written(visibility=20).consume(),
            "queue mine: a visibility timeout of 20 s is not 11 s longer than the 10 s timeout of functio",
        ),
        *(
            (
                lambda days=days: Written(dead_letter_days=days).consume(),
                f"queue mine: its dead letters are kept {days * 86400} s and its messages 864000 s",
            )
            for days in (4, 10)
        ),
        (
            lambda: Written(visibility=43_200, receives=20).consume(),
            "queue mine: 20 receives can take 864000 s and messages are kept 864000 s",
        ),
    ],
)
def test_a_stack_of_an_application_is_refused(write: Callable[[], Written], problem: str) -> None:
    assert problems_of(write().template).startswith(problem)


def test_two_consumers_are_found_across_stacks() -> None:
    first, second = Written().consume("first").template, Written().consume("second").template
    assert "queue mine: has 2 consumers (first, second)" in problems_of(first, second)


# --- The real template, changed ------------------------------------------------------------------------------------

SWEEP, SHIP = "acme-low-jobs-sweep", "acme-critical-order-ship"
RESOLVED = {"Fn::Join": ["", ["{{resolve:secretsmanager:", {"Ref": "AWS::Region"}, ":SecretString}}"]]}


def in_variables(**variables: Any) -> Callable[[dict[str, Any]], object]:
    return lambda properties: properties["Environment"]["Variables"].update(variables)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (SHIP, lambda it: it.pop("RedrivePolicy"), f"queue {SHIP}: has a consumer and no dead-letter queue"),
        (
            SWEEP,
            lambda it: it.update(QueueName=f"{SHIP}-dlq"),
            f"queue {SHIP}-dlq: two queues have this name",
        ),
        (
            SWEEP,
            lambda it: it.update(QueueName="acme-low-jobs-dlq"),
            "queue acme-low-jobs-dlq: its name ends as that of a dead-letter queue does; rename the task",
        ),
        (
            SWEEP,
            lambda it: it.update(VisibilityTimeout=it["VisibilityTimeout"] - 1),  # it is beyond its lease
            f"queue {SWEEP}: a visibility timeout of 260 s is not 11 s longer than the 250 s ",
        ),
        *(
            (
                name,
                lambda it: it["RedrivePolicy"].update(maxReceiveCount=9),
                f"queue {name}: 9 receives last {seconds} s, and messages that Lambda throttles for 3:00:00 must not",
            )
            for name, seconds in ((SHIP, 5589), ("acme-default", 369))
        ),
        (
            "acme-router",
            in_variables(JOBLANE_ROUTES="x" * 4096),
            "bytes, and Lambda's limit is 4096; the largest variable is JOBLANE_ROUTES with 4110",
        ),
        (
            "acme-report-build",
            in_variables(SMTP_PASSWORD=RESOLVED),
            "function acme-report-build: its variable SMTP_PASSWORD is a dynamic reference, and",
        ),
    ],
)
def test_a_changed_template_is_refused(
    name: str, change: Callable[[dict[str, Any]], object], problem: str, dev: Synthesised
) -> None:
    template = copy.deepcopy(dict(dev.whole("acme-jobs")))
    for resource in template["Resources"].values():
        if name in (resource["Properties"].get("QueueName"), resource["Properties"].get("FunctionName")):
            change(resource["Properties"])
    assert problem in problems_of(template, stage=dev.stage)


def test_all_problems_are_reported_at_once(dev: Synthesised) -> None:
    template = copy.deepcopy(dict(dev.whole("acme-jobs")))
    for resource in template["Resources"].values():
        resource["Properties"].pop("FunctionResponseTypes", None)
    assert problems_of(template, stage=dev.stage).count("lacks ReportBatchItemFailures") == 8


# --- Budgets -------------------------------------------------------------------------------------------------------


def lanes_of(stage: Stage) -> Lanes:
    return sharing_lanes(stage.prefix, discover(TASKS).values())


def api(**settings: int) -> dict[str, Any]:
    """An HTTP API. The test tasks have no function for it."""
    return {"api": Api.model_validate({"authorizer": {"kind": "iam"}, **settings})}


def control(**settings: int) -> dict[str, Any]:
    return {"control": Control.model_validate(settings)}


RDS = {"database": Rds.model_validate({"kind": "rds"})}


def aurora(least: float, most: float) -> dict[str, Any]:
    return {"database": Aurora.model_validate({"kind": "aurora", "min_capacity": least, "max_capacity": most})}


FITS = ""


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        # 17 on the lanes and 2 on each of three front doors
        ({"account_concurrency": 23}, FITS),
        ({"account_concurrency": 22}, r"stage dev: .* adds up to 23, above account_concurrency 22: lower"),
        # 17 on the lanes, two each, and 10 reserved; the router has no connection
        ({"database_connections": 44}, FITS),
        ({"database_connections": 43}, r"17 concurrent tasks × 2 .* 10 reserved make 44, above .* 43"),
        # and 5 requests, two each
        ({**api(max_concurrency=5), "database_connections": 54}, FITS),
        (
            {**api(max_concurrency=5), "database_connections": 53},
            (
                r"stage dev: 17 concurrent tasks and 5 requests to api × 2 connections \+ 10 reserved make 54, above "
                r"database_connections 53: lower concurrency_budget \(20\) or api.max_concurrency \(5\), or raise "
                r"max_connections of the database and database_connections with it$"
            ),
        ),
        # 31 a second for 0.2 s each are 6.2 at once
        ({**api(rate_per_second=31), "database_connections": 58}, FITS),
        (
            {**api(rate_per_second=31), "database_connections": 57},
            r"and 7 requests .* make 58, .* set api.max_concurrency \(now 7,",
        ),
        ({**api(max_concurrency=5), "account_concurrency": 28}, FITS),
        (
            {**api(max_concurrency=5), "account_concurrency": 27},
            r"up to 28 with api.max_concurrency 5, above .* 27",
        ),
        ({**control(max_concurrency=5), "database_connections": 54}, FITS),
        (
            {**control(max_concurrency=5), "database_connections": 53},
            r"and 5 requests to control .* make 54, .* control.max_concurrency \(5",
        ),
        # 9 a second for half a second each are 4.5 at once
        ({**control(rate_per_second=9), "database_connections": 54}, FITS),
        (
            {**control(rate_per_second=9), "database_connections": 53},
            r"and 5 requests to control .*set control.max_concurrency \(now 5,",
        ),
        ({**control(max_concurrency=5), "account_concurrency": 28}, FITS),
        (
            {**control(max_concurrency=5), "account_concurrency": 27},
            r"up to 28 with control.max_concurrency 5, above .* 27",
        ),
        # the connections of a cluster follow from its capacity
        ({**RDS, "reserved_connections": 78}, FITS),
        (
            {**RDS, "reserved_connections": 79},
            r"make 113, above database_connections 112: .*, or raise database.instance_class \(db.t4g.micro\) to db.t4",
        ),
        ({**RDS, "reserved_connections": 420}, "above database_connections 112: .*; no class of an RDS instance acce"),
        ({**aurora(0, 1), "reserved_connections": 155}, FITS),
        (
            {**aurora(0, 1), "reserved_connections": 155, "database_connections": 188},
            r"make 189, above database_connections 188: .*, or leave data",
        ),
        (
            {**aurora(0, 1), "reserved_connections": 156},
            r"make 190, above database_connections 189: .*, or raise database.max_capacity \(1\) to 1.5$",
        ),
        (
            {**aurora(0, 16), "reserved_connections": 1996},
            r"make 2030, .* 2000: .*, or raise database.min_capacity \(0\) to 1$",
        ),
        (
            {**aurora(0, 16), "reserved_connections": 4996},
            r"make 5030, .* lower concurrency_budget \(20\); no cluster accepts that many$",
        ),
    ],
)
def test_concurrency_and_connections_above_their_limits_are_refused(
    settings: dict[str, Any], problem: str, dev: Synthesised
) -> None:
    stage = dev.stage.model_copy(update=settings)
    if problem == FITS:
        check(dev.templates, stage, lanes_of(stage))
        return
    with pytest.raises(RefusedTemplateError) as refused:
        check(dev.templates, stage, lanes_of(stage))
    (found,) = refused.value.problems
    assert re.search(problem, found)


def test_the_quota_of_a_new_account_is_no_reason_to_refuse(dev: Synthesised) -> None:
    # given ten executions, which no budget fits
    stage = dev.stage.model_copy(update={"account_concurrency": 10})
    check(dev.templates, stage, lanes_of(stage))
    line = throttling(dev.templates, stage, lanes_of(stage))
    assert line is not None
    assert "adds up to 23, above account_concurrency 10; no concurrency_budget fits" in line
    assert "aws service-quotas request-service-quota-increase" in line
    assert throttling(dev.templates, dev.stage, lanes_of(stage)) is None


def test_the_budget_that_a_refusal_names_is_the_largest_that_fits(synth: Synth) -> None:
    with pytest.raises(RefusedTemplateError) as refused:
        synth("dev", account_concurrency=22)
    (budget,) = re.findall(r"lower concurrency_budget \(20\) to (\d+), or raise", str(refused.value))
    synth("dev", account_concurrency=22, concurrency_budget=int(budget))
    with pytest.raises(RefusedTemplateError):
        synth("dev", account_concurrency=22, concurrency_budget=int(budget) + 1)


# --- Declarations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "grants", "message"),
    [
        ("bad_bucket", "buckets=('imports',)", r"'bad:task': grants.buckets: no bucket 'imports'; there are exports"),
        ("bad_type", "enqueue=('no:body',)", r"'bad:task': grants: enqueue: there is no task 'no:body'"),
        ("bad_child", "run=('no:body',)", r"'bad:task': grants: run: there is no task 'no:body'"),
        ("bad_type_of_all", "enqueue=('no:body', '*')", r"'bad:task': grants: enqueue: there is no task 'no:body'"),
    ],
)
def test_a_grant_of_an_unknown_bucket_or_type_is_refused(
    package: str, grants: str, message: str, synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / package / "bad_task"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (folder / "handler.py").write_text(
        "from joblane import Grants, Payload, task\n"
        "class Bad(Payload): ...\n"
        f"@task('bad:task', grants=Grants({grants}))\n"
        "def bad_task(payload: Bad, ctx): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises((SynthError, DeclarationError), match=message):
        synth("dev", package=package, settings={})
