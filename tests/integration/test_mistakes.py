"""The mistakes of a first day: each meets a line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pg8000.exceptions import DatabaseError
from pydantic import BaseModel, NaiveDatetime

from joblane import Grants, JobClient, JobError, MessageClient, Payload, State, TaskContext, cron, task
from joblane.errors import DeclarationError
from joblane.tasks.discovery import discover
from joblane.testing import JobTester
from joblane.worker.router import Router
from tests.builders.events import invoke, record
from tests.logs import lines
from tests.world import PREFIX, World

Handler = Callable[..., Any]
NOW = datetime.now(UTC)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001


class Job(Payload):
    number: int


class Loose(Payload):
    value: Any = None
    many: dict[str, list[Any]] = {}  # noqa: RUF012
    at: datetime | None = None
    local: NaiveDatetime | None = None


class Plain(BaseModel):
    number: int


def handler(name: str = "bad_job", payload: Any = Job) -> Handler:
    def function(payload: Any, ctx: TaskContext) -> None:
        pass

    function.__name__ = name
    if payload is None:
        del function.__annotations__["payload"]
    else:
        function.__annotations__["payload"] = payload
    return function


def one_parameter(payload: Job) -> None:
    pass


def generator(payload: Job, ctx: TaskContext) -> Any:
    yield


one_parameter.__name__ = generator.__name__ = "bad_job"


def declared(function: Handler | None = None, type_: Any = "bad:job", **options: Any) -> Callable[[], Any]:
    return lambda: task(type_, **options)(function or handler())


SUBCLASS = "annotate 'payload' with a subclass of Payload, defined above the function"
DECLARATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "no annotation": (declared(handler(payload=None)), SUBCLASS),
    "a dict": (declared(handler(payload=dict)), SUBCLASS),
    "a model of pydantic": (declared(handler(payload=Plain)), SUBCLASS),
    "one parameter": (declared(one_parameter), "the function takes (payload, ctx), not 1 parameters"),
    "a generator": (declared(generator), "to work item by item, loop over ctx.each(items)"),
    "a hyphen": (declared(type_="bad-job"), "'category:action' is required, lower-case letters, digits and"),
    "no type": (lambda: task(handler())(handler()), 'write the type into the decorator: @task("category:action")'),  # type: ignore[arg-type]
    "another name": (declared(handler("run")), "the function is called 'run', not 'bad_job'"),
    "a timeout in seconds": (declared(timeout=30), "is required, not 30; write timedelta(seconds=30)"),
    "a long timeout": (declared(timeout=timedelta(hours=1)), "loop over ctx.resume(…) and declare resumable=True"),
    "six fields of cron": (declared(schedule="0 0 3 * * *"), "there are no seconds and no year"),
    "a rate": (declared(schedule="rate(5 minutes)"), "write five fields, or every(minutes=15) for a rate"),
    "a required field": (declared(schedule="0 3 * * *"), "the schedule a payload: cron(…, payload={…})"),
    "a NUL in a payload": (
        declared(schedule=cron("0 3 * * *", payload={"do": "a\0"})),
        "schedule: '0': payload: contains a NUL character, which PostgreSQL cannot store",
    ),
    "another field": (declared(schedule=cron("0 3 * * *", payload={"n": 1})), "an unknown field"),
    "an unknown queue": (declared(queue="urgent"), "'urgent' is not one of critical, default, low"),
    "a delay in seconds": (declared(retry_delay=30), "a timedelta from 0 to 365 days, a list of them, or a function"),
    "one setting": (declared(environment="BUCKET"), "a list of names is required"),
    "one bucket": (lambda: Grants(buckets="exports"), "for example ('exports',)"),  # type: ignore[arg-type]
    "one type": (lambda: Grants(enqueue="a:b"), "for example ('data:export',)"),  # type: ignore[arg-type]
    "no type to run": (lambda: Grants(run=("*",)), "'category:action' is required"),
    "no type in grants": (lambda: Grants(enqueue=("exports",)), "'category:action' is required"),
    "grants as a dict": (declared(grants={"enqueue": ("a:b",)}), "grants: Grants(…) is required, not dict"),
    "an alert about any task": (declared(on_archived=task("bad:job")(handler())), "takes Job, not ArchivedTask"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", DECLARATIONS)
def test_a_mistake_in_a_declaration_says_what_is_right(mistake: str) -> None:
    make, message = DECLARATIONS[mistake]
    with pytest.raises(DeclarationError) as refusal:
        make()
    assert message in str(refusal.value)


BAD_JOB: Any = task("bad:job", grants=Grants(enqueue=("other:job",)))(handler())
LOOSE: Any = task("loose:job")(handler("loose_job", Loose))
SENDER = MessageClient()
OTHER_TYPE = "the handler would get a value of another type"


def enqueued(job: Any = BAD_JOB, payload: Any = None, **options: Any) -> Callable[[], Any]:
    return lambda: SENDER.enqueue(job, Job(number=1) if payload is None else payload, **options)


ENQUEUES: dict[str, tuple[Callable[[], Any], str]] = {
    "a dict": (enqueued(payload={"number": 1}), "takes Job, not dict; build it by Job(…)"),
    "another class": (enqueued(payload=Loose()), "payload: bad:job takes Job, not Loose"),
    "a type as text": (enqueued("bad:job"), "import it from its handler"),
    "an object": (enqueued(LOOSE, Loose(value=object())), "payload: value: the value cannot be written as JSON"),
    "a set": (enqueued(LOOSE, Loose(value={1})), f"payload: value: {OTHER_TYPE}"),
    "a set inside": (enqueued(LOOSE, Loose(many={"a": [{1}]})), f"payload: many: {OTHER_TYPE}"),
    "a UUID": (enqueued(LOOSE, Loose(value=UUID(int=1))), "annotate the field with the type of its values"),
    "a naive time": (enqueued(LOOSE, Loose(at=NAIVE)), "at: a time with its zone is required, for"),
    "infinity": (enqueued(LOOSE, Loose(value=1e999)), "payload: value: Out of range float values"),
    "a naive process_at": (enqueued(process_at=NAIVE), "an aware datetime is required, for example"),
    "a naive deadline": (enqueued(deadline=NAIVE), "an aware datetime is required, for example"),
    "seconds": (enqueued(process_in=5), "is required, not 5; write timedelta(seconds=5)"),
    "countdown": (enqueued(countdown=5), "there is no such option; did you mean process_in?"),
    "eta": (enqueued(eta=NOW), "did you mean process_at?"),
    "priority": (enqueued(priority=5), "there is no such option; there are queue, process_in"),
    "more retries": (enqueued(max_retry=50), "max_retry: 0 to 5, which 'bad:job' declares, is required, not 50"),
    "a queue without a lane": (enqueued(queue="low"), "Add it by also=… on the task"),
    "a session": (lambda: JobClient().enqueue(BAD_JOB, Job(number=1), session="x"), "Session is required"),  # type: ignore[arg-type]
    "delay": (lambda: BAD_JOB.delay(1), "call jobs.enqueue(task, payload), with jobs = JobClient()"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", ENQUEUES)
def test_a_mistake_in_an_enqueue_says_what_is_right(mistake: str) -> None:
    make, message = ENQUEUES[mistake]
    with pytest.raises((JobError, AttributeError)) as refusal:
        make()
    assert message in str(refusal.value)


def test_values_that_the_handler_gets_as_they_are_pass() -> None:
    kept = Loose(value={"a": [1, None, "x"]}, many={"a": [True]}, at=NOW, local=NAIVE)
    assert LOOSE.read(LOOSE.write(kept), None) == kept


RUNS: dict[str, tuple[Callable[[TaskContext], Any], str]] = {
    "a commit": (lambda ctx: ctx.session.commit(), "let the handler loop over ctx.each(items, key=…)"),
    "an object as result": (lambda _: object(), "the handler's result cannot be stored: Unable to serialize"),
    "a result without JSON": (lambda _: {1: "\0"}, "the handler's result cannot be stored: result: contains a NUL"),
    "a large result": (lambda _: "é" * 524_288, "it has 1,048,578 bytes as JSON, and at most 1,048,576 are stored"),
    "a grant": (lambda ctx: ctx.enqueue(LOOSE, Loose()), "add grants=Grants(enqueue=('other:job', 'loose:job'))"),
    "a key of a loop": (lambda ctx: [*ctx.each([object()], key=lambda it: it)], "key: text is required"),  # type: ignore[arg-type, return-value]
}  # fmt: skip


@pytest.mark.parametrize("mistake", RUNS)
def test_a_mistake_in_a_run_says_what_is_right(mistake: str, jobs: JobTester) -> None:
    do, message = RUNS[mistake]

    def bad_job(payload: Job, ctx: TaskContext) -> Any:
        return do(ctx)

    bad_job.__annotations__["payload"] = Job
    ended = jobs.task(jobs.enqueue(made := task("bad:job", grants=BAD_JOB.grants)(bad_job), Job(number=1)).id)
    with lines() as found:
        jobs.drain()
    ended = jobs.task(ended.id)
    assert (ended.state, made.type) == (State.RETRY, "bad:job")
    assert message in (ended.error_message or "")
    # and its log line says it too
    [line] = [line for line in found.fields if line["message"] == "task retry"]
    assert message in line["error"]


MODULES: dict[str, tuple[str, str]] = {
    "a syntax error": ("def bad_job(:", "PACKAGE/bad_job/handler.py, line 1: SyntaxError"),
    "a missing package": ("import no_such_package", "Add its package to the lock file ([tool.joblane] lock)"),
    "another folder": (
        "from joblane import task, Payload\nclass P(Payload): ...\n@task('bad:thing')\ndef bad_thing(p: P, ctx): ...",
        "declares 'bad:thing', which belongs in PACKAGE/bad_thing/handler.py",
    ),
    "no task": ("def bad_job(payload, ctx): ...", "declares no task; put @task on its function 'bad_job'"),
    "an alert about itself": (
        "from joblane import *\n@task('bad:job', on_archived='bad:job')\ndef bad_job(p: ArchivedTask, ctx): ...",
        "on_archived: 'bad:job' → 'bad:job' is a circle without an end; leave on_archived out of the last one",
    ),
}


@pytest.mark.parametrize("mistake", MODULES)
def test_a_mistake_in_a_file_says_where_and_what(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = MODULES[mistake]
    name = (
        f"functions_with_{mistake.replace(' ', '_')}"  # a package of its own: Python keeps those that it has imported
    )
    package = tmp_path / name
    (package / "bad_job").mkdir(parents=True)
    for path in (package, package / "bad_job"):
        (path / "__init__.py").touch()
    (package / "bad_job" / "handler.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeclarationError) as refusal:
        discover(name)
    assert message.replace("PACKAGE", name) in str(refusal.value)


def test_a_type_that_is_not_deployed_is_named_with_the_command(world: World) -> None:
    with lines() as found:
        assert not world.client.enqueue(BAD_JOB, Job(number=1)).sent
    [line] = found.fields
    assert "their rows are safe and the sweep sends them" in line["message"]
    assert "Deploy the type: `joblane up` on the local stack" in line["error"]
    with pytest.raises(JobError, match="Deploy the type: `joblane up`"):
        SENDER.enqueue(BAD_JOB, Job(number=1))


def test_a_misspelt_type_at_a_front_door_is_logged_with_the_type_that_was_meant(world: World) -> None:
    world.make("jobs-default")
    router = Router({"report:export_csv": ["default"]}, world.sqs, PREFIX)
    with lines() as found:
        for receives in (1, 2):
            message = record({"type": "report:export_cvs"}, "jobs-default", receives=receives)
            invoke(router.handle, message)
    [line] = found.fields
    assert line["message"] == (
        "no task 'report:export_cvs' takes messages from a front door; did you mean 'report:export_csv'?; the message "
        "waits an hour for a deploy of the type, then it is a dead letter"
    )


def test_a_misspelt_type_in_sql_says_what_writes_the_types(world: World) -> None:
    with pytest.raises(DatabaseError) as refusal:
        world.run("select * from joblane.enqueue('report:export_cvs')")
    said = refusal.value.args[0]
    assert said["M"] == "type: there is no task 'report:export_cvs'"
    assert said["H"] == "It is written by `joblane migrate` of the code that declares it."
