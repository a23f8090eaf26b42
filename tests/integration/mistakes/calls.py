"""Mistakes in calls: an enqueue, a batch, a schedule, the kit; and in the run of a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import NaiveDatetime
from sqlalchemy import column, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from joblane import Grants, Job, JobClient, MessageClient, Payload, Snooze, TaskContext, task
from joblane.testing import JobTester
from tests.integration.mistakes.declarations import Job as Number
from tests.integration.mistakes.declarations import handler
from tests.integration.mistakes.row import Row

NOW = datetime.now(UTC)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001
ONE, DAY = Number(number=1), timedelta(days=1)


class Loose(Payload):
    value: Any = None
    many: dict[str, list[Any]] = {}  # noqa: RUF012
    at: datetime | None = None
    local: NaiveDatetime | None = None


BAD_JOB: Any = task("bad:job", grants=Grants(enqueue=("other:job",)))(handler())
LOOSE: Any = task("loose:job")(handler("loose_job", Loose))
UNIQUE: Any = task("unique:job", unique_for=DAY)(handler("unique_job", Loose))
SENDER, JOBS = MessageClient(), JobClient()
ANY: Any = JOBS
OTHER_TYPE = "the handler would get a value of another type"


def sent(job: Any = BAD_JOB, payload: Any = None, **options: Any) -> Callable[[], Any]:
    return lambda: SENDER.enqueue(job, ONE if payload is None else payload, **options)


def enqueued(**options: Any) -> Callable[[], Any]:
    return lambda: JOBS.enqueue(BAD_JOB, ONE, **options)


ENQUEUES: dict[str, Row] = {
    "a dict": Row(sent(payload={"number": 1}), "takes Job, not dict; build it by Job(…)"),
    "no payload": Row(lambda: ANY.enqueue(BAD_JOB), "takes Job, not NoneType; build it by Job(…)"),
    "fields as arguments": Row(lambda: ANY.enqueue(BAD_JOB, n=1), "fields of the payload are arguments of its class"),
    "Celery's arguments": Row(lambda: ANY.enqueue(BAD_JOB, args=(1,)), "fields of the payload are arguments of its"),
    "another class": Row(sent(payload=Loose()), "payload: bad:job takes Job, not Loose"),
    "a type as text": Row(sent("bad:job"), "import it from its handler"),
    "an unknown field": Row(lambda: Number(number=1, x=2), "Extra inputs are not permitted", "half"),  # type: ignore[call-arg]
    "a wrong field": Row(lambda: Number(number="x"), "Input should be a valid integer", "half"),
    "a change of the payload": Row(lambda: setattr(ONE, "number", 3), "Instance is frozen", "half"),
    "an object": Row(sent(LOOSE, Loose(value=object())), "payload: value: the value cannot be written as JSON"),
    "a set": Row(sent(LOOSE, Loose(value={1})), f"payload: value: {OTHER_TYPE}"),
    "a set inside": Row(sent(LOOSE, Loose(many={"a": [{1}]})), f"payload: many: {OTHER_TYPE}"),
    "a UUID": Row(sent(LOOSE, Loose(value=UUID(int=1))), "annotate the field with the type of its values"),
    "a naive time": Row(sent(LOOSE, Loose(at=NAIVE)), "at: a time with its zone is required, for"),
    "infinity": Row(sent(LOOSE, Loose(value=1e999)), "payload: value: Out of range float values", "half"),
    "not a number": Row(sent(LOOSE, Loose(value=float("nan"))), "payload: value: "),
    "a naive process_at": Row(enqueued(process_at=NAIVE), "an aware datetime is required, for example"),
    "a naive deadline": Row(enqueued(deadline=NAIVE), "an aware datetime is required, for example"),
    "two times": Row(enqueued(process_in=DAY, process_at=NOW), "give process_in or process_at, not both"),
    "seconds": Row(enqueued(process_in=5), "is required, not 5; write timedelta(seconds=5)"),
    "countdown": Row(enqueued(countdown=5), "there is no such option; did you mean process_in?"),
    "delay=": Row(enqueued(delay=5), "did you mean process_in?"),
    "eta": Row(enqueued(eta=NOW), "did you mean process_at?"),
    "expires": Row(enqueued(expires=60), "did you mean deadline?"),
    "priority": Row(enqueued(priority=5), "there is no such option; there are queue, process_in"),
    "tags as text": Row(enqueued(tags="monthly"), "tags: a list of at most 20 strings is required"),
    "a header of numbers": Row(enqueued(headers={"a": 1}), "headers: strings of at most 1,000 characters"),
    "a tenant of digits": Row(enqueued(tenant=5), "tenant: 1 to 128 ASCII letters, digits and punctuation"),
    "more retries": Row(enqueued(max_retry=50), "max_retry: 0 to 5, which 'bad:job' declares, is required, not 50"),
    "an unknown queue": Row(enqueued(queue="high"), "queue: 'high' is not one of critical, default, low"),
    "a queue without a lane": Row(enqueued(queue="low"), "Add it by also=… on the task"),
    "a unique key alone": Row(enqueued(unique_key="x"), "give unique_for too, or declare it on the task"),
    "an unknown policy": Row(
        lambda: JOBS.enqueue(UNIQUE, Loose(), on_conflict="ignore"), "is not one of raise, return, replace"
    ),
    "a debounce without a key": Row(enqueued(debounce=DAY), "debounce needs a unique key: give unique_for"),
    "a debounce to the end": Row(
        lambda: JOBS.enqueue(UNIQUE, Loose(), debounce=timedelta(seconds=9)), 'debounce needs unique_until="start"'
    ),
    "a parent alone": Row(enqueued(after="a"), "after: a list of ids, or of results of an enqueue, is required"),
    "a job as a parent": Row(enqueued(after=[Job(BAD_JOB, ONE)]), "an id, or a result of an enqueue, is required"),
    "an unknown fate": Row(enqueued(after=["a"], on_parent_dead="ignore"), "is not one of hold, cancel, run"),
    "text as a session": Row(enqueued(session="x"), "session: an SQLAlchemy Session is required, not str"),
    "payloads as jobs": Row(lambda: ANY.enqueue_many([ONE]), "job 0: a Job is required, not Job; write Job(task, payl"),
    "a task and payloads": Row(lambda: ANY.enqueue_many(BAD_JOB, [ONE]), "give one list of jobs: [Job(task, payload)"),
    "a batch without an id": Row(ANY.batch, "id: it is missing; name the batch, as jobs.batch('import-7')"),
    "a task as a callback": Row(
        lambda: ANY.batch("b", on_success=BAD_JOB), "on_success: a Job is required, not Task; write Job(task, payload)"
    ),
    "delay": Row(lambda: BAD_JOB.delay(1), "call jobs.enqueue(task, payload), with jobs = JobClient()"),
    "apply_async": Row(lambda: BAD_JOB.apply_async((1,)), "call jobs.enqueue(task, payload)"),
    "s": Row(lambda: BAD_JOB.s(1), "write Job(task, payload) for a list or a batch; for a chain"),
    "si": Row(lambda: BAD_JOB.si(1), "write Job(task, payload) for a list or a batch; for a chain"),
    "retry": Row(lambda: BAD_JOB.retry(countdown=5), "raise the error: the task is retried after its retry_delay"),
}  # fmt: skip


def twice(call: Callable[[], Any]) -> None:
    call()
    call()


def closed_batch(jobs: JobTester) -> None:
    with jobs.client.batch("closed") as batch:
        batch.enqueue(BAD_JOB, ONE)
    batch.enqueue(BAD_JOB, ONE)


def commit_in_a_batch(jobs: JobTester) -> None:
    with Session(jobs.engine) as session, jobs.client.batch("b", session=session) as batch:
        session.commit()
        batch.enqueue(BAD_JOB, ONE)


def uncommitted_batch(jobs: JobTester) -> None:
    with Session(jobs.engine) as session, jobs.client.batch("never", session=session) as batch:
        batch.enqueue(BAD_JOB, ONE)


def schedule(times: Any, payload: Any = ONE) -> Callable[[JobTester], Any]:
    return lambda jobs: jobs.client.schedules.put("x", BAD_JOB, payload, times)


CALLS: dict[str, Row] = {
    "an engine as a session": Row(
        lambda jobs: jobs.client.enqueue(BAD_JOB, ONE, session=jobs.engine), "an SQLAlchemy Session is required"
    ),
    "a duplicate": Row(lambda jobs: twice(lambda: jobs.enqueue(UNIQUE, Loose())), "which is pending; nothing was enq"),
    "an id twice": Row(lambda jobs: twice(lambda: jobs.enqueue(BAD_JOB, ONE, task_id="t")), "that exists already"),
    "an unknown parent": Row(
        lambda jobs: jobs.enqueue(BAD_JOB, ONE, after=["nobody"]), "enqueue the parent first, in the same transaction"
    ),
    "a parent of the same call": Row(
        lambda jobs: jobs.client.enqueue_many([Job(BAD_JOB, ONE, task_id="p"), Job(BAD_JOB, ONE, after=["p"])]),
        "enqueue the parent first, in the same transaction",
    ),
    "a batch twice": Row(closed_batch, "is sealed; only a running member adds members, with ctx.batch"),
    "the id of a batch twice": Row(closed_batch, "a batch 'closed' exists already; nothing was"),
    "a commit in a batch": Row(commit_in_a_batch, "commit or roll back after the block of the batch"),
    "a batch that is never committed": Row(
        uncommitted_batch, "the session rolls back at its end, as for any row; a test of the program sees it", "silent"
    ),
    "six fields": Row(schedule("0 0 6 * * 1"), "there are no seconds and no year"),
    "a day that does not exist": Row(schedule("0 6 * * 8"), "day-of-week"),
    "a schedule with a dict": Row(schedule("@daily", {}), "build it by Job(…), which checks the fields"),
    "a limit that is not declared": Row(
        lambda jobs: jobs.limits.set("bad:job", max_total=1), "no limit, and no type with a limit, is named 'bad:job'"
    ),
    "a wait in a test": Row(
        lambda jobs: jobs.client.wait(jobs.enqueue(BAD_JOB, ONE).id, timeout=timedelta(0)), "it is pending", "half"
    ),
    "a wait in seconds": Row(lambda jobs: jobs.client.wait("t", timeout=1), "a timedelta is required, not int"),
    "the state of an unknown task": Row(
        lambda jobs: jobs.client.get("nobody"), "it returns None, which its type says", "silent"
    ),
    "the cancel of an unknown task": Row(
        lambda jobs: jobs.client.cancel("nobody"), "it returns None, which its type says", "silent"
    ),
    "an assertion on an unknown field": Row(
        lambda jobs: jobs.assert_enqueued(BAD_JOB, m=1), "Job has no field 'm'; it has number"
    ),
    "a run with a dict": Row(lambda jobs: jobs.run(BAD_JOB, {"number": 1}), "build it by Job(…)"),
    "a travel in days": Row(lambda jobs: jobs.travel(5), "by: a timedelta is required, not int; write timedelta("),
    "a drain in seconds": Row(lambda jobs: jobs.drain(within=5), "within: a timedelta is required, not int; write"),
}  # fmt: skip
"""Mistakes that need a database, in an order: some build on those before."""


def async_engine(jobs: JobTester) -> Any:
    return create_async_engine(jobs.url.replace("postgresql://", "postgresql+asyncpg://"))


def with_session(call: Callable[[JobTester, AsyncSession], Any]) -> Callable[[JobTester], Awaitable[None]]:
    """Return a coroutine function that gives the call an AsyncSession, and awaits its result if it can."""

    async def run(jobs: JobTester) -> None:
        engine = async_engine(jobs)
        try:
            async with AsyncSession(engine) as session:
                result = call(jobs, session)
                if hasattr(result, "__await__"):
                    await result
        finally:
            await engine.dispose()

    return run


def not_awaited(result: Any) -> None:
    try:
        result.id  # noqa: B018
    finally:
        result.close()


async def batch_in_a_coroutine(jobs: JobTester, session: Any) -> None:
    batch: Any = jobs.client.batch("ab2", session=session)
    async with batch:
        pass


COROUTINES: dict[str, Row] = {
    "an AsyncSession": Row(
        with_session(lambda jobs, session: jobs.client.enqueue(BAD_JOB, ONE, session=session)),  # type: ignore[arg-type]
        "await jobs.aenqueue(…), async with jobs.abatch(…), await jobs.schedules.aput(…)",
    ),
    "a schedule in an AsyncSession": Row(
        with_session(lambda jobs, session: jobs.schedules.put("y", BAD_JOB, ONE, "@daily", session=session)),  # type: ignore[arg-type]
        "await jobs.schedules.aput(…)",
    ),
    "a sync_session": Row(
        with_session(lambda jobs, session: jobs.client.enqueue(BAD_JOB, ONE, session=session.sync_session)),
        "it belongs to an AsyncSession, which a plain call cannot wait for; give the AsyncSession to await",
    ),
    "no await": Row(
        with_session(lambda jobs, _: not_awaited(jobs.client.aenqueue(BAD_JOB, ONE))),
        "'coroutine' object has no attribute 'id'",
        "raw",
    ),
    "a plain batch in async with": Row(
        with_session(lambda jobs, _: batch_in_a_coroutine(jobs, None)), "use async with jobs.abatch(…)"
    ),
    "a plain session": Row(
        with_session(lambda jobs, _: jobs.client.aenqueue(BAD_JOB, ONE, session=Session(jobs.engine))),  # type: ignore[arg-type]
        "with a plain Session use jobs.enqueue(task, payload, session=session)",
    ),
    "a batch in a plain session": Row(
        with_session(lambda jobs, _: jobs.client.abatch("ab3", session=Session(jobs.engine))),  # type: ignore[arg-type]
        "use jobs.enqueue(task, payload, session=session), or jobs.batch(…)",
    ),
    "a blocking enqueue in an event loop": Row(
        with_session(lambda jobs, _: jobs.client.enqueue(BAD_JOB, ONE)),
        "a check would cost each enqueue; asyncio's debug mode reports the blocked loop",
        "silent",
    ),
}  # fmt: skip


async def coroutine(key: str) -> None: ...


def nested(ctx: TaskContext) -> None:
    for item in ctx.each([1, 2]):
        ctx.step(f"a{item}", lambda _: 1)


def same_step(ctx: TaskContext) -> None:
    ctx.step("a", lambda _: 1)
    ctx.step("a", lambda _: 2)


def own_client(_: TaskContext) -> None:
    with JobClient() as jobs:
        jobs.enqueue(LOOSE, Loose(value=1))


def unclear_cursor(ctx: TaskContext) -> None:
    number: Any = column("n")
    {*ctx.resume(select(number).select_from(text("generate_series(1, 3) n")), cursor=number)}


def snoozed(_: TaskContext) -> None:
    raise Snooze(30)  # type: ignore[arg-type]


ANY_CTX: Callable[[TaskContext], Any] = lambda ctx: ctx  # noqa: E731
RUNS: dict[str, Row] = {
    "a commit": Row(lambda ctx: ctx.session.commit(), "let the handler loop over ctx.each(items, key=…)"),
    "an object as result": Row(lambda _: object(), "the handler's result cannot be stored: Unable to serialize"),
    "a result without JSON": Row(lambda _: {1: "\0"}, "the handler's result cannot be stored: result: contains a NUL"),
    "a large result": Row(lambda _: "é" * 524_288, "it has 1,048,578 bytes as JSON, and at most 1,048,576 are stored"),
    "a grant": Row(lambda ctx: ctx.enqueue(LOOSE, Loose()), "add grants=Grants(enqueue=('other:job', 'loose:job'))"),
    "a key of a loop": Row(lambda ctx: {*ctx.each([object()], key=ANY_CTX)}, "key: text is required"),
    "a list of a loop": Row(lambda ctx: list(ctx.each([1, 2])), "write `for item in ctx.each(…)`"),
    "the name of a step twice": Row(same_step, "this run has used the name already; each step"),
    "a step in a loop": Row(nested, "its commit would keep half of that work"),
    "a step without a key": Row(lambda ctx: ctx.step("a", lambda: 1), "lambda key: …"),
    "a value as a step": Row(lambda ctx: ctx.step("a", 5), "lambda key: …"),
    "a coroutine as a step": Row(lambda ctx: ctx.step("a", coroutine), "use await ctx.astep(…)"),
    "an asynchronous session": Row(lambda ctx: ctx.async_session, "this one is a `def`: use ctx.session"),
    "a setting that is not declared": Row(lambda ctx: ctx.settings["STRIPE"], "declare it by environment=['STRIPE']"),
    "a batch of no member": Row(lambda ctx: ctx.batch.enqueue(BAD_JOB, ONE), "create one with ctx.new_batch(id)"),
    "a snooze in seconds": Row(snoozed, "delay: a timedelta of zero or more, not 30"),
    "a cursor without a type": Row(unclear_cursor, "write column(name, type)"),
    "a table that does not exist": Row(
        lambda ctx: ctx.session.execute(text("select * from nowhere")), "does not exist", "half"
    ),
    "a client of its own": Row(
        own_client, "it is allowed: its task exists even if the run fails, which some handlers want", "silent"
    ),
    "a print": Row(lambda _: print("printed"), "it is allowed: its lines are in the log, without fields", "silent"),
}  # fmt: skip
