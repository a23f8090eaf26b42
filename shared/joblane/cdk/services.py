"""AWS services that functions call, and the ways to them without a NAT gateway.

botocore cannot answer this: with ``AWS_USE_DUALSTACK_ENDPOINT`` it composes a dual-stack address for nearly every
service, whether AWS has it or not. So this table holds only services whose addresses AWS's own pages list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

S3 = "s3"
"""Reached from every network, by a gateway endpoint."""
REFERENCE = "https://docs.aws.amazon.com/general/latest/gr/"
"""AWS General Reference, *Service endpoints and quotas*: a page for each service, with its endpoints by region."""


@dataclass(frozen=True)
class Service:
    """``dual_stack``: host of the dual-stack endpoint. ``endpoint``: last part of the name of its VPC endpoint.

    ``page``: the page with the host, under :data:`REFERENCE` unless it is a whole address.
    """

    dual_stack: str | None
    endpoint: str
    page: str
    gateway: bool = False
    """True: its VPC endpoint is a gateway, which is free."""


def _api_aws(endpoint: str, page: str, *, gateway: bool = False) -> Service:
    return Service(f"{endpoint}.{{region}}.api.aws", endpoint, page, gateway)


SERVICES: Mapping[str, Service] = {
    "cloudwatch": _api_aws("monitoring", "cw_region.html"),
    "comprehend": _api_aws("comprehend", "comprehend.html"),
    "comprehendmedical": Service(None, "comprehendmedical", "comprehend-med_region.html"),
    "dynamodb": _api_aws("dynamodb", "ddb.html", gateway=True),
    "events": _api_aws("events", "ev.html"),
    "kms": _api_aws("kms", "https://docs.aws.amazon.com/kms/latest/developerguide/ipv6-kms.html"),
    "lambda": _api_aws("lambda", "lambda-service.html"),
    "logs": _api_aws("logs", "cwl_region.html"),
    "rekognition": _api_aws("rekognition", "rekognition.html"),
    S3: Service(
        "s3.dualstack.{region}.amazonaws.com",
        S3,
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/dual-stack-endpoints.html",
        gateway=True,
    ),
    "scheduler": _api_aws("scheduler", "eventbridgescheduler.html"),
    # its ordinary address is the dual-stack one, against the rule of all others
    "secretsmanager": Service(
        "secretsmanager.{region}.amazonaws.com",
        "secretsmanager",
        "https://docs.aws.amazon.com/secretsmanager/latest/userguide/asm_access.html#endpoints",
    ),
    "ses": _api_aws("email", "ses.html"),
    "sesv2": _api_aws("email", "ses.html"),
    "sns": _api_aws("sns", "sns.html"),
    "sqs": _api_aws("sqs", "sqs-service.html"),
    "stepfunctions": _api_aws("states", "step-functions.html"),
    "sts": _api_aws(
        "sts", "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_dual-stack_endpoint_support.html"
    ),
    "textract": _api_aws("textract", "textract.html"),
    "translate": _api_aws("translate", "translate-service.html"),
}
"""Name of the boto3 client → its addresses."""

_WITH_BUDGETS = """
ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 cn-north-1 cn-northwest-1
eu-central-1 eu-isoe-west-1 eu-west-1 eu-west-2 eu-west-3 eusc-de-east-1 sa-east-1 us-east-1 us-east-2
us-iso-east-1 us-iso-west-1 us-isob-east-1 us-isob-west-1 us-isof-east-1 us-isof-south-1 us-west-1 us-west-2
"""
BUDGET_REGIONS = frozenset(_WITH_BUDGETS.split())
"""Regions in which CloudFormation knows the type. Source: CloudFormation's schemas, October 2026."""


def dual_stack_problem(region: str) -> str | None:
    """Return why functions cannot use ``ipv6`` in the region, or None in the partition ``aws``.

    The hosts of the table are those of this partition. China and the European Sovereign Cloud have other suffixes. AWS
    GovCloud (US) has the same, but not every endpoint: Step Functions has only FIPS endpoints in us-gov-west-1. Source:
    AWS GovCloud (US) User Guide, *AWS Step Functions*.
    """
    partition = _partition(region)
    if partition in ("aws", None):
        return None
    return f"Joblane does not know the dual-stack endpoints of {region}, in the partition {partition}"


def budget_problem(region: str) -> str | None:
    """Return why a stage in ``region`` has no budget, or None. ``monitoring.budget`` is in US dollars."""
    if region not in BUDGET_REGIONS:
        return f"CloudFormation has no budgets in {region}; leave it out, and create the budget by hand"
    if (partition := _partition(region)) not in ("aws", None):
        return (
            f"it is in US dollars, and accounts in the partition {partition} can have another currency; leave it out, "
            "and create the budget by hand"
        )
    return None


def _partition(region: str) -> str | None:
    """Return the partition of a region; None: botocore does not know it."""
    from botocore.exceptions import UnknownRegionError
    from botocore.session import Session

    try:
        return Session().get_partition_for_region(region)
    except UnknownRegionError:
        return None


def advice_for(name: str) -> str | None:
    """Return what to write instead of ``name``, or None if boto3 has a service of this name."""
    # imported here, because few projects declare a service
    from botocore.session import Session

    known = Session().get_available_services()
    if name in known:
        return None
    near = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else "the name of boto3.client() is required, such as 'dynamodb'"
