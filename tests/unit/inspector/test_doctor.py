"""What is advised where AWS cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from joblane.inspector.stage import doctor, doctor_aws, doctor_record
from joblane.inspector.views import Grade


@pytest.mark.parametrize(
    ("endpoint", "advice"), [("http://127.0.0.1:4566", "`make status`"), ("", "check credentials, region")]
)
def test_an_emulator_that_is_away_is_not_a_matter_of_credentials(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, advice: str
) -> None:
    # given
    def away(_: object) -> Any:
        raise EndpointConnectionError(endpoint_url="http://there")

    scope: Any = None
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(doctor_record, "PARTS", ())
    monkeypatch.setattr(doctor_aws, "PARTS", (("queues", "sqs:GetQueueUrl", away),))
    # when
    [told] = doctor.checks(scope)
    # then
    assert told.grade is Grade.UNKNOWN
    assert told.do is not None
    assert advice in told.do
    assert ("credentials" in told.do) is (endpoint == "")
