"""The emulator's process: a zip that functions share is unpacked once."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblane.local import emulator
from joblane.local.env_file import VARIABLES
from joblane.local.stack import LocalStack
from joblane.names import PLACES
from joblane.project import Project
from tests.pages import ROOT


@pytest.fixture
def zipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(emulator.SharedZip, "_cache", tmp_path / "unpacked")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    path = tmp_path / "layer.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("python/package/module.py", "x = 1\n")
    return path


def unpack(path: Path, folder: Path, **options: Any) -> None:
    with emulator.SharedZip(path) as archive:
        archive.extractall(folder, **options)


def test_functions_share_the_files_of_a_zip(zipped: Path, tmp_path: Path) -> None:
    # when
    (tmp_path / "one").mkdir()
    for name in ("one", "two"):
        unpack(zipped, tmp_path / name)
    # then
    one, two = (tmp_path / name / "python" / "package" / "module.py" for name in ("one", "two"))
    assert one.read_text() == two.read_text() == "x = 1\n"
    assert one.samefile(two)
    assert zipped.exists()
    # and when a function is removed, the files of the other stay
    shutil.rmtree(tmp_path / "one")
    assert two.read_text() == "x = 1\n"


def test_a_zip_is_unpacked_over_itself_and_over_an_older_zip(zipped: Path, tmp_path: Path) -> None:
    for number in (1, 1, 2):
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("python/package/module.py", f"x = {number}\n")
        unpack(zipped, tmp_path / "one")
        folder = tmp_path / "one" / "python" / "package"
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("module.py", f"x = {number}\n")]
    # and the files of the older zip, which other functions share, are as before
    assert sorted(path.read_text() for path in (tmp_path / "unpacked").rglob("*.py")) == ["x = 1\n", "x = 2\n"]


def test_a_zip_is_unpacked_next_to_the_files_of_another(zipped: Path, tmp_path: Path) -> None:
    # given
    unpack(zipped, tmp_path / "one")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("python/package/more.py", "y = 1\n")
    # when
    unpack(zipped, tmp_path / "one")
    # then both are there, and neither has the files of the other
    folder = tmp_path / "one" / "python" / "package"
    assert sorted(path.name for path in folder.iterdir()) == ["module.py", "more.py"]
    unpacked = [[path.name for path in zip_.rglob("*.py")] for zip_ in (tmp_path / "unpacked").iterdir()]
    assert sorted(unpacked) == [["module.py"], ["more.py"]]


def test_the_emulators_copy_of_a_zip_is_removed(zipped: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    copy = zipped.rename(tmp_path / "temporary" / "code.zip")
    unpack(copy, tmp_path / "one")
    assert not copy.exists()
    assert (tmp_path / "one" / "python").is_dir()


def test_a_single_member_of_a_zip_is_unpacked_as_usual(zipped: Path, tmp_path: Path) -> None:
    unpack(zipped, tmp_path / "one", members=[])
    assert not (tmp_path / "unpacked").exists()


def test_the_variables_that_are_read_back_are_those_that_the_stack_writes(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "password").write_text("secret")
    project = replace(Project(ROOT), functions="jobs")
    environment = LocalStack(tmp_path, project=project).environment
    assert environment.keys() == {*VARIABLES} - {PLACES}  # which it reads from the deployed functions
    assert environment["JOBLANE_FUNCTIONS"] == "jobs"
    assert LocalStack(tmp_path).environment.keys() == {*VARIABLES} - {"JOBLANE_FUNCTIONS", PLACES}
