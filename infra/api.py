"""The HTTP API, through which requests from the internet reach the API's function.

Its routes come from the function's table of permissions, so API Gateway rejects all other requests. Every route has the
authorizer, except the route of signals, and there is no ``$default`` route.
"""

from __future__ import annotations

from aws_cdk import App, CfnOutput, Duration, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk.aws_apigatewayv2_authorizers import HttpIamAuthorizer, HttpJwtAuthorizer

from functions.api.access import PUBLIC, ROUTES
from functions.api.once import NAME as IDEMPOTENCY_KEY
from functions.api.tracing import NAME as TRACE
from infra.settings import Api, Iam, PlatformStage
from joblane.cdk.constructs.http_stage import add_http_api, add_http_stage
from joblane.cdk.constructs.jobs import Jobs
from joblane.settings import SIGNAL_KEYS

FUNCTION = "api"
"""Name of the function behind the API, from :func:`~joblane.tasks.discovery.discover_functions`."""
REQUEST_HEADERS = ("Authorization", "Content-Type", IDEMPOTENCY_KEY, TRACE)
RESPONSE_HEADERS = ("Retry-After",)
"""Response headers that pages may read, in addition to CORS's own list."""
PREFLIGHT_KEPT = Duration.hours(1)


def add_api(app: App, jobs: Jobs, stage: PlatformStage) -> None:
    """Add the stack of the API, if the stage has one."""
    api = stage.api
    if api is None:
        return
    stack = Stack(app, f"{stage.prefix}-api", description=f"Joblane, {stage.name}: the HTTP API")
    http = add_http_api(
        stack,
        stage,
        name="api",
        function=jobs.function_of_api(FUNCTION),
        routes=ROUTES,
        authorizer=_authorizer(api),
        cors=_cors(api, {route.split(" ")[0] for route in ROUTES}),
        public=PUBLIC if SIGNAL_KEYS in stage.settings else (),
    )
    add_http_stage(stack, http, stage, api, name="api")
    CfnOutput(stack, "ApiUrl", value=http.api_endpoint)


def _authorizer(api: Api) -> apigateway.IHttpRouteAuthorizer:
    if isinstance(api.authorizer, Iam):
        return HttpIamAuthorizer()
    return HttpJwtAuthorizer("Jwt", api.authorizer.issuer, jwt_audience=list(api.authorizer.audience))


def _cors(api: Api, methods: set[str]) -> apigateway.CorsPreflightOptions | None:
    """Return the CORS settings. API Gateway answers preflight requests itself, without the authorizer.

    Source: API Gateway, *Configure CORS for HTTP APIs*.
    """
    if not api.cors_origins:
        return None
    return apigateway.CorsPreflightOptions(
        allow_origins=list(api.cors_origins),
        allow_methods=[apigateway.CorsHttpMethod(method) for method in sorted(methods)],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=PREFLIGHT_KEPT,
    )
