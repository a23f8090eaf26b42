"""The login to a real PostgreSQL: certificates and host names are checked, a rotated secret is read again."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from threading import Thread
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto import mock_aws
from sqlalchemy.util import greenlet_spawn

from joblane import secret_values
from joblane.local.ports import free_port
from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.event_loop import process_loop
from joblane.record.driver.login import LoginError
from joblane.secret_values import fetch
from tests.conftest import administer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from joblane.local.postgres import Postgres

Make = Callable[[str, str], Database]
Ask = Callable[..., list[list[Any]]]
"""Runs a statement on a connection of one of the drivers."""
NAMED, UNNAMED = "127.0.0.2", "127.0.0.3"
"""Addresses of this machine for which TLS is required. The certificate is for the first."""


@pytest.fixture(scope="module")
def tls(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Yield a port that accepts only TLS, as RDS does, and forwards to PostgreSQL; and the file of its authority."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "server.crt", folder / "server.key"
    _sign(certificate, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with ExitStack() as listening:
        port = free_port()
        for address in (NAMED, UNNAMED):
            try:
                listener = listening.enter_context(socket.create_server((address, port)))
            except OSError:
                pytest.skip(f"{address} is no address of this machine")
            Thread(target=_accept, args=(listener, context, postgres.port), daemon=True).start()
        yield port, certificate


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):  # closed at the end of the tests
        while True:
            Thread(target=_forward, args=(listener.accept()[0], context, port), daemon=True).start()


def _forward(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """Source of the request and its answer: PostgreSQL, *Message Flow*, SSL session encryption."""
    with suppress(OSError), plain:
        assert plain.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
        plain.sendall(b"S")
        with (
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            Thread(target=_pump, args=(server, client), daemon=True).start()
            _pump(client, server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def _sign(certificate: Path, key: Path) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Acme")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, own.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(NAMED))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(own, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(own.private_bytes(*form))


@pytest.fixture
def at(postgres: Postgres, tls: tuple[int, Path]) -> Iterator[Callable[[str, str], Database]]:
    """Return a database by the host and the query of its URL."""
    with ExitStack() as opened:

        def make(host: str, query: str) -> Database:
            database = Database(postgres.url.replace(f"127.0.0.1:{postgres.port}", f"{host}:{tls[0]}") + query)
            opened.callback(database.close)
            return database

        yield make


def by_pg8000(database: Database, sql: str = "select 1") -> list[list[Any]]:
    return database.get().run(sql)


def by_asyncpg(database: Database, sql: str = "select 1") -> list[list[Any]]:
    return process_loop.run(lambda: greenlet_spawn(lambda: database.asynchronous.get().run(sql)))


@pytest.fixture(params=[by_pg8000, by_asyncpg])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


def test_a_server_with_a_known_certificate_and_name_is_accepted(at: Make, tls: tuple[int, Path], ask: Ask) -> None:
    assert ask(at(NAMED, f"?sslrootcert={tls[1]}")) == [[1]]


def test_a_server_under_another_name_is_refused(at: Make, tls: tuple[int, Path], ask: Ask) -> None:
    with pytest.raises(OSError, match="IP address mismatch") as caught:
        ask(at(UNNAMED, f"?sslrootcert={tls[1]}"))
    assert is_unavailable(caught.value)


def test_a_server_of_an_unknown_authority_is_refused(at: Make, ask: Ask) -> None:
    with pytest.raises(OSError, match="self-signed certificate"):
        ask(at(NAMED, ""))


def test_a_server_without_tls_is_refused_before_a_password_is_sent(postgres: Postgres, ask: Ask) -> None:
    """The host name is not a loopback name, although it is this machine."""
    with pytest.raises(Exception, match="SSL") as caught:
        ask(Database(postgres.url.replace("127.0.0.1", "0x7f000001")))
    assert is_unavailable(caught.value)


def test_a_rotated_secret_is_read_again_within_the_same_call(
    postgres: Postgres, tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    port, authority = tls
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    administer(postgres, "create role rotating login password 'one'")
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        secrets.create_secret(Name="acme", SecretString=json.dumps({"username": "rotating", "password": "one"}))
        database = Database(f"postgresql://{NAMED}:{port}/joblane?secret=acme&sslrootcert={authority}")
        assert ask(database, "select current_user::text") == [["rotating"]]

        administer(postgres, "alter role rotating password 'two'")
        secrets.put_secret_value(SecretId="acme", SecretString=json.dumps({"username": "rotating", "password": "two"}))
        database.close()
        assert ask(database, "select current_user::text") == [["rotating"]]

        administer(postgres, "alter role rotating password 'three'")
        database.close()
        with pytest.raises(LoginError, match=r"refuses the login: .*28P01\); check the secret") as caught:
            ask(database)
        assert is_unavailable(caught.value)
    administer(postgres, "drop role rotating")


def test_a_url_in_a_secret_is_read_once_and_again_after_a_rotation(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a secret with the whole URL
    def put(password: str) -> None:
        administer(postgres, f"alter role moving password '{password}'")
        url = f"postgresql://moving:{password}@127.0.0.1:{postgres.port}/joblane"
        secrets.put_secret_value(SecretId="url", SecretString=f"{url}\n")

    def count(secret: str) -> str:
        read.append(secret)
        return fetch(secret)

    read: list[str] = []
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setattr(secret_values, "_kept", {})
    monkeypatch.setattr(secret_values, "fetch", count)
    administer(postgres, "create role moving login")
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        secrets.create_secret(Name="url")
        put("one")
        # when both connections of a process are opened
        database = Database("postgresql:///?secret=url")
        second = database.another()
        for each in (database, second, database, second):
            assert each.get().run("select current_user::text") == [["moving"]]
            each.drop()
        # then the secret is read once, and once more after the password was changed
        assert read == ["url"]
        put("two")
        assert database.get().run("select current_user::text") == [["moving"]]
        assert read == ["url"] * 2
        database.drop()
    administer(postgres, "drop role moving")


def test_a_server_that_accepts_a_connection_and_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a paused server during its start."""
    monkeypatch.setattr("joblane.record.driver.database.CONNECT_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as sleeping, pytest.raises(OSError, match="timed out") as caught:
        Database(f"postgresql://jobs:x@127.0.0.1:{sleeping.getsockname()[1]}/acme").get()
    assert is_unavailable(caught.value)
