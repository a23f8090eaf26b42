"""Calls to the services that initialise a tenant, and checks that they answer.

They use ``http.client`` of the standard library: it follows no redirect, reads no proxy setting, repeats no request,
and can connect to the address that was checked. A client that resolves the name again could get another address.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from saas.deadline import hang_up_after
from saas.errors import ServiceError, SettingError
from saas.settings import Settings
from saas.tenants import Tenant

INITIALIZE_PATH = "/api/v1/tenants/initialize"
CALL_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 * 1024
"""Bytes of an answer's body that are read and ignored. Only the status counts."""
SECRET_HEADER = "X-Joblane-Secret"  # noqa: S105 - a header's name
PRINTABLE = re.compile(r"[!-~]+( +[!-~]+)*")

METADATA_NETWORK = ip_network("fd00:ec2::/32")
"""Instance metadata, DNS and container credentials over IPv6; over IPv4 they are link-local.

Source: Amazon EC2, *Access instance metadata for an EC2 instance*.
"""
TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 addresses behind NAT64. Source: RFC 6052, section 2.1."""

THIS_NETWORK = ip_network("0.0.0.0/8")
"""Source: RFC 6890, table 1."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Service:
    """A checked base address of a service: ``http`` or ``https``, with a host, without credentials and query."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}{'' if standard else f':{self.port}'}{self.path}"


def configured(settings: Settings) -> list[Service]:
    """Return the services of ``TENANT_INIT_SERVICES`` in order, without duplicates. Raises :class:`SettingError`."""
    entries = [entry.strip() for entry in settings.get("TENANT_INIT_SERVICES", "").split(",")]
    return list(dict.fromkeys(_service(entry, number) for number, entry in enumerate(entries, 1) if entry))


def initialize(service: Service, tenant: Tenant, settings: Settings, *, key: str, timeout_seconds: float) -> int:
    """POST the tenant to a service, and return the status of its answer, which is 2xx.

    ``key``: the ``Idempotency-Key``, the same in every attempt. ``timeout_seconds``: for the whole call.

    Raises :class:`ServiceError` without an answer, for another status, and for an address that must not be called;
    :class:`SettingError`.
    """
    if timeout_seconds <= 0:
        raise ServiceError(str(service), "there is no time left to call it in this attempt")
    local = settings.get("JOBLANE_STAGE", "") == "local"
    secret = settings.get("TENANT_INIT_SECRET", "").strip()
    if secret and not PRINTABLE.fullmatch(secret):
        raise SettingError("TENANT_INIT_SECRET", "printable ASCII is required, because it is sent in a header")
    if secret and service.scheme != "https" and not local:
        raise ServiceError(str(service), "TENANT_INIT_SECRET is only sent by https; give the service an https address")
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "joblane",
        "Idempotency-Key": key,
        **({SECRET_HEADER: secret} if secret else {}),
    }
    body = json.dumps(_body(tenant)).encode()
    connection = _Connection(service, _resolve(service, allow_own=local), timeout_seconds)
    return _exchange(connection, "POST", service.path + INITIALIZE_PATH, body, headers, good=range(200, 300))


def probe(service: Service, settings: Settings, *, timeout_seconds: float) -> int:
    """GET the base address of a service, and return the status of its answer, which is below 500.

    Any other answer is fine, 404 included. Raises :class:`ServiceError`.
    """
    addresses = _resolve(service, allow_own=settings.get("JOBLANE_STAGE", "") == "local")
    connection = _Connection(service, addresses, timeout_seconds)
    return _exchange(connection, "GET", service.path or "/", None, {"User-Agent": "joblane"}, good=range(500))


def _body(tenant: Tenant) -> Mapping[str, Any]:
    return {
        "tenant_id": str(tenant.id),
        "tenant_name": tenant.name,
        "tenant_slug": tenant.slug,
        "metadata": tenant.metadata,
        "created_at": tenant.created_at.isoformat(),
    }


def _service(entry: str, number: int) -> Service:
    """Return a base address. An error names its number and never its text, which may contain credentials."""
    where = f"entry {number}"
    try:
        parts: SplitResult = urlsplit(entry)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # UnicodeError too
        raise SettingError("TENANT_INIT_SERVICES", f"{where} is not an address") from None
    if parts.scheme not in ("http", "https") or not host or any(not "!" <= char <= "~" for char in parts.path):
        raise SettingError(
            "TENANT_INIT_SERVICES", f"{where}: an address such as https://billing.example.com is required"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingError("TENANT_INIT_SERVICES", f"{where}: no credentials, query or fragment can be in it")
    return Service(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"))


# --- Addresses -----------------------------------------------------------------------------------------------------


def _resolve(service: Service, *, allow_own: bool) -> list[str]:
    """Return the addresses of a service, all of them checked. Private networks are allowed: services are there."""
    try:
        found = socket.getaddrinfo(service.host, service.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ServiceError(str(service), "its name has no address") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_own and any(is_own(address) for address in addresses):
        raise ServiceError(
            str(service), "its address is that of this machine or its metadata, which only a local stage may call"
        )
    return addresses


def is_own(address: str) -> bool:
    """Return true for an address of this machine, its link or its metadata, and for one of no single host."""
    ip: Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip in METADATA_NETWORK:
            return True
        inner = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in TRANSLATED else None)
        if inner is not None:
            ip = inner
    own = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip in THIS_NETWORK
    return own or ip.is_multicast or ip.is_reserved


# --- The call ------------------------------------------------------------------------------------------------------


def _exchange(
    connection: _Connection, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, good: range
) -> int:
    """Send a request within the connection's time, and return the status of its answer, which is in ``good``."""
    with closing(connection), hang_up_after(connection.timeout_seconds, lambda: connection.sock):
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise ServiceError(str(connection.service), f"no answer ({type(error).__name__})") from None
        with suppress(OSError, HTTPException):  # a service that still writes must not get a connection reset
            answer.read(MAX_ANSWER_BYTES)
    if answer.status not in good:
        raise ServiceError(str(connection.service), f"answered with status {answer.status}")
    return answer.status


class _Connection(HTTPConnection):
    """A connection to checked addresses that never resolves the name. TLS is verified against the name."""

    sock: socket.socket | None

    def __init__(self, service: Service, addresses: list[str], timeout_seconds: float) -> None:
        super().__init__(service.host, service.port, timeout=timeout_seconds)
        self.service, self.timeout_seconds = service, timeout_seconds
        self.default_port = 443 if service.scheme == "https" else 80
        self._tls = ssl.create_default_context() if service.scheme == "https" else None
        self._addresses = addresses

    def connect(self) -> None:
        self.sock = plain = self._open()
        if self._tls is not None:
            self.sock = tls = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
            tls.do_handshake()  # separate from wrap_socket, so that the deadline can end it

    def _open(self) -> socket.socket:
        """Connect to the first address that accepts a connection."""
        for number, address in enumerate(self._addresses, 1):
            try:
                found = socket.create_connection((address, self.port), self.timeout_seconds / len(self._addresses))
                found.settimeout(self.timeout_seconds)
                return found
            except OSError:
                if number == len(self._addresses):
                    raise
        raise OSError("the service has no address to connect to")
