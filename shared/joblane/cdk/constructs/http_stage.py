"""An HTTP API that one function answers, and its stage ``$default``, which adds nothing to the paths of its routes.

The stage has a log and a limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from aws_cdk import Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration

from joblane.cdk.constructs.log_group import log_group
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
"""A line per request, also of those that the function never saw. No path, query, header or claim: only API Gateway's
own words and the sender's address. Source: API Gateway, *Customize HTTP API access logs*."""


def add_http_api(
    stack: Stack,
    stage: AppStage,
    *,
    name: str,
    function: lambda_.IFunction,
    routes: Iterable[str],
    authorizer: apigateway.IHttpRouteAuthorizer,
    cors: apigateway.CorsPreflightOptions | None = None,
) -> apigateway.HttpApi:
    """``routes``: as ``GET /jobs``. ``function`` answers all of them, and ``authorizer`` guards all of them."""
    http = apigateway.HttpApi(
        stack,
        "Http",
        api_name=f"{stage.prefix}-{name}",
        cors_preflight=cors,
        default_authorizer=authorizer,
        create_default_stage=False,  # it would have neither log nor limit
    )
    # one permission for the API's routes and no other's; one for each would all say the same
    integration = HttpLambdaIntegration(
        "Function",
        function,
        payload_format_version=apigateway.PayloadFormatVersion.VERSION_2_0,
        scope_permission_to_route=False,
    )
    for route in routes:
        method, path = route.split(" ")
        http.add_routes(path=path, methods=[apigateway.HttpMethod(method)], integration=integration)
    return http


def add_http_stage(stack: Stack, http: apigateway.HttpApi, stage: AppStage, limits: HttpLimits, *, name: str) -> None:
    """``name``: of the API, in that of its log."""
    # Groups of this name share one resource policy, of which an account has few. Source: CloudWatch Logs, *Enabling
    # logging from AWS services*.
    logs = log_group(stack, "AccessLogs", stage=stage, name=f"/aws/vendedlogs/apis/{stage.prefix}-{name}")
    made = apigateway.HttpStage(
        stack,
        "Stage",
        http_api=http,
        stage_name="$default",
        auto_deploy=True,
        throttle=apigateway.ThrottleSettings(rate_limit=limits.rate_per_second, burst_limit=limits.burst),
    )
    resource = cast(apigateway.CfnStage, made.node.default_child)
    resource.access_log_settings = apigateway.CfnStage.AccessLogSettingsProperty(
        destination_arn=logs.log_group_arn, format=json.dumps(ACCESS_LOG)
    )
