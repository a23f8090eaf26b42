"""An open invitation is mailed, and a closed invitation is not."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest

from functions.user_invitation.handler import UserInvitation, user_invitation
from tests.integration.saas.conftest import App
from tests.logs import lines
from tests.unit.saas.servers import SmtpServer


def test_the_mail_goes_to_the_invited_address(app: App) -> None:
    tenant = app.tenant("Acme & Söhne")
    invitation = app.invitation(tenant, app.role(tenant))
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.state == "completed"
    assert ended.result == {"skipped": None}
    (mail,) = app.mails
    assert mail["To"] == "ann@example.org"
    assert mail["Subject"] == "Invitation to join Acme & Söhne"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    token = app.value("select token from saas.user_invitations where id = $1", invitation)
    assert f"https://app.example.com/join?token={token}" in text.get_content()
    assert "as Editor" in text.get_content()
    assert "Acme &amp; Söhne" in html.get_content()


@pytest.mark.parametrize(
    ("status", "ends", "reason"),
    [
        ("accepted", "1 day", "accepted"),
        ("cancelled", "1 day", "cancelled"),
        ("expired", "1 day", "expired"),
        ("pending", "-1 second", "expired"),
    ],
)
def test_a_closed_invitation_is_skipped(status: str, ends: str, reason: str, app: App) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant), status=status, ends=ends)
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.state == "completed"
    assert ended.result == {"skipped": reason}
    assert app.mails == []


def test_an_invitation_that_expires_while_waiting_is_skipped(app: App) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    app.jobs.travel(timedelta(days=2))
    assert app.jobs.drain().only.result == {"skipped": "expired"}
    assert app.mails == []


def test_a_mail_is_sent_once_for_a_duplicate_and_redelivered_message(app: App) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    with app.jobs.duplicate(while_running=True), app.jobs.crash_after_commit():
        app.jobs.drain().check()
    app.jobs.drain(within=timedelta(hours=1)).check()
    assert len(app.mails) == 1


@pytest.mark.parametrize("status", ["suspended", "deleted"])
def test_nobody_is_invited_into_a_closed_tenant(status: str, app: App) -> None:
    tenant = app.tenant(status=status)
    invitation = app.invitation(tenant, app.role(tenant))
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.result == {"skipped": "tenant closed"}
    assert app.mails == []


def test_a_task_of_a_missing_invitation_is_archived_at_once(app: App) -> None:
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.uuid4()))
    assert (ended.state, ended.attempts) == ("archived", 1)


@pytest.mark.parametrize(("answer", "state"), [("450 later", "retry"), ("550 no such user", "archived")])
def test_a_permanently_refused_recipient_is_not_retried_and_not_stored(
    answer: str, state: str, app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    with SmtpServer(recipient_answer=answer).running() as server:
        monkeypatch.setenv("EMAIL_PROVIDER", "smtp")
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.state == state
    rows = app.sql("select to_jsonb(t), to_jsonb(a) from joblane.tasks t join joblane.runs a on a.task_id = t.id")
    assert len(rows) == 1
    kept = repr((rows, ended, capsys.readouterr()))
    assert "ann@example.org" not in kept
    assert "t0ken" not in kept


def test_an_unverified_sender_is_retried_with_what_to_do(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a new account, in which no identity is verified
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    monkeypatch.setenv("EMAIL_PROVIDER", "ses")
    # when
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    # then
    assert ended.state == "retry"
    (error,) = app.sql("select error_message from joblane.runs")
    assert "verify the identity of the sender, and request production access" in error[0]
    assert "ann@example.org" not in repr(error)


def test_the_provider_log_sends_no_mail_and_logs_that(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    monkeypatch.setenv("EMAIL_PROVIDER", "log")
    monkeypatch.delenv("EMAIL_FROM_ADDRESS")
    with lines() as log:
        ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.state == "completed"
    (line,) = [line for line in log.fields if "mail" in line["message"]]
    assert line["message"] == "invitation: mail not sent, because EMAIL_PROVIDER is log"
    assert (line["task_id"], line["task_type"]) == (ended.id, "user:invitation")
    assert not [text for text in log.texts if "ann@example.org" in text or "t0ken" in text or "https://" in text]
    assert app.mails == []
