"""A renamed type keeps the lanes of its old name. What a function may send follows from ``on_archived``, limits and
``Grants.run``."""

from __future__ import annotations

import pytest

from joblane.worker.routes import decode
from tests.infra import templates
from tests.infra.conftest import Synth
from tests.infra.templates import Template

OLD = {"acme-default-data-copy", "acme-low-data-copy"}
NEW = {"acme-default-data-move", "acme-low-data-move"}


@pytest.fixture(scope="module")
def template(synth: Synth) -> Template:
    return synth.app("renamed").whole("acme-jobs")


def test_the_old_names_lanes_feed_the_same_function_with_the_least_concurrency(template: Template) -> None:
    mappings = templates.mappings(template)
    assert {queue for queue, (function, _) in mappings.items() if function == "acme-data-move"} == OLD | NEW
    assert {mappings[queue][1]["ScalingConfig"]["MaximumConcurrency"] for queue in OLD} == {2}
    assert "acme-data-copy" not in templates.functions(template)


def test_the_front_doors_accept_messages_of_the_old_name(template: Template) -> None:
    routes = decode(templates.variables(template, "acme-router")["JOBLANE_ROUTES"])
    assert routes == {"data:copy": ["default", "low"], "data:move": ["default", "low"]}
    assert not (OLD | NEW) & templates.closed_to(template, "acme-router")


def test_the_function_may_send_to_the_task_that_on_archived_names(template: Template) -> None:
    sent = templates.allowed(template, "acme-data-move")["sqs:SendMessage"]
    assert {queue for queue in sent if not queue.endswith("-dlq")} == OLD | NEW | {
        "acme-default-ops-alert",
        "acme-low-jobs-sweep",
    }


def test_the_function_may_send_to_the_tasks_that_share_its_limit(template: Template) -> None:
    sent = templates.allowed(template, "acme-ops-alert")["sqs:SendMessage"]
    assert {queue for queue in sent if not queue.endswith("-dlq")} == NEW | {
        "acme-default-ops-alert",
        "acme-low-jobs-sweep",
    }


def test_a_task_may_send_to_its_children_and_they_to_the_task_that_waits_for_them(template: Template) -> None:
    both = {"acme-default-day-sum", "acme-default-month-sum", "acme-low-jobs-sweep"}
    for function in ("acme-day-sum", "acme-month-sum"):
        sent = templates.allowed(template, function)["sqs:SendMessage"]
        assert {queue for queue in sent if not queue.endswith("-dlq")} == both
