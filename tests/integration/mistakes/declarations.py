"""Mistakes in declarations, which are refused at import, and in files, which are refused by ``joblane check``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from joblane import Grants, Limit, Payload, Rate, TaskContext, cron, every, task
from joblane.tasks.discovery import migration_of
from tests.integration.mistakes.row import Row

Handler = Callable[..., Any]


class Job(Payload):
    number: int


class Optional(Payload):
    number: int = 1


class Naive(Payload):
    at: datetime = datetime(2030, 1, 1)  # noqa: DTZ001


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


async def async_generator(payload: Job, ctx: TaskContext) -> AsyncIterator[int]:
    yield 1


one_parameter.__name__ = generator.__name__ = async_generator.__name__ = "bad_job"


def declared(function: Handler | None = None, type_: Any = "bad:job", **options: Any) -> Callable[[], Any]:
    return lambda: task(type_, **options)(function or handler())


TASK: Any = task
EVERY: Any = every
RATE: Any = Rate
SUBCLASS = "annotate 'payload' with a subclass of Payload, defined above the function"
DECLARATIONS: dict[str, Row] = {
    "no annotation": Row(declared(handler(payload=None)), SUBCLASS),
    "a dict": Row(declared(handler(payload=dict)), SUBCLASS),
    "a model of pydantic": Row(declared(handler(payload=Plain)), SUBCLASS),
    "a class below the function": Row(declared(handler(payload="Below")), SUBCLASS),
    "one parameter": Row(declared(one_parameter), "the function takes (payload, ctx), not 1 parameters"),
    "a generator": Row(declared(generator), "to work item by item, loop over ctx.each(items)"),
    "an async generator": Row(declared(async_generator), "in an `async def` function over ctx.aeach(items)"),
    "a hyphen": Row(declared(type_="bad-job"), "'category:action' is required, lower-case letters, digits and"),
    "no type": Row(lambda: TASK(handler())(handler()), 'write the type into the decorator: @task("category:action")'),
    "no argument": Row(lambda: TASK()(handler()), "task: type_: it is missing; give type_ too"),
    "two arguments without a name": Row(lambda: TASK("bad:job", "low"), "there are too many arguments without a name"),
    "another name": Row(declared(handler("run")), "the function is called 'run', not 'bad_job'"),
    "a timeout in seconds": Row(declared(timeout=30), "is required, not 30; write timedelta(seconds=30)"),
    "a long timeout": Row(declared(timeout=timedelta(hours=1)), "loop over ctx.resume(…) and declare resumable=True"),
    "six fields of cron": Row(declared(schedule="0 0 3 * * *"), "there are no seconds and no year"),
    "a rate as a schedule": Row(declared(schedule="rate(5 minutes)"), "write five fields, or every(minutes=15)"),
    "a timedelta as a schedule": Row(declared(schedule=timedelta(minutes=5)), "nor cron(…), nor every(…)"),
    "a city without its continent": Row(lambda: cron("0 2 * * *", timezone="Berlin"), "such as 'Europe/Berlin'"),
    "an interval in seconds": Row(lambda: EVERY(seconds=30), "the shortest interval is a minute: write minutes=1"),
    "an interval in days": Row(lambda: EVERY(days=1), "write hours=24, or cron('0 2 * * *')"),
    "a unit in the singular": Row(lambda: EVERY(minute=5), "did you mean minutes?"),
    "an interval without a unit": Row(lambda: EVERY(5), "write every(minutes=15)"),
    "an uneven interval": Row(lambda: every(minutes=7), "an interval must divide the hour (1, 2, 3"),
    "a required field": Row(declared(schedule="0 3 * * *"), "the schedule a payload: cron(…, payload={…})"),
    "a naive time as a default": Row(
        declared(handler(payload=Naive), schedule="@hourly"), "schedule: '0': payload: at: a time with its zone"
    ),
    "a NUL in a payload": Row(
        declared(schedule=cron("0 3 * * *", payload={"do": "a\0"})),
        "schedule: '0': payload: contains a NUL character, which PostgreSQL cannot store",
    ),
    "another field": Row(declared(schedule=cron("0 3 * * *", payload={"n": 1})), "an unknown field; known are number"),
    "an unknown queue": Row(declared(queue="urgent"), "'urgent' is not one of critical, default, low"),
    "a delay in seconds": Row(declared(retry_delay=30), "a timedelta from 0 to 365 days, a list of them, or a"),
    "one setting": Row(declared(environment="BUCKET"), "a list of names is required"),
    "one bucket": Row(lambda: Grants(buckets="exports"), "for example ('exports',)"),  # type: ignore[arg-type]
    "one type": Row(lambda: Grants(enqueue="a:b"), "for example ('data:export',)"),  # type: ignore[arg-type]
    "no type to run": Row(lambda: Grants(run=("*",)), "'category:action' is required"),
    "no type in grants": Row(lambda: Grants(enqueue=("exports",)), "'category:action' is required"),
    "grants as a dict": Row(declared(grants={"enqueue": ("a:b",)}), "grants: Grants(…) is required, not dict"),
    "grants as text": Row(declared(grants="other:type"), "grants: Grants(…) is required, not str"),
    "an unknown bucket": Row(
        declared(grants=Grants(buckets=("nowhere",))),
        "the CDK app names the buckets, and a project can have several; the synthesis refuses an unknown one",
        "silent",
    ),
    "an alert about any task": Row(declared(on_archived=task("bad:job")(handler())), "takes Job, not ArchivedTask"),
    "events as text": Row(declared(events="archived"), "events: a list is required, for example ('archived',)"),
    "an event of a failure": Row(declared(events=("failed",)), "is not one of completed, archived, cancelled"),
    "Celery's retries": Row(declared(retries=3), "retries: there is no such option; did you mean max_retry?"),
    "Celery's errors": Row(declared(autoretry_for=(OSError,)), "each exception is retried; raise SkipRetry(…)"),
    "Celery's back-off": Row(declared(retry_backoff=True), "did you mean retry_delay?"),
    "Celery's rate": Row(declared(rate_limit="10/m"), "write rate=Rate(10, per=timedelta(minutes=1))"),
    "Celery's limit of time": Row(declared(soft_time_limit=60), "did you mean timeout?"),
    "an enqueue's option": Row(declared(countdown=5), "it is an option of an enqueue, process_in"),
    "an option that no library has": Row(declared(colour="red"), "there is no such option; there are type_, queue"),
    "a rate as text": Row(declared(rate="10/s"), "write Rate(10, per=timedelta(seconds=1))"),
    "a rate without its time": Row(lambda: RATE(10), "rate: per: it is missing; write Rate(10, per=timedelta("),
    "a rate in seconds": Row(declared(rate=Rate(10, per=60)), "per: a timedelta from 1 second"),  # type: ignore[arg-type]
    "Rate(seconds=)": Row(lambda: RATE(10, seconds=1), "write Rate(10, per=timedelta(seconds=1))"),
    "a limit per key without keys": Row(declared(max_per_key=2), "give key too; it names the field"),
    "a key without a limit": Row(declared(key="number"), "give max_per_key, rate or order too"),
    "a key that is no field": Row(declared(key="customer", max_per_key=2), "Job has no field 'customer'; it has n"),
    "a limit by its name": Row(declared(limit="mail"), "write Limit('mail', total=10)"),
    "a limit of nothing": Row(declared(limit=Limit("mail")), "total"),
    "an order without a name": Row(declared(order=True, key="number"), "order: 'first-due'"),
    "an order without a key": Row(declared(order="first-due"), "give key too"),
    "a negative number": Row(declared(max_retry=-1), "an integer from 0 to 100 is required, not -1"),
    "migrations that do not exist": Row(lambda: migration_of("no_such:upgrade"), "'module:function' is required"),
    "a migration of text": Row(lambda: migration_of("joblane.names:SWEEP"), "a function is required, not str"),
    "no number": Row(declared(max_retry=None), "an integer from 0 to 100 is required, not None"),
}  # fmt: skip
HEAD = "from joblane import *\nclass P(Payload): ...\n"
FILES: dict[str, tuple[str, str]] = {
    "a syntax error": ("def bad_job(:", "PACKAGE/bad_job/handler.py, line 1: SyntaxError"),
    "a missing package": ("import no_such_package", "Add its package with joblane lock PACKAGE"),
    "another folder": (
        f"{HEAD}@task('bad:thing')\ndef bad_thing(p: P, ctx): ...",
        "declares 'bad:thing', which belongs in PACKAGE/bad_thing/handler.py",
    ),
    "no task": ("def bad_job(payload, ctx): ...", "declares no task; put @task on its function 'bad_job'"),
    "two tasks": (
        f"{HEAD}@task('bad:job')\ndef bad_job(p: P, ctx): ...\n@task('bad:other')\ndef bad_other(p: P, ctx): ...",
        "declares bad:job, bad:other; a folder may declare only one task",
    ),
    "a type of the library": (
        f"{HEAD}@task('jobs:own')\ndef jobs_own(p: P, ctx): ...", "types jobs:* belong to the library"
    ),
    "an alert about itself": (
        "from joblane import *\n@task('bad:job', on_archived='bad:job')\ndef bad_job(p: ArchivedTask, ctx): ...",
        "on_archived: 'bad:job' → 'bad:job' is an endless loop; remove on_archived from the last task",
    ),
    "an alert to a type that does not exist": (
        f"{HEAD}@task('bad:job', on_archived='jobs:swep')\ndef bad_job(p: P, ctx): ...",
        "on_archived: there is no task 'jobs:swep'; did you mean 'jobs:sweep'?",
    ),
    "an alert to a type with another payload": (
        f"{HEAD}@task('bad:job', on_archived='jobs:sweep')\ndef bad_job(p: P, ctx): ...",
        "on_archived: 'jobs:sweep' takes ",
    ),
    "grants for a type that does not exist": (
        f"{HEAD}@task('bad:job', grants=Grants(enqueue=('bad:jop',)))\ndef bad_job(p: P, ctx): ...",
        "grants: enqueue: there is no task 'bad:jop'; did you mean 'bad:job'?",
    ),
    "an alias that is a type": (
        f"{HEAD}@task('bad:job', aliases=['jobs:sweep'])\ndef bad_job(p: P, ctx): ...",
        "aliases: 'jobs:sweep' belongs to another task",
    ),
}  # fmt: skip
"""Mistake → the text of a handler, and its line."""
