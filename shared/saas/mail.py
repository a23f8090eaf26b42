"""Sending mail: by SMTP, by Amazon SES, to a folder (``console``), or not at all (``log``).

A mail is sent twice if a run is killed between the send and its commit. Both copies then have the same ``Message-ID``,
except with SES, which creates its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from saas.deadline import hang_up_after
from saas.errors import MailError, MailRefusedError, SettingError
from saas.settings import Settings, require

if TYPE_CHECKING:
    import smtplib
    from email.headerregistry import Address
    from email.message import EmailMessage

    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sesv2.type_defs import BodyTypeDef

PROVIDERS = ("console", "smtp", "ses", "log")
SUBMISSION_PORT, TLS_PORT = 587, 465
"""Source: RFC 8314, sections 3.3 and 7.3."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
JOINERS = "\u200c\u200d"
"""Format characters that many scripts and emoji need."""
ADDRESS = re.compile(r"[@\\]|:/|//|\bwww\.|\w[.\u3002](?=\w*[^\W\d_]{2})\w", re.IGNORECASE)
"""A part of a text that could be an address. U+3002 is a full stop, which browsers take as a dot."""
LONGEST_ADDRESS = 254
"""Source: RFC 5321, section 4.5.3.1.3, without the angle brackets."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to an address. ``key``: the same for every attempt to send it."""

    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    key: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The data of a mail that may be logged. ``message_id``: None: ``EMAIL_PROVIDER`` is ``log``; nothing was sent."""

    provider: str
    message_id: str | None

    @property
    def outcome(self) -> str:
        """The text for the log line. It has no address and no part of the mail."""
        return "mail not sent, because EMAIL_PROVIDER is log" if self.message_id is None else "mail sent"


def send(mail: Mail, settings: Settings, *, timeout_seconds: float = 10) -> Receipt:
    """Send by ``EMAIL_PROVIDER``. ``timeout_seconds``: for the connection, and again for the conversation.

    Raises :class:`MailRefusedError` for a permanent failure, :class:`MailError` for other failures, and
    :class:`SettingError` and :class:`~joblane.settings.MissingSettingError` for the settings.
    """
    provider = require(settings, "EMAIL_PROVIDER", f"how mails are sent, one of {', '.join(PROVIDERS)}", "ses")
    if provider not in PROVIDERS:
        raise SettingError("EMAIL_PROVIDER", f"one of {', '.join(PROVIDERS)} is required")
    to = _address(mail.to)
    if to is None:
        raise MailRefusedError("the recipient is not one e-mail address")
    if provider == "log":
        return Receipt(provider, None)
    sender = _sender(settings)
    if provider == "ses":
        return Receipt(provider, _send_ses(mail, sender, to, timeout_seconds))
    message = compose(mail, sender, to)
    if provider == "smtp":
        _send_smtp(message, sender, settings, timeout_seconds)
    else:
        _keep(message, settings)
    return Receipt(provider, message["Message-ID"])


def one_line(value: str, limit: int = 255) -> str:
    """Return text that is safe in a header or a sentence: no line breaks, no control or direction characters.

    Text longer than ``limit`` is cut, with an ellipsis.
    """
    # Cc and Cf: control and format characters, which hide or reverse text; Zl, Zp: line breaks; Cs: surrogates.
    spaced = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in value)
    kept = "".join(char for char in spaced if unicodedata.category(char) not in ("Cf", "Cs"))
    text = " ".join(kept.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def is_one_line(value: str) -> bool:
    """Return true if text is safe in a header or a sentence: visible, on one line, without direction characters."""
    hidden = any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in value if char not in JOINERS)
    return not hidden and one_line(value) != ""


def has_address(value: str) -> bool:
    """Return true if a mail program could show a part of it as a link: ``a@b``, ``https://…``, ``example.com``."""
    return ADDRESS.search(unicodedata.normalize("NFKC", value)) is not None


def compose(mail: Mail, sender: Address, to: Address) -> EmailMessage:
    """Return the message with its headers, the plain text, and the HTML if the mail has one."""
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import format_datetime, localtime

    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = one_line(mail.subject)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{hashlib.sha256(mail.key.encode()).hexdigest()[:32]}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    return message


# --- Addresses -----------------------------------------------------------------------------------------------------


def is_address(value: str) -> bool:
    """Return true if ``value`` is a single bare e-mail address."""
    return _address(value) is not None


def _sender(settings: Settings) -> Address:
    from email.headerregistry import Address
    from email.utils import getaddresses

    value = require(settings, "EMAIL_FROM_ADDRESS", "the sender of mails", "no-reply@example.com")
    (name, bare), *others = getaddresses([value])
    address = _address(bare)
    if address is None or others:
        raise SettingError(
            "EMAIL_FROM_ADDRESS", "an address such as no-reply@example.com or Acme <no-reply@example.com> is required"
        )
    return Address(one_line(name), addr_spec=address.addr_spec)


def _address(value: str) -> Address | None:
    """Return a single bare address with its domain in ASCII. None for anything else, such as lists and line breaks."""
    from email.errors import MessageError
    from email.headerregistry import Address

    user, at, domain = value.strip().rpartition("@")
    if not at or len(value) > LONGEST_ADDRESS or any(char <= " " or char in '<>(),;:"\x7f' for char in value.strip()):
        return None
    try:
        domain = domain.encode("idna").decode("ascii")
        return Address(addr_spec=f"{user}@{domain}")
    except (MessageError, ValueError, IndexError):
        return None


# --- Console -------------------------------------------------------------------------------------------------------


def _keep(message: EmailMessage, settings: Settings) -> None:
    """Write the mail to ``EMAIL_CONSOLE_DIR``, a file per key, readable only by its owner because of tokens."""
    if not (folder := settings.get("EMAIL_CONSOLE_DIR", "").strip()):
        return
    name = message["Message-ID"].strip("<>").partition("@")[0]
    target = Path(folder) / f"{name}.eml"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_bytes(message.as_bytes())
        draft.replace(target)
    except OSError as error:
        raise MailError(f"EMAIL_CONSOLE_DIR: the mail was not written ({error.strerror})") from None


# --- SMTP ----------------------------------------------------------------------------------------------------------


def _send_smtp(message: EmailMessage, sender: Address, settings: Settings, timeout_seconds: float) -> None:
    import smtplib

    host = require(settings, "SMTP_HOST", "the server that takes the mails", "smtp.example.com")
    port = _port(settings)
    connection = None
    # Errors of smtplib contain addresses and the server's text, so only the code is kept, with `from None`.
    try:
        connection = _connected(host, port, sender, timeout_seconds)
        with hang_up_after(timeout_seconds, lambda: connection.sock):
            _log_in(connection, host, settings)
            connection.send_message(message)
            connection.quit()
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        refused = MailRefusedError if all(code >= 500 for code in codes) else MailError
        raise refused(f"SMTP: the recipient was refused ({codes[0]})") from None
    except smtplib.SMTPResponseException as error:
        raise MailError(f"SMTP: {type(error).__name__} ({error.smtp_code})") from None
    except (smtplib.SMTPException, OSError) as error:
        raise MailError(f"SMTP: {type(error).__name__}") from None
    except UnicodeError:
        raise MailRefusedError("SMTP: the server does not support the characters of the address") from None
    finally:
        if connection is not None:
            connection.close()


def _port(settings: Settings) -> int:
    value = settings.get("SMTP_PORT", "").strip() or str(SUBMISSION_PORT)
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
        raise SettingError("SMTP_PORT", "a number from 1 to 65535 is required")
    return int(value)


def _connected(host: str, port: int, sender: Address, timeout_seconds: float) -> smtplib.SMTP:
    """Connect. ``local_hostname`` is given because smtplib would look it up without a timeout."""
    import smtplib
    import ssl

    if port == TLS_PORT:
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(host, port, sender.domain, timeout=timeout_seconds, context=context)
    return smtplib.SMTP(host, port, sender.domain, timeout=timeout_seconds)


def _log_in(connection: smtplib.SMTP, host: str, settings: Settings) -> None:
    """Start verified TLS and log in. Only a server on this machine may have no TLS."""
    import smtplib
    import ssl

    connection.ehlo_or_helo_if_needed()
    secure = isinstance(connection, smtplib.SMTP_SSL)
    if not secure and connection.has_extn("starttls"):
        connection.starttls(context=ssl.create_default_context())
        connection.ehlo()
    elif not secure and host not in LOOPBACK:
        raise MailError("SMTP: the server does not offer STARTTLS, and mail is not sent unencrypted")
    if user := settings.get("SMTP_USER", "").strip():
        password = require(settings, "SMTP_PASSWORD", "the password of SMTP_USER", "…")
        connection.login(user, password)


# --- SES -----------------------------------------------------------------------------------------------------------

PERMANENT_SES_ERRORS = ("MessageRejected", "BadRequestException")
"""Errors because of the recipient or the content. Source: SendEmail, Amazon SES API v2 reference."""
NOT_VERIFIED = (
    "SES: the sender is not verified in this region, or the account is in the SES sandbox and the recipient is not "
    "verified: verify the identity of the sender, and request production access"
)
PAUSED = "SES: sending is paused for this account and region: resume it in the account dashboard of SES"
SUSPENDED = "SES: this account may no longer send mail: answer the case that AWS has opened"
ACCOUNT_ERRORS = {
    "MailFromDomainNotVerifiedException": NOT_VERIFIED,
    "SendingPausedException": PAUSED,
    "AccountSuspendedException": SUSPENDED,
}
ACCOUNT_TEXTS = {"not verified": NOT_VERIFIED, "paused": PAUSED, "suspended": SUSPENDED}
"""Parts of the text of an error that is not because of the mail. Source: Amazon SES, *Email sending errors*."""


@cache
def _ses(timeout_seconds: float) -> SESV2Client:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=timeout_seconds / 4,
        read_timeout=timeout_seconds / 2,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    return boto3.client("sesv2", config=config)


def _send_ses(mail: Mail, sender: Address, to: Address, timeout_seconds: float) -> str:
    """Send, and return SES's message id. The mail is sent in parts: a raw mail would need a second permission."""
    from email.utils import formataddr

    from botocore.exceptions import BotoCoreError, ClientError

    client = _ses(timeout_seconds)
    body: BodyTypeDef = {"Text": {"Data": mail.text, "Charset": "UTF-8"}}
    if mail.html is not None:
        body["Html"] = {"Data": mail.html, "Charset": "UTF-8"}
    try:
        answer = client.send_email(
            FromEmailAddress=formataddr((sender.display_name, sender.addr_spec)),
            Destination={"ToAddresses": [to.addr_spec]},
            Content={"Simple": {"Subject": {"Data": one_line(mail.subject), "Charset": "UTF-8"}, "Body": body}},
        )
    except ClientError as error:
        answered = error.response.get("Error", {})
        raise _ses_error(answered.get("Code", ""), answered.get("Message", "")) from None
    except BotoCoreError as error:
        raise MailError(f"SES: {type(error).__name__}") from None
    return answer["MessageId"]


def _ses_error(code: str, text: str) -> MailError:
    """Return the error for an answer of SES. If the account is at fault and not the mail, a later attempt may succeed.

    SES's text is only searched: it contains addresses.
    """
    sentences = (sentence for part, sentence in ACCOUNT_TEXTS.items() if part in text.lower())
    if sentence := ACCOUNT_ERRORS.get(code) or next(sentences, None):
        return MailError(sentence)
    return (MailRefusedError if code in PERMANENT_SES_ERRORS else MailError)(f"SES: {code}")
