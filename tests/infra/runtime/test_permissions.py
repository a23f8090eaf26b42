"""Each request to AWS that functions and producers make, against the policies of the templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest

from joblane.names import SWEEP, Queue, lane_name
from tests.infra.conftest import RealStages
from tests.infra.runtime.aws import Call
from tests.infra.runtime.conftest import PREFIX, Stage
from tests.infra.runtime.exercise import Exercise
from tests.infra.runtime.iam import Decision, decide
from tests.infra.runtime.resolved import Resolved

Policies = Mapping[str, Sequence[Mapping[str, Any]]]
MAILING = "jobs-prod"
"""Prefix of a stage that sends mail by SES."""
POLLING = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
"""Lambda polls the queues of a function with the function's role."""
KEEPING = "ChangeMessageVisibility"
OTHERS = {
    r"\S+ (ec2:\w+|logs:(CreateLogStream|PutLogEvents))": "Lambda makes interfaces and writes logs with the role",
    r"\S+ rds-db:connect": "a login token is signed without a request",
    r"\S+-(data-export|report-generate) s3:AbortMultipartUpload": "only after a failed upload of more than one part",
    r"\S+-control lambda:GetFunctionConcurrency": "only of a function that Lambda throttled",
    r"\S+-send-jobs-bulk-\S+ sqs:\w+": "every type has a policy, and this one is sent by the control API",
    r"\S+-(view|operate|edit)-\S+ (execute-api:Invoke|cloudformation:DescribeStacks)": "operators call the control API",
}
"""Caller and action, as a pattern → the reason why no request here uses a grant."""


@pytest.fixture(scope="module")
def mailing(real_stages: RealStages) -> Resolved:
    return Resolved(real_stages("prod").templates)


@pytest.fixture(scope="module")
def policies(stage: Stage, mailing: Resolved) -> Policies:
    sweep = f'{lane_name("{}", Queue.LOW, SWEEP)}"'  # the functions of the other stage work for this one
    text = json.dumps(dict(mailing.policies)).replace(sweep.format(MAILING), sweep.format(PREFIX))
    return {**stage.resolved.policies, **json.loads(text)}


@pytest.fixture(scope="module")
def calls(stage: Stage, mailing: Resolved) -> list[Call]:
    """All requests of the platform's programs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Exercise(stage, mailing, monkeypatch).run()
    return stage.aws.calls


@pytest.fixture(scope="module")
def decisions(calls: list[Call], policies: Policies) -> set[Decision]:
    return decide(calls, policies)


def test_every_request_is_allowed_by_the_policies_of_its_caller(
    decisions: set[Decision], stage: Stage, policies: Policies
) -> None:
    assert sorted(made for made in decisions if made.decision != "Allow") == []
    # and every function made some
    callers = {made.caller for made in decisions}
    assert {*stage.resolved.functions} - callers == set()
    assert len({made.action for made in decisions}) > 12


def test_every_grant_is_used_by_a_request_or_has_a_reason(decisions: set[Decision], stage: Stage) -> None:
    used = {(made.caller.replace(MAILING, PREFIX), made.action, made.resource) for made in decisions}
    unused = sorted({f"{caller} {action}" for caller, action in unused_grants(stage.resolved, used)})
    assert [grant for grant in unused if not any(re.fullmatch(pattern, grant) for pattern in OTHERS)] == []
    assert [pattern for pattern in OTHERS if not any(re.fullmatch(pattern, grant) for grant in unused)] == []


def unused_grants(resolved: Resolved, used: set[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Caller and action of each statement with an action that no request used on any of its resources."""
    used = used | {(caller, action, queue) for caller, queue in resolved.consumed for action in POLLING}
    for caller, statements in resolved.policies.items():
        if "-" not in caller:  # a managed policy without a name, read as a part of the roles that have it
            continue
        for statement in statements:
            for action in many(statement["Action"]) if statement["Effect"] == "Allow" else ():
                patterns = many(statement["Resource"])
                if not any(
                    (who, did) == (caller, action) and any(fnmatchcase(what, pattern) for pattern in patterns)
                    for who, did, what in used
                ):
                    yield caller, action


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- A check of these tests ----------------------------------------------------------------------------------------


def test_a_request_without_its_statement_is_found(calls: list[Call], policies: Policies) -> None:
    # given a router whose role may no longer send
    router = f"{PREFIX}-router"
    left = [statement for statement in policies[router] if "sqs:SendMessage" not in many(statement["Action"])]
    # when its requests are evaluated
    found = {made for made in decide(calls, {router: left}) if made.caller == router}
    # then all that it sends is denied, and nothing that it keeps
    sent, kept = (
        {made.decision for made in found if made.action == f"sqs:{name}"} for name in ("SendMessage", KEEPING)
    )
    assert (sent, kept) == ({"ImplicitDeny"}, {"Allow"})


def test_a_grant_that_nothing_uses_is_found(decisions: set[Decision], stage: Stage) -> None:
    planted = {"Effect": "Allow", "Action": ["sqs:PurgeQueue", "sqs:SendMessage"], "Resource": "*"}
    resolved = Resolved({})
    router = f"{PREFIX}-router"
    resolved.policies, resolved.consumed = (
        {router: [*stage.resolved.policies[router], planted]},
        stage.resolved.consumed,
    )
    used = {(made.caller, made.action, made.resource) for made in decisions}
    assert (router, "sqs:PurgeQueue") in set(unused_grants(resolved, used))
    assert (router, "sqs:SendMessage") not in set(unused_grants(resolved, used))


def test_mail_from_another_sender_is_denied(calls: list[Call], policies: Policies, mailing: Resolved) -> None:
    (sent, *_) = [call for call in calls if call.service == "ses"]
    assert {made.decision for made in decide([sent], policies)} == {"Allow"}
    other = Call(**{**vars(sent), "body": sent.body.replace(b"no-reply@", b"other@")})
    assert "ImplicitDeny" in {made.decision for made in decide([other], policies)}
