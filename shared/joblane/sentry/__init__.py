"""Reports to Sentry, with the extra ``joblane[sentry]`` and ``JOBLANE_SENTRY=1``."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from joblane.errors import DeclarationError
from joblane.installation import missing
from joblane.tasks.event_kinds import OBSERVERS

DSN = "SENTRY_DSN"
"""Source: Sentry, *Python, Options*; so are the names of the environment and of the release."""
RATE = "SENTRY_TRACES_SAMPLE_RATE"


def start() -> None:
    """Report the runs of this process, if nothing does so yet. A client that the program has set up is used.

    Raises :class:`DeclarationError` for a wrong setting or a missing package.
    """
    try:
        import sentry_sdk

        from joblane.sentry.reports import Reports
    except ModuleNotFoundError as error:
        raise DeclarationError(missing(str(error.name), "sentry")) from None
    if any(isinstance(each, Reports) for each in OBSERVERS):
        return
    if not sentry_sdk.get_client().is_active():
        # without integrations, no log lines, arguments, variables or bodies of requests are sent
        sentry_sdk.init(
            dsn=_dsn(),
            traces_sample_rate=_rate(),
            default_integrations=False,
            include_local_variables=False,
            max_request_body_size="never",
        )
    OBSERVERS.append(Reports())


def _dsn() -> str:
    text = os.environ.get(DSN, "").strip()
    try:
        parts = urlsplit(text)
        project = parts.path.rpartition("/")[2]
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.username and project.isdecimal()
    except ValueError:
        is_right = False
    if not is_right:  # it may contain a password
        raise DeclarationError(
            f"{DSN}: an address with a key and the number of a project is required, for example "
            "https://KEY@o1.ingest.sentry.io/2. Or call sentry_sdk.init(…) before the worker starts"
        )
    return text


def _rate() -> float:
    text = os.environ.get(RATE, "").strip() or "0"
    try:
        rate = float(text)
    except ValueError:
        rate = -1
    if not 0 <= rate <= 1:
        raise DeclarationError(f"{RATE}: a number from 0 to 1 is required, not {text!r}")
    return rate
