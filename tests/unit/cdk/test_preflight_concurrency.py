"""The preflight's rules on Lambda's concurrent executions: no advice that cannot work, in an account of any size."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane.cdk.preflight.concurrency import Account, Demand, concurrency
from joblane.cdk.preflight.findings import Finding, FindingKind, blocks_deploy
from joblane.names import Queue
from joblane.quotas import MIN_CONCURRENCY, share_concurrency

DEMAND = Demand(slots=20, reserved=0, budget=20, account=50, lanes=[], throttled_hours=6)


def of(demand: Demand = DEMAND, *, limit: int = 50, reserved: int = 0, others: int = 0) -> list[Finding]:
    return list(concurrency(demand, Account(limit, reserved, {"jobs-prod": others})))


def stage(lanes: int, budget: int, *, reserved: int = 0, account: int = 50) -> Demand:
    """A stage with lanes in all three queues, and the three mappings of the front doors."""
    sharing = [(f"lane-{number}", [*Queue][number % 3], None) for number in range(lanes)]
    slots = sum(share_concurrency(sharing, budget).values()) + len(Queue) * MIN_CONCURRENCY
    return Demand(slots, reserved, budget, account, sharing, throttled_hours=6)


def only(findings: list[Finding], kind: FindingKind) -> Finding:
    (finding,) = findings
    assert finding.kind is kind
    return finding


# --- Slots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reserved", "others"), [(10, 20), (30, 0), (0, 0)])
def test_using_the_whole_quota_is_fine(reserved: int, others: int) -> None:
    assert of(reserved=reserved, others=others) == []


def test_in_a_new_account_the_slots_are_a_note_with_the_request_for_more() -> None:
    # given the nine lanes of stage dev, and ten concurrent executions
    found = only(of(stage(9, 20, account=10), limit=10), FindingKind.NOTE)
    assert found.why.startswith("the account has 10 concurrent executions, and the deploy needs 30 for queues; no")
    assert "spends no attempt" in found.why
    assert "after about 6 hours of throttling" in found.why
    assert (
        "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 " in found.do
    )
    assert found.do.endswith("--desired-value 1000")


def test_slots_that_a_lower_budget_makes_fit_are_refused_with_that_budget() -> None:
    found = only(of(stage(9, 60), limit=50), FindingKind.REFUSED)
    assert 'write "concurrency_budget": ' in found.do
    assert "the deploy needs 66 for queues" in found.why


def test_the_sum_names_other_stages_and_reservations() -> None:
    found = only(of(reserved=5, others=30), FindingKind.NOTE)
    assert "20 for queues + 30 for the queues of jobs-prod + 5 reserved by others;" in found.why


@given(
    lanes=st.integers(0, 40),
    budget=st.integers(MIN_CONCURRENCY, 200),
    limit=st.sampled_from([10, 50, 1000]),
    others=st.integers(0, 60),
    account=st.integers(1, 1000),
)
def test_every_advice_can_be_followed(lanes: int, budget: int, limit: int, others: int, account: int) -> None:
    demand = stage(lanes, budget, account=account)
    findings = of(demand, limit=limit, others=others)
    advised = re.findall(r'"concurrency_budget": (\d+)', " ".join(found.do for found in findings))
    for written in map(int, advised):
        # then the largest budget that fits is advised
        assert of(stage(lanes, written, account=limit), limit=limit, others=others) == []
        assert not blocks_deploy(of(stage(lanes, written, account=account), limit=limit, others=others))
        assert of(stage(lanes, written + 1, account=limit), limit=limit, others=others) != []
    # then without such an advice nothing stops the deploy
    assert blocks_deploy(findings) is bool(advised)
    # then a stage of that quota passes the check at synth
    for written in re.findall(r'"account_concurrency": (\d+)', " ".join(found.do for found in findings)):
        assert demand.slots <= int(written) or demand.fitting_budget(int(written)) is None


def test_reservations_of_this_stage_are_not_free_for_its_slots() -> None:
    demand = replace(DEMAND, slots=120, reserved=10)
    assert of(demand, limit=130) == []
    found = only(of(demand, limit=129), FindingKind.NOTE)
    assert "the deploy needs 120 for queues + 10 reserved;" in found.why


# --- Reservations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "is_refused"), [(130, False), (129, True)])
def test_a_reservation_leaves_a_hundred_to_the_others(limit: int, is_refused: bool) -> None:
    findings = of(replace(DEMAND, reserved=10), limit=limit, reserved=20)
    assert blocks_deploy(findings) is is_refused
    if is_refused:
        assert "leave 99 of 129" in only(findings, FindingKind.REFUSED).why


def test_reservations_in_a_new_account_are_refused_and_a_stage_without_them_is_not() -> None:
    assert blocks_deploy(of(stage(9, 20, reserved=5), limit=10))
    assert not blocks_deploy(of(stage(9, 20), limit=10))


def test_the_honest_number_of_a_new_account_is_advised() -> None:
    slots, setting = of(stage(9, 20), limit=10)
    assert (slots.kind, setting.kind) == (FindingKind.NOTE, FindingKind.NOTE)
    assert 'write "account_concurrency": 10 in cdk.json' in setting.do


# --- The setting ---------------------------------------------------------------------------------------------------


def test_a_setting_above_the_quota_is_noted() -> None:
    found = only(of(replace(DEMAND, account=1000)), FindingKind.NOTE)
    assert 'write "account_concurrency": 50' in found.do
