"""Sizes of what is uploaded to AWS, against their targets."""

from __future__ import annotations

import zipfile

from joblane.cdk.packaging import WHEEL_PLATFORMS
from tests.bench.report import Ratio, within
from tests.unpacked import code, layer

LAYER_MB, CODE_MB = 15, 1
UNZIPPED_MB = 250
"""Function and layers together. Source: AWS, *Lambda quotas*."""
MB = 1_000_000


def run() -> list[Ratio]:
    packages = (layer(WHEEL_PLATFORMS["arm64"]).path, code().path)
    zipped = [path.stat().st_size / MB for path in packages]
    unzipped = sum(info.file_size for path in packages for info in zipfile.ZipFile(path).infolist()) / MB
    return [
        within("the layer's size", "zipped, for arm64; against the target", zipped[0], LAYER_MB, "MB"),
        within("the code's size", "zipped; against the target", zipped[1], CODE_MB, "MB"),
        within("what a function unpacks", "layer and code; against Lambda's limit", unzipped, UNZIPPED_MB, "MB"),
    ]
