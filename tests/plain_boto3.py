"""boto3 as users have it: without moto, and without this machine's settings for AWS."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import boto3
import pytest
from botocore import handlers, loaders, session
from moto.core.models import botocore_stubber

from joblane.settings import SWEEP_MINUTES


@cache
def loader() -> loaders.Loader:
    """The reader of botocore's descriptions of services, which keeps what it has read."""
    return loaders.create_loader()


def use_plain_boto3(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give the test's clients no handler of moto, and no settings but a region, keys, and empty files in ``folder``.

    They send no wake-ups, whose thread would use up the answers that a test gives.
    """
    for name in set(os.environ):
        if name.startswith(("AWS_", "_X_AMZN", "JOBLANE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(SWEEP_MINUTES, "5")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(folder / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    own = [spec for spec in handlers.BUILTIN_HANDLERS if spec[1] is not botocore_stubber]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", own)
    monkeypatch.setattr(session, "create_loader", lambda *_: loader())
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
