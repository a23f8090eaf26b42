"""A project that uses the library: a folder with ``functions/`` and ``cdk.json``, and its settings in
``[tool.joblane]`` of ``pyproject.toml``."""

from __future__ import annotations

import keyword
import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblane.errors import JobError

ROOT_FILES = ("cdk.json", "pyproject.toml", "functions")
"""A folder with one of these is the root of a project."""
FUNCTIONS = "functions"
"""The default package of the handlers."""
FOLDER = ".joblane"
KEYS = ("functions", "code", "lock", "migrations")
SAFE_FOLDER = "JOBLANE_SAFE_FOLDER"
"""Variable with the absolute path of a folder that may belong to another user, for containers and CI."""
SHARED = stat.S_ISVTX | stat.S_IWOTH
"""Mode of a folder in which each user may create files, such as /tmp."""
LOCKS = Path(__file__).parent / "locks"
"""The library's own lock files: of functions (``runtime.txt``), of a project's CI (``ci.txt``), and of the tools of the
local stack."""


class ProjectError(JobError):
    """A key of ``[tool.joblane]`` in ``pyproject.toml`` is wrong, or a file of the project belongs to another user.

    The message names the key, or the file and its owner.
    """


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
    def here(cls, start: Path | None = None, *, trusted: bool = False) -> Project:
        """Return the project of ``start`` (default: the working folder), the nearest root upward.

        ``trusted``: ``start`` may belong to another user, because this process runs its code anyway. Raises
        :class:`ProjectError` for a wrong setting, and for a folder of another user.
        """
        start = (start or Path.cwd()).resolve()
        root = next((folder for folder in (start, *start.parents) if _is_root(folder)), None)
        if root is None:
            refuse_others(start, FOLDER)
            return cls(start)
        return cls._read(root) if trusted and root == start else cls.at(root)

    @classmethod
    def at(cls, root: Path) -> Project:
        """Return the project in the folder ``root``. Raises :class:`ProjectError` as :meth:`here` does."""
        refuse_others(root, "", *ROOT_FILES, FOLDER)
        project = cls._read(root)
        own_lock = [] if project.lock == LOCKS / "runtime.txt" else [str(project.lock)]
        refuse_others(root, *project._code_paths, project.functions, *own_lock)
        return project

    @classmethod
    def _read(cls, root: Path) -> Project:
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
        migrations = settings.get("migrations")
        package = (migrations or "").partition(":")[0].partition(".")[0]
        is_here = bool(package) and ((root / package).is_dir() or (root / f"{package}.py").is_file())
        if is_here and package not in {functions, *(Path(path).name for path in code)}:
            raise ProjectError(
                f"{file}: tool.joblane.migrations: {package!r} is not in `code`, so it would not be deployed, and a "
                "save would not run it; move the module into a folder of `code`"
            )
        return cls(
            root,
            functions,
            tuple(code),
            root / settings["lock"] if "lock" in settings else LOCKS / "runtime.txt",
            migrations,
            name,
        )

    @property
    def _code_paths(self) -> list[str]:
        """The folders of `code`, each after the folders of the root that contain it: they are imported from, too."""
        return [
            str(folder)
            for path in map(Path, self.code)
            for folder in (*reversed(path.parents), path)
            if folder == path or not (folder.is_absolute() or ".." in folder.parts)
        ]

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
        return self.root / FOLDER

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
        """Put the project's code first on ``sys.path``, before other packages of the same name.

        A folder without a project, such as /tmp, has none.
        """
        if not _is_root(self.root):
            return
        for path in reversed(list(dict.fromkeys(str(folder.parent) for folder in self.code_folders))):
            if path in sys.path:
                sys.path.remove(path)
            sys.path.insert(0, path)


def refuse_others(root: Path, *names: str) -> None:
    """Raise :class:`ProjectError` if a file ``names`` of the folder ``root`` belongs to another user, as git does for
    its folders, or is a link to such a file; if ``.joblane`` is a link or a file; or if each user may create files in a
    folder ``names``.

    Root may use the files of the user who called ``sudo``. A system without user ids has no such check.
    """
    for path in (root / name for name in names):
        try:
            found = path.lstat()
        except OSError:
            continue
        if path.name == FOLDER and stat.S_ISLNK(found.st_mode):
            raise ProjectError(
                f"{path} is a link to {path.readlink()}, and the project's data would be written there. Remove the "
                f"link; {SAFE_FOLDER} does not allow it."
            )
        if path.name == FOLDER and not stat.S_ISDIR(found.st_mode):
            raise ProjectError(
                f"{path} is a file, and the project's data needs a folder of this name. Rename or remove the file."
            )
        if _is_safe(root):
            continue
        targets = [(path.resolve(), path.stat())] if stat.S_ISLNK(found.st_mode) and path.exists() else []
        for each, state in [(path, found), *targets]:
            if state.st_uid not in own_ids(state.st_uid):
                raise ProjectError(
                    f"{each} belongs to {_user(state.st_uid)}, and you are {_user(os.geteuid())}. Nothing in {root} is "
                    "used, because its files decide which code runs and which processes are stopped. If they are "
                    f"yours, change their owner.{_ways_out(root)}"
                )
            if stat.S_ISDIR(state.st_mode) and state.st_mode & SHARED == SHARED:
                raise ProjectError(f"{each} is not used, because every user may create files in it.{_ways_out(root)}")


def _is_root(folder: Path) -> bool:
    return any((folder / name).exists() for name in ROOT_FILES)


def own_ids(default: int) -> set[int]:
    """Return the ids of this user; ``default`` where the system has no ids."""
    if not hasattr(os, "geteuid"):
        return {default}
    own = os.geteuid()
    caller = os.environ.get("SUDO_UID", "") if own == 0 else ""
    return {own, int(caller)} if caller.isascii() and caller.isdigit() else {own}


def _is_safe(root: Path) -> bool:
    given = os.environ.get(SAFE_FOLDER, "").strip()
    return bool(given) and Path(given).is_absolute() and Path(given).resolve() == root.resolve()


def _user(number: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user with id {number}"


def _ways_out(root: Path) -> str:
    init = "" if Path.cwd() == root else " `joblane init` makes the working folder a project of its own."
    return f" If you trust each user who can write there, set {SAFE_FOLDER}={shlex.quote(str(root))}.{init}"


def _table(tables: dict[str, Any], key: str, file: Path, before: str = "") -> dict[str, Any]:
    """Return the table ``key``, empty if it does not exist."""
    table = tables.get(key, {})
    if not isinstance(table, dict):
        raise ProjectError(f"{file}: {before}{key}: a table is required")
    return table
