"""The control API: how operators reach the inspector, each as whom IAM knows them.

One route for each permission, and one managed policy for each route. There is no other authorizer and no ``$default``
route: a request that no policy allows ends in API Gateway.
"""

from __future__ import annotations

from aws_cdk import Aws, CfnOutput, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_authorizers import HttpIamAuthorizer
from constructs import Construct

from joblane.cdk.constructs.http_stage import add_http_api, add_http_stage
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.stage import Stage
from joblane.functions.control.answering import ROUTES
from joblane.inspector.permission import Permission

FUNCTION = "control"
"""Name of the function that answers, as :func:`~joblane.discovery.discover_functions` has it."""
URL = "ControlUrl"
"""The output that ``joblane … --stage`` looks for."""


class ControlStack(Stack):
    """``function``: answers all routes."""

    def __init__(
        self, scope: Construct, id_: str, *, stage: Stage, control: Control, function: lambda_.IFunction
    ) -> None:
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: the control API")
        http = add_http_api(
            self, stage, name=FUNCTION, function=function, routes=ROUTES, authorizer=HttpIamAuthorizer()
        )
        for permission in ROUTES.values():
            self._add_policy(http, stage, permission)
        add_http_stage(self, http, stage, control, name=FUNCTION)
        CfnOutput(self, URL, value=http.api_endpoint)

    def _add_policy(self, http: apigateway.HttpApi, stage: Stage, permission: Permission) -> None:
        """``PREFIX-PERMISSION-REGION``: the operations of one route, and where the API is. None holds another.

        The stage of the API is a ``*``, as the CDK's own grants have it: there is one. Source: API Gateway, *Control
        access for invoking an API*: ``API/STAGE/METHOD/PATH``.
        """
        operations = self.format_arn(
            service="execute-api", resource=http.api_id, resource_name=f"*/POST/{permission}/*"
        )
        # of a stack that is asked for by its name, the id is not known yet
        itself = self.format_arn(service="cloudformation", resource="stack", resource_name=f"{self.stack_name}/*")
        policy = iam.ManagedPolicy(
            self,
            f"Policy{permission.capitalize()}",
            managed_policy_name=f"{stage.prefix}-{permission}-{Aws.REGION}",
            description=f"Joblane, {stage.name}: an operator who may {permission}",
            statements=[
                iam.PolicyStatement(actions=["execute-api:Invoke"], resources=[operations]),
                iam.PolicyStatement(actions=["cloudformation:DescribeStacks"], resources=[itself]),
            ],
        )
        acknowledge_wildcards(
            policy, [operations], "A route is for the operations of one permission, and the API has one stage."
        )
        acknowledge_wildcards(policy, [itself], "Of a stack that is asked for by its name, the id is not known yet.")
