"""Small servers for a test, for SMTP and HTTP, and certificates that a test can trust."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

# --- Certificates --------------------------------------------------------------------------------------------------


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """Create a self-signed certificate for names and addresses. Return its file and a server context with it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(item) for item in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


def _general(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- SMTP ----------------------------------------------------------------------------------------------------------


@dataclass
class SmtpServer:
    """A server that accepts mails. ``tls``: it offers STARTTLS, or starts with TLS if ``implicit``."""

    tls: ssl.SSLContext | None = None
    implicit: bool = False
    recipient_answer: str = "250 ok"
    drips: bool = False
    """The server sends its greeting, then single bytes without end."""
    port: int = 0
    commands: list[str] = field(default_factory=list)
    """The received commands, with a ``+`` in front of those inside TLS."""
    mails: list[EmailMessage] = field(default_factory=list)

    @property
    def sent(self) -> EmailMessage:
        (mail,) = self.mails
        return mail

    @contextmanager
    def running(self) -> Iterator[SmtpServer]:
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError), ExitStack() as opened:
                    outer._talk(self.request, opened)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            with served(server):
                yield self

    def _talk(self, talk: socket.socket, opened: ExitStack) -> None:
        secure = False
        if self.tls and self.implicit:
            talk, secure = opened.enter_context(self.tls.wrap_socket(talk, server_side=True)), True
        file = opened.enter_context(talk.makefile("rb"))

        def say(*lines: str) -> None:
            talk.sendall("".join(f"{line}\r\n" for line in lines).encode())

        say("220 test")
        while line := file.readline():
            command = line.decode().strip()
            self.commands.append(f"+{command}" if secure else command)
            verb = command.split()[0].upper()
            if self.drips:
                while True:
                    talk.sendall(b"2")
                    time.sleep(0.05)
            elif verb == "EHLO":
                offers = ["AUTH PLAIN"] + (["STARTTLS"] if self.tls and not secure else [])
                say(*[f"250-{offer}" for offer in ["test", *offers]], "250 8BITMIME")
            elif verb == "STARTTLS" and self.tls:
                say("220 go on")
                talk, secure = opened.enter_context(self.tls.wrap_socket(talk, server_side=True)), True
                file = opened.enter_context(talk.makefile("rb"))
            elif verb == "AUTH":
                say("235 ok")
            elif verb == "RCPT":
                say(self.recipient_answer)
            elif verb == "DATA":
                say("354 go on")
                lines: list[bytes] = []
                while (text := file.readline()) not in (b".\r\n", b""):
                    lines.append(text)
                self.mails.append(message_from_bytes(b"".join(lines), policy=default))
                say("250 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


# --- HTTP ----------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: bytes = b"{}", **headers: str) -> Answer:
    """Return an answer with the status ``code``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class HttpServer:
    """A service. ``answers``: an answer per request; the last one repeats."""

    answers: list[Answer] = field(default_factory=lambda: [status(200)])
    tls: ssl.SSLContext | None = None
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    protocol: str = "HTTP/1.0"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[HttpServer]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append(Request(self.path, dict(self.headers.items()), body))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                try:
                    answer(self)
                except OSError:
                    self.close_connection = True

            do_GET = do_PUT = do_POST  # noqa: N815 - the names in http.server
            protocol_version = outer.protocol

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        with Server(("127.0.0.1", 0), Handler) as server:
            if self.tls:
                server.socket = self.tls.wrap_socket(server.socket, server_side=True)
            self.port = server.server_address[1]
            with served(server):
                yield self
