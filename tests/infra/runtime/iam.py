"""IAM's decision about recorded requests, by the emulator's evaluator: actions and resources of a request, statements,
conditions.

The evaluator is a part of MiniStack, which enforces permissions with it. It runs in the emulator's own environment.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from joblane.local.tools import Tools
from joblane.project import Project
from tests.infra.runtime.aws import Call
from tests.infra.runtime.runtime_api import ACCOUNT

PROGRAM = """
import base64, json, sys
from urllib.parse import parse_qs, unquote, urlsplit
from ministack.core import iam_actions, iam_evaluator

def checks(call):
    url, body = urlsplit(call["path"]), base64.b64decode(call["body"])
    headers = {name.lower(): value for name, value in call["headers"].items()}
    query, path = parse_qs(url.query, keep_blank_values=True), unquote(url.path)
    request = (call["service"], call["method"], path, headers, body, query)
    action = iam_actions.extract_iam_action(*request)
    context = {}
    if call["service"] == "s3":
        yield from ((*check, context) for check in iam_actions.s3_additional_checks(*request[1:]))
        context = iam_actions.s3_service_context(action, query)
    resource = iam_actions.extract_resource_arn(*request, call["region"], call["account"])
    if call["service"] == "sqs":
        # the permission for SendMessage covers SendMessageBatch. Source: SQS, API permissions
        action = action.removesuffix("Batch")
    if call["service"] == "scheduler":
        # the extraction knows no groups. Source: Service Authorization Reference, EventBridge Scheduler
        schedule = f"{query['groupName'][0]}/{path.rpartition('/')[2]}" if "GetSchedule" in action else "*/*"
        resource = f"arn:aws:scheduler:{call['region']}:{call['account']}:schedule/{schedule}"
    if path.strip("/").endswith("account-settings"):
        action = "lambda:GetAccountSettings"  # the extraction does not know it
    if path.endswith("/concurrency") and call["method"] == "GET":
        action = "lambda:GetFunctionConcurrency"  # the extraction takes it for a PUT
    if action == "events:DescribeEventBus":
        # the extraction takes the name for that of a rule. Source: Service Authorization Reference, EventBridge
        resource = f"arn:aws:events:{call['region']}:{call['account']}:event-bus/{json.loads(body)['Name']}"
    if action == "ses:SendEmail":
        # the identities of the sender and, in the sandbox, of the recipients. Source: SES, API permissions
        given = json.loads(body)
        people = [given["FromEmailAddress"], *(one for many in given["Destination"].values() for one in many)]
        addresses = [person.rpartition("<")[2].rstrip(">") for person in people]
        for address in addresses:
            identity = f"arn:aws:ses:{call['region']}:{call['account']}:identity/{address}"
            yield action, identity, {"ses:fromaddress": addresses[0]}
        return
    if not action:
        raise ValueError(f"the action of {call['service']} {call['method']} {path} {headers} is not known")
    yield action, resource, context

def decide(call, statements):
    for action, resource, context in checks(call):
        asked = iam_evaluator.EvalContext(
            call["caller"], "AssumedRole", call["account"], action, resource, call["region"], service_context=context
        )
        decision = iam_evaluator.evaluate(asked, [statements]).decision
        yield {"caller": call["caller"], "action": action, "resource": resource, "decision": decision}

given = json.load(sys.stdin)
policies = {
    name: iam_evaluator.parse_policy_document({"Statement": statements})
    for name, statements in given["policies"].items()
}
json.dump([made for call in given["calls"] for made in decide(call, policies.get(call["caller"], []))], sys.stdout)
"""


@dataclass(frozen=True, order=True)
class Decision:
    """``decision``: ``Allow``, ``Deny``, or ``ImplicitDeny``: no statement allows it."""

    caller: str
    action: str
    resource: str
    decision: str


def decide(calls: Iterable[Call], policies: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[Decision]:
    """Return the decisions about requests. ``policies``: the statements of each caller."""
    asked = [asdict(call) | {"account": ACCOUNT, "body": base64.b64encode(call.body).decode()} for call in calls]
    done = subprocess.run(
        [Tools(Project.here()).emulator_python, "-c", PROGRAM],
        input=json.dumps({"calls": asked, "policies": policies}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {Decision(**made) for made in json.loads(done.stdout)}
