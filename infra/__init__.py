"""The CDK app of the platform."""

import joblane.cdk  # noqa: F401 - first, because it selects the Node.js that aws_cdk starts
