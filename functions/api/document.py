"""The OpenAPI document, with the permissions from the table that decides them."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer

from functions.api.access import EVERYBODY, ROUTES
from functions.api.refusals import REFUSALS, Refused

TITLE, VERSION = "Joblane platform API", "1"
NEVER_ANSWERED = ("HTTPValidationError", "ResponseValidationError", "ValidationError")
"""Schemas of Powertools that no route answers with."""
ONLY_OF: dict[str, tuple[str, ...]] = {
    "400": ("POST", "PUT", "GET /reports/schedules/", "DELETE"),
    "409": ("POST /tenants", "POST /invitations", "DELETE /tenants"),
    "410": ("GET /exports", "POST /invitations", "DELETE /tenants"),
    "413": ("POST", "PUT"),
    "415": ("POST", "PUT"),
    "422": ("POST", "PUT"),
}
"""Status → starts of the routes that answer with it. All routes answer with the other statuses."""


def document(app: APIGatewayHttpResolver) -> dict[str, Any]:
    """Return the document as JSON values."""
    text = app.get_openapi_json_schema(
        title=TITLE,
        version=VERSION,
        security_schemes={"token": HTTPBearer(bearerFormat="JWT")},
        security=[{"token": []}],
    )
    found: dict[str, Any] = json.loads(text)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    refused = Refused.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= refused.pop("$defs") | {Refused.__name__: refused}
    for unused in NEVER_ANSWERED:
        schemas.pop(unused, None)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(f"{method.upper()} {path}", operation)
    return found


def _complete(route: str, operation: dict[str, Any]) -> None:
    allowed = ROUTES[route]
    ranks = (
        "every signed-in caller" if allowed == EVERYBODY else ", ".join(rank.name.lower() for rank in sorted(allowed))
    )
    operation["description"] = f"For {ranks}."
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Refused.__name__}"}}}
    operation["responses"].pop("422", None)
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "header":  # Powertools writes its name in lower case
            parameter["name"] = parameter["name"].title()
    for status, description in REFUSALS.items():
        if route.startswith(ONLY_OF.get(status, ("",))):
            operation["responses"][status] = {"description": description, "content": content}
