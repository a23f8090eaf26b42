"""The wake-ups that a process sends before its commits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from joblane import settings, telemetry
from joblane.enqueue import wake as wakes
from joblane.enqueue.wake import AFTER_COMMIT, GRID_SECONDS, LEAD_SECONDS, is_covered, wake_after_commit
from joblane.local.memory_queues import MemoryQueues
from joblane.names import SWEEP, Queue, lane_name
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from tests.patience import PATIENCE_SECONDS

LANE = lane_name("jobs", Queue.LOW, SWEEP)
NOON = 1_800_000_000.0 // GRID_SECONDS * GRID_SECONDS
"""A boundary of the grid."""


class Queues(MemoryQueues):
    """Queues with a clock of the test. ``refused``: the sends that they refuse from now on."""

    def __init__(self) -> None:
        self.time = NOON
        super().__init__(lambda: self.time)
        self.refused = 0
        self.tries = 0
        self.sends: list[Entry] = []
        self._before = set(threading.enumerate())

    def threads(self) -> list[threading.Thread]:
        """The threads of this test that try again. Those of an earlier test in this process may still do."""
        return [one for one in threading.enumerate() if one.name == "joblane-wake" and one not in self._before]

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        assert brief
        self.tries += 1
        if self.refused:
            self.refused -= 1
            return dict.fromkeys(range(len(entries)), "AccessDenied")
        self.sends += entries
        return super().send_many(entries)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    monkeypatch.setattr(wakes, "RETRY_SECONDS", 0)
    monkeypatch.setattr(wakes, "_waker", wakes._Waker())
    yield (queues := Queues())
    for thread in queues.threads():
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("after", "delay"), [(0, 240), (0.5, 240), (194.9, 46), (195, 45), (195.1, 285), (239, 241), (240, 240)]
)
def test_a_wake_up_arrives_at_the_first_boundary_after_45_seconds(queues: Queues, after: float, delay: int) -> None:
    queues.time += after
    wake_after_commit(queues, "jobs")
    (entry,) = queues.sends
    assert (entry.queue, entry.delay_seconds) == (LANE, delay)
    boundary = NOON + (GRID_SECONDS if after <= 195 else 2 * GRID_SECONDS)
    message = decode(entry.body)
    assert (message.type, message.id) == (SWEEP, f"{AFTER_COMMIT}{boundary:.0f}")


def test_one_wake_up_covers_the_writes_until_45_seconds_before_it(queues: Queues) -> None:
    queues.time += 1
    wake_after_commit(queues, "jobs")
    queues.time = NOON + GRID_SECONDS - LEAD_SECONDS - 1
    wake_after_commit(queues, "jobs")
    assert len(queues.sends) == 1
    queues.time += 1
    assert not is_covered(queues, "jobs")
    wake_after_commit(queues, "jobs")
    assert [entry.delay_seconds for entry in queues.sends] == [239, LEAD_SECONDS]


def test_each_stage_has_wake_ups_of_its_own(queues: Queues) -> None:
    wake_after_commit(queues, "jobs")
    wake_after_commit(queues, "shop")
    assert [entry.queue for entry in queues.sends] == [LANE, lane_name("shop", Queue.LOW, SWEEP)]


@pytest.mark.parametrize("minutes", ["1", "5"])
def test_a_sweep_that_runs_often_is_not_woken(queues: Queues, monkeypatch: pytest.MonkeyPatch, minutes: str) -> None:
    monkeypatch.setenv(settings.SWEEP_MINUTES, minutes)
    wake_after_commit(queues, "jobs")
    assert not queues.tries


@pytest.mark.parametrize("minutes", ["", "360", "6", "0", "six"])
def test_any_other_sweep_is_woken(queues: Queues, monkeypatch: pytest.MonkeyPatch, minutes: str) -> None:
    monkeypatch.setenv(settings.SWEEP_MINUTES, minutes)
    wake_after_commit(queues, "jobs")
    assert len(queues.sends) == 1


def test_a_process_that_was_frozen_sends_again(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 7.0)  # stands still
    wake_after_commit(queues, "jobs")
    queues.time += GRID_SECONDS
    wake_after_commit(queues, "jobs")
    assert len(queues.sends) == 2


def test_a_clock_that_is_set_back_does_not_prolong_the_cover(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = 7.0
    monkeypatch.setattr("time.monotonic", lambda: monotonic)
    wake_after_commit(queues, "jobs")
    queues.time -= 3600
    monotonic += GRID_SECONDS
    wake_after_commit(queues, "jobs")
    assert len(queues.sends) == 2


def test_threads_that_write_at_once_send_one_wake_up(queues: Queues) -> None:
    start = threading.Barrier(8)

    def write() -> None:
        start.wait()
        wake_after_commit(queues, "jobs")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queues.sends) == 1


def test_a_forked_process_is_covered_and_waits_for_no_thread_of_its_parent(queues: Queues) -> None:
    wake_after_commit(queues, "jobs")
    with wakes._waker._lock:
        if not (child := os.fork()):
            wake_after_commit(queues, "jobs")
            wake_after_commit(queues, "shop")
            os._exit(len(queues.sends))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_refused_wake_up_covers_nothing_and_is_tried_again(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    # given SQS refuses, and the thread has not begun its pause
    resume = threading.Event()
    monkeypatch.setattr("time.sleep", lambda _: resume.wait(PATIENCE_SECONDS))
    warnings: list[str] = []
    monkeypatch.setattr(telemetry.logger(), "warning", lambda text, **_: warnings.append(text))
    queues.refused = 4
    # when two writes come
    wake_after_commit(queues, "jobs")
    wake_after_commit(queues, "jobs")
    # then each has tried
    assert (queues.tries, is_covered(queues, "jobs")) == (2, False)
    # and the thread tries until SQS accepts, without a write
    resume.set()
    (thread,) = queues.threads()
    thread.join(PATIENCE_SECONDS)
    assert (queues.tries, len(queues.sends), is_covered(queues, "jobs")) == (5, 1, True)
    assert warnings == [wakes.NOT_WOKEN]
    # and a later failure is logged again
    queues.time += GRID_SECONDS
    queues.refused = 1
    wake_after_commit(queues, "jobs")
    assert warnings == [wakes.NOT_WOKEN] * 2
