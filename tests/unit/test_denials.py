"""Each sentence that says that Joblane lacks, cannot do or refuses something is in ``denials.toml``, and is true."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import filter as matching
from functools import cache
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer

from joblane.cli.main import app
from tests.pages import FENCE, PAGES, ROOT

Claims = Mapping[str, str | Sequence[str]]
"""Part of a sentence → the claims that a test compares."""
LIST: Mapping[str, Claims] = tomllib.loads(Path(__file__).with_name("denials.toml").read_text())
KINDS = ("absent", "test", "mistake", "because")
MISTAKES = "".join(path.read_text() for path in (ROOT / "tests" / "integration" / "mistakes").glob("*.py"))

PRODUCT = ROOT / "shared" / "joblane"
WITHOUT = {ROOT / "CHANGELOG.md", ROOT / "docs" / "reference" / "errors.md"}
"""History, and conditions."""
DOCSTRINGS = (
    PRODUCT / "fastapi.py",
    *(path for room in ("django", "otel", "sentry") for path in PRODUCT.glob(f"{room}/*.py")),
)
"""Public modules that the reference does not show."""

DENIES = re.compile(
    r"\bcannot\b|do(?:es)? not exist|\bnot (?:included|supported|possible|a coroutine|a generator)\b"
    r"|^There (?:is|are) no\b|^No \w+ (?:can|may|inside)\b|\b(?:is|are) refused\b"
    r"|^(?:It|Joblane|An? \w+|The \w+|Django's tasks|`[^`]+`) (?:has|have) no\b"
    r"|(?:It|[Cc]lient|Error`|Client`|synth`|preflight`|[Ss]ynthesis|[Pp]reflight|[Ss]chedule|[Cc]ommand|Joblane|deploy"
    r"|[Mm]igration|front \w+) refuses?\b"
)
EXEMPT = re.compile(
    r"\b(?:[Ii]f|that|which|whose|when|[Ww]hat|unless|where|because|while)\b[^;:]*$"
    r"|(?:AWS|Cloud\w+|Gateway|IAM|Lambda|PostgreSQL|RDS|SQS|EventBridge|emulator|or|and),? $"
)
"""Words before a denial that is a condition, or of another system."""
FRAGMENT = re.compile(r"(?:^|.* \| )(?:does not exist|is refused|cannot change)\b|.*\bnot a (?:coroutine|generator)")
"""A denial in a cell or an item of a list, without a subject."""
SECTION = re.compile(r"^#+ (?:Not included|What (?:does not exist|is not there))[^\n]*\n(.*?)(?=^#|\Z)", re.M | re.S)
"""Each item of such a section denies something."""


def plain(text: str) -> str:
    """The prose, without code blocks, comments, links and bold type."""
    text = re.sub(r"<!--.*?-->", "\n\n", FENCE.sub("\n\n", text), flags=re.S)
    return re.sub(r"\[([^\]]*)\]\([^)\s]*\)", r"\1", text).replace("**", "")


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, items of lists, and cells of tables, each in one line. A fragment has the first cell of its row."""
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) ?)", text):
        row = " ".join(part.split()).removeprefix("- ")
        first, *cells = row.strip("| ").split(" | ") if row.startswith("|") else [row]
        yield first
        yield from (f"{first} | {cell}" if FRAGMENT.match(cell) else cell for cell in cells)


def sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.!?])\)? +(?=[A-Z`(])", paragraph)


def denials(text: str) -> Iterator[str]:
    """The sentences that deny a feature."""
    text = plain(text)
    for section in SECTION.findall(text):
        yield from (sentences(item)[0] for item in paragraphs(section) if item)
    for paragraph in paragraphs(text):
        for sentence in sentences(paragraph):
            denied = (match for match in DENIES.finditer(sentence) if not EXEMPT.search(sentence[: match.start()]))
            whole = not sentence[:1].islower() or FRAGMENT.match(sentence)
            if sentence[:1] != "#" and whole and any(denied):
                yield sentence


@cache
def texts() -> Mapping[str, str]:
    """Page, or module → its text."""
    found = {path: path.read_text() for path in PAGES if path not in WITHOUT and "platform" not in path.parts}
    found |= {path: docstrings(path.read_text()) for path in DOCSTRINGS}
    return {str(path.relative_to(ROOT)): text for path, text in found.items()}


def docstrings(source: str) -> str:
    """The docstrings of public functions and classes, without their sections."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = (node for node in ast.walk(ast.parse(source)) if isinstance(node, named) and node.name[0] != "_")
    found = ((ast.get_docstring(node) or "").partition("\n\nRaises:")[0] for node in public)
    return "\n\n".join(re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`") for text in found)


def unlisted(texts: Mapping[str, str], listed: Mapping[str, Claims]) -> Iterator[str]:
    for page, text in texts.items():
        for sentence in denials(text):
            if not any(part in sentence for part in listed.get(page, ())):
                yield f"{page}: {sentence!r} denies something. Add it to tests/unit/denials.toml, which says how"


def gone(texts: Mapping[str, str], listed: Mapping[str, Claims]) -> Iterator[str]:
    for page, claims in listed.items():
        said = " ".join(paragraphs(plain(texts.get(page, ""))))
        yield from (f"{page} does not say {part!r} any more. Remove it" for part in claims if part not in said)


def untrue(listed: Mapping[str, Claims]) -> Iterator[str]:
    for page, claims in listed.items():
        for part, shown in claims.items():
            for claim in [shown] if isinstance(shown, str) else shown:
                yield from (f"{page}: {part!r}: {problem}" for problem in problems(claim))


def problems(claim: str) -> Iterator[str]:
    """Yield each fact that contradicts a claim."""
    kind, _, said = claim.partition(": ")
    if kind not in KINDS or not said:
        yield f"{claim!r} is none of {', '.join(KINDS)}"
    elif kind == "absent":
        yield from (f"{name} exists" for pattern in said.split(", ") for name in existing(pattern))
    elif kind == "test":
        path, _, name = said.partition("::")
        if f"def {name}(" not in (ROOT / "tests" / path).read_text():
            yield f"there is no test {said}"
    elif kind == "mistake" and f'"{said}": Row(' not in MISTAKES:
        yield f"tests/integration/mistakes has no {said!r}"


def existing(pattern: str) -> Iterator[str]:
    """The names that match: ``joblane.X``, ``joblane.X(option)``, ``joblane command``, ``joblane X --option``.

    Raises AttributeError or KeyError if what should have the name does not exist.
    """
    names: Any
    if pattern.startswith("joblane "):
        *path, last = pattern.split()[1:]
        command: Any = typer.main.get_command(app)
        for word in path:
            command = command.commands[word]
        names = [option for each in command.params for option in each.opts] if last[:1] == "-" else command.commands
    elif pattern.endswith(")"):
        owner, _, last = pattern[:-1].partition("(")
        names = inspect.signature(resolve_name(owner)).parameters
    else:
        owner, _, last = pattern.rpartition(".")
        thing = resolve_name(owner)
        fields = (
            getattr(thing, kind, ()) for kind in ("__all__", "model_fields", "__dataclass_fields__", "__annotations__")
        )
        names = {*dir(thing), *chain(*fields)}
    yield from (f"{name} of {pattern}" for name in matching(names, last) if name[0] != "_")


def test_every_denial_is_in_the_list() -> None:
    assert list(unlisted(texts(), LIST)) == []


def test_every_denial_of_the_list_is_on_its_page() -> None:
    assert list(gone(texts(), LIST)) == []


def test_what_is_denied_does_not_exist() -> None:
    assert list(untrue(LIST)) == []


def test_a_program_checks_most_denials() -> None:
    shown = [claims if isinstance(claims, str) else claims[0] for page in LIST.values() for claims in page.values()]
    assert sum(not claim.startswith("because: ") for claim in shown) > 0.6 * len(shown)


@pytest.mark.parametrize(
    "sentence",
    [
        "Events and signals do not exist in Joblane.",
        "| events, `task-failed` | does not exist: log lines and metrics |",
        "An `async def` handler is refused.",
        "Joblane has no hooks.",
        "- is a plain function, not a coroutine or a generator;",
        "## Not included\n\n- Asynchronous batches",
    ],
)
def test_a_planted_denial_is_found(sentence: str) -> None:
    assert len([*unlisted({"page.md": sentence}, {"page.md": {"another sentence": "because: it is"}})]) == 1


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        ("absent: joblane.o[n]", "on of"),
        ("absent: joblane.task(events)", "events of"),
        ("absent: joblane.JobClient.*batch", "batch of"),
        ("absent: joblane.cdk.settings.stage.Stage.event*", "events of"),
        ("absent: joblane graph", "graph of"),
        ("absent: joblane logs --follow", "--follow of"),
        ("test: unit/test_denials.py::test_of_nothing", "there is no test"),
        ("mistake: a row that does not exist", "has no"),
        ("it is so", "is none of"),
    ],
)
def test_a_denial_of_what_exists_is_found(claim: str, problem: str) -> None:
    assert problem in "".join(untrue({"page.md": {"Joblane has none": claim}}))


def test_a_denial_of_a_name_without_a_home_is_an_error() -> None:
    with pytest.raises(AttributeError):
        [*existing("joblane.JobCleint.batch")]
    with pytest.raises(KeyError):
        [*existing("joblane redirve --queue")]


def test_a_sentence_that_has_left_its_page_is_found() -> None:
    assert "does not say 'no hooks'" in "".join(gone({"page.md": "Joblane has hooks."}, {"page.md": {"no hooks": ""}}))
