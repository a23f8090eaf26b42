"""An OpenID Connect issuer on this machine, and a browser of the shared page."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from joblane.inspector.permission import Permission
from joblane.inspector.shared_page import Configuration
from tests.unit.saas.servers import served

CLIENT = "the-client"
Response = tuple[int, Sequence[tuple[str, str]], bytes]
"""Status, headers and body."""


@dataclass
class SigningKey:
    """A key pair of an issuer, with an id."""

    id: str
    private: Any
    algorithm: str = "RS256"

    @classmethod
    def rsa(cls, id_: str, bits: int = 2048) -> SigningKey:
        return cls(id_, rsa.generate_private_key(public_exponent=65537, key_size=bits))

    @classmethod
    def ec(cls, id_: str) -> SigningKey:
        return cls(id_, ec.generate_private_key(ec.SECP256R1()), "ES256")

    @property
    def public(self) -> dict[str, Any]:
        kind = jwt.algorithms.RSAAlgorithm if self.algorithm == "RS256" else jwt.algorithms.ECAlgorithm
        found: dict[str, Any] = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**found, "kid": self.id, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self.private, algorithm=self.algorithm, headers={"kid": self.id})


@dataclass
class Grant:
    """A code, with the parameters of its sign-in."""

    asked: dict[str, str]
    claims: dict[str, Any]


@dataclass
class LocalIssuer:
    """An issuer. ``person``: the claims of who signs in. ``token``: makes the ID token from its claims.

    ``keys``: the published keys. ``fails``: the status of every answer, if it is not None. ``secret``: of the client;
    None: it is public. ``requests``: the paths that were called.
    """

    key: SigningKey
    person: dict[str, Any] = field(default_factory=dict)
    token: Callable[[dict[str, Any]], str] | None = None
    keys: list[dict[str, Any]] = field(default_factory=list)
    fails: int | None = None
    secret: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    codes: dict[str, Grant] = field(default_factory=dict)
    url: str = ""

    def reset(self) -> None:
        self.person = {"sub": "u-1", "email": "ann@example.com", "email_verified": True, "groups": ["ops"]}
        self.token, self.fails, self.secret, self.metadata = None, None, None, {}
        self.keys = [self.key.public]
        self.requests, self.codes = [], {}

    def get(self, path: str, asked: dict[str, str]) -> tuple[int, Any]:
        self.requests.append(path)
        if self.fails:
            return self.fails, {}
        match path:
            case "/.well-known/openid-configuration":
                known = {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "jwks_uri": f"{self.url}/keys",
                }
                return 200, {**known, **self.metadata}
            case "/keys":
                return 200, {"keys": self.keys}
            case "/authorize":
                return 200, self._form(asked)
            case "/favicon.ico":
                return 200, ""
        return 404, {}

    def answer_of(self, asked: dict[str, str]) -> str:
        """Sign the person in, and return the address that the browser is sent to."""
        assert asked["client_id"] == CLIENT
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        code = secrets.token_urlsafe(8)
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.person}
        self.codes[code] = Grant(asked, claims)
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def redeem(self, given: dict[str, str], authorization: str | None) -> tuple[int, Any]:
        self.requests.append("/token")
        if self.fails:
            return self.fails, {}
        grant = self.codes.pop(given["code"], None)
        pair = base64.b64encode(f"{CLIENT}:{self.secret}".encode()).decode()
        known = given.get("client_id") == CLIENT if self.secret is None else authorization == f"Basic {pair}"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(given["code_verifier"].encode()).digest()).rstrip(b"=")
        if grant is None or not known or challenge.decode() != grant.asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if given["redirect_uri"] != grant.asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        made = self.token or self.key.sign
        return 200, {"token_type": "Bearer", "access_token": "unused", "id_token": made(grant.claims)}

    @staticmethod
    def _form(asked: Mapping[str, str]) -> str:
        fields = "".join(f'<input type="hidden" name="{escape(n)}" value="{escape(v)}">' for n, v in asked.items())
        form = f'<form method="post" action="/authorize">{fields}<button>Sign in</button></form>'
        return f"<!doctype html><title>Issuer</title>{form}"


@contextmanager
def _answering(answer: Callable[[str, str, dict[str, str], bytes], Response]) -> Iterator[str]:
    """Serve a function of method, address, headers and body on this machine, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            status, named, content = answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in (*named, ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name in http.server

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with served(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@contextmanager
def serving(issuer: LocalIssuer) -> Iterator[LocalIssuer]:
    """Serve the issuer on this machine."""

    def answer(method: str, address: str, headers: dict[str, str], body: bytes) -> Response:
        where, given = urlsplit(address), _flat(body.decode())
        if (method, where.path) == ("POST", "/authorize"):
            return 303, [("Location", issuer.answer_of(given))], b""
        is_get = method == "GET"
        status, content = (
            issuer.get(where.path, _flat(where.query)) if is_get else issuer.redeem(given, headers.get("authorization"))
        )
        if isinstance(content, str):
            return status, [("Content-Type", "text/html")], content.encode()
        return status, [("Content-Type", "application/json")], json.dumps(content).encode()

    with _answering(answer) as address:
        issuer.url = address
        issuer.reset()
        yield issuer


def _flat(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


def shared_configuration(issuer: LocalIssuer, address: str) -> Configuration:
    """The configuration of a page at ``address``."""
    return Configuration(
        stage="prod",
        prefix="jobs-prod",
        url=address,
        control_url="https://control.example.org",
        key_secret="arn:aws:secretsmanager:eu-central-1:111122223333:secret:key-AbCdEf",
        issuer=issuer.url,
        client_id=CLIENT,
        client_secret=None,
        scopes=("openid", "email"),
        name_claim="email",
        roles_claim="groups",
        groups={
            Permission.VIEW: ("readers",),
            Permission.OPERATE: ("ops",),
            Permission.EDIT: ("leads", "admins"),
        },
        session_hours=8,
    )


@contextmanager
def serving_page(build: Callable[[str], Callable[[dict[str, Any]], dict[str, Any]]]) -> Iterator[str]:
    """Serve a page's function to a real browser, as API Gateway does. ``build``: makes the function for an address."""
    handlers: list[Callable[[dict[str, Any]], dict[str, Any]]] = []

    def answer(method: str, address: str, headers: dict[str, str], body: bytes) -> Response:
        where, cookies = urlsplit(address), headers.pop("cookie", "")
        found = handlers[0](event_of(method, where.path, where.query, headers, cookies.split("; "), body))
        content = found["body"].encode() if not found["isBase64Encoded"] else base64.b64decode(found["body"])
        return found["statusCode"], [*found["headers"].items(), *(("set-cookie", e) for e in found["cookies"])], content

    with _answering(answer) as address:
        handlers.append(build(address))
        yield address


def event_of(
    method: str, path: str, query: str, headers: Mapping[str, str], cookies: Sequence[str], body: bytes
) -> dict[str, Any]:
    """The event of a request, in the payload format 2.0."""
    host = headers.get("host", "")
    return {
        "version": "2.0",
        "routeKey": f"{method} /{{path+}}",
        "rawPath": path,
        "rawQueryString": query,
        "cookies": list(cookies),
        "headers": dict(headers),
        "requestContext": {"domainName": host, "http": {"method": method, "path": path, "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": bool(body),
        "body": base64.b64encode(body).decode(),
    }


# --- The browser ---------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """A response of the page's function."""

    status: int
    headers: dict[str, str]
    text: str
    cookies: list[str]

    @property
    def location(self) -> str:
        return self.headers["location"]


@dataclass
class Visitor:
    """A browser that sends events of API Gateway to ``handle``. It keeps cookies as a browser does."""

    handle: Callable[[dict[str, Any]], dict[str, Any]]
    issuer: LocalIssuer
    host: str
    jar: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers={"sec-fetch-mode": "navigate", **headers})

    def post(self, path: str, headers: Mapping[str, str] | None = None, /, **form: str) -> Answer:
        """Send a form of the page. Its token is taken from the page, unless one is given."""
        if "csrf" not in form:
            form["csrf"] = self.form_token()
        own = {"origin": f"https://{self.host}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
        content = {"content-type": "application/x-www-form-urlencoded"}
        return self.send("POST", path, {**content, **own, **(headers or {})}, urlencode(form).encode())

    def form_token(self) -> str:
        text = self.get("/audit").text
        return text.partition('name="csrf" value="')[2].partition('"')[0]

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        where = urlsplit(path)
        cookies = [f"{name}={value}" for name, value in self.jar.items()]
        found = self.handle(event_of(method, where.path, where.query, {"host": self.host, **headers}, cookies, body))
        for cookie in found.get("cookies", []):
            name, _, rest = cookie.partition("=")
            value, _, attributes = rest.partition(";")
            self.jar.pop(name, None)
            if "max-age=0" not in attributes.lower().replace(" ", "").split(";"):
                self.jar[name] = value
        text = base64.b64decode(found["body"]).decode(errors="replace") if found["isBase64Encoded"] else found["body"]
        return Answer(found["statusCode"], found["headers"], text, found.get("cookies", []))

    def sign_in(self, path: str = "/") -> Answer:
        """Open a page, sign in at the issuer, and return the last response that was not a redirect to the issuer."""
        return self.get(self.at_issuer(self.get(path)))

    def at_issuer(self, answer: Answer) -> str:
        """Sign in at the issuer that a response leads to, and return the path of the page that this leads to."""
        assert answer.status == 303, answer.text
        assert answer.location.startswith(f"{self.issuer.url}/authorize?"), answer.location
        where = urlsplit(self.issuer.answer_of(_flat(urlsplit(answer.location).query)))
        assert (where.scheme, where.netloc) == ("https", self.host)
        return f"{where.path}?{where.query}"
