"""Each rule of the preflight on plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from joblane.cdk.preflight.compare import DatabaseState, Declared, examine
from joblane.cdk.preflight.concurrency import Account, Demand
from joblane.cdk.preflight.findings import Finding, FindingKind, blocks_deploy

JOBS = "jobs-jobs"
DECLARED = Declared(
    stage="dev",
    prefix="jobs",
    lanes={"data:export": ["default", "critical"], "data:dump": ["default", "critical"], "user:invite": ["low"]},
    limits=dict.fromkeys(("data:export", "data:dump"), ("data:export/", None, "openai")),
    keys=dict.fromkeys(("data:export", "data:dump"), ("tenant", "account_id")),
    queues={
        (JOBS, "ExportDefault"): "jobs-default-data-export",
        (JOBS, "ExportDefaultDlq"): "jobs-default-data-export-dlq",
        (JOBS, "InviteLow"): "jobs-low-user-invite",
    },
    demand=Demand(slots=20, reserved=0, budget=20, account=50, lanes=[], throttled_hours=6),
    database_connections=100,
    reserved_connections=10,
)
ACCOUNT = Account(limit=50, reserved_by_others=0, other_stages={})
DATABASE = DatabaseState(
    address="db:5432/jobs",
    revision="0004",
    pending={},
    newer=False,
    live={("data:export", "default"): 3, ("user:invite", "low"): 1},
    limited={
        ("data:export", ("data:export/", None, "openai")): 2,
        ("data:export", (None, None, "openai")): 1,
        ("user:invite", (None, "user:invite", None)): 1,
    },
    keys={"data:export": ("tenant", "account_id"), "user:invite": ()},
    types=["data:export", "user:invite"],
    max_connections=100,
    kept_connections=3,
)
MESSAGES = {"jobs-default-data-export": 3, "jobs-default-data-export-dlq": 1, "jobs-low-user-invite": 0}


def findings_of(
    declared: Declared = DECLARED,
    *,
    stacks: Mapping[tuple[str, str], str] | None = DECLARED.queues,
    messages: Mapping[str, int] | None = MESSAGES,
    account: Account | None = ACCOUNT,
    database: DatabaseState | None = DATABASE,
) -> list[Finding]:
    return examine(declared, stacks=stacks, messages=messages, account=account, database=database)


def only(findings: list[Finding], kind: FindingKind = FindingKind.REFUSED) -> Finding:
    (finding,) = findings
    assert finding.kind is kind
    return finding


def with_live(*places: tuple[str, str], types: Any = DATABASE.types) -> DatabaseState:
    return replace(DATABASE, live=dict.fromkeys(places, 2), types=types)


def test_a_deploy_of_the_same_declarations_is_fine() -> None:
    assert findings_of() == []


def test_live_tasks_under_another_limit_are_refused() -> None:
    database = replace(DATABASE, limited={("data:export", ("data:export/", None, None)): 2})
    finding = only(findings_of(database=database))
    assert finding.what == "task type data:export, limits"
    assert "its widest limit becomes openai, and it still has 2 live tasks under data:export/" in finding.why


def test_live_tasks_of_a_former_name_with_a_limit_of_the_type_are_refused() -> None:
    database = replace(DATABASE, limited={("data:dump", ("data:dump/", None, "openai")): 2})
    finding = only(findings_of(database=database))
    assert finding.what == "task type data:dump, limits"
    assert "its limit becomes data:export/, and it still has 2 live tasks under data:dump/" in finding.why
    assert finding.do.startswith("keep its name and limits as they are until these tasks have run")
    shared = replace(DATABASE, limited={("data:dump", (None, None, "openai")): 2})
    assert findings_of(database=shared) == []


def test_live_tasks_under_a_key_of_another_field_are_refused() -> None:
    database = replace(DATABASE, keys={"data:export": ("account_id",)})
    finding = only(findings_of(database=database))
    assert finding.what == "task type data:export, limits"
    assert "its key becomes tenant,account_id, and it still has 2 live tasks under account_id" in finding.why
    without_a_key = replace(database, limited={("data:export", (None, None, "openai")): 1})
    assert findings_of(database=without_a_key) == []


def test_a_first_deploy_is_fine() -> None:
    database = replace(DATABASE, revision=None, pending={"0001": "the tables"}, live={}, types=[])
    findings = findings_of(stacks={}, messages={}, database=database)
    assert only(findings, FindingKind.NOTE).what == "migration 0001"
    assert not blocks_deploy(findings, strict=True)


# --- Tasks and messages --------------------------------------------------------------------------------------------


def test_removing_a_type_with_live_tasks_is_refused() -> None:
    found = only(findings_of(database=with_live(("data:gone", "default"), ("data:gone", "low"))))
    assert found.what == "task type data:gone"
    assert found.why == "no task declares it, and it still has 2 live tasks in queue default, 2 live tasks in queue low"
    assert 'aliases=["data:gone"]' in found.do


def test_live_tasks_of_an_alias_are_fine() -> None:
    assert findings_of(database=with_live(("data:dump", "default"))) == []


def test_removing_a_lane_with_live_tasks_is_refused() -> None:
    found = only(findings_of(database=with_live(("user:invite", "critical"))))
    assert found.what == "task type user:invite, queue critical"
    assert found.why == "it no longer has a lane there, and still has 2 live tasks in queue critical"
    assert "also=[Queue.CRITICAL]" in found.do


@pytest.mark.parametrize("queue", ["jobs-default-data-gone", "jobs-default-data-gone-dlq"])
def test_removing_a_type_with_messages_is_refused(queue: str) -> None:
    stacks = {**DECLARED.queues, (JOBS, "Gone"): queue}
    found = only(findings_of(stacks=stacks, messages={queue: 1}, database=with_live(types=["data:gone"])))
    assert (found.what, found.why) == (
        "task type data:gone",
        f"no task declares it, and it still has 1 message in {queue}",
    )


def test_removing_a_lane_with_messages_is_refused() -> None:
    found = only(findings_of(messages={"jobs-low-data-export-dlq": 1200}))
    assert found.what == "task type data:export, queue low"
    assert "1,200 messages in jobs-low-data-export-dlq" in found.why


def test_without_a_database_a_queue_with_messages_is_reported_by_its_name() -> None:
    found = only(findings_of(messages={"jobs-low-data-gone": 2}, database=None))
    assert (found.what, found.why) == ("queue jobs-low-data-gone", "no task declares it, and it holds 2 messages")


def test_removing_a_webhook_with_refused_events_is_refused() -> None:
    found = only(findings_of(messages={"jobs-events-dlq": 2}))
    assert (found.what, found.why) == (
        "queue jobs-events-dlq",
        "the stage has no webhook any more, and it holds 2 events that the webhook refused",
    )


def test_removing_an_empty_queue_is_fine() -> None:
    stacks = {**DECLARED.queues, (JOBS, "Gone"): "jobs-low-data-gone"}
    assert findings_of(stacks=stacks, messages={"jobs-low-data-gone": 0}) == []


# --- Queues --------------------------------------------------------------------------------------------------------


def test_a_queue_that_would_be_replaced_is_refused() -> None:
    stacks = {**DECLARED.queues, (JOBS, "InviteLow"): "jobs-low-invite-user"}
    found = only(findings_of(stacks=stacks))
    assert found.what == "queue jobs-low-invite-user"
    assert "replaced by jobs-low-user-invite" in found.why


def test_a_queue_whose_logical_id_changes_is_refused() -> None:
    stacks = {place: name for place, name in DECLARED.queues.items() if place[1] != "InviteLow"}
    found = only(findings_of(stacks={**stacks, (JOBS, "OldInviteLow"): "jobs-low-user-invite"}))
    assert found.what == "queue jobs-low-user-invite"
    assert "another resource: jobs-jobs/InviteLow in place of jobs-jobs/OldInviteLow, and" in found.why


def test_a_queue_that_moves_to_another_stack_is_refused() -> None:
    stacks = {place: name for place, name in DECLARED.queues.items() if place[1] != "InviteLow"}
    found = only(findings_of(stacks={**stacks, (f"{JOBS}/Part07", "InviteLow"): "jobs-low-user-invite"}))
    assert "another resource: jobs-jobs/InviteLow in place of jobs-jobs/Part07/InviteLow, and" in found.why


def test_an_existing_queue_in_no_stack_is_refused() -> None:
    stacks = {place: name for place, name in DECLARED.queues.items() if place[1] != "InviteLow"}
    found = only(findings_of(stacks=stacks))
    assert found.what == "queue jobs-low-user-invite"
    assert "with 0 messages, and belongs to no stack" in found.why


def test_an_empty_queue_of_an_earlier_deploy_is_only_a_note() -> None:
    findings = findings_of(messages={**MESSAGES, "jobs-low-data-gone": 0})
    advice = only(findings, FindingKind.NOTE).do
    assert 0 < advice.index("aws sqs get-queue-attributes") < advice.index("aws sqs delete-queue")
    assert not blocks_deploy(findings, strict=True)


# --- Limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "kept", "what", "why"),
    [
        (99, 3, "database_connections", "assumes 100, and db:5432/jobs has max_connections 99"),
        (100, 11, "reserved_connections", "reserves 10 of the connections, and db:5432/jobs keeps 11 for superusers"),
    ],
)
def test_fewer_connections_than_the_stage_assumes_are_refused(most: int, kept: int, what: str, why: str) -> None:
    found = only(findings_of(database=replace(DATABASE, max_connections=most, kept_connections=kept)))
    assert found.what == what
    assert re.search(why, found.why)


# --- The database --------------------------------------------------------------------------------------------------


def test_a_database_without_tables_under_a_deployed_stage_is_refused() -> None:
    found = only(findings_of(database=replace(DATABASE, revision=None, live={}, types=[], pending={"0001": "x"})))
    assert found.what == "DATABASE_URL"
    assert "database of stage dev" in found.do


def test_pending_migrations_and_a_newer_schema_are_noted() -> None:
    assert (
        only(findings_of(database=replace(DATABASE, pending={"0005": "a column"})), FindingKind.NOTE).what
        == "migration 0005"
    )
    assert only(findings_of(database=replace(DATABASE, revision="0009", newer=True)), FindingKind.NOTE).what == "schema"


# --- Parts that could not be read ----------------------------------------------------------------------------------


def test_rules_without_data_report_nothing_and_the_others_still_do() -> None:
    assert findings_of(stacks=None, messages=None, account=None, database=None) == []
    assert (
        only(findings_of(stacks=None, account=None, database=with_live(("data:gone", "low")))).what
        == "task type data:gone"
    )


@pytest.mark.parametrize(
    ("kind", "stopped", "strictly"),
    [(FindingKind.REFUSED, True, True), (FindingKind.UNCHECKED, False, True), (FindingKind.NOTE, False, False)],
)
def test_refused_findings_block_a_deploy_and_strictly_unchecked_ones_too(
    kind: FindingKind, stopped: bool, strictly: bool
) -> None:
    findings = [Finding(kind, "x", "y")]
    assert (blocks_deploy(findings), blocks_deploy(findings, strict=True)) == (stopped, strictly)
