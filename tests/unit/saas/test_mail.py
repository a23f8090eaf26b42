"""The content of mails, and their providers."""

from __future__ import annotations

import stat
import time
import traceback
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from joblane.settings import MissingSettingError
from saas import mail
from saas.errors import MailError, MailRefusedError, SettingError
from saas.mail import Mail, Receipt, one_line, send
from tests.unit.saas.servers import SmtpServer, certificate

PASSWORD = "pa55word"
SECRETS = ("ann@example.org", "t0ken", PASSWORD)
FROM = {"EMAIL_FROM_ADDRESS": "no-reply@example.com"}
CONSOLE = {**FROM, "EMAIL_PROVIDER": "console"}


def a_mail(to: str = "ann@example.org", subject: str = "Hello", key: str = "task-1") -> Mail:
    return Mail(to, subject, "the t0ken\n", "<p>the t0ken</p>", key=key)


def smtp(server: SmtpServer, **more: str) -> dict[str, str]:
    return {"EMAIL_PROVIDER": "smtp", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(server.port), **FROM, **more}


def assert_no_secret_in(error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    # A traceback contains source lines, and the sources contain no secret.
    assert not [secret for secret in SECRETS if secret in text]


# --- Text ----------------------------------------------------------------------------------------------------------


@given(st.text(), st.integers(1, 50))
def test_one_line_returns_a_short_line_without_hidden_characters(value: str, limit: int) -> None:
    line = one_line(value, limit)
    assert len(line) <= limit
    assert line == line.strip()
    assert line.splitlines() in ([], [line])
    assert line.encode().decode() == line


def test_characters_that_reverse_or_hide_text_are_removed() -> None:
    assert one_line("a\u202ecod\u2066\u200b.exe\x00 \u2028b") == "acod.exe b"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@example.org, eve@example.org",
        "ann@example.org\r\nBcc: eve@example.org",
        "Ann <ann@example.org>",
        "ann example@example.org",
        "ann@exam ple.org",
        "a" * 250 + "@example.org",
        "ann@" + "a" * 64 + ".org",
        '"ann"@example.org',
    ],
)
def test_anything_but_a_single_bare_address_is_refused_permanently(address: str) -> None:
    with pytest.raises(MailRefusedError):
        send(a_mail(to=address), CONSOLE)


@pytest.mark.parametrize(
    ("sent", "settings", "headers"),
    [
        (
            a_mail(subject="Acme\r\nBcc: eve@example.org\r\n\r\nbody"),
            {},
            {"Subject": "Acme Bcc: eve@example.org body", "Bcc": None},
        ),
        (a_mail(to="ann@bücher.example"), {}, {"To": "ann@xn--bcher-kva.example"}),
        (a_mail(), {"EMAIL_FROM_ADDRESS": "Söhne <a@example.com>"}, {"From": "Söhne <a@example.com>"}),
    ],
    ids=["a line break adds no header", "a domain outside of ASCII is encoded", "a sender may have a name"],
)
def test_the_headers_of_a_mail_are_safe(
    sent: Mail, settings: dict[str, str], headers: dict[str, str | None], tmp_path: Path
) -> None:
    send(sent, {**CONSOLE, "EMAIL_CONSOLE_DIR": str(tmp_path), **settings})
    (file,) = tmp_path.iterdir()
    message = message_from_bytes(file.read_bytes(), policy=default)
    assert {name: message[name] for name in headers} == headers


# --- Settings ------------------------------------------------------------------------------------------------------

SMTP = {**FROM, "EMAIL_PROVIDER": "smtp"}


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (FROM, MissingSettingError, "EMAIL_PROVIDER is not set"),
        ({"EMAIL_PROVIDER": "console"}, MissingSettingError, "EMAIL_FROM_ADDRESS is not set"),
        *(
            ({"EMAIL_PROVIDER": "console", "EMAIL_FROM_ADDRESS": sender}, SettingError, "EMAIL_FROM_ADDRESS: an addr")
            for sender in ("no-reply", "a@example.com, b@example.com", "Acme <no-reply>")
        ),
        ({"EMAIL_PROVIDER": "pigeon"}, SettingError, "EMAIL_PROVIDER: one of console, smtp, ses, log"),
        (SMTP, MissingSettingError, "SMTP_HOST"),
        ({**SMTP, "SMTP_HOST": "localhost", "SMTP_PORT": "smtp"}, SettingError, "SMTP_PORT"),
    ],
)
def test_a_missing_or_invalid_setting_is_named(settings: dict[str, str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        send(a_mail(), settings)


# --- Console -------------------------------------------------------------------------------------------------------


def test_the_console_writes_a_private_file_per_key(tmp_path: Path) -> None:
    settings = {**CONSOLE, "EMAIL_CONSOLE_DIR": str(tmp_path / "mails")}
    first, again = send(a_mail(), settings), send(a_mail(), settings)
    other = send(a_mail(key="task-2"), settings)
    assert first == again
    assert first.message_id != other.message_id
    files = list((tmp_path / "mails").iterdir())
    assert len(files) == 2
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 and file.suffix == ".eml" for file in files)
    message = message_from_bytes(files[0].read_bytes(), policy=default)
    assert message["Auto-Submitted"] == "auto-generated"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().strip() == "the t0ken"
    assert html.get_content().strip() == "<p>the t0ken</p>"


def test_the_console_without_a_folder_writes_nothing_and_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    receipt = send(a_mail(), CONSOLE)
    assert receipt.provider == "console"
    assert not any(secret in repr((receipt, a_mail())) for secret in SECRETS)
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_fails_the_mail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MailError, match="EMAIL_CONSOLE_DIR"):
        send(a_mail(), {**CONSOLE, "EMAIL_CONSOLE_DIR": str(tmp_path / "file")})


# --- Log -----------------------------------------------------------------------------------------------------------


def test_the_provider_log_sends_nothing_and_needs_no_sender(capsys: pytest.CaptureFixture[str]) -> None:
    receipt = send(a_mail(), {"EMAIL_PROVIDER": "log"})
    assert receipt == Receipt("log", None)
    assert receipt.outcome == "mail not sent, because EMAIL_PROVIDER is log"
    assert capsys.readouterr() == ("", "")
    with pytest.raises(MailRefusedError):
        send(a_mail(to="ann"), {"EMAIL_PROVIDER": "log"})


# --- SMTP ----------------------------------------------------------------------------------------------------------


def test_smtp_logs_in_and_sends_inside_of_starttls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, context = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with SmtpServer(tls=context).running() as server:
        receipt = send(a_mail(), smtp(server, SMTP_USER="joblane", SMTP_PASSWORD=PASSWORD))
    assert server.sent["To"] == "ann@example.org"
    assert server.sent["Message-ID"] == receipt.message_id
    assert server.commands[:2] == ["ehlo example.com", "STARTTLS"]
    assert [line.split()[0] for line in server.commands[2:]] == ["+ehlo", "+AUTH", "+mail", "+rcpt", "+data", "+quit"]


def test_smtp_starts_with_tls_on_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, context = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with SmtpServer(tls=context, implicit=True).running() as server:
        monkeypatch.setattr(mail, "TLS_PORT", server.port)
        send(a_mail(), smtp(server))
    assert all(line.startswith("+") for line in server.commands)
    assert server.sent["Subject"] == "Hello"


@pytest.mark.parametrize("names", [("127.0.0.1",), ("smtp.example.net",)], ids=["not trusted", "another name"])
def test_smtp_sends_nothing_to_an_unverified_server(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = certificate(tmp_path, *names)
    if names != ("127.0.0.1",):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with (
        SmtpServer(tls=context).running() as server,
        pytest.raises(MailError, match="SSLCertVerificationError") as raised,
    ):
        send(a_mail(), smtp(server, SMTP_USER="joblane", SMTP_PASSWORD=PASSWORD))
    assert server.commands == ["ehlo example.com", "STARTTLS"]
    assert_no_secret_in(raised.value)


def test_smtp_without_tls_is_only_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer().running() as server:
        send(a_mail(), smtp(server))
        assert len(server.mails) == 1
        monkeypatch.setattr(mail, "LOOPBACK", ())
        with pytest.raises(MailError, match="does not offer STARTTLS"):
            send(a_mail(), smtp(server))
        assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("answer", "error"), [("550 no ann@example.org here", MailRefusedError), ("450 ann@example.org later", MailError)]
)
def test_a_refused_recipient_is_final_only_for_a_permanent_status(answer: str, error: type[MailError]) -> None:
    with SmtpServer(recipient_answer=answer).running() as server, pytest.raises(MailError) as raised:
        send(a_mail(), smtp(server))
    assert type(raised.value) is error
    assert str(raised.value) == f"SMTP: the recipient was refused ({answer[:3]})"
    assert_no_secret_in(raised.value)


def test_a_connection_to_a_server_that_sends_single_bytes_is_closed_in_time() -> None:
    with SmtpServer(drips=True).running() as server:
        started = time.monotonic()
        with pytest.raises(MailError):
            send(a_mail(), smtp(server), timeout_seconds=0.5)
        assert time.monotonic() - started < 30


def test_an_unreachable_server_fails_the_mail() -> None:
    with SmtpServer().running() as server:
        pass
    with pytest.raises(MailError, match="ConnectionRefusedError"):
        send(a_mail(), smtp(server))


# --- SES -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("aws")
def test_ses_receives_the_parts_of_the_mail() -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.sesv2.models import sesv2_backends

    boto3.client("sesv2").create_email_identity(EmailIdentity=FROM["EMAIL_FROM_ADDRESS"])
    receipt = send(a_mail(subject="Hello\r\nBcc: eve@example.org"), {**FROM, "EMAIL_PROVIDER": "ses"})
    assert receipt.provider == "ses"
    (sent,) = sesv2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].core_backend.sent_messages
    assert sent.id == receipt.message_id
    assert sent.subject == "Hello Bcc: eve@example.org"
    assert sent.destinations["ToAddresses"] == ["ann@example.org"]


@pytest.fixture
def ses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """SES that answers as the test says."""
    client = boto3.client("sesv2", "eu-central-1", aws_access_key_id="test", aws_secret_access_key="test")
    monkeypatch.setattr(mail, "_ses", lambda _: client)
    with Stubber(client) as stubber:
        yield stubber


REJECTED = "MessageRejected"
FAILED_CHECK = (
    "Email address is not verified. The following identities failed the check in region EU-CENTRAL-1: ann@example.org"
)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (REJECTED, "Email contains a virus, ann@example.org"),
        ("BadRequestException", "Illegal address: ann@example.org"),
    ],
)
def test_a_rejection_of_the_mail_by_ses_is_final(code: str, text: str, ses: Stubber) -> None:
    ses.add_client_error("send_email", code, text)
    with pytest.raises(MailRefusedError) as raised:
        send(a_mail(), {**FROM, "EMAIL_PROVIDER": "ses"})
    assert str(raised.value) == f"SES: {code}"
    assert_no_secret_in(raised.value)


@pytest.mark.parametrize(
    ("code", "text", "says"),
    [
        (REJECTED, FAILED_CHECK, "verify the identity of the sender, and request production access"),
        ("MailFromDomainNotVerifiedException", "", "verify the identity of the sender"),
        ("SendingPausedException", "ann@example.org", "sending is paused for this account and region"),
        (REJECTED, "Account is paused.", "sending is paused for this account and region"),
        ("AccountSuspendedException", "", "this account may no longer send mail"),
        (REJECTED, "Sending suspended for this account.", "this account may no longer send mail"),
        ("TooManyRequestsException", "Daily message quota exceeded", "SES: TooManyRequestsException"),
    ],
)
def test_a_problem_of_the_account_is_retried_with_what_to_do(code: str, text: str, says: str, ses: Stubber) -> None:
    for _ in range(2):  # the client repeats a throttled call
        ses.add_client_error("send_email", code, text, http_status_code=400)
    with pytest.raises(MailError, match=says) as raised:
        send(a_mail(), {**FROM, "EMAIL_PROVIDER": "ses"})
    assert type(raised.value) is MailError
    assert_no_secret_in(raised.value)


def test_an_unreachable_ses_fails_the_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    mail._ses.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(MailError, match="SES: EndpointConnectionError"):
        send(a_mail(), {**FROM, "EMAIL_PROVIDER": "ses"})
    mail._ses.cache_clear()
