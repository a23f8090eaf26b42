"""The requests of the sender are those of boto3, byte for byte, with every setting that boto3 heeds."""

from __future__ import annotations

import datetime
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import urllib3.connection
from botocore import auth
from botocore.endpoint import Endpoint

from joblane.sqs import sender
from joblane.sqs.client import Sqs
from joblane.sqs.sender import Sender
from tests.unit.sqs.conftest import OPERATIONS

START = datetime.datetime(2026, 3, 1, 23, 59, 59)  # noqa: DTZ001 - botocore's times have no zone
KEYS = "http://127.0.0.1:8080/keys"
HTTP_LOCAL = {"AWS_ENDPOINT_URL": "http://sqs.local:4566"}
OLDER = "ssl_wrap_socket"
HANDSHAKE = OLDER if version("urllib3").startswith("1.") else "_ssl_wrap_socket_and_match_hostname"
CLOSING = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: "


@dataclass
class Exchange:
    """A connection and what was sent over it. ``address``, ``timeout``, ``options``: of the socket. ``tls``: settings
    of each handshake. ``timeouts``: those set later, for reads.
    """

    address: tuple[str, int]
    timeout: float | None
    options: Any
    tls: list[dict[str, Any]] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    data: bytes = b""


class Socket:
    """An end of a connection to a server that accepts every message, and closes the connection."""

    def __init__(self, network: Network, exchange: Exchange) -> None:
        self._network, self._exchange = network, exchange
        self._last = b""

    def sendall(self, data: bytes) -> None:
        self._last = data
        self._exchange.data += data

    def makefile(self, *_: Any) -> BytesIO:
        return BytesIO(self._network.reply(self._last))

    def getpeercert(self) -> dict[str, str]:
        return {"subjectAltName": "any"}

    def settimeout(self, seconds: float | None) -> None:
        self._exchange.timeouts.append(seconds)

    def close(self) -> None: ...

    def shutdown(self, _: int) -> None: ...


class Network:
    """Replaces the network. Every request has a connection of its own. ``key``: what the keys' server returns."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.now = START
        self.key = "AKIDFIRST"

    def connect(
        self, address: tuple[str, int], timeout: Any, source_address: Any = None, socket_options: Any = None
    ) -> Socket:
        exchange = Exchange(address, timeout, socket_options)
        self.exchanges.append(exchange)
        return Socket(self, exchange)

    def handshake(self, sock: Any, *, ssl_context: Any, **settings: Any) -> Any:
        context = ssl_context and (ssl_context.verify_mode, ssl_context.check_hostname, ssl_context.options)
        sock._exchange.tls.append({**settings, "context": context})
        if HANDSHAKE == OLDER:
            return sock
        return urllib3.connection._WrappedAndVerifiedSocket(sock, is_verified=True)

    def reply(self, request: bytes) -> bytes:
        if request.startswith(b"CONNECT"):
            return b"HTTP/1.1 200 OK\r\n\r\n"
        if request.startswith(b"GET"):
            ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
            keys = {
                "AccessKeyId": self.key,
                "SecretAccessKey": f"of {self.key}",
                "Token": f"{self.key}/token",
                "Expiration": ends,
            }
            body = json.dumps(keys)
        else:
            body = json.dumps({"Successful": []} if b"SendMessageBatch" in request else {"MessageId": "1"})
        return f"{CLOSING}{len(body)}\r\n\r\n{body}".encode()

    def sent_by(self, send: Callable[..., object], *arguments: object) -> list[Exchange]:
        """Return the exchanges of a send, without those that fetch keys."""
        self.exchanges.clear()
        send(*arguments)
        return [one for one in self.exchanges if not one.data.startswith(b"GET")]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network without sockets, on a clock that stands until the test sets it. A day has one invocation id."""
    network = Network()
    real = time.gmtime
    monkeypatch.setattr("urllib3.util.connection.create_connection", network.connect)
    monkeypatch.setattr(urllib3.connection, HANDSHAKE, network.handshake)
    if HANDSHAKE == OLDER:
        monkeypatch.setattr(urllib3.connection, "_match_hostname", lambda *_: None)
    monkeypatch.setattr(auth, "get_current_datetime", lambda **_: network.now)
    monkeypatch.setattr(time, "gmtime", lambda *when: real(*when) if when else network.now.timetuple())
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=network.now.day))
    monkeypatch.setattr(sender, "_uuid", lambda: str(uuid.uuid4()))
    return network


@dataclass(frozen=True)
class Setting:
    """``env``: variables, with ``{folder}`` for a folder that has the file ``config``. ``later``: variables that change
    after boto3's first request. ``host``, ``port``: those that must be connected to. ``has``: what the request, or the
    TLS settings, must have. ``lacks``: variables to remove.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    host: str = "sqs.eu-west-1.amazonaws.com"
    port: int = 443
    has: tuple[str, ...] = ()
    config: str = ""
    later: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


NO_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TRACE = {"AWS_LAMBDA_FUNCTION_NAME": "f", "_X_AMZN_TRACE_ID": "Root=1-first;Sampled=1"}
SETTINGS = {
    "a region": Setting(has=("Host: sqs.eu-west-1.amazonaws.com\r\n", "CERT_REQUIRED")),
    "a region of the GovCloud": Setting({"AWS_DEFAULT_REGION": "us-gov-west-1"}, "sqs.us-gov-west-1.amazonaws.com"),
    "a region in China": Setting({"AWS_DEFAULT_REGION": "cn-north-1"}, "sqs.cn-north-1.amazonaws.com.cn"),
    "a region by the variable of other SDKs": Setting({"AWS_REGION": "us-west-2"}, "sqs.us-west-2.amazonaws.com"),
    "an isolated region": Setting({"AWS_DEFAULT_REGION": "us-iso-east-1"}, "sqs.us-iso-east-1.c2s.ic.gov"),
    "an endpoint": Setting(HTTP_LOCAL, "sqs.local", 4566, ("Host: sqs.local:4566\r\n",)),
    "an endpoint of SQS": Setting({"AWS_ENDPOINT_URL": "http://no", "AWS_ENDPOINT_URL_SQS": "http://yes"}, "yes", 80),
    "an endpoint with the default port": Setting({"AWS_ENDPOINT_URL": "http://sqs.local:80"}, "sqs.local", 80),
    "a TLS endpoint with the default port": Setting({"AWS_ENDPOINT_URL": "https://sqs.local:443"}, "sqs.local"),
    "a TLS endpoint with a port": Setting({"AWS_ENDPOINT_URL": "https://sqs.local:8443"}, "sqs.local", 8443),
    "an endpoint in capitals": Setting({"AWS_ENDPOINT_URL": "http://SQS.Local:4566"}, "sqs.local", 4566),
    "an endpoint by IPv6": Setting({"AWS_ENDPOINT_URL": "http://[::1]:4566"}, "::1", 4566, ("Host: [::1]:4566\r\n",)),
    "an endpoint with a path": Setting(
        {"AWS_ENDPOINT_URL": "http://sqs.local:4566/base/path"}, "sqs.local", 4566, ("POST /base/path",)
    ),
    "an endpoint that ends in a slash": Setting({"AWS_ENDPOINT_URL": "http://sqs.local/"}, "sqs.local", 80),
    "an endpoint of a profile": Setting(
        {"AWS_PROFILE": "p"},
        "sqs.local",
        4567,
        config="[profile p]\nservices = s\n[services s]\nsqs =\n  endpoint_url = http://sqs.local:4567\n",
    ),
    "endpoints that are ignored": Setting({**HTTP_LOCAL, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}),
    "keys and region of a profile": Setting(
        {"AWS_PROFILE": "p"},
        "sqs.us-west-2.amazonaws.com",
        has=("Credential=AKIDPROFILE/", "/us-west-2/sqs/"),
        config="[profile p]\nregion = us-west-2\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = other\n",
        lacks=(*NO_KEYS, "AWS_DEFAULT_REGION"),
    ),
    "dual-stack": Setting({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sqs.eu-west-1.api.aws"),
    "dual-stack of a profile": Setting(
        {"AWS_PROFILE": "p"}, "sqs.eu-west-1.api.aws", config="[profile p]\nuse_dualstack_endpoint = true\n"
    ),
    "FIPS": Setting(
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_DEFAULT_REGION": "us-east-1"}, "sqs-fips.us-east-1.amazonaws.com"
    ),
    "FIPS of a profile": Setting(
        {"AWS_PROFILE": "p", "AWS_DEFAULT_REGION": "us-east-1"},
        "sqs-fips.us-east-1.amazonaws.com",
        config="[profile p]\nuse_fips_endpoint = true\n",
    ),
    "FIPS and dual-stack": Setting(
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_DEFAULT_REGION": "us-east-1"},
        "sqs-fips.us-east-1.api.aws",
    ),
    "a proxy": Setting(
        {"HTTPS_PROXY": "http://proxy:3128"},
        "proxy",
        3128,
        ("CONNECT sqs.eu-west-1.amazonaws.com:443", "'server_hostname': 'sqs.eu-west-1.amazonaws.com'"),
    ),
    "a proxy with a password": Setting(
        {"HTTPS_PROXY": "http://user:p%40ss@proxy:3128"}, "proxy", 3128, ("Proxy-Authorization: Basic ",)
    ),
    "a proxy without a scheme": Setting({"https_proxy": "proxy:3128"}, "proxy", 3128, ("CONNECT sqs",)),
    "a proxy over TLS": Setting(
        {"HTTPS_PROXY": "https://proxy:3129"}, "proxy", 3129, ("'server_hostname': 'proxy'", "'tls_in_tls': True")
    ),
    "a proxy that forwards": Setting(
        {**HTTP_LOCAL, "HTTP_PROXY": "http://user:pass@proxy:3128"},
        "proxy",
        3128,
        ("POST http://sqs.local:4566/ HTTP/1.1", "Host: sqs.local:4566\r\n", "Proxy-Authorization: Basic "),
    ),
    "a proxy for other hosts": Setting({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".amazonaws.com"}),
    "a CA bundle": Setting({"AWS_CA_BUNDLE": "{folder}/ca.pem"}, has=("/ca.pem'", "CERT_REQUIRED")),
    "a CA bundle of a profile": Setting(
        {"AWS_PROFILE": "p"}, has=("'/etc/own.pem'",), config="[profile p]\nca_bundle = /etc/own.pem\n"
    ),
    "a session token": Setting(
        {"AWS_SESSION_TOKEN": "to/ken+="}, has=("X-Amz-Security-Token: to/ken+=\r\n", ";x-amz-security-token;")
    ),
    "keys that are renewed between the sends": Setting(
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": KEYS},
        has=("Credential=AKIDSECOND/", "-Token: AKIDSECOND/token\r\n"),
        lacks=NO_KEYS,
    ),
    "the application's id": Setting({"AWS_SDK_UA_APP_ID": "orders"}, has=(" app/orders",)),
    "Lambda's trace": Setting(TRACE, has=("X-Amzn-Trace-Id: Root=1-first;Sampled=1\r\n",)),
    "Lambda's trace of the next invocation": Setting(
        TRACE, later={"_X_AMZN_TRACE_ID": "Root=1-next"}, has=("X-Amzn-Trace-Id: Root=1-next\r\n",)
    ),
    "no trace in the next invocation": Setting(TRACE, later={"_X_AMZN_TRACE_ID": ""}),
    "Lambda's execution environment": Setting({"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}, has=(" exec-env/AWS_",)),
    "another retry mode": Setting({"AWS_RETRY_MODE": "adaptive", "AWS_MAX_ATTEMPTS": "7"}, has=("attempt=1",)),
    "defaults of a mode": Setting({"AWS_DEFAULTS_MODE": "in-region"}),
    "settings that change after the first request": Setting(
        HTTP_LOCAL, "sqs.local", 4566, later={"AWS_ENDPOINT_URL": "http://no", "AWS_ACCESS_KEY_ID": "other"}
    ),
}
MESSAGE = {
    "MessageBody": 'é€😀"\\ \n{}',
    "DelaySeconds": 5,
    "MessageGroupId": "acme",
    "MessageAttributes": {
        "n": {"DataType": "Number", "StringValue": "1"},
        "naïve": {"StringValue": "é", "DataType": "String.custom"},
    },
}
QUEUE = "https://sqs.elsewhere.example/1/jobs"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SendMessage": {"QueueUrl": QUEUE, **MESSAGE},
    "SendMessageBatch": {"QueueUrl": QUEUE, "Entries": [{"Id": str(number), **MESSAGE} for number in range(10)]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_request_is_the_one_of_boto3(
    name: str, network: Network, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check(SETTINGS[name], "sender", network, by_boto3, monkeypatch, tmp_path)


def test_a_brief_request_is_the_one_of_boto3(
    network: Network, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check(SETTINGS["a region"], "brief_sender", network, by_boto3, monkeypatch, tmp_path)


def check(
    setting: Setting,
    attribute: str,
    network: Network,
    by_boto3: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # given a client that has made the first request of each operation
    (tmp_path / "CONFIG_FILE").write_text(setting.config)
    for variable in setting.lacks:
        monkeypatch.delenv(variable)
    for variable, value in setting.env.items():
        monkeypatch.setenv(variable, value.format(folder=tmp_path))
    sender: Sender = getattr(Sqs(), attribute)
    for operation in OPERATIONS:
        sender.send(operation, ARGUMENTS[operation])
    assert by_boto3 == list(OPERATIONS)
    # when boto3 and the sender make the next request, on the next day
    network.now += datetime.timedelta(seconds=2)
    network.key = "AKIDSECOND"
    for variable, value in setting.later.items():
        monkeypatch.setenv(variable, value)
    for operation in OPERATIONS:
        [theirs] = network.sent_by(sender._by_boto3, operation, ARGUMENTS[operation])
        by_boto3.clear()
        [ours] = network.sent_by(sender.send, operation, ARGUMENTS[operation])
        # then
        assert not by_boto3
        assert ours == theirs
        assert ours.address == (setting.host, setting.port)
        text = f"{ours.data.decode()}{ours.tls}"
        assert "X-Amz-Date: 20260302T000001Z\r\n" in text
        assert [part for part in setting.has if part not in text] == []


@pytest.mark.parametrize("first", [True, False])
def test_a_message_that_begins_a_chain_is_sent_without_a_trace(
    first: bool, network: Network, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in TRACE.items():
        monkeypatch.setenv(variable, value)
    sender = Sqs().sender
    for operation in OPERATIONS:
        for keeps_chain in (first, True, False):  # boto3 makes the first request
            for send in (sender.send, sender._by_boto3):
                [sent] = network.sent_by(partial(send, keeps_chain=keeps_chain), operation, ARGUMENTS[operation])
                assert (b"X-Amzn-Trace-Id: Root=1-first" in sent.data) is keeps_chain
                assert b"Authorization: AWS4-HMAC-SHA256" in sent.data


def test_a_send_during_the_first_request_of_boto3_verifies_the_certificate(
    network: Network, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a request of boto3 that was signed, and has no connection yet
    sender, message = Sqs().sender, ("SendMessage", ARGUMENTS["SendMessage"])
    sends: list[Exchange] = []
    real = Endpoint._send  # type: ignore[attr-defined]

    def send(endpoint: Endpoint, request: Any) -> Any:
        if not sends:
            sends.extend(network.sent_by(sender.send, *message))
        return real(endpoint, request)

    # when the sender sends in the meantime
    monkeypatch.setattr(Endpoint, "_send", send)
    sender.send(*message)
    # then
    assert by_boto3 == ["SendMessage"]
    [first], [later] = sends, network.sent_by(sender.send, *message)
    assert first.tls == later.tls
    assert first.tls[0]["ca_certs"]


def test_keys_that_are_renewed_within_a_day_sign_the_next_request(
    network: Network, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NO_KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", KEYS)
    sender, message = Sqs().sender, ("SendMessage", ARGUMENTS["SendMessage"])
    for key in ("AKIDONE", "AKIDTWO", "AKIDTHREE"):
        network.key = key
        assert network.sent_by(sender._by_boto3, *message) == (ours := network.sent_by(sender.send, *message))
        assert f"Credential={key}/".encode() in ours[0].data
    assert len(by_boto3) == 3


def test_each_request_has_an_invocation_id_of_its_own() -> None:
    ids = [uuid.UUID(sender._uuid()) for _ in range(100)]
    assert len(set(ids)) == 100
    assert {(id_.version, id_.variant) for id_ in ids} == {(4, uuid.RFC_4122)}
