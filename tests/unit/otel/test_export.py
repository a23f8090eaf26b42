"""The export of spans: an exporter that hangs, refuses or dies takes little time, and what it lost is counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from joblane import background as module
from joblane import forking, telemetry
from joblane.background import FLUSH_SECONDS, LEFT_OUT_SECONDS, Background
from joblane.otel import export
from joblane.otel.export import BATCH, ROOM, Exporting, FlushingProvider
from joblane.tasks.event_kinds import OBSERVERS
from joblane.worker.invocation import BatchResponse, lambda_handler
from tests import logs
from tests.builders.events import LambdaContext
from tests.patience import PATIENCE_SECONDS

SHORT = 0.001
SPAN: Any = SimpleNamespace(context=SimpleNamespace(trace_flags=SimpleNamespace(sampled=True)))
UNSAMPLED: Any = SimpleNamespace(context=SimpleNamespace(trace_flags=SimpleNamespace(sampled=False)))


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Exporter:
    """An exporter that answers as the test says."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.called = threading.Event()
        self.answer: Callable[[], str] = lambda: "SUCCESS"

    def export(self, spans: Any) -> Any:
        self.calls.append(len(spans))
        self.called.set()
        return SimpleNamespace(name=self.answer())


def exporting(exporter: Any) -> tuple[Exporting, Clock]:
    made, clock = Exporting(exporter), Clock()
    made.background._clock, made.background._every = clock, None
    return made, clock


def send(made: Exporting, number: int = 1, *, seconds: float = PATIENCE_SECONDS) -> None:
    for _ in range(number):
        made.on_end(SPAN)
    made.background.flush(seconds)


@pytest.fixture
def hanging() -> Iterator[Exporter]:
    exporter, end = Exporter(), threading.Event()
    exporter.answer = lambda: "SUCCESS" if end.wait(PATIENCE_SECONDS) else "FAILURE"
    yield exporter
    end.set()


def test_spans_are_exported_in_parts_and_those_outside_of_the_sample_are_not() -> None:
    exporter = Exporter()
    made, _ = exporting(exporter)
    made.on_end(UNSAMPLED)
    send(made, BATCH + 1)
    assert (exporter.calls, made.dropped) == ([BATCH, 1], 0)
    send(made, 0)
    assert exporter.calls == [BATCH, 1]


def refuses() -> str:
    return "FAILURE"


def dies() -> str:
    raise OSError("no such host")


def check_pause(answer: Callable[[], str]) -> None:
    exporter = Exporter()
    exporter.answer = answer
    made, clock = exporting(exporter)
    with logs.lines() as lines:
        send(made, 3)
        assert lines.fields == []
        send(made, 2)
    assert [(line["message"], line["spans"]) for line in lines.fields] == [(export.DROPPED, 5)]
    # for a minute no invocation waits
    clock.now += LEFT_OUT_SECONDS - 1
    send(made, 4)
    assert (exporter.calls, made.dropped) == ([3, 2], 9)
    # then one failure is enough for the next pause
    clock.now += 1
    send(made)
    send(made)
    assert (exporter.calls, made.dropped) == ([3, 2, 1], 11)
    # and a success ends all that
    clock.now += LEFT_OUT_SECONDS
    exporter.answer = lambda: "SUCCESS"
    send(made, 7)
    exporter.answer = answer
    send(made)
    send(made)
    assert exporter.calls == [3, 2, 1, 7, 1, 1]


@pytest.mark.parametrize("answer", [refuses, dies])
def test_after_two_failures_spans_are_dropped_and_counted_for_a_minute(answer: Callable[[], str]) -> None:
    check_pause(answer)


def test_an_exporter_that_is_never_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FAILURES", 1_000)
    with pytest.raises(AssertionError):
        check_pause(refuses)


def test_an_exporter_that_hangs_has_no_invocation_wait_for_a_minute(hanging: Exporter) -> None:
    made, clock = exporting(hanging)
    send(made, seconds=SHORT)
    assert hanging.called.wait(PATIENCE_SECONDS)
    assert not made.background.is_paused
    send(made, seconds=SHORT)
    assert made.background.is_paused
    send(made, ROOM + 5)
    assert made.dropped == ROOM + 6  # the first one may still arrive
    clock.now += LEFT_OUT_SECONDS
    send(made, seconds=SHORT)
    assert made.background.is_paused
    assert hanging.calls == [1]


def test_an_exporter_that_is_always_late_counts_as_one_that_fails() -> None:
    goes_on = threading.Semaphore(0)
    exporter = Exporter()
    exporter.answer = lambda: "SUCCESS" if goes_on.acquire(timeout=PATIENCE_SECONDS) else "FAILURE"
    made, _ = exporting(exporter)
    for is_paused in (False, True):
        send(made, seconds=SHORT)
        goes_on.release()
        with made.background._changed:
            assert made.background._changed.wait_for(
                lambda: made.background._answered == made.background._asked, PATIENCE_SECONDS
            )
        assert made.background.is_paused is is_paused


def hours_waits(hanging: Exporter) -> int:
    """Return the number of waits of a process with an invocation a second, in an hour without a collector."""
    made, clock = exporting(hanging)
    waits, changed = 0, made.background._changed
    wait_for = changed.wait_for

    def counted(*arguments: Any) -> Any:
        nonlocal waits
        waits += threading.current_thread() is threading.main_thread()
        return wait_for(*arguments)

    changed.wait_for = counted  # type: ignore[method-assign, assignment]
    for _ in range(3_600):
        send(made, seconds=SHORT)
        clock.now += 1
    return waits


def test_an_hour_without_a_collector_makes_invocations_longer_by_less_than_2_percent(hanging: Exporter) -> None:
    waits = hours_waits(hanging)
    assert waits == 61
    assert waits * FLUSH_SECONDS < 0.02 * 3_600


def test_more_spans_than_there_is_room_for_are_dropped() -> None:
    made, _ = exporting(Exporter())
    for _ in range(ROOM + 3):
        made.on_end(SPAN)
    assert made.dropped == 3


def test_a_forked_process_exports_its_own_spans_in_its_own_thread(hanging: Exporter) -> None:
    made, _ = exporting(hanging)
    send(made, seconds=SHORT)
    assert hanging.called.wait(PATIENCE_SECONDS)
    thread, lock = made.background._thread, made.background._changed
    made.on_end(SPAN)
    forking._in_child()
    hanging.answer = lambda: "SUCCESS"
    send(made, 2)
    assert hanging.calls == [1, 2]
    assert made.background._thread is not thread
    assert made.background._changed is not lock


def test_the_provider_of_the_program_is_flushed_in_half_a_second_at_most() -> None:
    asked: list[int] = []

    def fails(milliseconds: int) -> bool:
        asked.append(milliseconds)
        return False

    background = FlushingProvider(SimpleNamespace(force_flush=fails)).background
    for _ in range(3):
        background.flush(PATIENCE_SECONDS)
    assert asked == [500, 500]
    assert background.is_paused


def test_the_end_of_a_process_exports_what_is_left() -> None:
    exporter = Exporter()
    made, _ = exporting(exporter)
    made.on_end(SPAN)
    made.shutdown()
    assert exporter.calls == [1]


def test_spans_of_a_process_that_goes_on_are_exported_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    background = Background("spans", done.set, SHORT)
    background.start()
    assert done.wait(PATIENCE_SECONDS)
    forking._objects.pop(background)
    background._changed = threading.Condition()  # ends the thread


def dies_unanswered() -> bool:
    raise OSError("no such host")


def test_the_log_names_what_could_not_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    background = Background("Sentry events", dies_unanswered, None)
    with caplog.at_level(logging.DEBUG, telemetry.logger().service):
        background.flush(PATIENCE_SECONDS)
    assert [line.message for line in caplog.records] == ["Sentry events could not be sent"]


@pytest.mark.parametrize(("left", "most"), [(60.0, FLUSH_SECONDS), (0.2, 0.2)])
def test_an_invocation_leaves_its_observers_half_a_second_at_most(left: float, most: float) -> None:
    given: list[float] = []

    def breaks(seconds: float) -> None:
        given.append(seconds)
        raise ValueError("no")

    OBSERVERS.append(SimpleNamespace(flush=breaks))
    answer = lambda_handler(lambda *_: BatchResponse(["kept"]))({"Records": []}, LambdaContext(seconds=left))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "kept"}]}
    assert [0 < seconds <= most for seconds in given] == [True]
