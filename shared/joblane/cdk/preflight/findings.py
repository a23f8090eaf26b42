"""A finding of the preflight, and the decision on a deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial


class FindingKind(StrEnum):
    """``REFUSED``: fix it before a deploy. ``UNCHECKED``: it could not be read. ``NOTE``: for information."""

    REFUSED = "refused"
    UNCHECKED = "unchecked"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """A finding: ``what`` it concerns, ``why`` it matters, and what to ``do``."""

    kind: FindingKind
    what: str
    why: str
    do: str = ""


refused, note = partial(Finding, FindingKind.REFUSED), partial(Finding, FindingKind.NOTE)
unchecked = partial(Finding, FindingKind.UNCHECKED)


def blocks_deploy(findings: Sequence[Finding], *, strict: bool = False) -> bool:
    """True if the stage must not be deployed. ``strict``: also because of parts that could not be read."""
    kinds = {FindingKind.REFUSED, FindingKind.UNCHECKED} if strict else {FindingKind.REFUSED}
    return any(finding.kind in kinds for finding in findings)
