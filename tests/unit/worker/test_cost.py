"""The cost of a run follows from its time, its memory and its share of the invocation."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import Payload, TaskContext, task
from joblane.prices import AS_OF, PRICES, Price, compute
from joblane.record.row.options import AS_DECLARED
from joblane.record.row.states import State
from joblane.record.task.claim import Claim, Verdict
from joblane.record.task.finish import Finish
from joblane.worker.run_log import MEMORY_VARIABLE, RunLog

SQS, REQUEST = PRICES["SQS request"].each, PRICES["Lambda request"].each


class Work(Payload):
    pass


@task("some:work", memory_mb=1024)
def some_work(payload: Work, ctx: TaskContext) -> None: ...


def claimed(run: int = 1) -> Claim:
    return Claim("it", Verdict.RUN, "token", run, 1, 4, 0, 0, 0, 0, {}, None, {}, AS_DECLARED, None, 0, None, None)


def ended(state: State = State.COMPLETED, duration_ms: int = 100) -> Finish:
    return Finish("it", "token", 1, "completed", state, duration_ms=duration_ms)


@pytest.fixture
def gb_second(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"machine": "aarch64"}))
    return PRICES["Lambda GB-second"].each


def test_a_single_first_run_pays_for_its_time_its_invocation_and_three_calls(gb_second: float) -> None:
    costs, end = RunLog(some_work), ended(duration_ms=400)
    costs.begin(1, 100)
    costs.price(claimed(), end)
    assert (end.billed_ms, end.memory_mb) == (500, 1024)
    assert end.cost_usd == pytest.approx(0.5 * gb_second + REQUEST + 3 * SQS)


def test_runs_of_a_batch_share_the_start_the_invocation_and_its_calls(gb_second: float) -> None:
    costs, ends = RunLog(some_work), [ended() for _ in range(10)]
    costs.begin(10, 45)
    for end in ends:
        costs.price(claimed(), end)
    assert {end.billed_ms for end in ends} == {105}  # 104.5, and a started millisecond is billed
    total = sum(end.cost_usd or 0 for end in ends)
    assert total == pytest.approx(1.05 * gb_second + REQUEST + (10 + 2) * SQS)


@pytest.mark.parametrize(
    ("run", "state", "calls"),
    [(1, State.COMPLETED, 3), (2, State.COMPLETED, 2), (1, State.RETRY, 3), (2, State.ARCHIVED, 3)],
)
def test_a_message_is_sent_once_and_a_dead_letter_is_one_more_call(
    gb_second: float, run: int, state: State, calls: int
) -> None:
    costs, end = RunLog(some_work), ended(state, 0)
    costs.begin(1, 0)
    costs.price(claimed(run), end)
    assert end.cost_usd == pytest.approx(REQUEST + calls * SQS)


@pytest.mark.parametrize(("given", "memory_mb"), [("256", 256), ("", 1024)])
def test_memory_is_the_value_that_lambda_reports_if_it_does(
    monkeypatch: pytest.MonkeyPatch, given: str, memory_mb: int
) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, given)
    costs, end = RunLog(some_work), ended()
    costs.begin(1, 0)
    costs.price(claimed(), end)
    assert end.memory_mb == memory_mb


def test_each_processor_type_has_its_own_price() -> None:
    assert compute("arm64") is compute("aarch64") is PRICES["Lambda GB-second"]
    assert compute("x86_64") is PRICES["Lambda GB-second, x86_64"]
    assert compute("x86_64").each > compute("arm64").each


@pytest.mark.parametrize(
    ("price", "each", "text"),
    [
        (Price(0.4, "million", ""), 4e-7, "$0.40 per million"),
        (Price(0.0000133334, "GB-second", ""), 1.33334e-5, "$0.0000133334 per GB-second"),
        (Price(0.12, "ACU-hour", ""), 0.12, "$0.12 per ACU-hour"),
        (Price(0.023, "GB-month", ""), 0.023, "$0.023 per GB-month"),
        (Price(3, "dashboard-month", ""), 3, "$3.00 per dashboard-month"),
    ],
)
def test_a_price_is_dollars_per_unit_and_shown_per_billing_unit(price: Price, each: float, text: str) -> None:
    assert price.each == pytest.approx(each)
    assert str(price) == text


def test_every_price_has_a_source_and_the_table_a_date() -> None:
    assert all(price.source and price.dollars > 0 for price in PRICES.values())
    assert AS_OF.isoformat() == "2026-11-24"
    first: Any = next(iter(PRICES.values()))
    assert not first.source.startswith("the same")
