"""The page that a team shares: an HTTP API, and a function outside of the VPC that calls the control API.

The function has a role of its own, with a name that the control API knows. From this role alone the control API accepts
the name of a person.
"""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Aws, CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from joblane.cdk.constructs.code import ARCHITECTURES, RUNTIME
from joblane.cdk.constructs.http_stage import add_http_api, add_http_stage
from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.constructs.stage_key import READ, stage_key, use_statement
from joblane.cdk.nag import acknowledge, acknowledge_wildcards
from joblane.cdk.packaging import Package
from joblane.cdk.settings.apis import Oidc, PageSettings
from joblane.cdk.settings.keys import region_of
from joblane.cdk.settings.stage import Stage
from joblane.inspector.permission import Permission
from joblane.inspector.shared_page import KEY_LENGTH, VARIABLE, Configuration
from joblane.names import PAGE_URL, log_group_name

NAME = "page"
ROUTES = ("GET /", "GET /{path+}", "POST /{path+}")
ENTRY = "joblane.page.hosted.entry.handler"
TIMEOUT = Duration.seconds(29)
"""API Gateway's limit is 30."""
MEMORY_MB = 1024


def role_name(stage: Stage) -> str:
    """The name of the role. It includes the region, because names of roles are unique in the account."""
    return f"{stage.prefix}-{NAME}-{Aws.REGION}"


def role_session(stage: Stage) -> str:
    """The beginning of the ARN of the role in a session, as API Gateway passes it to the control function."""
    return f"arn:{Aws.PARTITION}:sts::{Aws.ACCOUNT_ID}:assumed-role/{role_name(stage)}/"


def page_url(stage: Stage) -> str | None:
    """The address of the page for other stacks, deployed after its own; None: the stage has no page.

    It is read from a parameter when such a stack changes. An export would keep the page from being removed.
    """
    return f"{{{{resolve:ssm:{_address(stage)}}}}}" if stage.page else None


def _address(stage: Stage) -> str:
    return f"/{stage.prefix}/page-url"


class SharedPage(Construct):
    """``control_url``: the address of the control API. ``operations``: the ARNs of its routes."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        settings: PageSettings,
        package: Package,
        control_url: str,
        operations: Sequence[str],
    ) -> None:
        super().__init__(scope, id_)
        stack, self._oidc = Stack.of(self), settings.oidc
        key = secretsmanager.Secret(
            self,
            "Key",
            description=f"Joblane, {stage.name}: the key that signs the sessions of the page",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                password_length=KEY_LENGTH, exclude_punctuation=True
            ),
            encryption_key=stage_key(self, stage),
            removal_policy=RemovalPolicy.DESTROY,
        )
        acknowledge(key, "SMG4", "A new key ends all sessions; the page about it says how to make one.")
        function = lambda_.Function(
            self,
            "Function",
            function_name=f"{stage.prefix}-{NAME}",
            description="Serves the page to people who have signed in",
            runtime=RUNTIME,
            architecture=ARCHITECTURES[stage.architecture],
            code=lambda_.Code.from_asset(str(package.path), asset_hash=package.hash),
            handler=ENTRY,
            timeout=TIMEOUT,
            memory_size=MEMORY_MB,
            reserved_concurrent_executions=settings.max_concurrency,
            logging_format=lambda_.LoggingFormat.JSON,
            application_log_level_v2=lambda_.ApplicationLogLevel.INFO,
            log_group=(logs := log_group(self, "Logs", stage=stage, name=log_group_name(f"{stage.prefix}-{NAME}"))),
            role=self._role(
                stage,
                {
                    ("logs:CreateLogStream", "logs:PutLogEvents"): [logs.log_group_arn],
                    ("execute-api:Invoke",): list(operations),
                    ("secretsmanager:GetSecretValue",): [key.secret_arn],
                },
            ),
        )
        acknowledge(function, "L1", "Lock, zip and tests all use this version of Python.")
        http = add_http_api(self, stage, name=NAME, function=function, routes=ROUTES, authorizer=None)
        acknowledge(http, "APIG4", "A browser comes without a token; the function leads it to the sign-in.")
        add_http_stage(self, http, stage, settings, name=NAME)
        url = settings.address or http.api_endpoint
        configuration = _configuration(stage, settings.oidc, url, control_url, key.secret_arn)
        function.add_environment(VARIABLE, configuration.to_text())
        ssm.StringParameter(self, "Address", parameter_name=_address(stage), string_value=url)
        CfnOutput(stack, PAGE_URL, value=url)

    def _role(self, stage: Stage, allowed: dict[tuple[str, ...], list[str]]) -> iam.Role:
        """The role: it may call the control API, and read the key of its sessions and the secret of its client."""
        if (secret := self._oidc.client_secret) is not None:
            reads = "secretsmanager:GetSecretValue" if ":secretsmanager:" in secret else "ssm:GetParameter"
            allowed = {**allowed, (reads,): [*allowed.get((reads,), []), secret]}
        statements = [
            iam.PolicyStatement(actions=list(actions), resources=resources) for actions, resources in allowed.items()
        ]
        if stage.usable_keys:
            region = region_of(stage.usable_keys[0])
            statements.append(use_statement("secretsmanager", READ, stage.usable_keys, region=region))
        role = iam.Role(
            self,
            "Role",
            role_name=role_name(stage),
            description=f"Joblane, {stage.name}: the page, which names people to the control API",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={"Permissions": iam.PolicyDocument(statements=statements)},
        )
        acknowledge_wildcards(
            role,
            allowed["execute-api:Invoke",],
            "A route has only the operations of one permission, and the control API checks the role of the person.",
        )
        return role


def _configuration(stage: Stage, oidc: Oidc, url: str, control_url: str, key: str) -> Configuration:
    return Configuration(
        stage=stage.name,
        prefix=stage.prefix,
        url=url,
        control_url=control_url,
        key_secret=key,
        issuer=oidc.issuer,
        client_id=oidc.client_id,
        client_secret=oidc.client_secret,
        scopes=oidc.scopes,
        name_claim=oidc.name_claim,
        roles_claim=oidc.roles_claim,
        groups={
            Permission.VIEW: oidc.roles.view,
            Permission.OPERATE: oidc.roles.operate,
            Permission.EDIT: oidc.roles.edit,
        },
        session_hours=oidc.session_hours,
    )
