"""The control API from end to end: a signed request, API Gateway, the function, and the response."""

from __future__ import annotations

import base64
import inspect
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_type_hints

import pytest
from botocore.credentials import Credentials

from joblane.cli.exits import message_of
from joblane.errors import (
    DatabaseUnavailableError,
    DuplicateTaskError,
    JobError,
    LaneError,
    PartialFailure,
    PayloadError,
    TaskIdConflictError,
    UnknownTaskError,
)
from joblane.functions.control import answering
from joblane.inspector import wire
from joblane.inspector.errors import ActionError, AwsCallError, SchemaError, SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission
from joblane.inspector.person import Person
from joblane.inspector.remote import RemoteInspector
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.names import Queue
from joblane.record.row.states import State
from tests.integration.inspector.examples import empty, example
from tests.integration.inspector.gateway import ACCOUNT, REGION, Gateway, Identity, control_template, serving
from tests.logs import lines
from tests.unit.saas import servers

ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role"
VIEWER = Identity(f"{ROLE}/Viewer/vera@example.com", (Permission.VIEW,), "AKIAVIEWER")
OPERATOR = Identity(f"{ROLE}/Operator/otto@example.com", (Permission.VIEW, Permission.OPERATE), "AKIAOPERATOR")
EDITOR = Identity(f"arn:aws:iam::{ACCOUNT}:user/edda", tuple(Permission), "AKIAEDITOR")
NOBODY = Identity(f"arn:aws:iam::{ACCOUNT}:user/nemo", (), "AKIANOBODY")
EVERYBODY = (VIEWER, OPERATOR, EDITOR, NOBODY)

Connected = Callable[[Identity], RemoteInspector]


class Recorded:
    """A stand-in for the inspector behind the function: it records calls, and returns or raises prepared answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def __call__(self, scope: Any) -> Any:
        outer = self

        class One:
            def __getattr__(self, operation: str) -> Any:
                def call(**arguments: Any) -> Any:
                    outer.calls.append((scope.who, operation, arguments))
                    answer = outer.answers[operation]
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                return call

        return One()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Gateway, str]]:
    gateway = Gateway(control_template(), *EVERYBODY)
    with serving(gateway) as url:
        yield gateway, url


@pytest.fixture
def gateway(served: tuple[Gateway, str]) -> Gateway:
    served[0].reset(*EVERYBODY)
    return served[0]


@pytest.fixture
def connected(gateway: Gateway, served: tuple[Gateway, str], monkeypatch: pytest.MonkeyPatch) -> Connected:
    monkeypatch.setattr("joblane.inspector.remote.PAUSES_SECONDS", (0.0, 0.0))
    return lambda identity: RemoteInspector(
        served[1], stage="dev", prefix="acme", region=REGION, credentials=identity.credentials
    )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    answering._scope.cache_clear()
    monkeypatch.setattr(answering, "connect_first", lambda _: None)
    monkeypatch.setattr(answering, "Inspector", made)
    return made


def given(operation: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments for all parameters, and for the parameters without a default only."""
    function = vars(Inspector)[operation]
    hints = get_type_hints(function)
    parameters = [one for name, one in inspect.signature(function).parameters.items() if name != "self"]
    return (
        {one.name: example(hints[one.name]) for one in parameters},
        {one.name: empty(hints[one.name]) for one in parameters if one.default is one.empty},
    )


# --- All operations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", wire.operations())
def test_arguments_and_answers_are_transferred_unchanged(
    operation: str, connected: Connected, recorded: Recorded
) -> None:
    kind = get_type_hints(vars(Inspector)[operation])["return"]
    for arguments, answer in zip(given(operation), (example(kind), empty(kind)), strict=True):
        recorded.answers[operation] = answer
        # when
        got = getattr(connected(EDITOR), operation)(**arguments)
        # then
        assert recorded.calls.pop() == (EDITOR.arn, operation, arguments)
        assert got == answer
        assert type(got) is type(answer)


def test_positional_arguments_are_those_of_the_inspector(connected: Connected, recorded: Recorded) -> None:
    recorded.answers["bulk"] = empty(get_type_hints(Inspector.bulk)["return"])
    connected(OPERATOR).bulk(BulkAction.RETRY, Filter(types=("a:b",)), rate=5)
    assert recorded.calls == [
        (OPERATOR.arn, "bulk", {"action": BulkAction.RETRY, "filter": Filter(types=("a:b",)), "rate": 5})
    ]


def test_only_operations_are_attributes(connected: Connected) -> None:
    remote = connected(EDITOR)
    for name in ("nonsense", "_scope", "scope"):
        with pytest.raises(AttributeError, match=f"no operation '{name}'"):
            getattr(remote, name)
    with pytest.raises(TypeError, match="nonsense"):
        remote.tasks(nonsense=1)
    with pytest.raises(TypeError, match="'id'"):
        remote.task()


ERRORS: list[JobError] = [
    ActionError("a", "run", State.COMPLETED, [State.RETRY, State.SCHEDULED], "ann cancelled it 3 s ago"),
    SelectionError("after", "is no cursor of this listing"),
    UnknownTaskError("a"),
    LaneError("data:export", Queue.LOW, ["default"]),
    PayloadError("payload.tenant_id", "Field required"),
    TaskIdConflictError("a"),
    DuplicateTaskError("a", "active"),
    DatabaseUnavailableError("the database did not answer"),
    SchemaError("the database is at revision 0003"),
    AwsCallError("SendMessage", "it did not answer", denied=True),
    wire.ArgumentsError("run", {"id": "is missing"}),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_transferred_with_its_class_text_and_fields(
    error: JobError, connected: Connected, recorded: Recorded
) -> None:
    recorded.answers["run"] = error
    with pytest.raises(JobError) as caught:
        connected(OPERATOR).run("a")
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
    assert {name: type(value) for name, value in vars(caught.value).items()} == {
        name: type(value) for name, value in vars(error).items()
    }


def test_an_unknown_error_class_keeps_its_text() -> None:
    error = wire.decode_error({"class": "OfTomorrowError", "text": "it is full", "fields": {"left": 0}})
    assert (type(error), str(error)) == (JobError, "it is full")


def test_a_field_that_json_cannot_hold_becomes_the_name_of_its_class() -> None:
    error = wire.decode_error(wire.encode_error(PartialFailure(1, 2, ValueError("s3cret"))))
    assert isinstance(error, PartialFailure)
    assert vars(error) == {"failed": 1, "done": 2, "first": "ValueError"}


def test_a_bug_reveals_no_values(connected: Connected, recorded: Recorded) -> None:
    recorded.answers["edit"] = ValueError("could not read s3cret")
    with (
        lines() as log,
        pytest.raises(LocalError, match=r"answered with 500 \(internal error\).*may have been carried out"),
    ):
        connected(EDITOR).edit("a", {"password": "s3cret"})
    assert [line.get("error_type") for line in log.fields] == ["ValueError", None]
    assert "s3cret" not in "".join(log.texts)


# --- Who may what --------------------------------------------------------------------------------------------------

ATTEMPTS = [(identity, operation) for identity in EVERYBODY for operation in wire.operations()]


@pytest.mark.parametrize(("identity", "operation"), ATTEMPTS, ids=lambda value: getattr(value, "key", value))
def test_an_identity_does_what_its_policies_allow_and_nothing_else(
    identity: Identity, operation: str, connected: Connected, recorded: Recorded
) -> None:
    recorded.answers[operation] = empty(get_type_hints(vars(Inspector)[operation])["return"])
    _, arguments = given(operation)
    permission = wire.operations()[operation]
    if permission in identity.policies:
        getattr(connected(identity), operation)(**arguments)
        assert recorded.calls == [(identity.arn, operation, arguments)]
    else:
        with pytest.raises(
            ForbiddenError, match=rf"403 \(Forbidden\).*managed policy acme-{permission}-{REGION} grants"
        ):
            getattr(connected(identity), operation)(**arguments)
        assert recorded.calls == []


@pytest.mark.parametrize("operation", wire.operations())
@pytest.mark.parametrize("path", Permission)
def test_an_operation_is_refused_under_a_path_of_another_permission(
    operation: str, path: Permission, gateway: Gateway, connected: Connected, recorded: Recorded
) -> None:
    # given an identity with one permission, and a client that sends an operation of another under its path
    someone = Identity(f"{ROLE}/Someone/sam", (path,), "AKIASOMEONE")
    gateway._identities[someone.key] = someone
    taken = wire.operations()[operation]
    if path is taken:
        return
    # when
    answer = connected(someone)._request(operation, path, b"{}")
    # then
    assert answer.status_code == 403
    assert json.loads(answer.content) == {
        "message": f"{operation} needs the permission to {taken}: POST /{taken}/{operation}"
    }
    assert recorded.calls == []


@pytest.mark.parametrize("operation", ["nonsense", "_scope", "__init__", "tasks%2F..%2Fcancel"])
def test_an_unknown_operation_is_not_found(operation: str, connected: Connected, recorded: Recorded) -> None:
    answer = connected(EDITOR)._request(operation, Permission.VIEW, b"{}")
    assert answer.status_code == 404
    assert recorded.calls == []


@pytest.mark.parametrize(
    "credentials", [Credentials("AKIAEDITOR", "another"), Credentials("AKIAUNKNOWN", "wJalrXUtnFEMI")]
)
def test_a_forged_signature_is_refused(credentials: Credentials, gateway: Gateway, recorded: Recorded) -> None:
    with serving(gateway) as url:
        forger = RemoteInspector(url, stage="dev", prefix="acme", region=REGION, credentials=credentials)
        with pytest.raises(LocalError, match="403"):
            forger.pauses()
    assert recorded.calls == []


def test_a_signature_covers_the_body(gateway: Gateway, connected: Connected, recorded: Recorded) -> None:
    signed = connected(EDITOR)._signed("http://127.0.0.1/operate/run", b'{"id": "a"}')
    headers = {**{name.title(): str(value) for name, value in signed.headers.items()}, "Host": "127.0.0.1"}
    headers |= {name.lower(): value for name, value in headers.items()}
    headers = {name: value if isinstance(value, str) else value.decode() for name, value in headers.items()}
    recorded.answers["run"] = empty(get_type_hints(Inspector.run)["return"])
    assert gateway.answer("POST", "/operate/run", headers, b'{"id": "b"}')[0] == 403
    assert gateway.answer("POST", "/operate/run", headers, b'{"id": "a"}')[0] == 200


@pytest.mark.parametrize(
    "authorizer",
    [
        None,
        {},
        {"iam": None},
        {"iam": {"userArn": None}},
        {"jwt": {"claims": {"sub": "ann"}}},
        {"iam": {"userArn": ""}},
    ],
)
def test_without_a_verified_signer_nothing_is_done(authorizer: Any, recorded: Recorded) -> None:
    context = {"authorizer": authorizer} if authorizer is not None else {}
    event = {"routeKey": "POST /view/{operation}", "pathParameters": {"operation": "pauses"}, "requestContext": context}
    assert answering.answer(event)["statusCode"] == 403
    assert recorded.calls == []


def test_users_of_an_identity_pool_are_refused_as_they_share_a_name(recorded: Recorded) -> None:
    signer = {"userArn": f"{ROLE}/Pool/CognitoIdentityCredentials", "cognitoIdentity": {"identityId": "pool:ann"}}
    event = {
        "routeKey": "POST /view/{operation}",
        "pathParameters": {"operation": "pauses"},
        "requestContext": {"authorizer": {"iam": signer}},
    }
    assert "share one identity" in answering.answer(event)["body"]
    assert recorded.calls == []


# --- What is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "body", "fields"),
    [
        ("tasks", b'{"limit": "s3cret"}', ["limit"]),
        ("tasks", b'{"filter": {"states": ["s3cret"]}}', ["filter.states.0"]),
        ("tasks", b'{"filter": {"tomorrow": "s3cret"}}', ["filter.tomorrow"]),
        ("task", b"{}", ["id"]),
        ("task", b'{"id": "a", "more": "s3cret"}', ["more"]),
        ("task", b'["s3cret"]', ["body"]),
        ("task", b"s3cret", ["body"]),
        ("task", b"\xff\xfe", ["body"]),
    ],
)
def test_invalid_arguments_are_reported_by_place_without_their_values(
    operation: str, body: bytes, fields: list[str], recorded: Recorded
) -> None:
    event = {
        "routeKey": "POST /view/{operation}",
        "pathParameters": {"operation": operation},
        "requestContext": {"authorizer": {"iam": {"userArn": VIEWER.arn}}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    with lines() as log:
        answer = answering.answer(event)
    assert answer["statusCode"] == 422
    assert json.loads(answer["body"])["error"]["fields"]["fields"] == fields
    assert "s3cret" not in answer["body"] + "".join(log.texts)
    assert recorded.calls == []


def test_a_log_line_has_the_caller_the_operation_and_the_result_only(connected: Connected, recorded: Recorded) -> None:
    recorded.answers["enqueue"] = empty(get_type_hints(Inspector.enqueue)["return"])
    with lines() as log:
        connected(EDITOR).enqueue("data:export", {"password": "s3cret"}, reason="s3cret")
    (line,) = log.fields
    assert (line["route"], line["status"], line["who"]) == ("/edit/enqueue", 200, EDITOR.arn)
    assert isinstance(line["ms"], int)
    assert "s3cret" not in log.texts[0]


def test_an_answer_too_large_for_lambda_is_refused(
    connected: Connected, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MAX_ANSWER_BYTES", 10)
    recorded.answers["types"] = (example(get_type_hints(Inspector.types)["return"])[0],)
    with pytest.raises(
        SelectionError, match=r"limit: the answer has [\d,]+ bytes, and the limit is [\d,]+; select less"
    ):
        connected(VIEWER).types()


# --- When it does not come back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [None, 429, 500, 502, 503, 504])
def test_a_query_is_repeated(fails: int | None, gateway: Gateway, connected: Connected, recorded: Recorded) -> None:
    recorded.answers["pauses"] = ()
    gateway.fails = [fails, fails]
    assert connected(VIEWER).pauses() == ()


def test_a_query_is_not_repeated_after_the_patience_of_its_caller(
    gateway: Gateway, served: tuple[Gateway, str], recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.inspector.remote.PAUSES_SECONDS", (0.0, 9.0))
    gateway.fails = [503, 503]
    remote = RemoteInspector(
        served[1], stage="dev", prefix="acme", region=REGION, credentials=VIEWER.credentials, patience_seconds=5
    )
    with pytest.raises(LocalError, match="is answered with 503"):
        remote.pauses()
    assert (gateway.fails, recorded.calls) == ([], [])


@pytest.mark.parametrize("fails", [None, 500, 502, 503, 504])
def test_an_action_that_may_have_arrived_is_not_repeated(
    fails: int | None, gateway: Gateway, connected: Connected, recorded: Recorded
) -> None:
    gateway.fails = [fails]
    with pytest.raises(LocalError, match=r"The action may have been carried out: check the audit .* before you repeat"):
        connected(OPERATOR).cancel("a")
    assert (gateway.fails, gateway.seen, recorded.calls) == ([], [], [])


def test_an_action_for_a_person_uses_no_connection_of_before() -> None:
    # given an API that ends each connection after one answer, which its caller does not see
    connections: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if self.client_address[1] in connections:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            connections.append(self.client_address[1])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    remote = RemoteInspector(url, stage="dev", prefix="acme", region=REGION, credentials=EDITOR.credentials)
    with servers.served(server), closing(remote._http):
        # when a person acts twice
        for _ in range(2):
            acting = remote.on_behalf_of(Person("ann (u-1)", Permission.OPERATE))
            answer = acting._request("cancel", Permission.OPERATE, b"{}")
            # then
            assert answer.status_code == 200
    assert len(connections) == 2


def test_a_throttled_action_is_repeated(gateway: Gateway, connected: Connected, recorded: Recorded) -> None:
    recorded.answers["cancel"] = empty(get_type_hints(Inspector.cancel)["return"])
    gateway.fails = [429]
    connected(OPERATOR).cancel("a")
    assert len(recorded.calls) == 1


def test_an_unreachable_api_is_reported_with_its_address_and_what_to_check(
    connected: Connected, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setattr("joblane.inspector.remote.PAUSES_SECONDS", (0.0,))
    with serving(gateway) as url:
        remote = RemoteInspector(url, stage="dev", prefix="acme", region=REGION, credentials=OPERATOR.credentials)
    calls: list[Callable[[], Any]] = [remote.pauses, partial(remote.cancel, "a")]
    for call in calls:
        with pytest.raises(
            LocalError, match=r"127\.0\.0\.1 of stage 'dev' did not answer: .*Check the network, the proxy"
        ):
            call()


def test_an_answer_of_another_version_is_reported_as_such(connected: Connected, recorded: Recorded) -> None:
    recorded.answers["count"] = {"number": 1, "certain": True}
    with (
        pytest.warns(UserWarning, match="serialized value"),
        pytest.raises(LocalError, match=r"its answer has no exact\. .*use the version that is deployed there"),
    ):
        connected(VIEWER).count()


def test_an_older_api_gets_only_what_is_given_and_names_an_option_that_it_lacks(
    connected: Connected, recorded: Recorded, gateway: Gateway
) -> None:
    assert wire.encode_arguments("tasks", [Filter(types=("a:b",))], {}) == b'{"filter":{"types":["a:b"]}}'
    # when
    older = wire.ArgumentsError("tasks", {"filter.created_after": "Extra inputs are not permitted"})
    recorded.answers["tasks"] = older
    with pytest.raises(wire.ArgumentsError, match="'dev' runs an older version of Joblane") as caught:
        connected(VIEWER).tasks()
    assert (
        "does not know the option --newer. Nothing was done. Deploy the stage, or leave the option out."
        in message_of(caught.value)
    )
    # and an operation that it lacks
    gateway.fails = [404]
    with pytest.raises(UnavailableError, match="older version of Joblane, which lacks it: deploy the stage"):
        connected(VIEWER).pauses()


def test_nothing_is_sent_unencrypted() -> None:
    with pytest.raises(LocalError, match="requires https"):
        RemoteInspector(
            "http://api.example.com", stage="dev", prefix="acme", region=REGION, credentials=EDITOR.credentials
        )
