"""Errors of the platform's services. No text contains an address, a token or a secret."""

from __future__ import annotations


class PlatformError(Exception):
    """Root of the platform's errors."""


class SettingError(PlatformError, ValueError):
    """A setting has an invalid value. ``name`` is its variable; the text does not contain the value."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name


class MailError(PlatformError):
    """A mail was not sent. A later attempt may succeed."""


class MailRefusedError(MailError):
    """A mail was refused permanently, because of its recipient or its content."""


class ServiceError(PlatformError):
    """A service did not answer with status 2xx. ``service`` is its address without credentials or query."""

    def __init__(self, service: str, problem: str) -> None:
        super().__init__(f"{service}: {problem}")
        self.service = service


class StoreError(PlatformError):
    """An operation on the bucket failed. A later attempt may succeed."""
