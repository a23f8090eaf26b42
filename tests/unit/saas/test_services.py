"""Calls of services: the request, valid answers, and allowed addresses."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import UUID

import pytest

from saas import services
from saas.errors import PlatformError, ServiceError, SettingError
from saas.tenants import Tenant
from tests.unit.saas.servers import HttpServer, certificate, status

TENANT = Tenant(
    UUID(int=1), "Acme", "acme", "pending", {"plan": "pro", "seats": 3}, datetime(2026, 11, 24, 12, tzinfo=UTC)
)
SECRET = "5ecret"
LOCAL = {"JOBLANE_STAGE": "local", "TENANT_INIT_SECRET": SECRET}


def call(url: str, settings: dict[str, str] | None = None, *, seconds: float = 5) -> int:
    settings = LOCAL if settings is None else settings
    (service,) = services.configured({"TENANT_INIT_SERVICES": url})
    return services.initialize(service, TENANT, settings, key="task-1", timeout_seconds=seconds)


# --- The call ------------------------------------------------------------------------------------------------------


def test_a_service_receives_the_tenant_a_key_and_the_secret() -> None:
    with HttpServer([status(201)]).running() as server:
        assert call(f"{server.url}/base/") == 201
    (request,) = server.requests
    assert request.path == "/base/api/v1/tenants/initialize"
    assert request.json == {
        "tenant_id": "00000000-0000-0000-0000-000000000001",
        "tenant_name": "Acme",
        "tenant_slug": "acme",
        "metadata": {"plan": "pro", "seats": 3},
        "created_at": "2026-11-24T12:00:00+00:00",
    }
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Idempotency-Key"] == "task-1"
    assert request.headers["X-Joblane-Secret"] == SECRET
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("code", [304, 400, 404, 500, 503])
def test_a_status_outside_of_2xx_fails_and_the_answer_is_not_shown(code: int) -> None:
    answer = status(code, b"" if code == 304 else b"the answer")
    with HttpServer([answer]).running() as server, pytest.raises(ServiceError) as raised:
        call(server.url)
    assert str(raised.value) == f"{server.url}: answered with status {code}"


def test_a_redirect_is_not_followed() -> None:
    with HttpServer().running() as other, HttpServer().running() as server:
        server.answers = [status(307, Location=other.url)]
        with pytest.raises(ServiceError, match="status 307"):
            call(server.url)
    assert other.requests == []


def test_only_a_part_of_an_endless_answer_is_read() -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent += handler.wfile.write(b"x" * 65536)

    with HttpServer([endless]).running() as server:
        assert call(server.url) == 200
    assert sent < 64 * 1024 * 1024


def drip(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"H")
        time.sleep(0.02)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_call_ends_in_time_while_bytes_keep_coming(
    secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with HttpServer([drip], tls=context if secure else None).running() as server:
        started = time.monotonic()
        with pytest.raises(ServiceError, match="no answer"):
            call(server.url, seconds=0.5)
        assert time.monotonic() - started < 30


def test_an_unreachable_service_and_an_invalid_answer_count_as_no_answer() -> None:
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"nonsense\r\n\r\n")

    with (
        HttpServer([nonsense]).running() as server,
        pytest.raises(ServiceError, match=r"no answer \(BadStatusLine\)"),
    ):
        call(server.url)
    with pytest.raises(ServiceError, match=r"no answer \(ConnectionRefusedError\)"):
        call(server.url)


def test_without_time_left_no_service_is_called() -> None:
    with HttpServer().running() as server, pytest.raises(ServiceError, match="no time left"):
        call(server.url, seconds=-1)
    assert server.requests == []


@pytest.mark.parametrize("name", ["127.0.0.1", "billing.example.com"])
def test_tls_is_verified_against_the_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, context = certificate(tmp_path, name)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with HttpServer(tls=context).running() as server:
        if name == "127.0.0.1":
            assert call(server.url) == 200
        else:
            with pytest.raises(ServiceError, match=r"no answer \(SSLCertVerificationError\)"):
                call(server.url)


# --- The secret ----------------------------------------------------------------------------------------------------


def test_the_secret_is_not_sent_unencrypted() -> None:
    with pytest.raises(ServiceError, match="only sent by https"):
        call("http://billing.example.com", {"TENANT_INIT_SECRET": SECRET})


@pytest.mark.parametrize("secret", ["5ecret\r\nX-Other: 1", "5ecrét", "5ecret\x00"])
def test_a_secret_that_no_header_accepts_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(SettingError, match="TENANT_INIT_SECRET") as raised:
        call("https://billing.example.com", {"TENANT_INIT_SECRET": secret})
    assert "5ecr" not in str(raised.value)


def test_without_a_secret_there_is_no_header() -> None:
    with HttpServer().running() as server:
        call(server.url, {"JOBLANE_STAGE": "local"})
    assert "X-Joblane-Secret" not in server.requests[0].headers


# --- Addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("0.0.0.0", True),
        ("0.1.2.3", True),
        ("169.254.169.254", True),
        ("169.254.170.2", True),
        ("224.0.0.1", True),
        ("255.255.255.255", True),
        ("::1", True),
        ("::", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("::ffff:169.254.169.254", True),
        ("::127.0.0.1", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:7f00:1::", True),
        ("10.0.0.5", False),
        ("172.31.0.2", False),
        ("192.168.1.1", False),
        ("fd12:3456::1", False),
        ("93.184.216.34", False),
        ("2606:4700::1111", False),
        ("64:ff9b::a00:5", False),
    ],
)
def test_addresses_of_this_machine_and_its_metadata_are_recognised(address: str, own: bool) -> None:
    assert services.is_own(address) is own


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "169.254.169.254"])
def test_only_a_local_stage_calls_this_machine(host: str) -> None:
    with HttpServer().running() as server, pytest.raises(ServiceError, match="this machine or its metadata"):
        call(f"http://{host}:{server.port}", {})
    assert server.requests == []


def test_a_name_with_one_bad_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(ServiceError, match="this machine or its metadata"):
        call("http://rebind.example.com", {})


def test_the_connection_is_made_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, connected = [], []

    def answer(host: str, *_: object, **__: object) -> list[object]:
        resolved.append(host)
        return [(2, 1, 6, "", ("93.184.216.34", 80))]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ServiceError, match="no answer"):
        call("http://billing.example.com", {})
    assert resolved == ["billing.example.com"]
    assert connected == [("93.184.216.34", 80)]


# --- Settings ------------------------------------------------------------------------------------------------------


def test_services_are_a_list_without_duplicates() -> None:
    found = services.configured(
        {"TENANT_INIT_SERVICES": " https://a.example.com/ ,,http://b.example.com:8080/x,https://a.example.com:443,"}
    )
    assert [str(service) for service in found] == ["https://a.example.com", "http://b.example.com:8080/x"]
    assert services.configured({}) == []
    assert [str(item) for item in services.configured({"TENANT_INIT_SERVICES": "http://[fd12::1]:81"})] == [
        "http://[fd12::1]:81"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "billing.example.com",
        "ftp://billing.example.com",
        "https://",
        "https://user:5ecret@billing.example.com",
        "https://billing.example.com?key=5ecret",
        "https://billing.example.com/#5ecret",
        "https://billing.example.com:5ecret",
        "https://billing.example.com/5ecret x",
        "https://[5ecret",
        "https://" + "5ecret" * 20 + ".example.com",
    ],
)
def test_an_invalid_address_is_named_by_its_number_and_not_shown(url: str) -> None:
    with pytest.raises(SettingError, match="TENANT_INIT_SERVICES: entry 2") as raised:
        services.configured({"TENANT_INIT_SERVICES": f"https://a.example.com,{url}"})
    assert "5ecret" not in str(raised.value)
    assert isinstance(raised.value, PlatformError)
