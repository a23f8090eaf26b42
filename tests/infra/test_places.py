"""The types of a place share one function and one lane in each queue; the function may do what any of them declares."""

from __future__ import annotations

import pytest

from joblane.names import PLACE, PLACES, types_at
from joblane.worker.routes import decode
from tests.infra import templates
from tests.infra.conftest import Synth
from tests.infra.templates import Template

LANES = {"acme-default-web", "acme-low-web"}
DRAINED = "acme-default-card-send"
SWEEP = "acme-low-jobs-sweep"


@pytest.fixture(scope="module")
def template(synth: Synth) -> Template:
    return synth.app("places").whole("acme-jobs")


def test_the_types_share_a_function_and_a_lane_in_each_queue(template: Template) -> None:
    mappings = templates.mappings(template)
    assert {queue for queue, (function, _) in mappings.items() if function == "acme-web"} == LANES | {DRAINED}
    assert {properties["BatchSize"] for queue, (_, properties) in mappings.items() if queue in LANES} == {5}
    functions = templates.functions(template)
    assert (functions["acme-web"]["MemorySize"], functions["acme-web"]["Timeout"]) == (1024, 310)
    assert {"acme-card-send", "acme-card-list"}.isdisjoint(functions)
    queues = templates.queues(template)
    assert {queues[name]["VisibilityTimeout"] for name in (*LANES, DRAINED)} == {321}
    assert "acme-low-card-send" not in queues


def test_a_drained_lane_has_the_least_concurrency(template: Template) -> None:
    mappings = templates.mappings(template)
    assert mappings[DRAINED][1]["ScalingConfig"]["MaximumConcurrency"] == 2
    assert mappings["acme-default-web"][1]["ScalingConfig"]["MaximumConcurrency"] == 5


def test_the_function_knows_its_types_and_every_function_the_places(template: Template) -> None:
    variables = templates.variables(template, "acme-web")
    assert variables[PLACE] == "web"
    assert "JOBLANE_TASK" not in variables
    assert types_at("web", variables[PLACES]) == {
        "card:list": "card:list",
        "card:post": "card:send",
        "card:send": "card:send",
    }
    for function in ("acme-card-print", "acme-jobs-sweep", "acme-router"):
        assert templates.variables(template, function)[PLACES] == variables[PLACES]
        assert PLACE not in templates.variables(template, function)


def test_the_function_may_do_what_each_of_its_types_declares(template: Template) -> None:
    allowed = templates.allowed(template, "acme-web")
    sent = {queue for queue in allowed["sqs:SendMessage"] if not queue.endswith("-dlq")}
    assert sent == LANES | {DRAINED, "acme-default-card-print", SWEEP}
    assert "ses:SendEmail" in allowed
    assert {"EMAIL_FROM_ADDRESS", "JOBLANE_MAIL_FROM"} <= templates.variables(template, "acme-web").keys()


def test_others_send_to_the_lanes_of_the_place(template: Template) -> None:
    sent = templates.allowed(template, "acme-card-print")["sqs:SendMessage"]
    assert {queue for queue in sent if not queue.endswith("-dlq")} == LANES | {"acme-default-card-print", SWEEP}
    routes = decode(templates.variables(template, "acme-router")["JOBLANE_ROUTES"])
    assert routes["card:list"] == ["default", "low"]
    schedules = templates.of_type(template, "AWS::Scheduler::Schedule").values()
    [daily] = [each for each in schedules if each["Name"].startswith("card-list")]
    assert "acme-default-web" in str(daily["Target"]["Arn"])
