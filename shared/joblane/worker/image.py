"""The start of a function that runs a container image. Other functions do not import this module."""

from __future__ import annotations

from joblane import telemetry
from joblane.installation import version

OTHER = (
    "the image has another version of joblane than the deploy of this function, so the database may lack the functions "
    "that it calls. Build the image with the deployed version"
)


def log_other_version(deployed: str) -> None:
    """Log a version of joblane in this image that is not ``deployed``, the version that the deploy had."""
    if (own := version()) != deployed:
        telemetry.logger().warning(OTHER, extra={"joblane": own, "deployed": deployed})
