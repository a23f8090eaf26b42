"""Redirection of the standard output to the null device, so that writing it is measured and not shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Redirect logs and metrics to the null device."""
    sys.stdout.flush()
    saved = os.dup(1)
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null_device)
