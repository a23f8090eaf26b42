"""Sizes of the uploads to AWS, against their targets."""

from __future__ import annotations

import zipfile

from joblane.cdk.packaging import WHEEL_PLATFORMS
from tests.bench.report import Ratio, within
from tests.unpacked import code, layer

LAYER_MB, CODE_MB = 12, 2.25
"""Targets. Two thirds of the code are bytecode, which makes starts faster."""
UNZIPPED_MB = 250
"""Limit of Lambda for a function with its layers. Source: AWS, *Lambda quotas*."""
MB = 1_000_000


def run() -> list[Ratio]:
    packages = (layer(WHEEL_PLATFORMS["arm64"]).path, code().path)
    zipped = [path.stat().st_size / MB for path in packages]
    unzipped = sum(info.file_size for path in packages for info in zipfile.ZipFile(path).infolist()) / MB
    return [
        within("size of the layer", "zipped, for arm64; against the target", zipped[0], LAYER_MB, "MB"),
        within("size of the code", "zipped; against the target", zipped[1], CODE_MB, "MB"),
        within("unpacked size of a function", "layer and code; against Lambda's limit", unzipped, UNZIPPED_MB, "MB"),
    ]
