"""A Celery application, read from its source with ``ast``. None of its code is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joblane.local.errors import LocalError
from joblane.names import folder_of
from joblane.tasks.payload import Payload

DECORATORS = ("celery.shared_task", "celery.app.shared_task")
SKIPPED = ("node_modules", "cdk.out", "site-packages")
PLAIN = ("str", "int", "float", "bool", "list", "dict", "tuple", "None")
MODULES = ("datetime", "decimal", "uuid", "typing")
UNSET: Any = object()
"""The value of an expression that is not a literal."""


@dataclass(frozen=True)
class Finding:
    """A line that needs a person. ``kind``: ``by hand``, ``differs`` or ``not read``. ``joblane``: its new form."""

    kind: str
    file: str
    line: int
    code: str
    says: str
    joblane: str | None = None


@dataclass(frozen=True)
class Source:
    """A file. ``names``: each name of the file → its dotted path, such as ``shop.tasks.send``."""

    shown: str
    module: str
    lines: Sequence[str]
    tree: ast.Module
    names: dict[str, str]
    findings: list[Finding]

    def dotted(self, node: ast.AST | None) -> str:
        """Return the path that a name or attribute means here; empty for another expression."""
        match node:
            case ast.Name(name):
                return self.names.get(name, name)
            case ast.Attribute(value, attribute) if before := self.dotted(value):
                return f"{before}.{attribute}"
        return ""

    def add(self, kind: str, node: ast.AST, says: str, joblane: str | None = None) -> None:
        line = getattr(node, "lineno", 1)
        self.findings.append(Finding(kind, self.shown, line, self.lines[line - 1].strip(), says, joblane))


@dataclass
class CeleryTask:
    """A task of the application, and what its handler gets. ``enqueues``: the types that its function enqueues."""

    source: Source
    function: ast.FunctionDef
    name: str
    type: str
    options: Mapping[str, ast.expr]
    schedules: list[str] = field(default_factory=list)
    enqueues: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.path, self.folder = f"{self.source.module}.{self.function.name}", folder_of(self.type)
        self.payload = "".join(part.capitalize() for part in self.folder.split("_"))
        given = self.function.args
        named = [*given.posonlyargs, *given.args]
        self.own = named.pop(0).arg if named and literal(self.options.get("bind")) is True else None
        """The parameter with the task itself, of `bind=True`."""
        self.named, self.parameters = named, [*named, *given.kwonlyargs]
        defaults = [*zip(reversed(named), reversed(given.defaults), strict=False)]
        defaults += [(arg, value) for arg, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value]
        self.defaults = {arg.arg: value for arg, value in defaults}

    def bind(self, args: Sequence[ast.expr], kwargs: Mapping[str, ast.expr]) -> dict[str, ast.expr] | None:
        """Return field → argument of a call; None if the call does not show which."""
        more, named = self.function.args.vararg, self.function.args.kwarg
        extra = [*args[len(self.named) :]]
        if (extra and not more) or any(isinstance(arg, ast.Starred) for arg in args) or "**" in kwargs:
            return None
        given = {arg.arg: value for arg, value in zip(self.named, args, strict=False)} | dict(kwargs)
        unknown = [name for name in kwargs if named and name not in {arg.arg for arg in self.parameters}]
        if named and unknown:
            given[named.arg] = ast.Dict([*map(ast.Constant, unknown)], [given.pop(name) for name in unknown])
        if more and extra:
            given[more.arg] = ast.List(extra)
        return {field_of(name): value for name, value in given.items()}


@dataclass
class Application:
    """The files, the tasks by the path of their function, and the settings. ``django``: its settings module."""

    sources: Mapping[str, Source]
    tasks: dict[str, CeleryTask] = field(default_factory=dict)
    settings: list[tuple[str, Source, ast.expr]] = field(default_factory=list)
    django: str | None = None

    def resolve(self, source: Source, node: ast.AST) -> str:
        """Return the path of a name, followed from file to file until the file that defines it."""
        path = source.dotted(node)
        for _ in range(10):
            module, _, name = path.rpartition(".")
            target = self.sources[module].names.get(name, path) if module in self.sources else path
            if target == path:
                break
            path = target
        return path

    def named(self, name: Any) -> CeleryTask | None:
        return next((task for task in self.tasks.values() if task.name == name), None)

    def setting(self, name: str) -> Any:
        """Return the literal value of a setting; None if there is none."""
        return next((literal(value) for key, _, value in reversed(self.settings) if key == name), None)


def literal(node: ast.AST | None) -> Any:
    """Return the value of a literal, :data:`UNSET` for another expression, None for None."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNSET


def elements(node: ast.expr | None) -> list[ast.expr] | None:
    """Return the elements of a tuple or list that is written out; empty for None."""
    return [] if node is None else list(node.elts) if isinstance(node, (ast.Tuple, ast.List)) else None


def items(node: ast.expr | None) -> dict[str, ast.expr] | None:
    """Return the items of a dictionary that is written out; empty for None."""
    if isinstance(node, ast.Dict):
        keys = [literal(key) if key else UNSET for key in node.keys]
        return dict(zip(keys, node.values, strict=True)) if all(isinstance(key, str) for key in keys) else None
    return {} if node is None else None


def field_of(parameter: str) -> str:
    """Return the field of a parameter: pydantic and the annotations use some names themselves."""
    taken = parameter.startswith(("_", "model_")) or hasattr(Payload, parameter)
    return f"{parameter.strip('_')}_" if taken or parameter in (*PLAIN, *MODULES, "Any") else parameter


def keywords_of(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg or "**": keyword.value for keyword in call.keywords}


def read(path: Path, *, without: Path, types: Mapping[str, str]) -> Application:
    """Read the Python files of ``path``, a file or folder, except those in the folder ``without``.

    ``types``: name of a Celery task → its type. Raises :class:`LocalError`.
    """
    if not path.exists():
        raise LocalError(f"{path} does not exist. Give the folder or the file that declares the Celery tasks.")
    sources = [_source(file, without.parent) for file in ([path] if path.is_file() else sorted(_files(path, without)))]
    if not any(name.split(".")[0] == "celery" for source in sources for name in source.names.values()):
        raise LocalError(f"{path} has no Celery: no Python file there imports it. Nothing was written.")
    app = Application({source.module: source for source in sources})
    for source in sources:
        for node in ast.walk(source.tree):
            _read_setting(app, source, node)
    apps = {
        f"{source.module}.{name.id}"
        for source in sources
        for node in source.tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call)
        for name in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(name, ast.Name) and source.dotted(node.value.func) in ("celery.Celery", "celery.app.Celery")
    }
    for source in sources:
        _read_tasks(app, source, apps, types)
    if unknown := sorted(types.keys() - {task.name for task in app.tasks.values()}):
        raise LocalError(f"--type: there is no Celery task {unknown[0]!r} in {path}. Nothing was written.")
    return app


def _files(root: Path, without: Path) -> Iterator[Path]:
    for path in root.iterdir():
        if path.is_dir():
            hidden = path.name.startswith(".") or path.name in SKIPPED or (path / "pyvenv.cfg").exists()
            if not hidden and path.resolve() != without.resolve():
                yield from _files(path, without)
        elif path.suffix == ".py":
            yield path


def _source(file: Path, root: Path) -> Source:
    try:
        text = file.read_text(encoding="utf-8-sig")
        tree = ast.parse(text)
    except SyntaxError as error:
        raise LocalError(f"{file}, line {error.lineno or 1}: {error.msg}. Correct it. Nothing was written.") from None
    except (OSError, ValueError) as error:
        raise LocalError(f"{file} cannot be read: {error}. Nothing was written.") from None
    top = file.resolve().parent
    while (top / "__init__.py").exists():
        top = top.parent
    if top == file.resolve().parent:  # no package: the zip of the functions keeps the names of all folders
        top = root.resolve() if file.resolve().is_relative_to(root.resolve()) else top.parent
    *package, last = file.resolve().relative_to(top).with_suffix("").parts
    module = ".".join(package if last == "__init__" else [*package, last])
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(aliases):
                names |= {
                    a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in aliases
                }
            case ast.ImportFrom(module=origin, names=aliases, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                base += [origin] if origin else []
                names |= {a.asname or a.name: ".".join([*base, a.name]) for a in aliases}
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(name)]):
                names[name] = f"{module}.{name}"
    return Source(str(file), module, text.splitlines() or [""], tree, names, [])


def _read_setting(app: Application, source: Source, node: ast.AST) -> None:
    """Add the settings of a node: ``app.conf.NAME``, ``app.conf.update(…)``, ``CELERY_NAME``, ``celeryconfig.py``."""
    found: dict[str, ast.expr] = {}
    match node:
        case ast.Assign(targets=[ast.Attribute(ast.Attribute(attr="conf"), name)], value=value):
            found[name] = value
        case ast.Assign(targets=[ast.Subscript(ast.Attribute(ast.Attribute(attr="conf"), name), key)], value=value):
            found[name] = ast.copy_location(ast.Dict([key], [value]), value)
        case ast.Assign(targets=[ast.Name(name)], value=value):
            if name.startswith("CELERY_") or source.module.rpartition(".")[2] == "celeryconfig":
                found[name.removeprefix("CELERY_").lower()] = value
        case ast.Call(func=ast.Attribute(ast.Attribute(attr="conf"), "update")):
            found = keywords_of(node)
        case ast.Call(func=func) if source.dotted(func) == "celery.Celery":
            found = keywords_of(node)
        case ast.Call(args=[ast.Constant("DJANGO_SETTINGS_MODULE"), ast.Constant(str(module))]):
            app.django = module
    app.settings += [(name, source, value) for name, value in found.items()]


def _read_tasks(app: Application, source: Source, apps: set[str], types: Mapping[str, str]) -> None:
    """Add the tasks of a file. A task whose declaration depends on a run of the code is listed instead."""
    decorators: list[ast.expr] = []
    for node in ast.walk(source.tree):
        for decorator in getattr(node, "decorator_list", []):
            call = decorator if isinstance(decorator, ast.Call) else None
            kind = _is_task(app, source, call.func if call else decorator, apps)
            options = keywords_of(call) if call else {}
            why = None if kind else "its Celery app is not assigned from Celery(…) in a file that was read"
            if "**" in options or not isinstance(literal(options.get("name")), str | None):
                why = "its name or its options are not written out"
            elif node not in source.tree.body or not isinstance(node, ast.FunctionDef):
                why = "the task is not a plain function of the module"
            if kind is None:
                continue
            decorators.append(decorator)
            if why or not isinstance(node, ast.FunctionDef):
                source.add("not read", decorator, f"a task is not moved: {why}")
                continue
            name = literal(options.get("name")) or f"{source.module}.{node.name}"
            task = CeleryTask(source, node, name, types.get(name) or type_of(name), options)
            app.tasks[task.path] = task
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and node.args
            and node not in decorators
            and _is_task(app, source, node.func, apps)
        ):
            source.add("not read", node, "a task is not moved: it is declared by a call")


def _is_task(app: Application, source: Source, node: ast.expr, apps: set[str]) -> bool | None:
    """Return True for a decorator of Celery, False for one of an app that was not read, None for another."""
    path = source.dotted(node)
    if path in DECORATORS or (isinstance(node, ast.Attribute) and app.resolve(source, node.value) in apps):
        return True if path in DECORATORS or path.endswith(".task") else None
    if not path.endswith(".task"):
        return None
    return False if any(name.startswith("celery") for name in (path, *source.names.values())) else None


def type_of(name: str) -> str:
    """``shop.tasks.send_mail`` → ``shop:send_mail``: the last module that is not called `tasks`, and the function."""
    *modules, action = name.split(".")
    return f"{next((part for part in reversed(modules) if part != 'tasks'), 'tasks')}:{action}"
