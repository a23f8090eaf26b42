"""The view of signals: its rules, CSRF, and what Django's loggers show of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import path
from django.views.debug import ExceptionReporter

from joblane.django.views import signal
from joblane.settings import SIGNAL_KEYS
from joblane.testing import JobTester
from tests.addresses import CHECKS, Response, Send, asked

urlpatterns = [path("signals/<path:token>", signal)]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


@pytest.fixture
def send(shop: Any, jobs: JobTester) -> Iterator[Send]:
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)

    def send(method: str, url: str, body: Any = b"", accept: str = "*/*") -> Response:
        answer = client.generic(method, url, body, headers={"accept": accept})
        return Response(answer.status_code, answer.text, {name.lower(): value for name, value in answer.items()})

    with override_settings(
        ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE, ALLOWED_HOSTS=["testserver"], SECURE_REFERRER_POLICY="origin"
    ):
        yield send


def test_the_rules(jobs: JobTester, send: Send) -> None:
    for check in CHECKS:
        check(jobs, send)


def test_no_logger_of_django_shows_a_token(
    jobs: JobTester, send: Send, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    button, open_ = asked(jobs, "t")
    statuses = [send("POST", url, b"nothing").status for url in (f"{button}A", open_, button)]
    with monkeypatch.context() as patched:
        patched.delenv(SIGNAL_KEYS)
        assert [*statuses, send("POST", button).status] == [404, 400, 200, 500]
    said = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    [failed] = [record for record in caplog.records if record.exc_info]
    mail = ExceptionReporter(failed.request, *failed.exc_info, is_email=True)  # type: ignore[attr-defined, misc]
    said += mail.get_traceback_text().splitlines()
    assert {"Not Found: /signals/-", "Bad Request: /signals/-"} <= {record.getMessage() for record in caplog.records}
    assert not [line for line in said if any(url[-40:] in line for url in (button, open_))]
