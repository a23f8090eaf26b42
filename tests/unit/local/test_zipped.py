"""Places with an image on the local stack: what their handlers import, compared with the zip files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from joblane import Lambda, Payload, task
from joblane.local.errors import LocalError
from joblane.local.zipped import check_zipped, missing_modules
from joblane.project import LOCKS, Project
from joblane.tasks.task import Task


class Index(Payload):
    pass


@task("shop:index", runs_on=Lambda("web", image="shop"))
def shop_index(payload: Index, ctx: object) -> None:
    """Nothing."""


@task("shop:plain", runs_on=Lambda("small"))
def shop_plain(payload: Index, ctx: object) -> None:
    """Nothing."""


TASKS: list[Task[Any, Any]] = [shop_index, shop_plain]


def project(root: Path, files: Mapping[str, str]) -> Project:
    for name, text in {"functions/__init__.py": "", "functions/shop_index/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Project(root, code=("src/shop",) if (root / "src/shop").is_dir() else ())


def test_places_without_an_image_are_not_read(tmp_path: Path) -> None:
    assert check_zipped(Project(tmp_path / "missing"), [shop_plain]) is None


def test_handlers_that_the_zip_files_can_run_are_named_in_a_line(tmp_path: Path) -> None:
    files = {
        "functions/shop_index/handler.py": (
            "from __future__ import annotations\nimport os.path\nimport boto3, sqlalchemy.orm\nfrom . import rows\n"
            "from joblane import task\nfrom shop.models import Book\nfrom shop import models\n"
            "try:\n    import orjson\nexcept ImportError:\n    orjson = None\n"
            "if False:\n    import pandas\n"
        ),
        "functions/shop_index/rows.py": "from ..common import names",
        "functions/common.py": "import pydantic",
        "src/shop/__init__.py": "",
        "src/shop/models.py": "import joblane.names",
    }
    assert check_zipped(project(tmp_path, files), TASKS) == "Places with an image run the zip files here: web"


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"functions/shop_index/handler.py": "import flask, shop.models"}, "flask, for shop:index; shop, for shop:ind"),
        ({"functions/shop_index/handler.py": "from flask.json import dumps"}, "flask, for shop:index."),
        ({"functions/shop_index/handler.py": "", "functions/__init__.py": "import flask"}, "flask, for shop:index."),
        (
            {
                "functions/shop_index/handler.py": "from shop.web import app",
                "src/shop/__init__.py": "",
                "src/shop/web/__init__.py": "from .app import app",
                "src/shop/web/app.py": "from ..deep import flasks",
                "src/shop/deep/flasks.py": "import flask",
            },
            "flask, for shop:index.",
        ),
    ],
)
def test_what_only_the_image_has_is_refused(files: dict[str, str], missing: str, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="lack modules that handlers import: ") as caught:
        check_zipped(project(tmp_path, files), TASKS)
    assert missing in str(caught.value)
    assert "or run `joblane dev`" in str(caught.value)


def test_an_import_in_a_function_is_refused_here_and_accepted_for_aws(tmp_path: Path) -> None:
    text = "def run():\n    import flask\n    try:\n        import orjson\n    except ImportError:\n        pass\n"
    made = project(tmp_path, {"functions/shop_index/handler.py": text})
    assert missing_modules(made, [shop_index]) == {}
    with pytest.raises(LocalError, match=r"lack modules that handlers import: flask, for shop:index. To run them here"):
        check_zipped(made, TASKS)


def test_a_package_in_the_lock_is_not_missing(tmp_path: Path) -> None:
    lock = tmp_path / "functions.txt"
    lock.write_text((LOCKS / "runtime.txt").read_text() + "\nFlask==3.1.0 \\\n    --hash=sha256:aa\n")
    made = project(tmp_path, {"functions/shop_index/handler.py": "import flask"})
    assert check_zipped(Project(made.root, lock=lock), TASKS) is not None
