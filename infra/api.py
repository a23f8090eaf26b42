"""The HTTP API: what of the internet reaches the API's function, and who has to have signed what for it.

Its routes are those of the table that the function decides by, so a request for anything else ends here. No route is
without the authorizer, and there is no ``$default`` one.
"""

from __future__ import annotations

from aws_cdk import App, CfnOutput, Duration, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_authorizers import HttpIamAuthorizer, HttpJwtAuthorizer
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from constructs import Construct

from functions.api.access import ROUTES
from functions.api.once import NAME as IDEMPOTENCY_KEY
from functions.api.tracing import NAME as TRACE
from infra.settings import Api, Iam, PlatformStage
from joblane.cdk.constructs.http_stage import add_http_stage
from joblane.cdk.constructs.jobs import Jobs

FUNCTION = "api"
"""Name of the function that answers, as :func:`~joblane.discovery.discover_functions` has it."""
REQUEST_HEADERS = ("Authorization", "Content-Type", IDEMPOTENCY_KEY, TRACE)
RESPONSE_HEADERS = ("Retry-After",)
"""Beside those that every page may read."""
PREFLIGHT_KEPT = Duration.hours(1)


def add_api(app: App, jobs: Jobs, stage: PlatformStage) -> None:
    """The stack of the API, where the stage has one."""
    if stage.api is not None:
        function = jobs.function_of_api(FUNCTION)
        ApiStack(app, f"{stage.prefix}-api", stage=stage, api=stage.api, function=function)


class ApiStack(Stack):
    """``function``: answers all routes. ``url``: where the API is."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: PlatformStage,
        api: Api,
        function: lambda_.IFunction,
    ) -> None:
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: the HTTP API")
        routes = [route.split(" ") for route in ROUTES]
        http = apigateway.HttpApi(
            self,
            "Http",
            api_name=f"{stage.prefix}-api",
            cors_preflight=_cors(api, {method for method, _ in routes}),
            default_authorizer=_authorizer(api),
            create_default_stage=False,  # it would have neither log nor limit
        )
        # one permission for the API's routes and no other's; one for each would all say the same
        integration = HttpLambdaIntegration(
            "Function",
            function,
            payload_format_version=apigateway.PayloadFormatVersion.VERSION_2_0,
            scope_permission_to_route=False,
        )
        for method, path in routes:
            http.add_routes(path=path, methods=[apigateway.HttpMethod(method)], integration=integration)
        add_http_stage(self, http, stage, api, name="api")
        self.url = http.api_endpoint
        CfnOutput(self, "ApiUrl", value=self.url)


def _authorizer(api: Api) -> apigateway.IHttpRouteAuthorizer:
    if isinstance(api.authorizer, Iam):
        return HttpIamAuthorizer()
    return HttpJwtAuthorizer("Jwt", api.authorizer.issuer, jwt_audience=list(api.authorizer.audience))


def _cors(api: Api, methods: set[str]) -> apigateway.CorsPreflightOptions | None:
    """API Gateway answers preflights itself, and asks no authorizer. Source: *Configure CORS for HTTP APIs*."""
    if not api.cors_origins:
        return None
    return apigateway.CorsPreflightOptions(
        allow_origins=list(api.cors_origins),
        allow_methods=[apigateway.CorsHttpMethod(method) for method in sorted(methods)],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=PREFLIGHT_KEPT,
    )
