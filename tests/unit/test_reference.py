"""The reference is complete and says what the code does: its pages against the code, in both directions."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from joblane import Payload, TaskContext, task
from joblane.client.batch import Batch
from joblane.client.client import JobClient
from joblane.client.limits import Limits
from joblane.client.message_client import MessageClient
from joblane.client.schedules import Schedules
from joblane.errors import DeclarationError, EnqueueError
from joblane.handler.context import TaskContext as Context
from joblane.record.row.states import State
from joblane.tasks.job import OPTIONS, Job
from joblane.tasks.option_facts import DURATION, NUMBER
from joblane.tasks.schedule import every
from saas import settings
from tests.pages import FENCE, ROOT, table
from tests.reference import FOLDER, page, rendered
from tests.reference.docstrings import MissingTextError, doc, fields_of, split_range
from tests.reference.found import PRODUCT, log_fields, metrics, trees, variables
from tests.reference.sections import ERRORS, INSIDE, INTERNAL, PAGES

CODE = re.compile(r"`([^`]+)`")


def words(name: str) -> set[str]:
    """All that a page has as code."""
    text = FENCE.sub("", page(name).read_text())
    return {word for found in CODE.findall(text) for word in (found, found.partition(" ")[0])}


def headings(name: str) -> set[str]:
    return set(re.findall(r"^#+ `([^`]+)`$", page(name).read_text(), re.M))


# --- The pages are those that the code makes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_makes_it(name: str) -> None:
    text = page(name).read_text()
    assert rendered(name, text) == text, "run `python -m tests.reference` and commit the page"


def test_each_page_of_the_reference_is_in_its_index() -> None:
    listed = re.findall(r"^([a-z-]+)$", (FOLDER / "index.md").read_text(), re.M)
    assert sorted(listed) == sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")


def test_an_option_without_a_text_is_an_error() -> None:
    @dataclasses.dataclass
    class Planted:
        """Has a field without a text."""

        with_text: int
        """Has one."""
        without_text: int

    def planted() -> None: ...

    with pytest.raises(MissingTextError, match=r"Planted\.without_text"):
        fields_of(Planted)
    with pytest.raises(MissingTextError, match="planted"):
        doc(planted, "planted")


# --- Nothing is missing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "name"), [(JobClient, "enqueue"), (MessageClient, "enqueue"), (Context, "context")])
def test_every_public_member_of_a_class_is_in_the_reference(model: type, name: str) -> None:
    members = {member for member in (*vars(model), *model.__annotations__) if not member.startswith("_")}
    assert members - INTERNAL <= words(name)


NAMES = {
    JobClient: "abatch acancel aenqueue aenqueue_many aget asignal await_end batch cancel close enqueue enqueue_many "
    "get limits schedules signal wait",
    MessageClient: "aenqueue aenqueue_many close enqueue enqueue_many",
    Context: "acheck aeach aenqueue aenqueue_many agather aisolated apoll aprogress aresume arun asignal asleep astep "
    "async_session attempt await_signal batch batch_id check connection deadline each enqueue enqueue_many gather "
    "headers idempotency_key isolated log_fields logger max_retry new_batch poll progress queue remaining resume run "
    "session settings signal signal_url sleep step task_id traceparent type wait",
    Batch: "enqueue enqueue_many id seal",
    Schedules: "adelete aget alist apause aput aresume arun_now delete get list pause put resume run_now",
    Limits: "get reset set",
}
"""The public names of the classes that users hold. A new name is a promise: add it here on purpose."""


@pytest.mark.parametrize("model", NAMES)
def test_a_class_that_users_hold_has_exactly_these_names(model: type) -> None:
    names = {*dir(model), *inspect.get_annotations(model)}
    assert sorted(name for name in names if not name.startswith("_")) == NAMES[model].split()


def test_what_a_client_holds_itself_has_no_public_name() -> None:
    client, sender = JobClient(), MessageClient()
    held = [name for one in (client, client.limits, client.schedules, sender) for name in vars(one)]
    assert [name for name in held if not name.startswith("_")] == ["limits", "schedules"]


def test_every_state_is_in_the_reference() -> None:
    assert [row[0].strip("`") for row in table(page("tables"), "States")] == [state.value for state in State]


def test_every_error_of_the_library_is_in_the_reference() -> None:
    import ast

    names = {"JobError"}
    for _ in range(3):  # bases before their subclasses
        for _, tree in trees(PRODUCT):
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                    if bases & {*names, "LookupError", "OSError", "BaseException", "Exception"}:
                        names.add(node.name)
    shown = {error.__name__ for group in ERRORS.values() for error in group} | {"JobError"}
    assert names - INSIDE == shown
    assert shown <= headings("errors")


def test_every_environment_variable_is_in_the_reference() -> None:
    named = {word for word in words("environment") if re.fullmatch(r"[A-Z][A-Z0-9_]+", word)}
    platform = {*settings.MAIL, *settings.INVITATION, *settings.SERVICES, *settings.EXPORT, *settings.CLEANUP}
    of_django = {"CONN_HEALTH_CHECKS", "CONN_MAX_AGE", "JOBLANE_SECRET_URL"}  # keys of an entry of DATABASES
    assert named == {*variables(), *platform, "JOBLANE_DEMO_PORT"} - of_django
    for folder in ("functions", "shared/saas", "infra"):
        assert variables(ROOT / folder) <= named


def test_every_metric_is_in_the_reference() -> None:
    rows = table(page("metrics-and-logs"), "Metrics")
    assert {row[0].strip("`") for row in rows} == metrics()
    assert {row[1] for row in rows if row[0].endswith("Ms`")} == {"Milliseconds"}


def test_every_log_field_is_in_the_reference() -> None:
    rows = table(page("metrics-and-logs"), "Log fields")
    listed = {name for row in rows for name in CODE.findall(row[0])}
    migrated = {"types", "revision", "newer", "version", "deployed_by"}  # of Migrated and the deploy, as a whole
    assert listed == log_fields().keys() | migrated


# --- Ranges are those that the code checks -------------------------------------------------------------------------


def ranges(texts: dict[str, str]) -> Iterator[tuple[str, Any, Any]]:
    """Option, least and largest value, of those that have a range."""
    for name, text in texts.items():
        if found := split_range(text)[1]:
            low, _, high = found.partition(" to ")
            yield name, value(low), value(high)


def value(text: str) -> Any:
    number, _, unit = text.partition(" ")
    return timedelta(**{f"{unit.rstrip('s')}s": int(number)}) if unit else int(number)


def next_to(limit: Any, step: int) -> Any:
    return limit + (timedelta(seconds=step) if isinstance(limit, timedelta) else step)


class Ranged(Payload):
    pass


def declare(**options: Any) -> None:
    def report_ranged(payload: Ranged, ctx: TaskContext) -> None: ...

    with_key = {"key": "tenant"} if "max_per_key" in options else {}
    task("report:ranged", **{"timeout": timedelta(seconds=1), **with_key, **options})(report_ranged)


def enqueue(**options: Any) -> None:
    from joblane.enqueue.check import check

    def report_ranged(payload: Ranged, ctx: TaskContext) -> None: ...

    if "debounce" in options:
        options |= {"unique_for": timedelta(days=10), "unique_until": "start"}
    check(Job(task("report:ranged")(report_ranged), Ranged(), **options), record=True, prefix="jobs")


DECLARED = list(ranges(doc(task, "task").args))
ENQUEUED = [
    (name, option.low, option.high)
    for name, option in OPTIONS.items()
    if option.values in (NUMBER, DURATION) and option.low is not None and option.declared != "always"
]


@pytest.mark.parametrize(
    ("call", "error", "name", "low", "high"),
    [
        *((declare, DeclarationError, *one) for one in DECLARED),
        *((enqueue, EnqueueError, *one) for one in ENQUEUED),
    ],
    ids=lambda part: part if isinstance(part, str) else getattr(part, "__name__", ""),
)
def test_a_range_is_what_is_accepted(
    call: Callable[..., None], error: type[Exception], name: str, low: Any, high: Any
) -> None:
    call(**{name: low})
    call(**{name: high})
    for outside in (next_to(low, -1), next_to(high, 1)):
        with pytest.raises(error, match=name):
            call(**{name: outside})


FULL = "1000 are possible: SQS counts to 1000,"


@pytest.mark.parametrize(
    ("max_retry", "hours", "too_long", "why"),
    [(0, 24, 24.1, "0:00:01 to 1 day"), (1, 24, 24.1, "1 day"), (3, 12.5, 12.6, FULL), (5, 8.3, 8.4, FULL)],
)
def test_the_longest_timeouts_of_a_resumable_task(max_retry: int, hours: float, too_long: float, why: str) -> None:
    assert f"{hours} hours with" in doc(task, "task").args["timeout"]
    declare(resumable=True, max_retry=max_retry, timeout=timedelta(hours=hours))
    with pytest.raises(DeclarationError, match=why):
        declare(resumable=True, max_retry=max_retry, timeout=timedelta(hours=too_long))


def test_the_ranges_of_most_numbers_and_durations_are_known() -> None:
    assert {name for name, *_ in DECLARED} == {
        *("max_retry", "timeout", "retention", "unique_for", "batch_size", "max_concurrency", "memory_mb"),
        *("target_wait", "max_depth", "max_per_key", "max_total"),
    }
    assert {name for name, *_ in ENQUEUED} == {"process_in", "retention", "unique_for", "debounce"}


def test_the_intervals_of_every_are_those_of_its_docstring() -> None:
    args = doc(every, "every").args
    for name, most in (("minutes", 60), ("hours", 25)):
        said = [int(number) for number in re.findall(r"\d+", args[name])]
        accepted = []
        for number in range(1, most):
            try:
                every(**{name: number})  # type: ignore[arg-type]
            except DeclarationError:
                continue
            accepted.append(number)
        assert said == accepted, name
