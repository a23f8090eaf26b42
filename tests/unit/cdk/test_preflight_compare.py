"""Each rule of the preflight on plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, EnumType
from typing import Any

import pytest

from joblane.cdk.preflight.compare import DatabaseState, Declared, examine
from joblane.cdk.preflight.concurrency import Account, Demand
from joblane.cdk.preflight.findings import Finding, FindingKind, blocks_deploy
from joblane.tasks.place import Lambda

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


WITHOUT_LOW = {place: name for place, name in DECLARED.queues.items() if place[1] != "InviteLow"}
LOW = "jobs-low-user-invite"
WEB, DRAINING = Lambda("web"), Lambda("web", drains=("data:export",))
ON_PLACE = replace(DECLARED, homes={"user:invite": WEB}, queues={**WITHOUT_LOW, (JOBS, "WebLow"): "jobs-low-web"})
LIMITED = replace(DATABASE, limited={("data:dump", ("data:dump/", None, "openai")): 2})
KEYED = replace(DATABASE, keys={"data:export": ("account_id",)})
EMPTY = replace(DATABASE, revision=None, live={}, types=[], pending={"0001": "the tables"})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"database": with_live(("data:dump", "default"))},  # an alias
        {"database": replace(LIMITED, limited={("data:dump", (None, None, "openai")): 2})},
        {"database": replace(KEYED, limited={("data:export", (None, None, "openai")): 1})},  # without a key
        {"stacks": {**DECLARED.queues, (JOBS, "Gone"): "jobs-low-data-gone"}, "messages": {"jobs-low-data-gone": 0}},
        {"stacks": None, "messages": None, "account": None, "database": None},  # nothing could be read
        {"declared": ON_PLACE, "messages": {"jobs-low-web": 3}, "stacks": None},
        {"declared": ON_PLACE, "messages": {LOW: 0}},
    ],
    ids=[
        "same declarations",
        "an alias",
        "a shared limit",
        "no key",
        "an empty queue removed",
        "nothing read",
        "a place",
        "a move with empty lanes",
    ],
)
def test_a_deploy_that_loses_nothing_is_fine(given: dict[str, Any]) -> None:
    assert findings_of(**given) == []


@pytest.mark.parametrize(
    ("given", "what", "why", "do"),
    [
        (
            {"database": replace(DATABASE, limited={("data:export", ("data:export/", None, None)): 2})},
            "task type data:export, limits",
            "its widest limit becomes openai, and it still has 2 live tasks under data:export/",
            "",
        ),
        (
            {"database": LIMITED},
            "task type data:dump, limits",
            "its limit becomes data:export/, and it still has 2 live tasks under data:dump/",
            "keep its name and limits as they are until these tasks have run",
        ),
        (
            {"database": KEYED},
            "task type data:export, limits",
            "its key becomes tenant,account_id, and it still has 2 live tasks under account_id",
            "",
        ),
        # tasks and messages
        (
            {"database": with_live(("data:gone", "default"), ("data:gone", "low"))},
            "task type data:gone",
            "no task declares it, and it still has 2 live tasks in queue default, 2 live tasks in queue low",
            'aliases=["data:gone"]',
        ),
        (
            {"database": with_live(("data:gone", "low")), "stacks": None, "account": None},
            "task type data:gone",
            "2 live tasks in queue low",
            "",
        ),
        (
            {"database": with_live(("user:invite", "critical"))},
            "task type user:invite, queue critical",
            "it no longer has a lane there, and still has 2 live tasks in queue critical",
            "also=[Queue.CRITICAL]",
        ),
        *(
            (
                {
                    "stacks": {**DECLARED.queues, (JOBS, "Gone"): queue},
                    "messages": {queue: 1},
                    "database": with_live(types=["data:gone"]),
                },
                "task type data:gone",
                f"no task declares it, and it still has 1 message in {queue}",
                "",
            )
            for queue in ("jobs-default-data-gone", "jobs-default-data-gone-dlq")
        ),
        (
            {"messages": {"jobs-low-data-export-dlq": 1200}},
            "task type data:export, queue low",
            "1,200 messages in jobs-low-data-export-dlq",
            "",
        ),
        (
            {"messages": {"jobs-low-data-gone": 2}, "database": None},
            "queue jobs-low-data-gone",
            "no task declares it, and it holds 2 messages",
            "",
        ),
        (
            {"messages": {"jobs-events-dlq": 2}},
            "queue jobs-events-dlq",
            "the stage has no webhook any more, and it holds 2 events that the webhook refused",
            "",
        ),
        # places
        (
            {"declared": ON_PLACE, "messages": {"jobs-low-user-invite": 2, "jobs-low-user-invite-dlq": 1}},
            "task type user:invite",
            f'it runs on Lambda("web") now, and its former lane still has 2 messages in {LOW}, 1 message in {LOW}-dlq',
            'declare Lambda("web", drains=("user:invite",)) until they are gone',
        ),
        (
            {
                "declared": replace(
                    ON_PLACE, homes={"user:invite": DRAINING, "data:export": DRAINING, "data:dump": DRAINING}
                ),
                "messages": {LOW: 1, "jobs-critical-data-dump": 1},
            },
            "task types data:dump, user:invite",
            "1 message in jobs-critical-data-dump, 1 message in jobs-low-user-invite",
            'Lambda("web", drains=("data:export", "data:dump", "user:invite"))',
        ),
        (
            {"declared": ON_PLACE, "messages": {"jobs-critical-user-invite": 1}},
            "task type user:invite, queue critical",
            "it no longer has a lane there",
            "also=[Queue.CRITICAL]",
        ),
        (
            {"declared": ON_PLACE, "messages": {"jobs-default-web": 4, "jobs-default-web-dlq": 1}},
            'Lambda("web"), queue default',
            "its lane still has 4 messages in jobs-default-web, 1 message in jobs-default-web-dlq",
            "keep a task of queue default on it until they are gone",
        ),
        # queues
        (
            {"stacks": {**DECLARED.queues, (JOBS, "InviteLow"): "jobs-low-invite-user"}},
            "queue jobs-low-invite-user",
            f"replaced by {LOW}",
            "",
        ),
        (
            {"stacks": {**WITHOUT_LOW, (JOBS, "OldInviteLow"): LOW}},
            f"queue {LOW}",
            "another resource: jobs-jobs/InviteLow in place of jobs-jobs/OldInviteLow, and",
            "",
        ),
        (
            {"stacks": {**WITHOUT_LOW, (f"{JOBS}/Part07", "InviteLow"): LOW}},
            f"queue {LOW}",
            "another resource: jobs-jobs/InviteLow in place of jobs-jobs/Part07/InviteLow, and",
            "",
        ),
        ({"stacks": WITHOUT_LOW}, f"queue {LOW}", "with 0 messages, and belongs to no stack", ""),
        # the database
        (
            {"database": replace(DATABASE, max_connections=99)},
            "database_connections",
            "assumes 100, and db:5432/jobs has max_connections 99",
            "",
        ),
        (
            {"database": replace(DATABASE, kept_connections=11)},
            "reserved_connections",
            "reserves 10 of the connections, and db:5432/jobs keeps 11 for superusers",
            "",
        ),
        ({"database": EMPTY}, "DATABASE_URL", "has no task table", "database of stage dev"),
    ],
)
def test_a_deploy_that_would_lose_or_break_something_is_refused(
    given: dict[str, Any], what: str, why: str, do: str
) -> None:
    found = only(findings_of(**given))
    assert found.what == what
    assert why in found.why
    assert do in found.do


@pytest.mark.parametrize(
    ("given", "what", "do"),
    [
        ({"stacks": {}, "messages": {}, "database": EMPTY}, "migration 0001", "the deploy runs it"),  # a first deploy
        (
            {"messages": {**MESSAGES, "jobs-low-data-gone": 0}},
            "queue jobs-low-data-gone",
            "aws sqs get-queue-attributes .* aws sqs delete-queue",
        ),
        ({"database": replace(DATABASE, pending={"0005": "a column"})}, "migration 0005", "the deploy runs it"),
        ({"database": replace(DATABASE, revision="0009", newer=True)}, "schema", "a deploy of older code is fine"),
        (
            {
                "declared": replace(ON_PLACE, homes={}, queues={**ON_PLACE.queues, (JOBS, "InviteLow"): LOW}),
                "stacks": ON_PLACE.queues,
                "messages": {"jobs-low-web": 3},
            },
            "task type user:invite",
            "nothing: the place leaves these tasks in their rows, and the sweep sends them",
        ),
    ],
)
def test_a_note_does_not_block_a_deploy(given: dict[str, Any], what: str, do: str) -> None:
    findings = findings_of(**given)
    found = only(findings, FindingKind.NOTE)
    assert found.what == what
    assert re.search(do, found.do or "")
    assert not blocks_deploy(findings, strict=True)


def test_the_rules_run_on_python_3_11(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an enum refuses to say whether it contains a string."""

    def contains(kind: type[Enum], member: object) -> bool:
        if not isinstance(member, Enum):
            raise TypeError
        return isinstance(member, kind)

    monkeypatch.setattr(EnumType, "__contains__", contains)
    (finding,) = findings_of(messages={**MESSAGES, "jobs-low-web": 1})
    assert finding.what == 'Lambda("web"), queue low'


@pytest.mark.parametrize(
    ("kind", "stopped", "strictly"),
    [(FindingKind.REFUSED, True, True), (FindingKind.UNCHECKED, False, True), (FindingKind.NOTE, False, False)],
)
def test_refused_findings_block_a_deploy_and_strictly_unchecked_ones_too(
    kind: FindingKind, stopped: bool, strictly: bool
) -> None:
    findings = [Finding(kind, "x", "y")]
    assert (blocks_deploy(findings), blocks_deploy(findings, strict=True)) == (stopped, strictly)
