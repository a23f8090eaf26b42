"""Expired system users are deactivated, and their owners are warned once when the grace period begins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
from tests.integration.saas.conftest import App
from tests.unit.saas.servers import SmtpServer


def system_user(
    app: App, name: str, *, expires: str | None = None, grace: str | None = None, active: bool = True
) -> None:
    app.sql(
        "insert into saas.system_users (name, application_name, email, user_id, service_type, is_active, created_by, "
        "expires_at, grace_period_at) "
        "values ($1::text, 'billing', $1::text || '@example.org', $1::text, 'worker', $2, 'founder', "
        "now() + $3::text::interval, now() + $4::text::interval)",
        *(name, active, expires, grace),
    )


def active(app: App) -> dict[str, bool]:
    return dict(app.sql("select name, is_active from saas.system_users"))


def tick(app: App) -> dict[str, Any]:
    return app.jobs.run(system_user_expiry, SystemUserExpiry()).model_dump()


def test_expired_system_users_are_deactivated(app: App) -> None:
    system_user(app, "past", expires="-1 minute")
    system_user(app, "future", expires="1 hour")
    system_user(app, "endless")
    system_user(app, "off", expires="-1 day", active=False)
    assert tick(app) == {"deactivated": 1, "warned": 0, "failed": 0}
    assert active(app) == {"past": False, "future": True, "endless": True, "off": False}
    assert tick(app)["deactivated"] == 0


def test_an_owner_is_warned_once_of_a_grace_period(app: App) -> None:
    app.sql("insert into saas.user_addresses (user_id, email) values ('founder', 'owner@example.org')")
    system_user(app, "due", expires="1 day", grace="-1 minute")
    system_user(app, "just-expired", expires="-1 second", grace="-1 day")
    system_user(app, "later", expires="2 days", grace="1 day")
    system_user(app, "off", expires="1 day", grace="-1 minute", active=False)
    system_user(app, "old", expires="1 day", grace="-8 days")
    assert tick(app) == {"deactivated": 1, "warned": 2, "failed": 0}
    subjects = sorted(mail["Subject"] for mail in app.mails)
    assert subjects == [
        "System user due: the grace period has begun",
        "System user just-expired: the grace period has begun",
    ]
    assert {mail["To"] for mail in app.mails} == {"owner@example.org"}
    assert tick(app) == {"deactivated": 0, "warned": 0, "failed": 0}

    app.sql("update saas.system_users set grace_period_at = now() - interval '1 second' where name = 'due'")
    assert tick(app)["warned"] == 1


def test_hourly_runs_of_four_days_warn_each_owner_once_and_deactivate_in_time(app: App) -> None:
    system_user(app, "grace", grace="1 day", expires="3 days")
    system_user(app, "endless")
    app.jobs.register(system_user_expiry)
    runs = app.jobs.travel(timedelta(days=2), ticks=True).check()
    assert len(runs) == 48
    assert sum(run.result["warned"] for run in runs) == len(app.mails) == 1
    assert active(app) == {"grace": True, "endless": True}
    assert sum(run.result["deactivated"] for run in app.jobs.travel(timedelta(days=2), ticks=True).check()) == 1
    assert active(app) == {"grace": False, "endless": True}
    assert len(app.mails) == 1


def test_without_an_owners_address_the_system_user_gets_the_mail(app: App) -> None:
    system_user(app, "due", grace="-1 minute")
    assert tick(app)["warned"] == 1
    assert [mail["To"] for mail in app.mails] == ["due@example.org"]


def test_a_failed_mail_affects_no_other_and_is_sent_by_the_next_run(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    system_user(app, "past", expires="-1 minute")
    system_user(app, "bad", grace="-2 minutes")
    system_user(app, "good", grace="-1 minute")
    app.sql("update saas.system_users set email = 'not an address' where name = 'bad'")
    assert tick(app) == {"deactivated": 1, "warned": 1, "failed": 1}
    app.sql("update saas.system_users set email = 'bad@example.org' where name = 'bad'")
    assert tick(app) == {"deactivated": 0, "warned": 1, "failed": 0}


def test_without_mail_settings_expired_system_users_are_still_deactivated(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMAIL_FROM_ADDRESS")
    system_user(app, "past", expires="-1 minute")
    system_user(app, "due", grace="-1 minute")
    assert tick(app) == {"deactivated": 1, "warned": 0, "failed": 1}
    assert active(app) == {"past": False, "due": True}


def test_a_failed_run_sends_no_second_mail(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from saas import system_users

    for number in range(3):
        system_user(app, f"due-{number}", grace=f"-{number + 1} minutes")
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
        app.jobs.ageless.add("system_users")  # the time is part of a warning's key and of its mail's id
        app.jobs.enqueue(system_user_expiry, SystemUserExpiry())
        assert app.jobs.drain().only.state == "retry"
        assert app.jobs.drain(within=timedelta(minutes=5)).only.state == "completed"
    ids = [mail["Message-ID"] for mail in server.mails]
    assert len(ids) == 4  # the third was sent when the run failed: it is sent again, as the same mail
    assert len(set(ids)) == 3
