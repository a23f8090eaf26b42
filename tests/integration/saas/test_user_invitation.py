"""An open invitation is mailed, reminded once, and ends: accepted, cancelled or expired. A closed one is not mailed."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from functions.tenant_cleanup.handler import TenantCleanup, tenant_cleanup
from functions.user_invitation.handler import UserInvitation, user_invitation
from saas import invitations, mail
from saas.settings import Settings
from tests.integration.saas.conftest import App
from tests.logs import lines
from tests.unit.saas.servers import SmtpServer


def test_the_mail_goes_to_the_invited_address(app: App) -> None:
    tenant = app.tenant("Acme & Söhne")
    invitation = app.invitation(tenant, app.role(tenant))
    assert app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation))).outcomes == ("waiting",)
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
    assert ended.result == {"ended": reason}
    assert app.status(invitation) == reason
    assert app.mails == []


def test_an_invitation_that_expires_before_its_first_run_is_not_mailed(app: App) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    app.jobs.travel(timedelta(days=2))
    assert app.jobs.drain().only.result == {"ended": "expired"}
    assert (app.mails, app.status(invitation)) == ([], "expired")


def test_a_mail_is_sent_once_for_a_duplicate_and_redelivered_message(app: App) -> None:
    tenant = app.tenant()
    invitation = app.invitation(tenant, app.role(tenant))
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    with app.jobs.duplicate(while_running=True), app.jobs.crash_after_commit():
        app.jobs.drain()
    app.jobs.drain(within=timedelta(hours=1))
    assert len(app.mails) == 1


# --- Its waits -----------------------------------------------------------------------------------------------------

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def sent(app: App, ends: str = "7 days") -> str:
    """An invitation that was mailed. Its task has its id, as with the API."""
    tenant = app.tenant()
    id_ = app.invitation(tenant, app.role(tenant), ends=ends)
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(id_)), task_id=id_)
    app.jobs.drain()
    return id_


def accept(app: App, id_: str, session: Session) -> None:
    invitation = invitations.find(session, id=uuid.UUID(id_))
    assert invitations.accept(session, invitation, "ann")
    assert app.jobs.signal(id_, invitations.CLOSED, "accepted", session=session)


def test_it_is_reminded_once_after_three_days_and_expires_at_its_own_end(app: App) -> None:
    id_ = sent(app)
    app.jobs.travel(3 * DAY - HOUR, ticks=True)
    assert len(app.mails) == 1
    app.jobs.travel(4 * DAY, ticks=True)
    assert {mail["Subject"] for mail in app.mails} == {"Invitation to join Acme", "Reminder: Invitation to join Acme"}
    app.jobs.assert_waiting(user_invitation, signal=invitations.CLOSED)
    assert app.status(id_) == "pending"
    app.jobs.travel(2 * HOUR, ticks=True)
    assert (app.status(id_), app.jobs.task(id_).result) == ("expired", {"ended": "expired"})
    assert app.value("select updated_at - expires_at between '0' and '30 min' from saas.user_invitations")
    assert len(app.mails) == 2


def test_an_invitation_that_ends_before_its_reminder_has_none(app: App) -> None:
    id_ = sent(app, ends="2 days")
    app.jobs.drain(within=2 * DAY + HOUR)
    assert (app.status(id_), len(app.mails)) == ("expired", 1)


@pytest.mark.parametrize(("after", "mails"), [(DAY, 1), (4 * DAY, 2)])
def test_an_acceptance_ends_its_task_before_and_after_the_reminder(after: timedelta, mails: int, app: App) -> None:
    id_ = sent(app)
    app.jobs.travel(after, ticks=True)
    with app.jobs.session() as session:
        accept(app, id_, session)
        session.rollback()
    assert app.jobs.drain().invocations == 0
    with app.jobs.session() as session:
        accept(app, id_, session)
    assert app.jobs.drain().only.result == {"ended": "accepted"}
    app.jobs.travel(8 * DAY, ticks=True)
    assert (app.status(id_), len(app.mails)) == ("accepted", mails)


def test_a_signal_that_comes_during_a_run_ends_the_task_in_this_run(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(message: mail.Mail, settings: Settings) -> mail.Receipt:
        with app.jobs.session() as session:
            assert invitations.cancel(session, uuid.UUID(id_))
            assert app.jobs.signal(id_, invitations.CLOSED, "cancelled", session=session)
        return mail.Receipt("test", None)

    tenant = app.tenant()
    id_ = app.invitation(tenant, app.role(tenant))
    monkeypatch.setattr(mail, "send", send)
    app.jobs.enqueue(user_invitation, UserInvitation(invitation_id=uuid.UUID(id_)), task_id=id_)
    assert app.jobs.drain().only.outcomes == ("completed",)
    assert app.jobs.task(id_).result == {"ended": "cancelled"}


def test_the_cleanup_expires_what_a_paused_task_does_not_and_ends_its_wait(app: App) -> None:
    id_ = sent(app)
    app.sql("insert into joblane.pauses (scope, name) values ('type', 'user:invitation')")
    app.jobs.travel(8 * DAY, ticks=True)
    assert app.status(id_) == "pending"
    assert app.do(tenant_cleanup, TenantCleanup()).result["invitations"] == 1
    assert app.sql("select name, value from joblane.task_signals") == [[invitations.CLOSED, "expired"]]
    app.sql("delete from joblane.pauses")
    app.jobs.drain(within=HOUR)
    assert (app.status(id_), app.jobs.task(id_).result, len(app.mails)) == ("expired", {"ended": "expired"}, 1)


def test_a_crash_after_each_commit_sends_each_mail_once(app: App) -> None:
    with lines() as log, app.jobs.crash_after_commit(user_invitation, commit=1, times=6) as crash:
        id_ = sent(app)
        app.jobs.drain(within=8 * DAY)
    assert crash.happened == 6
    assert (app.status(id_), app.jobs.task(id_).result) == ("expired", {"ended": "expired"})
    assert [line["message"] for line in log.fields].count("invitation: mail sent") == 2


@pytest.mark.parametrize("status", ["suspended", "deleted"])
def test_nobody_is_invited_into_a_closed_tenant(status: str, app: App) -> None:
    tenant = app.tenant(status=status)
    invitation = app.invitation(tenant, app.role(tenant))
    ended = app.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert ended.result == {"ended": "tenant closed"}
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
    assert ended.outcomes == ("waiting",)
    (line,) = [line for line in log.fields if "mail" in line["message"]]
    assert line["message"] == "invitation: mail not sent, because EMAIL_PROVIDER is log"
    assert (line["task_id"], line["task_type"]) == (ended.id, "user:invitation")
    assert not [text for text in log.texts if "ann@example.org" in text or "t0ken" in text or "https://" in text]
    assert app.mails == []
