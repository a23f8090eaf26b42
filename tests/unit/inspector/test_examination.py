"""What is advised where AWS cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from shared.jobs.inspector import examination, examined_aws, examined_record
from shared.jobs.inspector.answers import Grade


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
