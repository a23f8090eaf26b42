"""The credentials of a control API's caller that cannot be renewed, for example those of an assumed role."""

from __future__ import annotations

from typing import Any, cast

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, TokenRetrievalError

from joblane.inspector.remote import RemoteInspector
from joblane.local.errors import UnavailableError

EXPIRED: Any = {"Code": "ExpiredToken", "Message": "The security token included in the request is expired"}


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": EXPIRED}, "AssumeRole"),
        TokenRetrievalError(provider="sso", error_msg="Token has expired"),
    ],
)
def test_credentials_that_cannot_be_renewed_are_no_bug(error: Exception) -> None:
    class Ended:
        def get_frozen_credentials(self) -> None:
            raise error

    remote = RemoteInspector(
        "http://127.0.0.1:1", stage="dev", prefix="acme", region="eu-west-1", credentials=cast(Credentials, Ended())
    )
    with pytest.raises(UnavailableError, match=r"^The AWS credentials have expired: .*`aws sso login`"):
        remote.pauses()
