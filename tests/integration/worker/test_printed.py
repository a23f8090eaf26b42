"""Printed text of a handler: log lines of its task on Lambda, and the standard output as it is elsewhere."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from threading import Event, Thread
from typing import Any

import pytest

from joblane import TaskContext
from joblane.worker.printed import MAX_LINE, MAX_LINES, Printed
from joblane.worker.worker import Worker
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World

METRIC = '{"_aws":{"Timestamp":1},"Pages":3}'


@behaviour
def prints(payload: Sample, ctx: TaskContext) -> None:
    print("page", payload.number)
    print()
    print("50 %s done", 1)
    sys.stdout.write("two\nlines, and a rest")
    print(METRIC)
    print(METRIC, end="")


@behaviour
def prints_in_threads(payload: Sample, ctx: TaskContext) -> None:
    sys.stdout.write("the begin, ")
    for text in ("of another thread\n", "without an end"):
        thread = Thread(target=sys.stdout.write, args=(text,))
        thread.start()
        thread.join()
    sys.stdout.write("the end\n")


@behaviour
def prints_and_fails(payload: Sample, ctx: TaskContext) -> None:
    print("x" * 5_000)
    print("before the error", end="")
    raise ValueError("no page")


@behaviour
def prints_for_ever(payload: Sample, ctx: TaskContext) -> None:
    for number in range(MAX_LINES + 50):
        print("line", number)


@behaviour
def prints_elsewhere(payload: Sample, ctx: TaskContext) -> None:
    sys.stdout = io.StringIO()
    print("not logged")


@behaviour
def prints_half_a_character(payload: Sample, ctx: TaskContext) -> None:
    print("half a character: \ud83d")
    print('{"half": "\ud83d"}', end="")


@behaviour
def prints_and_closes(payload: Sample, ctx: TaskContext) -> None:
    print("before")
    sys.stdout.close()
    print(METRIC, end="")


@behaviour
def prints_a_document(payload: Sample, ctx: TaskContext) -> None:
    for _ in range(3 * MAX_LINE):
        print("", end=".")
    print()
    json.dump({"pages": [{"page": number} for number in range(20_000)]}, sys.stdout)


def delivered(world: World, task: Any, *runs: tuple[str, str]) -> dict[str, list[str]]:
    """Run tasks, each of an id and a behaviour, as on Lambda. Return what each of them has printed, as log lines."""
    world.workers[task.type] = Worker(task, world.database, world.sqs, PREFIX, printed=Printed())
    with lines() as found:
        world.deliver(task, *({"type": task.type, "id": id_, "payload": {"do": do, "number": 7}} for id_, do in runs))
    printed = [line for line in found.fields if line.get("printed")]
    assert all(line["location"].startswith("prints") for line in printed)
    return {id_: [line["message"] for line in printed if line["task_id"] == id_] for id_, _ in runs}


def lines_of(world: World, do: str) -> list[dict[str, Any]]:
    """Run a task as on Lambda. Return all of its log lines."""
    world.workers[sample_one.type] = Worker(sample_one, world.database, world.sqs, PREFIX, printed=Printed())
    with lines() as found:
        world.deliver(sample_one, {"type": "sample:one", "id": "it", "payload": {"do": do}}, seconds=9)
    return found.fields


def test_each_printed_line_is_a_log_line_of_its_task(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # when two tasks of a batch print
    before = sys.stdout
    found = delivered(world, sample_batch, ("a", "prints"), ("b", "prints"))
    # then
    assert found == {id_: ["page 7", "50 %s done 1", "two", "lines, and a rest" + METRIC] for id_ in "ab"}
    assert sys.stdout is before
    # and a line of JSON, of a metric for example, is on the output as it is, once
    assert capsys.readouterr().out.splitlines().count(METRIC) == 2


def test_lines_of_threads_do_not_mix(world: World) -> None:
    printed = [line["message"] for line in lines_of(world, "prints_in_threads") if line.get("printed")]
    assert printed == ["of another thread", "the begin, the end", "without an end"]


def test_the_lines_of_a_failed_run_are_kept_and_its_retry_says_the_error(world: World) -> None:
    long, rest, retry = lines_of(world, "prints_and_fails")
    assert (long["message"], rest["message"]) == ("x" * (MAX_LINE - 1) + "…", "before the error")
    assert (retry["message"], retry["error_type"], retry["error"]) == ("task retry", "ValueError", "no page")


def test_a_run_that_prints_without_end_logs_a_limited_number_of_lines(world: World) -> None:
    messages = [line["message"] for line in lines_of(world, "prints_for_ever")]
    assert messages[MAX_LINES - 1 : -1] == [
        f"line {MAX_LINES - 1}",
        "the handler has printed 1,000 lines; the others of this run are not logged",
    ]


def test_an_output_that_a_handler_replaces_is_restored(world: World) -> None:
    before = sys.stdout
    found = delivered(world, sample_batch, ("a", "prints_elsewhere"), ("b", "prints"))
    assert (found["a"], found["b"][0]) == ([], "page 7")
    assert sys.stdout is before


def test_a_printed_text_that_has_no_encoding_changes_no_outcome(world: World) -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as output:
        found = delivered(world, sample_batch, ("a", "prints_half_a_character"), ("b", "prints"))
    assert (world.row("a")["state"], world.row("b")["state"]) == ("completed", "completed")
    assert (found["a"], found["b"][0]) == (["half a character: \\ud83d"], "page 7")
    output.seek(0)
    assert output.readline() == '{"half": "\\ud83d"}\n'


def test_a_document_that_is_printed_in_many_parts_takes_no_time(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines_of(world, "prints_a_document")  # copies of the line at each part would take longer than it may run
    assert world.row("it")["state"] == "completed"
    assert found[0]["message"] == "." * (MAX_LINE - 1) + "…"
    [document] = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"pages"')]
    assert len(json.loads(document)["pages"]) == 20_000


def test_a_handler_cannot_close_the_output_of_its_process(world: World) -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as output:
        found = delivered(world, sample_batch, ("a", "prints_and_closes"), ("b", "prints"))
    assert (world.row("a")["state"], found["a"], found["b"][0]) == ("completed", ["before"], "page 7")
    assert not output.closed


def test_a_thread_that_restores_the_output_after_its_run_disturbs_no_later_run(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a thread whose redirect_stdout ends after the run
    before, begun, ended = sys.stdout, Event(), Event()
    threads: list[Thread] = []

    def redirect() -> None:
        with redirect_stdout(io.StringIO()):
            begun.set()
            ended.wait(PATIENCE_SECONDS)

    @behaviour
    def leaves_a_redirect(payload: Sample, ctx: TaskContext) -> None:
        threads.append(Thread(target=redirect))
        threads[0].start()
        begun.wait(PATIENCE_SECONDS)

    world.workers[sample_one.type] = Worker(sample_one, world.database, world.sqs, PREFIX, printed=Printed())
    world.deliver(sample_one, {"type": "sample:one", "id": "leaves", "payload": {"do": "leaves_a_redirect"}})
    ended.set()
    threads[0].join()
    # when
    with lines() as found:
        world.deliver(sample_one, {"type": "sample:one", "id": "it", "payload": {"do": "prints"}})
    # then
    assert world.row("it")["state"] == "completed"
    assert found.fields[0]["message"] == "page 0"
    assert capsys.readouterr().out.splitlines().count(METRIC) == 1
    assert sys.stdout is before


def test_without_it_a_print_stays_on_the_output(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with lines() as found:
        world.deliver(sample_one, {"type": "sample:one", "id": "it", "payload": {"do": "prints"}})
    assert capsys.readouterr().out.startswith("page 0\n\n50 %s done 1\n")
    assert [line["message"] for line in found.fields] == ["tasks completed"]
