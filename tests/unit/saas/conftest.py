"""Tests without credentials and database, and with this machine's network only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.world import mocked_aws


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS by moto, with new clients."""
    from saas import mail, uploads

    with mocked_aws(monkeypatch):
        uploads.s3.cache_clear()
        mail._ses.cache_clear()
        yield
        uploads.s3.cache_clear()
        mail._ses.cache_clear()
