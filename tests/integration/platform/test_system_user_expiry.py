"""Expired system users go out of service, and their owners are told once that the time comes."""

from __future__ import annotations

from typing import Any

import pytest

from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from tests.integration.platform.conftest import Platform
from tests.unit.platform.servers import SmtpServer


def system_user(
    platform: Platform, name: str, *, expires: str | None = None, grace: str | None = None, active: bool = True
) -> None:
    platform.world.run(
        "insert into system_users (name, application_name, email, user_id, service_type, is_active, created_by, "
        "expires_at, grace_period_at) "
        "values ($1::text, 'billing', $1::text || '@example.org', $1::text, 'worker', $2, 'founder', "
        "now() + $3::text::interval, now() + $4::text::interval)",
        *(name, active, expires, grace),
    )


def active(platform: Platform) -> dict[str, bool]:
    return dict(platform.world.run("select name, is_active from system_users"))


def tick(platform: Platform) -> dict[str, Any]:
    row = platform.do(system_user_expiry, SystemUserExpiry())
    assert row["state"] == "completed", row["error_message"]
    return row["result"]  # type: ignore[no-any-return]


def test_those_past_their_end_go_out_of_service(platform: Platform) -> None:
    system_user(platform, "past", expires="-1 minute")
    system_user(platform, "future", expires="1 hour")
    system_user(platform, "endless")
    system_user(platform, "off", expires="-1 day", active=False)
    assert tick(platform) == {"deactivated": 1, "warned": 0, "failed": 0}
    assert active(platform) == {"past": False, "future": True, "endless": True, "off": False}
    assert tick(platform)["deactivated"] == 0


def test_an_owner_is_told_once_of_one_grace_period(platform: Platform) -> None:
    platform.world.run("insert into user_addresses (user_id, email) values ('founder', 'owner@example.org')")
    system_user(platform, "due", expires="1 day", grace="-1 minute")
    system_user(platform, "just-expired", expires="-1 second", grace="-1 day")
    system_user(platform, "later", expires="2 days", grace="1 day")
    system_user(platform, "off", expires="1 day", grace="-1 minute", active=False)
    system_user(platform, "old", expires="1 day", grace="-8 days")
    assert tick(platform) == {"deactivated": 1, "warned": 2, "failed": 0}
    subjects = sorted(mail["Subject"] for mail in platform.mails)
    assert subjects == [
        "System user due: the grace period has begun",
        "System user just-expired: the grace period has begun",
    ]
    assert {mail["To"] for mail in platform.mails} == {"owner@example.org"}
    assert tick(platform) == {"deactivated": 0, "warned": 0, "failed": 0}

    platform.world.run("update system_users set grace_period_at = now() - interval '1 second' where name = 'due'")
    assert tick(platform)["warned"] == 1


def test_without_an_owner_the_system_user_is_written_to(platform: Platform) -> None:
    system_user(platform, "due", grace="-1 minute")
    assert tick(platform)["warned"] == 1
    assert [mail["To"] for mail in platform.mails] == ["due@example.org"]


def test_a_mail_that_fails_keeps_nobody_else_from_theirs_and_is_tried_by_the_next_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_user(platform, "past", expires="-1 minute")
    system_user(platform, "bad", grace="-2 minutes")
    system_user(platform, "good", grace="-1 minute")
    platform.world.run("update system_users set email = 'not an address' where name = 'bad'")
    assert tick(platform) == {"deactivated": 1, "warned": 1, "failed": 1}
    platform.world.run("update system_users set email = 'bad@example.org' where name = 'bad'")
    assert tick(platform) == {"deactivated": 0, "warned": 1, "failed": 0}


def test_mail_that_is_not_set_up_does_not_keep_the_expired_in_service(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMAIL_FROM_ADDRESS")
    system_user(platform, "past", expires="-1 minute")
    system_user(platform, "due", grace="-1 minute")
    assert tick(platform) == {"deactivated": 1, "warned": 0, "failed": 1}
    assert active(platform) == {"past": False, "due": True}


def test_a_run_that_breaks_off_tells_nobody_twice(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.platform import system_users

    for number in range(3):
        system_user(platform, f"due-{number}", grace=f"-{number + 1} minutes")
    mark, calls = system_users.mark_warned, []

    def mark_twice(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("broken off")
        mark(*arguments)

    with SmtpServer().running() as server:
        monkeypatch.setattr(system_users, "mark_warned", mark_twice)
        monkeypatch.setenv("EMAIL_PROVIDER", "smtp")
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        id_ = platform.enqueue(system_user_expiry, SystemUserExpiry())
        assert platform.run(system_user_expiry, id_)["state"] == "retry"
        assert platform.run(system_user_expiry, id_)["state"] == "completed"
    ids = [mail["Message-ID"] for mail in server.mails]
    assert len(ids) == 4  # the third was on its way when the run broke off: it comes again, as the same mail
    assert len(set(ids)) == 3
