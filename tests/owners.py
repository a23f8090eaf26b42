"""Files that seem to belong to other users, for tests that do not run as root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ME, OTHER = 4001, 4002
"""Ids without a name."""


def own(monkeypatch: pytest.MonkeyPatch, **others: int) -> None:
    """Let this process have the id :data:`ME`, as all files do, except files of the names ``others``."""

    def answer(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        mode, inode, device, links, _, *rest = os.stat(path, follow_symlinks=follow_symlinks)  # noqa: PTH116 - Path.stat is replaced
        return os.stat_result([mode, inode, device, links, others.get(path.name, ME), *rest])

    monkeypatch.setattr(Path, "lstat", lambda path: answer(path, follow_symlinks=False))
    monkeypatch.setattr(Path, "stat", lambda path, **how: answer(Path(os.path.realpath(path)), **how))
    monkeypatch.setattr(os, "geteuid", lambda: ME, raising=False)
