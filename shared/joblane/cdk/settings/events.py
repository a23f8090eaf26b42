"""Settings of a stage's events: the bus, and a webhook that receives them."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from joblane.cdk.settings.section import SecretReference, Settings
from joblane.tasks.event_kinds import Kind

BUS = r"^[A-Za-z0-9._-]{1,256}$"
"""Source: CreateEventBus, EventBridge API reference. A slash is only in the names of partners' buses."""
HEADER = r"^[A-Za-z0-9-]{1,64}$"
MEANINGS = {
    BUS: "the name of an event bus in the account and region of the stage is required, for example default",
    HEADER: "the name of an HTTP header is required: letters, digits and hyphens, 64 characters at most",
}
"""Pattern → the value that is right, for errors."""
ENDPOINT = re.compile(r"(%[0-9A-Fa-f]{2}|[-()_.!~';/:@&=+$,A-Za-z0-9]){1,2048}")
"""Source: CreateApiDestination, EventBridge API reference, without ``*``, which is a parameter there."""

PUBLIC = re.compile(r"\.(?!(internal|local|localhost|home)$)[a-z][a-z0-9-]+$")
"""The end of a host that may be public: not an address, and no private zone. Source: EventBridge, *API destinations*:
they support only public domain names."""


def _url(text: str) -> str:
    try:
        where = urlsplit(text)
        host, credentials, _ = where.hostname, where.username is not None, where.port
    except ValueError:
        host, credentials = None, False
    if host is None or where.scheme != "https":
        raise ValueError("https:// and a host are required, for example https://hooks.example.com/joblane")
    if not PUBLIC.search(host):
        raise ValueError("a public DNS name is required, because EventBridge does not call private addresses")
    if credentials or "?" in text or "#" in text:
        raise ValueError(
            "an address without user, query and fragment is required, because anyone who can read the template sees "
            "it; a secret goes into events.webhook.secret"
        )
    if not ENDPOINT.fullmatch(text):
        raise ValueError(
            "an address of at most 2,048 ASCII characters is required, without * and spaces; write other characters "
            "with %"
        )
    return text


class Webhook(Settings):
    """An HTTPS address to which EventBridge sends each event by POST, as JSON.

    EventBridge waits 5 seconds for an answer. It repeats a request that fails for 24 hours, and then puts the event
    into the queue ``PREFIX-events-dlq``.
    """

    url: Annotated[str, AfterValidator(_url)]
    """The address: https, a name that the public DNS knows, with a certificate of a public authority. No query."""
    header: str = Field("X-Joblane-Key", pattern=HEADER)
    """Name of the HTTP header with the secret, by which the receiver recognises the sender."""
    secret: SecretReference
    """The secret: 1 to 512 ASCII characters. A deploy copies it into an EventBridge connection, and neither
    the template nor a function has it. After a change of the secret, see
    [Send events to other systems](../how-to/events.md#change-the-secret)."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1, strict=False)] | None = None
    """Kinds of events to send, for example ``["archived"]``. None: all that tasks declare."""
    types: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    """Task types whose events to send. None: all types."""
    rate_per_second: int = Field(10, ge=1, le=300)
    """Requests a second at most. EventBridge keeps further events for up to 24 hours. A quota of the account is 300.
    Source: EventBridge quotas."""


class Events(Settings):
    """The events of tasks that declare ``events=``. Without this setting they go to the bus ``PREFIX-events``."""

    bus: str | None = Field(None, pattern=BUS)
    """Name of an existing event bus in the account and region of the stage, for example ``default``. None: the stage
    has a bus of its own, ``PREFIX-events``."""
    webhook: Webhook | None = None
    """An address that gets the events. None: only the targets of your own rules."""
