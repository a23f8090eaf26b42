"""Builds the events that an API Gateway HTTP API passes to its function. Only this module knows their shape.

Source: API Gateway, *Lambda integrations for HTTP APIs*, payload format version 2.0.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any


def claims(
    user: str = "ann",
    tenant: str | None = None,
    *roles: str,
    email: str | None = "ann@example.org",
    verified: bool | None = None,
) -> dict[str, str]:
    """Return the claims of a token as the JWT authorizer passes them: each as text, a list in brackets."""
    found = {"sub": user, "iss": "https://id.example.org", "exp": "1893456000"}
    if tenant is not None:
        found["tenant_id"] = tenant
    if roles:
        found["roles"] = f"[{' '.join(roles)}]"
    if email is not None:
        found["email"] = email
    if verified is not None:
        found["email_verified"] = str(verified).lower()
    return found


def principal(arn: str, *, identity_pool: bool = False) -> dict[str, Any]:
    """Return the principal of a signature as IAM authorization passes it."""
    unique_id = "AROAEXAMPLEID:session" if "assumed-role" in arn else "AIDAEXAMPLEID"
    return {
        "accessKey": "ASIAEXAMPLEKEY",
        "accountId": arn.split(":")[4],
        "callerId": unique_id,
        "cognitoIdentity": {"amr": ["unauthenticated"], "identityId": "pool:ann"} if identity_pool else None,
        "principalOrgId": None,
        "userArn": arn,
        "userId": unique_id,
    }


def http_event(
    method: str,
    path: str,
    body: object = None,
    *,
    who: Mapping[str, Any] | None = None,
    signer: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    raw: str | bytes | None = None,
) -> dict[str, Any]:
    """Return an event. ``who``: the claims; ``signer``: the principal; None: there is none.

    ``raw``: the unchanged body; bytes are encoded in base64.
    """
    content: dict[str, Any] = {"isBase64Encoded": isinstance(raw, bytes)}
    if isinstance(raw, bytes):
        content["body"] = base64.b64encode(raw).decode()
    elif raw is not None or body is not None:
        content["body"] = json.dumps(body) if raw is None else raw
    context: dict[str, Any] = {
        "accountId": "123456789012",
        "apiId": "api",
        "domainName": "api.example.org",
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"},
        "requestId": "request-1",
        "routeKey": "$default",
        "stage": "$default",
        "timeEpoch": 1767225600000,
    }
    if who is not None:
        context["authorizer"] = {"jwt": {"claims": dict(who), "scopes": None}}
    if signer is not None:
        context["authorizer"] = {"iam": dict(signer)}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {
            "content-type": "application/json",
            **{name.lower(): value for name, value in (headers or {}).items()},
        },
        "requestContext": context,
        **content,
    }
