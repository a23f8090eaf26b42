"""The addresses that boto3 calls with dual-stack endpoints, compared with those that AWS's pages list."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.httpsession import URLLib3Session
from botocore.session import Session

from joblane import secret_values
from joblane.cdk.services import SERVICES, advice_for
from joblane.inspector.stage.aws import client
from joblane.sqs.client import Sqs
from saas import mail, uploads
from tests.pages import ROOT

REGION = "eu-west-1"
LISTED = {name: service.dual_stack.format(region=REGION) for name, service in SERVICES.items() if service.dual_stack}


class CalledError(Exception):
    """A request would have been sent to ``host``."""

    def __init__(self, host: str) -> None:
        self.host = host


@pytest.fixture(autouse=True)
def dual_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a function in a network with egress ipv6, without a network."""

    def send(_: URLLib3Session, request: AWSPreparedRequest) -> None:
        raise CalledError(urlsplit(request.url).netloc)

    monkeypatch.setattr(URLLib3Session, "send", send)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)


def functions() -> None:
    with client("lambda", REGION) as aws:
        aws.list_event_source_mappings()


def schedules() -> None:
    with client("scheduler", REGION) as aws:
        aws.list_schedules()


def logs() -> None:
    with client("logs", REGION) as aws:
        aws.filter_log_events(logGroupName="group")


CALLS: dict[str, Callable[[], object]] = {
    "sqs": lambda: Sqs().url("queue"),
    "lambda": functions,
    "scheduler": schedules,
    "logs": logs,
    "secretsmanager": lambda: secret_values.fetch("name"),
    "sesv2": lambda: mail._ses.__wrapped__(3.0).get_account(),
}


@pytest.mark.parametrize("service", CALLS)
def test_the_librarys_calls_go_to_the_dual_stack_hosts_that_aws_lists(service: str) -> None:
    with pytest.raises(CalledError) as called:
        CALLS[service]()
    assert called.value.host == LISTED[service]


@pytest.mark.parametrize("service", CALLS)
def test_the_address_of_an_emulator_counts_more(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    with pytest.raises(CalledError) as called:
        CALLS[service]()
    assert called.value.host == "127.0.0.1:4566"


def test_a_download_link_is_for_the_dual_stack_host_of_the_bucket() -> None:
    s3 = uploads.s3.__wrapped__()
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "exports", "Key": "key"})
    assert urlsplit(link).netloc == f"exports.{LISTED['s3']}"


def test_the_table_has_the_hosts_that_boto3_composes() -> None:
    session = Session()
    composed = {name: urlsplit(session.create_client(name).meta.endpoint_url).netloc for name in LISTED}
    # meta has the general rule; the request goes to the listed host, as the test above shows
    assert composed.pop("secretsmanager") == f"secretsmanager.{REGION}.api.aws"
    assert composed == {name: host for name, host in LISTED.items() if name != "secretsmanager"}


def test_boto3_composes_a_host_for_a_service_without_a_dual_stack_endpoint() -> None:
    assert SERVICES["comprehendmedical"].dual_stack is None
    made = Session().create_client("comprehendmedical", region_name="us-east-1")
    assert made.meta.endpoint_url == "https://comprehendmedical.us-east-1.api.aws"


def test_the_page_lists_the_services_of_the_table() -> None:
    page = (ROOT / "docs" / "how-to" / "network.md").read_text()
    [listed] = re.findall(r"Joblane knows the addresses of these services: ([^.]+)\.", page)
    assert re.findall(r"`(\w+)`", listed) == list(SERVICES)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("dynamodb", None),
        ("dynamoDB", "did you mean 'dynamodb'?"),
        ("step-functions", "did you mean 'stepfunctions'?"),
        ("postgres over there", "the name of boto3.client() is required, such as 'dynamodb'"),
    ],
)
def test_an_unknown_service_is_answered_with_the_nearest(name: str, advice: str | None) -> None:
    assert advice_for(name) == advice
