"""A trace passes from the producer to the log lines of every run, and to the tasks that the run enqueues."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import Job, TaskContext
from joblane.record.task_types import register
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.sqs.traceparent import HEADER
from joblane.sweep.sweep import sweep
from joblane.worker.router import Router
from tests import logs
from tests.builders.events import invoke, record
from tests.builders.rows import In, put
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
ATTRIBUTE = {HEADER: ("String", GOOD)}
seen: list[str | None] = []


@behaviour
def tells(payload: Sample, ctx: TaskContext) -> None:
    ctx.logger.info("logged by the handler")
    seen.append(ctx.traceparent)


@behaviour
def tells_and_breaks(payload: Sample, ctx: TaskContext) -> None:
    ctx.logger.info("logged by the handler")
    raise ValueError("no")


@behaviour
def has_children(payload: Sample, ctx: TaskContext) -> None:
    seen.append(ctx.traceparent)
    ctx.enqueue(sample_one, Sample(), task_id="child")
    ctx.enqueue(sample_one, Sample(), task_id="named", headers={"other": "x"})
    ctx.enqueue(sample_one, Sample(), task_id="apart", headers={HEADER: ""})
    ctx.enqueue_many([Job(sample_one, Sample(), task_id="one-of-many")])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


def words(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("trace_id", "parent_span_id"))


def delivered(world: World, *bodies: Any, task: Any = sample_one, **how: Any) -> list[dict[str, Any]]:
    with logs.lines() as lines:
        world.deliver(task, *bodies, **how)
    return lines.fields


def test_every_log_line_has_the_trace_and_each_attempt_has_its_own_span(world: World) -> None:
    # given a task that fails, and its caller's trace
    info = world.client.enqueue(sample_one, Sample(do="tells_and_breaks"), headers={HEADER: GOOD})
    # when it runs twice
    attempts = []
    for _ in range(2):
        world.later(info.id)
        attempts.append(delivered(world, Message(sample_one.type, info.id, rec=True).encode()))
    # then
    spans = []
    for lines in attempts:
        assert [line["message"] for line in lines] == ["logged by the handler", "task retry"]
        assert {words(line) for line in lines} == {(TRACE, PARENT)}
        (span,) = {line["span_id"] for line in lines}
        spans.append(span)
    assert len({*spans, PARENT}) == 3


def test_the_one_line_of_a_batch_has_the_trace_of_each_of_its_tasks(world: World) -> None:
    traces = [f"00-{number:032x}-{PARENT}-01" for number in (1, 2)]
    ids = [world.client.enqueue(sample_batch, Sample(), headers={HEADER: trace}).id for trace in traces]
    ids.append(world.client.enqueue(sample_batch, Sample()).id)
    (line,) = delivered(world, *[Message(sample_batch.type, id_, rec=True).encode() for id_ in ids], task=sample_batch)
    assert [task.get("trace_id") for task in line["tasks"]] == [f"{1:032x}", f"{2:032x}", None]
    assert len({task.get("span_id") for task in line["tasks"]}) == 3
    assert "trace_id" not in line


@pytest.mark.parametrize("header", ["t", "", "secret-4711", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_malformed_traceparent_is_kept_as_a_header_and_is_in_no_log_line(header: str, world: World) -> None:
    info = world.client.enqueue(sample_one, Sample(do="tells"), headers={HEADER: header})
    lines = delivered(world, Message(sample_one.type, info.id, rec=True).encode())
    assert world.row(info.id)["headers"] == {HEADER: header}
    assert [words(line) for line in lines] == [(None, None)] * len(lines)
    assert not any(header and header in str(line) for line in lines if header != "t")
    assert seen == [None]


@pytest.mark.parametrize("trace", ["", "x", "Root=", "Root=1;Lineage=a:b:c", ";=;=\r\nX: y", "é", "9" * 10_000])
def test_a_trace_of_aws_that_cannot_be_read_stops_nothing(
    trace: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
    system = {"ApproximateReceiveCount": "1", "SentTimestamp": "1796052826789", "AWSTraceHeader": trace}
    put(world, sample_one, "fails", {"do": "tells_and_breaks"}, max_attempts=1)
    for id_ in ("fails", "runs"):
        message = Message(sample_one.type, id_, {"do": "has_children"}, rec=id_ == "fails")
        world.deliver(sample_one, message.encode(), system=system, attributes={HEADER: ("String", trace)})
    assert [world.row(id_)["state"] for id_ in ("fails", "runs")] == ["archived", "completed"]
    assert len(world.take(sample_one)) == 4


def test_a_trace_of_aws_that_is_no_text_stops_no_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, sample_one, "early", state="scheduled", due_at=In(300))
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "\udcff")
    assert len(world.deliver(sample_one, Message(sample_one.type, "early", rec=True).encode())) == 1


def test_a_handlers_line_has_no_trace_of_the_task_before_it(world: World) -> None:
    traced = world.client.enqueue(sample_one, Sample(do="tells"), headers={HEADER: GOOD})
    plain = world.client.enqueue(sample_one, Sample(do="tells"))
    for id_, trace in ((traced.id, TRACE), (plain.id, None)):
        line = delivered(world, Message(sample_one.type, id_, rec=True).encode())[0]
        assert line.get("trace_id") == trace


# --- All ways --------------------------------------------------------------------------------------------------------


def test_sql_hands_it_on(world: World) -> None:
    register(world.database.get(), {sample_one.type: sample_one})
    headers = "headers => jsonb_build_object($1::text, $2::text)"
    sql = f"select id from joblane.enqueue('sample:one', '{{\"do\": \"tells\"}}', {headers})"
    [[id_]] = world.run(sql, HEADER, GOOD)
    world.lane(sample_one)
    sweep(world.database.get(), world.sqs, PREFIX)
    lines = delivered(world, world.take(sample_one)[0]["Body"])
    assert {words(line) for line in lines if line.get("task_id") == id_} == {(TRACE, PARENT)}


@pytest.mark.parametrize(
    ("headers", "attributes", "trace"),
    [
        ({HEADER: GOOD}, {}, TRACE),
        ({}, ATTRIBUTE, TRACE),
        ({HEADER: f"00-{1:032x}-{PARENT}-01"}, ATTRIBUTE, f"{1:032x}"),  # its own header takes precedence
        ({}, {HEADER: ("String", "nonsense")}, None),
        ({}, {HEADER: ("Number", "7")}, None),
    ],
)
def test_an_external_message_has_it_in_its_headers_or_in_an_attribute(
    headers: dict[str, str], attributes: Any, trace: str | None, world: World
) -> None:
    body = Message(sample_one.type, "external", {"do": "tells", "number": 0}, headers=headers).encode()
    lines = delivered(world, body, attributes=attributes)
    assert lines[0].get("trace_id") == trace
    assert world.row("external")["headers"].get(HEADER, "").find(trace or "") >= 0


def test_a_trace_passes_a_front_door(world: World) -> None:
    world.lane(sample_one)
    router = Router({sample_one.type: ["default"]}, Sqs(), PREFIX)
    body = Message(sample_one.type, payload={"do": "tells", "number": 0}).encode()
    invoke(router.handle, record(body, "jobs-default", attributes=ATTRIBUTE))
    lines = delivered(world, world.take(sample_one)[0]["Body"])
    assert words(lines[0]) == (TRACE, PARENT)


def test_the_attribute_has_no_effect_on_a_task_with_a_row(world: World) -> None:
    info = world.client.enqueue(sample_one, Sample(do="tells"))
    lines = delivered(world, Message(sample_one.type, info.id, rec=True).encode(), attributes=ATTRIBUTE)
    assert lines[0].get("trace_id") is None


# --- And on ----------------------------------------------------------------------------------------------------------


def test_children_are_a_part_of_the_run_that_enqueued_them_by_default(world: World) -> None:
    world.client.enqueue(sample_one, Sample(do="has_children"), task_id="it", headers={HEADER: GOOD})
    world.deliver(sample_one, Message(sample_one.type, "it", rec=True).encode())
    (own,) = seen
    assert own is not None
    assert own.startswith(f"00-{TRACE}-")
    assert PARENT not in own
    found = {id_: world.row(id_)["headers"] for id_ in ("child", "named", "apart", "one-of-many")}
    assert found == {
        "child": {HEADER: own},
        "named": {"other": "x", HEADER: own},
        "apart": {HEADER: ""},
        "one-of-many": {HEADER: own},
    }


def test_children_of_a_task_without_a_trace_have_none(world: World) -> None:
    world.client.enqueue(sample_one, Sample(do="has_children"), task_id="it")
    world.deliver(sample_one, Message(sample_one.type, "it", rec=True).encode())
    assert seen == [None]
    assert [world.row(id_)["headers"] for id_ in ("child", "named", "one-of-many")] == [{}, {"other": "x"}, {}]
