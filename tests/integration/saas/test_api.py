"""The HTTP API: permissions, the results of requests, and refusals."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from functions.api import refusals, storage
from functions.api.access import ADMINS, EVERYBODY, PUBLIC, ROUTES, caller_of
from functions.api.app import app
from functions.api.bounds import INVITATIONS_A_DAY, TENANTS_A_DAY
from functions.api.document import document
from functions.api.handler import handler
from functions.api.once import id_of
from functions.data_export.handler import DataExport, data_export
from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from functions.tenant_initialize.handler import tenant_initialize
from functions.user_invitation.handler import user_invitation
from joblane.record.driver.database import Database
from joblane.tasks.discovery import discover
from joblane.testing import JobTester
from saas import requests
from saas.roles import Rank, load
from tests.addresses import Response, check_answers, check_ends, check_scans
from tests.builders.events import LambdaContext
from tests.builders.http_events import claims, http_event, principal
from tests.integration.saas.conftest import BUCKET, Platform
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS

SECRET = "s3cr3t-value"


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def fields(self) -> dict[str, str]:
        """Field → its problem."""
        return {item["field"]: item["problem"] for item in self.body["errors"]}


@dataclass
class Api:
    """The function, called as API Gateway calls it."""

    platform: Platform

    def __call__(self, method: str, path: str, body: object = None, **how: Any) -> Answer:
        answer = handler(http_event(method, path, body, **how), LambdaContext())
        return Answer(answer["statusCode"], json.loads(answer["body"]), answer["headers"])

    def export(self, who: Mapping[str, str], **how: Any) -> Answer:
        return self("POST", "/exports", {"export_type": "full"}, who=who, **how)

    def rows(self, table: str) -> int:
        schema = "joblane" if table == "tasks" else "saas"
        return int(self.platform.value(f"select count(*) from {schema}.{table}"))


@pytest.fixture
def api(platform: Platform) -> Iterator[Api]:
    for cached in (storage.jobs, storage.database):
        cached.cache_clear()
    for task in (tenant_initialize, user_invitation, data_export):
        platform.world.lane(task)
    yield Api(platform)
    storage.database().drop()


@pytest.fixture
def tenant(platform: Platform) -> str:
    return platform.tenant()


def owner(tenant: str | None, user: str = "ann") -> dict[str, str]:
    return claims(user, tenant, "owner")


# --- Signals -------------------------------------------------------------------------------------------------------


def test_the_route_of_signals_needs_no_caller_and_has_the_rules_of_all_frameworks(jobs: JobTester) -> None:
    for cached in (storage.jobs, storage.database):
        cached.cache_clear()
    urls: list[str] = []

    def send(method: str, url: str, body: bytes = b"", accept: str = "*/*") -> Response:
        path = url.removeprefix("https://signals.test")
        answer = handler(http_event(method, path, raw=body or None, headers={"accept": accept}), LambdaContext())
        urls.append(url)
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        return Response(answer["statusCode"], answer["body"], headers)

    with lines() as logged:
        for check in (check_scans, check_answers, check_ends):
            check(jobs, send)
        forged = [send("POST", f"{url}A", b"1") for url in set(urls)]
        assert {(answer.status, answer.text) for answer in forged} == {(404, "This address is not valid.\n")}
    requests = [line for line in logged.fields if line["message"] == "request"]
    assert {line["route"] for line in requests} == set(PUBLIC)
    assert not [text for text in logged.texts if any(url[-40:] in text for url in urls)]
    assert "/signals/{token}" not in document(app())["paths"]
    storage.database().drop()


# --- Route × role --------------------------------------------------------------------------------------------------

RANKS = {rank.name.lower(): rank for rank in Rank}


def call(
    api: Api, route: str, tenant: str, who: Mapping[str, str] | None, signer: Mapping[str, Any] | None = None
) -> Answer:
    """Send a valid request of a caller."""
    method, _, path = route.partition(" ")
    task = uuid.uuid4()
    if "task_id" in path:
        enqueued = api.platform.world.client.enqueue(
            data_export,
            DataExport(tenant_id=uuid.UUID(tenant), user_id="ann", export_type="full"),
            task_id=str(task),
            owner="ann",
            tenant=tenant if who is None or "tenant_id" in who else None,
        )
        assert enqueued.id == str(task)
    role = api.platform.role(tenant, "viewer")
    invitation = api.platform.invitation(tenant, role)
    body = {
        "POST /tenants": {"name": "New", "slug": f"new-{task}"},
        "POST /tenants/{tenant_id}/invitations": {"email": "bob@example.org", "role_id": role},
        "POST /invitations/accept": {"token": token_of(api, invitation)},
        "POST /exports": {"export_type": "partial"},
        "PUT /reports/schedules/{name}": {"day": "monday", "time": "06:30"},
    }.get(route)
    if "/reports/schedules/{name}" in route:
        api.platform.world.run(
            "insert into saas.report_schedules (tenant_id, name, day, time, timezone, created_by)"
            " values ($1::text::uuid, 'weekly', 'monday', '06:30', 'UTC', 'ann') on conflict do nothing",
            tenant,
        )
    path = path.format(tenant_id=tenant, task_id=task, name="weekly", invitation_id=invitation)
    return api(method, path, body, who=who, signer=signer)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_serves_only_the_roles_of_the_table(route: str, api: Api, tenant: str) -> None:
    for name, rank in RANKS.items():
        who = claims("ann", None) if name == "guest" else claims("ann", tenant, name)
        answer = call(api, route, tenant, who)
        allowed = (200, 201, 202) if rank in ROUTES[route] else (403,)
        assert answer.status in allowed, (name, answer.body)
        assert answer.body.get("success", True) is (rank in ROUTES[route])


def test_without_claims_no_route_answers(api: Api, tenant: str) -> None:
    for route in ROUTES:
        answer = call(api, route, tenant, None)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_the_table_has_the_intended_permissions() -> None:
    assert {route: allowed == ADMINS for route, allowed in ROUTES.items()} == {
        "POST /tenants": False,
        "POST /tenants/{tenant_id}/invitations": True,
        "DELETE /tenants/{tenant_id}/invitations/{invitation_id}": True,
        "POST /invitations/accept": False,
        "POST /exports": True,
        "GET /exports/{task_id}": True,
        "GET /reports/schedules": True,
        "GET /reports/schedules/{name}": True,
        "PUT /reports/schedules/{name}": True,
        "DELETE /reports/schedules/{name}": True,
        "GET /tasks/{task_id}": False,
        "GET /openapi.json": False,
    }
    assert {Rank.ADMIN, Rank.OWNER} == ADMINS
    assert set(Rank) == EVERYBODY


def test_claims_without_a_valid_subject_or_tenant_are_refused(api: Api) -> None:
    for who in (
        {},
        {"tenant_id": str(uuid.uuid4()), "roles": "owner"},
        {"sub": "", "roles": "owner"},
        {"sub": "with space"},
        {"sub": "ann", "tenant_id": "no-uuid", "roles": "owner"},
    ):
        assert api("GET", "/openapi.json", who=who).status == 401, who


def test_the_highest_known_role_counts_and_unknown_roles_are_ignored(api: Api, tenant: str) -> None:
    cases: list[tuple[Any, int]] = [
        ("[viewer admin]", 202),
        ("admin", 202),
        ('["member","owner"]', 202),
        (["member", "admin"], 202),
        ("Owner", 202),
        ("[viewer member]", 403),
        ("[superuser]", 403),
        ("administrator", 403),
        ("", 403),
        ([], 403),
        # a name that contains a rank is another name, in each form of the claim
        ("[billing owner]", 403),
        ('["billing owner"]', 403),
        (["billing owner"], 403),
        ("[Project Owner,viewer]", 403),
        ("not-owner", 403),
        ("former owner", 403),
        ('["not an admin", "owner"]', 202),
        ('["owner", 7, null]', 202),
        ('{"owner": true}', 403),
        ("[" * 5_000, 403),
    ]
    for roles, status in cases:
        assert api.export({"sub": "ann", "tenant_id": tenant, "roles": roles}).status == status, roles


def test_a_role_without_a_tenant_does_not_count(api: Api) -> None:
    assert api.export(claims("ann", None, "owner")).status == 403


def test_only_the_authorizers_claims_identify_the_caller(api: Api, tenant: str) -> None:
    # given claims in all the wrong places
    forged = {"x-tenant-id": tenant, "x-user-id": "ann", "authorization": "Bearer forged", "x-roles": "owner"}
    event = http_event("POST", "/exports", {"export_type": "full"}, headers=forged)
    event |= {"claims": owner(tenant), "queryStringParameters": {"tenant_id": tenant}}
    event["requestContext"]["authorizer"] = {"lambda": owner(tenant), "claims": owner(tenant), "iam": {"userId": "ann"}}
    # then there is no caller
    assert handler(event, LambdaContext())["statusCode"] == 401


# --- Services that sign with AWS credentials -----------------------------------------------------------------------

ROLE = "arn:aws:sts::123456789012:assumed-role/sign-up"
USER = "arn:aws:iam::123456789012:user/services/sign-up"


@pytest.mark.parametrize("route", ROUTES)
def test_a_service_may_use_only_routes_for_everybody_and_nothing_of_a_tenant(route: str, api: Api, tenant: str) -> None:
    answer = call(api, route, tenant, None, principal(USER))
    # the task in this path belongs to its owner and the tenant, so the answer is 404
    expected = 404 if route == "GET /tasks/{task_id}" else 403 if ROUTES[route] == ADMINS else answer.status
    assert answer.status == expected
    assert (answer.status < 300) is (route in ("POST /tenants", "GET /openapi.json"))


def test_a_tenant_or_user_that_a_service_names_is_ignored(api: Api, tenant: str) -> None:
    headers = {"x-tenant-id": tenant, "x-user-id": "ann", "authorization": "Bearer x"}
    body = {"export_type": "full"}
    assert api("POST", "/exports", body, signer=principal(USER), headers=headers).status == 403
    signer = {**principal(USER), "tenant_id": tenant, "roles": "owner"}
    assert api("POST", "/exports", body, signer=signer).status == 403


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (f"{ROLE}/one", f"{ROLE}/an@other.one", ROLE),
        (USER, USER, USER),
        (f"{ROLE}/one".replace("aws", "aws-cn"), f"{ROLE}/two".replace("aws", "aws-cn"), ROLE.replace("aws", "aws-cn")),
    ],
)
def test_a_service_sees_its_tasks_in_every_session(first: str, second: str, name: str, api: Api) -> None:
    made = api("POST", "/tenants", {"name": "New", "slug": "by-a-service"}, signer=principal(first))
    assert made.status == 201
    shown = api("GET", f"/tasks/{made.body['task_id']}", signer=principal(second))
    assert (shown.status, shown.body["type"]) == (200, "tenant:initialize")
    assert api.platform.value("select owner from joblane.tasks") == name
    assert api.platform.value("select created_by from saas.tenants where slug = 'by-a-service'") == name


def test_another_service_and_a_user_with_its_name_do_not_see_its_tasks(api: Api) -> None:
    made = api("POST", "/tenants", {"name": "New", "slug": "by-a-service"}, signer=principal(f"{ROLE}/one"))
    path = f"/tasks/{made.body['task_id']}"
    for arn in (f"{ROLE}s/one", USER, "arn:aws:sts::210987654321:assumed-role/sign-up/one"):
        assert api("GET", path, signer=principal(arn)).status == 404
    assert api("GET", path, who=claims("sign-up")).status == 404


@pytest.mark.parametrize(
    "signer",
    [
        principal(f"{ROLE}/CognitoIdentityCredentials", identity_pool=True),
        principal(f"arn:aws:iam::123456789012:user/{'long/' * 40}name"),
    ],
)
def test_principals_that_share_an_identity_are_refused(signer: Mapping[str, Any], api: Api) -> None:
    assert api("GET", "/openapi.json", signer=signer).status == 403
    assert api("POST", "/tenants", {"name": "New", "slug": "new"}, signer=signer).status == 403
    assert api.rows("tenants") == 0


@pytest.mark.parametrize("signer", [{}, {**principal(USER), "userArn": None}])
def test_without_an_arn_there_is_no_caller(signer: Mapping[str, Any], api: Api) -> None:
    assert api("GET", "/openapi.json", signer=signer).status == 401


# --- Tenants -------------------------------------------------------------------------------------------------------


def test_a_tenant_is_created_together_with_its_initialization(api: Api) -> None:
    answer = api(
        "POST", "/tenants", {"name": " Acme ", "slug": "acme", "metadata": {"plan": "pro"}}, who=claims("ann|1", None)
    )
    assert answer.status == 201
    id_, task_id = answer.body["tenant_id"], answer.body["task_id"]
    rows = api.platform.world.run(
        "select name, slug, status, metadata, created_by from saas.tenants where id = $1", id_
    )
    assert rows == [["Acme", "acme", "pending", {"plan": "pro"}, "ann|1"]]
    row = api.platform.world.row(task_id)
    assert (row["type"], row["owner"], row["payload"]) == ("tenant:initialize", "ann|1", {"tenant_id": id_})
    (message,) = api.platform.world.received("jobs-critical-tenant-initialize")
    assert json.loads(message["Body"])["id"] == task_id
    assert api.platform.run(tenant_initialize, task_id)["state"] == "completed"
    assert api("GET", f"/tasks/{task_id}", who=claims("ann|1", None)).body["state"] == "completed"


def test_the_callers_verified_address_is_stored(api: Api) -> None:
    for number, (email, verified) in enumerate(
        [("ann@example.org", None), ("new@example.org", True), ("x@example.org", False), (None, None), ("no", True)]
    ):
        who = claims("ann", None, email=email, verified=verified)
        assert api("POST", "/tenants", {"name": "A", "slug": f"a-{number}"}, who=who).status == 201
    assert api.platform.world.run("select user_id, email from saas.user_addresses") == [["ann", "new@example.org"]]


def test_a_name_may_be_of_any_script_and_have_dots_and_marks(api: Api) -> None:
    scripts = ["نرم\u200cافزار", "株式会社", "Śląsk & Söhne", "👩\u200d🔬 Labs"]
    marks = ["St. Gallen AG", "A.C.M.E. Inc.", "Node 2.0", "Q&A: 24/7", "J.P. Doe", "Who's who?"]
    for number, name in enumerate(scripts + marks):
        assert api("POST", "/tenants", {"name": name, "slug": f"a-{number}"}, who=claims()).status == 201
    assert api.rows("tenants") == 10


@pytest.mark.parametrize(
    "name",
    [
        "Win at evil.example",
        "evil.example",
        "EVIL.EXAMPLE/win",
        "evil。example",
        "evil．example",
        "https://10.0.0.1/",
        "Claim: http:/evil",
        "//evil",
        "www.evil",
        "ceo@evil",
        "\\\\evil\\share",
        "Acme\r\nBcc: all",
        "Acme\x00",
        "Acme\u202eemca",
    ],
)
def test_a_name_that_would_be_a_link_or_a_line_in_a_mail_is_refused(api: Api, name: str) -> None:
    answer = api("POST", "/tenants", {"name": name, "slug": "a"}, who=claims())
    assert (answer.status, list(answer.fields)) == (400, ["name"])
    assert api.rows("tenants") == 0


def test_a_caller_creates_a_bounded_number_of_tenants_a_day(api: Api) -> None:
    # given
    fill = """insert into saas.tenants (name, slug, created_by, created_at)
              select 'T', $1 || n, $1, now() - $2::interval from generate_series(1, $3::int) n"""
    api.platform.world.run(fill, "ann", "1 hour", TENANTS_A_DAY - 1)
    api.platform.world.run(fill, "bob", "25 hours", TENANTS_A_DAY)
    new = {"name": "A", "slug": "the-last"}
    # when
    assert api("POST", "/tenants", new, who=claims("ann"), headers={"Idempotency-Key": "once"}).status == 201
    answer = api("POST", "/tenants", {"name": "A", "slug": "too-many"}, who=claims("ann"))
    # then the rest of the day is refused, but no repetition, no other caller, and no service of the account
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3600")
    assert f"you have created {TENANTS_A_DAY} tenants in 24 hours" in answer.body["message"]
    assert api("POST", "/tenants", new, who=claims("ann"), headers={"Idempotency-Key": "once"}).status == 201
    assert api("POST", "/tenants", {"name": "A", "slug": "of-bob"}, who=claims("bob")).status == 201
    service = "arn:aws:iam::123456789012:user/sign-up"
    api.platform.world.run(fill, service, "1 hour", TENANTS_A_DAY)
    assert api("POST", "/tenants", {"name": "A", "slug": "of-service"}, signer=principal(service)).status == 201


def test_a_tenant_and_a_caller_send_a_bounded_number_of_invitations_a_day(api: Api, tenant: str) -> None:
    # given
    role, other = api.platform.role(tenant, "Viewer"), api.platform.tenant(slug="other")
    fill = """insert into saas.user_invitations (tenant_id, email, invited_by, role_id, token, expires_at)
              select $1::uuid, 'x@example.org', $2, $3::uuid, gen_random_uuid()::text, now()
                from generate_series(1, $4::int)"""
    api.platform.world.run(fill, tenant, "bob", role, INVITATIONS_A_DAY - 1)
    # when
    assert invite(api, tenant, role).status == 201
    answer = invite(api, tenant, role)
    # then
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3600")
    assert "for this tenant" in answer.body["message"]
    # and a caller of many tenants has one bound
    there = api.platform.role(other, "Viewer")
    assert invite(api, other, there).status == 201
    api.platform.world.run(fill, api.platform.tenant(slug="third"), "ann", there, INVITATIONS_A_DAY)
    assert "you have sent" in invite(api, other, there).body["message"]


def test_an_existing_slug_is_named_and_nothing_is_written(api: Api, tenant: str) -> None:
    answer = api("POST", "/tenants", {"name": "B", "slug": "acme"}, who=claims(), headers={"Idempotency-Key": "once"})
    assert (answer.status, answer.fields) == (409, {"slug": "is taken"})
    assert [api.rows(table) for table in ("tenants", "tasks", "user_addresses", "api_requests")] == [1, 0, 0, 0]


def test_a_send_that_fails_after_the_commit_loses_no_job(api: Api) -> None:
    # given a removed lane
    sqs = api.platform.world.sqs
    sqs.client.delete_queue(QueueUrl=sqs.url("jobs-critical-tenant-initialize"))
    # when a tenant is created
    answer = api("POST", "/tenants", {"name": "A", "slug": "a"}, who=claims())
    # then both exist, and the sweep sends the job
    assert answer.status == 201
    row = api.platform.world.row(answer.body["task_id"])
    assert row["state"] == "pending"
    assert row["sweep_at"] is not None


def test_an_enqueue_that_fails_leaves_no_tenant(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(storage.jobs(), "enqueue", broken)
    with lines() as logged:
        answer = api("POST", "/tenants", {"name": SECRET, "slug": "a"}, who=claims())
    assert answer.status == 500
    assert (api.rows("tenants"), api.rows("tasks")) == (0, 0)
    assert SECRET not in json.dumps(answer.body) + "".join(logged.texts)
    (failed,) = (line for line in logged.fields if line["message"] == "request failed")
    assert failed["error_type"] == "RuntimeError"
    assert failed["where"].startswith("functions/api/storage.py:")


# --- Invitations ---------------------------------------------------------------------------------------------------


def invite(api: Api, tenant: str, role: str, rank: str = "owner", **how: Any) -> Answer:
    body = {"email": "bob@example.org", "role_id": role}
    return api("POST", f"/tenants/{tenant}/invitations", body, who=claims("ann", tenant, rank), **how)


def test_an_invitation_is_written_and_mailed(api: Api, tenant: str) -> None:
    role = api.platform.role(tenant, "Viewer")
    answer = invite(api, tenant, role)
    assert answer.status == 201
    row = api.platform.world.row(answer.body["task_id"])
    assert (row["type"], row["owner"], row["tenant"]) == ("user:invitation", "ann", tenant)
    assert api.platform.run(user_invitation, answer.body["task_id"])["state"] == "scheduled"
    assert [mail["To"] for mail in api.platform.mails] == ["bob@example.org"]
    token = api.platform.value("select token from saas.user_invitations where id = $1", answer.body["invitation_id"])
    assert len(token) >= 40
    assert token not in json.dumps(answer.body)


@pytest.mark.parametrize("granted", ["viewer", "member", "admin", "owner", "custom"])
@pytest.mark.parametrize("rank", ["admin", "owner"])
def test_a_role_is_not_granted_by_a_lower_rank(rank: str, granted: str, api: Api, tenant: str) -> None:
    # a role that is none of the four may mean anything
    allowed = RANKS[rank] >= RANKS.get(granted, Rank.OWNER)
    answer = invite(api, tenant, api.platform.role(tenant, granted), rank)
    assert answer.status == (201 if allowed else 403)
    if not allowed:
        assert answer.fields == {"role_id": "is above your own role"}
    assert api.rows("user_invitations") == api.rows("tasks") == int(allowed)


def test_a_roles_rank_is_the_higher_one_of_its_type_and_its_name(api: Api, tenant: str) -> None:
    role = api.platform.add("roles", name="viewer", type="owner", tenant_id=tenant)
    assert invite(api, tenant, role, "admin").status == 403


@pytest.mark.parametrize(
    "name", ["billing owner", "Owner ", "viewer,owner", "owner-of-x", '"owner"', r'"own\u0065r"', '["owner"]']
)
def test_a_role_whose_name_could_be_a_rank_in_a_claim_counts_as_that_rank(name: str, api: Api, tenant: str) -> None:
    role = api.platform.add("roles", name=name, type="viewer", tenant_id=tenant)
    assert invite(api, tenant, role, "admin").status == 403
    assert invite(api, tenant, role, "owner").status == 201


def test_a_name_in_a_claim_has_at_most_the_rank_needed_to_grant_it(api: Api, tenant: str) -> None:
    names = ["viewer admin", "billing owner", "admin", "x] [owner", r'"own\u0065r"', "Ann's", "é", "a, owner", "member"]
    for name in names:
        role = UUID(api.platform.add("roles", name=name, type="viewer"))
        with storage.transaction() as session:
            granted = load(session, role, UUID(tenant))
        for written in (f"[{name}]", json.dumps([name]), [name], name, f"[viewer {name}]"):
            claimed = caller_of({"sub": "ann", "tenant_id": tenant, "roles": written}).rank
            assert granted is not None
            assert claimed <= granted.rank, (name, written)


def test_roles_are_those_of_the_tenant_and_of_the_system(api: Api, tenant: str) -> None:
    other = api.platform.tenant("Other", "other")
    assert invite(api, tenant, api.platform.role(None, "member")).status == 201
    for role in (api.platform.role(other, "member"), str(uuid.uuid4())):
        answer = invite(api, tenant, role)
        assert (answer.status, list(answer.fields)) == (422, ["role_id"])


@pytest.mark.parametrize("path", ["other", "unknown", "no-uuid", ""])
def test_an_invitation_to_another_tenant_is_not_found(path: str, api: Api, tenant: str) -> None:
    other = api.platform.tenant("Other", "other")
    named = {"other": other, "unknown": str(uuid.uuid4())}.get(path, path)
    body = {"email": "bob@example.org", "role_id": api.platform.role(other, "viewer")}
    answer = api("POST", f"/tenants/{named}/invitations", body, who=owner(tenant))
    assert (answer.status, answer.body["message"]) == (404, "not found")
    assert api.rows("user_invitations") == 0


@pytest.mark.parametrize(("state", "status"), [("pending", 201), ("suspended", 409), ("deleted", 404)])
def test_nobody_is_invited_into_a_closed_tenant(state: str, status: int, api: Api) -> None:
    tenant = api.platform.tenant(status=state)
    assert invite(api, tenant, api.platform.role(tenant, "viewer")).status == status


def token_of(api: Api, invitation: str) -> str:
    return str(api.platform.value("select token from saas.user_invitations where id = $1", invitation))


def accept(api: Api, token: str, user: str = "bob", **how: Any) -> Answer:
    return api("POST", "/invitations/accept", {"token": token}, who=claims(user, None), **how)


def cancel(api: Api, tenant: str, invitation: str) -> Answer:
    return api("DELETE", f"/tenants/{tenant}/invitations/{invitation}", who=owner(tenant))


def test_who_accepts_an_invitation_becomes_a_member_and_its_task_continues(api: Api, tenant: str) -> None:
    # given an invitation that was mailed
    role = api.platform.role(tenant, "Viewer")
    invitation = invite(api, tenant, role).body["invitation_id"]
    api.platform.run(user_invitation, invitation)
    # when it is accepted, twice with one key
    for _ in range(2):
        answer = accept(api, token_of(api, invitation), headers=KEY)
        assert (answer.status, answer.body["tenant_id"]) == (200, tenant)
    # then the user is a member, and the task ends
    members = "select user_id, role_id::text, status, invited_by, joined_at is not null from saas.tenant_members"
    assert api.platform.sql(members) == [["bob", role, "active", "ann", True]]
    assert api.platform.status(invitation) == "accepted"
    assert api.platform.world.row(invitation)["state"] == "pending"
    assert api.platform.run(user_invitation, invitation)["result"] == {"ended": "accepted"}
    # and it can be neither accepted again nor cancelled
    answers = [accept(api, token_of(api, invitation), "eve"), cancel(api, tenant, invitation)]
    assert {(answer.status, answer.body["message"]) for answer in answers} == {(409, "the invitation is accepted")}


def test_an_active_member_keeps_their_role_and_a_former_one_gets_the_new_role(api: Api, tenant: str) -> None:
    old, new = api.platform.role(tenant, "Owner"), api.platform.role(tenant, "Viewer")
    for user, status in (("active", "active"), ("former", "inactive")):
        api.platform.member(tenant, old, user, status)
        assert accept(api, token_of(api, api.platform.invitation(tenant, new)), user).status == 200
    roles = dict(api.platform.sql("select user_id, role_id::text from saas.tenant_members where status = 'active'"))
    assert roles == {"active": old, "former": new}


def test_a_closed_invitation_is_not_accepted_and_changes_nothing(api: Api, tenant: str) -> None:
    role = api.platform.role(tenant, "Viewer")
    past = api.platform.invitation(tenant, role, ends="-1 second")
    cancelled = api.platform.invitation(tenant, role)
    assert cancel(api, tenant, cancelled).status == 200
    assert [cancel(api, tenant, id_).status for id_ in (past, cancelled)] == [200, 409]
    past = api.platform.invitation(tenant, role, ends="-1 second")
    for id_, status, message in ((past, 410, "is expired"), (cancelled, 409, "is cancelled")):
        answer = accept(api, token_of(api, id_))
        assert (answer.status, answer.body["message"]) == (status, f"the invitation {message}")
    assert accept(api, SECRET).status == 404
    for name, status in (("suspended", 409), ("deleted", 404)):
        closed = api.platform.tenant(slug=name, status=name)
        assert accept(api, token_of(api, api.platform.invitation(closed, api.platform.role(closed)))).status == status
    assert api.rows("tenant_members") == 0


def test_no_service_accepts_and_no_other_tenant_cancels(api: Api, tenant: str) -> None:
    invitation = api.platform.invitation(tenant, api.platform.role(tenant, "Viewer"))
    body = {"token": token_of(api, invitation)}
    assert api("POST", "/invitations/accept", body, signer=principal(USER)).status == 403
    other = api.platform.tenant("Other", "other")
    assert cancel(api, other, invitation).status == cancel(api, other, str(uuid.uuid4())).status == 404
    assert api.platform.status(invitation) == "pending"


# --- Exports -------------------------------------------------------------------------------------------------------


def test_an_export_is_accepted_written_and_fetched_by_its_requester(api: Api, tenant: str) -> None:
    # given a requested export
    who = owner(tenant, "auth0|ann")
    accepted = api.export(who)
    assert accepted.status == 202
    id_ = accepted.body["task_id"]
    assert accepted.body == {"success": True, "message": "the export is being written", "task_id": id_}
    row = api.platform.world.row(id_)
    assert (row["owner"], row["tenant"]) == ("auth0|ann", tenant)
    assert row["payload"] == {"tenant_id": tenant, "user_id": "auth0|ann", "export_type": "full"}
    waiting = api("GET", f"/exports/{id_}", who=who)
    assert (waiting.status, waiting.body["state"], waiting.body["download"]) == (200, "pending", None)
    # when it is written
    assert api.platform.run(data_export, id_)["state"] == "completed"
    # then a signed link is valid for minutes
    answer = api("GET", f"/exports/{id_}", who=who)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    url = urlsplit(answer.body["download"]["url"])
    signed = parse_qs(url.query)
    assert url.path.endswith(f"/exports/{tenant}/{id_}/{answer.body['download']['file_name']}")
    assert BUCKET in url.netloc + url.path
    assert signed["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert signed["X-Amz-Expires"] == ["300"]


def test_the_requester_of_an_export_gets_a_mail(api: Api, tenant: str) -> None:
    who = claims("bob", tenant, "admin", email="bob@example.org", verified=True)
    id_ = api.export(who).body["task_id"]
    assert api.platform.run(data_export, id_)["result"]["notified"] is True
    assert [mail["To"] for mail in api.platform.mails] == ["bob@example.org"]


def test_exports_of_others_and_of_other_tenants_are_not_found(api: Api, tenant: str) -> None:
    other = api.platform.tenant("Other", "other")
    id_ = api.export(owner(tenant)).body["task_id"]
    api.platform.run(data_export, id_)
    unknown = api("GET", f"/exports/{uuid.uuid4()}", who=owner(tenant))
    for who in (
        owner(tenant, "bob"),  # an owner of the same tenant, who did not request it
        owner(other, "bob"),
        owner(other, "ann"),  # the requester, signed in to another tenant
    ):
        answer = api("GET", f"/exports/{id_}", who=who)
        assert (answer.status, answer.body) == (404, unknown.body)


def test_other_tasks_and_exports_without_an_owner_are_not_found(api: Api, tenant: str) -> None:
    other = api.platform.enqueue(system_user_expiry, SystemUserExpiry())
    payload = DataExport(tenant_id=uuid.UUID(tenant), user_id="ann", export_type="full")
    without_owner = api.platform.world.client.enqueue(data_export, payload, tenant=tenant).id
    invitation = invite(api, tenant, api.platform.role(tenant, "viewer")).body["task_id"]
    for id_ in (other, without_owner, invitation, "x" * 300, "a:b", "%00"):
        assert api("GET", f"/exports/{id_}", who=owner(tenant)).status == 404


def test_an_expired_export_is_gone(api: Api, tenant: str) -> None:
    id_ = api.export(owner(tenant)).body["task_id"]
    api.platform.run(data_export, id_)
    api.platform.world.run("update joblane.tasks set result = null, payload = null, cleared = true where id = $1", id_)
    assert api("GET", f"/exports/{id_}", who=owner(tenant)).status == 410


@pytest.mark.parametrize(("state", "status"), [("suspended", 202), ("deleted", 404), ("missing", 404)])
def test_only_a_tenant_that_is_there_has_exports(state: str, status: int, api: Api) -> None:
    tenant = str(uuid.uuid4()) if state == "missing" else api.platform.tenant(status=state)
    assert api.export(owner(tenant)).status == status
    assert api.rows("tasks") == (status == 202)


# --- Tasks ---------------------------------------------------------------------------------------------------------


def test_a_task_shows_its_state_progress_and_result(api: Api, tenant: str) -> None:
    id_ = api.export(owner(tenant)).body["task_id"]
    api.platform.world.run(
        "insert into joblane.task_progress (task_id, done, total, note) values ($1, 3, 9, 'pages')", id_
    )
    shown = api("GET", f"/tasks/{id_}", who=claims("ann", tenant, "viewer")).body
    assert (shown["type"], shown["state"], shown["result"]) == ("data:export", "pending", None)
    assert shown["progress"] == {"done": 3, "total": 9, "note": "pages"}
    api.platform.run(data_export, id_)
    shown = api("GET", f"/tasks/{id_}", who=claims("ann", tenant, "viewer")).body
    assert (shown["state"], shown["result"]["notified"]) == ("completed", False)
    assert shown["finished_at"]


@pytest.mark.parametrize(
    ("user", "where", "rank", "status"),
    [
        ("ann", "own", "viewer", 200),
        ("bob", "own", "admin", 200),
        ("bob", "own", "owner", 200),
        ("bob", "own", "member", 404),
        ("bob", "other", "owner", 404),
        ("ann", "other", "owner", 404),
        ("ann", None, "guest", 404),
        ("bob", None, "guest", 404),
    ],
)
def test_a_task_is_shown_only_to_its_owner_and_its_tenants_admins(
    user: str, where: str | None, rank: str, status: int, api: Api, tenant: str
) -> None:
    id_ = api.export(owner(tenant)).body["task_id"]
    named = {"own": tenant, "other": str(uuid.uuid4())}.get(str(where))
    assert api("GET", f"/tasks/{id_}", who=claims(user, named, rank)).status == status


def test_a_task_with_an_unverified_tenant_is_shown_to_nobody(api: Api, tenant: str) -> None:
    id_ = api.platform.world.client.enqueue(system_user_expiry, SystemUserExpiry(), tenant=tenant).id
    assert api("GET", f"/tasks/{id_}", who=owner(tenant)).status == 404


# --- Traces --------------------------------------------------------------------------------------------------------


def requests_of(api: Api, tenant: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the path and body of each request that enqueues a task."""
    role = api.platform.role(tenant, "viewer")
    return [
        ("/tenants", {"name": "New", "slug": "new"}),
        (f"/tenants/{tenant}/invitations", {"email": "bob@example.org", "role_id": role}),
        ("/exports", {"export_type": "full"}),
    ]


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("header", "kept"), [(TRACEPARENT, {"traceparent": TRACEPARENT}), (f"{SECRET} x", {}), (None, {})]
)
def test_the_tasks_of_a_request_are_in_its_trace(
    header: str | None, kept: dict[str, str], api: Api, tenant: str
) -> None:
    for path, body in requests_of(api, tenant):
        with lines() as logged:
            answer = api("POST", path, body, who=owner(tenant), headers={"Traceparent": header} if header else {})
        assert answer.status in (201, 202)
        assert api.platform.world.row(answer.body["task_id"])["headers"] == kept
        (request,) = (line for line in logged.fields if line["message"] == "request")
        assert request.get("trace_id") == (TRACE if kept else None)
        assert SECRET not in str(logged.texts)


# --- Repeated requests ---------------------------------------------------------------------------------------------

KEY = {"Idempotency-Key": "order-17"}


def test_a_repeated_request_gets_the_same_answer_and_is_executed_once(api: Api, tenant: str) -> None:
    who = owner(tenant)
    for path, body in requests_of(api, tenant):
        first = api("POST", path, body, who=who, headers=KEY)
        assert first.status in (201, 202)
        for again in (body, dict(reversed(body.items()))):  # the order of fields does not matter
            repeated = api("POST", path, again, who=who, headers=KEY)
            assert (repeated.status, repeated.body) == (first.status, first.body)
    assert (api.rows("tasks"), api.rows("user_invitations"), api.rows("tenants")) == (3, 1, 2)


def test_a_key_whose_id_exists_counts_as_used(api: Api, tenant: str) -> None:
    # given tasks with the same ids, from another producer
    who, requests = owner(tenant), requests_of(api, tenant)
    for path, _ in requests:
        id_ = id_of(caller_of(who), f"POST {path}", KEY["Idempotency-Key"])
        payload = DataExport(tenant_id=UUID(tenant), user_id="eve", export_type="full")
        api.platform.world.client.enqueue(data_export, payload, task_id=str(id_))
    # then each request is refused, and nothing is done in part
    for path, body in requests:
        answer = api("POST", path, body, who=who, headers=KEY)
        assert (answer.status, list(answer.fields)) == (422, ["Idempotency-Key"]), path
    assert [api.rows(table) for table in ("tenants", "user_invitations", "tasks", "api_requests")] == [1, 0, 3, 0]


def test_a_used_key_is_distinguished_from_an_existing_slug(api: Api) -> None:
    # given a tenant whose request is no longer stored
    made = api("POST", "/tenants", {"name": "A", "slug": "a"}, who=claims(), headers=KEY)
    assert made.status == 201
    api.platform.world.run("delete from saas.api_requests")
    # then its key counts as used, with any slug
    for slug in ("a", "b"):
        answer = api("POST", "/tenants", {"name": "A", "slug": slug}, who=claims(), headers=KEY)
        assert (answer.status, list(answer.fields)) == (422, ["Idempotency-Key"])
    # also if the tenant is removed, and its task is not
    api.platform.world.run("delete from saas.tenants")
    assert api("POST", "/tenants", {"name": "A", "slug": "a"}, who=claims(), headers=KEY).status == 422
    assert (api.rows("tenants"), api.rows("tasks")) == (0, 1)


def test_another_body_under_the_same_key_is_refused(api: Api, tenant: str) -> None:
    api.export(owner(tenant), headers=KEY)
    answer = api("POST", "/exports", {"export_type": "partial"}, who=owner(tenant), headers=KEY)
    assert (answer.status, list(answer.fields)) == (422, ["Idempotency-Key"])
    assert api.rows("tasks") == 1


def test_a_key_belongs_to_its_caller_tenant_and_route(api: Api, tenant: str) -> None:
    other = api.platform.tenant("Other", "other")
    ids = {
        api.export(owner(tenant), headers=KEY).body["task_id"],
        api.export(owner(tenant, "bob"), headers=KEY).body["task_id"],
        api.export(owner(other), headers=KEY).body["task_id"],
        invite(api, tenant, api.platform.role(tenant, "viewer"), headers=KEY).body["task_id"],
        api.export(owner(tenant)).body["task_id"],
        api.export(owner(tenant)).body["task_id"],
    }
    assert len(ids) == 6


def test_a_refused_request_may_be_repeated_with_its_key(api: Api, tenant: str) -> None:
    taken = api("POST", "/tenants", {"name": "B", "slug": "acme"}, who=claims(), headers=KEY)
    free = api("POST", "/tenants", {"name": "B", "slug": "b"}, who=claims(), headers=KEY)
    assert (taken.status, free.status) == (409, 201)


def test_a_key_that_is_no_longer_stored_creates_no_second_object(api: Api, tenant: str) -> None:
    role = api.platform.role(tenant, "viewer")
    api.export(owner(tenant), headers=KEY)
    invite(api, tenant, role, headers=KEY)
    api.platform.world.run("delete from saas.api_requests")
    assert api.export(owner(tenant), headers=KEY).status == 422
    assert invite(api, tenant, role, headers=KEY).status == 422
    assert api.rows("tasks") == 2


def test_two_requests_at_once_with_the_same_key_are_executed_once(api: Api, tenant: str, database_url: str) -> None:
    # given a first request that has not been committed yet

    first = Database(database_url)
    key = id_of(caller_of(owner(tenant)), "POST /exports", KEY["Idempotency-Key"])
    session = Session(first.engine)
    assert requests.begin(session, key, "of another body") is None
    # when the second request comes during it
    answers: list[Answer] = []
    second = threading.Thread(target=lambda: answers.append(api.export(owner(tenant), headers=KEY)))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    session.commit()
    second.join(PATIENCE_SECONDS)
    # then it has waited for the first, and has done nothing
    assert answers[0].status == 422
    assert api.rows("tasks") == 0
    session.close()
    first.drop()


def test_a_malformed_key_is_refused(api: Api, tenant: str) -> None:
    for key in ("", " ", "a b", "x" * 201, "schlüssel"):
        answer = api.export(owner(tenant), headers={"Idempotency-Key": key})
        assert (answer.status, list(answer.fields)) == (400, ["Idempotency-Key"])
    assert api.rows("tasks") == 0


# --- Invalid requests ----------------------------------------------------------------------------------------------


def test_an_invalid_field_is_named_and_its_value_is_shown_nowhere(
    api: Api, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    role, invitations = api.platform.role(tenant, "viewer"), f"/tenants/{tenant}/invitations"
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/exports", {"export_type": SECRET}, "export_type"),
        ("/exports", {}, "export_type"),
        ("/exports", {"export_type": "full", "tenant_id": SECRET}, "tenant_id"),
        ("/exports", {"export_type": "full", "user_id": SECRET}, "user_id"),
        ("/exports", {"export_type": None}, "export_type"),
        ("/exports", {"export_type": ["full"]}, "export_type"),
        ("/exports", {"export_type": f"{SECRET}\0"}, "export_type"),
        ("/tenants", {"name": "", "slug": "a"}, "name"),
        ("/tenants", {"name": "x" * 256, "slug": "a"}, "name"),
        ("/tenants", {"name": "\u200b", "slug": "a"}, "name"),
        ("/tenants", {"name": "\u200c", "slug": "a"}, "name"),
        ("/tenants", {"name": f"{SECRET}\nBcc: b", "slug": "a"}, "name"),
        ("/tenants", {"name": f"\u202e{SECRET}", "slug": "a"}, "name"),
        ("/tenants", {"name": "A", "slug": f"{SECRET}_"}, "slug"),
        ("/tenants", {"name": "A", "slug": "-a"}, "slug"),
        ("/tenants", {"name": "A", "slug": "a", "metadata": SECRET}, "metadata"),
        ("/tenants", {"name": "A", "slug": "a", "metadata": {"x": SECRET * 2000}}, "metadata"),
        ("/tenants", {"name": "A", "slug": "a", "metadata": {"x": "\ud800"}}, "metadata"),
        ("/tenants", {"name": "A", "slug": "a", "created_by": SECRET}, "created_by"),
        ("/tenants", {"name": "A", "slug": "a", SECRET[:3]: 1}, SECRET[:3]),
        ("/invitations/accept", {"token": f"{SECRET}{'x' * 255}"}, "token"),
        ("/invitations/accept", {"token": SECRET, "user_id": SECRET}, "user_id"),
        (invitations, {"email": SECRET, "role_id": role}, "email"),
        (invitations, {"email": f"{SECRET}@a.org, b@a.org", "role_id": role}, "email"),
        (invitations, {"email": f"{SECRET}@a.org\nBcc: b@a.org", "role_id": role}, "email"),
        (invitations, {"email": "b@a.org", "role_id": SECRET}, "role_id"),
        (invitations, {"email": "b@a.org", "role_id": role, "role": "owner"}, "role"),
    ]
    with lines() as logged:
        for path, body, field in cases:
            answer = api("POST", path, body, who=owner(tenant))
            assert (answer.status, list(answer.fields)) == (400, [field]), body
            assert SECRET not in json.dumps(answer.body)
    assert SECRET not in "".join(logged.texts) + "".join(capsys.readouterr())
    assert (api.rows("tasks"), api.rows("tenants"), api.rows("user_invitations")) == (0, 1, 0)


def test_a_tenant_in_a_body_is_refused_with_the_reason(api: Api, tenant: str) -> None:
    other = api.platform.tenant("Other", "other")
    answer = api("POST", "/exports", {"export_type": "full", "tenant_id": other}, who=owner(tenant))
    assert answer.fields == {"tenant_id": "is not accepted: your identity and your tenant come from your token"}


def test_a_body_that_cannot_be_read_is_refused(api: Api, tenant: str) -> None:
    cases: list[tuple[str | bytes, int]] = [
        ("", 400),
        ("{", 400),
        ("null", 400),
        ('"text"', 400),
        ('[{"export_type": "full"}]', 400),
        ('{"export_type": NaN}', 400),
        ('{"export_type": 1e999}', 400),
        ('{"export_type": ' + "1" * 5000 + "}", 400),
        ("[" * 20_000, 400),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, 400),
        (b"\xff\xfe", 400),
        (b'{"export_type": "full"}', 202),
        ('{"export_type": "full", "x": "' + "y" * 70_000 + '"}', 413),
        ('{"export_type": "full", "x": "' + "é" * 40_000 + '"}', 413),
        (b'{"export_type": "full"}'.ljust(65_536), 202),
        (b'{"export_type": "full"}'.ljust(65_537), 413),
    ]
    for raw, status in cases:
        assert api("POST", "/exports", raw=raw, who=owner(tenant)).status == status, raw[:40]


def test_a_body_that_is_no_json_is_refused(api: Api, tenant: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert api.export(owner(tenant), headers={"Content-Type": kind}).status == 415
    assert api.export(owner(tenant), headers={"Content-Type": "application/json; charset=utf-8"}).status == 202


def test_a_caller_without_permission_gets_no_answer_about_the_body(api: Api, tenant: str) -> None:
    assert api("POST", "/exports", raw="{", who=None).status == 401
    assert api("POST", "/exports", raw="{", who=claims("ann", tenant, "member")).status == 403


def test_an_unknown_route_is_not_found(api: Api, tenant: str) -> None:
    for request in ("GET /", "GET /exports", "DELETE /tenants", "POST /tenants/", "GET /tasks", "OPTIONS /exports"):
        method, _, path = request.partition(" ")
        assert api(method, path, who=owner(tenant)).status == 404
        assert api(method, path, who=None).status == 401


# --- Faults and logs -----------------------------------------------------------------------------------------------


def test_while_the_database_is_unavailable_requests_get_a_retry_after(api: Api, tenant: str, postgres: Any) -> None:
    with lines():
        for _ in range(2):
            assert api("GET", "/openapi.json", who=owner(tenant)).status == 200
        assert api.export(owner(tenant)).status == 202
        postgres.stop()
        for answer in (api.export(owner(tenant)), api("GET", "/tasks/any", who=owner(tenant))):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        postgres.start()
        assert api.export(owner(tenant)).status == 202


def test_each_request_is_logged_in_one_line_without_its_values(api: Api, tenant: str) -> None:
    with lines() as logged:
        invite(api, tenant, api.platform.role(tenant, "viewer"), headers={"Idempotency-Key": SECRET})
        api("GET", f"/{SECRET}", who=owner(tenant))
    requests = [line for line in logged.fields if line["message"] == "request"]
    assert [(line["route"], line["status"], line["tenant_id"]) for line in requests] == [
        ("POST /tenants/{tenant_id}/invitations", 201, tenant),
        ("none", 404, tenant),
    ]
    text = "".join(logged.texts)
    assert "bob@example.org" not in text
    assert SECRET not in text


# --- The document --------------------------------------------------------------------------------------------------


def test_every_status_of_an_answer_is_in_the_document() -> None:
    documented = {
        status
        for operations in document(app())["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    assert len(refusals.REFUSALS) > 8
    assert set(refusals.REFUSALS) <= documented


def test_the_document_has_every_route_of_the_table_and_no_other(api: Api) -> None:
    found = api("GET", "/openapi.json", who=claims()).body
    assert found == document(app())
    routes = {f"{method.upper()} {path}" for path, item in found["paths"].items() for method in item}
    assert routes == ROUTES.keys()


def test_the_document_describes_roles_refusals_keys_and_the_token() -> None:
    found = document(app())
    export = found["paths"]["/exports"]["post"]
    assert export["description"] == "For admin, owner."
    assert {"202", "400", "401", "403", "404", "413", "415", "422", "429", "500", "503"} == export["responses"].keys()
    assert not {"413", "415"} & found["paths"]["/tasks/{task_id}"]["get"]["responses"].keys()
    assert "200" not in found["paths"]["/tenants"]["post"]["responses"]
    assert [item["name"] for item in export["parameters"]] == ["Idempotency-Key", "Traceparent"]
    assert found["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    text = json.dumps(found)
    for name in ("NewExport", "NewTenant", "NewInvitation", "TaskState", "ExportState", "Refused"):
        assert f"#/components/schemas/{name}" in text
    referred = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred <= found["components"]["schemas"].keys()


def test_the_api_is_not_a_task() -> None:
    assert all(task.folder != "api" for task in discover().values())
