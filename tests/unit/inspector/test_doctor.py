"""The advice if AWS cannot be reached."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import aws, database, doctor
from joblane.inspector.views import Grade


@pytest.mark.parametrize(
    ("endpoint", "advice"), [("http://127.0.0.1:4566", "`joblane status`"), ("", "check credentials and region")]
)
def test_for_an_unavailable_emulator_credentials_are_not_suspected(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, advice: str
) -> None:
    # given
    def unreachable(_: object) -> Any:
        raise EndpointConnectionError(endpoint_url="http://there")

    nothing: Any = None
    scope = Scope(nothing, nothing, "jobs", {}, "op")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(database, "PARTS", ())
    monkeypatch.setattr(doctor, "OF_WORK", ())
    monkeypatch.setattr(aws, "PARTS", (("queues", "sqs:GetQueueUrl", unreachable),))
    # when
    [check] = doctor.checks(scope)
    # then
    assert check.grade is Grade.UNKNOWN
    assert check.do is not None
    assert advice in check.do
    assert ("credentials" in check.do) is (endpoint == "")
