"""What the platform's services raise. No text holds an address, a token or a secret."""

from __future__ import annotations


class PlatformError(Exception):
    """Root of the platform's errors."""


class SettingError(PlatformError, ValueError):
    """A setting is there and cannot be used. ``name`` is its variable; the value is not in the text."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name


class MailError(PlatformError):
    """A mail was not sent; another time it may be."""


class MailRefusedError(MailError):
    """A mail will never be taken: its recipient or its content was refused for good."""


class ServiceError(PlatformError):
    """A service gave no answer, or one outside of 2xx. ``service`` is its address without credentials or query."""

    def __init__(self, service: str, problem: str) -> None:
        super().__init__(f"{service}: {problem}")
        self.service = service


class StoreError(PlatformError):
    """The bucket did not do what it was asked to; another time it may."""
