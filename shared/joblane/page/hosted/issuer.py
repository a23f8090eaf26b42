"""The client of an OpenID Connect issuer: authorization code flow with PKCE, and the verification of ID tokens.

Source: OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3.7; RFC 7636; RFC 9207.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import jwt
from jwt import PyJWK

from joblane.inspector.shared_page import Configuration
from joblane.page.security import equal
from joblane.record.driver.login import LOOPBACK

if TYPE_CHECKING:
    from botocore.awsrequest import AWSResponse

ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
"""Type of a key → the only algorithm that is accepted with it. A symmetric key is no key of an issuer."""
MIN_RSA_BITS = 2048
LEEWAY_SECONDS = 60
KEPT_SECONDS = 3600
REFETCH_SECONDS = 60
"""An unknown key id makes the keys be read again, once in this time."""
CONNECT_SECONDS, READ_SECONDS = 2, 5
"""Limits of each of the three requests of a sign-in, which has to end within API Gateway's 30 seconds."""
HEADERS = {"Accept": "application/json", "Connection": "close"}
"""A function is frozen between requests, and does not see that a kept connection has ended."""
MAX_BYTES = 1024 * 1024
REQUIRED = ("iss", "aud", "exp", "iat", "sub", "nonce")
ERROR = re.compile(r"[a-z_]{1,40}")
"""Source: RFC 6749, sections 4.1.2.1 and 5.2. Descriptions are not shown, as they are any text."""
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class IssuerUnavailableError(Exception):
    """The issuer does not answer, or answers with something else than OpenID Connect requires."""


class SignInError(Exception):
    """The sign-in is refused. The text has no value of a token."""


class Issuer:
    """An issuer, and this page's client at it. Its endpoints and keys are read once in an hour.

    ``secret``: returns the client's secret; None: the client is public.
    """

    def __init__(self, configuration: Configuration, redirect_uri: str, secret: Callable[[], str] | None) -> None:
        self._configuration, self._redirect_uri, self._secret = configuration, redirect_uri, secret
        self._metadata: Mapping[str, Any] = {}
        self._metadata_at = 0.0
        self._keys: list[PyJWK] = []
        self._keys_at = 0.0
        self._http: Any = None

    @property
    def host(self) -> str:
        return urlsplit(self._configuration.issuer).netloc

    def authorize_address(self, *, state: str, nonce: str, verifier: str) -> str:
        """The address at which a person signs in. Raises :class:`IssuerUnavailableError`."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self._configuration.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._configuration.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = str(self._endpoints()["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"

    def redeem(self, code: str, verifier: str) -> str:
        """Exchange the code of a sign-in for its ID token, which is not verified yet.

        Raises :class:`IssuerUnavailableError`, and :class:`SignInError` if the issuer refuses the code.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        endpoints, headers = self._endpoints(), {"Content-Type": "application/x-www-form-urlencoded"}
        client, secret = self._configuration.client_id, self._secret() if self._secret else None
        if secret is None:
            form["client_id"] = client
        elif "client_secret_basic" in endpoints.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
            pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client, "client_secret": secret}
        status, found = self._call("POST", endpoints["token_endpoint"], headers, urlencode(form).encode())
        if 400 <= status < 500 and status not in (404, 429):
            raise SignInError(
                f"the code is not valid, was used before, or the client's secret is wrong{error_code(found)}"
            )
        if status != 200 or not isinstance(found.get("id_token"), str):
            raise IssuerUnavailableError(f"the token endpoint answered with status {status} and no ID token")
        return str(found["id_token"])

    def verify(self, token: str, nonce: str) -> Mapping[str, Any]:
        """Return the claims of an ID token. Raises :class:`SignInError` and :class:`IssuerUnavailableError`."""
        configuration = self._configuration
        try:
            key = self._key(jwt.get_unverified_header(token))
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=configuration.client_id,
                issuer=configuration.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(REQUIRED)},
            )
        except jwt.InvalidTokenError as error:  # the texts name claims, and no value that is not public
            raise SignInError(f"the ID token is refused ({type(error).__name__})") from None
        if not equal(str(claims["nonce"]), nonce):
            raise SignInError("the ID token is of another sign-in")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else configuration.client_id) != configuration.client_id:
            raise SignInError("the ID token is for another client")
        if not isinstance(claims["sub"], str) or not claims["sub"].isprintable() or not 0 < len(claims["sub"]) <= 255:
            raise SignInError("the subject of the ID token is not valid")
        return claims

    # --- Keys and endpoints ----------------------------------------------------------------------------------------

    def _key(self, header: Mapping[str, Any]) -> PyJWK:
        """The key of a token by its id; the only key of its algorithm, if the token names none."""
        algorithm, id_ = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS.values():
            raise SignInError("the ID token is signed with an algorithm that is not accepted")
        for _ in range(2):
            if time.time() - self._keys_at > KEPT_SECONDS:
                self._read_keys()
            fitting = [key for key in self._keys if key.algorithm_name == algorithm]
            if id_ is not None:
                fitting = [key for key in fitting if key.key_id == id_]
            if len(fitting) == 1:
                return fitting[0]
            if time.time() - self._keys_at < REFETCH_SECONDS:
                break
            self._keys_at = 0.0  # the issuer may have a new key
        raise SignInError("the ID token is signed with an unknown key")

    def _read_keys(self) -> None:
        found = self._get(self._endpoints()["jwks_uri"]).get("keys")
        if not isinstance(found, list):
            raise IssuerUnavailableError("the key set has no keys")
        self._keys = [key for key in map(_signing_key, found) if key is not None]
        self._keys_at = time.time()

    def _endpoints(self) -> Mapping[str, Any]:
        if time.time() - self._metadata_at > KEPT_SECONDS:
            issuer = self._configuration.issuer
            found = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise IssuerUnavailableError("its configuration names another issuer; compare the setting `issuer`")
            if wrong := [name for name in ENDPOINTS if not _is_safe(found.get(name), issuer)]:
                raise IssuerUnavailableError(f"its configuration has no https address for {', '.join(wrong)}")
            self._metadata, self._metadata_at = found, time.time()
        return self._metadata

    # --- Requests --------------------------------------------------------------------------------------------------

    def _get(self, url: str) -> Mapping[str, Any]:
        status, found = self._call("GET", url, {}, b"")
        if status != 200:
            raise IssuerUnavailableError(f"{urlsplit(url).path} answered with status {status}")
        return found

    def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, Any]]:
        """Send a request, and return the status and the JSON object. A redirect is not followed."""
        from botocore.awsrequest import AWSRequest
        from botocore.httpsession import URLLib3Session

        if self._http is None:
            options: dict[str, Any] = {"timeout": (CONNECT_SECONDS, READ_SECONDS)}
            self._http = URLLib3Session(**options)
        request = AWSRequest(method, url, {**HEADERS, **headers}, body or None, stream_output=True)
        try:
            answer: AWSResponse = self._http.send(request.prepare())
            content = answer.raw.read(MAX_BYTES + 1)
        except Exception as error:  # botocore's errors, and urllib3's own of a body that ends too early
            raise IssuerUnavailableError(type(error).__name__) from None
        try:
            found = json.loads(content) if len(content) <= MAX_BYTES else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            if answer.status_code == 200:
                raise IssuerUnavailableError(f"{urlsplit(url).path} answered without a JSON object")
            found = {}
        return answer.status_code, found


def _signing_key(found: Any) -> PyJWK | None:
    """A key for signatures with an accepted algorithm; None for any other entry of a key set."""
    if not isinstance(found, dict) or found.get("use", "sig") != "sig":
        return None
    algorithm = ALGORITHMS.get(str(found.get("kty")))
    if algorithm is None or found.get("alg", algorithm) != algorithm or found.get("crv", "P-256") != "P-256":
        return None
    try:
        key = PyJWK(found, algorithm)
    except jwt.PyJWTError:
        return None
    return None if getattr(key.key, "key_size", 0) < MIN_RSA_BITS and algorithm == "RS256" else key


def _is_safe(url: object, issuer: str) -> bool:
    """True for https. An issuer on this machine may have http there, but no other issuer: a function's own runtime
    answers on its loopback address."""
    where, own = urlsplit(url) if isinstance(url, str) else None, urlsplit(issuer)
    if where is None or not where.hostname:
        return False
    local = own.hostname in LOOPBACK and where.hostname in LOOPBACK
    return where.scheme == "https" or (where.scheme == "http" and local)


def error_code(answer: Mapping[str, Any]) -> str:
    """The error of an issuer's answer in parentheses, as in `` (invalid_client)``; empty if there is none."""
    found = answer.get("error")
    return f" ({found})" if isinstance(found, str) and ERROR.fullmatch(found) else ""
