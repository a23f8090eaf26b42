"""The control API, by which operators use the Inspector with their own IAM identity.

It has a route for each permission, and a managed policy for each route. It has no other authorizer and no ``$default``
route: API Gateway rejects a request that no policy allows.
"""

from __future__ import annotations

from aws_cdk import Aws, CfnOutput, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_authorizers import HttpIamAuthorizer
from constructs import Construct

from joblane.cdk.constructs.http_stage import add_http_api, add_http_stage
from joblane.cdk.constructs.shared_page import SharedPage
from joblane.cdk.errors import SynthError
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.packaging import Package
from joblane.cdk.settings.apis import Control
from joblane.cdk.settings.stage import Stage
from joblane.inspector.permission import ROUTES, Permission
from joblane.names import CONTROL_URL

FUNCTION = "control"
"""Name of the function behind the API, from :func:`~joblane.tasks.discovery.discover_functions`."""


class ControlStack(Stack):
    """The stack of the control API, and of the page that calls it, if the stage has one.

    ``function``: answers all routes. ``page``: the zip of the page.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        control: Control,
        function: lambda_.IFunction,
        page: Package | None = None,
    ) -> None:
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: the control API")
        http = add_http_api(
            self, stage, name=FUNCTION, function=function, routes=ROUTES, authorizer=HttpIamAuthorizer()
        )
        for permission in ROUTES.values():
            self._add_policy(http, stage, permission)
        add_http_stage(self, http, stage, control, name=FUNCTION)
        CfnOutput(self, CONTROL_URL, value=http.api_endpoint)
        if stage.page is not None:
            if page is None:
                raise SynthError(f"stage {stage.name!r}: page: its zip was not built")
            operations = [self._operations(http, permission) for permission in ROUTES.values()]
            SharedPage(
                self,
                "Page",
                stage=stage,
                settings=stage.page,
                package=page,
                control_url=http.api_endpoint,
                operations=operations,
            )

    def _operations(self, http: apigateway.HttpApi, permission: Permission) -> str:
        """Return the ARN of the operations of a route.

        The API's stage is a ``*``, as in the CDK's own grants, because there is only one.
        Source: API Gateway, *Control access for invoking an API*: ``API/STAGE/METHOD/PATH``.
        """
        return self.format_arn(service="execute-api", resource=http.api_id, resource_name=f"*/POST/{permission}/*")

    def _add_policy(self, http: apigateway.HttpApi, stage: Stage, permission: Permission) -> None:
        """Add ``PREFIX-PERMISSION-REGION``: the operations of one route, and finding the API's URL.

        No policy includes another.
        """
        operations = self._operations(http, permission)
        # the caller names the stack; its id, which ends the ARN, is not known at synth
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
            policy, [operations], "A route has only the operations of one permission, and the API has one stage."
        )
        acknowledge_wildcards(policy, [itself], "The stack's id, which ends its ARN, is not known at synth.")
