"""A user's project: the folder with ``functions/`` and ``cdk.json``, and what ``[tool.joblane]`` of its
``pyproject.toml`` says about it."""

from __future__ import annotations

import keyword
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblane.errors import JobError

MARKS = ("cdk.json", "pyproject.toml", "functions")
"""A folder that has one of these is a project."""
FUNCTIONS = "functions"
"""The package of the handlers where nothing else is said."""
KEYS = ("functions", "code", "lock", "migrations")
LOCKS = Path(__file__).parent / "locks"
"""Hashed requirements that the library brings: of functions (``runtime.txt``) and of the tools of the local stack."""


class ProjectError(JobError):
    """A key of ``[tool.joblane]`` in ``pyproject.toml`` is wrong. The message names the key."""


@dataclass(frozen=True, slots=True)
class Project:
    """The folders and names of a project that the library reads."""

    root: Path
    """Folder that commands run in."""
    functions: str = FUNCTIONS
    """Package of the handlers: a folder of the project's root, with a Python name."""
    code: tuple[str, ...] = ()
    """Further folders, relative to the root, that functions import and that go into their zip, for example
    ``src/shop``. Each goes there under its own name."""
    lock: Path = LOCKS / "runtime.txt"
    """File with hashed requirements of all packages that functions import, relative to the root. Without it, the
    library's own, which has the packages that the library needs."""
    migrations: str | None = None
    """``module:function`` that creates the project's own tables. It is called with the address of the database after
    the library's own migrations."""
    name: str | None = None
    """``[project] name``, which a database keeps to recognise its project. None: no name."""

    @classmethod
    def here(cls, start: Path | None = None) -> Project:
        """The project around ``start`` (the working folder): the nearest folder upward that looks like one.

        Raises :class:`ProjectError` for a setting that is wrong.
        """
        start = (start or Path.cwd()).resolve()
        root = next((each for each in (start, *start.parents) if any((each / mark).exists() for mark in MARKS)), start)
        return cls.at(root)

    @classmethod
    def at(cls, root: Path) -> Project:
        """The project in the folder ``root``."""
        file = root / "pyproject.toml"
        if not file.is_file():
            return cls(root)
        import tomllib

        try:
            whole: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ProjectError(f"{file}: {error}") from None
        given = _table(_table(whole, "tool", file), "joblane", file, "tool.")
        if unknown := sorted(given.keys() - set(KEYS)):
            raise ProjectError(f"{file}: tool.joblane: {unknown[0]!r} is not known; there are {', '.join(KEYS)}")
        for key in ("functions", "lock", "migrations"):
            if key in given and not (isinstance(given[key], str) and given[key]):
                raise ProjectError(f"{file}: tool.joblane.{key}: a text is required")
        functions = given.get("functions", FUNCTIONS)
        if not functions.isidentifier() or keyword.iskeyword(functions):
            raise ProjectError(
                f"{file}: tool.joblane.functions: {functions!r} is no name of a package: give a folder of the "
                "project's root, and put code of a src layout into `code`"
            )
        name = _table(whole, "project", file).get("name")
        if not isinstance(name, str | None):
            raise ProjectError(f"{file}: project.name: a text is required")
        code = given.get("code", [])
        if not isinstance(code, list) or not all(isinstance(each, str) and (root / each).is_dir() for each in code):
            raise ProjectError(f"{file}: tool.joblane.code: a list of folders that exist is required")
        if "lock" in given and not (root / given["lock"]).is_file():
            raise ProjectError(f"{file}: tool.joblane.lock: there is no file {given['lock']!r}")
        return cls(
            root,
            functions,
            tuple(code),
            root / given["lock"] if "lock" in given else LOCKS / "runtime.txt",
            given.get("migrations"),
            name,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What :mod:`joblane.settings` reads of it, in this process and in the functions on AWS."""
        return {"JOBLANE_FUNCTIONS": self.functions, **self.migrating}

    @property
    def migrating(self) -> dict[str, str]:
        """Of these, the settings that a migration reads."""
        settings = {"JOBLANE_MIGRATIONS": self.migrations, "JOBLANE_PROJECT": self.name}
        return {name: value for name, value in settings.items() if value}

    @property
    def folder(self) -> Path:
        """What the library makes for this project: tools, the local stack, packages. It ignores itself."""
        return self.root / ".joblane"

    def make_folder(self) -> Path:
        """Make :attr:`folder`: open to this user alone, as it holds passwords, and ignored by git."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)
        ignore = self.folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
        return self.folder

    @property
    def handlers(self) -> Path:
        """The folder of the handlers."""
        return self.root / self.functions

    @property
    def code_folders(self) -> list[Path]:
        """All that goes into the functions' zip beside the library, each under its own name."""
        return [self.handlers, *(self.root / each for each in self.code)]

    def activate(self) -> None:
        """Let this process find the project's tasks, and import its code before anything of the same name."""
        os.environ.update(self.environment)
        self.add_to_path()

    def add_to_path(self) -> None:
        """Let this process import the project's code, before anything of the same name."""
        for path in reversed(list(dict.fromkeys(str(folder.parent) for folder in self.code_folders))):
            if path in sys.path:
                sys.path.remove(path)
            sys.path.insert(0, path)


def _table(tables: dict[str, Any], key: str, file: Path, before: str = "") -> dict[str, Any]:
    """The table ``key``; empty where there is none."""
    found = tables.get(key, {})
    if not isinstance(found, dict):
        raise ProjectError(f"{file}: {before}{key}: a table is required")
    return found
