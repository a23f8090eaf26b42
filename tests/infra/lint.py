"""cfn-lint in the process of the tests: a process of its own needs a second to load it, whatever it checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "eu-south-1", "ap-southeast-2", "mx-central-1")
"""Four large regions and two with fewer services: their resource schemas differ."""
LEFT_OUT = "W3005"
"""The CDK adds a DependsOn to a function for its role, in addition to the reference."""


def lint(files: Iterable[Path], regions: Sequence[str] = REGIONS) -> dict[str, list[tuple[str, str]]]:
    """Return rule and sentence of each finding of cfn-lint, by the name of the file; [] for a file without findings.

    The time grows with the number of resources, and hardly with that of the regions.
    """
    from cfnlint.config import ConfigMixIn
    from cfnlint.runner import Runner

    found: dict[str, list[tuple[str, str]]] = {str(file): [] for file in files}
    assert found
    options = ["--ignore-checks", LEFT_OUT, "--regions", *regions, "--", *found]
    for match in Runner(ConfigMixIn(options)).run():
        found[str(match.filename)].append((match.rule.id, match.message))
    return {Path(file).name: findings for file, findings in found.items()}
