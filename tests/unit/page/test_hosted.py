"""Parts of the shared page's function: its files, its key, and its answer to an error of its own."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from joblane.cdk.packaging import LEFT_OUT_OF_PAGE, LIBRARY, _sources
from joblane.page.hosted import entry
from joblane.page.hosted.entry import client_secret, session_key
from joblane.page.hosted.issuer import IssuerUnavailableError, _is_safe
from joblane.project import LOCKS

PROGRAM = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pg8000", "sqlalchemy", "alembic", "aws_lambda_powertools", "cronsim", "tzdata"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import joblane.page.hosted.entry
joblane.inspector.wire.operations()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_zip_has_all_that_the_function_imports(tmp_path: Path) -> None:
    # given the files of the zip
    for path in _sources(LIBRARY, LEFT_OUT_OF_PAGE):
        target = tmp_path / path.relative_to(LIBRARY.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert not (tmp_path / "joblane" / "cli").exists()
    assert not (tmp_path / "joblane" / "record" / "migrations").exists()
    # when
    found = [path for path in sys.path if "site-packages" in path]
    program = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(tmp_path), *found]!r}\n{PROGRAM}"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    # then
    assert done.returncode == 0, done.stderr
    locked = set(re.findall(r"^([\w-]+)==", (LOCKS / "page.txt").read_text(), re.MULTILINE))
    known = packages_distributions()
    used = {name.lower().replace("_", "-") for module in done.stdout.split() for name in known.get(module, [])}
    assert used - locked - {"joblane"} <= {"botocore", "urllib3", "jmespath", "python-dateutil", "six"}
    assert {"pyjwt", "starlette", "jinja2"} <= used


class Secrets:
    """Secrets Manager with one secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_secret_value(self, SecretId: str) -> dict[str, Any]:  # noqa: N803
        assert SecretId == "arn:key"
        return {"SecretString": self.text}


def test_the_key_of_sessions_is_from_the_whole_secret() -> None:
    keys = {session_key("arn:key", Secrets(text)) for text in ("a" * 64, "a" * 64, f"{'a' * 63}b")}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 2


@pytest.mark.parametrize("text", ["", "a" * 63])
def test_a_key_that_is_too_short_is_not_used(text: str) -> None:
    with pytest.raises(ValueError, match="secret arn:key: 64 characters are required"):
        session_key("arn:key", Secrets(text))


@pytest.mark.parametrize(
    ("url", "issuer", "safe"),
    [
        ("https://id.example.com/token", "https://id.example.com", True),
        ("https://tokens.example.com", "https://id.example.com", True),
        ("http://127.0.0.1:9001/token", "http://127.0.0.1:8080", True),
        ("http://127.0.0.1:9001/2018-06-01/runtime/invocation/next", "https://id.example.com", False),
        ("http://localhost/token", "https://id.example.com", False),
        ("javascript://localhost/%0aalert(1)", "http://127.0.0.1:8080", False),
        ("http://id.example.com/token", "http://127.0.0.1:8080", False),
        ("https:///token", "https://id.example.com", False),
        (None, "https://id.example.com", False),
    ],
)
def test_an_issuer_leads_to_https_only(url: object, issuer: str, safe: bool) -> None:
    assert _is_safe(url, issuer) is safe


def test_a_secret_that_cannot_be_read_is_named_by_the_error_of_aws_only() -> None:
    def clients(service: str) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "s3cret"}}, "GetParameter")

    for service in ("ssm", "secretsmanager"):
        with pytest.raises(IssuerUnavailableError, match=r"cannot be read \(AccessDenied\)") as refused:
            client_secret(f"arn:aws:{service}:eu-central-1:1:x", clients)
        assert "s3cret" not in str(refused.value)


def test_an_error_of_the_function_shows_no_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Any:
        raise ValueError("s3cret")

    monkeypatch.setattr(entry, "page", fails)
    with caplog.at_level(logging.INFO):
        answer = entry.handler({"requestContext": {"http": {"method": "GET"}}}, None)
    assert answer["statusCode"] == 500
    assert "s3cret" not in json.dumps(answer) + caplog.text
    assert "ValueError in" in caplog.text


def test_a_page_that_is_too_slow_for_the_gateway_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a page that is not complete in time
    ends = threading.Event()
    monkeypatch.setattr(entry, "page", ends.wait)
    monkeypatch.setattr(entry, "ANSWER_SECONDS", 0)
    # when
    try:
        answer = entry.handler({"requestContext": {"http": {"method": "POST"}}}, None)
    finally:
        ends.set()
    # then
    assert answer["statusCode"] == 503
    assert "An action may have been carried out: check the audit" in answer["body"]
