"""Settings that still hold a name of the examples, such as ``example.com``, under which nothing answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from joblane.cdk.errors import StageError
from joblane.cdk.settings.stage import Stage

RESERVED = re.compile(r"(^|[@/.])(example\.(com|net|org)|[a-z0-9-]+\.(example|invalid))($|[^a-z0-9.-])", re.IGNORECASE)
"""Names that nobody can own. Source: RFC 2606."""

SECRETS = {"secret", "migration_secret"}
"""Fields with the name or ARN of a secret, which is no address."""


def placeholders(stage: Stage) -> list[str]:
    """Return the settings with such a name, for example ``api.authorizer.issuer``. A local stage has none."""
    return [] if stage.local else list(_found("", stage.model_dump(mode="json", exclude={"name", "tags"})))


def refuse_placeholders(stage: Stage) -> None:
    """Raise :class:`StageError` with a sentence for each setting with such a name."""
    if found := placeholders(stage):
        raise StageError(
            f"cdk.json: stage {stage.name!r}: {'; '.join(map(sentence, found))}. "
            "For `cdk synth`, `diff` or `ls`, add -c deploys=false"
        )


def sentence(setting: str) -> str:
    return f"{setting}: it still has a name of the examples, under which nothing answers; write your own"


def _found(where: str, value: Any) -> Iterator[str]:
    match value:
        case str():
            if RESERVED.search(value):
                yield where
        case Mapping():
            for name, each in value.items():
                if name in SECRETS:
                    continue
                yield from _found(f"{where}.{name}" if where else str(name), each)
        case list():
            for number, each in enumerate(value):
                yield from _found(f"{where}.{number}", each)
