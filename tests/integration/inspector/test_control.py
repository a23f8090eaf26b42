"""Operators of a stage with different IAM permissions: their possible actions, and the audit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from functions.data_export.handler import DataExport, data_export
from joblane.functions.control import answering
from joblane.inspector import wire
from joblane.inspector.errors import RoleError
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission
from joblane.inspector.person import HEADER, PAGE_ROLE, Person
from joblane.inspector.remote import RemoteInspector
from joblane.local.errors import ForbiddenError
from joblane.page.hosted.entry import build
from joblane.page.hosted.event import respond
from joblane.record.row.states import State
from tests.integration.inspector.gateway import ACCOUNT, REGION, Gateway, Identity, control_template, serving
from tests.integration.inspector.test_remote import EDITOR, OPERATOR, ROLE, VIEWER
from tests.oidc import LocalIssuer, SigningKey, Visitor, shared_configuration
from tests.oidc import serving as serving_issuer
from tests.world import World

SECOND = Identity(f"{ROLE}/Operator/olga@example.com", OPERATOR.policies, "AKIASECOND")

EXPORT = DataExport(tenant_id=uuid4(), user_id=uuid4(), export_type="full")
PAGE_SESSION = f"{ROLE}/acme-page-eu-central-1/"
PAGE = Identity(f"{PAGE_SESSION}acme-page", tuple(Permission), "AKIAPAGE")
FAKE_PAGE = Identity(f"{ROLE}/acme-page-eu-central-1x/acme-page", tuple(Permission), "AKIAFAKE")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Gateway(control_template(), VIEWER, OPERATOR, SECOND, EDITOR, PAGE, FAKE_PAGE)) as url:
        yield url


class Stage:
    """The control API of a stage, over the world's database."""

    def __init__(self, address: str, world: World) -> None:
        self._address, self.world = address, world

    def of(self, identity: Identity) -> RemoteInspector:
        return RemoteInspector(
            self._address, stage="dev", prefix="jobs", region=REGION, credentials=identity.credentials
        )

    def waiting(self) -> str:
        """A task that is due in an hour."""
        return self.world.client.enqueue(data_export, EXPORT, process_in=timedelta(hours=1)).id

    def schedule(self, name: str) -> None:
        """A schedule that was made at run time."""
        self.world.client.schedules.put(name, data_export, EXPORT, "0 6 1 1 *", tenant="acme")

    def audited(self) -> list[tuple[str, str, str]]:
        return [(entry.who, entry.action, entry.target) for entry in self.of(VIEWER).audit()]


@pytest.fixture
def stage(address: str, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv(PAGE_ROLE, PAGE_SESSION)
    answering._scope.cache_clear()
    yield Stage(address, world)
    answering._scope().database.drop()
    answering._scope.cache_clear()


def test_the_audit_has_the_verified_signer(stage: Stage) -> None:
    id_ = stage.waiting()
    acted = stage.of(OPERATOR).cancel(id_, reason="a mistake")
    assert (acted.before, acted.after) == (State.SCHEDULED, State.CANCELLED)
    assert stage.world.row(id_)["state"] == "cancelled"
    assert stage.audited() == [(f"arn:aws:sts::{ACCOUNT}:assumed-role/Operator/otto@example.com", "cancel", id_)]


def test_an_operator_edits_nothing_and_an_editor_does(stage: Stage) -> None:
    id_ = stage.waiting()
    payload = stage.world.row(id_)["payload"] | {"export_type": "partial"}
    with pytest.raises(ForbiddenError, match="403"):
        stage.of(OPERATOR).edit(id_, payload)
    assert stage.world.row(id_)["payload"]["export_type"] == "full"
    stage.of(EDITOR).edit(id_, payload)
    assert stage.world.row(id_)["payload"]["export_type"] == "partial"
    assert stage.audited() == [(EDITOR.arn, "edit", id_)]


def test_a_forged_caller_is_refused_in_a_body_and_ignored_in_a_header(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a client that names another caller in the body and in a header
    id_, signed = stage.waiting(), RemoteInspector._signed

    def forged(self: RemoteInspector, url: str, body: bytes) -> Any:
        request = signed(self, url, body)
        for name in ("X-Who", "X-Amzn-Iam-User-Arn", "X-Amz-User-Arn", "X-Forwarded-User"):
            request.headers[name] = EDITOR.arn
        return request

    monkeypatch.setattr(RemoteInspector, "_signed", forged)
    operator = stage.of(OPERATOR)
    body = f'{{"id": "{id_}", "who": "{EDITOR.arn}"}}'.encode()
    # then the body is refused, and the header is ignored
    with pytest.raises(wire.ArgumentsError, match="does not know the option 'who'"):
        operator._decoded("cancel", Permission.OPERATE, operator._request("cancel", Permission.OPERATE, body))
    assert stage.audited() == []
    operator.cancel(id_)
    assert stage.audited() == [(OPERATOR.arn, "cancel", id_)]


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("overview", {}),
    ("tasks", {"filter": Filter(states=(State.CANCELLED, State.SCHEDULED))}),
    ("count", {}),
    ("task", {"id": "…"}),
    ("dead", {}),
    ("pauses", {}),
    ("schedules", {"text": "nightly"}),
    ("schedule", {"name": "acme-nightly"}),
    ("statistics", {"by": "tenant"}),
    ("types", {}),
    ("audit", {"who": OPERATOR.arn}),
    ("bulks", {}),
    ("doctor", {}),
]


@pytest.mark.parametrize(("operation", "arguments"), QUESTIONS, ids=[name for name, _ in QUESTIONS])
def test_the_registered_types_are_the_declared_types(operation: str, arguments: dict[str, Any], stage: Stage) -> None:
    # given rows of every kind
    cancelled, waiting = stage.waiting(), stage.waiting()
    stage.of(OPERATOR).cancel(cancelled, reason="a mistake")
    stage.of(OPERATOR).pause(PauseScope.TENANT, "acme", until=datetime.now(UTC) + timedelta(hours=1))
    stage.schedule("acme-nightly")
    if "id" in arguments:
        arguments = {"id": waiting}
    # when the database is queried directly
    inspector = Inspector(answering._scope())
    answer = getattr(inspector, operation)(**arguments)
    # then the remote answers are equal; a value of an undeclared type would give a warning, which is an error
    assert wire.decode_answer(operation, wire._answer(operation).dump_json(answer)) == answer
    getattr(stage.of(VIEWER), operation)(**arguments)


# --- The page, on behalf of a person -------------------------------------------------------------------------------

ANN = Person("ann@example.com (u-1)", Permission.OPERATE)


def test_the_audit_has_the_person_that_the_page_acts_for(stage: Stage) -> None:
    id_ = stage.waiting()
    stage.of(PAGE).on_behalf_of(ANN).cancel(id_, reason="a mistake")
    assert stage.audited() == [("oidc:ann@example.com (u-1)", "cancel", id_)]


def test_the_control_api_itself_refuses_what_the_role_of_a_person_lacks(stage: Stage) -> None:
    # given requests of a page that does not check the role
    id_ = stage.waiting()
    before = stage.world.row(id_)
    page = stage.of(PAGE)
    viewer, operator = (page.on_behalf_of(Person("vera", role)) for role in (Permission.VIEW, Permission.OPERATE))
    # when
    answers = [
        person._request(operation, permission, wire.encode_arguments(operation, arguments, {}))
        for person, operation, permission, arguments in (
            (viewer, "cancel", Permission.OPERATE, (id_,)),
            (viewer, "edit", Permission.EDIT, (id_, {})),
            (operator, "edit", Permission.EDIT, (id_, {})),
        )
    ]
    # then
    for answer in answers:
        assert answer.status_code == 403
        with pytest.raises(RoleError, match="needs the role to"):
            page._decoded("cancel", Permission.OPERATE, answer)
    assert stage.world.row(id_) == before
    assert stage.audited() == []


@pytest.mark.parametrize("identity", [EDITOR, OPERATOR, FAKE_PAGE], ids=lambda identity: identity.key)
def test_a_person_that_another_caller_names_is_not_believed(stage: Stage, identity: Identity) -> None:
    id_ = stage.waiting()
    with pytest.raises(ForbiddenError, match="only the page of the stage may send X-Joblane-Person"):
        stage.of(identity).on_behalf_of(ANN).cancel(id_)
    assert stage.audited() == []
    assert stage.world.row(id_)["state"] == "scheduled"


@pytest.mark.parametrize("role", ["", None])
def test_without_a_page_no_person_is_believed(stage: Stage, monkeypatch: pytest.MonkeyPatch, role: str | None) -> None:
    monkeypatch.delenv(PAGE_ROLE) if role is None else monkeypatch.setenv(PAGE_ROLE, role)
    with pytest.raises(ForbiddenError, match="only the page"):
        stage.of(PAGE).on_behalf_of(ANN).cancel(stage.waiting())
    assert stage.audited() == []


@pytest.mark.parametrize(
    "header", [None, "", "x", "e30=", Person("", Permission.VIEW).header(), "eyJuYW1lIjogImEifQ=="]
)
def test_the_page_names_a_person_or_does_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, header: str | None
) -> None:
    id_ = stage.waiting()
    page = stage.of(PAGE)
    if header is not None:
        page = page.on_behalf_of(ANN)
        monkeypatch.setattr(Person, "header", lambda _: header)
    with pytest.raises(ForbiddenError, match=f"{HEADER} of the page is not valid"):
        page.cancel(id_)
    assert stage.audited() == []


def test_a_person_who_signs_in_acts_through_both_functions(stage: Stage) -> None:
    # given the page's function with its own credentials, and a person at the issuer
    id_ = stage.waiting()
    with serving_issuer(LocalIssuer(SigningKey.ec("one"))) as issuer:
        configuration = shared_configuration(issuer, "https://page.example.org")
        page = build(configuration, key=b"k" * 32, secret=None, remote=stage.of(PAGE))
        ann = Visitor(partial(respond, page), issuer, "page.example.org")
        # when
        assert ann.get(ann.sign_in(f"/task?id={id_}").location).status == 200
        done = ann.post("/task/act", id=id_, action="cancel", reason="a mistake")
        refused = ann.post("/task/edit", id=id_, action="edit", payload="{}")
        # then
        assert (done.status, refused.status) == (303, 403)
        assert "Cancel: done." in ann.get(done.location).text
        assert stage.audited() == [("oidc:ann@example.com (u-1)", "cancel", id_)]
        assert "oidc:ann@example.com (u-1)" in ann.get("/audit").text
