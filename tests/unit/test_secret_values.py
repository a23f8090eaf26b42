"""Settings whose values are in Secrets Manager: read on use, kept for a while, and in no error."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from botocore.loaders import Loader

from joblane import secret_values
from joblane.secret_values import KEPT_SECONDS, SecretError
from joblane.settings import SECRETS, Settings
from tests.world import mocked_aws

VALUE = "hunter2"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Secrets Manager by moto, and a stage with a reference for ``API_KEY`` and a text for ``PLAIN``."""
    with mocked_aws(monkeypatch):
        monkeypatch.setattr(secret_values, "_kept", {})
        monkeypatch.setenv("PLAIN", "text")
        refer(monkeypatch, secret="acme/api", field="key")
        yield boto3.client("secretsmanager")


def refer(monkeypatch: pytest.MonkeyPatch, **reference: str) -> None:
    monkeypatch.setenv(SECRETS, json.dumps({"API_KEY": reference}))


def test_a_text_and_a_secret_are_read_in_the_same_way(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.create_secret(Name="acme/api", SecretString=json.dumps({"key": VALUE, "port": 587}))
    settings = Settings(["API_KEY", "PLAIN", "MISSING"])
    assert dict(settings) == {"API_KEY": VALUE, "PLAIN": "text"}
    assert settings.get("MISSING", "none") == "none"
    with pytest.raises(KeyError):
        settings["PATH"]
    # and a number in a JSON secret, and the whole text
    refer(monkeypatch, secret="acme/api", field="port")
    assert settings["API_KEY"] == "587"
    refer(monkeypatch, secret="acme/api")
    assert json.loads(settings["API_KEY"])["key"] == VALUE


def test_a_secret_is_read_when_it_is_used_and_not_before(secrets: Any) -> None:
    settings = Settings(["API_KEY", "PLAIN"])
    assert list(settings) == ["API_KEY", "PLAIN"]
    assert (len(settings), "API_KEY" in settings, settings["PLAIN"]) == (2, True, "text")
    assert VALUE not in repr(settings)
    with pytest.raises(SecretError):  # there is none, and nothing above asked for it
        settings["API_KEY"]


def test_a_secret_is_kept_for_five_minutes(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("joblane.secret_values.time.time", lambda: now)
    secrets.create_secret(Name="acme/api", SecretString='{"key": "one"}')
    settings = Settings(["API_KEY"])
    assert settings["API_KEY"] == "one"
    secrets.put_secret_value(SecretId="acme/api", SecretString='{"key": "two"}')
    now += KEPT_SECONDS - 1
    assert Settings(["API_KEY"])["API_KEY"] == "one"
    now += 1
    assert settings["API_KEY"] == "two"
    # and a clock that is set back
    secrets.put_secret_value(SecretId="acme/api", SecretString='{"key": "three"}')
    now -= 3600
    assert settings["API_KEY"] == "three"


@pytest.mark.parametrize("older", [False, True])
def test_a_function_with_ipv6_asks_the_ordinary_host(older: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older SDKs would compose ``secretsmanager.eu-central-1.api.aws``, and the installed one may have their rules."""
    asked: list[str] = []
    load = Loader.load_service_model

    def load_older(self: Any, service: str, kind: str, *args: Any, **given: Any) -> Any:
        text = json.dumps(load(self, service, kind, *args, **given))
        if kind == "endpoint-rule-set-1":
            text = text.replace("{Region}.amazonaws.com", "{Region}.{PartitionResult#dualStackDnsSuffix}")
        return json.loads(text)

    def send(_: Any, request: AWSPreparedRequest) -> AWSResponse:
        asked.append(request.url)
        body = Mock(stream=lambda: [json.dumps({"SecretString": VALUE}).encode()])
        return AWSResponse(request.url, 200, HTTPHeaders(), body)

    with mocked_aws(monkeypatch, "eu-central-1"):
        pass  # leaves the shell's settings for AWS out
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    monkeypatch.setattr(URLLib3Session, "send", send)
    if older:
        monkeypatch.setattr(Loader, "load_service_model", load_older)
    assert secret_values.fetch("acme/api") == VALUE
    assert asked == ["https://secretsmanager.eu-central-1.amazonaws.com/"]


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ({}, "An error occurred (ResourceNotFoundException) when calling the GetSecretValue operation"),
        ({"SecretBinary": VALUE.encode()}, "contains binary data; text is required"),
        ({"SecretString": VALUE}, "a JSON object with the field 'key' is required"),
        ({"SecretString": f'["{VALUE}"]'}, "a JSON object with the field 'key' is required"),
        ({"SecretString": f'{{"other": "{VALUE}"}}'}, "a JSON object with the field 'key' is required"),
        ({"SecretString": f'{{"key": ["{VALUE}"]}}'}, "the field 'key' is neither a string nor a number"),
    ],
)
def test_an_unusable_secret_is_refused_by_the_settings_name(stored: dict[str, Any], problem: str, secrets: Any) -> None:
    if stored:
        secrets.create_secret(Name="acme/api", **stored)
    with pytest.raises(SecretError) as caught:
        Settings(["API_KEY"])["API_KEY"]
    assert str(caught.value).startswith(f"API_KEY: secret 'acme/api': {problem}")
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_a_refused_permission_is_not_remembered(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(_: Any, operation: str, __: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}, operation)

    secrets.create_secret(Name="acme/api", SecretString=f'{{"key": "{VALUE}"}}')
    with monkeypatch.context() as denied:
        denied.setattr(BaseClient, "_make_api_call", deny)
        with pytest.raises(SecretError, match=r"API_KEY: secret 'acme/api': .*AccessDeniedException.*not authorized"):
            Settings(["API_KEY"])["API_KEY"]
    assert Settings(["API_KEY"])["API_KEY"] == VALUE


def test_a_task_without_a_secret_imports_no_sdk_for_its_settings() -> None:
    code = (
        "import os, sys; from joblane.settings import Settings; "
        "os.environ['PLAIN'] = 'text'; assert Settings(['PLAIN'])['PLAIN'] == 'text'; "
        "assert not {'boto3', 'botocore'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
