"""Three programs for Celery, and a stand-in for its package, which is not installed here.

The stand-in has what an import and a direct call of a task need: both work as in Celery 5, where a task that is called
as a function runs it, and `self.retry` raises the error that it gets.
"""

from __future__ import annotations

from pathlib import Path

STAND_IN = {
    "celery/__init__.py": """
class Task:
    def __init__(self, function, bind=False, **options):
        self.function, self.bound = function, bind

    def __call__(self, *args, **kwargs):
        return self.function(self, *args, **kwargs) if self.bound else self.function(*args, **kwargs)

    def retry(self, exc=None, **options):
        raise exc


class Celery:
    def __init__(self, name, **options):
        self.conf, self.on_after_configure = type("Conf", (), {})(), self

    def task(self, *args, **options):
        return shared_task(*args, **options)

    def connect(self, function):
        return function

    def config_from_object(self, name): ...


def shared_task(*args, **options):
    return Task(args[0]) if args else lambda function: Task(function, **options)


def chain(*parts): ...
def group(*parts): ...
def chord(*parts): ...
""",
    "celery/schedules.py": "def crontab(**fields): ...\n",
}

CARDS = {
    "cards/__init__.py": "",
    "cards/tasks.py": '''
"""A chain with a countdown: a card is written, stamped and sent. A second chain passes results."""

from celery import chain, shared_task

sent = []


@shared_task(max_retries=3, autoretry_for=(ConnectionError,), retry_backoff=2, retry_backoff_max=60)
def write(name: str, /, *, closing: str = "Yours") -> str:
    if name == "nobody":
        raise ValueError("there is no such person")
    if name == "busy":
        raise ConnectionError("try again")
    return f"Dear {name}, {closing}"


@shared_task
def stamp(card: str) -> str:
    return f"{card} [stamp]"


@shared_task(ignore_result=True, rate_limit="100/m", time_limit=30)
def send(*cards, **headers):
    sent.append((*cards, headers))


def post(name, minutes):
    chain(write.si(name), send.si("post", by="train")).apply_async(countdown=60 * minutes)


def post_with_stamp(name):
    (write.s(name, closing="Bye") | stamp.s() | send.s(by="air")).delay()
''',
}

BOOKS = {
    "books/__init__.py": "",
    "books/app.py": """
from celery import Celery

app = Celery("books", broker="redis://")
app.conf.task_routes = {"books.work.render*": {"queue": "low"}}
""",
    "books/work.py": '''
"""A group, and chords with a callback: with the results of the pages, and without."""

from celery import chord, group

from .app import app

bound, indexed = [], []


@app.task(priority=3)
def render(page: int, schema: str | None = None) -> int:
    return page * 10


@app.task(name="books.bind_all")
def bind(pages: list[int], title: str) -> int:
    bound.append((title, pages))
    return sum(pages)


@app.task
def index(title: str) -> None:
    indexed.append(title)


def print_book(title, pages):
    chord((render.s(page, schema="a4") for page in pages), bind.s(title=title))()


def index_book(title, pages):
    chord(group([render.s(page) for page in pages]))(index.si(title))


def render_again(pages):
    group(render.s(page) for page in pages).apply_async(expires=300)
''',
}

REPORTS = {
    "reports/__init__.py": "",
    "reports/celeryconfig.py": """
from datetime import timedelta

from celery.schedules import crontab

timezone = "Europe/Berlin"
beat_schedule = {
    "Every weekday": {
        "task": "reports.tasks.total",
        "schedule": crontab(minute=30, hour="8", day_of_week="mon-fri"),
        "kwargs": {"days": 7},
    },
    "quarter": {"task": "reports.tasks.ping", "schedule": timedelta(minutes=15)},
    "often": {"task": "reports.tasks.ping", "schedule": 30.0},
    "both": {"task": "reports.tasks.ping", "schedule": crontab(day_of_month=1, day_of_week="mon")},
    "night": {"task": "reports.tasks.ping", "schedule": crontab(hour="22-4")},
    "unknown": {"task": "reports.tasks.gone", "schedule": 60},
}
""",
    "reports/tasks.py": '''
"""Beat, with retries by `self.retry`."""

from celery import Celery

app = Celery("reports")
app.config_from_object("reports.celeryconfig")
answers = []


@app.on_after_configure.connect
def set_up(sender, **options):
    sender.add_periodic_task(3600, ping.s(), name="hourly")


@app.task(bind=True, max_retries=2, default_retry_delay=30)
def total(self, days: int) -> int:
    try:
        return answers.pop() * days
    except IndexError as error:
        raise self.retry(exc=error, countdown=10)


@app.task
def ping() -> str:
    return "pong"
''',
}
PROGRAMS = CARDS | BOOKS | REPORTS


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files of this module, and the stand-in."""
    for name, text in (STAND_IN | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
