"""How a connection logs in: with an IAM token, a secret or a password, as the address says."""

from __future__ import annotations

import json
import re
import ssl
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cryptography import x509

from joblane import secret_values
from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.login import RDS_HOST, IamLogin, LoginError, PasswordLogin, SecretLogin
from joblane.record.driver.opening import RDS_CERTIFICATES
from tests.world import mocked_aws

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "acme.cluster-c1.eu-central-1.rds.amazonaws.com"
ARN = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with mocked_aws(monkeypatch, "eu-central-1"):
        monkeypatch.setattr(secret_values, "_kept", {})
        yield


@pytest.fixture
def secrets(aws: None) -> Any:
    return boto3.client("secretsmanager")


def login_of(url: str) -> Any:
    return Database(url)._options["login"]


# --- IAM -----------------------------------------------------------------------------------------------------------


def test_a_token_equals_the_token_of_the_sdk(aws: None) -> None:
    sdk = boto3.client("rds")
    for _ in range(20):  # until both are made within the same second
        user, token = IamLogin("jobs", HOST, 5432).now()
        wanted = sdk.generate_db_auth_token(HOST, 5432, "jobs")
        if re.findall(r"X-Amz-Date=\w+", wanted) == re.findall(r"X-Amz-Date=\w+", str(token)):
            break
    assert (user, token) == ("jobs", wanted)


def test_the_region_comes_from_the_host_or_from_the_environment(aws: None) -> None:
    assert "%2Feu-west-1%2Frds-db" in str(IamLogin("jobs", HOST.replace("central", "west"), 5432).now()[1])
    china = "acme.cluster-c1.rds.cn-north-1.amazonaws.com.cn"
    assert "%2Fcn-north-1%2Frds-db" in str(IamLogin("jobs", china, 5432).now()[1])
    assert "%2Feu-central-1%2Frds-db" in str(IamLogin("jobs", "db.internal", 5432).now()[1])


def test_a_login_without_a_region_or_credentials_fails_and_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(LoginError, match="auth=iam: no AWS credentials were found") as caught:
        IamLogin("jobs", HOST, 5432).now()
    assert is_unavailable(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(LoginError, match=r"no region in 'db.internal'; set AWS_REGION"):
        IamLogin("jobs", "db.internal", 5432).now()


# --- A secret ------------------------------------------------------------------------------------------------------


def test_a_secret_is_read_once_and_again_after_the_server_refuses_it(secrets: Any) -> None:
    secrets.create_secret(Name="acme", SecretString=json.dumps({"username": "jobs", "password": "one", "port": 5432}))
    login = SecretLogin("acme")
    assert login.now() == ("jobs", "one")
    secrets.put_secret_value(SecretId="acme", SecretString=json.dumps({"username": "jobs", "password": "two"}))
    assert login.now() == ("jobs", "one")
    assert login.renewed()
    assert login.now() == ("jobs", "two")
    assert not login.renewed()


@pytest.mark.parametrize(
    "text", ["hunter2", '["hunter2"]', '{"username": "hunter2"}', "null", '{"password": "hunter2"}']
)
def test_a_malformed_secret_is_refused_and_not_shown(secrets: Any, text: str) -> None:
    secrets.create_secret(Name="acme", SecretString=text)
    with pytest.raises(LoginError, match="'acme': a JSON object with username and password is required") as caught:
        SecretLogin("acme").now()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unreadable_secret_is_named_and_the_database_is_unavailable(secrets: Any) -> None:
    with pytest.raises(LoginError, match=r"DATABASE_URL: secret 'nothing': .*ResourceNotFoundException") as caught:
        SecretLogin("nothing").now()
    assert is_unavailable(caught.value)
    secrets.create_secret(Name="bytes", SecretBinary=b"x")
    with pytest.raises(LoginError, match="secret 'bytes': contains binary data"):
        SecretLogin("bytes").now()


@pytest.mark.parametrize(
    "text",
    ["hunter2", "mysql://jobs:hunter2@db/acme", "postgresql://jobs:hun/ter2@db/acme", "postgresql:///?secret=hunter2"],
)
def test_a_secret_without_a_url_is_refused_and_not_shown(secrets: Any, text: str) -> None:
    secrets.create_secret(Name="url", SecretString=text)
    with pytest.raises(LoginError, match=r"secret 'url': its text is not postgresql://user:password@host") as caught:
        Database("postgresql:///?secret=url").get()
    assert "hun" not in str(caught.value)
    assert "ter2" not in "".join(traceback.format_exception(caught.value))
    assert is_unavailable(caught.value)


# --- Addresses -----------------------------------------------------------------------------------------------------


def test_an_address_decides_how_to_log_in() -> None:
    assert isinstance(login_of("postgresql://jobs:secret@db.internal/acme"), PasswordLogin)
    assert isinstance(login_of("postgresql://jobs@db.internal/acme?auth=iam&sslmode=verify-full"), IamLogin)
    by_secret = login_of(f"postgresql://{HOST}:5432/acme?secret={ARN}")
    assert isinstance(by_secret, SecretLogin)
    assert by_secret._secret == ARN
    assert Database(f"postgresql://{HOST}/acme?secret={ARN}").another()._options["login"] is not by_secret


def test_two_connections_of_a_process_share_a_secret_that_was_read() -> None:
    database = Database(f"postgresql://{HOST}/acme?secret={ARN}")
    assert database.another()._options["login"] is database._options["login"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("auth=password", "auth: must be 'iam'"),
        ("auth=iam", "auth=iam: the user is required"),
        ("auth=iam&secret=acme", "give one of a password, auth=iam and secret=NAME"),
        ("sslmode=disable", "sslmode: the server is always verified"),
        (
            "conect_timeout=3",
            "unknown parameter 'conect_timeout'; the parameters are auth, secret, sslrootcert, sslmode",
        ),
    ],
)
def test_an_invalid_parameter_is_refused_by_name(query: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"DATABASE_URL: {problem}"):
        Database(f"postgresql://db.internal/acme?{query}")


def test_a_password_together_with_another_login_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="give one of a password") as caught:
        Database("postgresql://jobs:hunter2@db.internal/acme?auth=iam")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://jobs:p/hunter2@db.internal:5432/acme",
        "postgresql://jobs:12?hunter2=x@db.internal/acme",
        "postgresql://jobs:12#hunter2@db.internal/acme",
        "postgresql://jobs:[hunter2@db.internal/acme",
        "postgresql://jobs:12/hunter2@db.internal/acme",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        Database(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# --- Certificates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOST, "eu-central-1"),
        ("acme.proxy-c1.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("acme.c1.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("acme.cluster-c1.rds.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        ("acme.cluster-c1.cn-north-1.rds.amazonaws.com.cn", "cn-north-1"),
        ("acme.c1.rds.eu-central-1.amazonaws.com", None),
        ("acme.c1.cn-north-1.amazonaws.com.cn", None),
        ("rds.cn-north-1.amazonaws.com.cn", None),
        ("acme.rds.amazonaws.com.example.com", None),
        ("rds.amazonaws.com", None),
    ],
)
def test_hosts_of_rds_are_recognised_by_their_names(host: str, region: str | None) -> None:
    found = RDS_HOST.search(host)
    assert (found["region"] if found else None) == region


def test_each_certificate_is_a_valid_self_signed_authority_of_rds() -> None:
    certificates = x509.load_pem_x509_certificates(RDS_CERTIFICATES.read_bytes())
    assert len(certificates) > 60
    for certificate in certificates:
        assert "Amazon RDS" in certificate.subject.rfc4514_string()
        certificate.verify_directly_issued_by(certificate)
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert certificate.not_valid_after_utc > datetime.now(UTC)
    assert len(ssl.create_default_context(cafile=str(RDS_CERTIFICATES)).get_ca_certs()) == len(certificates)
