"""Spans and metrics by OpenTelemetry, with the extra ``joblane[otel]`` and ``JOBLANE_OTEL=1``."""

from __future__ import annotations

from joblane.errors import DeclarationError
from joblane.installation import missing
from joblane.otel.check import check_settings
from joblane.tasks.event_kinds import ENQUEUEING, OBSERVERS


def start() -> None:
    """Observe the enqueues and the runs of this process, if nothing does so yet.

    Raises :class:`DeclarationError` for a missing package, or for a wrong setting of Joblane's own exporter.
    """
    try:
        from joblane.otel.provider import is_set
        from joblane.otel.spans import Spans

        if not is_set():
            import opentelemetry.sdk  # noqa: F401 - many packages depend on the API alone
    except ModuleNotFoundError as error:
        raise DeclarationError(missing(str(error.name), "otel")) from None
    from joblane.tasks.hooks import Hook

    if not is_set():
        check_settings()

    if not any(isinstance(each, Spans) for each in OBSERVERS):
        spans = Spans()
        OBSERVERS.append(spans)
        ENQUEUEING.append(Hook(spans.enqueue))
