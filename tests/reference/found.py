"""Names in the code, found in its syntax tree: environment variables, metrics, fields of log lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.pages import ROOT

PRODUCT = ROOT / "shared" / "joblane"
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
OWN = re.compile(r"(JOBLANE|POWERTOOLS|PIP|AWS|DATABASE|JSII|UV|CDK|NODE|NPM|GATEWAY|MINISTACK)_[A-Z0-9_]+")
"""Names that are variables wherever they stand in the code."""
READERS = ("get", "setdefault", "getenv", "required", "setenv", "pop", "delenv")

NAMING = (ast.Call, ast.Subscript, ast.Compare, ast.keyword, ast.Constant, ast.Dict)
"""The nodes that may name a variable."""


@cache
def trees(root: Path) -> list[tuple[Path, ast.Module]]:
    """The syntax trees of a folder."""
    return [(path, ast.parse(path.read_text())) for path in sorted(root.rglob("*.py"))]


@cache
def nodes(root: Path) -> list[tuple[Path, list[ast.AST]]]:
    """All nodes of each tree."""
    return [(path, [*ast.walk(tree)]) for path, tree in trees(root)]


@cache
def constants() -> dict[str, str]:
    """Name → value of the library's constants that are texts."""
    found = {}
    for _, tree in trees(PRODUCT):
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


def variables(root: Path = PRODUCT) -> set[str]:
    """Environment variables that the library, or the code of another folder, names."""
    return {name for _, found in nodes(root) for node in found if isinstance(node, NAMING) for name in _variables(node)}


def _variables(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Attribute(attr=reader), args=[first, *_]) if reader in READERS:
            if reader in ("required", "setenv", "getenv") or "environ" in ast.unparse(node.func):
                yield from _text(first)
        case ast.Call(func=ast.Name("required"), args=[first, *_]):
            yield from _text(first)
        case ast.Subscript(value=value, slice=key) if _is_environment(value):
            yield from _text(key)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[where]) if _is_environment(where):
            yield from _text(left)
        case ast.keyword(arg="envvar", value=value):
            yield from _text(value)
        case ast.Constant(value=str(text)) if OWN.fullmatch(text):
            yield text
        case ast.Dict(keys=keys):
            yield from (name for key in keys if key is not None for name in _text(key) if "_" in name)


def _is_environment(node: ast.expr) -> bool:
    """Return true for ``environ`` and ``os.environ``, and for names that end so."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.endswith("environ")
    return False


def _text(node: ast.expr) -> Iterator[str]:
    text = node.value if isinstance(node, ast.Constant) else constants().get(getattr(node, "id", ""), "")
    if isinstance(text, str) and VARIABLE.fullmatch(text):
        yield text


def metrics() -> set[str]:
    """Names of metrics: arguments of ``count`` and ``time``, and the keys and values that reach them."""
    found: set[str] = set()
    for _, inside in nodes(PRODUCT):
        for node in inside:
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("tally"), attr="count" | "time"), args=[first, *_]):
                    found |= {text.value for text in ast.walk(first) if _is_metric(text)}  # type: ignore[attr-defined]
                case ast.Assign(targets=[ast.Subscript(ast.Name("counts" | "times"), ast.Constant() as name)]):
                    found |= {str(name.value)} if _is_metric(name) else set()
                case ast.Assign(targets=[ast.Name("metric")], value=ast.IfExp(body=ast.Constant() as name)):
                    found |= {str(name.value)} if _is_metric(name) else set()
                case ast.Assign(targets=[ast.Name("METRICS" | "found")], value=ast.Dict() as table):
                    names = [*table.keys, *table.values]
                    found |= {name.value for name in names if _is_metric(name)}  # type: ignore[union-attr]
    return found


def _is_metric(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(re.match(r"[A-Z][a-z]", node.value))


def log_fields() -> dict[str, set[str]]:
    """Field of a log line → the modules that write it: keys of ``extra``, and of the dicts that become a part of it."""
    found: dict[str, set[str]] = {}
    for path, inside in nodes(PRODUCT):
        module = str(path.relative_to(PRODUCT))
        if not module.startswith(("page/", "record/migrations/", "local/dev/")):  # they write no log lines on AWS
            for node in inside:
                for name in _fields(node):
                    found.setdefault(name, set()).add(module)
    return found


BUILDERS = ("fields_of", "_end_fields", "log_fields", "_log_fields", "write")
"""Functions that return fields, and the one that writes them, by name."""


def _fields(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.keyword(arg="extra", value=value) if not isinstance(value, ast.Constant):
            yield from _keys(value)
        case ast.FunctionDef(name=name) if name in BUILDERS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict):
                    yield from _keys(inner)
        case ast.FunctionDef(name="_parts"):  # of what follows a commit
            for inner in ast.walk(node):
                match inner:
                    case ast.Yield(value=ast.Tuple(elts=[ast.Constant(value=str(name)), *_])):
                        yield name
        case ast.Assign(targets=[ast.Name("fields" | "common")], value=value):
            yield from _keys(value)
        case ast.Assign(targets=[ast.Subscript(value=ast.Name("fields"), slice=ast.Constant(value=str(name)))]):
            yield name


def _keys(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
