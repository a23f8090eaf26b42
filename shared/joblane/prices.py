"""Prices of AWS in one table: US dollars, region us-east-1, first tiers, without any free tier and without tax.

The price pages of AWS load their figures by script, so the figures come from other sites, with the date of each.
``docs/explanation/costs.md`` shows the table. All amounts that are calculated from it are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

AS_OF = date(2026, 11, 24)
"""The date on which the prices were looked up."""
MONTH = timedelta(days=30)
"""A month of an estimate."""


@dataclass(frozen=True, slots=True)
class Price:
    """``dollars`` for one ``unit``; the unit ``million`` is a million pieces. ``source``: the page and its date."""

    dollars: float
    unit: str
    source: str

    @property
    def each(self) -> float:
        """Return the dollars for one piece."""
        return self.dollars / 1e6 if self.unit == "million" else self.dollars

    def __str__(self) -> str:
        digits = f"{self.dollars:.10f}".rstrip("0")
        return f"${max(digits, f'{self.dollars:.2f}', key=len)} per {self.unit}"


PRICES: Mapping[str, Price] = {
    "SQS request": Price(
        0.40,
        "million",
        "aws.amazon.com/sqs/pricing, standard queues, by cloudburn.io, 2026-03, and factualminds.com, 2026-06",
    ),
    "SQS request of a fair queue, on top": Price(0.10, "million", "the same, by cloudburn.io, 2026-03"),
    "Lambda request": Price(0.20, "million", "aws.amazon.com/lambda/pricing; no dated copy"),
    "Lambda GB-second": Price(0.0000133334, "GB-second", "the same, arm64, by cloudchipr.com, 2024"),
    "Lambda GB-second, x86_64": Price(0.0000166667, "GB-second", "the same, by git.mcrn.ar/mariano, 2026-05"),
    "Schedule invocation": Price(
        1.00,
        "million",
        "aws.amazon.com/eventbridge/pricing, by cloudburn.io, 2026-03; the first 14 million a month are free",
    ),
    "Event": Price(
        1.00,
        "million",
        "aws.amazon.com/eventbridge/pricing, custom events of up to 64 KB, by factualminds.com, 2026-06",
    ),
    "Webhook request": Price(0.20, "million", "the same, API destinations; a repeated request counts again"),
    "Log ingestion": Price(0.50, "GB", "aws.amazon.com/cloudwatch/pricing, by factualminds.com, 2026-06"),
    "Metric": Price(0.30, "metric-month", "the same, by signoz.io, 2026-02"),
    "Alarm": Price(0.10, "alarm-month", "the same, standard resolution, for each metric that it reads; no dated copy"),
    "Dashboard": Price(
        3.00,
        "dashboard-month",
        "the same, by factualminds.com, 2026-06; three of an account are free if each has at most 50 metrics",
    ),
    "Dashboard with more than 50 metrics": Price(3.00, "dashboard-month", "the same"),
    "Secret": Price(
        0.40,
        "secret-month",
        "aws.amazon.com/secrets-manager/pricing, by hivebook.wiki, undated; calls, $0.05 for 10,000, are not counted "
        "here",
    ),
    "Key": Price(1.00, "key-month", "aws.amazon.com/kms/pricing, by cloudburn.io, 2026-03; a rotation adds as much"),
    "KMS call": Price(
        3.00, "million", "the same, by wring.co, 2026-03, and factualminds.com, 2026-06: $0.03 for 10,000"
    ),
    "NAT instance hour": Price(
        0.0042, "hour", "aws.amazon.com/ec2/pricing/on-demand, a t4g.nano, by egresscost.com, 2026-03"
    ),
    "EBS GB-month": Price(0.08, "GB-month", "aws.amazon.com/ebs/pricing, gp3; no dated copy"),
    "NAT gateway hour": Price(0.045, "hour", "aws.amazon.com/vpc/pricing, by cloudburn.io, 2026-02"),
    "NAT gateway GB": Price(0.045, "GB", "the same"),
    "Public IPv4 hour": Price(0.005, "hour", "the same, by cloudburn.io, 2026-02, and factualminds.com, 2026-06"),
    "Traffic between zones": Price(
        0.01, "GB", "aws.amazon.com/ec2/pricing/on-demand, for each direction, by usage.ai, 2026-06"
    ),
    "Interface endpoint hour": Price(
        0.01,
        "hour and zone",
        "aws.amazon.com/privatelink/pricing, by factualminds.com, 2026-06; data, $0.01 for a GB, is not counted here",
    ),
    "Aurora ACU-hour": Price(
        0.12, "ACU-hour", "aws.amazon.com/rds/aurora/pricing, Aurora Standard, by awsnegotiations.com, 2026-05"
    ),
    "Aurora GB-month": Price(0.10, "GB-month", "the same"),
    "Aurora I/O request": Price(0.20, "million", "the same, by jusdb.com, undated"),
    **{
        f"RDS {class_} hour": Price(dollars, "hour", source)
        for class_, dollars, source in (
            ("db.t4g.micro", 0.016, "aws.amazon.com/rds/postgresql/pricing, a single zone, by infratally.com, 2026"),
            ("db.t4g.small", 0.032, "the same"),
            ("db.t4g.medium", 0.065, "the same"),
        )
    },
    "RDS GB-month": Price(0.115, "GB-month", "aws.amazon.com/rds/pricing, gp3, by usage.ai, 2026-06"),
    "S3 GB-month": Price(0.023, "GB-month", "aws.amazon.com/s3/pricing, Standard; no dated copy"),
    "HTTP API request": Price(1.00, "million", "aws.amazon.com/api-gateway/pricing, by awsforengineers.com, 2025-05"),
}
"""Billed item → price."""


SHARED_SQS_CALLS = 2
"""The SQS calls of an invocation: one receives its messages, one deletes them or changes their visibility."""


def invocation_dollars() -> float:
    """Return the dollars of an invocation without its time: the request, and its SQS calls."""
    return PRICES["Lambda request"].each + SHARED_SQS_CALLS * PRICES["SQS request"].each


def compute(machine: str) -> Price:
    """Return the price of a GB-second on ``machine``, a name of Python or of a stage's ``architecture``."""
    return PRICES["Lambda GB-second" if machine in ("arm64", "aarch64") else "Lambda GB-second, x86_64"]


ALLOWANCES: Mapping[str, float] = {
    "SQS request": 1e6,
    "Lambda request": 1e6,
    "Lambda GB-second": 400_000,
    "Lambda GB-second, x86_64": 400_000,
    "Schedule invocation": 14e6,
    "Log ingestion": 5,
    "KMS call": 20_000,
    "Metric": 10,
    "Alarm": 10,
    "Dashboard": 3,
}
"""Price → pieces that cost nothing, in each month, for all stages of an account together.

Sources: the pages of the prices; AWS, *AWS Free Tier*, "always free". The allowance of GB-seconds is one for both
architectures, and a stage has one.
"""
