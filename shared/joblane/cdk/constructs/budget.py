"""The budget of a stage: AWS Budgets notifies a topic when the stage costs more than its setting says."""

from __future__ import annotations

from aws_cdk import Aws
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_sns as sns
from constructs import Construct

from joblane.cdk.settings.stage import STAGE_TAG, Stage

NOTIFICATIONS = (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
"""Costs → percent of the budget above which a notification is sent. The forecast needs about five weeks of costs.
Source: AWS Cost Management, *Best practices for AWS Budgets*."""
ACTIVATE_TAG = (
    "aws ce update-cost-allocation-tags-status --cost-allocation-tags-status "
    f"TagKey={STAGE_TAG},Status=Active --region us-east-1"
)
"""Command of the account that pays. The tag is known about a day after the first deploy, and counted about a day later.
Sources: UpdateCostAllocationTagsStatus, AWS Cost Management API reference; AWS Billing, *Activating user-defined cost
allocation tags*."""


class StageBudget(Construct):
    """The costs of a month, of all resources with the stage's tag, against the setting ``monitoring.budget``.

    A credit pays costs, so costs are counted without credits. Otherwise a new account would hear nothing until its
    credits have expired. Source: CostTypes, AWS Budgets API reference: ``IncludeCredit`` is true by default.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, dollars: float, topic: sns.ITopic) -> None:
        super().__init__(scope, id_)
        subscriber = budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=topic.topic_arn)
        budget = budgets.CfnBudget(
            self,
            "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                # An account has one budget of a name, and CloudFormation replaces one whose notifications change.
                # Source: CloudFormation, *AWS::Budgets::Budget*; DuplicateRecordException, AWS Budgets API reference
                budget_name="-".join(
                    [stage.prefix, Aws.REGION, *(f"{kind.lower()}-{percent}" for kind, percent in NOTIFICATIONS)]
                ),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=dollars, unit="USD"),
                # Source: AWS Cost Management, *Budget filters*; hashicorp/terraform-provider-aws, issue 40987
                cost_filters={"TagKeyValue": [f"user:{STAGE_TAG}${stage.name}"]},
                cost_types=budgets.CfnBudget.CostTypesProperty(include_credit=False, include_refund=False),
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        notification_type=kind,
                        comparison_operator="GREATER_THAN",
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[subscriber],
                )
                for kind, percent in NOTIFICATIONS
            ],
        )
        budget.node.add_dependency(topic)  # and its policy: Budgets sends nothing to a topic that refuses it
