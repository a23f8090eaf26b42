"""Settings of AWS that cannot work: boto3's error and what to check. A task with a row is accepted all the same."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as errors

from joblane import Enqueued, Job, JobClient, MessageClient
from joblane.errors import SendError
from joblane.record.driver.database import Database
from joblane.sqs.client import PAUSED
from tests.fake_sqs import FakeSqs, Fault, refusal
from tests.logs import lines
from tests.plain_boto3 import use_plain_boto3
from tests.samples import Sample, sample_one


@dataclass(frozen=True)
class Bad:
    """``env``: variables, with ``{folder}``, ``{closed}`` (a port without a server) and ``{port}`` (of SQS). ``lacks``:
    variables to remove. ``config``: AWS's configuration file. ``answer``: of SQS. ``error``: boto3's error. ``advice``:
    a part of the sentence.
    """

    error: type[Exception]
    advice: str
    env: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    config: str = ""
    answer: Fault | None = None


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TLS = {"AWS_ENDPOINT_URL": "https://127.0.0.1:{port}"}
SETTINGS = {
    "no credentials": Bad(errors.NoCredentialsError, "Give the process a role", lacks=KEYS),
    "half of the credentials": Bad(errors.PartialCredentialsError, "AWS_SECRET_ACCESS_KEY", lacks=KEYS[1:]),
    "an expired token": Bad(
        errors.ClientError, "Renew the credentials", answer=refusal(403, "ExpiredTokenException", "It is expired")
    ),
    "an unknown key": Bad(
        errors.ClientError, "Check AWS_ACCESS_KEY_ID", answer=refusal(403, "InvalidClientTokenId", "It is invalid")
    ),
    "a wrong secret": Bad(
        errors.ClientError, "Check AWS_SECRET_ACCESS_KEY", answer=refusal(403, "SignatureDoesNotMatch", "no")
    ),
    "no permission": Bad(errors.ClientError, "sqs:SendMessage", answer=refusal(403, "AccessDeniedException")),
    "no use of the queue's key": Bad(
        errors.ClientError, "the process may call kms:Decrypt and kms:Gen", answer=refusal(400, "KmsAccessDenied", "no")
    ),
    "no use of the key, as the older protocol says it": Bad(
        errors.ClientError, "Check the KMS key", answer=refusal(400, "KMS.AccessDeniedException", "no")
    ),
    "no queue": Bad(errors.ClientError, "JOBLANE_PREFIX", answer=refusal(400, "QueueDoesNotExist", "no queue")),
    "a profile that does not exist": Bad(errors.ProfileNotFound, "Check AWS_PROFILE", {"AWS_PROFILE": "p"}),
    "a broken configuration": Bad(errors.ConfigParseError, "AWS_CONFIG_FILE", config="no section"),
    "a role without a source": Bad(
        errors.PartialCredentialsError,
        "AWS_PROFILE",
        {"AWS_PROFILE": "p"},
        KEYS,
        "[profile p]\nrole_arn = arn:aws:iam::1:role/r\n",
    ),
    "a sign-in that has ended": Bad(
        errors.SSOTokenLoadError,
        "aws sso login",
        {"AWS_PROFILE": "p"},
        KEYS,
        "[profile p]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n"
        "[sso-session s]\nsso_region = eu-west-1\nsso_start_url = https://sso\n",
    ),
    "a command for credentials that fails": Bad(
        errors.CredentialRetrievalError,
        "Check the role, the profile or the command",
        {"AWS_PROFILE": "p"},
        KEYS,
        "[profile p]\ncredential_process = false\n",
    ),
    "a command for credentials that does not exist": Bad(
        FileNotFoundError,
        "Check the files and commands",
        {"AWS_PROFILE": "p"},
        KEYS,
        "[profile p]\ncredential_process = {folder}/none\n",
    ),
    "an endpoint without a scheme": Bad(ValueError, "begins with http://", {"AWS_ENDPOINT_URL": "sqs.local:4566"}),
    "a port that is no number": Bad(ValueError, "a port is a number", {"AWS_ENDPOINT_URL": "http://sqs.local:http"}),
    "an endpoint that refuses": Bad(
        errors.EndpointConnectionError, "Check AWS_ENDPOINT_URL", {"AWS_ENDPOINT_URL": "http://127.0.0.1:{closed}"}
    ),
    "no region": Bad(errors.NoRegionError, "Set AWS_REGION", lacks=("AWS_DEFAULT_REGION",)),
    "a region that is no region": Bad(errors.InvalidRegionError, "Set AWS_REGION", {"AWS_REGION": "eu west 1"}),
    "a proxy that refuses": Bad(
        errors.ProxyConnectionError, "Check HTTP_PROXY", {"HTTP_PROXY": "http://127.0.0.1:{closed}"}
    ),
    "a proxy that is no address": Bad(errors.HTTPClientError, "HTTP_PROXY", {"HTTP_PROXY": "http://[no"}),
    "a CA bundle that is missing": Bad(
        errors.SSLError, "Check AWS_CA_BUNDLE", {**TLS, "AWS_CA_BUNDLE": "{folder}/none.pem"}
    ),
    "a CA bundle that is not one": Bad(
        errors.SSLError, "Check AWS_CA_BUNDLE", {**TLS, "AWS_CA_BUNDLE": "{folder}/CONFIG_FILE"}
    ),
    "a mode of defaults that does not exist": Bad(
        errors.InvalidDefaultsMode, "Check AWS_DEFAULTS_MODE", {"AWS_DEFAULTS_MODE": "fast"}
    ),
}


@pytest.fixture
def closed() -> Iterator[int]:
    """A port on which no server listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def sqs() -> Iterator[FakeSqs]:
    with FakeSqs.running() as sqs:
        yield sqs


def use(bad: Bad, sqs: FakeSqs, closed: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use_plain_boto3(monkeypatch, folder)
    values: dict[str, Any] = {"folder": folder, "closed": closed, "port": sqs.port}
    (folder / "CONFIG_FILE").write_text(bad.config.format(**values))
    for name in bad.lacks:
        monkeypatch.delenv(name)
    for name, value in {"AWS_ENDPOINT_URL": sqs.url, **bad.env}.items():
        monkeypatch.setenv(name, value.format(**values))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    sqs.faults = [bad.answer] * 3 if bad.answer else []


@pytest.mark.parametrize("name", SETTINGS)
def test_a_client_without_a_record_raises_what_to_check(
    name: str, sqs: FakeSqs, closed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = SETTINGS[name]
    use(bad, sqs, closed, monkeypatch, tmp_path)
    jobs = MessageClient()
    with pytest.raises(SendError) as raised:
        jobs.enqueue(sample_one, Sample())
    cause = raised.value.__cause__
    assert isinstance(cause, bad.error)
    assert str(raised.value).startswith(f"jobs-default-sample-one: {str(cause).rstrip('.: ')}. ")
    assert bad.advice in str(raised.value)
    many = jobs.enqueue_many([Job(sample_one, Sample()), Job(sample_one, Sample())])
    assert [type(result) for result in many] == [SendError, SendError]
    assert all(bad.advice in str(result) for result in many)
    assert not sqs.accepted


def test_a_token_with_a_line_end_is_in_no_error(
    sqs: FakeSqs, closed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = Bad(errors.HTTPClientError, "the keys have no line ends", {"AWS_SESSION_TOKEN": "planted-\ntoken"})
    use(bad, sqs, closed, monkeypatch, tmp_path)
    with pytest.raises(SendError, match=bad.advice) as raised:
        MessageClient().enqueue(sample_one, Sample())
    assert isinstance(raised.value.__cause__, bad.error)
    assert "planted" not in str(raised.value)


def test_a_client_with_a_record_accepts_the_task_and_logs_what_to_check(
    database_url: str, sqs: FakeSqs, closed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    with JobClient() as jobs:
        accepted: list[str] = []
        for name, bad in SETTINGS.items():
            with pytest.MonkeyPatch.context() as patch, lines() as logged:
                use(bad, sqs, closed, patch, tmp_path)
                jobs._producer.sqs = type(jobs._producer.sqs)()
                one = jobs.enqueue(sample_one, Sample())
                many = jobs.enqueue_many([Job(sample_one, Sample()), Job(sample_one, Sample())])
            for result in (one, *many):
                assert isinstance(result, Enqueued), name
                assert not result.sent, name
                accepted.append(result.id)
            texts = [line["error"] for line in logged.fields]
            assert texts, name
            assert all(bad.advice in text for text in texts if text != PAUSED), name
    database = Database(database_url)
    rows = database.get().run("select id from joblane.tasks where sweep_at is not null")
    database.drop()
    assert sorted(row[0] for row in rows) == sorted(accepted)
    assert not sqs.accepted
