"""Commands of the pages fit the API models of AWS: the fields of `--query`, and the files of AWS Backup."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jmespath  # type: ignore[import-untyped] # it has no types
import pytest
from botocore import xform_name
from botocore.session import Session
from botocore.validate import ParamValidator

from tests.pages import ROOT, blocks, commands

QUERIES = sorted(
    {
        (words[1], words[2], words[words.index("--query") + 1])
        for block in blocks("sh")
        for words in commands(block.text)
        if words[0] == "aws" and "--query" in words
    }
)


@cache
def model(service: str) -> Any:
    return Session().get_service_model(service)


def sample(shape: Any, above: tuple[str, ...] = ()) -> Any:
    """An answer of this shape: each list has one entry, and each text is ``x``."""
    if shape.name in above:
        return None
    inside = (*above, shape.name)
    match shape.type_name:
        case "structure":
            return {name: sample(member, inside) for name, member in shape.members.items()}
        case "list":
            return [sample(shape.member, inside)]
        case kind:
            return {"map": {}, "integer": 1, "long": 1, "double": 1.0, "boolean": True}.get(kind, "x")


def leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [value]


@pytest.mark.parametrize(("service", "command", "query"), QUERIES, ids=" ".join)
def test_a_query_names_fields_that_the_service_answers_with(service: str, command: str, query: str) -> None:
    operation = next(name for name in model(service).operation_names if xform_name(name, "-") == command)
    found = jmespath.search(query, sample(model(service).operation_model(operation).output_shape))
    # a condition (`[?…]`) may leave nothing of the sample: then only the form of the query is tried
    assert None not in leaves(found)
    assert leaves(found) or "?" in query


@pytest.mark.parametrize(
    ("operation", "member", "key"),
    [
        ("CreateBackupPlan", "BackupPlan", "BackupPlanName"),
        ("CreateBackupSelection", "BackupSelection", "SelectionName"),
    ],
)
def test_a_file_for_aws_backup_has_the_form_of_its_request(operation: str, member: str, key: str) -> None:
    page = ROOT / "docs" / "how-to" / "restore.md"
    [given] = [found for block in blocks("json", page) if key in (found := json.loads(block.text))]
    shape = model("backup").operation_model(operation).input_shape.members[member]
    assert ParamValidator().validate(given, shape).generate_report() == ""
