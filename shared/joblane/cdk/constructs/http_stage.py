"""An HTTP API with one function behind it, and its stage ``$default`` with an access log and a rate limit.

A stage of that name adds nothing to the paths of the routes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from constructs import Construct

from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.apis import HttpLimits
from joblane.cdk.settings.stage import Stage as AppStage

ACCESS_LOG = {
    "request_id": "$context.requestId",
    "route": "$context.routeKey",
    "status": "$context.status",
    "ms": "$context.responseLatency",
    "function_ms": "$context.integrationLatency",
    "error": "$context.error.responseType",
    "ip": "$context.identity.sourceIp",
}
"""A line per request, including requests that did not reach the function. It has values of API Gateway and the sender's
address, and no path, query, header or claim. Source: API Gateway, *Customize HTTP API access logs*."""


def add_http_api(
    stack: Construct,
    stage: AppStage,
    *,
    name: str,
    function: lambda_.IFunction,
    routes: Iterable[str],
    authorizer: apigateway.IHttpRouteAuthorizer | None,
    cors: apigateway.CorsPreflightOptions | None = None,
    public: Iterable[str] = (),
) -> apigateway.HttpApi:
    """Add an HTTP API. ``function`` answers all ``routes`` (such as ``GET /jobs``), and ``authorizer`` guards them.

    ``authorizer`` None: the function itself verifies who calls, as for the ``public`` routes.
    """
    http = apigateway.HttpApi(
        stack,
        "Http",
        api_name=f"{stage.prefix}-{name}",
        cors_preflight=cors,
        default_authorizer=authorizer,
        create_default_stage=False,  # CDK's default stage has neither log nor limit
    )
    # one permission for all routes of this API; one permission for each route would allow the same
    integration = HttpLambdaIntegration(
        "Function",
        function,
        payload_format_version=apigateway.PayloadFormatVersion.VERSION_2_0,
        scope_permission_to_route=False,
    )
    for route in routes:
        method, path = route.split(" ")
        http.add_routes(path=path, methods=[apigateway.HttpMethod(method)], integration=integration)
    for route in public:
        method, path = route.split(" ")
        [added] = http.add_routes(
            path=path,
            methods=[apigateway.HttpMethod(method)],
            integration=integration,
            authorizer=apigateway.HttpNoneAuthorizer(),
        )
        acknowledge(added, "APIG4", "The path has a token, which the function verifies.")
    return http


def add_http_stage(
    stack: Construct, http: apigateway.HttpApi, stage: AppStage, limits: HttpLimits, *, name: str
) -> None:
    """Add the stage ``$default``. ``name``: of the API; part of the log group's name."""
    # Log groups with this prefix share one resource policy; an account can have only a few policies.
    # Source: CloudWatch Logs, *Enabling logging from AWS services*.
    logs = log_group(stack, "AccessLogs", stage=stage, name=f"/aws/vendedlogs/apis/{stage.prefix}-{name}")
    http_stage = apigateway.HttpStage(
        stack,
        "Stage",
        http_api=http,
        stage_name="$default",
        auto_deploy=True,
        throttle=apigateway.ThrottleSettings(rate_limit=limits.rate_per_second, burst_limit=limits.burst),
    )
    resource = cast(apigateway.CfnStage, http_stage.node.default_child)
    resource.access_log_settings = apigateway.CfnStage.AccessLogSettingsProperty(
        destination_arn=logs.log_group_arn, format=json.dumps(ACCESS_LOG)
    )
