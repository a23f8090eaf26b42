"""What is advised where AWS cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from joblane.inspector.stage import doctor as examination
from joblane.inspector.stage import doctor_aws as examined_aws
from joblane.inspector.stage import doctor_record as examined_record
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

    reach: Any = None
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(examined_record, "PARTS", ())
    monkeypatch.setattr(examined_aws, "PARTS", (("queues", "sqs:GetQueueUrl", away),))
    # when
    [told] = examination.examine(reach)
    # then
    assert told.grade is Grade.UNKNOWN
    assert told.do is not None
    assert advice in told.do
    assert ("credentials" in told.do) is (endpoint == "")
