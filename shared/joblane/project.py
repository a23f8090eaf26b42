"""A project that uses the library: a folder with ``functions/`` and ``cdk.json``, and its settings in
``[tool.joblane]`` of ``pyproject.toml``."""

from __future__ import annotations

import keyword
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblane.errors import JobError

ROOT_FILES = ("cdk.json", "pyproject.toml", "functions")
"""A folder with one of these is the root of a project."""
FUNCTIONS = "functions"
"""The default package of the handlers."""
KEYS = ("functions", "code", "lock", "migrations")
LOCKS = Path(__file__).parent / "locks"
"""The library's own lock files: of functions (``runtime.txt``) and of the tools of the local stack."""


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
    ``src/shop``. Each folder keeps its name in the zip."""
    lock: Path = LOCKS / "runtime.txt"
    """File with hashed requirements of all packages that functions import, relative to the root. Default: the
    library's own file, with the packages that the library needs."""
    migrations: str | None = None
    """``module:function`` that creates the project's own tables. It is called with the address of the database after
    the library's own migrations."""
    name: str | None = None
    """``[project] name``, which a database keeps to recognise its project. None: no name."""

    @classmethod
    def here(cls, start: Path | None = None) -> Project:
        """Return the project of ``start`` (default: the working folder), the nearest root upward.

        Raises :class:`ProjectError` for a wrong setting.
        """
        start = (start or Path.cwd()).resolve()
        folders = (start, *start.parents)
        return cls.at(
            next((folder for folder in folders if any((folder / name).exists() for name in ROOT_FILES)), start)
        )

    @classmethod
    def at(cls, root: Path) -> Project:
        """Return the project in the folder ``root``."""
        file = root / "pyproject.toml"
        if not file.is_file():
            return cls(root)
        import tomllib

        try:
            whole: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ProjectError(f"{file}: {error}") from None
        settings = _table(_table(whole, "tool", file), "joblane", file, "tool.")
        if unknown := sorted(settings.keys() - set(KEYS)):
            raise ProjectError(f"{file}: tool.joblane: unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
        for key in ("functions", "lock", "migrations"):
            if key in settings and not (isinstance(settings[key], str) and settings[key]):
                raise ProjectError(f"{file}: tool.joblane.{key}: a string is required")
        functions = settings.get("functions", FUNCTIONS)
        if not functions.isidentifier() or keyword.iskeyword(functions):
            raise ProjectError(
                f"{file}: tool.joblane.functions: {functions!r} is not a package name; give a folder of the project's "
                "root, and name code of a src layout in `code`"
            )
        name = _table(whole, "project", file).get("name")
        if not isinstance(name, str | None):
            raise ProjectError(f"{file}: project.name: a string is required")
        code = settings.get("code", [])
        if not isinstance(code, list) or not all(isinstance(path, str) and (root / path).is_dir() for path in code):
            raise ProjectError(f"{file}: tool.joblane.code: a list of existing folders is required")
        if "lock" in settings and not (root / settings["lock"]).is_file():
            raise ProjectError(f"{file}: tool.joblane.lock: the file {settings['lock']!r} does not exist")
        return cls(
            root,
            functions,
            tuple(code),
            root / settings["lock"] if "lock" in settings else LOCKS / "runtime.txt",
            settings.get("migrations"),
            name,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that :mod:`joblane.settings` reads, here and in the functions on AWS."""
        return {"JOBLANE_FUNCTIONS": self.functions, **self.migration_environment}

    @property
    def migration_environment(self) -> dict[str, str]:
        """The environment variables that a migration reads."""
        settings = {"JOBLANE_MIGRATIONS": self.migrations, "JOBLANE_PROJECT": self.name}
        return {name: value for name, value in settings.items() if value}

    @property
    def folder(self) -> Path:
        """The library's folder in this project: tools, local stack, packages. Git ignores it."""
        return self.root / ".joblane"

    def make_folder(self) -> Path:
        """Create :attr:`folder`, ignored by git and readable only for this user, because it contains passwords."""
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
        """The folders that are packaged with the library into the functions' zip, each under its own name."""
        return [self.handlers, *(self.root / path for path in self.code)]

    def activate(self) -> None:
        """Let this process find the project's tasks and import its code first."""
        os.environ.update(self.environment)
        self.add_to_path()

    def add_to_path(self) -> None:
        """Put the project's code first on ``sys.path``, before other packages of the same name."""
        for path in reversed(list(dict.fromkeys(str(folder.parent) for folder in self.code_folders))):
            if path in sys.path:
                sys.path.remove(path)
            sys.path.insert(0, path)


def _table(tables: dict[str, Any], key: str, file: Path, before: str = "") -> dict[str, Any]:
    """Return the table ``key``, empty if it does not exist."""
    table = tables.get(key, {})
    if not isinstance(table, dict):
        raise ProjectError(f"{file}: {before}{key}: a table is required")
    return table
