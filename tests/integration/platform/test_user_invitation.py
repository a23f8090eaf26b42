"""The invited get their mail, and nobody whose invitation is over."""

from __future__ import annotations

import uuid

import pytest

from functions.user_invitation.handler import UserInvitation, user_invitation
from tests.integration.platform.conftest import Platform
from tests.unit.platform.servers import SmtpServer


def test_the_mail_goes_to_the_invited(platform: Platform) -> None:
    tenant = platform.tenant("Acme & Söhne")
    invitation = platform.invitation(tenant, platform.role(tenant))
    row = platform.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert row["state"] == "completed"
    assert row["result"] == {"skipped": None}
    (mail,) = platform.mails
    assert mail["To"] == "ann@example.org"
    assert mail["Subject"] == "Invitation to join Acme & Söhne"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    token = platform.value("select token from user_invitations where id = $1", invitation)
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
def test_an_invitation_that_is_over_is_skipped(status: str, ends: str, reason: str, platform: Platform) -> None:
    tenant = platform.tenant()
    invitation = platform.invitation(tenant, platform.role(tenant), status=status, ends=ends)
    row = platform.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert row["state"] == "completed"
    assert row["result"] == {"skipped": reason}
    assert platform.mails == []


@pytest.mark.parametrize("status", ["suspended", "deleted"])
def test_nobody_is_invited_into_a_closed_tenant(status: str, platform: Platform) -> None:
    tenant = platform.tenant(status=status)
    invitation = platform.invitation(tenant, platform.role(tenant))
    row = platform.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert row["result"] == {"skipped": "tenant closed"}
    assert platform.mails == []


def test_an_invitation_that_does_not_exist_is_given_up_at_once(platform: Platform) -> None:
    row = platform.do(user_invitation, UserInvitation(invitation_id=uuid.uuid4()))
    assert (row["state"], row["attempts"]) == ("archived", 1)


@pytest.mark.parametrize(("answer", "state"), [("450 later", "retry"), ("550 no such user", "archived")])
def test_a_recipient_refused_for_good_is_not_tried_again_and_no_record_holds_the_address(
    answer: str, state: str, platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = platform.tenant()
    invitation = platform.invitation(tenant, platform.role(tenant))
    with SmtpServer(recipient_answer=answer).running() as server:
        monkeypatch.setenv("EMAIL_PROVIDER", "smtp")
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        row = platform.do(user_invitation, UserInvitation(invitation_id=uuid.UUID(invitation)))
    assert row["state"] == state
    kept = repr((row, platform.world.attempts(row["id"]), capsys.readouterr()))
    assert "ann@example.org" not in kept
    assert "t0ken" not in kept
