"""The start of a function in a container image."""

from __future__ import annotations

import pytest

from joblane.installation import version
from joblane.worker.image import log_other_version
from tests.logs import lines


@pytest.mark.parametrize(("deployed", "logged"), [(version(), 0), ("0.0.9", 1)])
def test_only_another_version_than_that_of_the_deploy_is_logged(deployed: str, logged: int) -> None:
    with lines() as found:
        log_other_version(deployed)
    assert [(line["joblane"], line["deployed"]) for line in found.fields] == [(version(), deployed)] * logged
