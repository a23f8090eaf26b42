"""Checks of Amazon SES, for a stage that sends mail by it. The preflight has the same checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joblane.inspector.scope import Scope
from joblane.inspector.stage.aws import client
from joblane.inspector.views import Check, Grade
from joblane.names import function_name
from joblane.settings import MAIL_FROM

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

SES = "Amazon SES"
UNDER_REVIEW = "PROBATION"
"""``EnforcementStatus`` of an account whose sending AWS may soon stop. Source: GetAccount, SES API v2 reference."""


@dataclass(frozen=True, slots=True)
class Mail:
    """Amazon SES in a region. ``verified``: the identities that cover the sender and may send."""

    in_sandbox: bool
    sending: bool
    verified: Sequence[str]
    under_review: bool = False


def mail(scope: Scope) -> Iterator[Check]:
    """SES sends mail from the stage's sender to everybody. No check if no function sends mail by SES."""
    if sender := _sender(scope):
        with client("sesv2", scope.region) as aws:
            yield from problems(sender, scope.region, read_mail(aws, sender))
        yield Check(Grade.GOOD, f"mail from {sender}", f"{SES} sends it")


def _sender(scope: Scope) -> str | None:
    """Return the address from which the deployed functions send by SES, from their configurations."""
    with client("lambda", scope.region) as aws:
        for task in (task for task in scope.tasks.values() if task.grants.mail):
            try:
                deployed = aws.get_function_configuration(FunctionName=function_name(scope.prefix, task.type))
            except aws.exceptions.ResourceNotFoundException:  # a finding of `functions`
                continue
            variables: dict[str, str] = deployed.get("Environment", {}).get("Variables", {})
            if sender := variables.get(MAIL_FROM):
                return sender
    return None


def identities(sender: str) -> list[str]:
    """Return the identities that cover an address: itself, its domain, and the domains above. One is enough.

    Source: Amazon SES, *Creating and verifying identities in Amazon SES*.
    """
    domain = sender.rpartition("@")[2].lower().split(".")
    return [sender, *(".".join(domain[start:]) for start in range(len(domain) - 1))]


def read_mail(aws: SESV2Client, sender: str) -> Mail:
    """Return the state of Amazon SES, by ``ses:GetAccount`` and ``ses:GetEmailIdentity`` on :func:`identities`."""
    account = aws.get_account()
    return Mail(
        in_sandbox=not account["ProductionAccessEnabled"],
        sending=account["SendingEnabled"],
        verified=[identity for identity in identities(sender) if _is_verified(aws, identity)],
        under_review=account.get("EnforcementStatus") == UNDER_REVIEW,
    )


def _is_verified(aws: SESV2Client, identity: str) -> bool:
    try:
        return aws.get_email_identity(EmailIdentity=identity)["VerifiedForSendingStatus"]
    except aws.exceptions.NotFoundException:
        return False


def problems(sender: str, region: str, found: Mail) -> Iterator[Check]:
    """Yield what keeps mails from being sent. Tasks that fail because of it can be sent back when it is fixed."""
    where = region or "this region"
    if not found.verified:
        yield Check(
            Grade.BAD,
            f"mail from {sender}",
            f"{SES} sends no mail from it in {where}: neither the address nor its domain is verified",
            f"aws sesv2 create-email-identity --email-identity {sender}, and open the link in the mail; or verify the "
            "domain; or let the stage send no mail",
        )
    if not found.sending:
        yield Check(Grade.BAD, SES, f"sending is paused for the account in {where}", "see the SES console, Reputation")
    elif found.under_review:
        yield Check(Grade.WARNING, SES, f"AWS reviews the account's mails in {where}", "answer the case of AWS Support")
    if found.in_sandbox:
        yield Check(
            Grade.WARNING,
            SES,
            f"the account is in the SES sandbox in {where}: mails reach only verified addresses, 200 a day",
            "aws sesv2 put-account-details --production-access-enabled --mail-type TRANSACTIONAL --website-url URL; "
            "AWS answers within a day",
        )
