"""The CDK app: ``cdk deploy --all -c stage=dev``, or ``python -m infra.app -c stage=dev`` to only synthesise."""

import sys

from infra.api import add_api
from infra.exports import add_exports
from infra.health import COSTS, health_alarms
from infra.settings import PlatformStage
from joblane.cdk.app import JoblaneApp

APP = JoblaneApp(stage=PlatformStage, buckets=add_exports, stacks=[add_api], alarms=health_alarms, costs=COSTS)

if __name__ == "__main__":
    sys.exit(APP.main())
