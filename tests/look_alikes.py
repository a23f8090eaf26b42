"""Functions and operators that PostgreSQL would prefer to its own, for calls that do not name a schema.

PostgreSQL searches ``pg_catalog`` first, but among functions of one name it prefers one whose parameters have exactly
the types of the arguments, in whatever schema of the ``search_path``. ``to_json(text[])`` is such a function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from pg8000.exceptions import DatabaseError

from joblane.record.driver.connection import Connection

SETTINGS = {"debug_print_parse": "on", "debug_pretty_print": "off"}
"""PostgreSQL logs each statement as a tree, with the number of each function and operator that it has found."""
ENTRY = re.compile(r"^\d{4}-\d\d-\d\d [^\n]*\] LOG:  parse tree:\s*\n[^\n]*?DETAIL:  (.*?)(?=^\d{4}-)", re.M | re.S)
TOKEN = re.compile(r"\\.|[(){}\[\]]|(?:\\.|[^\s(){}\[\]\\])+")
TYPE_OF = (
    "funcresulttype", "opresulttype", "vartype", "consttype", "paramtype", "aggtype", "wintype", "resulttype",
    "casetype", "array_typeid", "row_typeid", "coalescetype", "minmaxtype", "refrestype", "typeId", "type",
)  # fmt: skip
"""The fields of nodes with the type of their value."""
EXPLICIT, IMPLICIT = "0", "2"
"""``CoercionForm``: a call as it is written, and a conversion that PostgreSQL has added. Source: ``primnodes.h``."""
TEXT, BOOLEAN, UNKNOWN = "25", "16", "705"
ARRAYS = "select oid::text, typarray::text from pg_type where typarray <> 0"
OWN_OIDS = 16384
"""The first number of an object that PostgreSQL did not bring. Source: ``transam.h``."""
IN_CATALOGUE = """
select 'function', oid::text, proname, proargtypes::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace
 union all
select 'operator', oid::text, oprname, concat_ws(' ', nullif(oprleft, 0), oprright) from pg_operator
 where oprnamespace = 'pg_catalog'::regnamespace
"""
IN_PUBLIC = """
select p.oid::text, p.oid::regprocedure::text from pg_proc p where pronamespace = 'public'::regnamespace union all
select oid::text, oid::regoperator::text from pg_operator where oprnamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Call:
    """A call of a function, an aggregate or an operator. ``arguments``: types before conversions, with their names if
    the call has them. ``choices``: positions of constants, which may have been written without a type."""

    kind: str
    number: str
    arguments: tuple[tuple[str, str], ...]
    choices: frozenset[int]
    result: str
    returns_set: bool


def calls(log: str, arrays: Mapping[str, str]) -> Iterator[Call]:
    """Yield the calls of all statements that a server with :data:`SETTINGS` has logged."""
    for entry in ENTRY.finditer(log):
        for node in _nodes(_read(iter(TOKEN.findall(entry[1])))):
            kind, given = node["node"], node.get("args")
            arguments = given if isinstance(given, list) else []
            if kind == "FUNCEXPR" and node["funcformat"] == EXPLICIT:
                found = ("function", node["funcid"])
            elif kind in ("OPEXPR", "DISTINCTEXPR", "NULLIFEXPR"):
                found = ("operator", node["opno"])
            elif kind == "AGGREF":
                found = ("aggregate", node["aggfnoid"])
                arguments = [each["expr"] for each in arguments if each["resjunk"] == "false"]
            else:
                continue
            yield Call(
                *found,
                tuple((each.get("name", "").strip('"'), _type(each, arrays)) for each in arguments),
                frozenset(n for n, each in enumerate(arguments) if each["node"] in ("CONST", "PARAM")),
                _type(node, arrays),
                node.get("funcretset") == "true",
            )


def create(connection: Connection, made: Sequence[Call]) -> list[str]:
    """Create look-alikes in ``public`` for calls of functions of ``pg_catalog``, and return what each is for."""
    own = {(kind, number): (name, types.split()) for kind, number, name, types in connection.run(IN_CATALOGUE)}
    types = dict(connection.run("select oid::text, oid::regtype::text from pg_type"))
    names = set[str]()
    for call in made:
        name, declared = own.get((call.kind.replace("aggregate", "function"), call.number), ("", []))
        if not name:
            continue
        written = [[kind] + [TEXT] * (n in call.choices and kind != TEXT) for n, (_, kind) in enumerate(call.arguments)]
        for chosen in product(*written) if len(call.choices) < 5 else [[each[-1] for each in written]]:
            if list(chosen) != declared:
                parameters = [types[TEXT if kind == UNKNOWN else kind] for kind in chosen]
                names |= _create(connection, call, name, parameters, types[call.result], len(names))
    return sorted(names)


def captured(connection: Connection, made: Sequence[Call]) -> list[str]:
    """Return the look-alikes among calls."""
    public = dict(connection.run(IN_PUBLIC))
    return sorted({public[call.number] for call in made if call.number in public})


def _create(connection: Connection, call: Call, name: str, types: Sequence[str], result: str, number: int) -> set[str]:
    named = [f"{argument} {kind}" for (argument, _), kind in zip(call.arguments, types, strict=True)]
    body = f"language plpgsql as $$ begin return{'' if call.returns_set else ' null'}; end $$"
    if call.kind == "function":
        sql = f"create function public.{name}({', '.join(named)}) returns {'setof ' * call.returns_set}{result} {body}"
    elif call.kind == "aggregate":
        step = ", ".join([result, *types])
        sql = f"create function public.step_{number}({step}) returns {result} {body}; create aggregate public.{name}"
        sql += f"({', '.join(types)}) (sfunc = public.step_{number}, stype = {result})"
    else:
        sides = zip(("rightarg",) if len(types) == 1 else ("leftarg", "rightarg"), types, strict=True)
        sql = f"create function public.operator_{number}({', '.join(types)}) returns {result} {body};"
        sql += f" create operator public.{name} ({', '.join(f'{side} = {kind}' for side, kind in sides)},"
        sql += f" function = public.operator_{number})"
    with suppress(DatabaseError):  # exists already, or no function may have such a parameter
        connection.execute_simple(sql)
        return {f"{name}({', '.join(types)})"}
    return set()


def _read(tokens: Iterator[str]) -> Any:
    """Return a node as its fields, with its kind in ``node``, and a list as a list."""
    token = next(tokens)
    if token not in "({[":
        return _END if token in ")}]" else token
    items = list(iter(lambda: _read(tokens), _END))
    if token != "{":
        return items
    node: dict[str, Any] = {"node": items[0] if items else ""}
    for before, item in pairwise(items):
        if isinstance(before, str) and before.startswith(":"):
            node.setdefault(before[1:], item)
    return node


_END = object()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(value)


def _type(node: Mapping[str, Any], arrays: Mapping[str, str]) -> str:
    """Return the type of an expression, as it is without a conversion that PostgreSQL has added."""
    if node.get("funcformat", node.get("relabelformat", node.get("coerceformat"))) == IMPLICIT:
        return _type(node["args"][0] if "args" in node else node["arg"], arrays)
    if node["node"] in ("COLLATEEXPR", "NAMEDARGEXPR"):
        return _type(node["arg"], arrays)
    if node["node"] == "SUBLINK" and node["subLinkType"] in ("4", "6"):  # a value, or an array of values
        value = _type(node["subselect"]["targetList"][0]["expr"], arrays)
        return value if node["subLinkType"] == "4" else arrays[value]
    return next((str(node[name]) for name in TYPE_OF if name in node), BOOLEAN)
