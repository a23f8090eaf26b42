"""The CDK app of the platform."""

import joblane.cdk  # noqa: F401 - first, as it chooses the Node.js that aws_cdk starts
