"""Functions of tasks on the emulator, with the code zip and the layer of this checkout."""

from __future__ import annotations

import inspect
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.pages import ROOT
from tests.unpacked import code, layer

ROLE = "arn:aws:iam::000000000000:role/bench"


def zip_code(folder: Path, *handlers: Callable[..., Any], modules: Sequence[ModuleType] = ()) -> bytes:
    """Return the zip of the functions, with the tasks of these handlers in the folders in which the entry searches.

    ``modules``: further modules of this checkout that the handlers import.
    """
    target = folder / "code.zip"
    shutil.copy(code().path, target)
    with zipfile.ZipFile(target, "a") as archive:
        for handler in handlers:
            source = Path(inspect.getfile(handler))
            archive.write(source, f"functions/{source.parent.name}/handler.py")
            archive.writestr(f"functions/{source.parent.name}/__init__.py", "")
            archive.write(source, source.relative_to(ROOT))
        for module in modules:
            source = Path(inspect.getfile(module))
            archive.write(source, source.relative_to(ROOT))
    return target.read_bytes()


class Deployer:
    """Creates functions with the layer, which it publishes once."""

    def __init__(self, client: Any) -> None:
        self._lambda = client
        published = client.publish_layer_version(LayerName="bench", Content={"ZipFile": layer().path.read_bytes()})
        self._layer = published["LayerVersionArn"]

    def create(
        self, name: str, handler: str, content: bytes, environment: Mapping[str, str], *, timeout_seconds: int = 120
    ) -> None:
        self._lambda.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=ROLE,
            Handler=handler,
            Code={"ZipFile": content},
            Timeout=timeout_seconds,
            MemorySize=512,
            Layers=[self._layer],
            Environment={"Variables": dict(environment)},
        )
