"""A stand-in for API Gateway in front of the control function: it verifies signatures, applies IAM policies and routes.

The permissions come from the synthesised template, and are not repeated here.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aws_cdk import App, Stack
from aws_cdk import aws_lambda as lambda_
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.stage import Stage
from joblane.cdk.stacks.control import ControlStack
from joblane.functions.control.handler import handler
from joblane.inspector.permission import Permission
from tests.builders.events import LambdaContext
from tests.builders.http_events import http_event, principal
from tests.infra import templates
from tests.infra.templates import Template
from tests.unit.saas.servers import served

Headers = Mapping[str, str] | Message
"""HTTP headers, whose names ignore case."""

ACCOUNT, REGION, API = "123456789012", "eu-central-1", "a1b2c3"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w+)/(?P<scope>[\w/-]+), SignedHeaders=(?P<signed>[a-z0-9;-]+), "
    r"Signature=(?P<signature>[0-9a-f]{64})"
)


def control_template() -> Template:
    """The template of the control stack only, with a function of another stack."""
    app = App(context={"@aws-cdk/core:validateAgainstDefaultRules": False}, analytics_reporting=False)
    stage = Stage.model_validate(
        {
            "name": "dev",
            "prefix": "acme",
            "database": {
                "kind": "existing",
                "host": "db.internal",
                "name": "acme",
                "secret": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:acme/dev-AbCdEf",
            },
            "settings": {},
        }
    )
    function = lambda_.Function.from_function_arn(
        Stack(app, "jobs"), "Function", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:acme-control"
    )
    ControlStack(app, "acme-control", stage=stage, control=Control(), function=function)
    template: Template = app.synth().get_stack_by_name("acme-control").template
    return template


@dataclass(frozen=True)
class Identity:
    """An identity of the account, with its managed policies."""

    arn: str
    policies: tuple[Permission, ...]
    key: str
    secret: str = field(default="wJalrXUtnFEMI", repr=False)

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.key, self.secret)


class Gateway:
    """An API with the routes and policies of a template, for the identities of the account."""

    def __init__(self, template: Template, *identities: Identity) -> None:
        self._routes = [route["RouteKey"] for route in templates.of_type(template, "AWS::ApiGatewayV2::Route").values()]
        self._policies = {
            templates.target(template, policy["ManagedPolicyName"]): [
                (statement["Effect"], statement["Action"], _arn(template, statement["Resource"]))
                for statement in policy["PolicyDocument"]["Statement"]
            ]
            for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values()
        }
        self.reset(*identities)

    def reset(self, *identities: Identity) -> None:
        """Start anew with these identities."""
        self._identities = {identity.key: identity for identity in identities}
        self.fails: list[Any] = []
        """Responses to the next requests: a status, or None for a closed connection."""
        self.seen: list[str] = []

    def answer(self, method: str, url: str, headers: Headers, body: bytes) -> tuple[int, bytes]:
        path = url.split("?", maxsplit=1)[0]
        self.seen.append(path)
        signer = self._verified(method, url, headers, body)
        route, parameters = self._route(method, path)
        if route is None:
            return 404, b'{"message":"Not Found"}'
        if signer is None or not self._allowed(signer, method, path):
            return 403, b'{"message":"Forbidden"}'
        event = http_event(method, path, signer=principal(signer.arn), headers=dict(headers.items()), raw=body.decode())
        event["routeKey"] = event["requestContext"]["routeKey"] = route
        event["pathParameters"] = parameters
        done = handler(event, LambdaContext())
        return done["statusCode"], done["body"].encode()

    def _verified(self, method: str, url: str, headers: Headers, body: bytes) -> Identity | None:
        """The identity that signed exactly this request; None if no identity of the account did."""
        claimed = AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
        identity = self._identities.get(claimed["key"]) if claimed else None
        if claimed is None or identity is None:
            return None
        if claimed["scope"] != f"{headers['X-Amz-Date'][:8]}/{REGION}/execute-api/aws4_request":
            return None
        signed = {name: headers[name] for name in claimed["signed"].split(";")}
        if not {"host", "x-amz-date"} <= set(signed):
            return None
        request = AWSRequest(method, f"http://{headers['Host']}{url}", signed, body)
        request.context["timestamp"] = headers["X-Amz-Date"]
        signing = SigV4Auth(identity.credentials, "execute-api", REGION)
        text = signing.string_to_sign(request, signing.canonical_request(request))
        return identity if signing.signature(text, request) == claimed["signature"] else None

    def _route(self, method: str, path: str) -> tuple[str | None, dict[str, str]]:
        for route in self._routes:
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route)
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return route, found.groupdict()
        return None, {}

    def _allowed(self, signer: Identity, method: str, path: str) -> bool:
        wanted = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{API}/$default/{method}{path}"
        attached = [self._policies[f"acme-{name}-${{AWS::Region}}"] for name in signer.policies]
        return any(
            effect == "Allow" and action == "execute-api:Invoke" and fnmatch.fnmatchcase(wanted, resource)
            for statements in attached
            for effect, action, resource in statements
        )


def _arn(template: Template, resource: Any) -> str:
    """The ARN, with the values that AWS fills in."""
    (api,) = (name for name, found in template["Resources"].items() if found["Type"] == "AWS::ApiGatewayV2::Api")
    text = templates.target(template, resource)
    known = {"${AWS::Partition}": "aws", "${AWS::Region}": REGION, "${AWS::AccountId}": ACCOUNT, api: API}
    for name, value in known.items():
        text = text.replace(name, value)
    return text


@contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """Serve the gateway on this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            fails = gateway.fails.pop(0) if gateway.fails else 0
            if fails is None:
                self.close_connection = True
                self.connection.close()
                return
            status, content = (fails, b"") if fails else gateway.answer("POST", self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with served(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"
