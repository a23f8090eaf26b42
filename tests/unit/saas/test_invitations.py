"""The mail of an invitation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from joblane.settings import MissingSettingError
from saas.errors import SettingError
from saas.invitations import Invitation, acceptance_link, compose

END = datetime(2026, 11, 26, 15, 0, tzinfo=UTC)
INVITATION = Invitation(UUID(int=1), "Acme", "Editor", END, timedelta(days=7), None, "ann@example.org", "t0ken")
SETTINGS = {"INVITATION_BASE_URL": "https://app.example.com/join?lang=en"}


def test_the_mail_names_tenant_role_link_and_end() -> None:
    mail = compose(INVITATION, SETTINGS, key="task-1")
    assert mail.subject == "Invitation to join Acme"
    assert mail.to == "ann@example.org"
    assert mail.key == "task-1"
    assert mail.html is not None
    for part in ("Acme", "Editor", "26 November 2026, 15:00 UTC"):
        assert part in mail.text
        assert part in mail.html
    assert "https://app.example.com/join?lang=en&token=t0ken\n" in mail.text
    assert 'href="https://app.example.com/join?lang=en&amp;token=t0ken"' in mail.html
    reminder = compose(INVITATION, SETTINGS, key="task-1", reminds=True)
    assert reminder == replace(mail, subject="Reminder: Invitation to join Acme")


def test_text_of_others_becomes_neither_markup_nor_a_line_break() -> None:
    hostile = replace(
        INVITATION, tenant_name='<script>"Acme"</script>\r\nBcc: eve@example.org', role_name="<b>\n\nClick here"
    )
    mail = compose(hostile, SETTINGS, key="task-1")
    assert mail.html is not None
    assert "<script>" not in mail.html
    assert "<b>" not in mail.html
    assert "\n" not in mail.subject
    assert mail.text.splitlines()[0].endswith("as <b> Click here.")


def test_a_subject_has_a_maximum_length() -> None:
    mail = compose(replace(INVITATION, tenant_name="a" * 255), SETTINGS, key="task-1")
    assert len(mail.subject) < 150


def test_the_repr_of_an_invitation_and_its_mail_has_no_token() -> None:
    printed = repr(INVITATION) + repr(compose(INVITATION, SETTINGS, key="task-1"))
    assert "t0ken" not in printed
    assert "ann@" not in printed


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("https://a.example/join", "https://a.example/join?token=a%2Bb%2F%26%3D+%C3%A9"),
        ("https://a.example/join?x=1&y=%20", "https://a.example/join?x=1&y=%20&token=a%2Bb%2F%26%3D+%C3%A9"),
        ("http://localhost:3000", "http://localhost:3000?token=a%2Bb%2F%26%3D+%C3%A9"),
        ("https://a.example/#/join", "https://a.example/?token=a%2Bb%2F%26%3D+%C3%A9#/join"),
    ],
)
def test_the_token_is_added_to_the_query(base: str, link: str) -> None:
    assert acceptance_link(base, "a+b/&= é") == link


@pytest.mark.parametrize(
    "base", ["app.example.com", "javascript:alert(1)", "https://", "https://a.example/ x", "ftp://a"]
)
def test_a_base_that_is_not_a_web_address_is_refused(base: str) -> None:
    with pytest.raises(SettingError, match="INVITATION_BASE_URL"):
        acceptance_link(base, "t0ken")


def test_a_missing_base_is_named() -> None:
    with pytest.raises(MissingSettingError, match="INVITATION_BASE_URL is not set"):
        compose(INVITATION, {}, key="task-1")
