"""The doctor's checks of Amazon SES, for stages that send mail by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from joblane import Grants, Payload, task
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import mail as doctor_mail
from joblane.inspector.stage.doctor.mail import Mail, identities, mail, problems
from joblane.inspector.views import Grade

SENDER = "no-reply@mail.acme.dev"


class Nothing(Payload):
    pass


@task("note:send", grants=Grants(mail=True))
def note_send(payload: Nothing, ctx: object) -> None:
    pass


@task("note:keep")
def note_keep(payload: Nothing, ctx: object) -> None:
    pass


class Missing(Exception):  # noqa: N818 - an answer of AWS
    pass


class Aws:
    """Lambda and SES. ``variables``: function → its environment; ``verified``: identity → its status."""

    exceptions = SimpleNamespace(ResourceNotFoundException=Missing, NotFoundException=Missing)

    def __init__(self, variables: dict[str, dict[str, str]], verified: dict[str, bool], **account: Any) -> None:
        self.variables, self.verified = variables, verified
        self.account = {"ProductionAccessEnabled": True, "SendingEnabled": True, "EnforcementStatus": "HEALTHY"}
        self.account |= account

    def get_function_configuration(self, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        if FunctionName not in self.variables:
            raise Missing
        return {"Environment": {"Variables": self.variables[FunctionName]}}

    def get_account(self) -> dict[str, Any]:
        return self.account

    def get_email_identity(self, EmailIdentity: str) -> dict[str, bool]:  # noqa: N803
        if EmailIdentity not in self.verified:
            raise Missing
        return {"VerifiedForSendingStatus": self.verified[EmailIdentity]}


def checks(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    @contextmanager
    def client(service: str, _: str) -> Iterator[Aws]:
        asked.append(service)
        yield aws

    asked: list[str] = []
    monkeypatch.setattr(doctor_mail, "client", client)
    database: Any = None
    scope = Scope(database, database, "acme", {each.type: each for each in (note_keep, note_send)}, "op", "eu-west-1")
    found = list(mail(scope))
    assert asked == (["lambda", "sesv2"] if found else ["lambda"])
    return found


SENDING = {"acme-note-send": {"JOBLANE_MAIL_FROM": SENDER}, "acme-note-keep": {}}


@pytest.mark.parametrize("variables", [{}, {"acme-note-send": {}}], ids=["not deployed", "by another provider"])
def test_a_stage_that_does_not_send_by_ses_is_not_checked(
    variables: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks(Aws(variables, {}), monkeypatch) == []


@pytest.mark.parametrize("verified", identities(SENDER))
def test_a_verified_address_or_domain_is_good(verified: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = checks(Aws(SENDING, {verified: True}), monkeypatch)
    assert (check.grade, check.what, check.do) == (Grade.GOOD, f"mail from {SENDER}", "")


@pytest.mark.parametrize("verified", [{}, {SENDER: False}, {"dev": True}, {"other.acme.dev": True}])
def test_an_unverified_sender_is_bad(verified: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    check, _ = checks(Aws(SENDING, verified), monkeypatch)
    assert (check.grade, check.what) == (Grade.BAD, f"mail from {SENDER}")
    assert "no mail from it in eu-west-1" in check.found
    assert check.do.startswith(f"aws sesv2 create-email-identity --email-identity {SENDER}")


@pytest.mark.parametrize(
    ("account", "grade", "found"),
    [
        ({"ProductionAccessEnabled": False}, Grade.WARNING, "in the SES sandbox in eu-west-1: mails reach only verif"),
        ({"SendingEnabled": False, "EnforcementStatus": "SHUTDOWN"}, Grade.BAD, "sending is paused for the account"),
        ({"EnforcementStatus": "PROBATION"}, Grade.WARNING, "AWS reviews the account's mails"),
    ],
)
def test_a_state_of_the_account_that_stops_mails_is_found(
    account: dict[str, Any], grade: Grade, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, _ = checks(Aws(SENDING, {SENDER: True}, **account), monkeypatch)
    assert (check.grade, check.what) == (grade, "Amazon SES")
    assert found in check.found
    assert check.do


def test_without_a_known_region_the_finding_names_this_region() -> None:
    (check,) = problems(SENDER, "", Mail(in_sandbox=True, sending=True, verified=[SENDER]))
    assert "in this region" in check.found
